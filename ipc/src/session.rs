//! The server's side of one connection: who the peer is, what it may call, and the calls it has in flight.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use prost::Message;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument as _;

use crate::deadline::Within;
use crate::error::Fail;
use crate::frame::{self, Frame, FrameError, Head, Hello, Kind, NO_CALL, Payload, Piece};
use crate::inbox::{Inbox, Taken};
use crate::parts::Assembly;
use crate::sink::{Credit, Sink};
use crate::stats::{Counters, Outcome};
use crate::table::Table;
use crate::throttle::Throttle;
use crate::transport::{Line, PARTING_TIMEOUT, Stall, Writer};
use crate::{ErrorCode, Identity, Interface, MAX_PAYLOAD, Method, Shape};

/// The first frame must come within 5 s of the connection: clients send it at once.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// Of its software, as its hello says; empty when it says none.
    pub version: String,
}

/// What generated servers implement.
pub trait Service: Send + Sync + 'static {
    /// What it serves.
    fn interface(&self) -> &'static Interface;
    /// Decodes the request and returns the work, or says that it does not decode.
    ///
    /// The work may be dropped at any await point: at its deadline, when its caller cancels, when the peer is gone.
    fn handle(&self, call: Call, request: Request<'_>) -> Result<Handling, Malformed>;
}

/// The work of one call.
pub type Handling = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A call was answered.
#[derive(Debug)]
pub struct Answer(Outcome);

/// A request is not the message its method takes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

/// An encoded request.
#[derive(Debug)]
pub struct Request<'a>(Payload<'a>);

impl Request<'_> {
    /// Decodes it; `bytes` fields of a large one are slices of what was read.
    pub fn decode<T: Message + Default>(self) -> Result<T, Malformed> {
        self.0.decode().map_err(|error| Malformed(error.to_string()))
    }
}

/// What the tasks of one connection share.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) line: Line<Table>,
    peer: Peer,
    interface: &'static Interface,
    counters: Arc<Counters>,
    throttle: Throttle,
}

/// One call, as generated servers see it.
#[derive(Debug)]
pub struct Call {
    serving: Arc<Serving>,
    method: &'static Method,
    id: u64,
    credit: Option<Credit>,
}

impl Call {
    /// Who calls.
    pub fn peer(&self) -> &Peer {
        &self.serving.peer
    }

    /// Which method; always one of the service's interface.
    pub fn number(&self) -> u32 {
        self.method.number
    }

    /// For a number that is not in the interface, which the session has excluded.
    pub fn unknown(&self) -> Malformed {
        Malformed(format!("no method {}", self.method.number))
    }

    /// Where a stream's items go.
    pub fn sink<T: Message>(&self) -> Sink<T> {
        let credit = self.credit.clone().unwrap_or_else(Credit::full);
        Sink::new(self.id, Arc::clone(&self.serving), credit)
    }

    /// Answers a unary method, once less than [`crate::WRITE_QUEUE`] waits for the peer.
    pub async fn reply<R: Message, E: ErrorCode>(&self, result: Result<R, Fail<E>>) -> Answer {
        let reply = match result {
            Ok(reply) => reply,
            Err(fail) => return self.fail(&fail),
        };
        let size = reply.encoded_len();
        if size > MAX_PAYLOAD {
            tracing::error!(
                method = self.method.name,
                size,
                limit = MAX_PAYLOAD,
                "reply is too large to send"
            );
            let reason = format!("the reply of {size} bytes is larger than a message may be");
            return self.answer(Outcome::Failed, |out| frame::refused(out, self.id, &reason));
        }
        let head = Head::of(Kind::Reply, self.id);
        // First out of the table, then answered: the peer may start its next call when it has the answer.
        let send = |state: &mut crate::transport::State<Table>| {
            state.calls.finish(self.id);
            state.outbox.message(head, size, &reply);
        };
        self.serving.line.push_with_room(size, send).await;
        Answer(Outcome::Answered)
    }

    /// Ends a stream.
    pub fn end<E: ErrorCode>(&self, result: Result<(), Fail<E>>) -> Answer {
        match result {
            Ok(()) => self.answer(Outcome::Answered, |out| frame::end(out, self.id)),
            Err(fail) => self.fail(&fail),
        }
    }

    fn fail<E: ErrorCode>(&self, fail: &Fail<E>) -> Answer {
        let code = fail.code.into();
        self.answer(Outcome::Failed, |out| frame::failed(out, self.id, code, &fail.message))
    }

