use std::net::IpAddr;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::time::from_unix;

/// What we read from a certificate. Nothing in it is verified: only TLS, or
/// [`CertificateAuthority::verify_node`](crate::CertificateAuthority::verify_node), makes it true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Subject CN; empty when there is none.
    pub common_name: String,
    /// First subject O; empty when there is none.
    pub organization: String,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// DNS subject alternative names.
    pub dns_names: Vec<String>,
    /// IP subject alternative names.
    pub ip_addresses: Vec<IpAddr>,
    /// The subject's public key, as in its SubjectPublicKeyInfo (for EC: the uncompressed point).
    pub public_key: Vec<u8>,
}

impl CertificateInfo {
    /// Parses one DER certificate; `None` when it is none, or bytes follow it.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let subject = certificate.subject();
        let first =
            |mut values: Box<dyn Iterator<Item = &str> + '_>| values.next().unwrap_or_default().to_owned();
        let common_name = first(Box::new(subject.iter_common_name().filter_map(|n| n.as_str().ok())));
        let organization = first(Box::new(subject.iter_organization().filter_map(|n| n.as_str().ok())));
        let (mut dns_names, mut ip_addresses) = (Vec::new(), Vec::new());
        if let Ok(Some(san)) = certificate.subject_alternative_name() {
            for name in &san.value.general_names {
                match name {
                    GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => ip_addresses.extend(ip_address(bytes)),
                    _ => {}
                }
            }
        }
        Some(Self {
            common_name,
            organization,
            not_before: from_unix(certificate.validity().not_before.timestamp()),
            not_after: from_unix(certificate.validity().not_after.timestamp()),
            dns_names,
            ip_addresses,
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
        })
    }
}

/// Whether `certificate` carries a signature of `ca`'s key. Says nothing about validity or purpose.
pub fn issued_by(certificate: &[u8], ca: &[u8]) -> bool {
    let (Ok((_, certificate)), Ok((_, ca))) =
        (X509Certificate::from_der(certificate), X509Certificate::from_der(ca))
    else {
        return false;
    };
    certificate.verify_signature(Some(ca.public_key())).is_ok()
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// PEM text of one block, lines of 64 characters.
pub fn to_pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = (0..body.len()).step_by(64).map(|at| &body[at..body.len().min(at + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// All certificates of a PEM text; `None` when there is none or one is damaged.
pub fn pem_certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.ok().filter(|certificates| !certificates.is_empty())
}
