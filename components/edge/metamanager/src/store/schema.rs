//! The tables, as numbered steps from an empty file. A step that was released is never edited: a change is a new step.

use rusqlite::Connection;

use super::OpenError;

/// `user_version` n means that the first n steps are done.
const STEPS: &[&str] = &[
    // 1. `revision` and `seq` begin at a random number, so that one from an earlier file (set aside as corrupt) is never
    //    taken for one of this file: it is below `compacted` or above `revision`, or names no upload.
    "
    CREATE TABLE counters (
        id INTEGER PRIMARY KEY CHECK (id = 0),
        epoch TEXT NOT NULL,               -- of this file, for peers that remember what they told it
        revision INTEGER NOT NULL,         -- of the last change
        compacted INTEGER NOT NULL,        -- deletes up to this revision are forgotten
        seq INTEGER NOT NULL,              -- of the last upload
        events_dropped INTEGER NOT NULL    -- by the bound of the event queue
    ) STRICT;
    INSERT INTO counters
        VALUES (0, lower(hex(randomblob(16))), random() & 0xffffffffffff, 0, random() & 0xffffffffffff, 0);
    UPDATE counters SET compacted = revision;

    -- The revision is the row id: a changed object moves to the end, and reading from a revision is a range scan.
    CREATE TABLE objects (
        revision INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        uid TEXT NOT NULL,
        resource_version INTEGER NOT NULL,
        json BLOB NOT NULL,
        UNIQUE (kind, namespace, name)
    ) STRICT;

    CREATE TABLE tombstones (
        revision INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        uid TEXT NOT NULL,
        resource_version INTEGER NOT NULL,
        deleted_at INTEGER NOT NULL,       -- seconds since 1970; before the body, which would have to be read past
        json BLOB NOT NULL
    ) STRICT;
    CREATE INDEX tombstones_by_key ON tombstones (kind, namespace, name, uid);

    CREATE TABLE outbox (
        seq INTEGER PRIMARY KEY,
        upload INTEGER NOT NULL,           -- UploadKind
        kind TEXT NOT NULL,
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        uid TEXT NOT NULL,
        json BLOB NOT NULL,
        UNIQUE (upload, kind, namespace, name, uid)
    ) STRICT;
    ",
];

/// Brings the file to the newest version, one transaction per step.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), OpenError> {
    migrate_with(connection, STEPS)
}

fn migrate_with(connection: &mut Connection, steps: &[&str]) -> Result<(), OpenError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let done = usize::try_from(found)
        .ok()
        .filter(|&done| done <= steps.len())
        .ok_or(OpenError::Newer { found, known: steps.len() })?;
    for (index, step) in steps.iter().enumerate().skip(done) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", index + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(connection: &Connection) -> Vec<String> {
        let mut statement =
            connection.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn every_earlier_version_migrates_to_the_same_tables() {
        let mut fresh = Connection::open_in_memory().unwrap();
        migrate(&mut fresh).unwrap();
        for version in 0..=STEPS.len() {
            let mut old = Connection::open_in_memory().unwrap();
            migrate_with(&mut old, &STEPS[..version]).unwrap();
            migrate(&mut old).unwrap();
            assert_eq!(tables(&old), tables(&fresh), "from version {version}");
        }
    }

    #[test]
    fn step_that_fails_leaves_the_version_before_it() {
        let mut connection = Connection::open_in_memory().unwrap();
        let steps = ["CREATE TABLE a (x)", "CREATE TABLE b (x); CREATE TABLE a (x)"];
        assert!(migrate_with(&mut connection, &steps).is_err());
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(version, 1);
        assert_eq!(tables(&connection), ["CREATE TABLE a (x)"]);
    }

    #[test]
    fn file_of_a_newer_version_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", 900).unwrap();
        assert!(matches!(migrate(&mut connection), Err(OpenError::Newer { found: 900, .. })));
    }

    #[test]
    fn two_files_count_from_different_revisions() {
        let first = || {
            let mut connection = Connection::open_in_memory().unwrap();
            migrate(&mut connection).unwrap();
            connection
                .query_row("SELECT revision, compacted FROM counters", [], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
                })
                .unwrap()
        };
        let (revision, compacted) = first();
        assert_eq!(revision, compacted);
        assert_ne!(revision, first().0);
    }
}
