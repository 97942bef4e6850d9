//! A container's environment, as the kubelet makes it (`pkg/kubelet/kubelet_pods.go: makeEnvironmentVariables`):
//! `envFrom` first, then `env` in order, each value expanded with what came before.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use crate::model::{Allocatable, NodeFacts, Pod};
use crate::objects::{Data, ObjectKind, Objects};
use crate::quantity;

/// Why a container's configuration cannot be made: the message of `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A ConfigMap or Secret is not known on the node.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// Which kind.
        kind: ObjectKind,
        /// Its name.
        name: String,
    },
    /// The object has no such key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        /// Which kind.
        kind: ObjectKind,
        /// The pod's namespace.
        namespace: String,
        /// The object.
        name: String,
        /// The key.
        key: String,
    },
    /// A field reference edged does not know.
    #[error("unsupported fieldPath: {0}")]
    FieldPath(String),
    /// A resource reference that makes no sense.
    #[error("unsupported container resource: {0}")]
    Resource(String),
}

/// Names and values in the order the kubelet gives them; a later name replaces an earlier one in place.
pub(crate) fn environment(
    pod: &Pod,
    container: &core::Container,
    objects: &Objects,
    facts: &NodeFacts,
    pod_ips: &[IpAddr],
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut env = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or("");
        let from = match (&source.config_map_ref, &source.secret_ref) {
            (Some(map), _) => Some((ObjectKind::ConfigMap, &map.name, map.optional)),
            (_, Some(secret)) => Some((ObjectKind::Secret, &secret.name, secret.optional)),
            _ => None,
        };
        let Some((kind, name, optional)) = from else { continue };
        let Some(data) = find(pod, objects, kind, name, optional)? else { continue };
        for (key, value) in data {
            set(&mut env, format!("{prefix}{key}"), text(value));
        }
    }
    for var in container.env.iter().flatten() {
        let value = match &var.value_from {
            None => Some(expand(var.value.as_deref().unwrap_or(""), &env)),
            Some(source) => value_from(pod, container, objects, facts, pod_ips, source)?,
        };
        if let Some(value) = value {
            set(&mut env, var.name.clone(), value);
        }
    }
    Ok(env)
}

fn value_from(
    pod: &Pod,
    container: &core::Container,
    objects: &Objects,
    facts: &NodeFacts,
    pod_ips: &[IpAddr],
    source: &core::EnvVarSource,
) -> Result<Option<String>, ConfigError> {
    if let Some(field) = &source.field_ref {
        return field_value(pod, facts, pod_ips, &field.field_path).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(pod, Some(container), resource, facts.allocatable).map(Some);
    }
    let (kind, name, key, optional) = match (&source.config_map_key_ref, &source.secret_key_ref) {
        (Some(map), _) => (ObjectKind::ConfigMap, &map.name, &map.key, map.optional),
        (_, Some(secret)) => (ObjectKind::Secret, &secret.name, &secret.key, secret.optional),
        _ => return Ok(None),
    };
    let Some(data) = find(pod, objects, kind, name, optional)? else { return Ok(None) };
    match data.get(key) {
        Some(value) => Ok(Some(text(value))),
        None if optional == Some(true) => Ok(None),
        None => Err(ConfigError::NoKey {
            kind,
            namespace: pod.key.namespace.clone(),
            name: name.clone(),
            key: key.clone(),
        }),
    }
}

fn find<'a>(
    pod: &Pod,
    objects: &'a Objects,
    kind: ObjectKind,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<&'a Data>, ConfigError> {
    match objects.get(kind, &pod.key.namespace, name) {
        Some(data) => Ok(Some(data)),
        None if optional == Some(true) => Ok(None),
        None => Err(ConfigError::NotFound { kind, name: name.to_owned() }),
    }
}

/// The value of a downward API field, for environments and volumes alike.
pub(crate) fn field_value(
    pod: &Pod,
    facts: &NodeFacts,
    pod_ips: &[IpAddr],
    path: &str,
) -> Result<String, ConfigError> {
    let meta = &pod.object.metadata;
    let join = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(meta.labels.as_ref().and_then(|l| l.get(key)).cloned().unwrap_or_default());
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(meta.annotations.as_ref().and_then(|a| a.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => pod.key.name.clone(),
        "metadata.namespace" => pod.key.namespace.clone(),
        "metadata.uid" => pod.uid.clone(),
        "metadata.labels" => quoted_lines(meta.labels.iter().flatten()),
        "metadata.annotations" => quoted_lines(meta.annotations.iter().flatten()),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => pod.spec().service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => join(&facts.host_ips),
        "status.podIP" => first(pod_ips),
        "status.podIPs" => join(pod_ips),
        other => return Err(ConfigError::FieldPath(other.to_owned())),
    })
}

/// `metadata.labels['key']` → `key`.
fn subscript<'a>(path: &'a str, of: &str) -> Option<&'a str> {
    let inner = path.strip_prefix(of)?.strip_prefix('[')?.strip_suffix(']')?;
    let inner = inner.trim();
    inner
        .strip_prefix('\'')
        .and_then(|i| i.strip_suffix('\''))
        .or_else(|| inner.strip_prefix('"')?.strip_suffix('"'))
}