    fn answer(&self, outcome: Outcome, write: impl FnOnce(&mut Vec<u8>)) -> Answer {
        if self.credit.as_ref().is_some_and(Credit::is_closed) {
            // Broken off or cancelled, and counted then: that was the last word.
            return Answer(Outcome::Answered);
        }
        self.serving.answer(self.id, write);
        Answer(outcome)
    }
}

impl Serving {
    fn answer(&self, call: u64, write: impl FnOnce(&mut Vec<u8>)) {
        self.line.push(|state| {
            state.calls.finish(call);
            state.outbox.frame(call, write);
        });
    }

    fn count(&self, method: &Method, outcome: Outcome, took: Duration) {
        if method.shape == Shape::Unary {
            self.counters.answered(took);
        }
        if outcome == Outcome::Failed {
            self.counters.failed(method.index());
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The peer closed it.
    Closed,
    /// The socket failed.
    Io(io::Error),
    /// The peer takes nothing: it hangs, or is stopped. No rule is broken, and nothing can be told.
    Stalled(String),
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
    mut inbox: Inbox,
    mut writer: Writer,
    admitted: Admitted,
) -> (Option<Peer>, Ended) {
    let interface = service.interface();
    let accepted = match timeout(HELLO_TIMEOUT, inbox.next()).await {
        Ok(first) => accept_hello(first, interface, us, &admitted),
        Err(_) => Err(violation("no hello within 5 s")),
    };
    let (hello, protocol) = match accepted {
        Ok(accepted) => accepted,
        Err(ended) => {
            refuse(&mut writer, &ended).await;
            return (None, ended);
        }
    };
    let peer = Peer {
        component: admitted.component.unwrap_or_else(|| format!("uid:{}", admitted.uid)),
        uid: admitted.uid,
        pid: admitted.pid,
        generation: hello.generation,
        version: hello.version,
    };
    if let Err(error) = writer.send(&frame::hello(&Hello::new(interface, us))).await {
        return (Some(peer), Ended::Io(error));
    }
    tracing::debug!(
        peer = peer.component,
        uid = peer.uid,
        pid = peer.pid,
        generation = peer.generation,
        version = peer.version,
        protocol,
        "peer connected"
    );
    inbox.speak(protocol);
    let line = Line::new(writer.into_outbox(protocol), Table::new(interface));
    let serving = Arc::new(Serving {
        line,
        peer,
        interface,
        counters: admitted.counters,
        throttle: Throttle::default(),
    });
    let mut session = Session {
        us,
        serving: Arc::clone(&serving),
        inbox,
        arriving: Assembly::default(),
        stall: Stall::default(),
        sent: 0,
        now: Instant::now(),
    };
    let ended = session.run(service).await;
    session.end(&ended).await;
    (Some(serving.peer.clone()), ended)
}

/// Tells a peer that never became one why, as far as it reads.
pub(crate) async fn refuse(writer: &mut Writer, ended: &Ended) {
    if let Ended::Violation { rule, .. } = ended {
        let mut words = Vec::new();
        frame::refused(&mut words, NO_CALL, rule);
        let _ = timeout(PARTING_TIMEOUT, writer.send(&words)).await;
    }
}

/// Judges a peer's first frame; also says which protocol to go on in.
fn accept_hello(
    first: Option<io::Result<Taken<'_>>>,
    interface: &Interface,
    us: &Identity,
    admitted: &Admitted,
) -> Result<(Hello, u32), Ended> {
    let frame = match first {
        None => return Err(Ended::Closed),
        Some(Err(error)) => return Err(broken_frame(error)),
        Some(Ok(frame)) => frame,
    };
    let Frame::Hello(hello) = frame.parse().map_err(|error| undecodable(&error))? else {
        return Err(violation("the first frame is no hello"));
    };
    let protocol = hello.negotiate(us).map_err(violation)?;
    if hello.interface != interface.name {
        return Err(violation(format!("interface {}, this server has {}", hello.interface, interface.name)));
    }
    match &admitted.component {
        Some(component) if *component != hello.component => {
            Err(violation(format!("this link is for {component}, not for {}", hello.component)))
        }
        _ => Ok((hello, protocol)),
    }
}

/// A frame's length is the peer's doing, the rest the socket's.
fn broken_frame(error: io::Error) -> Ended {
    if error.kind() == io::ErrorKind::InvalidData { violation(error.to_string()) } else { Ended::Io(error) }
}

fn undecodable(error: &FrameError) -> Ended {
    violation(error.to_string())
}

struct Session<'a> {
    us: &'a Identity,
    serving: Arc<Serving>,
    inbox: Inbox,
    /// Requests that arrive in parts. `None`: one of a method we do not have, whose call is answered already.
    arriving: Assembly<Option<Begun>>,
    stall: Stall,
    /// Bytes written, as far as they are counted.
    sent: u64,
    /// When the clock was last read: what happens between two reads of the socket has one look at it per call.
    now: Instant,
}

/// A call whose request is allowed.
#[derive(Debug, Clone, Copy)]
struct Begun {
    method: &'static Method,
    began: Instant,
    until: Option<Instant>,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.serving.line.with(|state| state.calls.cancel_all(&self.serving.counters));
        self.serving.line.close();
    }
}

