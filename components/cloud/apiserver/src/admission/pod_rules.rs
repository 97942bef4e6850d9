//! What a pod must satisfy (`pkg/apis/core/validation`): the rules whose breach a node could not act on. Node-side
//! faults, such as an image that does not exist, are the kubelet's to report.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::error::Cause;
use crate::names;
use crate::object::{list, text};

/// The volume sources of `core/v1`.
const SOURCES: [&str; 31] = [
    "hostPath",
    "emptyDir",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "persistentVolumeClaim",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "downwardAPI",
    "fc",
    "azureFile",
    "configMap",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "projected",
    "portworxVolume",
    "scaleIO",
    "storageos",
    "csi",
    "ephemeral",
    "image",
    "podCertificate",
];

/// Checks a new pod, after defaults.
pub(crate) fn check(pod: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &pod["spec"];
    let volumes = check_volumes(spec, &mut causes);
    if list(spec, "/containers").is_empty() {
        causes.push(Cause::required("spec.containers", ""));
    }
    let mut seen = HashSet::new();
    for kind in ["initContainers", "containers"] {
        for (index, container) in list(spec, &format!("/{kind}")).iter().enumerate() {
            check_container(container, &format!("spec.{kind}[{index}]"), &volumes, &mut seen, &mut causes);
        }
    }
    one_of(spec, "restartPolicy", &["Always", "OnFailure", "Never"], "spec", &mut causes);
    one_of(
        spec,
        "dnsPolicy",
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        "spec",
        &mut causes,
    );
    if spec["dnsPolicy"] == "None" && list(spec, "/dnsConfig/nameservers").is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        causes.push(Cause::required("spec.dnsConfig.nameservers", why));
    }
    for field in ["terminationGracePeriodSeconds", "activeDeadlineSeconds"] {
        if spec[field].as_i64().is_some_and(|n| n < 0) {
            causes.push(Cause::invalid(
                format!("spec.{field}"),
                &spec[field],
                "must be greater than or equal to 0",
            ));
        }
    }
    for (field, grammar) in [
        ("nodeName", names::dns_subdomain as fn(&str) -> Result<(), &'static str>),
        ("serviceAccountName", names::dns_subdomain),
        ("hostname", names::dns_label),
        ("subdomain", names::dns_label),
    ] {
        if let Some(name) = spec[field].as_str().filter(|name| !name.is_empty())
            && let Err(why) = grammar(name)
        {
            causes.push(Cause::invalid(format!("spec.{field}"), &spec[field], why));
        }
    }
    causes
}

fn one_of(parent: &Value, field: &str, supported: &[&str], at: &str, causes: &mut Vec<Cause>) {
    if parent[field].as_str().is_some_and(|value| !supported.contains(&value)) {
        causes.push(Cause::unsupported(format!("{at}.{field}"), &parent[field], supported));
    }
}

/// A name that is required and follows `grammar`.
fn name(
    parent: &Value,
    grammar: fn(&str) -> Result<(), &'static str>,
    at: &str,
    causes: &mut Vec<Cause>,
) -> Option<String> {
    match parent["name"].as_str().filter(|name| !name.is_empty()) {
        None => causes.push(Cause::required(format!("{at}.name"), "")),
        Some(name) => match grammar(name) {
            Ok(()) => return Some(name.to_owned()),
            Err(why) => causes.push(Cause::invalid(format!("{at}.name"), &parent["name"], why)),
        },
    }
    None
}