/// `key="value"` a line, as the kubelet's `fieldpath.FormatMap` writes label files.
fn quoted_lines<'a>(entries: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    entries.map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// The value of a `resourceFieldRef`: the container's own number, the node's where it has none, divided and rounded up.
pub(crate) fn resource_value(
    pod: &Pod,
    own: Option<&core::Container>,
    selector: &core::ResourceFieldSelector,
    node: Allocatable,
) -> Result<String, ConfigError> {
    let unknown = || ConfigError::Resource(selector.resource.clone());
    let spec = pod.spec();
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        Some(name) => spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .find(|c| c.name == name)
            .ok_or_else(unknown)?,
        None => own.ok_or_else(unknown)?,
    };
    let (list, resource) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.as_ref();
    let given = match list {
        "limits" => resources.and_then(|r| r.limits.as_ref()),
        "requests" => resources.and_then(|r| r.requests.as_ref()),
        _ => return Err(unknown()),
    }
    .and_then(|list| list.get(resource))
    .map(|quantity| quantity.0.as_str());
    let is_limit = list == "limits";
    let fallback = |of_node: i64| if is_limit { of_node } else { 0 };
    let divisor = selector.divisor.as_ref().map(|d| d.0.as_str()).filter(|d| !d.is_empty() && *d != "0");
    let (value, divisor) = if resource == "cpu" {
        let value = given.map_or(Some(fallback(node.cpu_millis)), quantity::milli);
        (value, divisor.map_or(Some(1000), quantity::milli))
    } else {
        let of_node = match resource {
            "memory" => node.memory,
            "ephemeral-storage" => node.ephemeral_storage,
            hugepages if hugepages.starts_with("hugepages-") => 0,
            _ => return Err(unknown()),
        };
        (given.map_or(Some(fallback(of_node)), quantity::whole), divisor.map_or(Some(1), quantity::whole))
    };
    match (value, divisor) {
        (Some(value), Some(divisor)) if divisor > 0 => {
            let rounded = value.div_euclid(divisor) + i64::from(value.rem_euclid(divisor) != 0);
            Ok(rounded.to_string())
        }
        _ => Err(unknown()),
    }
}

/// Replaces `$(NAME)` by its value, `$$` by `$`, and leaves a name nobody defined as it stands
/// (`third_party/forked/golang/expansion`).
pub(crate) fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            if let Some((_, value)) = env.iter().find(|(known, _)| known == name) {
                out.push_str(value);
            } else {
                out.push_str("$(");
                out.push_str(name);
                out.push(')');
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

fn set(env: &mut Vec<(String, String)>, name: String, value: String) {
    match env.iter_mut().find(|(known, _)| *known == name) {
        Some(entry) => entry.1 = value,
        None => env.push((name, value)),
    }
}

/// Environments are C strings in the runtime: bytes that are no UTF-8 are replaced, as Go's JSON does on the way to CRI.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{facts, pod};
    use proptest::prelude::*;

    fn env_of(spec: &str, objects: &Objects) -> Result<Vec<(String, String)>, ConfigError> {
        let pod = pod(spec);
        let ip = ["10.0.0.7".parse().expect("ip")];
        environment(&pod, &pod.spec().containers[0], objects, &facts(), &ip)
    }

    fn objects() -> Objects {
        let mut objects = Objects::default();
        let map = br#"{"data": {"greeting": "hello", "mode": "fast"}}"#;
        objects.put(ObjectKind::ConfigMap, "default", "app-config", map).expect("valid");
        objects
            .put(ObjectKind::Secret, "default", "app-secret", br#"{"data": {"password": "czNjcmV0"}}"#)
            .expect("valid");
        objects
    }

    #[test]
    fn values_come_from_literals_objects_fields_and_resources() {
        let env = env_of(
            r#"{"containers": [{"name": "c", "resources": {"limits": {"cpu": "250m"}},
                "envFrom": [{"prefix": "CFG_", "configMapRef": {"name": "app-config"}}],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(CFG_mode)-$(NONE)-$$(A)"},
                    {"name": "P", "valueFrom": {"secretKeyRef": {"name": "app-secret", "key": "password"}}},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                    {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}}]}]}"#,
            &objects(),
        )
        .expect("all sources are there");
        let expected = [
            ("CFG_greeting", "hello"),
            ("CFG_mode", "fast"),
            ("A", "1"),
            ("B", "1-fast-$(NONE)-$(A)"),
            ("P", "s3cret"),
            ("IP", "10.0.0.7"),
            ("L", "web"),
            ("CPU", "250"),
            ("MEM", "1024"),
        ];
        assert_eq!(env, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn missing_object_is_an_error_unless_optional() {
        let spec = |optional| {
            format!(
                r#"{{"containers": [{{"name": "c", "env": [{{"name": "A", "valueFrom":
                    {{"configMapKeyRef": {{"name": "none", "key": "k", "optional": {optional}}}}}}}]}}]}}"#
            )
        };
        let error = env_of(&spec(false), &objects()).expect_err("required");
        assert_eq!(error.to_string(), r#"configmap "none" not found"#);
        assert_eq!(env_of(&spec(true), &objects()), Ok(vec![]));
    }

    #[test]
    fn missing_key_names_key_and_object() {
        let spec = r#"{"containers": [{"name": "c", "env": [{"name": "A", "valueFrom":
            {"secretKeyRef": {"name": "app-secret", "key": "user"}}}]}]}"#;
        let error = env_of(spec, &objects()).expect_err("no such key");
        assert_eq!(error.to_string(), "couldn't find key user in secret default/app-secret");
    }

    #[test]
    fn unknown_field_is_refused() {
        let spec = r#"{"containers": [{"name": "c", "env": [{"name": "A", "valueFrom":
            {"fieldRef": {"fieldPath": "spec.secret"}}}]}]}"#;
        assert_eq!(env_of(spec, &objects()), Err(ConfigError::FieldPath("spec.secret".into())));
    }

    proptest! {
        #[test]
        fn text_without_references_is_unchanged(text in "[^$]{0,40}") {
            prop_assert_eq!(expand(&text, &[]), text);
        }

        #[test]
        fn any_text_expands(text in "[$()A-Z]{0,20}") {
            let _ = expand(&text, &[("A".into(), "x".into())]);
        }
    }
}
