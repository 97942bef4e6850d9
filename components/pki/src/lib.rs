//! Certificates, certificate requests and join tokens as KubeEdge lays them out.
//!
//! Holds: nothing by itself; [`CertificateAuthority`] holds the CA key inside the `authority` process only.
//! Untrusted bytes: certificate requests, join tokens, certificates. Callers bound their size, this crate parses them
//! once into types; what a certificate says is always taken from what was authenticated, never from the request.
//! Every TLS configuration is built here, so the crypto provider and the protocol versions have one place.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod ca;
mod certificate;
mod files;
mod key;
mod name;
mod time;
mod tls;
mod token;

pub use ca::{CertificateAuthority, IssueError, LeafProfile, Usage, node_request};
pub use certificate::{CertificateInfo, issued_by, pem_certificates, to_pem};
pub use files::{ReadError, read_bounded, write_durable};
pub use key::{EcKey, KeyError};
pub use name::{InvalidNodeName, NodeName};
pub use tls::{
    ClientCertificates, TlsError, client_config, client_config_unverified, provider, server_config,
};
pub use token::{JoinToken, TokenError, ca_hash};
