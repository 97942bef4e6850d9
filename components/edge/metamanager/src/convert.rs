//! Requests become types here, once, with every bound checked; what leaves goes the other way.

use ipc::Fail;
use proto::metamanager::{self as wire, MetaManagerError, UploadKind};

use crate::object::{Change, Event, Json, Key, Object, Slot, Upload};

/// Bytes of a kind, namespace, name or uid: what Kubernetes allows a name.
const NAME: usize = 253;

/// Bytes of one body: twice what etcd accepts, and it fits a frame with its key.
const BODY: usize = 3 * 1024 * 1024;

/// Kinds one watcher may name.
const KINDS: usize = 64;

type Result<T> = std::result::Result<T, Fail<MetaManagerError>>;

fn invalid(message: String) -> Fail<MetaManagerError> {
    Fail::new(MetaManagerError::Invalid, message)
}

fn bounded(field: &str, value: String, limit: usize) -> Result<String> {
    match value.len() {
        len if len > limit => Err(invalid(format!("{field} is {len} bytes long, the limit is {limit}"))),
        _ => Ok(value),
    }
}

fn named(field: &str, value: String) -> Result<String> {
    match value.len() {
        0 => Err(invalid(format!("{field} is empty"))),
        _ => bounded(field, value, NAME),
    }
}

pub(crate) fn key(key: Option<wire::Key>) -> Result<Key> {
    let key = key.ok_or_else(|| invalid("key is missing".to_owned()))?;
    Ok(Key {
        kind: named("key.kind", key.kind)?,
        namespace: bounded("key.namespace", key.namespace, NAME)?,
        name: named("key.name", key.name)?,
    })
}

fn body(about: &dyn std::fmt::Display, json: bytes::Bytes) -> Result<Json> {
    match json.len() {
        0 => Err(invalid(format!("json of {about} is empty"))),
        len if len > BODY => {
            Err(invalid(format!("json of {about} is {len} bytes long, the limit is {BODY}")))
        }
        _ => Ok(Json(json)),
    }
}

pub(crate) fn change(change: wire::Change) -> Result<Change> {
    let key = key(change.key)?;
    if i64::try_from(change.resource_version).is_err() {
        return Err(invalid(format!(
            "resource_version of {key} is {}, beyond 2^63",
            change.resource_version
        )));
    }
    Ok(Change {
        uid: bounded("uid", change.uid, NAME)?,
        resource_version: change.resource_version,
        json: change.json.map(|json| body(&key, json)).transpose()?,
        key,
    })
}

pub(crate) fn upload(request: wire::SubmitRequest) -> Result<Upload> {
    let kind = match UploadKind::try_from(request.kind) {
        Ok(UploadKind::Unspecified) | Err(_) => {
            return Err(invalid(format!("kind {} is no upload this program knows", request.kind)));
        }
        Ok(kind) => kind,
    };
    let key = key(request.key)?;
    let json = body(&key, request.json)?;
    Ok(Upload { slot: Slot { kind, key, uid: bounded("uid", request.uid, NAME)? }, json })
}

/// The key of a query and its body, which may be empty.
pub(crate) fn query(request: wire::QueryRequest) -> Result<(Key, Json)> {
    let key = key(request.key)?;
    let json = if request.json.is_empty() { Json(request.json) } else { body(&key, request.json)? };
    Ok((key, json))
}

/// What a watcher wants to see: kinds, and the revision it has seen.
pub(crate) fn kinds(kinds: Vec<String>, deliveries: bool) -> Result<Vec<String>> {
    if kinds.len() > KINDS {
        return Err(invalid(format!("{} kinds are watched at once, the limit is {KINDS}", kinds.len())));
    }
    if kinds.is_empty() && !deliveries {
        return Err(invalid("kinds is empty".to_owned()));
    }
    kinds.into_iter().map(|kind| named("kinds", kind)).collect()
}

pub(crate) fn wire_key(key: Key) -> wire::Key {
    wire::Key { kind: key.kind, namespace: key.namespace, name: key.name }
}

pub(crate) fn wire_object(object: Object) -> wire::Object {
    wire::Object {
        key: Some(wire_key(object.key)),
        uid: object.uid,
        resource_version: object.resource_version,
        revision: object.revision,
        json: object.json.0,
    }
}

pub(crate) fn wire_event(event: Event) -> wire::watch_event::Event {
    match event {
        Event::Put(object) => wire::watch_event::Event::Put(wire_object(object)),
        Event::Delete(object) => wire::watch_event::Event::Delete(wire_object(object)),
    }
}

pub(crate) fn wire_upload(upload: Upload) -> wire::SubmitRequest {
    let Slot { kind, key, uid } = upload.slot;
    wire::SubmitRequest { kind: kind.into(), key: Some(wire_key(key)), uid, json: upload.json.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> wire::Key {
        wire::Key { kind: "pod".to_owned(), namespace: "default".to_owned(), name: name.to_owned() }
    }

    fn why<T: std::fmt::Debug>(result: Result<T>) -> String {
        let fail = result.unwrap_err();
        assert_eq!(fail.code, MetaManagerError::Invalid);
        fail.message
    }

    #[test]
    fn key_without_name_is_refused_by_field() {
        assert_eq!(why(key(Some(pod("")))), "key.name is empty");
        assert_eq!(why(key(None)), "key is missing");
    }

    #[test]
    fn name_beyond_its_limit_is_refused() {
        assert_eq!(why(key(Some(pod(&"n".repeat(254))))), "key.name is 254 bytes long, the limit is 253");
        assert!(key(Some(pod(&"n".repeat(253)))).is_ok());
    }

    #[test]
    fn body_beyond_its_limit_is_refused() {
        let json = Some(vec![b' '; BODY + 1].into());
        let change = wire::Change { key: Some(pod("web-0")), json, ..Default::default() };
        assert_eq!(
            why(super::change(change)),
            format!("json of pod default/web-0 is {} bytes long, the limit is {BODY}", BODY + 1)
        );
    }

    #[test]
    fn version_sqlite_cannot_count_is_refused() {
        let change =
            wire::Change { key: Some(pod("web-0")), resource_version: u64::MAX, ..Default::default() };
        assert!(why(super::change(change)).starts_with("resource_version of pod default/web-0"));
    }

    #[test]
    fn upload_of_an_unknown_kind_is_refused() {
        let request = wire::SubmitRequest { kind: 77, key: Some(pod("web-0")), ..Default::default() };
        assert_eq!(why(upload(request)), "kind 77 is no upload this program knows");
    }
}
