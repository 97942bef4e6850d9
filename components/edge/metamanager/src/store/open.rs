//! Opening the file: rights, settings, the check of what an earlier life left, and what happens when it is corrupt.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, FileControl, OpenFlags};

use super::{OpenError, is_corrupt, schema};

/// Page cache of one connection. The kernel's cache is behind it, and costs the process nothing.
const CACHE_KIB: i64 = 512;

/// What the write-ahead log is cut to after a checkpoint that a large write had let it outgrow.
const WAL_BYTES: i64 = 4 * 1024 * 1024;

/// Corrupt files that are kept for a look; older ones are removed, so that a dying disk is not filled too.
const CORRUPT_KEPT: usize = 3;

/// An opened file.
pub(super) struct Opened {
    pub(super) writer: Connection,
    pub(super) reader: Connection,
    /// Where the file that was here went, if it was corrupt.
    pub(super) set_aside: Option<PathBuf>,
}

/// Opens the store at `path`, made new where there is none. A corrupt one is set aside as `<path>.corrupt-<unix time>`.
pub(super) fn open(path: &Path, now: SystemTime) -> Result<Opened, OpenError> {
    let (writer, set_aside) = match writer(path) {
        Ok(writer) => (writer, None),
        Err(error) if error.is_corrupt() => {
            let aside = set_aside(path, now)?;
            tracing::error!(
                store = %path.display(), %error, set_aside = %aside.display(),
                "store is corrupt: began a new one, which the cloud fills again"
            );
            (self::writer(path)?, Some(aside))
        }
        Err(error) => return Err(error),
    };
    // Whoever wrote the mark has seen the file fail; it has now passed the full check, or gone.
    remove_if_there(&suspect(path))?;
    let reader = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    settle(&reader)?;
    Ok(Opened { writer, reader, set_aside })
}

/// Marks the file for the full check at the next start: SQLite has called it corrupt while it was in use.
pub(super) fn mark_suspect(path: &Path) {
    if let Err(error) = fs::write(suspect(path), b"") {
        tracing::error!(store = %path.display(), %error, "could not mark the store for a full check");
    }
}

fn writer(path: &Path) -> Result<Connection, OpenError> {
    // SQLite gives its log the mode of the file, so the file has it before SQLite sees it.
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    settle(&connection)?;
    check(&connection, suspect(path).exists())?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(OpenError::NoLog { mode });
    }
    // The log is synced before a commit returns: what was acknowledged survives a power cut.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
    // The log's files stay when the last connection closes, so that a start on a full disk need not make them.
    connection.file_control(Some("main"), FileControl::PersistWal(&mut 1))?;
    schema::migrate(&mut connection)?;
    Ok(connection)
}

fn settle(connection: &Connection) -> Result<(), OpenError> {
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// The quick check reads every page but does not compare indexes with tables; `full` does.
fn check(connection: &Connection, full: bool) -> Result<(), OpenError> {
    let pragma = if full { "PRAGMA integrity_check(1)" } else { "PRAGMA quick_check(1)" };
    let found: String = connection.query_row(pragma, [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(OpenError::Corrupt { found }) }
}

fn set_aside(path: &Path, now: SystemTime) -> Result<PathBuf, OpenError> {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let aside = with_suffix(path, &format!(".corrupt-{seconds}"));
    // The log comes along: it is part of what was found, and nothing of the new file.
    for suffix in ["-wal", "-shm", ""] {
        match fs::rename(with_suffix(path, suffix), with_suffix(&aside, suffix)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    forget_oldest(path)?;
    Ok(aside)
}

fn forget_oldest(path: &Path) -> Result<(), OpenError> {
    let Some((folder, name)) = path.parent().zip(path.file_name()) else { return Ok(()) };
    let prefix = format!("{}.corrupt-", name.to_string_lossy());
    let mut times = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if let Some(seconds) =
            name.to_string_lossy().strip_prefix(&prefix).and_then(|rest| rest.parse::<u64>().ok())
        {
            times.push(seconds);
        }
    }
    times.sort_unstable_by(|a, b| b.cmp(a));
    for seconds in times.into_iter().skip(CORRUPT_KEPT) {
        let old = with_suffix(path, &format!(".corrupt-{seconds}"));
        for suffix in ["", "-wal", "-shm"] {
            remove_if_there(&with_suffix(&old, suffix))?;
        }
    }
    Ok(())
}

fn suspect(path: &Path) -> PathBuf {
    with_suffix(path, ".suspect")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove_if_there(path: &Path) -> Result<(), OpenError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

impl OpenError {
    fn is_corrupt(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Sqlite(error) => is_corrupt(error),
            _ => false,
        }
    }
}
