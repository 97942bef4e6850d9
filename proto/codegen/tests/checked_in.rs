//! What is checked in is what the `.proto` files say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

#[test]
fn generated_code_is_up_to_date() {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let fresh = tempfile::tempdir().unwrap();
    for file in proto_codegen::generate(&proto, fresh.path()).unwrap() {
        let expected = fs::read_to_string(fresh.path().join(&file)).unwrap();
        let checked_in = fs::read_to_string(proto.join(&file)).unwrap_or_default();
        assert!(expected == checked_in, "proto/{} is stale: run `cargo xtask codegen`", file.display());
    }
}