fn check_volumes(spec: &Value, causes: &mut Vec<Cause>) -> HashSet<String> {
    let mut seen = HashSet::new();
    for (index, volume) in list(spec, "/volumes").iter().enumerate() {
        let at = format!("spec.volumes[{index}]");
        if let Some(name) = name(volume, names::dns_label, &at, causes)
            && !seen.insert(name)
        {
            causes.push(Cause::duplicate(format!("{at}.name"), &volume["name"]));
        }
        let sources: Vec<&str> =
            SOURCES.iter().copied().filter(|source| volume.get(source).is_some()).collect();
        match sources.as_slice() {
            [] => causes.push(Cause::required(at.clone(), "must specify a volume type")),
            [_] => {}
            [_, more @ ..] => causes.extend(more.iter().map(|source| {
                Cause::forbidden(format!("{at}.{source}"), "may not specify more than 1 volume type")
            })),
        }
        for (source, field) in [
            ("hostPath", "path"),
            ("secret", "secretName"),
            ("configMap", "name"),
            ("persistentVolumeClaim", "claimName"),
            ("csi", "driver"),
        ] {
            if let Some(given) = volume.get(source)
                && given[field].as_str().unwrap_or_default().is_empty()
            {
                causes.push(Cause::required(format!("{at}.{source}.{field}"), ""));
            }
        }
        for source in ["configMap", "secret"] {
            for (number, item) in list(volume, &format!("/{source}/items")).iter().enumerate() {
                let at = format!("{at}.{source}.items[{number}]");
                if text(item, "/key").is_empty() {
                    causes.push(Cause::required(format!("{at}.key"), ""));
                }
                check_relative(item, &at, causes);
            }
        }
        for (number, item) in list(volume, "/downwardAPI/items").iter().enumerate() {
            check_relative(item, &format!("{at}.downwardAPI.items[{number}]"), causes);
        }
    }
    seen
}

/// A path inside a volume.
fn check_relative(item: &Value, at: &str, causes: &mut Vec<Cause>) {
    let path = text(item, "/path");
    let at = format!("{at}.path");
    if path.is_empty() {
        causes.push(Cause::required(at, ""));
    } else if path.starts_with('/') {
        causes.push(Cause::invalid(at, &item["path"], "must be a relative path"));
    } else if path.split('/').any(|part| part == "..") {
        causes.push(Cause::invalid(at, &item["path"], "must not contain '..'"));
    }
}

fn check_container(
    container: &Value,
    at: &str,
    volumes: &HashSet<String>,
    seen: &mut HashSet<String>,
    causes: &mut Vec<Cause>,
) {
    if let Some(name) = name(container, names::dns_label, at, causes)
        && !seen.insert(name)
    {
        causes.push(Cause::duplicate(format!("{at}.name"), &container["name"]));
    }
    let image = text(container, "/image");
    if image.is_empty() {
        causes.push(Cause::required(format!("{at}.image"), ""));
    } else if image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        causes.push(Cause::invalid(format!("{at}.image"), &container["image"], why));
    }
    one_of(container, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], at, causes);
    one_of(container, "terminationMessagePolicy", &["FallbackToLogsOnError", "File"], at, causes);
    check_ports(container, at, causes);
    for (index, variable) in list(container, "/env").iter().enumerate() {
        let at = format!("{at}.env[{index}]");
        name(variable, names::environment_name, &at, causes);
        if !text(variable, "/value").is_empty() && variable.get("valueFrom").is_some() {
            let why = "may not be specified when `value` is not empty";
            causes.push(Cause::invalid(format!("{at}.valueFrom"), &json!(""), why));
        }
    }
    let mut paths = HashSet::new();
    for (index, mount) in list(container, "/volumeMounts").iter().enumerate() {
        let at = format!("{at}.volumeMounts[{index}]");
        let volume = text(mount, "/name");
        if volume.is_empty() {
            causes.push(Cause::required(format!("{at}.name"), ""));
        } else if !volumes.contains(volume) {
            causes.push(Cause::not_found(format!("{at}.name"), &mount["name"]));
        }
        let path = text(mount, "/mountPath");
        if path.is_empty() {
            causes.push(Cause::required(format!("{at}.mountPath"), ""));
        } else if !paths.insert(path) {
            causes.push(Cause::invalid(format!("{at}.mountPath"), &mount["mountPath"], "must be unique"));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(given) = container.get(probe) {
            check_probe(given, probe, &format!("{at}.{probe}"), causes);
        }
    }
    check_resources(container, at, causes);
}

