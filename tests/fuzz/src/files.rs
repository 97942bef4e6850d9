//! What an operator, or a package, puts on the machine.

use supervisor::manifest::parse;

/// A manifest.
pub(crate) fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (_, findings) = parse("fuzz.toml", text);
    for finding in findings {
        assert!(finding.to_string().starts_with("fuzz.toml"), "a finding that names no file: {finding}");
    }
}
