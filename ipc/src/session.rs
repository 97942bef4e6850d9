//! The server's side of one connection: who the peer is, what it may call, and the calls it has in flight.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use prost::Message;
use tokio::task::{AbortHandle, JoinHandle};
use tracing::Instrument as _;
use tracing::instrument::Instrumented;

use crate::error::Fail;
use crate::frame::{self, Frame, FrameError, Hello, NO_CALL};
use crate::sink::{Credit, Sink};
use crate::stats::{Counters, Outcome};
use crate::transport::{Outgoing, Reader, Writer, lock, spawn_writer};
use crate::{ErrorCode, Identity, Interface, MAX_PAYLOAD, Method, PROTOCOL, Shape};

/// The first frame must come within 5 s of the connection: clients send it at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the words that explain a disconnection may take to be read.
const PARTING_TIMEOUT: Duration = Duration::from_secs(1);

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The client the supervisor bound this link for; `uid:1000` on a socket that any user may connect to.
    pub component: String,
    /// Effective uid when it connected, from the kernel.
    pub uid: u32,
    /// Process id when it connected: a hint for logs, not an identity.
    pub pid: u32,
    /// As its hello says.
    pub generation: u64,
}

/// What generated servers implement.
pub trait Service: Send + Sync + 'static {
    /// What it serves.
    fn interface(&self) -> &'static Interface;
    /// Decodes the request and returns the work, or says that it does not decode.
    ///
    /// The work may be dropped at any await point: at its deadline, when its caller cancels, when the peer is gone.
    fn handle(&self, call: Call) -> Result<Handling, Malformed>;
}

/// The work of one call.
pub type Handling = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// The last frame of a call.
#[derive(Debug)]
pub struct Answer {
    frame: Bytes,
    outcome: Outcome,
}

impl Answer {
    fn good(frame: Bytes) -> Self {
        Self { frame, outcome: Outcome::Answered }
    }
}

/// A request is not the message its method takes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

/// One call, as generated servers see it.
#[derive(Debug)]
pub struct Call {
    peer: Arc<Peer>,
    method: &'static Method,
    id: u64,
    payload: Bytes,
    outgoing: Outgoing,
    credit: Option<Credit>,
}

impl Call {
    /// Who calls.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Which method; always one of the service's interface.
    pub fn number(&self) -> u32 {
        self.method.number
    }

    /// The request. Taken once: what it was decoded from is then its own.
    pub fn request<T: Message + Default>(&mut self) -> Result<T, Malformed> {
        T::decode(std::mem::take(&mut self.payload)).map_err(|error| Malformed(error.to_string()))
    }

    /// For a number that is not in the interface, which the session has excluded.
    pub fn unknown(&self) -> Malformed {
        Malformed(format!("no method {}", self.method.number))
    }

    /// Where a stream's items go.
    pub fn sink<T: Message>(&self) -> Sink<T> {
        let credit = self.credit.clone().unwrap_or_else(Credit::full);
        Sink::new(self.id, self.outgoing.clone(), credit)
    }

    /// The answer of a unary method.
    pub fn reply<R: Message, E: ErrorCode>(&self, result: Result<R, Fail<E>>) -> Answer {
        match result {
            Ok(reply) if reply.encoded_len() > MAX_PAYLOAD => {
                let size = reply.encoded_len();
                tracing::error!(
                    method = self.method.name,
                    size,
                    limit = MAX_PAYLOAD,
                    "reply is too large to send"
                );
                let reason = format!("the reply of {size} bytes is larger than a frame may be");
                Answer { frame: frame::refused(self.id, &reason), outcome: Outcome::Failed }
            }
            Ok(reply) => Answer::good(frame::reply(self.id, &reply)),
            Err(fail) => self.fail(&fail),
        }
    }

    /// The end of a stream.
    pub fn end<E: ErrorCode>(&self, result: Result<(), Fail<E>>) -> Answer {
        match result {
            Ok(()) => Answer::good(frame::end(self.id)),
            Err(fail) => self.fail(&fail),
        }
    }

