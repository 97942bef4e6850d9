//! The client's end of a link: connects when first needed, again when the server was restarted, and calls.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::connection::{Broken, Connection};
use crate::deadline::inherited;
use crate::frame::{self, Head};
use crate::inbox::Inbox;
use crate::link::{LONGEST_DEADLINE, Link};
use crate::table::cost;
use crate::transport::{Writer, connect, lock};
use crate::{CallError, ErrorCode, IN_WORK, Identity, Interface, Method, Streaming, backoff};

/// How long a unary call waits for its answer, reconnecting included, and a stream for its connection: 10 s. Less in a
/// handler whose own caller gives up earlier.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// A server that ended a connection younger than this is approached with back-off, as one that cannot be reached.
const SHORT_LIVED: Duration = Duration::from_secs(1);

/// The client's end of one link. Cheap to clone; connects at the first call.
///
/// All clones share one connection. When it ends, the next call connects again, after a jittered wait of 10 ms to 1 s
/// if the last attempt failed.
#[derive(Debug, Clone)]
pub struct Channel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    link: Link,
    /// The connection in use.
    current: Mutex<Option<Arc<Connection>>>,
    /// One caller at a time connects; the others wait behind it, each with its own deadline.
    dial: tokio::sync::Mutex<Dial>,
    next_call: AtomicU64,
    /// Set by the first typed client: a link speaks one interface.
    bound: OnceLock<Bound>,
    /// Why there is no connection now.
    trouble: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Bound {
    interface: &'static Interface,
    /// Per method, the calls that may be in flight.
    slots: Vec<Arc<Semaphore>>,
    /// Bytes of requests that may be in flight.
    bytes: Arc<Semaphore>,
}

/// The state of connecting. It outlives a caller that gives up, so that the next one goes on where that one stopped.
#[derive(Debug, Default)]
struct Dial {
    connected_at: Option<Instant>,
    /// Connected and our hello sent, theirs not yet here: the listener's backlog takes us in before its server runs.
    half_open: Option<(Inbox, Writer)>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Channel {
    /// A channel to the server that listens at `path`.
    pub fn new(path: impl Into<PathBuf>, us: Identity) -> Self {
        Self {
            inner: Arc::new(Inner {
                link: Link::new(path.into(), us),
                current: Mutex::default(),
                dial: tokio::sync::Mutex::default(),
                next_call: AtomicU64::new(frame::NO_CALL + 1),
                bound: OnceLock::new(),
                trouble: Mutex::default(),
            }),
        }
    }

    /// The socket this channel connects to.
    pub fn path(&self) -> &Path {
        self.inner.link.path()
    }

    /// The generation of the server last connected to; `None` before the first connection.
    ///
    /// A number that differs from an earlier one means that the server was restarted in between.
    pub fn server_generation(&self) -> Option<u64> {
        self.inner.link.generation()
    }

    /// Binds the channel to an interface; generated clients do.
    pub fn caller(&self, interface: &'static Interface) -> Caller {
        self.inner.bound.get_or_init(|| Bound {
            interface,
            slots: interface.methods.iter().map(|method| Arc::new(Semaphore::new(method.at_once))).collect(),
            bytes: Arc::new(Semaphore::new(IN_WORK)),
        });
        Caller { channel: self.clone(), interface }
    }
}

/// A channel bound to an interface: what generated clients call through.
#[derive(Debug, Clone)]
pub struct Caller {
    channel: Channel,
    interface: &'static Interface,
}

impl Caller {
    /// The channel underneath.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Calls until there is an answer or the deadline has passed: a call whose server died is repeated to the next one.
    pub async fn unary<Q, R, E>(
        &self,
        method: &'static Method,
        request: &Q,
        deadline: Duration,
    ) -> Result<R, CallError<E>>
    where
        Q: Message,
        R: Message + Default,
        E: ErrorCode,
    {
        let inner = &*self.channel.inner;
        let (bound, size) = self.prepare(method, request)?;
        let mut now = Instant::now();
        let until = inherited(now + deadline.min(LONGEST_DEADLINE));
        // Declared first, so freed last: a cancel is on its way before the next call may start.
        let slots = &bound.slots[method.index()];
        let _slot = if let Ok(slot) = slots.try_acquire() {
            slot
        } else {
            let slot = inner.by(until, slots.acquire()).await?.map_err(|_| CallError::Deadline)?;
            now = Instant::now();
            slot
        };
        let _bytes = match cost(size) {
            0 => None,
            cost => {
                let bytes = inner.by(until, bound.bytes.acquire_many(permits(cost))).await?;
                now = Instant::now();
                Some(bytes)
            }
        };
        loop {
            let connection = if let Some(connection) = inner.open() {
                connection
            } else {
                // Boxed: it is rare, and would make every call's future as large as itself.
                let connection = inner.by(until, Box::pin(inner.connect(self.interface))).await??;
                now = Instant::now();
                connection
            };
            inner.link.known(&connection.server, self.interface, method)?;
            if !connection.has_room() {
                inner.by(until, Box::pin(connection.room())).await?;
                now = Instant::now();
            }
            let call = inner.next_call.fetch_add(1, Ordering::Relaxed);
            let head = Head::request(call, method.number, Some(until.saturating_duration_since(now)));
            match connection.unary(head, size, request, until).await {
                Ok(reply) => {
                    return R::decode(reply)
                        .map_err(|error| CallError::Malformed(format!("{}: {error}", inner.link.names())));
                }
                Err(Broken::Disconnected(reason)) => {
                    inner.lost(&connection, reason);
                    now = Instant::now();
                }
                Err(broken) => return Err(broken.into()),
            }
        }
    }