impl Session<'_> {
    async fn run<S: Service>(&mut self, service: &S) -> Ended {
        loop {
            self.now = Instant::now();
            if let Err(ended) = self.frames(service) {
                return ended;
            }
            if let Err(ended) = poll_fn(|cx| self.poll_io(cx)).await {
                return ended;
            }
        }
    }

    /// Ends all calls, and tells a peer that broke a rule which.
    async fn end(&mut self, ended: &Ended) {
        self.serving.line.with(|state| state.calls.cancel_all(&self.serving.counters));
        if let Ended::Violation { call, rule } = ended {
            self.serving.line.push(|state| state.outbox.frame(*call, |out| frame::refused(out, *call, rule)));
            let _ = timeout(PARTING_TIMEOUT, self.serving.line.flushed()).await;
        }
    }

    /// Writes, and reads once the peer has taken enough of what it asked for. Ready when there may be frames.
    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let line = &self.serving.line;
        if !line.is_settled() {
            let (flushed, sent) = line.poll_flush(cx);
            if sent != self.sent {
                self.serving.counters.sent(sent - std::mem::replace(&mut self.sent, sent));
            }
            if let Poll::Ready(Err(error)) = flushed {
                return Poll::Ready(Err(Ended::Io(error)));
            }
            if let Poll::Ready(stalled) = self.stall.poll(flushed.is_ready(), sent, cx) {
                return Poll::Ready(Err(Ended::Stalled(stalled)));
            }
        }
        if !line.has_room() {
            return Poll::Pending;
        }
        if self.inbox.has_frame() {
            return Poll::Ready(Ok(()));
        }
        self.inbox.poll_fill(cx).map(|read| match read {
            Ok(0) => Err(Ended::Closed),
            Ok(bytes) => {
                self.serving.counters.received(bytes);
                Ok(())
            }
            Err(error) => Err(Ended::Io(error)),
        })
    }

    /// Acts on what has been read, as long as the peer takes its answers.
    fn frames<S: Service>(&mut self, service: &S) -> Result<(), Ended> {
        let Self { us, serving, inbox, arriving, now, .. } = self;
        while serving.line.has_room() {
            let Some(taken) = inbox.take().map_err(|error| undecodable(&error))? else { break };
            match taken.parse().map_err(|error| undecodable(&error))? {
                Frame::Request { call, method, deadline, message } => {
                    let begun = serving.begin(us, call, method, deadline, *now, message)?;
                    let whole = arriving.take(call, message, begun).map_err(|rule| in_call(call, rule))?;
                    if let Some((Some(begun), payload)) = whole {
                        *now = serving.start(service, call, begun, payload)?;
                    }
                }
                Frame::Part { call, payload } => {
                    let whole = arriving.add(call, payload).map_err(|rule| in_call(call, rule))?;
                    if let Some((Some(begun), bytes)) = whole {
                        *now = serving.start(service, call, begun, Payload::whole(&bytes))?;
                    }
                }
                Frame::Cancel { call } => {
                    arriving.cancel(call);
                    serving.cancel(call);
                }
                Frame::Credit { call, bytes } => {
                    let granted = serving.line.lock().calls.grant(call, bytes);
                    granted.map_err(|rule| in_call(call, rule))?;
                }
                _ => return Err(violation("a frame only servers send")),
            }
        }
        Ok(())
    }
}

