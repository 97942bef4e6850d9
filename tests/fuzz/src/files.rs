//! What an operator, or a package, puts on the machine.

use std::collections::BTreeMap;
use std::path::Path;

use supervisor::confine::syscalls;
use supervisor::manifest::check::{Known, check};
use supervisor::manifest::{Places, parse};

/// A manifest, parsed and checked.
pub(crate) fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (manifest, findings) = parse("fuzz.toml", text);
    let methods = |component: &str| {
        let interface = proto::interface_of(component)?;
        Some(interface.methods.iter().map(|method| method.name).collect())
    };
    let places = Places::new(Path::new("/run/x"), Path::new("/var/lib/x"), &manifest.path, &BTreeMap::new());
    let known = Known { methods: &methods, policy: &syscalls::exists, places: &places, accounts: None };
    for finding in findings.iter().chain(&check("fuzz.toml", &manifest, &known)) {
        assert!(finding.to_string().starts_with("fuzz.toml"), "a finding that names no file: {finding}");
    }
}