    /// Opens a stream, waiting up to [`DEFAULT_DEADLINE`] for a connection. The server's first words come as items.
    pub async fn stream<Q, T, E>(
        &self,
        method: &'static Method,
        request: &Q,
    ) -> Result<Streaming<T, E>, CallError<E>>
    where
        Q: Message,
        T: Message + Default,
        E: ErrorCode,
    {
        let inner = &*self.channel.inner;
        let (bound, size) = self.prepare(method, request)?;
        let slot = Arc::clone(&bound.slots[method.index()]).try_acquire_owned().map_err(|_| {
            let (link, at_once, name) = (inner.link.names(), method.at_once, method.name);
            CallError::Refused(format!("{link}: {at_once} {name} streams are open"))
        })?;
        let opened = async {
            let bytes = match cost(size) {
                0 => None,
                cost => Arc::clone(&bound.bytes).acquire_many_owned(permits(cost)).await.ok(),
            };
            let connection = inner.connect(self.interface).await?;
            inner.link.known(&connection.server, self.interface, method)?;
            connection.room().await;
            let call = inner.next_call.fetch_add(1, Ordering::Relaxed);
            let incoming = connection.stream(Head::request(call, method.number, None), size, request)?;
            Ok::<_, Broken>((incoming, bytes))
        };
        match timeout_at(inherited(Instant::now() + DEFAULT_DEADLINE), opened).await {
            Ok(Ok((incoming, bytes))) => Ok(Streaming::new(incoming, Slot { _slot: slot, _bytes: bytes })),
            Ok(Err(broken)) => Err(broken.into()),
            Err(_) => Err(CallError::Disconnected(
                lock(&inner.trouble).clone().unwrap_or_else(|| format!("{}: no answer", inner.link.socket())),
            )),
        }
    }

    /// What can be checked without the server; the request's encoded size.
    fn prepare<E>(&self, method: &Method, request: &impl Message) -> Result<(&Bound, usize), CallError<E>> {
        let inner = &*self.channel.inner;
        let bound = inner.bound.get().filter(|bound| std::ptr::eq(bound.interface, self.interface));
        let Some(bound) = bound else {
            return Err(CallError::Refused(format!(
                "{}: this channel was first bound to another interface than {}",
                inner.link.names(),
                self.interface.name
            )));
        };
        Ok((bound, inner.link.size_of(method, request)?))
    }
}

/// What a stream occupies until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    _slot: OwnedSemaphorePermit,
    _bytes: Option<OwnedSemaphorePermit>,
}

fn permits(cost: usize) -> u32 {
    u32::try_from(cost).expect("a request is at most 4 MiB")
}

impl Inner {
    fn in_trouble(&self, reason: String) {
        *lock(&self.trouble) = Some(reason);
    }

    /// This connection has ended. No trouble where another has taken its place already.
    fn lost(&self, connection: &Arc<Connection>, reason: String) {
        let current = lock(&self.current);
        if current.as_ref().is_none_or(|current| Arc::ptr_eq(current, connection)) {
            self.in_trouble(reason);
        }
    }

