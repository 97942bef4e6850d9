use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SigningKey, SubjectPublicKeyInfo,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use crate::token::{self, TokenError};
use crate::{CertificateInfo, EcKey, KeyError, NodeName, pem_certificates, tls, to_pem};

/// 100 years of 364 days, as KubeEdge computes it.
const CA_VALIDITY: Duration = Duration::from_hours(100 * 364 * 24);

/// 5 minutes: an edge whose clock is a little behind accepts its certificate at once.
const BACKDATE: Duration = Duration::from_mins(5);

/// KubeEdge's CA has this serial number.
const CA_SERIAL: u64 = 1024;

/// The CA's certificate and key.
pub struct CertificateAuthority {
    certificate: CertificateDer<'static>,
    key: EcKey,
    issuer: Issuer<'static, rcgen::KeyPair>,
}

/// What a leaf certificate may be used for (extended key usage).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// clientAuth.
    Client,
    /// serverAuth.
    Server,
}

/// Everything a certificate says. Nothing of it comes from a request.
#[derive(Clone, Debug)]
pub struct LeafProfile {
    /// Subject O.
    pub organization: String,
    /// Subject CN.
    pub common_name: String,
    /// Extended key usage.
    pub usage: Usage,
    /// DNS subject alternative names.
    pub dns_names: Vec<String>,
    /// IP subject alternative names.
    pub ip_addresses: Vec<IpAddr>,
    /// How long from now.
    pub validity: Duration,
}

/// Why a certificate was not issued or not accepted.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request does not parse, or its key is of a kind we do not sign.
    #[error("the certificate request is malformed: {0}")]
    Request(String),
    /// The requester does not hold the private half of the key in the request.
    #[error("the certificate request's own signature is wrong")]
    Possession,
    /// A name that cannot stand in a certificate.
    #[error("{0:?} cannot be a subject alternative name")]
    Name(String),
    /// The certificate is not of this CA, out of its validity, or not for clients.
    #[error("the certificate is not a valid client certificate of this CA: {0}")]
    Untrusted(String),
    /// A valid certificate of somebody else.
    #[error("the certificate belongs to {found:?}, not to node {wanted}")]
    OtherNode {
        /// Its subject CN.
        found: String,
        /// The node asked for.
        wanted: NodeName,
    },
    /// The CA's files do not belong together or cannot be used.
    #[error("the CA cannot be used: {0}")]
    Authority(String),
    /// A key could not be made or read.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl CertificateAuthority {
    /// Makes a CA in KubeEdge's profile. KubeEdge's own has the common name `KubeEdge`.
    pub fn create(common_name: &str) -> Result<Self, IssueError> {
        let key = EcKey::generate()?;
        let mut params = parameters(CA_VALIDITY);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.serial_number = Some(SerialNumber::from(CA_SERIAL));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.self_signed(&key.signer()?).map_err(|e| authority(&e))?;
        Self::from_parts(certificate.der().clone(), key)
    }

    /// Reads a CA as KubeEdge keeps it on disk (`rootCA.crt`, `rootCA.key`), or as [`Self::certificate_pem`] and
    /// [`Self::key_pem`] wrote it.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, IssueError> {
        let certificate = pem_certificates(certificate)
            .and_then(|certificates| certificates.into_iter().next())
            .ok_or_else(|| IssueError::Authority("no certificate in its PEM text".to_owned()))?;
        Self::from_parts(certificate, EcKey::from_pem(key)?)
    }

    fn from_parts(certificate: CertificateDer<'static>, key: EcKey) -> Result<Self, IssueError> {
        let info = CertificateInfo::from_der(&certificate)
            .ok_or_else(|| IssueError::Authority("its certificate does not parse".to_owned()))?;
        if info.public_key != key.public_point() {
            return Err(IssueError::Authority("its key is not the certificate's".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key.signer()?).map_err(|e| authority(&e))?;
        Ok(Self { certificate, key, issuer })
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The certificate, PEM.
    pub fn certificate_pem(&self) -> String {
        to_pem("CERTIFICATE", &self.certificate)
    }

    /// The private key, PEM.
    pub fn key_pem(&self) -> String {
        self.key.to_pem()
    }

    /// Issues a certificate of `profile` for the key in `request` (DER). Of the request only the key is used, after its
    /// signature has shown that the requester holds the private half.
    pub fn sign(&self, request: &[u8], profile: &LeafProfile) -> Result<CertificateDer<'static>, IssueError> {
        self.issue(&requested_key(request)?, profile)
    }

    /// Issues a certificate for a public key that is known to be the right one.
    pub fn issue(
        &self,
        public_key: &impl PublicKeyData,
        profile: &LeafProfile,
    ) -> Result<CertificateDer<'static>, IssueError> {
        let mut params = parameters(profile.validity);
        params.distinguished_name.push(DnType::OrganizationName, profile.organization.as_str());
        params.distinguished_name.push(DnType::CommonName, profile.common_name.as_str());
        params.serial_number = Some(random_serial()?);
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![match profile.usage {
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        for name in &profile.dns_names {
            let bad = || IssueError::Name(name.clone());
            if name.is_empty() || rustls_pki_types::DnsName::try_from(name.trim_start_matches("*.")).is_err()
            {
                return Err(bad());
            }
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().map_err(|_| bad())?));
        }
        params
            .subject_alt_names
            .extend(profile.ip_addresses.iter().map(|address| SanType::IpAddress(*address)));
        Ok(params.signed_by(public_key, &self.issuer).map_err(|e| authority(&e))?.der().clone())
    }

    /// A node's client certificate: `O=system:nodes, CN=system:node:<name>`, clientAuth.
    pub fn sign_node(
        &self,
        node: &NodeName,
        request: &[u8],
        validity: Duration,
    ) -> Result<CertificateDer<'static>, IssueError> {
        self.sign(
            request,
            &LeafProfile {
                organization: "system:nodes".to_owned(),
                common_name: node.common_name(),
                usage: Usage::Client,
                dns_names: Vec::new(),
                ip_addresses: Vec::new(),
                validity,
            },
        )
    }

    /// The hub's certificate: `O=KubeEdge, CN=KubeEdge`, serverAuth.
    pub fn sign_server(
        &self,
        request: &[u8],
        dns_names: Vec<String>,
        ip_addresses: Vec<IpAddr>,
        validity: Duration,
    ) -> Result<CertificateDer<'static>, IssueError> {
        self.sign(
            request,
            &LeafProfile {
                organization: "KubeEdge".to_owned(),
                common_name: "KubeEdge".to_owned(),
                usage: Usage::Server,
                dns_names,
                ip_addresses,
                validity,
            },
        )
    }

    /// Whether `certificate` (DER) is a client certificate of this CA, valid now, and of this node.
    pub fn verify_node(
        &self,
        certificate: &[u8],
        node: &NodeName,
        now: SystemTime,
    ) -> Result<(), IssueError> {
        let untrusted = |error: &dyn std::fmt::Display| IssueError::Untrusted(error.to_string());
        let roots = tls::roots(&self.certificate).map_err(|error| untrusted(&error))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), tls::provider())
            .build()
            .map_err(|error| untrusted(&error))?;
        let since_epoch = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let certificate = CertificateDer::from(certificate);
        verifier
            .verify_client_cert(&certificate, &[], UnixTime::since_unix_epoch(since_epoch))
            .map_err(|error| untrusted(&error))?;
        let info = CertificateInfo::from_der(&certificate).ok_or_else(|| untrusted(&"it does not parse"))?;
        if info.organization == "system:nodes"
            && NodeName::from_common_name(&info.common_name).as_ref() == Some(node)
        {
            Ok(())
        } else {
            Err(IssueError::OtherNode { found: info.common_name, wanted: node.clone() })
        }
    }

    /// A join token valid for `ttl`.
    pub fn mint_token(&self, ttl: Duration, now: SystemTime) -> String {
        token::mint(&self.certificate, &self.key.sec1_der(), ttl, now)
    }

    /// Checks the JWT part of a join token.
    pub fn verify_token(&self, jwt: &str, now: SystemTime) -> Result<(), TokenError> {
        token::verify(jwt, &self.key.sec1_der(), now)
    }
}

