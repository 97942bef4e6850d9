use bytes::Bytes;
use rusqlite::{Connection, params};

use crate::resources::Resource;
use crate::selectors::Facets;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It was not there before.
    Added,
    /// It was.
    Modified,
    /// It is gone; the body is its last state with the version of the deletion.
    Deleted,
}

impl Change {
    pub(super) fn code(self) -> i64 {
        match self {
            Self::Added => 0,
            Self::Modified => 1,
            Self::Deleted => 2,
        }
    }

    pub(super) fn from_code(code: i64) -> Self {
        match code {
            0 => Self::Added,
            1 => Self::Modified,
            _ => Self::Deleted,
        }
    }
}

/// One committed change.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) version: u64,
    pub(crate) change: Change,
    pub(crate) resource: &'static Resource,
    pub(crate) namespace: String,
    /// The object, JSON.
    pub(crate) body: Bytes,
    /// What selectors see of the object as it was before; `None` when it is new.
    pub(crate) before: Option<Facets>,
}

/// How much of the log is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) history: u64,
    pub(super) kept: u64,
    pub(super) compacted: u64,
}

impl Bounds {
    /// Writes the version reached, and cuts the log once it is a quarter over its length: a cut touches many rows, so
    /// not at every write.
    pub(super) fn record(
        &mut self,
        connection: &Connection,
        version: u64,
        added: u64,
    ) -> Result<(), rusqlite::Error> {
        connection
            .prepare_cached("UPDATE state SET value = ?1 WHERE key = 'version'")?
            .execute(params![version])?;
        self.kept += added;
        if self.kept <= self.history + self.history / 4 {
            return Ok(());
        }
        let oldest_gone: u64 = connection.query_row(
            "SELECT version FROM log ORDER BY version DESC LIMIT 1 OFFSET ?1",
            params![self.history],
            |row| row.get(0),
        )?;
        let gone = connection.execute("DELETE FROM log WHERE version <= ?1", params![oldest_gone])?;
        connection.execute("UPDATE state SET value = ?1 WHERE key = 'compacted'", params![oldest_gone])?;
        self.kept -= gone as u64;
        self.compacted = oldest_gone;
        Ok(())
    }
}
