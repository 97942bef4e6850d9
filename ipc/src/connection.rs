//! The client's side of one connection: calls that wait for answers, and the task that hands the answers out.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::frame::{self, Frame, Hello};
use crate::transport::{Outgoing, Reader, Writer, lock, spawn_writer};
use crate::{CallError, ErrorCode, STREAM_WINDOW, item_cost};

/// How a call ended other than well, before the interface's error type is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Broken {
    Failed { code: i32, message: String },
    Refused(String),
    Late,
    Disconnected(String),
}

impl<E: ErrorCode> From<Broken> for CallError<E> {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Failed { code, message } => Self::failed(code, message),
            Broken::Refused(reason) => Self::Refused(reason),
            Broken::Late => Self::Deadline,
            Broken::Disconnected(reason) => Self::Disconnected(reason),
        }
    }
}

/// What a stream's reader is sent.
#[derive(Debug)]
pub(crate) enum Event {
    Item(Bytes),
    End,
    Broken(Broken),
}

/// An open connection whose hello is done. The socket closes when the last reference goes.
#[derive(Debug)]
pub(crate) struct Connection {
    outgoing: Outgoing,
    calls: Arc<Calls>,
}

/// Calls that wait for an answer, by call number.
#[derive(Debug, Default)]
struct Calls(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Set once, when the connection has ended.
    ended: Option<Broken>,
    calls: HashMap<u64, Waiter>,
}

#[derive(Debug)]
enum Waiter {
    Reply(oneshot::Sender<Result<Bytes, Broken>>),
    /// `window`: bytes the server may still send before it has our next credit.
    Stream {
        events: mpsc::UnboundedSender<Event>,
        window: u32,
    },
}

impl Connection {
    /// Takes over a connection after its hello.
    pub(crate) fn start(reader: Reader, writer: Writer, server: Hello) -> Self {
        let calls = Arc::new(Calls::default());
        let (outgoing, writer) = spawn_writer(writer, |_| {});
        tokio::spawn(read(reader, writer, Arc::clone(&calls), server));
        Self { outgoing, calls }
    }

    pub(crate) fn is_open(&self) -> bool {
        lock(&self.calls.0).ended.is_none()
    }

    fn ended(&self) -> Broken {
        let ended = lock(&self.calls.0).ended.clone();
        ended.unwrap_or_else(|| Broken::Disconnected("the connection ended".to_owned()))
    }

    /// Registers the call, then sends its request: an answer always finds its waiter.
    fn begin(&self, call: u64, waiter: Waiter, request: Bytes) -> Result<(), Broken> {
        {
            let mut waiting = lock(&self.calls.0);
            if let Some(broken) = &waiting.ended {
                return Err(broken.clone());
            }
            waiting.calls.insert(call, waiter);
        }
        self.outgoing.push(request);
        Ok(())
    }

    pub(crate) async fn unary(self: &Arc<Self>, call: u64, request: Bytes) -> Result<Bytes, Broken> {
        let (sender, answer) = oneshot::channel();
        self.begin(call, Waiter::Reply(sender), request)?;
        let _open = OpenCall { connection: Arc::clone(self), call };
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(self.ended()),
        }
    }

    pub(crate) fn stream(self: Arc<Self>, call: u64, request: Bytes) -> Result<Incoming, Broken> {
        let (sender, events) = mpsc::unbounded_channel();
        self.begin(call, Waiter::Stream { events: sender, window: STREAM_WINDOW }, request)?;
        Ok(Incoming { open: OpenCall { connection: self, call }, events, owed: 0 })
    }
}

/// A call the server may still be working on: dropped before its answer came, it is cancelled.
#[derive(Debug)]
struct OpenCall {
    connection: Arc<Connection>,
    call: u64,
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let waiter = lock(&self.connection.calls.0).calls.remove(&self.call);
        if waiter.is_some() {
            self.connection.outgoing.push(frame::cancel(self.call));
        }
    }
}

/// The events of one stream, with the credit for them.
#[derive(Debug)]
pub(crate) struct Incoming {
    open: OpenCall,
    events: mpsc::UnboundedReceiver<Event>,
    /// Window bytes consumed and not yet granted again.
    owed: u32,
}

