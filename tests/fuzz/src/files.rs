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

/// A policy of system calls, beside one it may include; what is free of mistakes can be made a filter.
pub(crate) fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (policies, findings) = syscalls::parse(&[("fuzz", text), ("other", "read: frames from links")]);
    for finding in &findings {
        assert!(finding.to_string().starts_with("policy/"), "a finding that names no line: {finding}");
    }
    if findings.is_empty() {
        let filters = syscalls::filters(policies.get("fuzz"));
        // Bounded by the kernel, which takes 4096 instructions; this machine may have no table of calls.
        assert!(!matches!(filters, Ok(filters) if filters.is_empty()), "no filter for a policy");
    }
}
