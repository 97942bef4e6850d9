use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::log::{Change, Event};
use super::watchers::{Subscription, Watchers};
use crate::error::ApiError;
use crate::object;
use crate::resources::Resource;
use crate::selectors::Facets;

/// 1.5 MiB: etcd's default request limit, which Kubernetes clients know as the largest object.
pub(crate) const OBJECT_LIMIT: usize = 1536 * 1024;

/// Changes a watch may replay at once; one that is further behind lists again, which costs less.
const REPLAY: usize = 1000;

/// Names one object.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) resource: &'static Resource,
    /// "" for cluster-scoped resources.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn of(resource: &'static Resource, object: &Value) -> Self {
        Self {
            resource,
            namespace: object::namespace(object).to_owned(),
            name: object::name(object).to_owned(),
        }
    }
}

/// One row of a list.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) body: Bytes,
}

/// The store as one job sees it, inside a transaction.
pub(crate) struct Work<'a> {
    connection: &'a Connection,
    version: u64,
    compacted: u64,
    watchers: &'a mut Watchers,
    events: Vec<Arc<Event>>,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        connection: &'a Connection,
        version: u64,
        compacted: u64,
        watchers: &'a mut Watchers,
    ) -> Self {
        Self { connection, version, compacted, watchers, events: Vec::new() }
    }

    /// The newest version.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn changed(&self) -> bool {
        !self.events.is_empty()
    }

    pub(super) fn change_count(&self) -> u64 {
        self.events.len() as u64
    }

    pub(super) fn finish(self) -> (u64, Vec<Arc<Event>>) {
        (self.version, self.events)
    }

    /// Runs `job`; if it fails, all it did is undone.
    pub(super) fn atomically<T>(
        &mut self,
        job: impl FnOnce(&mut Self) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let (version, events) = (self.version, self.events.len());
        self.connection.execute_batch("SAVEPOINT job")?;
        let result = job(self);
        // After a full disk the savepoint is gone with its transaction; the owner notices and fails the batch.
        if self.connection.is_autocommit() {
            return result;
        }
        if result.is_err() {
            self.version = version;
            self.events.truncate(events);
            self.connection.execute_batch("ROLLBACK TO job")?;
        }
        self.connection.execute_batch("RELEASE job")?;
        result
    }

    /// The object's bytes as stored.
    pub(crate) fn get_bytes(&self, key: &Key) -> Result<Option<Bytes>, ApiError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT body FROM objects WHERE resource = ?1 AND namespace = ?2 AND name = ?3",
        )?;
        let body = statement
            .query_row(params![key.resource.qualified(), key.namespace, key.name], |row| {
                row.get::<_, Vec<u8>>(0)
            })
            .optional()?;
        Ok(body.map(Bytes::from))
    }

    /// The object.
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Value>, ApiError> {
        self.get_bytes(key)?.map(|body| parse(&body)).transpose()
    }

    /// The object, or the error a client gets when there is none.
    pub(crate) fn require(&self, key: &Key) -> Result<Value, ApiError> {
        self.get(key)?.ok_or_else(|| ApiError::not_found(key.resource, &key.name))
    }

    /// Objects by namespace and name, those after `start` only, at most `limit`.
    pub(crate) fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        start: Option<(&str, &str)>,
        limit: usize,
    ) -> Result<Vec<Listed>, ApiError> {
        let (after_namespace, after_name) = start.unwrap_or_default();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let row = |row: &rusqlite::Row<'_>| {
            Ok(Listed {
                namespace: row.get(0)?,
                name: row.get(1)?,
                body: Bytes::from(row.get::<_, Vec<u8>>(2)?),
            })
        };
        let resource = resource.qualified();
        let rows = match namespace {
            Some(namespace) => self
                .connection
                .prepare_cached(
                    "SELECT namespace, name, body FROM objects WHERE resource = ?1 AND namespace = ?2 AND name > ?3
                     ORDER BY name LIMIT ?4",
                )?
                .query_map(params![resource, namespace, after_name, limit], row)?
                .collect::<Result<Vec<_>, _>>()?,
            None => self
                .connection
                .prepare_cached(
                    "SELECT namespace, name, body FROM objects WHERE resource = ?1 AND (namespace, name) > (?2, ?3)
                     ORDER BY namespace, name LIMIT ?4",
                )?
                .query_map(params![resource, after_namespace, after_name, limit], row)?
                .collect::<Result<Vec<_>, _>>()?,
        };
        Ok(rows)
    }

    /// Every object of a resource, parsed.
    pub(crate) fn all(&self, resource: &Resource, namespace: Option<&str>) -> Result<Vec<Value>, ApiError> {
        self.list(resource, namespace, None, usize::MAX)?.iter().map(|row| parse(&row.body)).collect()
    }

    /// Whether any object lives in the namespace.
    pub(crate) fn namespace_has_content(&self, namespace: &str) -> Result<bool, ApiError> {
        let found = self
            .connection
            .prepare_cached("SELECT 1 FROM objects WHERE namespace = ?1 LIMIT 1")?
            .exists(params![namespace])?;
        Ok(found)
    }

    /// Stores the object as a new version, which it is given. `before` is the stored one, if there is.
    pub(crate) fn put(
        &mut self,
        resource: &'static Resource,
        mut object: Value,
        before: Option<&Value>,
    ) -> Result<Value, ApiError> {
        let change = if before.is_some() { Change::Modified } else { Change::Added };
        let body = self.next_version(&mut object)?;
        let key = Key::of(resource, &object);
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO objects VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![resource.qualified(), key.namespace, key.name, self.version, body.as_ref()])?;
        self.log(change, key, body, before)?;
        Ok(object)
    }

    /// Removes the object; returns its last state with the version of the removal.
    pub(crate) fn remove(&mut self, resource: &'static Resource, before: &Value) -> Result<Value, ApiError> {
        let mut last = before.clone();
        let body = self.next_version(&mut last)?;
        let key = Key::of(resource, &last);
        self.connection
            .prepare_cached("DELETE FROM objects WHERE resource = ?1 AND namespace = ?2 AND name = ?3")?
            .execute(params![resource.qualified(), key.namespace, key.name])?;
        self.log(Change::Deleted, key, body, Some(before))?;
        Ok(last)
    }

    fn next_version(&mut self, object: &mut Value) -> Result<Bytes, ApiError> {
        self.version += 1;
        object::metadata(object).insert("resourceVersion".into(), self.version.to_string().into());
        let body = serde_json::to_vec(object).map_err(ApiError::internal)?;
        if body.len() > OBJECT_LIMIT {
            return Err(ApiError::too_large(object::name(object), OBJECT_LIMIT));
        }
        Ok(Bytes::from(body))
    }

    fn log(&mut self, change: Change, key: Key, body: Bytes, before: Option<&Value>) -> Result<(), ApiError> {
        let before = before.map(|object| Facets::of(key.resource, object));
        let facets = before.as_ref().map(serde_json::to_vec).transpose().map_err(ApiError::internal)?;
        self.connection.prepare_cached("INSERT INTO log VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(
            params![
                self.version,
                change.code(),
                key.resource.qualified(),
                key.namespace,
                key.name,
                body.as_ref(),
                facets
            ],
        )?;
        self.events.push(Arc::new(Event {
            version: self.version,
            change,
            resource: key.resource,
            namespace: key.namespace,
            body,
            before,
        }));
        Ok(())
    }

    /// Makes the disk look full beyond `pages`.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) -> Result<(), ApiError> {
        Ok(self.connection.pragma_update(None, "max_page_count", pages)?)
    }

    /// Follows changes from now on.
    pub(crate) fn subscribe(&mut self, resource: &'static Resource, namespace: Option<&str>) -> Subscription {
        self.watchers.subscribe(resource, namespace, self.version)
    }

    /// The changes after `version`, oldest first. 410 when some of them are no longer kept or they are too many.
    pub(crate) fn changes_since(
        &self,
        resource: &'static Resource,
        namespace: Option<&str>,
        version: u64,
    ) -> Result<Vec<Arc<Event>>, ApiError> {
        let too_old =
            |oldest: u64| ApiError::expired(format!("too old resource version: {version} ({oldest})"));
        if version < self.compacted {
            return Err(too_old(self.compacted));
        }
        let mut statement = self.connection.prepare_cached(
            "SELECT version, change, namespace, body, before FROM log
             WHERE resource = ?1 AND version > ?2 AND (?3 IS NULL OR namespace = ?3) ORDER BY version LIMIT ?4",
        )?;
        let limit = i64::try_from(REPLAY + 1).unwrap_or(i64::MAX);
        let events = statement
            .query_map(params![resource.qualified(), version, namespace, limit], |row| {
                let before: Option<Vec<u8>> = row.get(4)?;
                Ok(Arc::new(Event {
                    version: row.get(0)?,
                    change: Change::from_code(row.get(1)?),
                    resource,
                    namespace: row.get(2)?,
                    body: Bytes::from(row.get::<_, Vec<u8>>(3)?),
                    // Our own bytes; unreadable ones would only make a MODIFIED out of an ADDED.
                    before: before.and_then(|bytes| serde_json::from_slice(&bytes).ok()),
                }))
            })?
            .collect::<Result<Vec<_>, _>>()?;
        if events.len() > REPLAY { Err(too_old(self.version)) } else { Ok(events) }
    }
}

/// Reads what this store wrote.
fn parse(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body)
        .map_err(|e| ApiError::internal(format_args!("a stored object is damaged: {e}")))
}
