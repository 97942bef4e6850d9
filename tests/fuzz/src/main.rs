//! libFuzzer around one target, named by `--target=NAME` (libFuzzer itself looks past what begins with two dashes).

#![no_main]

use std::sync::OnceLock;

use fuzz::Target;

/// The target of this process.
static TARGET: OnceLock<&Target> = OnceLock::new();

fn target() -> &'static Target {
    TARGET.get_or_init(|| {
        let named = std::env::args().find_map(|word| Some(word.strip_prefix("--target=")?.to_owned()));
        named.as_deref().and_then(fuzz::find).unwrap_or_else(|| {
            let names: Vec<&str> = fuzz::TARGETS.iter().map(|target| target.name).collect();
            eprintln!("--target=NAME is needed; there are {}", names.join(", "));
            std::process::exit(2);
        })
    })
}

libfuzzer_sys::fuzz_target!(init: { target() }, |bytes: &[u8]| (target().run)(bytes));
