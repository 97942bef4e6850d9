//! What a machine that wants to join sends: join tokens, certificate requests, certificates.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use pki::{CertificateAuthority, CertificateInfo, JoinToken, NodeName, issued_by, pem_certificates};

/// Long past any token an input could hold by chance.
const NOW: Duration = Duration::from_hours(24 * 365 * 60);

fn authority() -> &'static CertificateAuthority {
    static AUTHORITY: OnceLock<CertificateAuthority> = OnceLock::new();
    AUTHORITY.get_or_init(|| CertificateAuthority::create("fuzz").expect("a CA of ours can be made"))
}

/// A join token, and the part of it that goes to the cloud.
pub(crate) fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let now = SystemTime::UNIX_EPOCH + NOW;
    assert!(authority().verify_token(text, now).is_err(), "a forged token was taken: {text}");
    let Ok(token) = JoinToken::parse(text) else { return };
    assert!(authority().verify_token(token.jwt(), now).is_err(), "a forged token was taken: {text}");
    let _ = token.matches(&authority().certificate()[..]);
    assert_eq!(token.ca_hash_hex().len(), 64);
}

/// A certificate as DER, and a file of them as PEM.
pub(crate) fn certificate(bytes: &[u8]) {
    let node = NodeName::parse("edge-1").expect("a plain name");
    let now = SystemTime::UNIX_EPOCH + NOW;
    let _ = CertificateInfo::from_der(bytes);
    assert!(authority().verify_node(bytes, &node, now).is_err(), "a forged certificate was taken");
    let ca = &authority().certificate()[..];
    assert!(bytes == ca || !issued_by(bytes, ca), "a forged certificate was taken for ours");
    for certificate in pem_certificates(bytes).unwrap_or_default() {
        let _ = CertificateInfo::from_der(&certificate);
    }
}

/// A certificate request; one that is signed gives a certificate of the name the caller chose, whatever it asked for.
pub(crate) fn request(bytes: &[u8]) {
    let node = NodeName::parse("edge-1").expect("a plain name");
    let Ok(certificate) = authority().sign_node(&node, bytes, Duration::from_hours(1)) else { return };
    let info = CertificateInfo::from_der(&certificate).expect("what we signed parses");
    assert_eq!(info.common_name, node.common_name());
}
