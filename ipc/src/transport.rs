//! One socket as frames: the reading half, and a writer task that flushes together what is ready together.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::SinkExt;
use interprocess::local_socket::tokio::Stream;
use interprocess::local_socket::traits::tokio::Stream as _;
use interprocess::local_socket::{GenericFilePath, ToFsName};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use crate::frame;

/// Bytes that wait to be written to one peer before the server reads no further request of it: 1 MiB.
pub const WRITE_QUEUE: usize = 1024 * 1024;

/// A flush that takes longer ends the connection: both sides read whenever something is there, so a peer that takes
/// nothing for 30 s hangs.
const WRITE_STALL: Duration = Duration::from_secs(30);

/// Written per flush: one wake-up of the peer then moves a burst of small frames.
const BATCH: usize = 64 * 1024;

/// Read at once: 16 KiB, since every connection comes to own a buffer of this size.
const READ_BUFFER: usize = 16 * 1024;

pub(crate) type Reader = FramedRead<OwnedReadHalf, LengthDelimitedCodec>;
pub(crate) type Writer = FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>;

pub(crate) async fn connect(path: &Path) -> io::Result<(Reader, Writer)> {
    let name = path.to_fs_name::<GenericFilePath>()?;
    let Stream::UdSocket(stream) = Stream::connect(name).await?;
    Ok(framed(stream.into()))
}

pub(crate) fn framed(stream: UnixStream) -> (Reader, Writer) {
    let (read, write) = stream.into_split();
    let reader = FramedRead::with_capacity(read, frame::codec(), READ_BUFFER);
    let mut writer = FramedWrite::new(write, frame::codec());
    writer.set_backpressure_boundary(2 * BATCH);
    (reader, writer)
}

/// The queue in front of a writer task. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    frames: mpsc::UnboundedSender<Bytes>,
    queued: Arc<Queued>,
}

#[derive(Debug, Default)]
struct Queued {
    bytes: AtomicUsize,
    fell: Notify,
}

impl Outgoing {
    /// Queues a frame. False when the writer has ended, with the connection.
    ///
    /// The queue itself has no bound: what may be in it is bounded by the calls in flight, the stream windows, and
    /// [`Outgoing::room`].
    pub(crate) fn push(&self, frame: Bytes) -> bool {
        self.queued.bytes.fetch_add(frame.len(), Ordering::Relaxed);
        self.frames.send(frame).is_ok()
    }

    /// Waits until less than [`WRITE_QUEUE`] waits to be written.
    pub(crate) async fn room(&self) {
        self.below(WRITE_QUEUE).await;
    }

    /// Waits until everything pushed so far was handed to the kernel.
    pub(crate) async fn flushed(&self) {
        self.below(1).await;
    }

    async fn below(&self, limit: usize) {
        while self.queued.bytes.load(Ordering::Relaxed) >= limit {
            let fell = self.queued.fell.notified();
            if self.queued.bytes.load(Ordering::Relaxed) < limit {
                return;
            }
            fell.await;
        }
    }
}

/// Starts the writer task of one connection. It ends when every [`Outgoing`] is gone, or with an error.
///
/// `sent` is told how many bytes each flush wrote.
pub(crate) fn spawn_writer(
    writer: Writer,
    sent: impl Fn(usize) + Send + 'static,
) -> (Outgoing, JoinHandle<io::Result<()>>) {
    let (frames, ready) = mpsc::unbounded_channel();
    let queued = Arc::new(Queued::default());
    let outgoing = Outgoing { frames, queued: Arc::clone(&queued) };
    (outgoing, tokio::spawn(write(ready, writer, queued, sent)))
}

async fn write(
    mut ready: mpsc::UnboundedReceiver<Bytes>,
    mut writer: Writer,
    queued: Arc<Queued>,
    sent: impl Fn(usize),
) -> io::Result<()> {
    while let Some(frame) = ready.recv().await {
        let batch = async {
            let (mut taken, mut frames) = (frame.len(), 1);
            writer.feed(frame).await?;
            while taken < BATCH
                && let Ok(next) = ready.try_recv()
            {
                taken += next.len();
                frames += 1;
                writer.feed(next).await?;
            }
            SinkExt::<Bytes>::flush(&mut writer).await?;
            io::Result::Ok((taken, frames))
        };
        let stalled = |_| io::Error::new(io::ErrorKind::TimedOut, "peer has not read for 30 s");
        let (taken, frames) = tokio::time::timeout(WRITE_STALL, batch).await.map_err(stalled)??;
        sent(taken + 4 * frames);
        if writer.write_buffer().capacity() > 4 * BATCH {
            // One large frame must not keep megabytes for the life of the connection.
            *writer.write_buffer_mut() = BytesMut::new();
        }
        queued.bytes.fetch_sub(taken, Ordering::Relaxed);
        queued.fell.notify_waiters();
    }
    Ok(())
}

/// Locks, also when another thread panicked while it held the lock: what our locks guard is consistent between statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