    /// Waits for something a call needs, as long as its caller does.
    async fn by<T, E>(&self, until: Instant, what: impl Future<Output = T>) -> Result<T, CallError<E>> {
        timeout_at(until, what).await.map_err(|_| match lock(&self.trouble).clone() {
            Some(trouble) => CallError::Disconnected(trouble),
            None => CallError::Deadline,
        })
    }

    fn open(&self) -> Option<Arc<Connection>> {
        lock(&self.current).as_ref().filter(|connection| connection.is_open()).cloned()
    }

    /// The open connection, made if need be. Waits without end; only a refusal is final.
    async fn connect(&self, interface: &'static Interface) -> Result<Arc<Connection>, Broken> {
        let mut dial = self.dial.lock().await;
        loop {
            if let Some(connection) = self.open() {
                return Ok(connection);
            }
            if lock(&self.current).take().is_some() {
                dial.ended();
            }
            if let Some(not_before) = dial.not_before {
                sleep_until(not_before).await;
            }
            match dial.attempt(&self.link, interface).await {
                Ok(connection) => {
                    let mut current = lock(&self.current);
                    *lock(&self.trouble) = None;
                    *current = Some(Arc::new(connection));
                }
                Err(Broken::Disconnected(reason)) => {
                    dial.failed();
                    let link = self.link.socket();
                    tracing::debug!(link, reason, attempt = dial.failures, "could not connect");
                    self.in_trouble(format!("{link}: {reason}"));
                }
                Err(refused) => {
                    dial.failed();
                    return Err(refused);
                }
            }
        }
    }
}

impl Dial {
    /// One that ended soon after it began counts as a failed attempt.
    fn ended(&mut self) {
        if self.connected_at.take().is_some_and(|at| at.elapsed() >= SHORT_LIVED) {
            self.failures = 0;
            self.not_before = None;
        } else {
            self.failed();
        }
    }

    fn failed(&mut self) {
        self.half_open = None;
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + backoff::wait(self.failures, fastrand::f64()));
    }

    /// Connects and exchanges hellos. Cancelled while the server's hello is awaited, the next attempt awaits it further.
    async fn attempt(&mut self, link: &Link, interface: &'static Interface) -> Result<Connection, Broken> {
        let gone = |error: std::io::Error| Broken::Disconnected(error.to_string());
        if self.half_open.is_none() {
            let (inbox, mut writer) = connect(link.path()).await.map_err(gone)?;
            // A server that has closed already may have said why: reading tells.
            let _ = writer.send(&link.hello(interface)).await;
            self.half_open = Some((inbox, writer));
        }
        let (inbox, _) = self.half_open.as_mut().expect("set above");
        let (server, protocol) = link.greeted(inbox.next().await, interface)?;
        let (inbox, writer) = self.half_open.take().expect("set above");
        self.connected_at = Some(Instant::now());
        Ok(Connection::start(inbox, writer, server, protocol, link.names()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::TEST;

    #[tokio::test]
    async fn the_end_of_a_connection_that_was_replaced_is_no_trouble() {
        let dir = tempfile::tempdir().unwrap();
        let listener = tokio::net::UnixListener::bind(dir.path().join("s")).unwrap();
        let channel = Channel::new(dir.path().join("s"), Identity::new("client", 1));
        let inner = &channel.inner;
        let hello = frame::hello(&frame::Hello::new(&TEST, &Identity::new("server", 1)));
        let greet = async {
            let (_, mut writer) = crate::transport::split(listener.accept().await.unwrap().0);
            writer.send(&hello).await.unwrap();
        };
        let (first, ()) = tokio::join!(inner.connect(&TEST), greet);
        let first = first.unwrap();
        inner.lost(&first, "closed".to_owned());
        assert_eq!(lock(&inner.trouble).as_deref(), Some("closed"));
        // The server is gone, and the next one there.
        while first.is_open() {
            tokio::task::yield_now().await;
        }
        let serving = async {
            let (inbox, mut writer) = crate::transport::split(listener.accept().await.unwrap().0);
            writer.send(&hello).await.unwrap();
            (inbox, writer)
        };
        let (second, _open) = tokio::join!(inner.connect(&TEST), serving);
        second.unwrap();
        inner.lost(&first, "closed".to_owned());
        assert_eq!(*lock(&inner.trouble), None);
    }
}
