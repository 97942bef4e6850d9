//! A node whose lease is not renewed is Unknown, and its pods are not ready. They are not evicted: an edge that is offline
//! keeps running what it has.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{Api, ApiResult, LEASES, NODES, PODS, PatchKind};

/// 5 s between looks, as Kubernetes' node controller.
const EVERY: Duration = Duration::from_secs(5);

/// 40 s, Kubernetes' default grace and the duration of a node's lease.
const GRACE: Duration = Duration::from_secs(40);

pub(super) async fn run(api: Api) {
    let mut watch = Watch::default();
    loop {
        if let Err(error) = once(&api, &mut watch).await {
            tracing::debug!("node life cycle not kept: {error}");
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn once(api: &Api, leases_seen: &mut Watch) -> ApiResult<()> {
    let leases = api.list(&LEASES.path("kube-node-lease"), "").await?;
    let nodes = api.list(&NODES.path(""), "").await?;
    leases_seen.see(&nodes, &leases, Instant::now());
    for node in &nodes {
        let Some(name) = node["metadata"]["name"].as_str() else { continue };
        if !leases_seen.is_silent(name, Instant::now()) {
            continue;
        }
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        if let Some(patch) = unknown(node, &now) {
            tracing::warn!(node = name, "no lease renewal for 40 s: its state is unknown");
            api.patch(NODES.object("", name) + "/status", PatchKind::Strategic, patch.to_string()).await?;
        }
        for pod in api.list(&PODS.path(""), &format!("fieldSelector=spec.nodeName%3D{name}")).await? {
            let metadata = &pod["metadata"];
            let (Some(unready), Some(namespace), Some(pod_name)) =
                (unready(&pod, &now), metadata["namespace"].as_str(), metadata["name"].as_str())
            else {
                continue;
            };
            let path = PODS.object(namespace, pod_name) + "/status";
            match api.patch(path, PatchKind::Strategic, unready.to_string()).await {
                Err(error) if !matches!(error.code(), 404 | 409) => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// When each node's lease was last seen to change, by our own clock: the edge's may be wrong.
#[derive(Default)]
struct Watch {
    renewed: HashMap<String, (Value, Instant)>,
}

impl Watch {
    fn see(&mut self, nodes: &[Value], leases: &[Value], now: Instant) {
        let renewals: HashMap<&str, &Value> = leases
            .iter()
            .filter_map(|lease| Some((lease["metadata"]["name"].as_str()?, &lease["spec"]["renewTime"])))
            .collect();
        let names = nodes.iter().filter_map(|node| node["metadata"]["name"].as_str());
        self.renewed = names
            .map(|name| {
                let renewal = renewals.get(name).copied().unwrap_or(&Value::Null);
                let since = match self.renewed.get(name) {
                    Some((seen, since)) if seen == renewal => *since,
                    _ => now,
                };
                (name.to_owned(), (renewal.clone(), since))
            })
            .collect();
    }

    fn is_silent(&self, node: &str, now: Instant) -> bool {
        self.renewed.get(node).is_some_and(|(_, since)| now.duration_since(*since) > GRACE)
    }
}

/// The patch that makes a node's conditions Unknown; `None` when they are.
fn unknown(node: &Value, now: &str) -> Option<Value> {
    let conditions = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
    let present = |kind: &str| node["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind);
    let changes: Vec<Value> = conditions
        .into_iter()
        // A node that never reported gets a Ready only.
        .filter(|kind| *kind == "Ready" || present(kind).is_some())
        .filter(|kind| present(kind).is_none_or(|condition| condition["status"] != "Unknown"))
        .map(|kind| {
            json!({
                "type": kind,
                "status": "Unknown",
                "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastTransitionTime": now,
            })
        })
        .collect();
    (!changes.is_empty()).then(|| json!({"status": {"conditions": changes}}))
}

/// The patch that makes a pod not ready; `None` when it is not.
fn unready(pod: &Value, now: &str) -> Option<Value> {
    let conditions = pod["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == "Ready" && condition["status"] == "True")?;
    let condition =
        json!({"type": "Ready", "status": "False", "reason": "NodeNotReady", "lastTransitionTime": now});
    Some(json!({"metadata": {"uid": pod["metadata"]["uid"]}, "status": {"conditions": [condition]}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn lease(renewed: &str) -> Value {
        json!({"metadata": {"name": "edge-1"}, "spec": {"renewTime": renewed}})
    }

    fn node() -> Value {
        json!({"metadata": {"name": "edge-1"}})
    }

    #[test]
    fn a_node_is_silent_when_its_lease_stands_still_whatever_time_it_names() {
        let mut watch = Watch::default();
        let start = Instant::now();
        watch.see(&[node()], &[lease("1999-01-01T00:00:00Z")], start);
        assert!(!watch.is_silent("edge-1", start));
        let later = start + GRACE / 2;
        watch.see(&[node()], &[lease("1999-01-01T00:00:10Z")], later);
        assert!(!watch.is_silent("edge-1", start + GRACE + Duration::from_secs(1)), "renewed since");
        watch.see(&[node()], &[lease("1999-01-01T00:00:10Z")], later + GRACE);
        assert!(watch.is_silent("edge-1", later + GRACE + Duration::from_secs(1)));
    }

    #[test]
    fn a_node_without_a_lease_gets_the_same_grace() {
        let mut watch = Watch::default();
        let start = Instant::now();
        watch.see(&[node()], &[], start);
        assert!(!watch.is_silent("edge-1", start + GRACE));
        assert!(watch.is_silent("edge-1", start + GRACE + Duration::from_secs(1)));
        assert!(!watch.is_silent("other", start + 2 * GRACE));
    }

    #[test]
    fn every_condition_becomes_unknown_once() {
        let node = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"},
        ]}});
        let patch = unknown(&node, NOW).unwrap();
        let types: Vec<_> =
            patch["status"]["conditions"].as_array().unwrap().iter().map(|c| &c["type"]).collect();
        assert_eq!(types, ["Ready", "DiskPressure"]);
        assert_eq!(unknown(&json!({"status": patch["status"]}), NOW), None);
    }

    #[test]
    fn only_ready_pods_are_made_unready() {
        let pod = |status: &str| json!({"metadata": {"uid": "u"}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
        let patch = unready(&pod("True"), NOW).unwrap();
        assert_eq!(patch["metadata"]["uid"], "u");
        assert_eq!(patch["status"]["conditions"][0]["status"], "False");
        assert!(unready(&pod("False"), NOW).is_none());
        assert!(unready(&json!({"status": {}}), NOW).is_none());
    }
}
