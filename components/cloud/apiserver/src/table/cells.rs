use jiff::Timestamp;
use serde_json::Value;

pub(crate) use super::pods::PODS;
use super::{Column, Columns, age, narrow, wide};
use crate::object::{self, list, text};

const fn integer(name: &'static str) -> Column {
    Column { name, kind: "integer", wide: false }
}

fn name(object: &Value) -> Value {
    object::name(object).into()
}

fn or(text: &str, absent: &str) -> Value {
    if text.is_empty() { absent.into() } else { text.into() }
}

fn size(object: &Value, field: &str) -> usize {
    match &object[field] {
        Value::Object(fields) => fields.len(),
        Value::Array(items) => items.len(),
        _ => 0,
    }
}

/// Comma-separated, the first `shown` and how many more.
fn joined(items: &[String], shown: usize) -> Value {
    match items.len() {
        0 => "<none>".into(),
        n if n <= shown => items.join(",").into(),
        n => format!("{} + {} more...", items[..shown].join(","), n - shown).into(),
    }
}

pub(crate) static CONFIGMAPS: Columns = Columns {
    columns: &[narrow("Name"), integer("Data"), narrow("Age")],
    cells: |map, now| {
        vec![name(map), (size(map, "data") + size(map, "binaryData")).into(), age::of(map, now)]
    },
};

pub(crate) static SECRETS: Columns = Columns {
    columns: &[narrow("Name"), narrow("Type"), integer("Data"), narrow("Age")],
    cells: |secret, now| {
        vec![name(secret), text(secret, "/type").into(), size(secret, "data").into(), age::of(secret, now)]
    },
};

pub(crate) static NAMESPACES: Columns = Columns {
    columns: &[narrow("Name"), narrow("Status"), narrow("Age")],
    cells: |ns, now| vec![name(ns), text(ns, "/status/phase").into(), age::of(ns, now)],
};

pub(crate) static SERVICEACCOUNTS: Columns = Columns {
    columns: &[narrow("Name"), integer("Secrets"), narrow("Age")],
    cells: |account, now| vec![name(account), size(account, "secrets").into(), age::of(account, now)],
};

pub(crate) static LEASES: Columns = Columns {
    columns: &[narrow("Name"), narrow("Holder"), narrow("Age")],
    cells: |lease, now| vec![name(lease), text(lease, "/spec/holderIdentity").into(), age::of(lease, now)],
};

pub(crate) static ENDPOINTS: Columns =
    Columns { columns: &[narrow("Name"), narrow("Endpoints"), narrow("Age")], cells: endpoints };

fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut found = Vec::new();
    for subset in list(object, "/subsets") {
        for address in list(subset, "/addresses") {
            let ip = text(address, "/ip");
            let ports = list(subset, "/ports");
            if ports.is_empty() {
                found.push(ip.to_owned());
            }
            found.extend(ports.iter().map(|port| format!("{ip}:{}", port["port"])));
        }
    }
    vec![name(object), joined(&found, 3), age::of(object, now)]
}

pub(crate) static ENDPOINTSLICES: Columns = Columns {
    columns: &[narrow("Name"), narrow("AddressType"), narrow("Ports"), narrow("Endpoints"), narrow("Age")],
    cells: |slice, now| {
        let ports: Vec<String> = list(slice, "/ports").iter().map(|port| port["port"].to_string()).collect();
        let addresses: Vec<String> = list(slice, "/endpoints")
            .iter()
            .flat_map(|endpoint| list(endpoint, "/addresses"))
            .filter_map(|address| address.as_str().map(str::to_owned))
            .collect();
        let ports = if ports.is_empty() { "<unset>".into() } else { joined(&ports, 3) };
        let addresses = if addresses.is_empty() { "<unset>".into() } else { joined(&addresses, 3) };
        vec![name(slice), text(slice, "/addressType").into(), ports, addresses, age::of(slice, now)]
    },
};

