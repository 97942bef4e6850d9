//! TCP and TLS to the hub, and what their failures mean for this node.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::Endpoint;

/// For TCP. The kernel repeats a SYN after 1 and 3 s; a hub that is there answers the second repeat at the latest.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no connection. Each says what was met at which address, and what to do where an operator can do something.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No name, no route, nothing listening.
    #[error("could not reach the cloud at {at}: {source}")]
    Unreachable {
        /// host:port.
        at: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server's certificate is not from the CA this node joined with.
    #[error("the server at {at} shows a certificate of another CA than the one this node trusts ({reason})")]
    OtherCa {
        /// host:port.
        at: String,
        /// rustls's words.
        reason: String,
    },
    /// The server's certificate is from our CA but cannot be used here and now.
    #[error(
        "the certificate of the server at {at} cannot be accepted: {reason} (check the address and this node's clock)"
    )]
    Certificate {
        /// host:port.
        at: String,
        /// rustls's words.
        reason: String,
    },
    /// The server refuses this node's certificate.
    #[error("the hub at {at} refuses this node's certificate ({reason})")]
    Rejected {
        /// host:port.
        at: String,
        /// Alert or HTTP status.
        reason: String,
    },
    /// Anything else between TCP and a working link.
    #[error("could not set up the link to {at}: {reason}")]
    Setup {
        /// host:port.
        at: String,
        /// What happened.
        reason: String,
    },
}

impl ConnectError {
    /// Whether a new certificate from the cloud can help.
    pub fn asks_for_join(&self) -> bool {
        matches!(self, Self::OtherCa { .. } | Self::Rejected { .. })
    }

    /// Whether nobody was there to be bothered by the attempt.
    pub fn met_nobody(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Sorts an error of a TLS stream by what it means.
    pub(crate) fn from_io(at: &Endpoint, error: &io::Error) -> Self {
        let (at, reason) = (at.authority.to_string(), error.to_string());
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
                Self::OtherCa { at, reason }
            }
            Some(rustls::Error::InvalidCertificate(_)) => Self::Certificate { at, reason },
            Some(rustls::Error::AlertReceived(
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                // What Go sends for a signature that does not fit the certificate.
                | AlertDescription::DecryptError,
            )) => Self::Rejected { at, reason },
            _ => Self::Setup { at, reason },
        }
    }
}

/// Connects and finishes the handshake; `limit` is for the handshake.
pub async fn connect(
    endpoint: &Endpoint,
    config: Arc<ClientConfig>,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { at: endpoint.authority.to_string(), source };
    let tcp = timeout(CONNECT_TIMEOUT, TcpStream::connect((endpoint.host.as_str(), endpoint.port)))
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
        .map_err(unreachable)?;
    // ACKs are small and waited for.
    tcp.set_nodelay(true).map_err(unreachable)?;
    timeout(limit, TlsConnector::from(config).connect(endpoint.name.clone(), tcp))
        .await
        .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
        .map_err(|error| ConnectError::from_io(endpoint, &error))
}
