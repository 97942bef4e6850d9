//! The writing half of a connection: what is ready together leaves together, and large messages let small ones by.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes};
use prost::Message;
use tokio::net::unix::OwnedWriteHalf;

use crate::IN_WORK;
use crate::frame::{self, Head, PART};
use crate::parts::{Behind, Large};

/// Bytes that wait to be written to one peer before the server reads no further request of it, and before what its
/// handlers have to say waits: 1 MiB of frames, and 1 MiB of messages that go in parts.
pub const WRITE_QUEUE: usize = 1024 * 1024;

/// So much is written at once by whoever queued the last of it; less waits until the connection's task has its turn, so
/// that one wake-up of the peer moves a burst of small frames.
const BATCH: usize = 64 * 1024;

/// What waits to be written on one connection. Lives under the connection's lock.
///
/// It has no bound of its own: what may be in it is bounded by the calls in flight, the stream windows and
/// [`WRITE_QUEUE`].
#[derive(Debug)]
pub(crate) struct Outbox {
    /// `None` once the connection is over.
    socket: Option<OwnedWriteHalf>,
    /// Whether the peer understands parts.
    parts: bool,
    /// Whole frames, in order.
    next: Vec<u8>,
    /// Frames that are being written, then `part`; so far `written` of the frames.
    frames: Vec<u8>,
    written: usize,
    /// The bytes of the part whose head is the end of `frames`.
    part: Bytes,
    /// Large messages being cut, in turn, and those that wait until those are done.
    cutting: VecDeque<Large>,
    waiting: VecDeque<Large>,
    /// Bytes of the whole messages in `cutting`: the peer puts together no more than [`IN_WORK`].
    underway: usize,
    /// Bytes of large messages that are not cut yet.
    uncut: usize,
    sent: u64,
    /// The connection's task.
    task: Option<Waker>,
    mood: Mood,
    /// The socket takes nothing more; the task waits for it.
    blocked: bool,
}

/// What the connection's task is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// It runs, or will without our doing: it writes before it sleeps.
    Awake,
    /// It has nothing to write and waits.
    Asleep,
    /// It is to be woken by whoever lets go of the lock.
    Roused,
}

impl Outbox {
    pub(crate) fn new(socket: OwnedWriteHalf, protocol: u32) -> Self {
        Self {
            socket: Some(socket),
            parts: protocol >= 2,
            next: Vec::new(),
            frames: Vec::new(),
            written: 0,
            part: Bytes::new(),
            cutting: VecDeque::new(),
            waiting: VecDeque::new(),
            underway: 0,
            uncut: 0,
            sent: 0,
            task: None,
            mood: Mood::Awake,
            blocked: false,
        }
    }

    /// Bytes of whole frames and of the present part that wait to be written.
    pub(crate) fn queued(&self) -> usize {
        self.next.len() + self.frames.len() - self.written + self.part.len()
    }

    /// Bytes of large messages whose part's turn has not come, and of what waits behind them.
    pub(crate) fn uncut(&self) -> usize {
        self.uncut
    }

    /// Bytes handed to the kernel since the connection began.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// The connection is over: what is queued, and what will be, goes nowhere.
    pub(crate) fn close(&mut self) {
        // The other half goes with the connection's task: then the socket is closed.
        self.socket = None;
        self.next = Vec::new();
        self.frames = Vec::new();
        self.written = 0;
        self.part = Bytes::new();
        self.cutting.clear();
        self.waiting.clear();
        self.uncut = 0;
    }

    /// Writes what is queued now, without the connection's task: for a message that nothing else could leave with.
    pub(crate) fn hurry(&mut self) {
        // An error shows again when the task writes.
        if !self.blocked && matches!(self.flush(), Ok(true)) {
            return;
        }
        self.wake();
    }

    /// Queues a message of this encoded size, in parts where it is larger than one. Whoever does [`Outbox::wake`]s the
    /// task, or hurries.
    pub(crate) fn message(&mut self, head: Head, size: usize, message: &impl Message) {
        if self.socket.is_none() {
            return;
        }
        if size <= PART || !self.parts {
            return self.frame(head.call, |out| frame::message(out, head, size, message));
        }
        let large = Large::new(head, message);
        self.uncut += large.total;
        match self.ahead(head.call) {
            Some(ahead) => ahead.behind.push_back(Behind::Large(large)),
            None => self.waiting.push_back(large),
        }
    }

    /// Queues what `write` appends: whole frames of this call. Whoever does [`Outbox::wake`]s the task.
    pub(crate) fn frame(&mut self, call: u64, write: impl FnOnce(&mut Vec<u8>)) {
        if self.socket.is_none() {
            return;
        }
        if let Some(ahead) = self.ahead(call) {
            let mut frames = Vec::new();
            write(&mut frames);
            let length = frames.len();
            ahead.behind.push_back(Behind::Frames(frames));
            self.uncut += length;
            return;
        }
        write(&mut self.next);
        if self.next.len() >= BATCH && !self.blocked {
            // An error shows again when the task writes.
            let _ = self.flush();
        }
    }

