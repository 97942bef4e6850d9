//! What every object, and each kind but pods, must satisfy.

use serde_json::Value;

use super::pod_rules;
use crate::error::Cause;
use crate::names;
use crate::object::{self, list, text};
use crate::resources::Resource;

/// 256 KiB in sum, as in Kubernetes.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;
/// 1 MiB in sum, as in Kubernetes.
const DATA_LIMIT: usize = 1024 * 1024;

/// Checks a new object, after defaults. Empty: it may be stored.
pub(crate) fn create(resource: &Resource, new: &Value) -> Vec<Cause> {
    let mut causes = metadata(resource, new);
    causes.extend(kind(resource, new));
    causes
}

/// Checks a changed object against the stored one.
pub(crate) fn update(resource: &Resource, old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = metadata(resource, new);
    match resource.kind {
        "Pod" => causes.extend(pod_rules::check_update(old, new)),
        "ConfigMap" | "Secret" if old["immutable"] == true => {
            for field in ["data", "binaryData", "immutable"] {
                if old.get(field) != new.get(field) {
                    causes.push(Cause::forbidden(field, "field is immutable when `immutable` is set"));
                }
            }
        }
        _ => {}
    }
    match resource.kind {
        "Pod" => {}
        "Secret" if old["type"] != new["type"] => {
            causes.push(Cause::invalid("type", &new["type"], "field is immutable"));
        }
        "Service" => {
            let (before, after) = (text(old, "/spec/clusterIP"), text(new, "/spec/clusterIP"));
            if !before.is_empty() && before != after && old["spec"]["type"] == new["spec"]["type"] {
                causes.push(Cause::invalid(
                    "spec.clusterIPs[0]",
                    &new["spec"]["clusterIP"],
                    "may not change once set",
                ));
            }
            causes.extend(kind(resource, new));
        }
        _ => causes.extend(kind(resource, new)),
    }
    causes
}

fn metadata(resource: &Resource, new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = object::name(new);
    let grammar = match resource.kind {
        "Namespace" => names::dns_label,
        "Service" => names::dns_label_1035,
        _ => names::dns_subdomain,
    };
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else if let Err(why) = grammar(name) {
        causes.push(Cause::invalid("metadata.name", &new["metadata"]["name"], why));
    }
    for (key, value) in new["metadata"]["labels"].as_object().into_iter().flatten() {
        if let Err(why) = names::label_key(key) {
            causes.push(Cause::invalid("metadata.labels", &key.as_str().into(), why));
        }
        if let Err(why) = value.as_str().map_or(Err("must be a string"), names::label_value) {
            causes.push(Cause::invalid("metadata.labels", value, why));
        }
    }
    let mut size = 0;
    for (key, value) in new["metadata"]["annotations"].as_object().into_iter().flatten() {
        if let Err(why) = names::label_key(&key.to_ascii_lowercase()) {
            causes.push(Cause::invalid("metadata.annotations", &key.as_str().into(), why));
        }
        match value.as_str() {
            Some(value) => size += key.len() + value.len(),
            None => causes.push(Cause::invalid("metadata.annotations", value, "must be a string")),
        }
    }
    if size > ANNOTATIONS_LIMIT {
        causes.push(too_long("metadata.annotations", ANNOTATIONS_LIMIT));
    }
    for finalizer in list(new, "/metadata/finalizers") {
        if let Err(why) = finalizer.as_str().map_or(Err("must be a string"), names::label_key) {
            causes.push(Cause::invalid("metadata.finalizers", finalizer, why));
        }
    }
    for (index, owner) in list(new, "/metadata/ownerReferences").iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().unwrap_or_default().is_empty() {
                causes.push(Cause::required(format!("metadata.ownerReferences[{index}].{field}"), ""));
            }
        }
    }
    causes
}

fn too_long(field: &str, limit: usize) -> Cause {
    Cause {
        reason: "FieldValueTooLong",
        field: field.to_owned(),
        message: format!("Too long: may not be more than {limit} bytes"),
    }
}

fn kind(resource: &Resource, new: &Value) -> Vec<Cause> {
    match resource.kind {
        "Pod" => pod_rules::check(new),
        "ConfigMap" | "Secret" => data(new),
        "Service" => service(new),
        "Lease" => lease(new),
        "Event" => event(new),
        "EndpointSlice" => endpoint_slice(new),
        _ => Vec::new(),
    }
}

