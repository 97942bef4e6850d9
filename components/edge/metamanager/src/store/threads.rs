//! The two threads that own a connection each: one writes, in group commits; one reads beside it and never waits for a
//! sync. Callers send closures over a bounded channel and wait when it is full.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::wakes::Wakes;
use super::{Heads, StoreError, is_corrupt, objects};

/// Requests that wait for a thread before their senders do.
const QUEUE: usize = 256;

/// Writes in one commit: at 20 µs each, the first one waits 5 ms beyond the sync that it waits for anyway.
const BATCH: usize = 256;

/// Enough for SQLite's deepest call chains; the pages that are not touched cost nothing.
const STACK: usize = 256 * 1024;

/// Does a write inside the open transaction, or nothing where none could be opened, and returns what to do once the
/// transaction has ended.
type Write = Box<dyn FnOnce(Option<&Connection>) -> (rusqlite::Result<()>, Finish) + Send>;
/// Told whether the commit succeeded.
type Finish = Box<dyn FnOnce(Result<(), StoreError>) + Send>;
type Read = Box<dyn FnOnce(&mut Connection) + Send>;

/// A thread and the way to it. Dropping it lets the thread finish what is queued, and waits.
struct Worker<J> {
    jobs: Option<mpsc::Sender<J>>,
    thread: Option<JoinHandle<()>>,
}

impl<J: Send + 'static> Worker<J> {
    fn start(name: &str, work: impl FnOnce(mpsc::Receiver<J>) + Send + 'static) -> io::Result<Self> {
        let (jobs, receiver) = mpsc::channel(QUEUE);
        let thread =
            thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(|| work(receiver))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    async fn send(&self, job: J) -> Result<(), StoreError> {
        let jobs = self.jobs.as_ref().ok_or(StoreError::Stopped)?;
        jobs.send(job).await.map_err(|_| StoreError::Stopped)
    }
}

impl<J> Drop for Worker<J> {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already, and every caller saw `Stopped`.
            let _ = thread.join();
        }
    }
}

/// Where the threads tell what everyone must know.
#[derive(Debug)]
pub(super) struct Signals {
    /// Newest revision that is committed, for those who watch.
    pub(super) wakes: Wakes,
    /// Newest upload that is committed.
    pub(super) seq: watch::Sender<u64>,
    /// True once SQLite has called the file corrupt.
    pub(super) corrupt: watch::Sender<bool>,
}

impl Signals {
    fn note(&self, error: &rusqlite::Error) {
        if is_corrupt(error) {
            self.corrupt.send_replace(true);
        }
    }

    fn publish(&self, committed: &Committed) {
        let Heads { revision, seq } = committed.heads;
        if !committed.kinds.is_empty() {
            self.wakes.publish(revision, &committed.kinds);
        }
        self.seq.send_if_modified(|known| std::mem::replace(known, seq) != seq);
    }
}

/// What a commit has changed.
struct Committed {
    heads: Heads,
    /// Of the objects that were put or ended.
    kinds: Vec<String>,
}

pub(super) struct Writer(Worker<Write>);

impl Writer {
    /// `heads` are those of the file as it was opened.
    pub(super) fn start(connection: Connection, mut heads: Heads, signals: Arc<Signals>) -> io::Result<Self> {
        Worker::start("store-writer", move |mut jobs| {
            let mut health = Health::default();
            let mut finishes = Vec::new();
            while let Some(first) = jobs.blocking_recv() {
                let outcome = commit(&connection, heads, first, &mut jobs, &mut finishes);
                health.note(&connection, outcome.as_ref().err());
                let reply = match outcome {
                    Ok(committed) => {
                        heads = committed.heads;
                        signals.publish(&committed);
                        Ok(())
                    }
                    Err(error) => {
                        signals.note(&error);
                        Err(StoreError::from(error))
                    }
                };
                for finish in finishes.drain(..) {
                    finish(reply.clone());
                }
            }
        })
        .map(Self)
    }

    /// Runs `write` inside a transaction that may hold other callers' writes, too. Returns when it is on the disk, or
    /// when nothing of it is. `committed` runs before that even if the caller has gone away meanwhile.
    pub(super) async fn call<T, W, C>(&self, write: W, committed: C) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        C: FnOnce(&T) + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Write = Box::new(|connection| {
            let (written, value) = match connection.map(write) {
                Some(Ok(value)) => (Ok(()), Some(value)),
                Some(Err(error)) => (Err(error), None),
                None => (Ok(()), None),
            };
            let finish: Finish = Box::new(|outcome| {
                // Without a value the batch has failed, and the outcome says why.
                let result = outcome.and_then(|()| value.ok_or(StoreError::Stopped));
                if let Ok(value) = &result {
                    committed(value);
                }
                let _ = reply.send(result);
            });
            (written, finish)
        });
        self.0.send(job).await?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }
}

/// One transaction: the first write and those that have queued up behind it. Whatever happens, `finishes` then holds
/// the answers that are due. A write fails only when the disk does, and then all of its batch would.
fn commit(
    connection: &Connection,
    before: Heads,
    first: Write,
    jobs: &mut mpsc::Receiver<Write>,
    finishes: &mut Vec<Finish>,
) -> rusqlite::Result<Committed> {
    let mut done = connection.execute_batch("BEGIN IMMEDIATE");
    let mut next = Some(first);
    while let Some(write) = next {
        let (written, finish) = write(done.is_ok().then_some(connection));
        finishes.push(finish);
        done = done.and(written);
        next = if done.is_ok() && finishes.len() < BATCH { jobs.try_recv().ok() } else { None };
    }
    let outcome = done.and_then(|()| {
        let heads = Heads::read(connection)?;
        let kinds = if heads.revision == before.revision {
            Vec::new()
        } else {
            objects::kinds_after(connection, before.revision)?
        };
        connection.execute_batch("COMMIT")?;
        Ok(Committed { heads, kinds })
    });
    // On some errors SQLite has rolled back by itself.
    if outcome.is_err()
        && !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        tracing::error!(%error, "could not roll back a failed write");
    }
    outcome
}

/// Says once that writes fail, and once that they work again.
#[derive(Debug, Default)]
struct Health {
    failed: u64,
}

impl Health {
    fn note(&mut self, connection: &Connection, error: Option<&rusqlite::Error>) {
        match error {
            Some(error) => {
                self.failed += 1;
                if self.failed == 1 {
                    let store = connection.path();
                    tracing::error!(store, %error, "store cannot write: what is stored can still be read");
                }
            }
            None if self.failed > 0 => {
                tracing::info!(failed_batches = self.failed, "store can write again");
                self.failed = 0;
            }
            None => {}
        }
    }
}

pub(super) struct Reader {
    worker: Worker<Read>,
    signals: Arc<Signals>,
}

impl Reader {
    pub(super) fn start(mut connection: Connection, signals: Arc<Signals>) -> io::Result<Self> {
        let worker = Worker::start("store-reader", move |mut jobs: mpsc::Receiver<Read>| {
            while let Some(job) = jobs.blocking_recv() {
                job(&mut connection);
            }
        })?;
        Ok(Self { worker, signals })
    }

    /// Runs `read` in one snapshot.
    pub(super) async fn call<T, R>(&self, read: R) -> Result<T, StoreError>
    where
        T: Send + 'static,
        R: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Read = Box::new(|connection| {
            let result = connection.transaction().and_then(|snapshot| read(&snapshot));
            let _ = reply.send(result);
        });
        self.worker.send(job).await?;
        answer.await.map_err(|_| StoreError::Stopped)?.map_err(|error| {
            self.signals.note(&error);
            StoreError::from(error)
        })
    }
}
