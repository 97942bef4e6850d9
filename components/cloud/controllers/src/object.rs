//! Kubernetes objects as the edges get them: the API's own JSON, and beside it the few facts a decision needs.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;
use wire::{Content, ResourcePath, WireError};

/// The kinds that are pushed to edges, in the order they are sent: what a pod needs before the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Node,
    ConfigMap,
    Secret,
    Pod,
}

impl Kind {
    /// KubeEdge's resource-type token.
    pub(crate) fn token(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
            Self::Pod => "pod",
        }
    }

    /// The Kubernetes kind.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::Pod => "Pod",
        }
    }

    /// The REST collection; all four are core/v1.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
            Self::Pod => "pods",
        }
    }

    /// From the Kubernetes kind, as ObjectSync records it.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Node, Self::ConfigMap, Self::Secret, Self::Pod].into_iter().find(|kind| kind.name() == name)
    }
}

/// Which object. `namespace` is empty for nodes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The path on the wire.
    pub(crate) fn path(&self) -> Result<ResourcePath, WireError> {
        ResourcePath::object(&self.namespace, self.kind.token(), &self.name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind.token(), self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind.token(), self.name),
        }
    }
}

/// One state of one object.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) key: Key,
    pub(crate) uid: String,
    /// `metadata.resourceVersion`; opaque in Kubernetes, a number on KubeEdge's wire.
    pub(crate) version: u64,
    /// Two states with the same essence differ only in what the edge itself reports (status) or does not use.
    pub(crate) essence: u64,
    /// The whole object with `kind` and `apiVersion`, without `metadata.managedFields`, which no edge uses.
    pub(crate) json: Content,
    /// Present for pods.
    pub(crate) pod: Option<PodFacts>,
}

/// What of a pod's spec decides about other objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodFacts {
    /// Empty while it is not bound.
    pub(crate) node: String,
    pub(crate) service_account: String,
    /// ConfigMaps and Secrets it names.
    pub(crate) references: BTreeSet<Key>,
    /// PersistentVolumeClaims it names.
    pub(crate) claims: BTreeSet<String>,
}

/// An object from the API that no edge can be sent.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{kind}: {field} {value:?} {reason}")]
pub(crate) struct BadObject {
    kind: &'static str,
    field: &'static str,
    value: String,
    reason: &'static str,
}

impl Object {
    /// Takes an object apart. Items of a list come without `kind` and `apiVersion`: they are filled in.
    pub(crate) fn from_value(kind: Kind, mut value: Value) -> Result<Self, BadObject> {
        let bad = |field, value: &str, reason| BadObject {
            kind: kind.name(),
            field,
            value: value.to_owned(),
            reason,
        };
        let Some(object) = value.as_object_mut() else {
            return Err(bad("the object", "", "is no JSON object"));
        };
        object.insert("kind".to_owned(), kind.name().into());
        object.insert("apiVersion".to_owned(), "v1".into());
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
            return Err(bad("metadata", "", "is missing"));
        };
        metadata.remove("managedFields");
        let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (name, namespace, uid, version) =
            (text("name"), text("namespace"), text("uid"), text("resourceVersion"));
        if name.is_empty() || uid.is_empty() {
            return Err(bad("metadata", &name, "has no name or no uid"));
        }
        let version =
            version.parse().map_err(|_| bad("metadata.resourceVersion", &version, "is not a number"))?;
        Ok(Self {
            key: Key { kind, namespace: namespace.clone(), name },
            uid,
            version,
            essence: essence(kind, &value),
            pod: (kind == Kind::Pod).then(|| PodFacts::of(&namespace, &value["spec"])),
            json: Content::value(&value).map_err(|_| bad("the object", "", "does not serialize"))?,
        })
    }

    /// The node a pod is bound to.
    pub(crate) fn node(&self) -> Option<&str> {
        self.pod.as_ref().map(|pod| pod.node.as_str()).filter(|node| !node.is_empty())
    }
}

