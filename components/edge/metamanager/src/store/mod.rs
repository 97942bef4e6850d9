//! The durable state: one SQLite file.
//!
//! What each call promises: a write that returned is on the disk; a write that failed left nothing. After a failure
//! (disk full, I/O error) reads go on and the next write is tried afresh.
//!
//! What survives what, once it was acknowledged:
//!
//! | | death of this process | power cut | disk full | corrupt file |
//! |---|---|---|---|---|
//! | objects, their revisions | yes | yes | yes | no |
//! | ended objects (1 000, 24 h) | yes | yes | yes | no: watchers list again |
//! | statuses, leases, nodes, pod deletes that wait | yes | yes | yes | no |
//! | events that wait (1 000, oldest dropped and counted) | yes | yes | yes | no |
//! | questions to the cloud, state of the link, deliveries to watchers | no: asked and told again | no | yes | no |
//!
//! A corrupt file is set aside, and the new one has another epoch; filling it again is for those who sent. The tests
//! check each "yes": in `tests/power`, which says what it leaves out, and `tests/full_disk.rs`.

mod objects;
mod open;
mod outbox;
mod schema;
#[cfg(test)]
mod tests;
mod threads;
mod wakes;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::watch;

pub(crate) use objects::{Cursor, Paged};
use threads::{Reader, Signals, Writer};
pub(crate) use wakes::FAR_BEHIND;
use wakes::Wakes;

use crate::object::{Change, Key, Object, Slot, Upload};

/// Why a call on the open store failed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The disk is full or failing.
    #[error("{0}")]
    Sqlite(Arc<rusqlite::Error>),
    /// The store's thread has ended, which it does only with the process.
    #[error("the store has stopped")]
    Stopped,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("{0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("file is damaged: {found}")]
    Corrupt { found: String },
    #[error("file system cannot hold a write-ahead log: journal mode is {mode}")]
    NoLog { mode: String },
    #[error("file is of version {found}, this program knows versions up to {known}: it was downgraded")]
    Newer { found: i64, known: usize },
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// The newest revision and upload number.
#[derive(Clone, Copy, Debug)]
struct Heads {
    revision: u64,
    seq: u64,
}

impl Heads {
    fn read(connection: &Connection) -> rusqlite::Result<Self> {
        connection
            .prepare_cached("SELECT revision, seq FROM counters")?
            .query_row([], |row| Ok(Self { revision: row.get(0)?, seq: row.get(1)? }))
    }
}

/// An open store.
pub(crate) struct Store {
    path: PathBuf,
    // Dropped in this order: the last connection to close copies the log into the file, which a reader could not.
    reader: Reader,
    writer: Writer,
    signals: Arc<Signals>,
    epoch: String,
    set_aside: Option<PathBuf>,
}

impl Store {
    /// Opens the file at `path`, made new where there is none, and starts its threads.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let opened = open::open(path, SystemTime::now())?;
        let heads = Heads::read(&opened.writer)?;
        let epoch = opened.writer.query_row("SELECT epoch FROM counters", [], |row| row.get(0))?;
        let signals = Arc::new(Signals {
            wakes: Wakes::new(heads.revision),
            seq: watch::Sender::new(heads.seq),
            corrupt: watch::Sender::new(false),
        });
        Ok(Self {
            path: path.to_owned(),
            writer: Writer::start(opened.writer, heads, Arc::clone(&signals))?,
            reader: Reader::start(opened.reader, Arc::clone(&signals))?,
            signals,
            epoch,
            set_aside: opened.set_aside,
        })
    }

    /// Drawn when the file was made: another one means that everything was lost in between.
    pub(crate) fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Where the file that was found went, if it was corrupt.
    pub(crate) fn set_aside(&self) -> Option<&Path> {
        self.set_aside.as_deref()
    }

    /// The newest committed revision.
    pub(crate) fn revision(&self) -> u64 {
        self.signals.wakes.revision()
    }

    /// Changes when an object of one of these kinds has, and after [`FAR_BEHIND`] revisions in any case. What was
    /// committed before this call does not count.
    pub(crate) fn follow(&self, kinds: Arc<[String]>) -> watch::Receiver<u64> {
        self.signals.wakes.follow(kinds)
    }

    /// Follows the number of the newest committed upload.
    pub(crate) fn seqs(&self) -> watch::Receiver<u64> {
        self.signals.seq.subscribe()
    }

    /// Returns once SQLite has called the file corrupt. It is marked, so that the next start checks all of it.
    pub(crate) async fn corrupt(&self) {
        // The sender is in `self`, so this ends with the value only.
        let _ = self.signals.corrupt.subscribe().wait_for(|&corrupt| corrupt).await;
        open::mark_suspect(&self.path);
    }

    /// Commits what the cloud said and returns the newest revision.
    pub(crate) async fn apply(&self, changes: Vec<Change>) -> Result<u64, StoreError> {
        let now = unix_seconds();
        self.writer
            .call(
                move |connection| {
                    objects::apply(connection, &changes, now)?;
                    Heads::read(connection).map(|heads| heads.revision)
                },
                |_| {},
            )
            .await
    }

    /// Commits that the cloud, asked for `key` when this store was at revision `asked_at`, does not have it.
    pub(crate) async fn absent(&self, key: Key, asked_at: u64) -> Result<bool, StoreError> {
        let now = unix_seconds();
        self.writer.call(move |connection| objects::absent(connection, &key, asked_at, now), |_| {}).await
    }

    pub(crate) async fn get(&self, key: Key) -> Result<Option<Object>, StoreError> {
        self.reader.call(move |connection| objects::get(connection, &key)).await
    }

    /// The next stretch of changes for a watcher of `kinds`.
    pub(crate) async fn page(&self, cursor: Cursor, kinds: Arc<[String]>) -> Result<Paged, StoreError> {
        self.reader.call(move |connection| objects::page(connection, cursor, &kinds)).await
    }

    /// Commits an upload and returns its number.
    pub(crate) async fn submit(&self, upload: Upload) -> Result<u64, StoreError> {
        self.writer.call(move |connection| outbox::submit(connection, &upload), |_| {}).await
    }

    /// The oldest uploads after number `after`.
    pub(crate) async fn outbox(&self, after: u64) -> Result<Vec<(u64, Upload)>, StoreError> {
        self.reader.call(move |connection| outbox::page(connection, after)).await
    }

    /// Commits the cloud's answer to an upload, with the object in it. `delivered` learns whose upload it was, unless a
    /// newer one has taken its place; it runs after the commit, whether or not the caller still waits.
    pub(crate) async fn delivered(
        &self,
        seq: u64,
        object: Option<Change>,
        delivered: impl FnOnce(&Slot) + Send + 'static,
    ) -> Result<(), StoreError> {
        let now = unix_seconds();
        self.writer
            .call(
                move |connection| {
                    if let Some(change) = object {
                        objects::apply(connection, &[change], now)?;
                    }
                    outbox::remove(connection, seq)
                },
                |slot| {
                    if let Some(slot) = slot {
                        delivered(slot);
                    }
                },
            )
            .await
            .map(drop)
    }

    /// Events that the bound of the queue has cost since the file was made.
    pub(crate) async fn events_dropped(&self) -> Result<u64, StoreError> {
        self.reader.call(outbox::events_dropped).await
    }
}

fn unix_seconds() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}