fn check_ports(container: &Value, at: &str, causes: &mut Vec<Cause>) {
    let mut seen = HashSet::new();
    for (index, port) in list(container, "/ports").iter().enumerate() {
        let at = format!("{at}.ports[{index}]");
        for field in ["containerPort", "hostPort"] {
            match port[field].as_i64() {
                None if field == "containerPort" => {
                    causes.push(Cause::required(format!("{at}.{field}"), ""));
                }
                Some(0) if field == "hostPort" => {}
                Some(number) if !(1..=65535).contains(&number) => {
                    let why = "must be between 1 and 65535, inclusive";
                    causes.push(Cause::invalid(format!("{at}.{field}"), &port[field], why));
                }
                _ => {}
            }
        }
        one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at, causes);
        if let Some(name) = port["name"].as_str().filter(|name| !name.is_empty()) {
            let grammatical = name.len() <= 15
                && names::dns_label(name).is_ok()
                && name.bytes().any(|b| b.is_ascii_lowercase());
            if !grammatical {
                let why =
                    "must be at most 15 lower case alphanumeric characters or '-', with at least one letter";
                causes.push(Cause::invalid(format!("{at}.name"), &port["name"], why));
            } else if !seen.insert(name) {
                causes.push(Cause::duplicate(format!("{at}.name"), &port["name"]));
            }
        }
    }
}

fn check_probe(probe: &Value, kind: &str, at: &str, causes: &mut Vec<Cause>) {
    let handlers: Vec<&str> =
        ["exec", "httpGet", "tcpSocket", "grpc"].into_iter().filter(|h| probe.get(h).is_some()).collect();
    match handlers.as_slice() {
        [] => causes.push(Cause::required(at, "must specify a handler type")),
        [_] => {}
        [_, more @ ..] => causes.extend(more.iter().map(|handler| {
            Cause::forbidden(format!("{at}.{handler}"), "may not specify more than 1 handler type")
        })),
    }
    if probe.get("exec").is_some() && list(probe, "/exec/command").is_empty() {
        causes.push(Cause::required(format!("{at}.exec.command"), ""));
    }
    for field in
        ["timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold", "initialDelaySeconds"]
    {
        if probe[field].as_i64().is_some_and(|n| n < 0) {
            causes.push(Cause::invalid(
                format!("{at}.{field}"),
                &probe[field],
                "must be greater than or equal to 0",
            ));
        }
    }
    if kind != "readinessProbe" && probe["successThreshold"].as_i64().is_some_and(|n| n != 1) {
        causes.push(Cause::invalid(
            format!("{at}.successThreshold"),
            &probe["successThreshold"],
            "must be 1",
        ));
    }
}

fn check_resources(container: &Value, at: &str, causes: &mut Vec<Cause>) {
    for list in ["limits", "requests"] {
        let Some(amounts) = container["resources"][list].as_object() else { continue };
        for (name, amount) in amounts {
            let at = format!("{at}.resources.{list}.{name}");
            let value = amount.as_str().and_then(names::quantity_milli);
            let limit = text(container, &format!("/resources/limits/{name}"));
            match value {
                None => causes.push(Cause::invalid(at, amount, "must be a quantity such as 100m or 64Mi")),
                Some(value) if value < 0 => {
                    causes.push(Cause::invalid(at, amount, "must be greater than or equal to 0"));
                }
                Some(value)
                    if list == "requests" && names::quantity_milli(limit).is_some_and(|l| value > l) =>
                {
                    let why = format!("must be less than or equal to {name} limit of {limit}");
                    causes.push(Cause::invalid(at, amount, &why));
                }
                Some(_) => {}
            }
        }
    }
}

