//! Objects, and the memory of deleted ones, in SQL.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, params};

use crate::decide::{Decision, Said, Stored, decide, ends_as_absent};
use crate::object::{Change, Event, Json, Key, Object};

/// Deletes that are remembered for watchers that come back and for late messages.
const TOMBSTONES: u32 = 1_000;

/// And for how long: whoever was away for a day lists again.
const TOMBSTONE_SECONDS: i64 = 24 * 3600;

/// A page ends after this many events or bytes, whichever comes first. It is what a watcher costs in memory.
const PAGE_EVENTS: u32 = 64;
const PAGE_BYTES: usize = 128 * 1024;

/// Kinds whose last body is not kept once they are deleted.
const SECRET_KINDS: [&str; 2] = ["secret", "serviceaccounttoken"];

/// In place of a body: the object was never here, only its delete. Late messages meet it; watchers are not told.
const NEVER_HERE: &[u8] = b"\0";

/// How far a watcher has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cursor {
    /// Nothing yet: wants what is there.
    List,
    /// Everything up to `after`. Deletes count from `deletes_after`: a listing has not shown what was gone before it.
    From { after: u64, deletes_after: u64 },
}

impl Cursor {
    /// Of a watcher that has seen everything up to `revision`.
    pub(crate) fn resume(revision: u64) -> Self {
        match revision {
            0 => Self::List,
            _ => Self::From { after: revision, deletes_after: revision },
        }
    }
}

/// A stretch of changes in the order of their revisions.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) events: Vec<Event>,
    /// Where the next page begins.
    pub(crate) next: Cursor,
    /// The revision up to which there is nothing more, when this is the last page for now.
    pub(crate) complete: Option<u64>,
}

/// What a watcher may have to be told instead of a page.
#[derive(Debug)]
pub(crate) enum Paged {
    Page(Page),
    /// Deletes it has not seen are forgotten, or its revision is not of this store.
    Compacted,
}

pub(super) fn get(connection: &Connection, key: &Key) -> rusqlite::Result<Option<Object>> {
    connection
        .prepare_cached(
            "SELECT revision, kind, namespace, name, uid, resource_version, json FROM objects
             WHERE kind = ?1 AND namespace = ?2 AND name = ?3",
        )?
        .query_row([&key.kind, &key.namespace, &key.name], object)
        .optional()
}

/// Applies the changes in order; `now` is in seconds since 1970. Returns how many counted.
pub(super) fn apply(connection: &Connection, changes: &[Change], now: i64) -> rusqlite::Result<usize> {
    let mut counted = 0;
    let mut buried = false;
    for change in changes {
        let stored = get(connection, &change.key)?;
        let said =
            Said { uid: &change.uid, resource_version: change.resource_version, json: change.json.as_ref() };
        let known = stored.as_ref().map(|object| Stored {
            uid: &object.uid,
            resource_version: object.resource_version,
            json: &object.json,
        });
        let deleted = deleted_version(connection, change)?;
        let decision = decide(known, deleted.filter(|_| change.json.is_some()), said);
        match (decision, &change.json, &stored) {
            (Decision::Put, Some(json), stored) => {
                // A message without a uid does not take away the one that is known.
                let known = stored.as_ref().filter(|_| change.uid.is_empty());
                put(connection, change, known.map_or(&change.uid, |object| &object.uid), json)?;
            }
            (Decision::Replace, Some(json), Some(old)) => {
                bury(connection, old, old.resource_version, now)?;
                put(connection, change, &change.uid, json)?;
                buried = true;
            }
            (Decision::Delete, _, Some(old)) => {
                // The version is the delete's own where it has one: everything older is late.
                bury(connection, old, old.resource_version.max(change.resource_version), now)?;
                remove(connection, &change.key)?;
                buried = true;
            }
            (Decision::Keep, None, _) if !change.uid.is_empty() => {
                // A put of that uid may still be on its way. Said again, it takes no more room.
                if deleted.is_none_or(|version| version < change.resource_version) {
                    let Change { key, uid, resource_version, .. } = change;
                    bury_as(connection, key, uid, *resource_version, NEVER_HERE, now)?;
                    buried = true;
                }
                continue;
            }
            _ => continue,
        }
        counted += 1;
    }
    if buried {
        compact(connection, now)?;
    }
    Ok(counted)
}

