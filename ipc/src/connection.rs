//! The client's side of one connection: calls that wait for answers, and the task that hands the answers out.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::hash::{BuildHasherDefault, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use prost::Message;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::frame::{self, Frame, Head, Hello, Piece};
use crate::inbox::Inbox;
use crate::parts::Assembly;
use crate::throttle::Throttle;
use crate::transport::{Line, PARTING_TIMEOUT, Stall, Writer};
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

/// What a stream's reader is given.
#[derive(Debug)]
pub(crate) enum Event {
    Item(Bytes),
    End,
    Broken(Broken),
}

/// An open connection whose hello is done. The socket closes when the last reference goes.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    /// As its hello says.
    pub(crate) server: Hello,
}

#[derive(Debug)]
struct Shared {
    line: Line<Waiting>,
    open: AtomicBool,
}

/// Calls that wait for an answer.
#[derive(Debug, Default)]
struct Waiting {
    /// Set once, when the connection has ended.
    ended: Option<Broken>,
    /// Nobody can call any more: the task ends when everything is written.
    unused: bool,
    /// Answers that arrive in parts; whether each is a stream's item.
    arriving: Assembly<bool>,
    /// What the connection's timer is, or is to be, set to: not later than any call's deadline.
    alarm: Option<Instant>,
    throttle: Throttle,
    calls: HashMap<u64, Waiter, BuildHasherDefault<CallHasher>>,
}

/// For our own call numbers, which nobody can choose to collide.
#[derive(Debug, Default)]
struct CallHasher(u64);

impl Hasher for CallHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing; both the low and the high bits are used.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

#[derive(Debug)]
struct Waiter {
    task: Option<Waker>,
    /// When its caller gives up. One timer of the connection serves all calls.
    until: Option<Instant>,
    wants: Wants,
}

#[derive(Debug)]
enum Wants {
    Reply(Option<Result<Bytes, Broken>>),
    /// `window`: bytes the server may still send before it has our next credit.
    Stream {
        items: VecDeque<Bytes>,
        window: u32,
        end: Option<Event>,
    },
}

