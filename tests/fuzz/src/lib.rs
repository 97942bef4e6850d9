//! A target per decoder of outside bytes.
//!
//! A target is a function of bytes that may return or be refused, and must not panic, hang, or allocate without bound;
//! what a decoder accepts is also written again and read back, and must be the same. A plain `cargo test` runs every
//! target over its seeds in `corpus/` and over damaged copies of them. Coverage-guided fuzzing needs no nightly compiler,
//! only one for C++ (libFuzzer's runtime):
//!
//! ```sh
//! RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
//!   -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
//!   -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing" \
//!   cargo build --profile fuzz --package fuzz --bin fuzz --features libfuzzer --target x86_64-unknown-linux-gnu
//! mkdir -p target/fuzz-found/wire
//! target/x86_64-unknown-linux-gnu/fuzz/fuzz --target=wire -max_total_time=5 -rss_limit_mb=512 -timeout=5 \
//!   -artifact_prefix=target/fuzz-found/wire- target/fuzz-found/wire tests/fuzz/corpus/wire
//! ```
//!
//! `--target` of cargo is not optional: without it build scripts and macros would be instrumented too, and not link.
//! Inputs that reach new code go into the first folder; what made a target fail is written beside it, and belongs into
//! `corpus/` once the decoder is mended. The exit status is 0 when nothing failed.

mod bus;
mod certificates;
mod cloud;
mod files;

/// A decoder under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also of its folder in `corpus/`.
    pub name: &'static str,
    /// Feeds it; panics when it did something wrong.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: [Target; 11] = [
    Target { name: "certificate", run: certificates::certificate },
    Target { name: "certificate-request", run: certificates::request },
    Target { name: "frame", run: bus::frame },
    Target { name: "hello", run: bus::hello },
    Target { name: "manifest", run: files::manifest },
    Target { name: "message", run: bus::message },
    Target { name: "notice", run: bus::notice },
    Target { name: "policy", run: files::policy },
    Target { name: "resource-path", run: cloud::resource_path },
    Target { name: "token", run: certificates::token },
    Target { name: "wire", run: cloud::wire },
];

/// The target of that name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests;