pub(crate) static SERVICES: Columns = Columns {
    columns: &[
        narrow("Name"),
        narrow("Type"),
        narrow("Cluster-IP"),
        narrow("External-IP"),
        narrow("Port(s)"),
        narrow("Age"),
        wide("Selector"),
    ],
    cells: |service, now| {
        let ports: Vec<String> = list(service, "/spec/ports")
            .iter()
            .map(|port| match port["nodePort"].as_i64() {
                Some(node) => format!("{}:{node}/{}", port["port"], text(port, "/protocol")),
                None => format!("{}/{}", port["port"], text(port, "/protocol")),
            })
            .collect();
        let selector: Vec<String> = service["spec"]["selector"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let external: Vec<String> = list(service, "/spec/externalIPs")
            .iter()
            .filter_map(|ip| ip.as_str().map(str::to_owned))
            .collect();
        let external = match text(service, "/spec/type") {
            "ExternalName" => text(service, "/spec/externalName").into(),
            "LoadBalancer" if external.is_empty() => "<pending>".into(),
            _ => joined(&external, usize::MAX),
        };
        vec![
            name(service),
            text(service, "/spec/type").into(),
            or(text(service, "/spec/clusterIP"), "<none>"),
            external,
            joined(&ports, usize::MAX),
            age::of(service, now),
            joined(&selector, usize::MAX),
        ]
    },
};

pub(crate) static NODES: Columns = Columns {
    columns: &[
        narrow("Name"),
        narrow("Status"),
        narrow("Roles"),
        narrow("Age"),
        narrow("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    cells: nodes,
};

/// Labels that name a node's roles.
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

fn nodes(node: &Value, now: Timestamp) -> Vec<Value> {
    let ready = list(node, "/status/conditions").iter().find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|c| text(c, "/status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let labels = node["metadata"]["labels"].as_object();
    let mut roles: Vec<String> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => Some(role.to_owned()),
            None if key == "kubernetes.io/role" => value.as_str().map(str::to_owned),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    let address = |kind: &str| {
        let found = list(node, "/status/addresses").iter().find(|a| a["type"] == kind);
        or(found.map_or("", |a| text(a, "/address")), "<none>")
    };
    let info = |field: &str| or(text(node, &format!("/status/nodeInfo/{field}")), "<unknown>");
    vec![
        name(node),
        status.into(),
        joined(&roles, usize::MAX),
        age::of(node, now),
        text(node, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

pub(crate) static EVENTS: Columns = Columns {
    columns: &[
        narrow("Last Seen"),
        narrow("Type"),
        narrow("Reason"),
        narrow("Object"),
        wide("Subobject"),
        wide("Source"),
        narrow("Message"),
        wide("First Seen"),
        wide("Count"),
        wide("Name"),
    ],
    cells: events,
};

fn events(event: &Value, now: Timestamp) -> Vec<Value> {
    let first_of = |fields: &[&str]| {
        fields.iter().map(|field| text(event, field)).find(|t| !t.is_empty()).unwrap_or_default().to_owned()
    };
    let first = first_of(&["/firstTimestamp", "/eventTime", "/metadata/creationTimestamp"]);
    let last = first_of(&["/series/lastObservedTime", "/lastTimestamp"]);
    let last = if last.is_empty() { first.clone() } else { last };
    let kind = text(event, "/involvedObject/kind").to_lowercase();
    let about = text(event, "/involvedObject/name");
    let object = if about.is_empty() { kind } else { format!("{kind}/{about}") };
    let source = first_of(&["/source/component", "/reportingComponent"]);
    let host = text(event, "/source/host");
    let source = if host.is_empty() { source } else { format!("{source}, {host}") };
    let count = event.pointer("/series/count").or(event.get("count")).and_then(Value::as_i64).unwrap_or(1);
    vec![
        age::since(&last, now).into(),
        text(event, "/type").into(),
        text(event, "/reason").into(),
        object.into(),
        text(event, "/involvedObject/fieldPath").into(),
        source.into(),
        text(event, "/message").trim().into(),
        age::since(&first, now).into(),
        count.into(),
        name(event),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn node_status_and_roles() {
        let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/edge": "", "node-role.kubernetes.io/agent": ""}},
            "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let cells = nodes(&node, Timestamp::now());
        assert_eq!((&cells[1], &cells[2]), (&json!("Ready,SchedulingDisabled"), &json!("agent,edge")));
    }

    #[test]
    fn every_row_has_a_cell_per_column() {
        for resource in crate::resources::RESOURCES {
            let cells = (resource.columns.cells)(&json!({}), Timestamp::now());
            assert_eq!(cells.len(), resource.columns.columns.len(), "{}", resource.plural);
        }
    }
}