impl Connection {
    /// Takes over a connection after its hello. `names` says who talks to whom, for people.
    pub(crate) fn start(
        mut inbox: Inbox,
        writer: Writer,
        server: Hello,
        protocol: u32,
        names: String,
    ) -> Self {
        inbox.speak(protocol);
        let line = Line::new(writer.into_outbox(protocol), Waiting::default());
        let shared = Arc::new(Shared { line, open: AtomicBool::new(true) });
        let line = Arc::clone(&shared);
        let task = Task { shared: line, inbox, timer: None, parting: None, stall: Stall::default(), names };
        tokio::spawn(task.run());
        Self { shared, server }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Whether the server takes what it is sent. Slots bound the calls in flight, but one that is given up leaves its
    /// request in the queue.
    pub(crate) fn has_room(&self) -> bool {
        self.shared.line.takes(0)
    }

    /// Waits until it does, or the connection has ended.
    pub(crate) async fn room(&self) {
        self.shared.line.room(0).await;
    }

    /// Registers the call and sends its request: an answer always finds its waiter.
    fn begin(&self, head: Head, size: usize, request: &impl Message, waiter: Waiter) -> Result<(), Broken> {
        self.shared.line.with(|state| {
            let calls = &mut state.calls;
            if let Some(broken) = &calls.ended {
                return Err(broken.clone());
            }
            let alarm = calls.alarm;
            if let Some(until) = waiter.until
                && alarm.is_none_or(|alarm| until < alarm)
            {
                calls.alarm = Some(until);
            }
            calls.calls.insert(head.call, waiter);
            state.outbox.message(head, size, request);
            // A call that is alone leaves at once: there is nothing it could leave together with. Others wait for the
            // task's turn, after those who call now. The timer is the task's, also while it waits for the socket.
            if calls.alarm != alarm {
                state.outbox.rouse();
            } else if calls.calls.len() == 1 {
                state.outbox.hurry();
            } else {
                state.outbox.wake();
            }
            Ok(())
        })
    }

    /// Waits for the answer, until then at most. `size` is the request's encoded length.
    pub(crate) async fn unary(
        self: &Arc<Self>,
        head: Head,
        size: usize,
        request: &impl Message,
        until: Instant,
    ) -> Result<Bytes, Broken> {
        let mut open = None;
        poll_fn(|cx| match &mut open {
            None => {
                let task = Some(cx.waker().clone());
                let waiter = Waiter { task, until: Some(until), wants: Wants::Reply(None) };
                if let Err(broken) = self.begin(head, size, request, waiter) {
                    return Poll::Ready(Err(broken));
                }
                open = Some(OpenCall { connection: Arc::clone(self), call: head.call, over: false });
                Poll::Pending
            }
            Some(open) => open.poll_reply(cx),
        })
        .await
    }

    pub(crate) fn stream(
        self: Arc<Self>,
        head: Head,
        size: usize,
        request: &impl Message,
    ) -> Result<Incoming, Broken> {
        let wants = Wants::Stream { items: VecDeque::new(), window: STREAM_WINDOW, end: None };
        self.begin(head, size, request, Waiter { task: None, until: None, wants })?;
        let open = OpenCall { connection: self, call: head.call, over: false };
        Ok(Incoming { open, taken: VecDeque::new(), owed: 0 })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.line.push(|state| state.calls.unused = true);
    }
}

/// A call the server may still be working on: dropped before its answer came, it is cancelled.
#[derive(Debug)]
struct OpenCall {
    connection: Arc<Connection>,
    call: u64,
    /// Its answer was taken.
    over: bool,
}

impl OpenCall {
    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Broken>> {
        let mut state = self.connection.shared.line.lock();
        let Waiting { ended, calls, .. } = &mut state.calls;
        if let Some(waiter) = calls.get_mut(&self.call) {
            if let Wants::Reply(answer) = &mut waiter.wants
                && let Some(answer) = answer.take()
            {
                calls.remove(&self.call);
                self.over = true;
                return Poll::Ready(answer);
            }
            if ended.is_none() {
                if waiter.until.is_none() {
                    // The alarm was for this call. It is cancelled as it is dropped.
                    return Poll::Ready(Err(Broken::Late));
                }
                waiter.task = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(Err(over(ended.as_ref())))
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.connection.shared.line.push(|state| {
            let Some(waiter) = state.calls.calls.remove(&self.call) else { return };
            state.calls.arriving.cancel(self.call);
            let answered = match waiter.wants {
                Wants::Reply(answer) => answer.is_some(),
                Wants::Stream { end, .. } => end.is_some(),
            };
            // A request of which nothing has left needs no cancel.
            if !state.outbox.forget(self.call) && !answered {
                state.outbox.frame(self.call, |out| frame::cancel(out, self.call));
            }
        });
    }
}

fn over(ended: Option<&Broken>) -> Broken {
    ended.cloned().unwrap_or_else(|| Broken::Disconnected("the connection ended".to_owned()))
}

/// The events of one stream, with the credit for them.
#[derive(Debug)]
pub(crate) struct Incoming {
    open: OpenCall,
    /// Items that came and are not consumed: taken together, so that a burst costs one look under the lock.
    taken: VecDeque<Bytes>,
    /// Window bytes consumed and not yet granted again.
    owed: u32,
}

impl Incoming {
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.taken.is_empty()
            && let Some(event) = std::task::ready!(self.poll_taken(cx))
        {
            return Poll::Ready(event);
        }
        let item = self.taken.pop_front().expect("there is one: it was just looked");
        self.consumed(item.len());
        Poll::Ready(Event::Item(item))
    }

    /// Takes the items there are; an event, when there are none but an end.
    fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let call = self.open.call;
        let mut state = self.open.connection.shared.line.lock();
        let Waiting { ended, calls, .. } = &mut state.calls;
        if let Some(waiter) = calls.get_mut(&call)
            && let Wants::Stream { items, end, .. } = &mut waiter.wants
        {
            if !items.is_empty() {
                std::mem::swap(items, &mut self.taken);
                return Poll::Ready(None);
            }
            if let Some(end) = end.take() {
                calls.remove(&call);
                return Poll::Ready(Some(end));
            }
            if ended.is_none() {
                waiter.task = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(Some(Event::Broken(match over(ended.as_ref()) {
            // Nothing of this stream is to be repeated by us, whatever ended the connection.
            Broken::Failed { message, .. } => Broken::Disconnected(message),
            broken => broken,
        })))
    }

    /// Grants credit in batches of half a window: one small frame per many items.
    fn consumed(&mut self, payload: usize) {
        self.owed += item_cost(payload);
        if self.owed < STREAM_WINDOW / 2 {
            return;
        }
        let (call, owed) = (self.open.call, std::mem::take(&mut self.owed));
        self.open.connection.shared.line.push(|state| {
            if let Some(waiter) = state.calls.calls.get_mut(&call)
                && let Wants::Stream { window, end: None, .. } = &mut waiter.wants
            {
                *window += owed;
                state.outbox.frame(call, |out| frame::credit(out, call, owed));
            }
        });
    }
}

/// What reads and writes one connection.
struct Task {
    shared: Arc<Shared>,
    inbox: Inbox,
    timer: Option<Pin<Box<Sleep>>>,
    /// Runs since the server was found to take nothing more.
    parting: Option<Pin<Box<Sleep>>>,
    stall: Stall,
    names: String,
}

impl Task {
    async fn run(mut self) {
        let ended = loop {
            if let Err(ended) = self.frames() {
                break ended;
            }
            if let Err(reason) = poll_fn(|cx| self.poll_io(cx)).await {
                break Broken::Disconnected(format!("{}: {reason}", self.names));
            }
        };
        self.shared.open.store(false, Ordering::Relaxed);
        self.shared.line.close();
        let mut state = self.shared.line.lock();
        state.calls.ended = Some(ended);
        let tasks: Vec<_> = state.calls.calls.values_mut().filter_map(|waiter| waiter.task.take()).collect();
        drop(state);
        tasks.into_iter().for_each(Waker::wake);
    }

    /// Writes and reads. Ready when there may be frames.
    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), String>> {
        let Self { shared, inbox, timer, parting, stall, .. } = self;
        let line = &shared.line;
        if !line.is_settled() {
            let (flushed, sent) = line.poll_flush(cx);
            let Waiting { unused, alarm, .. } = line.lock().calls;
            match flushed {
                // The server has closed. Its parting words, if any, are still to be read; but it may have closed the one
                // direction only.
                Poll::Ready(Err(error)) => {
                    let parting = parting.get_or_insert_with(|| Box::pin(sleep(PARTING_TIMEOUT)));
                    if parting.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Err(error.to_string()));
                    }
                }
                Poll::Ready(Ok(())) if unused => return Poll::Ready(Err("closed".to_owned())),
                flushed => {
                    if let Poll::Ready(stalled) = stall.poll(flushed.is_ready(), sent, cx) {
                        return Poll::Ready(Err(stalled));
                    }
                }
            }
            set(timer, alarm);
        }
        while timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
            *timer = None;
            set(timer, line.lock().calls.ring(Instant::now()));
        }
        inbox.poll_fill(cx).map(|read| match read {
            Ok(0) => Err("closed the connection".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Hands out all answers that were read, under one lock. The error ends the connection.
    fn frames(&mut self) -> Result<(), Broken> {
        let Self { shared, inbox, names, .. } = self;
        let mut state = shared.line.lock();
        loop {
            let frame = match inbox.take() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(error) => return Err(broke_protocol(names, &error.to_string())),
            };
            let delivered = frame
                .parse()
                .map_err(|error| error.to_string())
                .and_then(|frame| state.calls.deliver(&frame, names));
            match delivered {
                Ok(None) => {}
                Ok(Some(reason)) => {
                    tracing::warn!(link = %names, reason, "the server ended the connection");
                    return Err(Broken::Refused(format!("{names}: {reason}")));
                }
                Err(violation) => return Err(broke_protocol(names, &violation)),
            }
        }
    }
}

/// Makes the timer go off by then.
fn set(timer: &mut Option<Pin<Box<Sleep>>>, alarm: Option<Instant>) {
    let Some(alarm) = alarm else { return };
    match timer {
        None => *timer = Some(Box::pin(sleep_until(alarm))),
        Some(timer) if alarm < timer.deadline() => timer.as_mut().reset(alarm),
        Some(_) => {}
    }
}

fn broke_protocol(names: &str, violation: &str) -> Broken {
    tracing::warn!(link = %names, violation, "the server broke the protocol");
    Broken::Disconnected(format!("{names}: the server broke the protocol: {violation}"))
}

impl Waiting {
    /// Hands an answer to its caller. Words end the connection: the server refused all of it.
    ///
    /// An answer nobody waits for is not an error: its caller gave up while it was on its way.
    fn deliver(&mut self, frame: &Frame<'_>, names: &str) -> Result<Option<String>, String> {
        let (call, answer) = match *frame {
            Frame::Reply { call, message } | Frame::Item { call, message }
                if self.unwanted(call, message) =>
            {
                return Ok(None);
            }
            Frame::Reply { call, message } => {
                let Some((_, payload)) = self.arriving.take(call, message, false)? else { return Ok(None) };
                (call, Ok(Some(payload.to_bytes())))
            }
            Frame::Item { call, message } => {
                let Some((_, payload)) = self.arriving.take(call, message, true)? else { return Ok(None) };
                return self.item(call, payload.to_bytes()).map(|()| None);
            }
            Frame::Part { call, .. } if !self.calls.contains_key(&call) => return Ok(None),
            Frame::Part { call, payload } => match self.arriving.add(call, payload)? {
                None => return Ok(None),
                Some((true, item)) => return self.item(call, item).map(|()| None),
                Some((false, reply)) => (call, Ok(Some(reply))),
            },
            Frame::End { call } => (call, Ok(None)),
            Frame::Failed { call, code, message } => {
                (call, Err(Broken::Failed { code, message: message.to_owned() }))
            }
            Frame::Refused { call: frame::NO_CALL, message } => return Ok(Some(message.to_owned())),
            Frame::Refused { call, message } => {
                if let Some(left_out) = self.throttle.admit(Instant::now().into_std()) {
                    tracing::warn!(link = names, reason = message, left_out, "the server refused a call");
                }
                (call, Err(Broken::Refused(format!("{names}: {message}"))))
            }
            Frame::Late { call } => (call, Err(Broken::Late)),
            Frame::Hello(_) | Frame::Request { .. } | Frame::Credit { .. } | Frame::Cancel { .. } => {
                return Err("a frame only clients send".to_owned());
            }
        };
        self.answer(call, answer).map(|()| None)
    }

    /// The first part of a message that nobody waits for: no memory is set aside.
    fn unwanted(&self, call: u64, message: Piece<'_>) -> bool {
        message.total.is_some() && !self.calls.contains_key(&call)
    }

    /// Wakes the callers whose deadline has passed, and sets the alarm for the next one.
    fn ring(&mut self, now: Instant) -> Option<Instant> {
        self.alarm = None;
        for waiter in self.calls.values_mut() {
            let Some(until) = waiter.until else { continue };
            if until > now {
                self.alarm = Some(self.alarm.map_or(until, |alarm| alarm.min(until)));
                continue;
            }
            waiter.until = None;
            if let Some(task) = waiter.task.take() {
                task.wake();
            }
        }
        self.alarm
    }

    /// The last word to a call; one after that does not count.
    fn answer(&mut self, call: u64, answer: Result<Option<Bytes>, Broken>) -> Result<(), String> {
        let Some(waiter) = self.calls.get_mut(&call) else { return Ok(()) };
        match (&mut waiter.wants, answer) {
            (Wants::Reply(Some(_)), _) | (Wants::Stream { end: Some(_), .. }, Ok(None) | Err(_)) => {
                return Ok(());
            }
            (Wants::Reply(reply), Ok(Some(payload))) => *reply = Some(Ok(payload)),
            (Wants::Reply(reply), Err(broken)) => *reply = Some(Err(broken)),
            (Wants::Stream { end, .. }, Ok(None)) => *end = Some(Event::End),
            (Wants::Stream { end, .. }, Err(broken)) => *end = Some(Event::Broken(broken)),
            (Wants::Reply(_), Ok(None)) => return Err("end of a call that is no stream".to_owned()),
            (Wants::Stream { .. }, Ok(Some(_))) => return Err("reply to a stream".to_owned()),
        }
        if let Some(task) = waiter.task.take() {
            task.wake();
        }
        Ok(())
    }

    fn item(&mut self, call: u64, payload: Bytes) -> Result<(), String> {
        let Some(waiter) = self.calls.get_mut(&call) else { return Ok(()) };
        let Wants::Stream { items, window, end } = &mut waiter.wants else {
            return Err("item of a call that is no stream".to_owned());
        };
        if end.is_some() {
            return Err("item after the end of its stream".to_owned());
        }
        *window = window.checked_sub(item_cost(payload.len())).ok_or("item beyond the stream's credit")?;
        items.push_back(payload);
        if let Some(task) = waiter.task.take() {
            task.wake();
        }
        Ok(())
    }
}