/// A node's certificate request, DER, with KubeEdge's subject. `key` may sign remotely.
pub fn node_request(node: &NodeName, key: &impl SigningKey) -> Result<Vec<u8>, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for (kind, value) in [
        (DnType::CountryName, "CN"),
        (DnType::OrganizationName, "system:nodes"),
        (DnType::LocalityName, "Hangzhou"),
        (DnType::StateOrProvinceName, "Zhejiang"),
        (DnType::CommonName, &node.common_name()),
    ] {
        params.distinguished_name.push(kind, value);
    }
    let request = params.serialize_request(key).map_err(|error| IssueError::Request(error.to_string()))?;
    Ok(request.der().to_vec())
}

fn requested_key(request: &[u8]) -> Result<SubjectPublicKeyInfo, IssueError> {
    let malformed = |error: &dyn std::fmt::Display| IssueError::Request(error.to_string());
    let (rest, parsed) = X509CertificationRequest::from_der(request).map_err(|error| malformed(&error))?;
    if !rest.is_empty() {
        return Err(malformed(&"bytes follow it"));
    }
    parsed.verify_signature().map_err(|_| IssueError::Possession)?;
    SubjectPublicKeyInfo::from_der(parsed.certification_request_info.subject_pki.raw)
        .map_err(|error| malformed(&error))
}

fn parameters(validity: Duration) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + validity).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params
}

/// 63 random bits: positive in DER without a leading zero byte, as Go's are.
fn random_serial() -> Result<SerialNumber, IssueError> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KeyError::Random)?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

fn authority(error: &rcgen::Error) -> IssueError {
    IssueError::Authority(error.to_string())
}
