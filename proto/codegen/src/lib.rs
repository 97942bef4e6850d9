//! Generates the checked-in Rust of `proto/` from its `.proto` files.
//!
//! **What it holds:** nothing; it runs on a developer's machine and in a test. **Which untrusted bytes it touches:**
//! none. What it writes is checked in, so a build needs neither protoc nor this crate; a test here generates again and
//! compares.
//!
//! The comment above an `rpc` is its contract and is read here, too: `Largest message: 16 KiB.` and
//! `At most 256 at once.` become the bounds that both sides enforce. Methods are numbered in file order from 1: add new
//! ones at the end of their service.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod service;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use prost_build::Module;
use protox::Compiler;

use service::Generator;

/// The bus interfaces: `proto/<name>.proto` becomes `proto/src/gen/<name>.rs`.
pub const INTERFACES: [&str; 5] = ["metamanager", "keyholder", "authority", "controllers", "control"];

/// What edged asks of the container runtime, over gRPC: `proto/cri/<file>` becomes `proto/cri/src/gen/<package>.rs`.
pub const RUNTIME_INTERFACES: [(&str, &str); 2] =
    [("cri.proto", "runtime.v1"), ("containerd_events.proto", "containerd.services.events.v1")];

/// Messages that carry objects, secrets or tokens: their `Debug` shows no field, so that no log line can.
const REDACTED: [(&str, &str); 11] = [
    ("metamanager", "Object"),
    ("metamanager", "Change"),
    ("metamanager", "SubmitRequest"),
    ("metamanager", "QueryRequest"),
    ("metamanager", "QueryReply"),
    ("controllers", "DownstreamMessage"),
    ("controllers", "UpstreamRequest"),
    ("controllers", "UpstreamReply"),
    ("controllers", "PublishTokenRequest"),
    ("authority", "MintTokenReply"),
    ("authority", "SignNodeRequest"),
];

/// Generates everything that `proto_dir` (the repository's `proto/`) describes below `out_dir`, which has the same
/// layout. Returns the files written, relative to `out_dir`.
pub fn generate(proto_dir: &Path, out_dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for name in INTERFACES {
        let code =
            interface(proto_dir, name).with_context(|| format!("could not generate from {name}.proto"))?;
        let path = PathBuf::from(format!("src/gen/{name}.rs"));
        write(&out_dir.join(&path), &code)?;
        written.push(path);
    }
    for (file, package) in RUNTIME_INTERFACES {
        let path = PathBuf::from(format!("cri/src/gen/{package}.rs"));
        runtime_interface(proto_dir, file, &out_dir.join(&path))
            .with_context(|| format!("could not generate from cri/{file}"))?;
        written.push(path);
    }
    Ok(written)
}

/// One bus interface, `<name>.proto` in `proto_dir`: messages by prost, the service by us.
pub fn interface(proto_dir: &Path, name: &str) -> anyhow::Result<String> {
    let mut compiler = Compiler::new([proto_dir])?;
    compiler.include_source_info(true).open_file(format!("{name}.proto"))?;
    let files = compiler.file_descriptor_set().file;
    ensure!(files.len() == 1, "an interface is one file, without imports");
    let module = Module::from_parts(["apiary", name]);
    let requests = files.into_iter().map(|file| (module.clone(), file)).collect();

    let (generator, faults) = Generator::new();
    let mut config = prost_build::Config::new();
    config.bytes(["."]).service_generator(Box::new(generator));
    let redacted = || REDACTED.iter().filter(|(interface, _)| *interface == name);
    config.skip_debug(redacted().map(|(_, message)| format!(".apiary.{name}.v1.{message}")));
    let mut code = config.generate(requests)?.remove(&module).context("the file is empty")?;
    faults.check()?;
    code.extend(redacted().map(|(_, message)| without_fields(message)));
    Ok(code)
}

/// A `Debug` that names the message and shows that there is more.
fn without_fields(message: &str) -> String {
    format!(
        "impl ::core::fmt::Debug for {message} {{
    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{
        f.debug_struct({message:?}).finish_non_exhaustive()
    }}
}}
"
    )
}

/// Client and server (for tests) by tonic.
fn runtime_interface(proto_dir: &Path, file: &str, out: &Path) -> anyhow::Result<()> {
    let mut compiler = Compiler::new([proto_dir.join("cri")])?;
    compiler.include_source_info(true).include_imports(true).open_file(file)?;
    let folder = out.parent().context("the output has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    // `build_transport` would add `connect` functions, which need TLS-capable transport code we do not use.
    tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(folder)
        .compile_fds(compiler.file_descriptor_set())?;
    ensure!(out.exists(), "its package is not the one {} is named for", out.display());
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
