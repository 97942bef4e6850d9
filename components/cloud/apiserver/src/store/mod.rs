//! Objects and their history in one SQLite file. One thread owns the connection; requests send it closures. What is
//! waiting when the thread looks becomes one transaction (group commit): with many writers one fsync serves all of
//! them, with one writer nothing waits. A caller is answered only after its commit, and watchers hear of a change only
//! after it: what anybody has seen survives `kill -9` and power loss (WAL, `synchronous=FULL`).

mod log;
mod schema;
mod watchers;
mod work;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::error::ApiError;
use watchers::Watchers;

pub(crate) use log::{Change, Event};
pub(crate) use schema::OpenError;
pub(crate) use watchers::Subscription;
pub(crate) use work::{Key, Listed, Work};

/// Requests waiting for the store; more wait outside, in their connections.
const QUEUE: usize = 256;
/// Jobs of one transaction: bounds how long the first one waits for the others.
const BATCH: usize = 64;

/// Called when the fate of a job's transaction is known.
type Reply = Box<dyn FnOnce(Result<(), ApiError>) + Send>;

type Run = Box<dyn FnOnce(Result<&mut Work<'_>, ApiError>) -> Reply + Send>;

struct Job {
    writes: bool,
    /// `Ok`: do the work. `Err`: the transaction failed before this job's turn; the caller hears why.
    run: Run,
}

/// A handle to the store's thread. Cheap to clone; the thread ends, with its work done, when the last one is gone.
#[derive(Clone)]
pub(crate) struct Store {
    jobs: mpsc::Sender<Job>,
    published: Arc<AtomicU64>,
}

impl Store {
    /// Opens or creates the file and starts the thread. `history` is how many changes a watch can look back.
    pub(crate) fn open(path: &Path, history: u64) -> Result<Self, OpenError> {
        let (connection, state) = schema::open(path)?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let published = Arc::new(AtomicU64::new(state.version));
        let owner = Owner {
            connection,
            version: state.version,
            log: log::Bounds { history, kept: state.logged, compacted: state.compacted },
            watchers: Watchers::default(),
            published: published.clone(),
        };
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || owner.run(queue))
            .map_err(OpenError::Thread)?;
        Ok(Self { jobs, published })
    }

    /// Runs `job` in a transaction of its own or of others; nothing of it remains if it fails.
    pub(crate) async fn write<T, F>(&self, job: F) -> Result<T, ApiError>
    where
        F: FnOnce(&mut Work<'_>) -> Result<T, ApiError> + Send + 'static,
        T: Send + 'static,
    {
        self.submit(true, |work| work.atomically(job)).await
    }

    /// Runs `job`, which changes nothing.
    pub(crate) async fn read<T, F>(&self, job: F) -> Result<T, ApiError>
    where
        F: FnOnce(&mut Work<'_>) -> Result<T, ApiError> + Send + 'static,
        T: Send + 'static,
    {
        self.submit(false, job).await
    }

    async fn submit<T, F>(&self, writes: bool, job: F) -> Result<T, ApiError>
    where
        F: FnOnce(&mut Work<'_>) -> Result<T, ApiError> + Send + 'static,
        T: Send + 'static,
    {
        let (tx, rx) = oneshot::channel();
        let run = Box::new(move |work: Result<&mut Work<'_>, ApiError>| -> Reply {
            let result = work.and_then(job);
            // A receiver that is gone means the client hung up; the work is done all the same.
            Box::new(move |committed| drop(tx.send(committed.and(result))))
        });
        let stopped = || ApiError::internal("the store is stopped");
        self.jobs.send(Job { writes, run }).await.map_err(|_| stopped())?;
        rx.await.map_err(|_| stopped())?
    }

    /// Every change up to this version has been handed to the subscriptions it concerns.
    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }
}

/// What the thread owns.
struct Owner {
    connection: Connection,
    version: u64,
    log: log::Bounds,
    watchers: Watchers,
    published: Arc<AtomicU64>,
}

impl Owner {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(first) = queue.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH
                && let Ok(next) = queue.try_recv()
            {
                batch.push(next);
            }
            self.transaction(&mut batch);
        }
    }

    fn transaction(&mut self, batch: &mut Vec<Job>) {
        let writes = batch.iter().any(|job| job.writes);
        let mut replies = Vec::with_capacity(batch.len());
        let mut log = self.log;
        let mut work = Work::new(&self.connection, self.version, log.compacted, &mut self.watchers);
        let outcome = (|| -> Result<(), rusqlite::Error> {
            if !writes {
                replies.extend(batch.drain(..).map(|job| (job.run)(Ok(&mut work))));
                return Ok(());
            }
            self.connection.execute_batch("BEGIN IMMEDIATE")?;
            for job in batch.drain(..) {
                replies.push((job.run)(Ok(&mut work)));
                if self.connection.is_autocommit() {
                    // SQLite rolls the whole transaction back by itself on a full disk or an I/O error.
                    return Err(rusqlite::Error::SqliteFailure(
                        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT_ROLLBACK),
                        Some("the disk is full or failed, the transaction was undone".to_owned()),
                    ));
                }
            }
            if work.changed() {
                log.record(&self.connection, work.version(), work.change_count())?;
            }
            self.connection.execute_batch("COMMIT")
        })();
        let (version, events) = work.finish();
        match outcome {
            Ok(()) => {
                self.version = version;
                self.log = log;
                for event in &events {
                    self.watchers.publish(event);
                }
                self.published.store(version, Ordering::Release);
                for reply in replies {
                    reply(Ok(()));
                }
            }
            Err(error) => {
                if !self.connection.is_autocommit()
                    && let Err(error) = self.connection.execute_batch("ROLLBACK")
                {
                    tracing::error!(%error, "could not roll back");
                }
                let error = ApiError::from(error);
                replies.extend(batch.drain(..).map(|job| (job.run)(Err(error.clone()))));
                for reply in replies {
                    reply(Err(error.clone()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
