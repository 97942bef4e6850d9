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
    #[error("{join}; and with the saved certificate: {connect}")]
    Fallback { join: String, connect: ConnectError },
}

impl Failure {
    fn met(&self) -> Met {
        match self {
            // Nothing was asked of anybody.
            Self::Key(_) | Self::Join { error: JoinError::NoToken(_), .. } => Met::Nobody,
            Self::Connect(error)
            | Self::Fallback { connect: error, .. }
            | Self::Join { error: JoinError::Connect(error), .. }
                if error.met_nobody() =>
            {
                Met::Nobody
            }
            Self::Connect(_) | Self::Fallback { .. } | Self::Join { .. } => Met::Refusal,
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
        let (identity, not_joined) = self.identity(&key).await?;
        let tls = pki::client_config(&identity.ca, Some(key.identity(identity.certificate)))
            .map_err(|error| Failure::Key(error.to_string()))?;
        let connected = link::connect(&self.settings, Arc::new(tls)).await;
        self.rejected = match &connected {
            Err(error) if error.asks_for_join() => Some(error.to_string()),
            _ => None,
        };
        connected.map_err(|connect| match not_joined {
            Some(join) => Failure::Fallback { join, connect },
            None => Failure::Connect(connect),
        })
    }

    /// The certificate to connect with: the saved one, unless something speaks against it. Where joining anew fails, a saved
    /// one is tried all the same, because this node's clock may be wrong or the hub may have been; then why it failed comes too.
    async fn identity(&mut self, key: &NodeKey) -> Result<(Identity, Option<String>), Failure> {
        let saved =
            Identity::load(&self.settings.identity, &self.settings.node, key).unwrap_or_else(|reason| {
                warn!("{reason}");
                None
            });
        let (why, fallback) = match judge(saved, self.rejected.take(), SystemTime::now()) {
            Judged::Use(identity) => return Ok((identity, None)),
            Judged::Join { why, fallback } => (why, fallback),
        };
        match (join(&self.settings, key).await, fallback) {
            (Ok(identity), _) => {
                info!("joined: certificate saved to {}", self.settings.identity.display());
                Ok((identity, None))
            }
            (Err(error), Some(saved)) => Ok((saved, Some(chain(&Failure::Join { why, error })))),
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

#[cfg(test)]
mod tests {
    use rustls_pki_types::CertificateDer;

    use super::*;

    fn identity(not_after: SystemTime) -> Identity {
        Identity { certificate: CertificateDer::from(vec![1]), ca: CertificateDer::from(vec![2]), not_after }
    }

    #[test]
    fn a_valid_certificate_nobody_objected_to_is_used() {
        let now = SystemTime::now();
        let saved = identity(now + Duration::from_secs(1));
        assert_eq!(judge(Some(saved.clone()), None, now), Judged::Use(saved));
    }

    #[test]
    fn an_expired_or_rejected_certificate_asks_for_a_new_one_and_stays_as_fallback() {
        let now = SystemTime::now();
        let expired = identity(now);
        let Judged::Join { why, fallback } = judge(Some(expired.clone()), None, now) else { panic!() };
        assert_eq!((why.as_str(), fallback), ("the certificate of this node has expired", Some(expired)));
        let valid = identity(now + Duration::from_secs(1));
        let Judged::Join { why, fallback } = judge(Some(valid.clone()), Some("unknown CA".into()), now)
        else {
            panic!()
        };
        assert_eq!((why.as_str(), fallback), ("unknown CA", Some(valid)));
    }

    #[test]
    fn a_node_without_a_certificate_joins() {
        assert!(matches!(judge(None, None, SystemTime::now()), Judged::Join { fallback: None, .. }));
    }
}
