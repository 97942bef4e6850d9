//! Calls from code that cannot wait asynchronously: rustls asks for a signature from within a handshake.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket};
use prost::Message;

use crate::connection::Broken;
use crate::frame::{self, Frame, Head, Hello, PART, PREFIX};
use crate::inbox::Taken;
use crate::link::{LONGEST_DEADLINE, Link};
use crate::parts::{Assembly, Large};
use crate::transport::lock;
use crate::{CallError, ErrorCode, Identity, Interface, Method, backoff, remaining};

/// How long a blocking call may take: 3 s. The thread does nothing else meanwhile.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(3);

/// The client's end of a link: one call at a time, unary methods only. Cheap to clone.
///
/// A call whose server died is repeated to the next one until its deadline, as with [`crate::Channel`].
#[derive(Debug, Clone)]
pub struct Channel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    link: Link,
    /// `None` while a call has it.
    state: Mutex<Option<State>>,
    freed: Condvar,
}

/// One call's turn on the channel.
struct Turn<'a> {
    inner: &'a Inner,
    state: State,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.inner.state) = Some(std::mem::take(&mut self.state));
        self.inner.freed.notify_one();
    }
}

impl Inner {
    /// Waits for the calls before, until then at most.
    fn turn(&self, until: Instant) -> Result<Turn<'_>, Broken> {
        let mut free = lock(&self.state);
        loop {
            if let Some(state) = free.take() {
                return Ok(Turn { inner: self, state });
            }
            free = self.freed.wait_timeout(free, left(until)?).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// Present when its last call ended in good order.
    socket: Option<Socket>,
    last_call: u64,
}

/// A connection whose hello is done.
#[derive(Debug)]
struct Socket {
    stream: UnixStream,
    server: Hello,
    protocol: u32,
}

impl Channel {
    /// A channel to the server that listens at `path`; connects at the first call.
    pub fn new(path: impl Into<PathBuf>, us: Identity) -> Self {
        let link = Link::new(path.into(), us);
        Self {
            inner: Arc::new(Inner { link, state: Mutex::new(Some(State::default())), freed: Condvar::new() }),
        }
    }

    /// Calls until there is an answer or the deadline has passed; generated clients do.
    pub fn unary<Q, R, E>(
        &self,
        interface: &'static Interface,
        method: &'static Method,
        request: &Q,
        deadline: Duration,
    ) -> Result<R, CallError<E>>
    where
        Q: Message,
        R: Message + Default,
        E: ErrorCode,
    {
        let link = &self.inner.link;
        let size = link.size_of(method, request)?;
        let deadline = remaining().map_or(deadline, |left| deadline.min(left));
        let until = Instant::now() + deadline.min(LONGEST_DEADLINE);
        let mut turn = self.inner.turn(until)?;
        let mut failures = 0;
        loop {
            let trouble = match self.attempt(&mut turn.state, interface, method, (request, size), until) {
                Ok(reply) => {
                    return R::decode(reply)
                        .map_err(|error| CallError::Malformed(format!("{}: {error}", link.names())));
                }
                Err(Broken::Disconnected(reason)) => reason,
                Err(broken) => return Err(broken.into()),
            };
            failures += 1;
            let pause = backoff::wait(failures, fastrand::f64());
            if Instant::now() + pause >= until {
                return Err(CallError::Disconnected(format!("{}: {trouble}", link.socket())));
            }
            std::thread::sleep(pause);
        }
    }

    fn attempt(
        &self,
        state: &mut State,
        interface: &'static Interface,
        method: &Method,
        (request, size): (&impl Message, usize),
        until: Instant,
    ) -> Result<Bytes, Broken> {
        let link = &self.inner.link;
        // Put back only after an answer: a connection that failed or timed out may still carry an old one.
        let mut socket = match state.socket.take() {
            Some(socket) => socket,
            None => Socket::open(link, interface, until)?,
        };
        if let Err(unknown) = link.known(&socket.server, interface, method) {
            state.socket = Some(socket);
            return Err(unknown);
        }
        state.last_call += 1;
        let head = Head::request(state.last_call, method.number, Some(left(until)?));
        socket.send(head, size, request, until)?;
        let answer = socket.answer(head.call, until);
        let usable = matches!(answer, Ok(_) | Err(Broken::Failed { .. } | Broken::Late));
        // A time-out of our own is `Late` as well, and leaves the connection with an answer to come.
        state.socket = (usable && Instant::now() < until).then_some(socket);
        match answer {
            Err(Broken::Refused(reason)) => Err(Broken::Refused(format!("{}: {reason}", link.names()))),
            answer => answer,
        }
    }
}

impl Socket {
    fn open(link: &Link, interface: &'static Interface, until: Instant) -> Result<Self, Broken> {
        let mut stream = connect(link.path(), until)?;
        write(&mut stream, &link.hello(interface), until)?;
        let first = receive(&mut stream, crate::PROTOCOL, until).map(Taken::Shared);
        let (server, protocol) = link.greeted(Some(first), interface)?;
        Ok(Self { stream, server, protocol })
    }