impl Incoming {
    pub(crate) fn poll_next(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Event> {
        self.events.poll_recv(cx).map(|event| match event {
            Some(Event::Item(payload)) => {
                self.consumed(payload.len());
                Event::Item(payload)
            }
            Some(event) => event,
            None => Event::Broken(match self.open.connection.ended() {
                // Nothing of this stream is to be repeated by us, whatever ended the connection.
                Broken::Failed { message, .. } => Broken::Disconnected(message),
                broken => broken,
            }),
        })
    }

    /// Grants credit in batches of half a window: one small frame per many items.
    fn consumed(&mut self, payload: usize) {
        self.owed += item_cost(payload);
        if self.owed < STREAM_WINDOW / 2 {
            return;
        }
        let connection = &self.open.connection;
        if let Some(Waiter::Stream { window, .. }) = lock(&connection.calls.0).calls.get_mut(&self.open.call)
        {
            *window += self.owed;
            connection.outgoing.push(frame::credit(self.open.call, self.owed));
        }
        self.owed = 0;
    }
}

async fn read(mut reader: Reader, mut writer: JoinHandle<io::Result<()>>, calls: Arc<Calls>, server: Hello) {
    let mut open = true;
    let ended = loop {
        let next = tokio::select! {
            biased;
            next = reader.next() => next,
            written = &mut writer, if open => {
                open = false;
                match written {
                    // The server has closed. Its parting words, if any, are still to be read.
                    Ok(Err(error)) if error.kind() != io::ErrorKind::TimedOut => continue,
                    Ok(Err(error)) => break Broken::Disconnected(format!("{}: {error}", server.component)),
                    // The last handle on the connection is gone.
                    _ => break Broken::Disconnected("closed".to_owned()),
                }
            }
        };
        let frame = match next {
            None => break Broken::Disconnected(format!("{} closed the connection", server.component)),
            Some(Err(error)) => break Broken::Disconnected(format!("{}: {error}", server.component)),
            Some(Ok(bytes)) => bytes.freeze(),
        };
        match Frame::decode(frame).map_err(|error| error.to_string()).and_then(|frame| calls.deliver(frame)) {
            Ok(None) => {}
            Ok(Some(refused)) => break refused,
            Err(violation) => {
                tracing::warn!(
                    server = server.component,
                    generation = server.generation,
                    violation,
                    "server broke the protocol"
                );
                break Broken::Disconnected(format!("{} broke the protocol: {violation}", server.component));
            }
        }
    };
    writer.abort();
    let mut waiting = lock(&calls.0);
    waiting.ended = Some(ended);
    // Dropping the waiters wakes their callers, who then read `ended`.
    waiting.calls.clear();
}

impl Calls {
    /// Hands an answer to its caller. `Some` ends the connection: the server refused all of it.
    ///
    /// An answer nobody waits for is not an error: its caller gave up while it was on its way.
    fn deliver(&self, frame: Frame) -> Result<Option<Broken>, String> {
        let (call, answer) = match frame {
            Frame::Item { call, payload } => return self.item(call, payload).map(|()| None),
            Frame::Reply { call, payload } => (call, Ok(Some(payload))),
            Frame::End { call } => (call, Ok(None)),
            Frame::Failed { call, code, message } => (call, Err(Broken::Failed { code, message })),
            Frame::Refused { call: frame::NO_CALL, message } => return Ok(Some(Broken::Refused(message))),
            Frame::Refused { call, message } => (call, Err(Broken::Refused(message))),
            Frame::Late { call } => (call, Err(Broken::Late)),
            Frame::Hello(_) | Frame::Request { .. } | Frame::Credit { .. } | Frame::Cancel { .. } => {
                return Err("a frame only clients send".to_owned());
            }
        };
        let Some(waiter) = lock(&self.0).calls.remove(&call) else { return Ok(None) };
        match (waiter, answer) {
            (Waiter::Reply(sender), Ok(Some(payload))) => drop(sender.send(Ok(payload))),
            (Waiter::Reply(sender), Err(broken)) => drop(sender.send(Err(broken))),
            (Waiter::Stream { events, .. }, Ok(None)) => drop(events.send(Event::End)),
            (Waiter::Stream { events, .. }, Err(broken)) => drop(events.send(Event::Broken(broken))),
            (Waiter::Reply(_), Ok(None)) => return Err("end of a call that is no stream".to_owned()),
            (Waiter::Stream { .. }, Ok(Some(_))) => return Err("reply to a stream".to_owned()),
        }
        Ok(None)
    }

    fn item(&self, call: u64, payload: Bytes) -> Result<(), String> {
        match lock(&self.0).calls.get_mut(&call) {
            None => Ok(()),
            Some(Waiter::Reply(_)) => Err("item of a call that is no stream".to_owned()),
            Some(Waiter::Stream { events, window }) => {
                *window =
                    window.checked_sub(item_cost(payload.len())).ok_or("item beyond the stream's credit")?;
                // The receiver is only gone while its drop is about to remove this waiter.
                let _ = events.send(Event::Item(payload));
                Ok(())
            }
        }
    }
}
