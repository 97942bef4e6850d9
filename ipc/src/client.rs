//! The client's end of a link: connects when first needed, again when the server was restarted, and calls.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use prost::Message;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::connection::{Broken, Connection};
use crate::frame::{self, Frame, Hello};
use crate::transport::{Reader, Writer, connect, lock};
use crate::{CallError, ErrorCode, Identity, Interface, Method, PROTOCOL, Streaming, backoff};

/// How long a unary call waits for its answer, reconnecting included, and a stream for its connection: 10 s.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

/// A longer deadline counts as this one, 24 h, so that adding it to a time cannot overflow.
pub(crate) const LONGEST_DEADLINE: Duration = Duration::from_hours(24);

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
    path: PathBuf,
    us: Identity,
    /// One caller at a time connects; the others wait behind it, each with its own deadline.
    dial: tokio::sync::Mutex<Dial>,
    next_call: AtomicU64,
    /// Set by the first typed client: a link speaks one interface.
    bound: OnceLock<Bound>,
    /// Generation of the server last connected to; 0 before the first.
    generation: AtomicU64,
    /// Why there is no connection now.
    trouble: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Bound {
    interface: &'static Interface,
    /// Per method, the calls that may be in flight.
    slots: Vec<Arc<Semaphore>>,
}

/// The state of connecting. It outlives a caller that gives up, so that the next one goes on where that one stopped.
#[derive(Debug, Default)]
struct Dial {
    connection: Option<Arc<Connection>>,
    connected_at: Option<Instant>,
    /// Connected and our hello sent, theirs not yet here: the listener's backlog takes us in before its server runs.
    half_open: Option<(Reader, Writer)>,
    failures: u32,
    not_before: Option<Instant>,
}

impl Channel {
    /// A channel to the server that listens at `path`.
    pub fn new(path: impl Into<PathBuf>, us: Identity) -> Self {
        Self {
            inner: Arc::new(Inner {
                path: path.into(),
                us,
                dial: tokio::sync::Mutex::default(),
                next_call: AtomicU64::new(frame::NO_CALL + 1),
                bound: OnceLock::new(),
                generation: AtomicU64::new(0),
                trouble: Mutex::default(),
            }),
        }
    }

    /// The socket this channel connects to.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The generation of the server last connected to; `None` before the first connection.
    ///
    /// A number that differs from an earlier one means that the server was restarted in between.
    pub fn server_generation(&self) -> Option<u64> {
        Some(self.inner.generation.load(Ordering::Relaxed)).filter(|generation| *generation != 0)
    }