/// Removes an object that the cloud, asked for it at revision `asked_at`, does not have. Returns whether it was here.
pub(super) fn absent(connection: &Connection, key: &Key, asked_at: u64, now: i64) -> rusqlite::Result<bool> {
    let Some(object) = get(connection, key)?.filter(|object| ends_as_absent(object.revision, asked_at))
    else {
        return Ok(false);
    };
    bury(connection, &object, object.resource_version, now)?;
    remove(connection, key)?;
    compact(connection, now)?;
    Ok(true)
}

pub(super) fn page(connection: &Connection, cursor: Cursor, kinds: &[String]) -> rusqlite::Result<Paged> {
    let (head, compacted): (u64, u64) = connection
        .prepare_cached("SELECT revision, compacted FROM counters")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (after, deletes_after) = match cursor {
        Cursor::List => (0, head),
        Cursor::From { after, deletes_after } => (after, deletes_after),
    };
    let deletes_from = after.max(deletes_after);
    if deletes_from < compacted || deletes_from > head {
        return Ok(Paged::Compacted);
    }

    let mut statement = connection.prepare_cached(&page_sql(kinds.len()))?;
    let mut values: Vec<&dyn ToSql> = vec![&after, &deletes_from];
    values.extend(kinds.iter().map(|kind| kind as &dyn ToSql));
    let mut rows = statement.query(values.as_slice())?;

    let mut events = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let object = object(row)?;
        let revision = object.revision;
        bytes += object.json.0.len();
        events.push(if row.get(7)? { Event::Delete(object) } else { Event::Put(object) });
        if bytes >= PAGE_BYTES || events.len() >= PAGE_EVENTS as usize {
            let next = Cursor::From { after: revision, deletes_after };
            return Ok(Paged::Page(Page { events, next, complete: None }));
        }
    }
    let next = Cursor::From { after: head, deletes_after };
    Ok(Paged::Page(Page { events, next, complete: Some(head) }))
}

/// The kinds of objects that were put or ended after `revision`, each once.
pub(super) fn kinds_after(connection: &Connection, revision: u64) -> rusqlite::Result<Vec<String>> {
    // `NOT INDEXED` for the range of row ids that it is, instead of a walk through all kinds.
    connection
        .prepare_cached(
            "SELECT kind FROM objects NOT INDEXED WHERE revision > ?1
             UNION SELECT kind FROM tombstones NOT INDEXED WHERE revision > ?1",
        )?
        .query_map([revision], |row| row.get(0))?
        .collect()
}

/// Both sides are read in the order of their row ids and merged, so that a page costs what it holds. `NOT INDEXED`
/// because SQLite would rather find the kind by index, and then sort all that is left for each page.
fn page_sql(kinds: usize) -> String {
    let kinds = (3..kinds + 3).map(|index| format!("?{index}")).collect::<Vec<_>>().join(",");
    format!(
        "SELECT revision, kind, namespace, name, uid, resource_version, json, 0 FROM objects NOT INDEXED
             WHERE revision > ?1 AND kind IN ({kinds})
         UNION ALL
         SELECT revision, kind, namespace, name, uid, resource_version, json, 1 FROM tombstones NOT INDEXED
             WHERE revision > ?2 AND kind IN ({kinds}) AND json <> x'00'
         ORDER BY 1"
    )
}

/// The version at which the uid of a change was deleted under its key.
fn deleted_version(connection: &Connection, change: &Change) -> rusqlite::Result<Option<u64>> {
    if change.uid.is_empty() {
        return Ok(None);
    }
    let Key { kind, namespace, name } = &change.key;
    connection
        .prepare_cached(
            "SELECT max(resource_version) FROM tombstones
             WHERE kind = ?1 AND namespace = ?2 AND name = ?3 AND uid = ?4",
        )?
        .query_row([kind, namespace, name, &change.uid], |row| row.get(0))
}

fn next_revision(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("UPDATE counters SET revision = revision + 1 RETURNING revision")?
        .query_row([], |row| row.get(0))
}

