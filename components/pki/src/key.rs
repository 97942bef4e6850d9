use rcgen::PKCS_ECDSA_P256_SHA256;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::certificate::to_pem;

/// RFC 5915 `ECPrivateKey` of a P-256 key with the curve named, as Go's `x509.MarshalECPrivateKey` writes it: fixed
/// layout, so the two variable parts sit at fixed places.
const SEC1_LEN: usize = 121;
const SEC1_HEAD: &[u8] = &[0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];
const SEC1_CURVE: &[u8] =
    &[0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0xa1, 0x44, 0x03, 0x42, 0x00];
/// RFC 5958 wrapping of the same key without the curve inside, the form `ring` reads and writes.
const PKCS8_HEAD: &[u8] = &[
    0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
    0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02, 0x01, 0x01,
    0x04, 0x20,
];
const PKCS8_PUBLIC: &[u8] = &[0xa1, 0x44, 0x03, 0x42, 0x00];
const SCALAR_LEN: usize = 32;
const POINT_LEN: usize = 65;

/// An ECDSA P-256 private key. Its `Debug` form shows nothing of it.
#[derive(Clone)]
pub struct EcKey {
    scalar: [u8; SCALAR_LEN],
    point: [u8; POINT_LEN],
}

/// Why a key could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system's random source failed.
    #[error("could not make a key: the random source failed")]
    Random,
    /// Not PEM, or no private key in it.
    #[error("no private key in the PEM text")]
    Pem,
    /// A key of another kind, or one whose halves do not belong together.
    #[error("not an ECDSA P-256 private key in SEC1 or PKCS#8 form with its public half")]
    Kind,
}

impl EcKey {
    /// Makes a new key.
    pub fn generate() -> Result<Self, KeyError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
            .map_err(|_| KeyError::Random)?;
        Self::from_pkcs8(document.as_ref())
    }

    /// Reads `EC PRIVATE KEY` (KubeEdge's form, and what [`Self::to_pem`] writes) or `PRIVATE KEY`.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        match PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::Pem)? {
            PrivateKeyDer::Sec1(key) => Self::from_sec1(key.secret_sec1_der()),
            PrivateKeyDer::Pkcs8(key) => Self::from_pkcs8(key.secret_pkcs8_der()),
            _ => Err(KeyError::Kind),
        }
    }

    /// `EC PRIVATE KEY` PEM.
    pub fn to_pem(&self) -> String {
        to_pem("EC PRIVATE KEY", &self.sec1_der())
    }

    /// The SEC1 DER form. Of the CA's key this is also KubeEdge's HMAC key for join tokens.
    pub fn sec1_der(&self) -> Vec<u8> {
        [SEC1_HEAD, &self.scalar, SEC1_CURVE, &self.point].concat()
    }

    /// The form rustls takes.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8_der()))
    }

    /// The uncompressed public point.
    pub fn public_point(&self) -> &[u8; POINT_LEN] {
        &self.point
    }

    /// The form rcgen takes, to make a request or sign a certificate.
    pub fn signer(&self) -> Result<rcgen::KeyPair, KeyError> {
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(self.pkcs8_der()),
            &PKCS_ECDSA_P256_SHA256,
        )
        .map_err(|_| KeyError::Kind)
    }

    fn pkcs8_der(&self) -> Vec<u8> {
        [PKCS8_HEAD, &self.scalar, PKCS8_PUBLIC, &self.point].concat()
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        // Other writers (OpenSSL) may put optional parts in; `ring` decides what is a key, we only find the scalar.
        let point = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &SystemRandom::new())
            .map_err(|_| KeyError::Kind)?
            .public_key()
            .as_ref()
            .to_vec();
        let inner = [0x02, 0x01, 0x01, 0x04, 0x20];
        let at = der.windows(inner.len()).position(|w| w == inner).ok_or(KeyError::Kind)? + inner.len();
        Self::checked(der.get(at..at + SCALAR_LEN).ok_or(KeyError::Kind)?, &point)
    }

    fn from_sec1(der: &[u8]) -> Result<Self, KeyError> {
        let rest = der.strip_prefix(SEC1_HEAD).filter(|_| der.len() == SEC1_LEN).ok_or(KeyError::Kind)?;
        let (scalar, rest) = rest.split_at(SCALAR_LEN);
        Self::checked(scalar, rest.strip_prefix(SEC1_CURVE).ok_or(KeyError::Kind)?)
    }

    /// `ring` verifies that the point belongs to the scalar.
    fn checked(scalar: &[u8], point: &[u8]) -> Result<Self, KeyError> {
        EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            scalar,
            point,
            &SystemRandom::new(),
        )
        .map_err(|_| KeyError::Kind)?;
        Ok(Self {
            scalar: scalar.try_into().map_err(|_| KeyError::Kind)?,
            point: point.try_into().map_err(|_| KeyError::Kind)?,
        })
    }
}

impl std::fmt::Debug for EcKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EcKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl ecparam -name prime256v1 -genkey -noout`, and the same through `openssl pkcs8 -topk8 -nocrypt`.
    const OPENSSL_SEC1: &str = include_str!("../testdata/sec1.pem");
    const OPENSSL_PKCS8: &str = include_str!("../testdata/pkcs8.pem");

    #[test]
    fn pem_round_trips() {
        let key = EcKey::generate().unwrap();
        let read = EcKey::from_pem(key.to_pem().as_bytes()).unwrap();
        assert_eq!(read.sec1_der(), key.sec1_der());
        assert!(key.to_pem().starts_with("-----BEGIN EC PRIVATE KEY-----\n"));
    }

    #[test]
    fn keys_of_openssl_and_go_are_read_and_written_alike() {
        let key = EcKey::from_pem(OPENSSL_SEC1.as_bytes()).unwrap();
        assert_eq!(key.to_pem().trim(), OPENSSL_SEC1.trim());
        let same = EcKey::from_pem(OPENSSL_PKCS8.as_bytes()).unwrap();
        assert_eq!(same.sec1_der(), key.sec1_der());
    }

    #[test]
    fn a_key_with_another_keys_public_half_is_refused() {
        let (a, b) = (EcKey::generate().unwrap(), EcKey::generate().unwrap());
        let mixed = [SEC1_HEAD, &a.scalar, SEC1_CURVE, &b.point].concat();
        let pem = to_pem("EC PRIVATE KEY", &mixed);
        assert!(matches!(EcKey::from_pem(pem.as_bytes()), Err(KeyError::Kind)));
    }

    #[test]
    fn noise_is_no_key() {
        assert!(matches!(EcKey::from_pem(b"hello"), Err(KeyError::Pem)));
        let pem = to_pem("EC PRIVATE KEY", &[0; SEC1_LEN]);
        assert!(matches!(EcKey::from_pem(pem.as_bytes()), Err(KeyError::Kind)));
    }
}