    fn fail<E: ErrorCode>(&self, fail: &Fail<E>) -> Answer {
        let frame = frame::failed(self.id, fail.code.into(), &fail.message);
        Answer { frame, outcome: Outcome::Failed }
    }
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The peer closed it.
    Closed,
    /// The socket failed.
    Io(io::Error),
    /// The peer broke a rule. The text is also what it is told.
    Violation { call: u64, rule: String },
}

/// A rule broken outside any call.
pub(crate) fn violation(rule: impl Into<String>) -> Ended {
    Ended::Violation { call: NO_CALL, rule: rule.into() }
}

fn in_call(call: u64, rule: impl Into<String>) -> Ended {
    Ended::Violation { call, rule: rule.into() }
}

/// What a session knows of its peer before the first frame.
pub(crate) struct Admitted {
    /// A link's client, whose hello must say the same; `None` where the uid is all we know.
    pub(crate) component: Option<String>,
    pub(crate) uid: u32,
    pub(crate) pid: u32,
    /// What it may call, and what it has.
    pub(crate) counters: Arc<Counters>,
}

/// Serves one connection until it ends. Calls in flight end with it.
pub(crate) async fn serve<S: Service>(
    service: &S,
    us: &Identity,
    mut reader: Reader,
    mut writer: Writer,
    admitted: Admitted,
) -> (Option<Arc<Peer>>, Ended) {
    let interface = service.interface();
    let hello = match tokio::time::timeout(HELLO_TIMEOUT, reader.next()).await {
        Ok(first) => accept_hello(first.map(|frame| frame.map(BytesMut::freeze)), interface, &admitted),
        Err(_) => Err(violation("no hello within 5 s")),
    };
    let hello = match hello {
        Ok(hello) => hello,
        Err(ended) => {
            refuse(&mut writer, &ended).await;
            return (None, ended);
        }
    };
    let peer = Arc::new(Peer {
        component: admitted.component.unwrap_or_else(|| format!("uid:{}", admitted.uid)),
        uid: admitted.uid,
        pid: admitted.pid,
        generation: hello.generation,
    });
    if let Err(error) = writer.send(frame::hello(interface.name, us)).await {
        return (Some(peer), Ended::Io(error));
    }
    tracing::debug!(
        peer = peer.component,
        uid = peer.uid,
        pid = peer.pid,
        generation = peer.generation,
        "peer connected"
    );
    let counters = admitted.counters;
    let sent = Arc::clone(&counters);
    let (outgoing, writer) = spawn_writer(writer, move |bytes| sent.sent(bytes));
    let mut session = Session {
        interface,
        peer: Arc::clone(&peer),
        calls: Arc::new(InFlight::new(interface, Arc::clone(&counters))),
        counters,
        outgoing,
        writer,
    };
    let ended = loop {
        let frame = match session.next_frame(&mut reader).await {
            Ok(frame) => frame,
            Err(ended) => break ended,
        };
        if let Err(ended) = session.accept(service, frame) {
            break ended;
        }
    };
    session.calls.abort_all();
    if let Ended::Violation { call, rule } = &ended {
        session.outgoing.push(frame::refused(*call, rule));
        let _ = tokio::time::timeout(PARTING_TIMEOUT, session.outgoing.flushed()).await;
    }
    (Some(peer), ended)
}

/// Tells a peer that never became one why, as far as it reads.
pub(crate) async fn refuse(writer: &mut Writer, ended: &Ended) {
    if let Ended::Violation { rule, .. } = ended {
        let _ = tokio::time::timeout(PARTING_TIMEOUT, writer.send(frame::refused(NO_CALL, rule))).await;
    }
}

fn accept_hello(
    first: Option<io::Result<Bytes>>,
    interface: &Interface,
    admitted: &Admitted,
) -> Result<Hello, Ended> {
    let frame = match first {
        None => return Err(Ended::Closed),
        Some(Err(error)) => return Err(broken_frame(error)),
        Some(Ok(frame)) => frame,
    };
    let Frame::Hello(hello) = Frame::decode(frame).map_err(|error| undecodable(&error))? else {
        return Err(violation("the first frame is no hello"));
    };
    if hello.protocol != PROTOCOL {
        return Err(violation(format!("protocol version {}, this server speaks {PROTOCOL}", hello.protocol)));
    }
    if hello.interface != interface.name {
        return Err(violation(format!("interface {}, this server has {}", hello.interface, interface.name)));
    }
    match &admitted.component {
        Some(component) if *component != hello.component => {
            Err(violation(format!("this link is for {component}, not for {}", hello.component)))
        }
        _ => Ok(hello),
    }
}

