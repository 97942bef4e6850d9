use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

/// Migrations in order; `PRAGMA user_version` counts those that have run.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE objects (
        resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
        version INTEGER NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (resource, namespace, name)
    ) WITHOUT ROWID;
    CREATE INDEX objects_by_namespace ON objects (namespace, resource);
    -- What watches resume from: one row per change, the newest few thousand.
    CREATE TABLE log (
        version INTEGER PRIMARY KEY, change INTEGER NOT NULL,
        resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
        body BLOB NOT NULL, before BLOB
    );
    CREATE INDEX log_by_resource ON log (resource, version);
    CREATE TABLE state (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO state VALUES ('version', 1), ('compacted', 0);
"];

/// 1 MiB: objects are few and small, the rest is the kernel's page cache.
const CACHE_KIB: i64 = 1024;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// SQLite refuses the file.
    #[error("could not open the object store {path}")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// The file cannot be made or written.
    #[error("could not create the object store {path}")]
    Create {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Written by a newer program.
    #[error("the object store {path} has schema {found}, this program knows up to {known}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: usize,
        /// Ours.
        known: usize,
    },
    /// No thread could be made.
    #[error("could not start the store's thread")]
    Thread(#[source] std::io::Error),
}

pub(super) struct State {
    pub(super) version: u64,
    pub(super) compacted: u64,
    pub(super) logged: u64,
}

pub(super) fn open(path: &Path) -> Result<(Connection, State), OpenError> {
    let sqlite = |source| OpenError::Sqlite { path: path.to_owned(), source };
    // Secrets are in it: private from the first byte on. SQLite gives its log the same mode.
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| OpenError::Create { path: path.to_owned(), source })?;
    let mut connection = Connection::open(path).map_err(sqlite)?;
    let prepare = |connection: &mut Connection| -> Result<usize, rusqlite::Error> {
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        // Only this process opens the file; without it every transaction takes and drops file locks.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.set_prepared_statement_cache_capacity(32);
        connection.query_row("PRAGMA user_version", [], |row| row.get(0))
    };
    let found = prepare(&mut connection).map_err(sqlite)?;
    if found > MIGRATIONS.len() {
        return Err(OpenError::Newer { path: path.to_owned(), found, known: MIGRATIONS.len() });
    }
    let migrate = |connection: &mut Connection| -> Result<State, rusqlite::Error> {
        for (index, migration) in MIGRATIONS.iter().enumerate().skip(found) {
            let transaction = connection.transaction()?;
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "user_version", index + 1)?;
            transaction.commit()?;
        }
        let number = |query: &str| connection.query_row(query, [], |row| row.get::<_, u64>(0));
        Ok(State {
            version: number("SELECT value FROM state WHERE key = 'version'")?,
            compacted: number("SELECT value FROM state WHERE key = 'compacted'")?,
            logged: number("SELECT count(*) FROM log")?,
        })
    };
    let state = migrate(&mut connection).map_err(sqlite)?;
    Ok((connection, state))
}
