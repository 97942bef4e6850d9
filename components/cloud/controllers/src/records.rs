//! What each edge has acknowledged: KubeEdge's ObjectSync objects, named `<node>.<uid>`.
//!
//! They answer one question after both sides were away: which objects does the edge have that are gone from the API? So a
//! record is written before an acknowledgement counts, and removed when the edge acknowledged the delete.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex as AsyncMutex;

use crate::api::{Api, ApiResult, OBJECT_SYNCS, PatchKind};
use crate::object::{Key, Kind};

/// The records of all edges. Loaded once; this process is the only writer.
pub(crate) struct Records {
    api: Api,
    /// `None` until loaded.
    known: Mutex<Option<Known>>,
    loading: AsyncMutex<()>,
}

struct Known {
    /// Whether the API has the resource. Without it the records live as long as this process.
    stored: bool,
    /// By node, then uid.
    records: HashMap<String, HashMap<String, Record>>,
}

/// One object an edge has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Key,
    pub(crate) uid: String,
    version: u64,
}

/// What an edge acknowledged.
#[derive(Debug, Clone)]
pub(crate) struct Ack {
    pub(crate) key: Key,
    pub(crate) uid: String,
    /// `None` for a delete.
    pub(crate) version: Option<u64>,
}

#[derive(Deserialize)]
struct ObjectSync {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    object_kind: String,
    object_name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    object_resource_version: String,
}

impl Records {
    pub(crate) fn new(api: Api) -> Self {
        Self { api, known: Mutex::new(None), loading: AsyncMutex::new(()) }
    }

    /// What `node` has, of the kinds that are pushed.
    pub(crate) async fn of(&self, node: &str) -> ApiResult<Vec<Record>> {
        self.load().await?;
        let records =
            self.with(|known| known.records.get(node).map(|records| records.values().cloned().collect()));
        Ok(records.flatten().unwrap_or_default())
    }

    /// Writes down an acknowledgement; returns when it is written. Nodes have no record: they are never deleted on the edge.
    pub(crate) async fn acknowledged(&self, node: &str, ack: &Ack) -> ApiResult<()> {
        self.load().await?;
        if ack.key.kind == Kind::Node {
            return Ok(());
        }
        let (stored, before) = self
            .with(|known| {
                (known.stored, known.records.get(node).and_then(|records| records.get(&ack.uid).cloned()))
            })
            .unwrap_or((false, None));
        let name = format!("{node}.{}", ack.uid);
        match (ack.version, before) {
            (Some(version), Some(before)) if before.version >= version => return Ok(()),
            _ if !stored => {}
            (Some(version), before) => self.write(&name, ack, version, before.is_some()).await?,
            (None, _) => {
                match self.api.delete(OBJECT_SYNCS.object(&ack.key.namespace, &name), &json!({})).await {
                    Err(error) if error.code() != 404 => return Err(error),
                    _ => {}
                }
            }
        }
        self.with(|known| match ack.version {
            Some(version) => {
                let record = Record { key: ack.key.clone(), uid: ack.uid.clone(), version };
                known.records.entry(node.to_owned()).or_default().insert(ack.uid.clone(), record);
            }
            None => {
                if let Some(records) = known.records.get_mut(node) {
                    records.remove(&ack.uid);
                    if records.is_empty() {
                        known.records.remove(node);
                    }
                }
            }
        });
        Ok(())
    }

    async fn write(&self, name: &str, ack: &Ack, version: u64, exists: bool) -> ApiResult<()> {
        let status = json!({"status": {"objectResourceVersion": version.to_string()}});
        let path = OBJECT_SYNCS.object(&ack.key.namespace, name);
        if !exists {
            let body = json!({
                "apiVersion": "reliablesyncs.kubeedge.io/v1alpha1",
                "kind": "ObjectSync",
                "metadata": {"name": name, "namespace": ack.key.namespace},
                "spec": {"objectAPIVersion": "v1", "objectKind": ack.key.kind.name(), "objectName": ack.key.name},
            });
            match self.api.create(OBJECT_SYNCS.path(&ack.key.namespace), &body).await {
                // The namespace is gone, and with it the object: the delete is on its way.
                Err(error) if error.code() == 404 => return Ok(()),
                Err(error) if error.code() != 409 => return Err(error),
                _ => {}
            }
        }
        // The status is a subresource: a create does not take it.
        match self.api.patch(path + "/status", PatchKind::Merge, status.to_string()).await {
            Err(error) if error.code() != 404 => Err(error),
            _ => Ok(()),
        }
    }

    async fn load(&self) -> ApiResult<()> {
        if self.with(|_| ()).is_some() {
            return Ok(());
        }
        let _one_at_a_time = self.loading.lock().await;
        if self.with(|_| ()).is_some() {
            return Ok(());
        }
        let (stored, items) = match self.api.list(&OBJECT_SYNCS.path(""), "").await {
            Ok(items) => (true, items),
            Err(error) if error.code() == 404 => {
                tracing::warn!(
                    "the API does not know ObjectSync (reliablesyncs.kubeedge.io/v1alpha1): an object that is removed \
                     while edge and cloud are both away stays on the edge"
                );
                (false, Vec::new())
            }
            Err(error) => return Err(error),
        };
        let mut records: HashMap<String, HashMap<String, Record>> = HashMap::new();
        for (node, record) in items.into_iter().filter_map(read) {
            records.entry(node).or_default().insert(record.uid.clone(), record);
        }
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(Known { stored, records });
        Ok(())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Known) -> T) -> Option<T> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(f)
    }
}

/// Node and record; `None` for kinds that are not pushed from here. Node names may hold dots, uids do not.
fn read(value: Value) -> Option<(String, Record)> {
    let sync: ObjectSync = serde_json::from_value(value).ok()?;
    let (node, uid) = sync.metadata.name.rsplit_once('.')?;
    let kind = Kind::from_name(&sync.spec.object_kind)?;
    let record = Record {
        key: Key::new(kind, &sync.metadata.namespace, &sync.spec.object_name),
        uid: uid.to_owned(),
        // "0" is KubeEdge's "sent, never acknowledged": the edge may have it all the same.
        version: sync.status.object_resource_version.parse().unwrap_or(0),
    };
    Some((node.to_owned(), record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeedges_records_are_read() {
        let sync = json!({
            "metadata": {"name": "edge.1.site.6f1e-aa", "namespace": "default"},
            "spec": {"objectAPIVersion": "v1", "objectKind": "Pod", "objectName": "web-0"},
            "status": {"objectResourceVersion": "81234"},
        });
        let (node, record) = read(sync).unwrap();
        assert_eq!(node, "edge.1.site");
        let key = Key::new(Kind::Pod, "default", "web-0");
        assert_eq!(record, Record { key, uid: "6f1e-aa".into(), version: 81234 });
    }

    #[test]
    fn records_of_other_kinds_and_without_status_do_no_harm() {
        let sync = |kind: &str| json!({"metadata": {"name": "n.u"}, "spec": {"objectKind": kind, "objectName": "x"}});
        assert!(read(sync("Device")).is_none());
        assert_eq!(read(sync("Secret")).unwrap().1.version, 0);
        assert!(read(json!({"metadata": {"name": "nodot"}})).is_none());
    }
}
