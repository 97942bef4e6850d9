//! What the store holds: parsed once from a request, with bodies that never show in a log.

use std::fmt;

use bytes::Bytes;
use proto::metamanager::UploadKind;

/// Names one object: `kind` is KubeEdge's resource-type token, `namespace` is empty for cluster scope.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// A JSON body as it came. It may be a Secret, so `Debug` tells its size only.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Json(pub(crate) Bytes);

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

impl From<Vec<u8>> for Json {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

/// What the cloud says about one object. `json` is absent for a delete, `resource_version` 0 where it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) resource_version: u64,
    pub(crate) json: Option<Json>,
}

/// An object at one local revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) resource_version: u64,
    pub(crate) revision: u64,
    pub(crate) json: Json,
}

/// One step in the life of an object, as a watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Put(Object),
    /// With the last known body; empty for kinds that hold secrets.
    Delete(Object),
}

/// Something the node must tell the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upload {
    pub(crate) slot: Slot,
    pub(crate) json: Json,
}

/// Where an upload waits. There is one place per slot, so a newer value takes the place of an older one; events queue
/// because each has a name of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) kind: UploadKind,
    pub(crate) key: Key,
    pub(crate) uid: String,
}
