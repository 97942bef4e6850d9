//! What edgehub takes from `edgecore.yaml`, checked once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use componentconfig::edgecore::{self, EdgeCore};
use http::Uri;
use http::uri::Authority;
use pki::{JoinToken, NodeName, TokenError};
use rustls_pki_types::ServerName;

/// Longest join token, bytes: a hash, three dots and a JWT of one claim are under 300.
const MAX_TOKEN: u64 = 8 * 1024;

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{field} {value:?}: {reason}")]
pub struct SettingError {
    field: &'static str,
    value: String,
    reason: String,
}

impl SettingError {
    fn new(field: &'static str, value: &str, reason: impl std::fmt::Display) -> Self {
        Self { field, value: value.to_owned(), reason: reason.to_string() }
    }
}

/// A TLS server: where to connect and the name its certificate must carry.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `host:port`, as an URL has it.
    pub authority: Authority,
    /// What the certificate must be valid for.
    pub name: ServerName<'static>,
    /// Host without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Endpoint {
    fn new(
        field: &'static str,
        authority: Authority,
        default_port: Option<u16>,
    ) -> Result<Self, SettingError> {
        let wrong = |reason: &str| SettingError::new(field, authority.as_str(), reason);
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().or(default_port).ok_or_else(|| wrong("has no port"))?;
        let name = ServerName::try_from(host.clone())
            .map_err(|_| wrong("its host is neither a DNS name nor an IP address"))?;
        Ok(Self { authority, name, host, port })
    }
}

/// Settings of the hub link.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node.
    pub node: NodeName,
    /// Whether there is to be a link at all.
    pub enabled: bool,
    /// The certificate API.
    pub http: Endpoint,
    /// The message link.
    pub hub: Endpoint,
    /// First segment of the link's path.
    pub project: String,
    /// Between keepalives.
    pub heartbeat: Duration,
    /// For TLS and the WebSocket upgrade together.
    pub handshake_timeout: Duration,
    /// For one write.
    pub write_deadline: Duration,
    /// Where the join token is.
    pub token: TokenSource,
    /// Holds the node certificate and the CA it came with.
    pub identity: PathBuf,
}

impl Settings {
    /// Takes the settings out of the configuration at `path`.
    pub fn new(config: &EdgeCore, path: Option<&Path>, state_dir: &Path) -> Result<Self, SettingError> {
        let hub = &config.modules.edge_hub;
        let name = config.modules.edged.node_name();
        let uri: Uri = hub
            .http_server
            .parse()
            .map_err(|e| SettingError::new("modules.edgeHub.httpServer", &hub.http_server, e))?;
        let http = uri.authority().ok_or_else(|| {
            SettingError::new("modules.edgeHub.httpServer", &hub.http_server, "has no host")
        })?;
        let server: Authority =
            hub.websocket.server.parse().map_err(|e| {
                SettingError::new("modules.edgeHub.websocket.server", &hub.websocket.server, e)
            })?;
        if hub.project_id.is_empty()
            || !hub.project_id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            let reason = "must be letters, digits and '-', it is part of an URL";
            return Err(SettingError::new("modules.edgeHub.projectID", &hub.project_id, reason));
        }
        Ok(Self {
            node: NodeName::parse(&name)
                .map_err(|e| SettingError::new("modules.edged.hostnameOverride", &name, e))?,
            enabled: hub.enable,
            http: Endpoint::new("modules.edgeHub.httpServer", http.clone(), Some(443))?,
            hub: Endpoint::new("modules.edgeHub.websocket.server", server, None)?,
            project: hub.project_id.clone(),
            heartbeat: Duration::from_secs(hub.heartbeat.into()),
            handshake_timeout: Duration::from_secs(hub.websocket.handshake_timeout.max(1).into()),
            write_deadline: Duration::from_secs(hub.websocket.write_deadline.max(1).into()),
            token: TokenSource { file: config.apiary.token_file.clone(), config: path.map(Path::to_owned) },
            identity: state_dir.join("node.pem"),
        })
    }
}

/// Where the join token is read at every attempt, so that a new one needs no restart.
#[derive(Debug, Clone)]
pub struct TokenSource {
    /// `apiary.tokenFile`.
    pub file: Option<PathBuf>,
    /// The configuration, for `modules.edgeHub.token`.
    pub config: Option<PathBuf>,
}

/// Why there is no usable token.
#[derive(Debug, thiserror::Error)]
pub enum NoToken {
    /// Neither place has one.
    #[error("there is no join token: put one into apiary.tokenFile or modules.edgeHub.token")]
    Absent,
    /// The file named is not there.
    #[error("there is no join token: {0} does not exist")]
    NoFile(PathBuf),
    /// The file cannot be read.
    #[error("could not read the join token")]
    Read(#[from] pki::ReadError),
    /// The configuration cannot be read any more.
    #[error("could not read the join token")]
    Config(#[from] componentconfig::ConfigError),
    /// It is no token.
    #[error("the join token in {place} is not one")]
    Malformed {
        /// File or key.
        place: String,
        /// What is wrong with it.
        source: TokenError,
    },
}

impl TokenSource {
    /// The token as it is now.
    pub fn read(&self) -> Result<JoinToken, NoToken> {
        let (place, text) = if let Some(file) = &self.file {
            let bytes = pki::read_bounded(file, MAX_TOKEN)?.ok_or_else(|| NoToken::NoFile(file.clone()))?;
            (file.display().to_string(), String::from_utf8_lossy(&bytes).trim().to_owned())
        } else {
            let config = edgecore::load(self.config.as_deref())?.config;
            ("modules.edgeHub.token".to_owned(), config.modules.edge_hub.token.trim().to_owned())
        };
        if text.is_empty() {
            return Err(NoToken::Absent);
        }
        JoinToken::parse(&text).map_err(|source| NoToken::Malformed { place, source })
    }
}