fn put(connection: &Connection, change: &Change, uid: &str, json: &Json) -> rusqlite::Result<()> {
    let Key { kind, namespace, name } = &change.key;
    let revision = next_revision(connection)?;
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO objects (revision, kind, namespace, name, uid, resource_version, json)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![revision, kind, namespace, name, uid, change.resource_version, &json.0[..]])?;
    Ok(())
}

fn remove(connection: &Connection, key: &Key) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM objects WHERE kind = ?1 AND namespace = ?2 AND name = ?3")?
        .execute([&key.kind, &key.namespace, &key.name])?;
    Ok(())
}

/// Remembers that an object ended, and that messages of its uid older than `version` are late.
fn bury(connection: &Connection, object: &Object, version: u64, now: i64) -> rusqlite::Result<()> {
    let json: &[u8] = if SECRET_KINDS.contains(&object.key.kind.as_str()) { b"" } else { &object.json.0 };
    bury_as(connection, &object.key, &object.uid, version, json, now)
}

fn bury_as(
    connection: &Connection,
    key: &Key,
    uid: &str,
    version: u64,
    json: &[u8],
    now: i64,
) -> rusqlite::Result<()> {
    let revision = next_revision(connection)?;
    let Key { kind, namespace, name } = key;
    connection
        .prepare_cached(
            "INSERT INTO tombstones (revision, kind, namespace, name, uid, resource_version, json, deleted_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![revision, kind, namespace, name, uid, version, json, now])?;
    Ok(())
}

/// Forgets deletes beyond the bounds. The wall clock may jump; the worst of it is a watcher that lists again.
fn compact(connection: &Connection, now: i64) -> rusqlite::Result<()> {
    let upto: Option<u64> = connection
        .prepare_cached(
            "SELECT max(revision) FROM tombstones WHERE deleted_at < ?1
                 OR revision <= (SELECT revision FROM tombstones ORDER BY revision DESC LIMIT 1 OFFSET ?2)",
        )?
        .query_row(params![now - TOMBSTONE_SECONDS, TOMBSTONES], |row| row.get(0))?;
    if let Some(upto) = upto {
        connection.prepare_cached("DELETE FROM tombstones WHERE revision <= ?1")?.execute([upto])?;
        connection.prepare_cached("UPDATE counters SET compacted = ?1")?.execute([upto])?;
    }
    Ok(())
}

/// A row of revision, kind, namespace, name, uid, resource_version, json.
fn object(row: &Row<'_>) -> rusqlite::Result<Object> {
    Ok(Object {
        revision: row.get(0)?,
        key: Key { kind: row.get(1)?, namespace: row.get(2)?, name: row.get(3)? },
        uid: row.get(4)?,
        resource_version: row.get(5)?,
        json: Json(Bytes::copy_from_slice(row.get_ref(6)?.as_blob()?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    fn store() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        connection
    }

    fn change(name: &str, uid: &str, resource_version: u64, json: Option<&str>) -> Change {
        let key = Key { kind: "pod".into(), namespace: "default".into(), name: name.into() };
        Change {
            key,
            uid: uid.into(),
            resource_version,
            json: json.map(|text| text.as_bytes().to_vec().into()),
        }
    }

    fn head(connection: &Connection) -> u64 {
        connection.query_row("SELECT revision FROM counters", [], |row| row.get(0)).unwrap()
    }

    /// Everything from `cursor` on, page by page.
    fn read(connection: &Connection, mut cursor: Cursor) -> Option<Vec<Event>> {
        let mut events = Vec::new();
        loop {
            match page(connection, cursor, &["pod".to_owned()]).unwrap() {
                Paged::Compacted => return None,
                Paged::Page(page) => {
                    events.extend(page.events);
                    cursor = page.next;
                    if page.complete.is_some() {
                        return Some(events);
                    }
                }
            }
        }
    }

    fn names(events: &[Event]) -> Vec<String> {
        let name = |event: &Event| match event {
            Event::Put(object) => format!("+{}:{}", object.key.name, object.uid),
            Event::Delete(object) => format!("-{}:{}", object.key.name, object.uid),
        };
        events.iter().map(name).collect()
    }

    #[test]
    fn recreated_object_ends_the_old_one_before_it_begins() {
        let store = store();
        apply(&store, &[change("web", "a", 5, Some("{}"))], 0).unwrap();
        let seen = head(&store);
        apply(&store, &[change("web", "b", 6, Some("{}"))], 0).unwrap();
        assert_eq!(names(&read(&store, Cursor::resume(seen)).unwrap()), ["-web:a", "+web:b"]);
        assert_eq!(names(&read(&store, Cursor::List).unwrap()), ["+web:b"]);
    }

    #[test]
    fn recreated_object_of_a_lower_version_is_the_new_one_and_the_old_one_is_gone() {
        let store = store();
        apply(&store, &[change("web", "a", 900, Some("{}"))], 0).unwrap();
        let seen = head(&store);
        apply(&store, &[change("web", "b", 3, Some("{}"))], 0).unwrap();
        assert_eq!(names(&read(&store, Cursor::resume(seen)).unwrap()), ["-web:a", "+web:b"]);
        // What is still on its way about the old one.
        let late = [change("web", "a", 900, Some("{}")), change("web", "a", 901, None)];
        assert_eq!(apply(&store, &late, 0).unwrap(), 0);
        assert_eq!(names(&read(&store, Cursor::List).unwrap()), ["+web:b"]);
    }

    #[test]
    fn message_without_a_uid_leaves_the_known_one() {
        let store = store();
        apply(&store, &[change("web", "a", 1, Some("{}")), change("web", "", 2, Some("{}"))], 0).unwrap();
        assert_eq!(names(&read(&store, Cursor::List).unwrap()), ["+web:a"]);
        assert_eq!(apply(&store, &[change("web", "b", 3, None)], 0).unwrap(), 0);
    }

    #[test]
    fn absent_object_ends_unless_it_came_after_the_question() {
        let store = store();
        apply(&store, &[change("web", "a", 1, Some("{}"))], 0).unwrap();
        let key = change("web", "a", 1, None).key;
        let asked_at = head(&store);
        apply(&store, &[change("web", "a", 2, Some("{}"))], 0).unwrap();
        assert!(!absent(&store, &key, asked_at, 0).unwrap());
        let seen = head(&store);
        assert!(absent(&store, &key, seen, 0).unwrap());
        assert!(!absent(&store, &key, head(&store), 0).unwrap());
        assert_eq!(names(&read(&store, Cursor::resume(seen)).unwrap()), ["-web:a"]);
        // Back, unchanged.
        assert_eq!(apply(&store, &[change("web", "a", 2, Some("{}"))], 0).unwrap(), 1);
    }

    #[test]
    fn late_message_of_a_deleted_object_is_ignored() {
        let store = store();
        let live = [change("web", "a", 5, Some("{}")), change("web", "a", 0, None)];
        apply(&store, &live, 0).unwrap();
        assert_eq!(apply(&store, &[change("web", "a", 4, Some("{}"))], 0).unwrap(), 0);
        assert_eq!(apply(&store, &[change("web", "a", 5, Some("{}"))], 0).unwrap(), 1);
    }

    #[test]
    fn late_put_of_an_object_whose_delete_came_first_does_not_shut_out_the_living_one() {
        let store = store();
        let seen = head(&store);
        let delete = change("web", "a", 12, None);
        let said = [delete.clone(), change("web", "b", 20, Some("{}")), change("web", "a", 10, Some("{}"))];
        assert_eq!(apply(&store, &said, 0).unwrap(), 1);
        assert_eq!(apply(&store, &[change("web", "b", 21, Some("{}"))], 0).unwrap(), 1);
        // Nobody hears of what never was here, and the same delete again changes nothing.
        assert_eq!(names(&read(&store, Cursor::resume(seen)).unwrap()), ["+web:b"]);
        let before = head(&store);
        assert_eq!(apply(&store, &[delete], 0).unwrap(), 0);
        assert_eq!(head(&store), before);
    }

    #[test]
    fn object_that_lost_its_name_to_a_late_put_takes_it_back() {
        let store = store();
        let said = [change("web", "b", 20, Some("{}")), change("web", "a", 10, Some("{}"))];
        apply(&store, &said, 0).unwrap();
        assert_eq!(apply(&store, &[change("web", "b", 20, Some("{}"))], 0).unwrap(), 0);
        assert_eq!(apply(&store, &[change("web", "b", 21, Some("{}"))], 0).unwrap(), 1);
        assert_eq!(names(&read(&store, Cursor::List).unwrap()), ["+web:b"]);
    }

    #[test]
    fn body_of_a_deleted_secret_is_forgotten() {
        let store = store();
        let mut secret = change("token", "a", 1, Some("{\"data\":1}"));
        secret.key.kind = "secret".into();
        apply(&store, &[secret.clone(), Change { json: None, ..secret }], 0).unwrap();
        let kept: i64 =
            store.query_row("SELECT sum(length(json)) FROM tombstones", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 0);
    }

    #[test]
    fn listing_shows_an_object_that_is_deleted_meanwhile_only_with_its_delete() {
        let store = store();
        let many: Vec<_> =
            (0..PAGE_EVENTS + 10).map(|n| change(&format!("p{n}"), "a", 1, Some("{}"))).collect();
        apply(&store, &many, 0).unwrap();
        let Paged::Page(first) = page(&store, Cursor::List, &["pod".to_owned()]).unwrap() else { panic!() };
        assert!(first.complete.is_none());
        apply(&store, &[change("p3", "a", 0, None)], 0).unwrap();
        let rest = read(&store, first.next).unwrap();
        assert_eq!(names(&rest).last().unwrap(), "-p3:a");
        assert_eq!(names(&rest).len(), 11);
    }

    #[test]
    fn page_is_read_in_order_and_not_sorted() {
        let store = store();
        for kinds in 1..4 {
            let mut statement = store.prepare(&format!("EXPLAIN QUERY PLAN {}", page_sql(kinds))).unwrap();
            let plan = statement
                .query_map(rusqlite::params_from_iter(vec![0; kinds + 2]), |row| row.get::<_, String>(3))
                .unwrap()
                .map(Result::unwrap)
                .collect::<Vec<_>>();
            assert!(plan.iter().any(|step| step.contains("INTEGER PRIMARY KEY")), "{plan:?}");
            assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:?}");
        }
    }

    #[test]
    fn page_ends_at_its_bytes() {
        let store = store();
        let large = "x".repeat(PAGE_BYTES);
        let two = [change("a", "a", 1, Some(&large)), change("b", "b", 1, Some(&large))];
        apply(&store, &two, 0).unwrap();
        let Paged::Page(first) = page(&store, Cursor::List, &["pod".to_owned()]).unwrap() else { panic!() };
        assert_eq!(first.events.len(), 1);
        assert_eq!(read(&store, first.next).unwrap().len(), 1);
    }

    #[test]
    fn deletes_beyond_the_bound_compact_those_who_have_not_seen_them() {
        let store = store();
        apply(&store, &[change("first", "a", 1, Some("{}"))], 0).unwrap();
        let before = head(&store);
        apply(&store, &[change("first", "a", 0, None)], 0).unwrap();
        let after = head(&store);
        for n in 0..TOMBSTONES {
            let name = format!("p{n}");
            apply(&store, &[change(&name, "a", 1, Some("{}")), change(&name, "a", 0, None)], 0).unwrap();
        }
        assert!(read(&store, Cursor::resume(before)).is_none());
        assert_eq!(read(&store, Cursor::resume(after)).unwrap().len() as u64, u64::from(TOMBSTONES));
        assert!(read(&store, Cursor::List).unwrap().is_empty());
    }

    #[test]
    fn deletes_of_yesterday_are_forgotten() {
        let store = store();
        apply(&store, &[change("old", "a", 1, Some("{}"))], 0).unwrap();
        let before = head(&store);
        apply(&store, &[change("old", "a", 0, None)], 0).unwrap();
        apply(
            &store,
            &[change("new", "a", 1, Some("{}")), change("new", "a", 0, None)],
            TOMBSTONE_SECONDS + 1,
        )
        .unwrap();
        assert!(read(&store, Cursor::resume(before)).is_none());
    }

    #[test]
    fn revision_of_another_store_is_compacted() {
        let store = store();
        assert!(read(&store, Cursor::resume(head(&store) + 1)).is_none());
        assert!(read(&store, Cursor::resume(1)).is_none());
    }
}
