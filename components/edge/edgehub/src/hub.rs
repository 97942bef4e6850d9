//! Joins, connects, runs sessions, and comes back after every failure.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use proto::metamanager::{MetaManagerClient, SetLinkRequest};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Report;
use crate::backoff::{Backoff, Met};
use crate::config::Settings;
use crate::join::{Identity, JoinError, join};
use crate::keys::NodeKey;
use crate::link::{self, End};
use crate::tls::ConnectError;

/// Gets the node's key from keyholder; an error in words. Blocks for milliseconds, or until its deadline.
pub type KeySource = Box<dyn Fn() -> Result<NodeKey, String> + Send + Sync>;

/// The link to one cloud.
pub struct Hub {
    settings: Settings,
    meta: MetaManagerClient,
    key: KeySource,
    report: Report,
    /// What the hub said when it last turned our certificate away, or showed a CA that is not ours.
    rejected: Option<String>,
}

/// One failed attempt.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("could not get the node key from keyholder: {0}")]
    Key(String),
    #[error("{why}; {error}")]
    Join { why: String, error: JoinError },
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

impl Failure {
    fn met(&self) -> Met {
        match self {
            Self::Key(_) => Met::Nobody,
            Self::Connect(error) | Self::Join { error: JoinError::Connect(error), .. }
                if error.met_nobody() =>
            {
                Met::Nobody
            }
            // No request was made.
            Self::Join { error: JoinError::NoToken(_), .. } => Met::Nobody,
            Self::Connect(_) | Self::Join { .. } => Met::Refusal,
        }
    }
}

impl Hub {
    /// A link that is not up yet.
    pub fn new(settings: Settings, meta: MetaManagerClient, key: KeySource, report: Report) -> Self {
        Self { settings, meta, key, report, rejected: None }
    }

    /// Runs until `shutdown`. The node works without its cloud, so nothing that happens here ends this process.
    pub async fn run(mut self, shutdown: &CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let met = tokio::select! {
                () = shutdown.cancelled() => return,
                connected = self.connect() => match connected {
                    Ok(socket) => {
                        let at = format!("connected to {}", self.settings.hub.authority);
                        self.report.settled(&at);
                        let since = Instant::now();
                        let end = link::run(socket, &self.meta, &self.settings, &self.report, shutdown).await;
                        self.set_offline().await;
                        match end {
                            End::Shutdown => return,
                            End::Broken(reason) => {
                                self.report.trouble(&format!("{}: {reason}", self.settings.hub.authority));
                            }
                        }
                        Met::Session(since.elapsed())
                    }
                    Err(failure) => {
                        self.report.trouble(&chain(&failure));
                        failure.met()
                    }
                },
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(backoff.next(met, fastrand::f64())) => {}
            }
        }
    }

    async fn connect(&mut self) -> Result<link::Socket, Failure> {
        let key = (self.key)().map_err(Failure::Key)?;
        let identity = self.identity(&key).await?;
        let tls = pki::client_config(&identity.ca, Some(key.identity(identity.certificate)))
            .map_err(|error| Failure::Key(error.to_string()))?;
        let connected = link::connect(&self.settings, Arc::new(tls)).await;
        self.rejected = match &connected {
            Err(error) if error.asks_for_join() => Some(error.to_string()),
            _ => None,
        };
        Ok(connected?)
    }

    /// The certificate to connect with: the saved one, unless something speaks against it. Where joining anew fails, a saved
    /// one is tried all the same: this node's clock may be wrong, the hub may have been.
    async fn identity(&mut self, key: &NodeKey) -> Result<Identity, Failure> {
        let saved =
            Identity::load(&self.settings.identity, &self.settings.node, key).unwrap_or_else(|reason| {
                warn!("{reason}");
                None
            });
        let (why, fallback) = match judge(saved, self.rejected.take(), SystemTime::now()) {
            Judged::Use(identity) => return Ok(identity),
            Judged::Join { why, fallback } => (why, fallback),
        };
        match (join(&self.settings, key).await, fallback) {
            (Ok(identity), _) => {
                info!("joined: certificate saved to {}", self.settings.identity.display());
                Ok(identity)
            }
            (Err(error), Some(saved)) => {
                self.report.trouble(&chain(&Failure::Join { why, error }));
                Ok(saved)
            }
            (Err(error), None) => Err(Failure::Join { why, error }),
        }
    }

    /// Best effort: a metamanager that does not answer now starts again with "offline".
    async fn set_offline(&self) {
        let request = SetLinkRequest { connected: false };
        if let Err(error) = self.meta.set_link_with_deadline(request, Duration::from_secs(1)).await {
            warn!(%error, "could not tell metamanager that the cloud is gone");
        }
    }
}

/// What to do with the saved identity.
#[derive(Debug, PartialEq)]
enum Judged {
    Use(Identity),
    Join { why: String, fallback: Option<Identity> },
}

fn judge(saved: Option<Identity>, rejected: Option<String>, now: SystemTime) -> Judged {
    let (why, fallback) = match (saved, rejected) {
        (None, _) => ("this node has not joined a cloud yet".to_owned(), None),
        (Some(identity), Some(rejected)) => (rejected, Some(identity)),
        (Some(identity), None) if identity.not_after <= now => {
            ("the certificate of this node has expired".to_owned(), Some(identity))
        }
        (Some(identity), None) => return Judged::Use(identity),
    };
    Judged::Join { why, fallback }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