fn data(new: &Value) -> Vec<Cause> {
    let (mut causes, mut size) = (Vec::new(), 0);
    for field in ["data", "binaryData"] {
        for (key, value) in new[field].as_object().into_iter().flatten() {
            if let Err(why) = names::config_key(key) {
                causes.push(Cause::invalid(format!("{field}[{key}]"), &key.as_str().into(), why));
            }
            if field == "binaryData" && new["data"].get(key).is_some() {
                causes.push(Cause::invalid(
                    "data",
                    &key.as_str().into(),
                    "duplicate of key present in binaryData",
                ));
            }
            size += value.as_str().map_or(0, str::len);
        }
    }
    if size > DATA_LIMIT {
        causes.push(too_long("data", DATA_LIMIT));
    }
    causes
}

fn service(new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &new["spec"];
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    if spec["type"].as_str().is_some_and(|kind| !kinds.contains(&kind)) {
        causes.push(Cause::unsupported("spec.type", &spec["type"], &kinds));
    }
    let ports = list(spec, "/ports");
    if ports.is_empty() && spec["type"] != "ExternalName" && spec["clusterIP"] != "None" {
        causes.push(Cause::required("spec.ports", ""));
    }
    let mut seen = std::collections::HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        if !port["port"].as_i64().is_some_and(|n| (1..=65535).contains(&n)) {
            causes.push(Cause::invalid(
                format!("{at}.port"),
                &port["port"],
                "must be between 1 and 65535, inclusive",
            ));
        }
        let name = text(port, "/name");
        if ports.len() > 1 && name.is_empty() {
            causes.push(Cause::required(format!("{at}.name"), ""));
        } else if !name.is_empty() && names::dns_label(name).is_err() {
            causes.push(Cause::invalid(format!("{at}.name"), &port["name"], "must be a DNS label"));
        } else if !seen.insert(name) {
            causes.push(Cause::duplicate(format!("{at}.name"), &port["name"]));
        }
    }
    let address = text(spec, "/clusterIP");
    if !address.is_empty() && address != "None" && address.parse::<std::net::IpAddr>().is_err() {
        causes.push(Cause::invalid(
            "spec.clusterIPs[0]",
            &spec["clusterIP"],
            "must be empty, 'None', or a valid IP address",
        ));
    }
    causes
}

fn lease(new: &Value) -> Vec<Cause> {
    let seconds = &new["spec"]["leaseDurationSeconds"];
    if seconds.as_i64().is_some_and(|n| n <= 0) {
        return vec![Cause::invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0")];
    }
    Vec::new()
}

fn event(new: &Value) -> Vec<Cause> {
    let about = text(new, "/involvedObject/namespace");
    // Events about cluster-scoped objects live in `default`.
    let expected = if about.is_empty() { "default" } else { about };
    if object::namespace(new) == expected || about.is_empty() && object::namespace(new) == "kube-system" {
        return Vec::new();
    }
    vec![Cause::invalid(
        "involvedObject.namespace",
        &new["involvedObject"]["namespace"],
        "does not match event.namespace",
    )]
}

fn endpoint_slice(new: &Value) -> Vec<Cause> {
    let kinds = ["IPv4", "IPv6", "FQDN"];
    match new["addressType"].as_str().unwrap_or_default() {
        "" => vec![Cause::required("addressType", "")],
        kind if !kinds.contains(&kind) => {
            vec![Cause::unsupported("addressType", &new["addressType"], &kinds)]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources;
    use serde_json::json;

    fn found(plural: &str, object: Value) -> usize {
        create(resources::find("", "v1", plural).unwrap(), &object).len()
    }

    #[test]
    fn names_are_checked_by_kind() {
        assert_eq!(found("configmaps", json!({"metadata": {"name": "a.b"}})), 0);
        assert_eq!(found("namespaces", json!({"metadata": {"name": "a.b"}})), 1);
        assert_eq!(found("configmaps", json!({"metadata": {"name": "A"}})), 1);
        assert_eq!(found("configmaps", json!({"metadata": {}})), 1);
    }

    #[test]
    fn bad_labels_are_found() {
        assert_eq!(found("configmaps", json!({"metadata": {"name": "a", "labels": {"a b": "c d"}}})), 2);
    }

    #[test]
    fn immutable_config_map_stays() {
        let configmaps = resources::find("", "v1", "configmaps").unwrap();
        let old = json!({"metadata": {"name": "a"}, "immutable": true, "data": {"a": "1"}});
        let mut new = old.clone();
        assert!(update(configmaps, &old, &new).is_empty());
        new["data"]["a"] = "2".into();
        assert_eq!(update(configmaps, &old, &new).len(), 1);
    }

    #[test]
    fn service_ports_are_checked() {
        let service = |ports: Value| json!({"metadata": {"name": "a"}, "spec": {"ports": ports}});
        assert_eq!(found("services", service(json!([{"port": 80}]))), 0);
        assert_eq!(found("services", service(json!([]))), 1);
        assert_eq!(found("services", service(json!([{"port": 80}, {"port": 81}]))), 2);
    }
}
