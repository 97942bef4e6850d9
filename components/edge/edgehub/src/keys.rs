//! The node's key as TLS and the certificate request see it: the public half here, signatures from keyholder.

use std::fmt;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::CertificateDer;

/// Length of an uncompressed P-256 point.
pub const POINT_LEN: usize = 65;

/// Signs a message with ECDSA P-256 SHA-256, ASN.1 DER; the error is words for a log.
pub type Sign = dyn Fn(&[u8]) -> Result<Vec<u8>, String> + Send + Sync;

/// A P-256 key whose private half lives elsewhere. rustls and rcgen ask for signatures synchronously, so [`Sign`] blocks:
/// twice per handshake, some tens of microseconds.
#[derive(Clone)]
pub struct NodeKey {
    point: [u8; POINT_LEN],
    sign: Arc<Sign>,
}

impl NodeKey {
    /// `point` is the uncompressed public key; `None` when it is not one by its length and first byte.
    pub fn new(point: &[u8], sign: Arc<Sign>) -> Option<Self> {
        let point: [u8; POINT_LEN] = point.try_into().ok()?;
        (point[0] == 0x04).then_some(Self { point, sign })
    }

    /// The uncompressed public key.
    pub fn point(&self) -> &[u8; POINT_LEN] {
        &self.point
    }

    /// Presents `certificate`, whose key this is, to any server that asks.
    pub fn identity(&self, certificate: CertificateDer<'static>) -> Arc<dyn ResolvesClientCert> {
        Arc::new(OneCertificate(Arc::new(CertifiedKey::new(vec![certificate], Arc::new(self.clone())))))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey")
    }
}

impl rcgen::PublicKeyData for NodeKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for NodeKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        (self.sign)(message).map_err(|error| {
            tracing::warn!(%error, "keyholder did not sign the certificate request");
            rcgen::Error::RemoteKeyError
        })
    }
}

impl SigningKey for NodeKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for NodeKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        (self.sign)(message)
            .map_err(|error| rustls::Error::General(format!("keyholder did not sign: {error}")))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

/// The one certificate this node has.
#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for OneCertificate {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // The hub's issuer hints are not read: there is no other certificate to choose.
        schemes.contains(&SignatureScheme::ECDSA_NISTP256_SHA256).then(|| Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