    fn send(
        &mut self,
        head: Head,
        size: usize,
        request: &impl Message,
        until: Instant,
    ) -> Result<(), Broken> {
        let mut out = Vec::new();
        if size <= PART || self.protocol < 2 {
            frame::message(&mut out, head, size, request);
            return write(&mut self.stream, &out, until);
        }
        let mut large = Large::new(head, request);
        while !large.is_cut() {
            out.clear();
            let part = large.cut(&mut out);
            out.extend_from_slice(&part);
            write(&mut self.stream, &out, until)?;
        }
        Ok(())
    }

    fn answer(&mut self, expected: u64, until: Instant) -> Result<Bytes, Broken> {
        let broken = |reason: String| Broken::Disconnected(reason);
        let mut arriving = Assembly::default();
        loop {
            let bytes = receive(&mut self.stream, self.protocol, until).map_err(|error| gone(&error))?;
            let whole = match Frame::decode(&bytes, Some(&bytes))
                .map_err(|error| broken(error.to_string()))?
            {
                Frame::Reply { call, message } if call == expected => {
                    arriving.take(call, message, ()).map_err(broken)?.map(|((), payload)| payload.to_bytes())
                }
                Frame::Part { call, payload } if call == expected => {
                    arriving.add(call, payload).map_err(broken)?.map(|((), bytes)| bytes)
                }
                Frame::Failed { call, code, message } if call == expected => {
                    return Err(Broken::Failed { code, message: message.to_owned() });
                }
                Frame::Late { call } if call == expected => return Err(Broken::Late),
                Frame::Refused { message, .. } => return Err(Broken::Refused(message.to_owned())),
                _ => return Err(broken("an answer to another call".to_owned())),
            };
            if let Some(reply) = whole {
                return Ok(reply);
            }
        }
    }
}

fn gone(error: &io::Error) -> Broken {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Broken::Late,
        io::ErrorKind::UnexpectedEof => Broken::Disconnected("the server closed the connection".to_owned()),
        _ => Broken::Disconnected(error.to_string()),
    }
}

/// Never zero: that would mean "no time-out" to the kernel.
fn left(until: Instant) -> Result<Duration, Broken> {
    Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero()).ok_or(Broken::Late)
}

/// Waits for a place in the listener's backlog, until then at most: its process may be stopped.
fn connect(path: &Path, until: Instant) -> Result<UnixStream, Broken> {
    let connected = || {
        let flags = SockFlag::SOCK_CLOEXEC;
        let stream = UnixStream::from(socket(AddressFamily::Unix, SockType::Stream, flags, None)?);
        let address = UnixAddr::new(path)?;
        loop {
            let Ok(left) = left(until) else { return Err(io::ErrorKind::TimedOut.into()) };
            // The kernel has the time-out of a connect in common with that of a write.
            stream.set_write_timeout(Some(left))?;
            match nix::sys::socket::connect(stream.as_raw_fd(), &address) {
                Err(Errno::EINTR) => {}
                connected => return connected.map(|()| stream).map_err(io::Error::from),
            }
        }
    };
    connected().map_err(|error| gone(&error))
}

fn write(stream: &mut UnixStream, bytes: &[u8], until: Instant) -> Result<(), Broken> {
    stream.set_write_timeout(Some(left(until)?)).map_err(|error| gone(&error))?;
    stream.write_all(bytes).map_err(|error| gone(&error))
}

/// The bytes of the next frame.
fn receive(stream: &mut UnixStream, protocol: u32, until: Instant) -> io::Result<Bytes> {
    let mut prefix = [0; PREFIX];
    read_exact(stream, &mut prefix, until)?;
    let (length, longest) = (u32::from_be_bytes(prefix) as usize, frame::longest(protocol));
    if length > longest {
        let error = frame::FrameError::Length { length, longest };
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    let mut bytes = vec![0; length];
    read_exact(stream, &mut bytes, until)?;
    Ok(bytes.into())
}

/// `read_exact` against one deadline: a server that trickles bytes does not extend it.
fn read_exact(stream: &mut UnixStream, mut buffer: &mut [u8], until: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        let left = left(until).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        stream.set_read_timeout(Some(left))?;
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => buffer = &mut buffer[read..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
