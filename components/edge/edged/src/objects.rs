//! ConfigMaps and Secrets the node knows, decoded once: what pods' environments and volumes are filled from.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use crate::model::Pod;

/// The two kinds of objects pods take data from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ObjectKind {
    /// core/v1 ConfigMap.
    ConfigMap,
    /// core/v1 Secret.
    Secret,
}

impl ObjectKind {
    /// KubeEdge's resource-type token.
    pub(crate) fn token(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }

    /// The kind a token names.
    pub(crate) fn from_token(token: &str) -> Option<Self> {
        match token {
            "configmap" => Some(Self::ConfigMap),
            "secret" => Some(Self::Secret),
            _ => None,
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

/// Key to bytes: `data`, `binaryData` and `stringData` in one.
pub(crate) type Data = BTreeMap<String, Vec<u8>>;

/// The decoded objects, by kind, namespace and name. Its `Debug` shows names only: values may be secret.
#[derive(Clone, Default)]
pub(crate) struct Objects {
    by_name: BTreeMap<(ObjectKind, String, String), Arc<Data>>,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

impl Objects {
    /// Stores what `json` holds. Says whether the data differ from what was known.
    pub(crate) fn put(
        &mut self,
        kind: ObjectKind,
        namespace: &str,
        name: &str,
        json: &[u8],
    ) -> Result<bool, serde_json::Error> {
        let data = decode(kind, json)?;
        let key = (kind, namespace.to_owned(), name.to_owned());
        if self.by_name.get(&key).is_some_and(|known| **known == data) {
            return Ok(false);
        }
        self.by_name.insert(key, Arc::new(data));
        Ok(true)
    }

    /// Forgets an object. Running pods keep the files they have, as the kubelet leaves them.
    pub(crate) fn remove(&mut self, kind: ObjectKind, namespace: &str, name: &str) {
        self.by_name.remove(&(kind, namespace.to_owned(), name.to_owned()));
    }

    /// The data of an object, if it is known.
    pub(crate) fn get(&self, kind: ObjectKind, namespace: &str, name: &str) -> Option<&Arc<Data>> {
        self.by_name.get(&(kind, namespace.to_owned(), name.to_owned()))
    }
}

fn decode(kind: ObjectKind, json: &[u8]) -> Result<Data, serde_json::Error> {
    let mut data = Data::new();
    match kind {
        ObjectKind::ConfigMap => {
            let object: core::ConfigMap = serde_json::from_slice(json)?;
            data.extend(object.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0)));
            data.extend(object.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes())));
        }
        ObjectKind::Secret => {
            let object: core::Secret = serde_json::from_slice(json)?;
            data.extend(object.data.into_iter().flatten().map(|(key, value)| (key, value.0)));
            data.extend(
                object.string_data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes())),
            );
        }
    }
    Ok(data)
}

/// An object a pod names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// ConfigMap or Secret.
    pub kind: ObjectKind,
    /// Its name, in the pod's namespace.
    pub name: String,
    /// The pod can run without it.
    pub optional: bool,
}

/// Every ConfigMap and Secret the pod names, each once; required wins where a pod names one both ways.
pub(crate) fn references(pod: &Pod) -> Vec<Reference> {
    let mut found = BTreeMap::<(ObjectKind, String), bool>::new();
    let mut add = |kind, name: Option<&str>, optional: Option<bool>| {
        let Some(name) = name.filter(|name| !name.is_empty()) else { return };
        let optional = optional.unwrap_or(false);
        found.entry((kind, name.to_owned())).and_modify(|o| *o &= optional).or_insert(optional);
    };
    let spec = pod.spec();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for source in container.env_from.iter().flatten() {
            if let Some(map) = &source.config_map_ref {
                add(ObjectKind::ConfigMap, Some(&map.name), map.optional);
            }
            if let Some(secret) = &source.secret_ref {
                add(ObjectKind::Secret, Some(&secret.name), secret.optional);
            }
        }
        for source in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
            if let Some(map) = &source.config_map_key_ref {
                add(ObjectKind::ConfigMap, Some(&map.name), map.optional);
            }
            if let Some(secret) = &source.secret_key_ref {
                add(ObjectKind::Secret, Some(&secret.name), secret.optional);
            }
        }
    }
    for volume in spec.volumes.iter().flatten() {
        if let Some(map) = &volume.config_map {
            add(ObjectKind::ConfigMap, Some(&map.name), map.optional);
        }
        if let Some(secret) = &volume.secret {
            add(ObjectKind::Secret, secret.secret_name.as_deref(), secret.optional);
        }
        for source in volume.projected.iter().filter_map(|p| p.sources.as_ref()).flatten() {
            if let Some(map) = &source.config_map {
                add(ObjectKind::ConfigMap, Some(&map.name), map.optional);
            }
            if let Some(secret) = &source.secret {
                add(ObjectKind::Secret, Some(&secret.name), secret.optional);
            }
        }
    }
    // A missing pull secret does not keep a pod from running: the pull is tried without it, as the kubelet does.
    for secret in spec.image_pull_secrets.iter().flatten() {
        add(ObjectKind::Secret, Some(&secret.name), Some(true));
    }
    found.into_iter().map(|((kind, name), optional)| Reference { kind, name, optional }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn references_name_each_object_once_and_required_wins() {
        let pod = pod(r#"{
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "a", "optional": true}}],
                "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}],
            "initContainers": [{"name": "i", "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "a", "key": "k"}}}]}],
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [{"name": "p", "projected": {"sources": [{"configMap": {"name": "b"}}]}}]}"#);
        let found: Vec<_> =
            references(&pod).into_iter().map(|r| (r.kind.token(), r.name, r.optional)).collect();
        let expected = [
            ("configmap", "a", false),
            ("configmap", "b", false),
            ("secret", "pull", true),
            ("secret", "s", false),
        ];
        assert_eq!(found, expected.map(|(kind, name, optional)| (kind, name.to_owned(), optional)));
    }

    #[test]
    fn put_says_whether_the_data_changed() {
        let mut objects = Objects::default();
        let map = br#"{"data": {"k": "v"}, "binaryData": {"b": "AAE="}}"#;
        assert!(objects.put(ObjectKind::ConfigMap, "d", "m", map).expect("valid"));
        assert!(!objects.put(ObjectKind::ConfigMap, "d", "m", map).expect("valid"));
        let data = objects.get(ObjectKind::ConfigMap, "d", "m").expect("stored");
        assert_eq!(data["b"], [0, 1]);
        objects.remove(ObjectKind::ConfigMap, "d", "m");
        assert!(objects.get(ObjectKind::ConfigMap, "d", "m").is_none());
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let mut objects = Objects::default();
        objects.put(ObjectKind::Secret, "d", "s", br#"{"data": {"password": "czNjcmV0"}}"#).expect("valid");
        let text = format!("{objects:?}");
        assert!(text.contains("\"s\"") && !text.contains("115") && !text.contains("s3cret"), "{text}");
    }
}
