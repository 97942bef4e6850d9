//! Defaults of every kind, and what a create or update may not bring along.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::pod;
use crate::object::{child, default, fields, text};
use crate::resources::Resource;

/// Fills in what the client left out.
pub(crate) fn fill(resource: &Resource, object: &mut Value) {
    match resource.kind {
        "Pod" => pod::fill(object),
        "Secret" => secret(object),
        "Service" => service(object),
        "Namespace" => namespace(object),
        "Node" => drop(child(object, "spec")),
        "Endpoints" => endpoints(object),
        "EndpointSlice" => {
            for port in objects(object, "ports") {
                default(port, "protocol", "TCP");
                default(port, "name", "");
            }
        }
        "Event" => {
            if let Some(event) = object.as_object_mut() {
                default(event, "type", "Normal");
                default(event, "count", 1);
            }
        }
        _ => {}
    }
}

/// The status a new object starts with, whatever the client wrote; `None`: it keeps what it came with, as a node that
/// registers itself does.
pub(crate) fn initial_status(resource: &Resource, object: &Value) -> Option<Value> {
    match resource.kind {
        "Pod" => Some(pod::initial_status(object)),
        "Service" => Some(json!({"loadBalancer": {}})),
        "Namespace" => Some(json!({"phase": "Active"})),
        _ => None,
    }
}

/// `stringData` is written, never stored.
fn secret(object: &mut Value) {
    let plain = fields(object).as_object_mut().and_then(|secret| secret.remove("stringData"));
    if let Some(Value::Object(plain)) = plain {
        let data = child(object, "data");
        for (key, value) in plain {
            let text = value.as_str().unwrap_or_default();
            data.insert(key, STANDARD.encode(text).into());
        }
    }
    if let Some(secret) = object.as_object_mut() {
        default(secret, "type", "Opaque");
    }
}

fn service(object: &mut Value) {
    let spec = child(object, "spec");
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    if spec["type"] == "ExternalName" {
        return;
    }
    default(spec, "internalTrafficPolicy", "Cluster");
    default(spec, "ipFamilies", json!(["IPv4"]));
    default(spec, "ipFamilyPolicy", "SingleStack");
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(port) = port.as_object_mut() else { continue };
        default(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or(Value::Null);
        default(port, "targetPort", number);
    }
    if let Some(address) = spec.get("clusterIP").and_then(Value::as_str).filter(|a| !a.is_empty()) {
        let addresses = json!([address]);
        spec.insert("clusterIPs".into(), addresses);
    }
}

fn namespace(object: &mut Value) {
    let name = text(object, "/metadata/name").to_owned();
    let labels = child(fields(&mut object["metadata"]), "labels");
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    default(child(object, "spec"), "finalizers", json!(["kubernetes"]));
}

fn endpoints(object: &mut Value) {
    for subset in object.get_mut("subsets").and_then(Value::as_array_mut).into_iter().flatten() {
        for port in objects(subset, "ports") {
            default(port, "protocol", "TCP");
        }
    }
}

/// The object elements of a list.
fn objects<'a>(parent: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    parent.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources;

    #[test]
    fn string_data_becomes_data() {
        let secrets = resources::find("", "v1", "secrets").unwrap();
        let mut secret = json!({"data": {"a": "eA=="}, "stringData": {"password": "s3cret"}});
        fill(secrets, &mut secret);
        assert_eq!(secret, json!({"data": {"a": "eA==", "password": "czNjcmV0"}, "type": "Opaque"}));
    }

    #[test]
    fn service_ports_target_themselves() {
        let services = resources::find("", "v1", "services").unwrap();
        let mut service = json!({"spec": {"ports": [{"port": 80}]}});
        fill(services, &mut service);
        assert_eq!(service["spec"]["ports"][0], json!({"port": 80, "targetPort": 80, "protocol": "TCP"}));
        assert_eq!(service["spec"]["type"], "ClusterIP");
    }
}