impl Serving {
    /// Judges a request by all but its contents; `None` when it is answered already, with a refusal.
    fn begin(
        &self,
        us: &Identity,
        call: u64,
        number: u32,
        deadline: Option<Duration>,
        now: Instant,
        message: Piece<'_>,
    ) -> Result<Option<Begun>, Ended> {
        let Some(method) = self.interface.by_number(number) else {
            let rule = format!(
                "{} {} has no method {number}: its {} ends at {}",
                us.component,
                us.version,
                self.interface.name,
                self.interface.revision()
            );
            if number == 0 {
                return Err(in_call(call, rule));
            }
            // A newer client's: it may go on with the methods that both know.
            self.counters.refused(&rule);
            if let Some(left_out) = self.throttle.admit(now.into_std()) {
                let Peer { component, version, .. } = &self.peer;
                tracing::warn!(
                    server = us.component,
                    peer = component,
                    version,
                    rule,
                    left_out,
                    "refused a call"
                );
            }
            self.answer(call, |out| frame::refused(out, call, &rule));
            return Ok(None);
        };
        if !self.counters.allows(method) {
            return Err(in_call(call, format!("{} may not call {}", self.peer.component, method.name)));
        }
        let size = message.total.unwrap_or(message.payload.len());
        if size > method.max_request {
            let (name, limit) = (method.name, method.max_request);
            return Err(in_call(call, format!("{name} takes at most {limit} bytes, these are {size}")));
        }
        self.line.with(|state| {
            // This is the connection's task: it writes before it sleeps.
            state.outbox.awake();
            state.calls.admit(call, method, size).map_err(|rule| in_call(call, rule))?;
            if message.total.is_some() {
                state.calls.begin(call, method, size);
            }
            Ok(())
        })?;
        self.counters.called(method);
        let until = deadline.and_then(|deadline| now.checked_add(deadline));
        Ok(Some(Begun { method, began: now, until }))
    }

    /// Starts the work of a call, and returns the time.
    fn start<S: Service>(
        self: &Arc<Self>,
        service: &S,
        call: u64,
        begun: Begun,
        payload: Payload<'_>,
    ) -> Result<Instant, Ended> {
        let Begun { method, began, until } = begun;
        let size = payload.len();
        let credit = (method.shape == Shape::Stream).then(Credit::full);
        let request = Call { serving: Arc::clone(self), method, id: call, credit: credit.clone() };
        let handling = service.handle(request, Request(payload)).map_err(|malformed| {
            in_call(call, format!("request of {} does not decode: {malformed}", method.name))
        })?;
        let span = tracing::debug_span!("call", peer = self.peer.component, method = method.name);
        let mut handling = Within { until, handling: handling.instrument(span) };
        // Most unary calls have nothing to wait for: those are answered here, without a task, a timer or a place in the
        // table. The others are polled again by their task, which the waker given here stands in for.
        if credit.is_none()
            && let Poll::Ready(Answer(outcome)) =
                Pin::new(&mut handling).poll(&mut Context::from_waker(Waker::noop()))
        {
            let now = Instant::now();
            self.count(method, outcome, now - began);
            return Ok(now);
        }
        let serving = Arc::clone(self);
        let work = async move {
            let outcome = match until {
                None => handling.await.0,
                Some(until) => timeout_at(until, handling).await.map_or_else(
                    |_| {
                        serving.answer(call, |out| frame::late(out, call));
                        Outcome::Failed
                    },
                    |answer| answer.0,
                ),
            };
            serving.count(method, outcome, began.elapsed());
        };
        let mut state = self.line.lock();
        if !state.calls.has(call) {
            state.calls.begin(call, method, size);
        }
        // Under the lock, so that a call is in the table before it can finish.
        state.calls.working(call, tokio::spawn(work).abort_handle(), credit);
        Ok(began)
    }

    /// Ends a stream whose handler is at work: its reader is told why, and nothing more.
    pub(crate) fn break_off(&self, call: u64, credit: &Credit, reason: &str) {
        let ended = self.line.push(|state| {
            // The number may be another call's by now.
            if credit.is_closed() {
                return None;
            }
            let ended = state.calls.cancel(call);
            state.outbox.frame(call, |out| frame::refused(out, call, reason));
            ended
        });
        credit.close();
        if let Some(method) = ended {
            self.counters.failed(method);
        }
    }

    fn cancel(&self, call: u64) {
        let cancelled = self.line.with(|state| {
            state.outbox.forget(call);
            state.calls.cancel(call)
        });
        if let Some(method) = cancelled {
            self.counters.failed(method);
        }
    }
}