/// A codec error is the peer's doing (an over-long frame) or the socket's.
fn broken_frame(error: io::Error) -> Ended {
    if error.kind() == io::ErrorKind::InvalidData { violation(format!("{error}")) } else { Ended::Io(error) }
}

fn undecodable(error: &FrameError) -> Ended {
    violation(error.to_string())
}

struct Session {
    interface: &'static Interface,
    peer: Arc<Peer>,
    counters: Arc<Counters>,
    calls: Arc<InFlight>,
    outgoing: Outgoing,
    writer: JoinHandle<io::Result<()>>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.calls.abort_all();
        self.writer.abort();
    }
}

impl Session {
    /// Reads a frame once the peer has taken enough of what it asked for.
    async fn next_frame(&mut self, reader: &mut Reader) -> Result<Frame, Ended> {
        let next = async {
            self.outgoing.room().await;
            reader.next().await
        };
        let next = tokio::select! {
            biased;
            next = next => next,
            written = &mut self.writer => {
                return Err(match written {
                    Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => violation(error.to_string()),
                    Ok(Err(error)) => Ended::Io(error),
                    _ => Ended::Closed,
                });
            }
        };
        match next {
            None => Err(Ended::Closed),
            Some(Err(error)) => Err(broken_frame(error)),
            Some(Ok(frame)) => {
                self.counters.received(frame.len() + 4);
                Frame::decode(frame.freeze()).map_err(|error| undecodable(&error))
            }
        }
    }

    fn accept<S: Service>(&self, service: &S, frame: Frame) -> Result<(), Ended> {
        match frame {
            Frame::Request { call, method, deadline, payload } => {
                self.start(service, call, method, deadline, payload)
            }
            Frame::Cancel { call } => {
                self.calls.cancel(call);
                Ok(())
            }
            Frame::Credit { call, bytes } => self.calls.grant(call, bytes),
            _ => Err(violation("a frame only servers send")),
        }
    }

    fn start<S: Service>(
        &self,
        service: &S,
        call: u64,
        number: u32,
        deadline: Option<Duration>,
        payload: Bytes,
    ) -> Result<(), Ended> {
        let method = self
            .interface
            .by_number(number)
            .ok_or_else(|| in_call(call, format!("{} has no method {number}", self.interface.name)))?;
        if !self.counters.allows(method) {
            return Err(in_call(call, format!("{} may not call {}", self.peer.component, method.name)));
        }
        if payload.len() > method.max_request {
            let size = payload.len();
            return Err(in_call(
                call,
                format!("{} takes at most {} bytes, these are {size}", method.name, method.max_request),
            ));
        }
        self.calls.admit(call, method)?;
        self.counters.called(method);
        let began = Instant::now();
        let credit = (method.shape == Shape::Stream).then(Credit::full);
        let request = Call {
            peer: Arc::clone(&self.peer),
            method,
            id: call,
            payload,
            outgoing: self.outgoing.clone(),
            credit: credit.clone(),
        };
        let handling = service.handle(request).map_err(|malformed| {
            in_call(call, format!("request of {} does not decode: {malformed}", method.name))
        })?;
        let mut handling = handling.instrument(tracing::debug_span!(
            "call",
            peer = self.peer.component,
            method = method.name
        ));
        // Most unary calls have nothing to wait for: those are answered here, without a task, a timer or a place in the
        // table. The others are polled again by their task, which the waker given here stands in for.
        if credit.is_none()
            && let Poll::Ready(answer) = Pin::new(&mut handling).poll(&mut Context::from_waker(Waker::noop()))
        {
            self.counters.answered(began.elapsed());
            if answer.outcome == Outcome::Failed {
                self.counters.failed(method.index());
            }
            self.outgoing.push(answer.frame);
            return Ok(());
        }
        self.spawn(call, method, credit, deadline, began, handling);
        Ok(())
    }