    /// Forgets what is left of a call's large message, which nobody waits for. True when none of it has left.
    pub(crate) fn forget(&mut self, call: u64) -> bool {
        if let Some(at) = self.waiting.iter().position(|large| large.head.call == call)
            && let Some(large) = self.waiting.remove(at)
        {
            self.uncut -= large.queued();
            return true;
        }
        if let Some(at) = self.cutting.iter().position(|large| large.head.call == call)
            && let Some(large) = self.cutting.remove(at)
        {
            self.uncut -= large.queued();
            self.underway -= large.total;
        }
        false
    }

    /// The large message of this call that is not cut yet.
    fn ahead(&mut self, call: u64) -> Option<&mut Large> {
        if self.uncut == 0 {
            return None;
        }
        self.cutting.iter_mut().chain(&mut self.waiting).find(|large| large.head.call == call)
    }

    /// Has the connection's task woken if it waits for something to write.
    pub(crate) fn wake(&mut self) {
        if self.mood == Mood::Asleep {
            self.mood = Mood::Roused;
        }
    }

    /// Has the connection's task woken whatever it waits for, the socket included: there is more than bytes to look at.
    pub(crate) fn rouse(&mut self) {
        self.mood = Mood::Roused;
    }

    /// The task, if it is to be woken: once the lock is free, and what it looks at without the lock is up to date.
    pub(crate) fn roused(&mut self) -> Option<Waker> {
        if self.mood != Mood::Roused {
            return None;
        }
        self.mood = Mood::Awake;
        self.task.clone()
    }

    /// The connection's task runs, and will flush before it sleeps: nobody need wake it.
    pub(crate) fn awake(&mut self) {
        self.mood = Mood::Awake;
    }

    /// Whether the task waits, and has nothing to write before it may go on waiting.
    pub(crate) fn is_settled(&self) -> bool {
        self.mood == Mood::Asleep
    }

    /// Writes until nothing is left; for the connection's task alone, which is woken when there is more.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
        loop {
            if self.blocked
                && let Some(socket) = &self.socket
            {
                ready!(socket.as_ref().poll_write_ready(cx))?;
                self.blocked = false;
            }
            if self.flush()? {
                break;
            }
        }
        self.mood = Mood::Asleep;
        Poll::Ready(Ok(()))
    }

    /// Writes what the socket takes; true when nothing is left.
    fn flush(&mut self) -> io::Result<bool> {
        while self.fill() {
            let Some(socket) = &self.socket else { return Err(io::ErrorKind::BrokenPipe.into()) };
            let frames = &self.frames[self.written..];
            let wrote = if self.part.is_empty() {
                socket.try_write(frames)
            } else {
                socket.try_write_vectored(&[IoSlice::new(frames), IoSlice::new(&self.part)])
            };
            match wrote {
                Ok(bytes) => {
                    self.sent += bytes as u64;
                    let of_frames = bytes.min(frames.len());
                    self.written += of_frames;
                    self.part.advance(bytes - of_frames);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Whoever found out: the task is the one that waits.
                    self.blocked = true;
                    self.wake();
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Makes the next write ready, unless one is: all whole frames, then one part. False when there is nothing.
    fn fill(&mut self) -> bool {
        /// A burst must not keep megabytes for the life of the connection.
        const KEPT: usize = 4 * BATCH;
        if self.written < self.frames.len() || !self.part.is_empty() {
            return true;
        }
        self.frames.clear();
        self.written = 0;
        if self.frames.capacity() > KEPT {
            self.frames = Vec::new();
        }
        std::mem::swap(&mut self.frames, &mut self.next);
        while let Some(large) = self.waiting.pop_front_if(|large| self.underway + large.total <= IN_WORK) {
            self.underway += large.total;
            self.cutting.push_back(large);
        }
        if let Some(mut large) = self.cutting.pop_front() {
            self.part = large.cut(&mut self.frames);
            self.uncut -= self.part.len();
            if large.is_cut() {
                self.underway -= large.total;
                self.follow(large.behind);
            } else {
                self.cutting.push_back(large);
            }
        }
        !self.frames.is_empty()
    }

    /// Queues what waited behind a message that is now cut.
    fn follow(&mut self, mut behind: VecDeque<Behind>) {
        while let Some(next) = behind.pop_front() {
            match next {
                Behind::Frames(frames) => {
                    self.uncut -= frames.len();
                    self.next.extend_from_slice(&frames);
                }
                Behind::Large(mut large) => {
                    large.behind = behind;
                    return self.waiting.push_back(large);
                }
            }
        }
    }
}
