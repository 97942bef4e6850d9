//! How the node gets its certificate: `/ca.crt` checked against the token, then `/edge.crt` for the key in keyholder.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use pki::{CertificateInfo, JoinToken, NodeName};
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use tokio::time::timeout;

use crate::config::{Endpoint, NoToken, Settings};
use crate::keys::NodeKey;
use crate::tls::{self, ConnectError};

/// For one request of the certificate API, KubeEdge's own limit.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer of the certificate API, bytes, as in KubeEdge.
const MAX_ANSWER: usize = 1024 * 1024;

/// Largest identity file, bytes: two certificates of under 2 KiB.
const MAX_IDENTITY: u64 = 64 * 1024;

/// Why the node could not join. The text is for the operator: what was attempted, where, and what helps.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nothing to join with.
    #[error(transparent)]
    NoToken(#[from] NoToken),
    /// No connection to the certificate API.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke, or the answer was not HTTP or too large.
    #[error("{url} did not answer: {reason}")]
    Http {
        /// The request.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The CA is not the one the token was made by.
    #[error(
        "the CA certificate from {url} has SHA-256 {found}, the token was made by {expected}: another cloud answers there, or the token is of another cloud"
    )]
    CaMismatch {
        /// Where the CA came from.
        url: String,
        /// Hash of what came.
        found: String,
        /// Hash in the token.
        expected: String,
    },
    /// The hub does not take the token.
    #[error(
        "{url} refused the join token ({answer}): it may have expired, get a new one with `keadm gettoken`"
    )]
    TokenRefused {
        /// The request.
        url: String,
        /// Status and text.
        answer: String,
    },
    /// Another status than 200.
    #[error("{url} answered {answer}")]
    Status {
        /// The request.
        url: String,
        /// Status and text.
        answer: String,
    },
    /// What came is not this node's certificate.
    #[error("{url} gave no certificate for this node: {reason}")]
    Certificate {
        /// The request.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// keyholder did not sign, or TLS could not be set up.
    #[error("could not make the certificate request: {0}")]
    Request(String),
    /// The certificate could not be kept.
    #[error("could not save the node certificate to {path}: {source}")]
    Save {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The node's certificate and the CA it came with. One file holds both, so that they change together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The node's.
    pub certificate: CertificateDer<'static>,
    /// What the hub's certificate must come from.
    pub ca: CertificateDer<'static>,
    /// End of the node certificate's validity.
    pub not_after: SystemTime,
}

impl Identity {
    /// Checks that `certificate` is this node's and for its key.
    fn new(
        certificate: CertificateDer<'static>,
        ca: CertificateDer<'static>,
        node: &NodeName,
        key: &NodeKey,
    ) -> Result<Self, String> {
        let info = CertificateInfo::from_der(&certificate).ok_or("it is not a certificate")?;
        if info.common_name != node.common_name() {
            return Err(format!("it is for {:?}, this node is {:?}", info.common_name, node.common_name()));
        }
        if info.public_key != key.point() {
            return Err("it is for another key than keyholder has".to_owned());
        }
        Ok(Self { certificate, ca, not_after: info.not_after })
    }

    /// Reads the identity of an earlier start; `Ok(None)` when there is none, an error in words when it is not usable.
    pub fn load(path: &Path, node: &NodeName, key: &NodeKey) -> Result<Option<Self>, String> {
        let Some(pem) = pki::read_bounded(path, MAX_IDENTITY).map_err(|e| e.to_string())? else {
            return Ok(None);
        };
        let refused =
            |reason: String| format!("the saved certificate {} is not used: {reason}", path.display());
        let certificates: Option<[CertificateDer<'static>; 2]> =
            pki::pem_certificates(&pem).and_then(|found| found.try_into().ok());
        let Some([certificate, ca]) = certificates else {
            return Err(refused("it does not hold a certificate and its CA".to_owned()));
        };
        Self::new(certificate, ca, node, key).map(Some).map_err(refused)
    }

    /// Keeps it for the next start.
    fn save(&self, path: &Path) -> Result<(), JoinError> {
        let pem = pki::to_pem("CERTIFICATE", &self.certificate) + &pki::to_pem("CERTIFICATE", &self.ca);
        pki::write_durable(path, 0o644, pem.as_bytes())
            .map_err(|source| JoinError::Save { path: path.to_owned(), source })
    }
}

/// Gets a certificate for the node's key and keeps it.
pub async fn join(settings: &Settings, key: &NodeKey) -> Result<Identity, JoinError> {
    let token = settings.token.read()?;
    let setup = |error: &dyn std::fmt::Display| JoinError::Request(error.to_string());

    let unverified = Arc::new(pki::client_config_unverified().map_err(|e| setup(&e))?);
    let (url, ca) = get(&settings.http, "/ca.crt", &[], Bytes::new(), unverified).await?;
    let ca = check_ca(url, &ca, &token)?;

    let request = pki::node_request(&settings.node, key).map_err(|e| setup(&e))?;
    let verified = Arc::new(pki::client_config(&ca, None).map_err(|e| setup(&e))?);
    let bearer = HeaderValue::from_str(&format!("Bearer {}", token.jwt())).map_err(|e| setup(&e))?;
    let node = HeaderValue::from_str(settings.node.as_str()).map_err(|e| setup(&e))?;
    let headers = [(header::AUTHORIZATION, bearer), (HeaderName::from_static("nodename"), node)];
    let (url, certificate) = get(&settings.http, "/edge.crt", &headers, request.into(), verified).await?;

    let identity = Identity::new(CertificateDer::from(certificate.to_vec()), ca, &settings.node, key)
        .map_err(|reason| JoinError::Certificate { url, reason })?;
    identity.save(&settings.identity)?;
    Ok(identity)
}

fn check_ca(url: String, ca: &Bytes, token: &JoinToken) -> Result<CertificateDer<'static>, JoinError> {
    if token.matches(ca) {
        return Ok(CertificateDer::from(ca.to_vec()));
    }
    let found = pki::ca_hash(ca).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    Err(JoinError::CaMismatch { url, found, expected: token.ca_hash_hex() })
}

/// One request on its own connection. The certificate API wants its body on a GET.
async fn get(
    endpoint: &Endpoint,
    path: &str,
    headers: &[(HeaderName, HeaderValue)],
    body: Bytes,
    tls: Arc<ClientConfig>,
) -> Result<(String, Bytes), JoinError> {
    let url = format!("https://{}{path}", endpoint.authority);
    let broken = |reason: String| JoinError::Http { url: url.clone(), reason };
    let mut request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(header::HOST, endpoint.authority.as_str())
        .body(Full::new(body))
        .map_err(|e| broken(e.to_string()))?;
    request.headers_mut().extend(headers.iter().map(|(name, value)| (Some(name.clone()), value.clone())));

    let stream = tls::connect(endpoint, tls, REQUEST_TIMEOUT).await?;
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the sender.
        let driver = tokio::spawn(connection);
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        driver.abort();
        Ok::<_, hyper::Error>((status, body))
    };
    let (status, body) = timeout(REQUEST_TIMEOUT, exchange)
        .await
        .map_err(|_| broken("no answer within 30 s".to_owned()))?
        .map_err(|e| broken(describe(&e)))?;
    let body = body.map_err(|e| broken(e.to_string()))?.to_bytes();
    if status == StatusCode::OK {
        return Ok((url, body));
    }
    let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
    let answer = format!("{status}: {}", text.trim());
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => JoinError::TokenRefused { url, answer },
        _ => JoinError::Status { url, answer },
    })
}

/// hyper keeps the cause one level down.
fn describe(error: &hyper::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