/// A hash of what the edge must act on. Of pods and nodes that is not the status, which the edge wrote, but for the
/// conditions others write too: who finds a node silent sets its Ready, and its pods', and only the edge can set them back.
fn essence(kind: Kind, object: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    let reported_by_edge = matches!(kind, Kind::Pod | Kind::Node);
    for (name, part) in object.as_object().into_iter().flatten() {
        match (name.as_str(), part) {
            ("status", status) if reported_by_edge => {
                conditions(kind, status).for_each(|c| c.hash(&mut hasher));
            }
            ("metadata", Value::Object(metadata)) => {
                for (name, part) in metadata {
                    // The generation rises with the spec, which is hashed itself.
                    if !matches!(name.as_str(), "resourceVersion" | "generation" | "managedFields") {
                        (name, part.to_string()).hash(&mut hasher);
                    }
                }
            }
            _ => (name, part.to_string()).hash(&mut hasher),
        }
    }
    hasher.finish()
}

/// Type and status of the conditions an edge must know the cloud's view of.
fn conditions(kind: Kind, status: &Value) -> impl Iterator<Item = (String, String)> {
    items(&status["conditions"])
        .filter(move |condition| kind == Kind::Node || condition["type"] == "Ready")
        .map(|condition| (condition["type"].to_string(), condition["status"].to_string()))
}

