//! Listeners, and who may come in on each.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::StreamCommon as _;
use interprocess::local_socket::traits::tokio::Listener as _;
use interprocess::local_socket::{GenericFilePath, ListenerOptions, ToFsName};
use interprocess::os::unix::local_socket::ListenerOptionsExt as _;
use interprocess::os::unix::uds_local_socket::tokio::Listener as UdsListener;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::session::{self, Admitted, Ended, Service, violation};
use crate::stats::{Counters, LinkStats, Stats};
use crate::throttle::Throttle;
use crate::transport::lock;
use crate::{CONNECTIONS_PER_LINK, Identity, transport};

/// A socket for people's tools serves several at once.
const CONNECTIONS_PER_SOCKET: usize = 64;

/// After a failed accept (out of descriptors): time for some to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who may come in on a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// A link: the listener was made for this client alone.
    Link {
        /// Its component name; its hello must say the same.
        client: String,
        /// Its uid; the kernel's answer must be the same.
        uid: u32,
        /// Names of the methods it may call.
        methods: Vec<String>,
    },
    /// Whoever the socket's owner and mode let in, for every method; known as `uid:<uid>`.
    AnyUser,
}

/// Why a listener cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The manifest and the interface disagree.
    #[error("link for {client} allows {method}, which {interface} does not have")]
    UnknownMethod {
        /// The link's client.
        client: String,
        /// The name that is not there.
        method: String,
        /// The served interface.
        interface: &'static str,
    },
    /// The descriptor is not a listening Unix socket.
    #[error("could not adopt the listener for {client}: {source}")]
    Adopt {
        /// The link's client.
        client: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Serves one [`Service`] on any number of listeners, within a tokio runtime. Dropping it ends every connection.
#[derive(Debug)]
pub struct Server<S> {
    shared: Arc<Shared<S>>,
    ended: CancellationToken,
}

#[derive(Debug)]
struct Shared<S> {
    service: S,
    us: Identity,
    links: Mutex<Vec<Arc<Counters>>>,
    counted: Arc<Notify>,
    throttle: Throttle,
}

impl<S> Drop for Server<S> {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

impl<S: Service> Server<S> {
    /// A server without listeners. `us` is what peers see in the hello.
    pub fn new(us: Identity, service: S) -> Self {
        let shared = Shared {
            service,
            us,
            links: Mutex::default(),
            counted: Arc::default(),
            throttle: Throttle::default(),
        };
        Self { shared: Arc::new(shared), ended: CancellationToken::new() }
    }

    /// What it has counted, over all listeners.
    pub fn stats(&self) -> Stats {
        let links = lock(&self.shared.links);
        Stats {
            connections_total: links.iter().map(|link| link.connections_total()).sum(),
            calls_total: links.iter().map(|link| link.calls_total()).sum(),
            violations_total: links.iter().map(|link| link.refusals_total()).sum(),
        }
    }

    /// What it has counted on each listener, in the order they were given to [`Server::serve`].
    pub fn links(&self) -> Vec<LinkStats> {
        let interface = self.shared.service.interface();
        lock(&self.shared.links).iter().map(|link| link.read(interface)).collect()
    }

    /// Waits until something was counted since the last [`Server::links`]. For one waiter.
    pub async fn counted(&self) {
        self.shared.counted.notified().await;
    }

    /// Accepts on `listener`, which may be inherited or from [`bind`], until the server is dropped.
    pub fn serve(&self, listener: OwnedFd, admission: Admission) -> Result<(), ServeError> {
        let interface = self.shared.service.interface();
        let mut allowed = vec![admission == Admission::AnyUser; interface.methods.len()];
        let mut client = "";
        if let Admission::Link { client: name, methods, .. } = &admission {
            client = name;
            for method in methods {
                let found = interface.by_name(method).ok_or_else(|| ServeError::UnknownMethod {
                    client: name.clone(),
                    method: method.clone(),
                    interface: interface.name,
                })?;
                allowed[found.index()] = true;
            }
        }
        let listener = UdsListener::try_from(listener)
            .map_err(|source| ServeError::Adopt { client: client.to_owned(), source })?;
        let counters = Counters::new(client.to_owned(), &allowed, Arc::clone(&self.shared.counted));
        let counters = Arc::new(counters);
        lock(&self.shared.links).push(Arc::clone(&counters));
        let accepting =
            accept(Arc::clone(&self.shared), listener.into(), admission, counters, self.ended.clone());
        let ended = self.ended.clone();
        tokio::spawn(async move { ended.run_until_cancelled(accepting).await });
        Ok(())
    }
}

async fn accept<S: Service>(
    shared: Arc<Shared<S>>,
    listener: Listener,
    admission: Admission,
    counters: Arc<Counters>,
    ended: CancellationToken,
) {
    let bound = match admission {
        Admission::Link { .. } => CONNECTIONS_PER_LINK,
        Admission::AnyUser => CONNECTIONS_PER_SOCKET,
    };
    let places = Arc::new(Semaphore::new(bound));
    let admission = Arc::new(admission);
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                if let Some(left_out) = shared.throttle.admit(Instant::now()) {
                    tracing::error!(%error, left_out, "could not accept a connection");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        counters.connected();
        let (shared, admission, counters) =
            (Arc::clone(&shared), Arc::clone(&admission), Arc::clone(&counters));
        let ended = ended.clone();
        tokio::spawn(async move {
            let _place = place;
            ended.run_until_cancelled(shared.session(stream, &admission, Arc::clone(&counters))).await;
            counters.disconnected();
        });
    }
}

impl<S: Service> Shared<S> {
    async fn session(&self, stream: Stream, admission: &Admission, counters: Arc<Counters>) {
        let (peer, ended) = match stream.peer_creds() {
            Err(error) => (None, Ended::Io(error)),
            Ok(creds) => {
                let uid = creds.euid().unwrap_or(u32::MAX);
                let pid = creds.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
                let Stream::UdSocket(stream) = stream;
                let (inbox, mut writer) = transport::split(stream.into());
                match admission {
                    Admission::Link { client, uid: expected, .. } if *expected != uid => {
                        let ended = violation(format!(
                            "this link is for {client}, uid {expected}, not for uid {uid}"
                        ));
                        session::refuse(&mut writer, &ended).await;
                        (None, ended)
                    }
                    _ => {
                        let component = match admission {
                            Admission::Link { client, .. } => Some(client.clone()),
                            Admission::AnyUser => None,
                        };
                        let counters = Arc::clone(&counters);
                        let admitted = Admitted { component, uid, pid, counters };
                        session::serve(&self.service, &self.us, inbox, writer, admitted).await
                    }
                }
            }
        };
        let client = match (&peer, admission) {
            (Some(peer), _) => peer.component.as_str(),
            (None, Admission::Link { client, .. }) => client,
            (None, Admission::AnyUser) => "unknown user",
        };
        let server = self.us.component.as_str();
        match ended {
            Ended::Closed => tracing::debug!(server, peer = client, "peer disconnected"),
            Ended::Io(error) => tracing::debug!(server, peer = client, %error, "connection failed"),
            Ended::Stalled(reason) => {
                if let Some(left_out) = self.throttle.admit(Instant::now()) {
                    tracing::warn!(server, peer = client, reason, left_out, "disconnected a peer that hangs");
                }
            }
            Ended::Violation { rule, .. } => {
                counters.refused(&rule);
                if let Some(left_out) = self.throttle.admit(Instant::now()) {
                    let pid = peer.as_ref().map_or(0, |peer| peer.pid);
                    tracing::warn!(
                        server,
                        peer = client,
                        pid,
                        rule,
                        left_out,
                        "disconnected a peer that broke a rule"
                    );
                }
            }
        }
    }
}

/// Binds a listener at `path` with this mode, in place of a socket an earlier process left there.
///
/// At no moment is the socket open to more than `mode` says.
pub fn bind(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let listener = ListenerOptions::new()
        .name(path.to_fs_name::<GenericFilePath>()?)
        .mode(mode)
        .try_overwrite(true)
        .reclaim_name(false)
        .create_sync_as::<interprocess::os::unix::uds_local_socket::Listener>()?;
    // So far it has the mode less our umask.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(listener.into())
}