    /// Binds the channel to an interface; generated clients do.
    pub fn caller(&self, interface: &'static Interface) -> Caller {
        self.inner.bound.get_or_init(|| Bound {
            interface,
            slots: interface.methods.iter().map(|method| Arc::new(Semaphore::new(method.at_once))).collect(),
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
        let slot = self.prepare(method, request)?;
        let until = Instant::now() + deadline.min(LONGEST_DEADLINE);
        let reply = timeout_at(until, async {
            // Declared first, so freed last: a cancel is on its way before the next call may start.
            let _slot = slot.acquire().await;
            loop {
                let connection = self.channel.inner.connection(self.interface).await?;
                let call = self.channel.inner.next_call.fetch_add(1, Ordering::Relaxed);
                let left = until.saturating_duration_since(Instant::now());
                let request = frame::request(call, method.number, Some(left), request);
                match connection.unary(call, request).await {
                    Err(Broken::Disconnected(reason)) => self.channel.inner.in_trouble(reason),
                    answer => return answer,
                }
            }
        });
        match reply.await {
            Ok(Ok(reply)) => R::decode(reply).map_err(|error| CallError::Malformed(error.to_string())),
            Ok(Err(broken)) => Err(broken.into()),
            Err(_) => Err(match lock(&self.channel.inner.trouble).clone() {
                Some(trouble) => CallError::Disconnected(trouble),
                None => CallError::Deadline,
            }),
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
        let slot = Arc::clone(self.prepare(method, request)?);
        let slot = slot.try_acquire_owned().map_err(|_| {
            CallError::Refused(format!("{} {} streams are open", method.at_once, method.name))
        })?;
        let inner = &self.channel.inner;
        let opened = async {
            let connection = inner.connection(self.interface).await?;
            let call = inner.next_call.fetch_add(1, Ordering::Relaxed);
            connection.stream(call, frame::request(call, method.number, None, request))
        };
        match timeout_at(Instant::now() + DEFAULT_DEADLINE, opened).await {
            Ok(Ok(incoming)) => Ok(Streaming::new(incoming, slot)),
            Ok(Err(broken)) => Err(broken.into()),
            Err(_) => Err(CallError::Disconnected(
                lock(&inner.trouble)
                    .clone()
                    .unwrap_or_else(|| format!("{}: no answer", inner.path.display())),
            )),
        }
    }

    /// What can be checked without the server.
    fn prepare<E>(&self, method: &Method, request: &impl Message) -> Result<&Arc<Semaphore>, CallError<E>> {
        let bound = self.channel.inner.bound.get().filter(|bound| bound.interface == self.interface);
        let Some(bound) = bound else {
            return Err(CallError::Refused(format!(
                "this channel was first bound to another interface than {}",
                self.interface.name
            )));
        };
        check_size(method, request)?;
        Ok(&bound.slots[method.index()])
    }
}

pub(crate) fn check_size<E>(method: &Method, request: &impl Message) -> Result<(), CallError<E>> {
    let size = request.encoded_len();
    if size > method.max_request {
        return Err(CallError::Refused(format!(
            "{} takes at most {} bytes, these are {size}",
            method.name, method.max_request
        )));
    }
    Ok(())
}

impl Inner {
    fn in_trouble(&self, reason: String) {
        *lock(&self.trouble) = Some(reason);
    }

    /// The open connection, made if need be. Waits as long as the caller does; only a refusal is final.
    async fn connection(&self, interface: &'static Interface) -> Result<Arc<Connection>, Broken> {
        let mut dial = self.dial.lock().await;
        loop {
            if let Some(connection) = dial.open() {
                return Ok(connection);
            }
            if let Some(not_before) = dial.not_before {
                sleep_until(not_before).await;
            }
            match dial.attempt(&self.path, interface, &self.us).await {
                Ok(server) => self.connected(&server),
                Err(Broken::Disconnected(reason)) => {
                    dial.failed();
                    tracing::debug!(socket = %self.path.display(), reason, attempt = dial.failures, "could not connect");
                    self.in_trouble(format!("{}: {reason}", self.path.display()));
                }
                Err(refused) => {
                    dial.failed();
                    return Err(refused);
                }
            }
        }
    }

    fn connected(&self, server: &Hello) {
        *lock(&self.trouble) = None;
        let previous = self.generation.swap(server.generation, Ordering::Relaxed);
        if previous != 0 && previous != server.generation {
            tracing::info!(
                server = server.component,
                generation = server.generation,
                previous,
                "server was restarted"
            );
        }
    }
}

impl Dial {
    /// The connection, if it is still open. One that ended soon after it began counts as a failed attempt.
    fn open(&mut self) -> Option<Arc<Connection>> {
        let connection = self.connection.as_ref()?;
        if connection.is_open() {
            return Some(Arc::clone(connection));
        }
        self.connection = None;
        if self.connected_at.take().is_some_and(|at| at.elapsed() >= SHORT_LIVED) {
            self.failures = 0;
            self.not_before = None;
        } else {
            self.failed();
        }
        None
    }

    fn failed(&mut self) {
        self.half_open = None;
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + backoff::wait(self.failures, fastrand::f64()));
    }

    /// Connects and exchanges hellos. Cancelled while the server's hello is awaited, the next attempt awaits it further.
    async fn attempt(
        &mut self,
        path: &Path,
        interface: &'static Interface,
        us: &Identity,
    ) -> Result<Hello, Broken> {
        let gone = |error: std::io::Error| Broken::Disconnected(error.to_string());
        if self.half_open.is_none() {
            let (reader, mut writer) = connect(path).await.map_err(gone)?;
            // A server that has closed already may have said why: reading tells.
            let _ = writer.send(frame::hello(interface.name, us)).await;
            self.half_open = Some((reader, writer));
        }
        let (reader, _) = self.half_open.as_mut().expect("set above");
        let first = reader.next().await;
        let server = read_hello(first.map(|frame| frame.map(bytes::BytesMut::freeze)), interface)?;
        let (reader, writer) = self.half_open.take().expect("set above");
        self.connection = Some(Arc::new(Connection::start(reader, writer, server.clone())));
        self.connected_at = Some(Instant::now());
        Ok(server)
    }
}

/// Checks the server's first frame.
pub(crate) fn read_hello(
    first: Option<std::io::Result<bytes::Bytes>>,
    interface: &Interface,
) -> Result<Hello, Broken> {
    let frame = match first {
        None => return Err(Broken::Disconnected("closed before its hello".to_owned())),
        Some(Err(error)) => return Err(Broken::Disconnected(error.to_string())),
        Some(Ok(frame)) => frame,
    };
    match Frame::decode(frame) {
        Ok(Frame::Hello(hello)) if hello.protocol != PROTOCOL => Err(Broken::Refused(format!(
            "{} speaks protocol version {}, this client {PROTOCOL}",
            hello.component, hello.protocol
        ))),
        Ok(Frame::Hello(hello)) if hello.interface != interface.name => Err(Broken::Refused(format!(
            "{} serves {}, not {}",
            hello.component, hello.interface, interface.name
        ))),
        Ok(Frame::Hello(hello)) => Ok(hello),
        Ok(Frame::Refused { message, .. }) => Err(Broken::Refused(message)),
        Ok(_) => Err(Broken::Disconnected("its first frame is no hello".to_owned())),
        Err(error) => Err(Broken::Disconnected(error.to_string())),
    }
}