    fn spawn(
        &self,
        call: u64,
        method: &Method,
        credit: Option<Credit>,
        deadline: Option<Duration>,
        began: Instant,
        handling: Instrumented<Handling>,
    ) {
        let index = method.index();
        let unary = credit.is_none();
        let calls = Arc::clone(&self.calls);
        let outgoing = self.outgoing.clone();
        let work = async move {
            let answer = match deadline {
                None => handling.await,
                Some(deadline) => match tokio::time::timeout(deadline, handling).await {
                    Ok(answer) => answer,
                    Err(_) => Answer { frame: frame::late(call), outcome: Outcome::Failed },
                },
            };
            // First out of the table, then answered: the peer may start its next call when it has the answer.
            calls.finish(call);
            if unary {
                calls.counters.answered(began.elapsed());
            }
            if answer.outcome == Outcome::Failed {
                calls.counters.failed(index);
            }
            outgoing.push(answer.frame);
        };
        self.calls.begin(call, method, credit, || tokio::spawn(work).abort_handle());
    }
}

/// The calls of one connection that have no answer yet.
struct InFlight {
    table: Mutex<Table>,
    counters: Arc<Counters>,
}

struct Table {
    calls: HashMap<u64, Running>,
    /// How many of each method, by its index.
    per_method: Vec<usize>,
}

struct Running {
    method: usize,
    task: AbortHandle,
    credit: Option<Credit>,
}

impl InFlight {
    fn new(interface: &Interface, counters: Arc<Counters>) -> Self {
        let table = Table { calls: HashMap::new(), per_method: vec![0; interface.methods.len()] };
        Self { table: Mutex::new(table), counters }
    }

    /// Whether the peer may have this call in flight. Only its own session adds calls, so the answer holds until then.
    fn admit(&self, call: u64, method: &Method) -> Result<(), Ended> {
        let table = lock(&self.table);
        if table.per_method[method.index()] >= method.at_once {
            return Err(in_call(
                call,
                format!("more than {} calls of {} at once", method.at_once, method.name),
            ));
        }
        if call == NO_CALL || table.calls.contains_key(&call) {
            return Err(in_call(call, format!("call number {call} is in use")));
        }
        Ok(())
    }

    /// Starts the work under the lock, so that a call is in the table before it can finish.
    fn begin(&self, call: u64, method: &Method, credit: Option<Credit>, spawn: impl FnOnce() -> AbortHandle) {
        let mut table = lock(&self.table);
        table.per_method[method.index()] += 1;
        table.calls.insert(call, Running { method: method.index(), task: spawn(), credit });
    }

    fn finish(&self, call: u64) -> Option<Running> {
        let mut table = lock(&self.table);
        let running = table.calls.remove(&call)?;
        table.per_method[running.method] -= 1;
        if let Some(credit) = &running.credit {
            credit.close();
        }
        Some(running)
    }

    /// A cancel of a call that has just been answered is no error.
    fn cancel(&self, call: u64) {
        if let Some(running) = self.finish(call) {
            self.counters.failed(running.method);
            running.task.abort();
        }
    }

    fn grant(&self, call: u64, bytes: u32) -> Result<(), Ended> {
        let table = lock(&self.table);
        match table.calls.get(&call) {
            // On its way while the stream ended.
            None => Ok(()),
            Some(Running { credit: Some(credit), .. }) if credit.grant(bytes) => Ok(()),
            Some(Running { credit: Some(_), .. }) => Err(in_call(call, "credit beyond the stream window")),
            Some(Running { credit: None, .. }) => Err(in_call(call, "credit for a call that is no stream")),
        }
    }

    fn abort_all(&self) {
        let calls = std::mem::take(&mut lock(&self.table).calls);
        for running in calls.into_values() {
            if let Some(credit) = &running.credit {
                credit.close();
            }
            running.task.abort();
        }
    }
}
