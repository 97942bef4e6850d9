//! Generates the benchmark's interface as the bus speaks it and as gRPC does.

use std::path::PathBuf;

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=bench.proto");
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").context("cargo sets it")?);
    let out = PathBuf::from(std::env::var_os("OUT_DIR").context("cargo sets it")?);

    let bus = proto_codegen::interface(&here, "bench")?;
    std::fs::write(out.join("bus.rs"), bus).context("could not write bus.rs")?;

    let mut compiler = protox::Compiler::new([&here])?;
    compiler.open_file("bench.proto")?;
    let mut prost = tonic_prost_build::Config::new();
    prost.bytes(["."]);
    let grpc = out.join("grpc");
    std::fs::create_dir_all(&grpc).context("could not make the folder of the gRPC side")?;
    tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(grpc)
        .compile_fds_with_config(compiler.file_descriptor_set(), prost)
        .context("could not generate the gRPC side")
}