impl PodFacts {
    fn of(namespace: &str, spec: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut facts = Self {
            node: text(&spec["nodeName"]),
            service_account: match text(&spec["serviceAccountName"]) {
                name if name.is_empty() => "default".to_owned(),
                name => name,
            },
            ..Self::default()
        };
        let mut add = |kind, name: &Value| {
            if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
                facts.references.insert(Key::new(kind, namespace, name));
            }
        };
        for volume in items(&spec["volumes"]) {
            add(Kind::ConfigMap, &volume["configMap"]["name"]);
            add(Kind::Secret, &volume["secret"]["secretName"]);
            add(Kind::Secret, &volume["azureFile"]["secretName"]);
            add(Kind::Secret, &volume["csi"]["nodePublishSecretRef"]["name"]);
            // cephfs, rbd, iscsi, flexVolume, scaleIO, storageos all spell it the same.
            for source in volume.as_object().into_iter().flat_map(serde_json::Map::values) {
                add(Kind::Secret, &source["secretRef"]["name"]);
            }
            for source in items(&volume["projected"]["sources"]) {
                add(Kind::ConfigMap, &source["configMap"]["name"]);
                add(Kind::Secret, &source["secret"]["name"]);
            }
        }
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            for container in items(&spec[list]) {
                for variable in items(&container["env"]) {
                    add(Kind::ConfigMap, &variable["valueFrom"]["configMapKeyRef"]["name"]);
                    add(Kind::Secret, &variable["valueFrom"]["secretKeyRef"]["name"]);
                }
                for source in items(&container["envFrom"]) {
                    add(Kind::ConfigMap, &source["configMapRef"]["name"]);
                    add(Kind::Secret, &source["secretRef"]["name"]);
                }
            }
        }
        for secret in items(&spec["imagePullSecrets"]) {
            add(Kind::Secret, &secret["name"]);
        }
        facts.claims = items(&spec["volumes"])
            .filter_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str())
            .map(str::to_owned)
            .collect();
        facts
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: &Value) -> Object {
        let metadata = json!({"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "7"});
        Object::from_value(
            Kind::Pod,
            json!({"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}}),
        )
        .unwrap()
    }

    fn changed(kind: Kind, base: &Value, pointer: &str, to: Value) -> bool {
        let before = Object::from_value(kind, base.clone()).unwrap();
        let mut after = base.clone();
        *after.pointer_mut(pointer).unwrap() = to;
        before.essence != Object::from_value(kind, after).unwrap().essence
    }

    #[test]
    fn every_place_that_names_a_configmap_or_secret_is_seen() {
        let object = pod(&json!({
            "volumes": [
                {"configMap": {"name": "c-volume"}},
                {"secret": {"secretName": "s-volume"}},
                {"projected": {"sources": [{"configMap": {"name": "c-projected"}}, {"secret": {"name": "s-projected"}}]}},
                {"csi": {"nodePublishSecretRef": {"name": "s-csi"}}},
                {"rbd": {"secretRef": {"name": "s-rbd"}}},
            ],
            "initContainers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "c-init"}}}]}],
            "containers": [{
                "env": [{"valueFrom": {"secretKeyRef": {"name": "s-env"}}}, {"value": "x"}],
                "envFrom": [{"configMapRef": {"name": "c-from"}}, {"secretRef": {"name": "s-from"}}],
            }],
            "ephemeralContainers": [{"envFrom": [{"secretRef": {"name": "s-ephemeral"}}]}],
            "imagePullSecrets": [{"name": "s-pull"}],
        }));
        let names: Vec<String> = object.pod.unwrap().references.iter().map(|key| key.name.clone()).collect();
        assert_eq!(
            names,
            [
                "c-from",
                "c-init",
                "c-projected",
                "c-volume",
                "s-csi",
                "s-env",
                "s-ephemeral",
                "s-from",
                "s-projected",
                "s-pull",
                "s-rbd",
                "s-volume"
            ]
        );
    }

    #[test]
    fn specs_of_any_shape_are_read_without_harm() {
        for spec in
            [json!(null), json!([]), json!({"volumes": {"a": 1}, "containers": [1, null, {"env": "x"}]})]
        {
            assert!(pod(&spec).pod.unwrap().references.is_empty());
        }
    }

    #[test]
    fn a_status_change_of_a_pod_is_no_change_for_the_edge() {
        let base = json!({
            "metadata": {"name": "p", "uid": "u", "resourceVersion": "1", "generation": 1, "labels": {"a": "b"}},
            "spec": {"nodeName": "n"},
            "status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": "True", "reason": ""}]},
        });
        assert!(!changed(Kind::Pod, &base, "/status/phase", json!("Running")));
        assert!(!changed(Kind::Pod, &base, "/status/conditions/0/reason", json!("x")));
        assert!(!changed(Kind::Pod, &base, "/metadata/resourceVersion", json!("2")));
        assert!(changed(Kind::Pod, &base, "/metadata/labels/a", json!("c")));
        assert!(changed(Kind::Pod, &base, "/spec/nodeName", json!("m")));
    }

    #[test]
    fn the_clouds_verdict_on_readiness_reaches_the_edge() {
        let base = json!({
            "metadata": {"name": "p", "uid": "u", "resourceVersion": "1"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        for kind in [Kind::Pod, Kind::Node] {
            assert!(changed(kind, &base, "/status/conditions/0/status", json!("False")));
        }
    }

    #[test]
    fn every_change_of_a_secrets_data_counts() {
        let base =
            json!({"metadata": {"name": "s", "uid": "u", "resourceVersion": "1"}, "data": {"k": "dg=="}});
        assert!(changed(Kind::Secret, &base, "/data/k", json!("dw==")));
        assert!(!changed(Kind::Secret, &base, "/metadata/resourceVersion", json!("2")));
    }

    #[test]
    fn what_is_sent_keeps_unknown_fields_and_names_its_kind() {
        let object = Object::from_value(
            Kind::Pod,
            json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "1", "managedFields": [{}], "new": 1},
                   "spec": {"newer": {"than": "us"}}}),
        )
        .unwrap();
        let sent: Value = serde_json::from_str(object.json.get()).unwrap();
        assert_eq!(sent["kind"], "Pod");
        assert_eq!(sent["apiVersion"], "v1");
        assert_eq!(sent["spec"]["newer"]["than"], "us");
        assert_eq!(sent["metadata"]["new"], 1);
        assert!(sent["metadata"].get("managedFields").is_none());
    }

    #[test]
    fn an_object_without_identity_or_numeric_version_is_named() {
        let bad = Object::from_value(
            Kind::Pod,
            json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "x"}}),
        );
        assert!(bad.unwrap_err().to_string().contains("metadata.resourceVersion \"x\""));
        assert!(Object::from_value(Kind::Pod, json!({"metadata": {"name": "p"}})).is_err());
        assert!(Object::from_value(Kind::Pod, json!(3)).is_err());
    }
}
