//! One connected socket, as both sides of it use it: a lock over what is to be written and what is in flight, and a task
//! that reads, and writes what is not written at once.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use interprocess::local_socket::tokio::Stream;
use interprocess::local_socket::traits::tokio::Stream as _;
use interprocess::local_socket::{GenericFilePath, ToFsName};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use crate::frame::PART;
use crate::inbox::Inbox;
use crate::outbox::{Outbox, WRITE_QUEUE};

/// A peer that takes nothing for so long ends the connection: both sides read whenever something is there, so it hangs.
const WRITE_STALL: Duration = Duration::from_secs(30);

/// How long the words that explain a disconnection may take to be read.
pub(crate) const PARTING_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) async fn connect(path: &Path) -> io::Result<(Inbox, Writer)> {
    let name = path.to_fs_name::<GenericFilePath>()?;
    let Stream::UdSocket(stream) = Stream::connect(name).await?;
    Ok(split(stream.into()))
}

pub(crate) fn split(stream: UnixStream) -> (Inbox, Writer) {
    let (read, write) = stream.into_split();
    (Inbox::new(read), Writer(write))
}

/// The writing half before the hellos are exchanged.
#[derive(Debug)]
pub(crate) struct Writer(OwnedWriteHalf);

impl Writer {
    pub(crate) async fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.0.write_all(frame).await
    }

    pub(crate) fn into_outbox(self, protocol: u32) -> Outbox {
        Outbox::new(self.0, protocol)
    }
}

/// What the users of a connection share: the outbox, and the calls in flight, `T`, which change together.
#[derive(Debug)]
pub(crate) struct Line<T> {
    state: Mutex<State<T>>,
    /// As the outbox says, for a look without the lock.
    queued: AtomicUsize,
    uncut: AtomicUsize,
    /// Bytes of what handlers have to say and have no room for.
    held_back: AtomicUsize,
    settled: AtomicBool,
    fell: Notify,
}

#[derive(Debug)]
pub(crate) struct State<T> {
    pub(crate) outbox: Outbox,
    pub(crate) calls: T,
}

impl<T> Line<T> {
    pub(crate) fn new(outbox: Outbox, calls: T) -> Self {
        Self {
            state: Mutex::new(State { outbox, calls }),
            queued: AtomicUsize::new(0),
            uncut: AtomicUsize::new(0),
            held_back: AtomicUsize::new(0),
            settled: AtomicBool::new(false),
            fell: Notify::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State<T>> {
        lock(&self.state)
    }

    /// Does something to the line that queues nothing, or hurries what it queues.
    pub(crate) fn with<R>(&self, change: impl FnOnce(&mut State<T>) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state);
        self.mirror(&state.outbox);
        let task = state.outbox.roused();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
        result
    }

    /// Does something that queues, and wakes the task to write it.
    pub(crate) fn push<R>(&self, change: impl FnOnce(&mut State<T>) -> R) -> R {
        self.with(|state| {
            let result = change(state);
            state.outbox.wake();
            result
        })
    }

    fn mirror(&self, outbox: &Outbox) {
        self.queued.store(outbox.queued(), Ordering::Relaxed);
        self.uncut.store(outbox.uncut(), Ordering::Relaxed);
        self.settled.store(outbox.is_settled(), Ordering::Relaxed);
    }

    /// Queues a message of this size once less than [`WRITE_QUEUE`] of its kind waits to be written.
    pub(crate) async fn push_with_room<R>(&self, size: usize, change: impl FnOnce(&mut State<T>) -> R) -> R {
        // Until it is pushed.
        let _held_back = if self.takes(size) {
            None
        } else {
            let held_back = HeldBack::new(self, size);
            self.room(size).await;
            Some(held_back)
        };
        self.push(change)
    }

    /// Whether less than [`WRITE_QUEUE`] waits of the kind of a message of this size.
    pub(crate) fn takes(&self, size: usize) -> bool {
        let queue = if size <= PART { &self.queued } else { &self.uncut };
        queue.load(Ordering::Relaxed) < WRITE_QUEUE
    }

    /// Waits until it does.
    pub(crate) async fn room(&self, size: usize) {
        while !self.takes(size) {
            let fell = self.fell.notified();
            if !self.takes(size) {
                fell.await;
            }
        }
    }

    /// Whether the task may read without a look at what there is to write.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// Whether the peer may ask for more: it takes what there is. Large messages that are being written do not count,
    /// since frames go between their parts.
    pub(crate) fn has_room(&self) -> bool {
        self.queued.load(Ordering::Relaxed) < WRITE_QUEUE
            && self.held_back.load(Ordering::Relaxed) < WRITE_QUEUE
    }

    /// Writes what is queued, as far as the socket takes it. Pending when it does not take all. Also says how many bytes
    /// it took since the connection began.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> (Poll<io::Result<()>>, u64) {
        let mut state = self.lock();
        let flushed = state.outbox.poll_flush(cx);
        let sent = state.outbox.sent();
        // The task itself does this.
        let _ = state.outbox.roused();
        self.mirror(&state.outbox);
        drop(state);
        self.fell.notify_waiters();
        (flushed, sent)
    }

    /// Waits until everything was handed to the kernel.
    pub(crate) async fn flushed(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx).0).await
    }

    /// The connection is over: whoever waits for room goes on, and finds that out.
    pub(crate) fn close(&self) {
        self.with(|state| state.outbox.close());
        self.fell.notify_waiters();
    }
}

/// What waits for room, as long as it does.
struct HeldBack<'a, T> {
    line: &'a Line<T>,
    size: usize,
}

impl<'a, T> HeldBack<'a, T> {
    fn new(line: &'a Line<T>, size: usize) -> Self {
        line.held_back.fetch_add(size, Ordering::Relaxed);
        Self { line, size }
    }
}

impl<T> Drop for HeldBack<'_, T> {
    fn drop(&mut self) {
        self.line.held_back.fetch_sub(self.size, Ordering::Relaxed);
        // The task may read again. Nobody else tells it where this was given up.
        self.line.push(|_| ());
    }
}

/// Notices that a peer takes nothing. Has a timer only while something waits to be taken.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    timer: Option<std::pin::Pin<Box<Sleep>>>,
    sent: u64,
}

impl Stall {
    /// Told after each flush; ready when the peer has taken nothing for [`WRITE_STALL`].
    pub(crate) fn poll(&mut self, flushed: bool, sent: u64, cx: &mut Context<'_>) -> Poll<String> {
        if flushed {
            self.timer = None;
            return Poll::Pending;
        }
        let progress = std::mem::replace(&mut self.sent, sent) != sent;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL)));
        if progress {
            timer.as_mut().reset(Instant::now() + WRITE_STALL);
        }
        timer.as_mut().poll(cx).map(|()| format!("has taken nothing for {} s", WRITE_STALL.as_secs()))
    }
}

/// Locks, also when another thread panicked while it held the lock: what our locks guard is consistent between statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
