//! What waits for the cloud, in SQL.

use bytes::Bytes;
use proto::metamanager::UploadKind;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::object::{Json, Key, Slot, Upload};

/// Events that wait; the oldest is dropped for the next one. Statuses are never dropped: each has one place.
const EVENTS: u32 = 1_000;

/// A page ends after this many uploads or bytes, whichever comes first.
const PAGE_UPLOADS: usize = 64;
const PAGE_BYTES: usize = 128 * 1024;

/// Puts an upload in its place behind all others and returns its number.
pub(super) fn submit(connection: &Connection, upload: &Upload) -> rusqlite::Result<u64> {
    let Slot { kind, key, uid } = &upload.slot;
    let seq: u64 = connection
        .prepare_cached("UPDATE counters SET seq = seq + 1 RETURNING seq")?
        .query_row([], |row| row.get(0))?;
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO outbox (seq, upload, kind, namespace, name, uid, json)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![seq, *kind as i32, key.kind, key.namespace, key.name, uid, &upload.json.0[..]])?;
    if *kind == UploadKind::Event {
        drop_oldest_events(connection)?;
    }
    Ok(seq)
}

fn drop_oldest_events(connection: &Connection) -> rusqlite::Result<()> {
    let event = UploadKind::Event as i32;
    let waiting: u32 = connection
        .prepare_cached("SELECT count(*) FROM outbox WHERE upload = ?1")?
        .query_row([event], |row| row.get(0))?;
    let Some(excess) = waiting.checked_sub(EVENTS).filter(|&excess| excess > 0) else { return Ok(()) };
    let dropped = connection
        .prepare_cached(
            "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE upload = ?1 ORDER BY seq LIMIT ?2)",
        )?
        .execute(params![event, excess])?;
    connection
        .prepare_cached("UPDATE counters SET events_dropped = events_dropped + ?1")?
        .execute([dropped])?;
    Ok(())
}

/// The oldest uploads after number `after`.
pub(super) fn page(connection: &Connection, after: u64) -> rusqlite::Result<Vec<(u64, Upload)>> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, upload, kind, namespace, name, uid, json FROM outbox WHERE seq > ?1 ORDER BY seq",
    )?;
    let mut rows = statement.query([after])?;
    let mut uploads = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let json = Json(Bytes::copy_from_slice(row.get_ref(6)?.as_blob()?));
        bytes += json.0.len();
        uploads.push((row.get(0)?, Upload { slot: slot(row)?, json }));
        if bytes >= PAGE_BYTES || uploads.len() >= PAGE_UPLOADS {
            break;
        }
    }
    Ok(uploads)
}

/// Forgets exactly this upload; `None` where it is gone already or a newer one has its place.
pub(super) fn remove(connection: &Connection, seq: u64) -> rusqlite::Result<Option<Slot>> {
    connection
        .prepare_cached(
            "DELETE FROM outbox WHERE seq = ?1 RETURNING seq, upload, kind, namespace, name, uid",
        )?
        .query_row([seq], slot)
        .optional()
}

pub(super) fn events_dropped(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT events_dropped FROM counters", [], |row| row.get(0))
}

/// A row of seq, upload, kind, namespace, name, uid.
fn slot(row: &Row<'_>) -> rusqlite::Result<Slot> {
    let kind: i32 = row.get(1)?;
    Ok(Slot {
        kind: UploadKind::try_from(kind).unwrap_or_default(),
        key: Key { kind: row.get(2)?, namespace: row.get(3)?, name: row.get(4)? },
        uid: row.get(5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    fn upload(kind: UploadKind, name: &str) -> Upload {
        let key = Key { kind: "pod".into(), namespace: "default".into(), name: name.into() };
        Upload { slot: Slot { kind, key, uid: "a".into() }, json: name.as_bytes().to_vec().into() }
    }

    #[test]
    fn events_beyond_the_bound_cost_the_oldest_and_are_counted() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        submit(&connection, &upload(UploadKind::PodStatus, "status")).unwrap();
        for n in 0..EVENTS + 3 {
            submit(&connection, &upload(UploadKind::Event, &format!("e{n}"))).unwrap();
        }
        let waiting: u32 = connection.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0)).unwrap();
        assert_eq!(waiting, EVENTS + 1);
        let first: Vec<_> =
            page(&connection, 0).unwrap().into_iter().take(2).map(|(_, upload)| upload).collect();
        assert_eq!(first, [upload(UploadKind::PodStatus, "status"), upload(UploadKind::Event, "e3")]);
        assert_eq!(events_dropped(&connection).unwrap(), 3);
    }
}
