//! Calls from code that cannot wait asynchronously: rustls asks for a signature from within a handshake.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;

use crate::client::{LONGEST_DEADLINE, check_size, read_hello};
use crate::connection::Broken;
use crate::frame::{self, Frame, MAX_FRAME};
use crate::transport::lock;
use crate::{CallError, ErrorCode, Identity, Interface, Method, backoff};

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
    path: PathBuf,
    us: Identity,
    link: Mutex<Link>,
}

#[derive(Debug, Default)]
struct Link {
    /// Present when its last call ended in good order.
    stream: Option<UnixStream>,
    last_call: u64,
}

impl Channel {
    /// A channel to the server that listens at `path`; connects at the first call.
    pub fn new(path: impl Into<PathBuf>, us: Identity) -> Self {
        Self { inner: Arc::new(Inner { path: path.into(), us, link: Mutex::default() }) }
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
        check_size(method, request)?;
        let until = Instant::now() + deadline.min(LONGEST_DEADLINE);
        let mut link = lock(&self.inner.link);
        let mut failures = 0;
        loop {
            let trouble = match self.attempt(&mut link, interface, method, request, until) {
                Ok(reply) => {
                    return R::decode(reply).map_err(|error| CallError::Malformed(error.to_string()));
                }
                Err(Broken::Disconnected(reason)) => reason,
                Err(broken) => return Err(broken.into()),
            };
            failures += 1;
            let pause = backoff::wait(failures, fastrand::f64());
            if Instant::now() + pause >= until {
                return Err(CallError::Disconnected(format!("{}: {trouble}", self.inner.path.display())));
            }
            std::thread::sleep(pause);
        }
    }

    fn attempt(
        &self,
        link: &mut Link,
        interface: &'static Interface,
        method: &Method,
        request: &impl Message,
        until: Instant,
    ) -> Result<Bytes, Broken> {
        // Put back only after an answer: a stream that failed or timed out may still carry an old one.
        let mut stream = match link.stream.take() {
            Some(stream) => stream,
            None => self.connect(interface, until)?,
        };
        link.last_call += 1;
        let call = link.last_call;
        let left = remaining(until)?;
        send(&mut stream, &frame::request(call, method.number, Some(left), request), until)?;
        let (answer, usable) = match receive(&mut stream, until)? {
            Frame::Reply { call: of, payload } if of == call => (Ok(payload), true),
            Frame::Failed { call: of, code, message } if of == call => {
                (Err(Broken::Failed { code, message }), true)
            }
            Frame::Late { call: of } if of == call => (Err(Broken::Late), true),
            Frame::Refused { message, .. } => (Err(Broken::Refused(message)), false),
            _ => return Err(Broken::Disconnected("an answer to another call".to_owned())),
        };
        link.stream = usable.then_some(stream);
        answer
    }

    fn connect(&self, interface: &'static Interface, until: Instant) -> Result<UnixStream, Broken> {
        let mut stream = UnixStream::connect(&self.inner.path).map_err(|error| gone(&error))?;
        send(&mut stream, &frame::hello(interface.name, &self.inner.us), until)?;
        read_hello(Some(receive_bytes(&mut stream, until)), interface)?;
        Ok(stream)
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
fn remaining(until: Instant) -> Result<Duration, Broken> {
    Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero()).ok_or(Broken::Late)
}

fn send(stream: &mut UnixStream, frame: &Bytes, until: Instant) -> Result<(), Broken> {
    let length = u32::try_from(frame.len()).expect("a frame is at most MAX_FRAME bytes");
    let mut bytes = Vec::with_capacity(4 + frame.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(frame);
    stream.set_write_timeout(Some(remaining(until)?)).map_err(|error| gone(&error))?;
    stream.write_all(&bytes).map_err(|error| gone(&error))
}

fn receive(stream: &mut UnixStream, until: Instant) -> Result<Frame, Broken> {
    let bytes = receive_bytes(stream, until).map_err(|error| gone(&error))?;
    Frame::decode(bytes).map_err(|error| Broken::Disconnected(error.to_string()))
}

fn receive_bytes(stream: &mut UnixStream, until: Instant) -> io::Result<Bytes> {
    let mut prefix = [0; 4];
    read_exact(stream, &mut prefix, until)?;
    let length = u32::from_be_bytes(prefix) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("frame of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    read_exact(stream, &mut bytes, until)?;
    Ok(bytes.into())
}

/// `read_exact` against one deadline: a server that trickles bytes does not extend it.
fn read_exact(stream: &mut UnixStream, mut buffer: &mut [u8], until: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        let left = remaining(until).map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
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