/// The words of kube-apiserver.
const IMMUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks that an update changes only what may change.
pub(crate) fn check_update(old: &Value, new: &Value) -> Vec<Cause> {
    let mut allowed = new["spec"].clone();
    let before = &old["spec"];
    if allowed["activeDeadlineSeconds"] != before["activeDeadlineSeconds"] {
        copy(&mut allowed, before, "activeDeadlineSeconds");
    }
    for containers in ["initContainers", "containers"] {
        let new = allowed.get_mut(containers).and_then(Value::as_array_mut).into_iter().flatten();
        for (new, old) in new.zip(list(before, &format!("/{containers}"))) {
            copy(new, old, "image");
        }
    }
    let (old_list, new_list) = (list(before, "/tolerations"), list(&new["spec"], "/tolerations"));
    if old_list.iter().all(|toleration| new_list.contains(toleration)) {
        copy(&mut allowed, before, "tolerations");
    }
    let grace = |spec: &Value| spec["terminationGracePeriodSeconds"].as_i64();
    if grace(before).is_some_and(|s| s < 0) && grace(&new["spec"]) == Some(1) {
        copy(&mut allowed, before, "terminationGracePeriodSeconds");
    }
    if allowed == *before { Vec::new() } else { vec![Cause::forbidden("spec", IMMUTABLE)] }
}

fn copy(to: &mut Value, from: &Value, field: &str) {
    let Some(to) = to.as_object_mut() else { return };
    match from.get(field) {
        Some(value) => drop(to.insert(field.to_owned(), value.clone())),
        None => drop(to.remove(field)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::pod::fill;

    fn findings(spec: Value) -> Vec<String> {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
        fill(&mut pod);
        check(&pod).into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    fn container(extra: Value) -> Value {
        let mut container = json!({"name": "c", "image": "i:1"});
        container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"containers": [container]})
    }

    #[test]
    fn a_plain_pod_passes() {
        assert!(findings(container(json!({}))).is_empty());
    }

    #[test]
    fn missing_parts_are_required() {
        assert_eq!(findings(json!({})), ["spec.containers: Required value"]);
        assert_eq!(
            findings(json!({"containers": [{}]})),
            ["spec.containers[0].name: Required value", "spec.containers[0].image: Required value"]
        );
    }

    #[test]
    fn duplicate_and_unknown_names_are_found() {
        let found = findings(json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i",
            "volumeMounts": [{"name": "nope", "mountPath": "/x"}]}]}));
        assert_eq!(
            found,
            [
                "spec.containers[1].name: Duplicate value: \"c\"",
                "spec.containers[1].volumeMounts[0].name: Not found: \"nope\""
            ]
        );
    }

    #[test]
    fn a_volume_needs_exactly_one_source() {
        let mut spec = container(json!({}));
        spec["volumes"] = json!([{"name": "a", "unheardOf": {}}, {"name": "b", "emptyDir": {}, "hostPath": {"path": "/x"}}]);
        let found = findings(spec);
        assert_eq!(found[0], "spec.volumes[0]: Required value: must specify a volume type");
        assert!(found[1].contains("may not specify more than 1 volume type"), "{found:?}");
    }

    #[test]
    fn requests_above_limits_are_refused() {
        let found =
            findings(container(json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("must be less than or equal to cpu limit of 1"), "{found:?}");
    }

    #[test]
    fn bad_ports_paths_and_probes_are_refused() {
        for extra in [
            json!({"ports": [{"containerPort": 0}]}),
            json!({"ports": [{"containerPort": 70000}]}),
            json!({"env": [{"name": "A=B"}]}),
            json!({"livenessProbe": {}}),
            json!({"livenessProbe": {"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}}}),
            json!({"imagePullPolicy": "Sometimes"}),
            json!({"image": " i"}),
        ] {
            assert_eq!(findings(container(extra.clone())).len(), 1, "{extra}");
        }
    }

    #[test]
    fn only_some_fields_of_a_pod_change() {
        let mut old = json!({"spec": container(json!({}))});
        fill(&mut old);
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = "i:2".into();
        new["spec"]["tolerations"].as_array_mut().unwrap().push(json!({"key": "x", "operator": "Exists"}));
        assert!(check_update(&old, &new).is_empty());
        new["spec"]["nodeName"] = "edge-1".into();
        assert_eq!(check_update(&old, &new).len(), 1);
        let mut fewer = old.clone();
        fewer["spec"]["tolerations"] = json!([]);
        assert_eq!(check_update(&old, &fewer).len(), 1);
    }
}
