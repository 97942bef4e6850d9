//! Pods that are being deleted and whose node is gone: nobody is left to say that they have ended.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{Api, ApiResult, NODES, PODS};

/// 20 s, as Kubernetes' pod garbage collector.
const EVERY: Duration = Duration::from_secs(20);

pub(super) async fn run(api: Api) {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = once(&api).await {
            tracing::debug!("orphaned pods not looked for: {error}");
        }
    }
}

async fn once(api: &Api) -> ApiResult<()> {
    let pods = api.list(&PODS.path(""), "").await?;
    // After the pods: a node that registers in between is seen, one that leaves is found the next time.
    let nodes = api.list(&NODES.path(""), "").await?;
    for pod in orphans(&pods, &nodes) {
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid},
        });
        match api.delete(PODS.object(pod.namespace, pod.name), &options).await {
            Err(error) if !matches!(error.code(), 404 | 409) => return Err(error),
            _ => {
                tracing::info!(namespace = pod.namespace, pod = pod.name, "removed a pod whose node is gone");
            }
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Orphan<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
}

/// Terminating pods bound to a node that does not exist. Others wait: their node may be about to join.
fn orphans<'a>(pods: &'a [Value], nodes: &[Value]) -> Vec<Orphan<'a>> {
    let nodes: HashSet<&str> = nodes.iter().filter_map(|node| node["metadata"]["name"].as_str()).collect();
    pods.iter()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_string())
        .filter(|pod| {
            pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty() && !nodes.contains(node))
        })
        .filter_map(|pod| {
            let text = |field: &str| pod["metadata"][field].as_str();
            Some(Orphan { namespace: text("namespace")?, name: text("name")?, uid: text("uid")? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_terminating_pods_of_missing_nodes_are_orphans() {
        let pod = |name: &str, node: &str, deleted: Option<&str>| {
            json!({
                "metadata": {"name": name, "namespace": "ns", "uid": name, "deletionTimestamp": deleted},
                "spec": {"nodeName": node},
            })
        };
        let pods = [
            pod("orphan", "gone", Some("2026-01-01T00:00:00Z")),
            pod("early", "joins-soon", None),
            pod("ending", "here", Some("2026-01-01T00:00:00Z")),
            pod("unbound", "", Some("2026-01-01T00:00:00Z")),
        ];
        let nodes = [json!({"metadata": {"name": "here"}})];
        assert_eq!(orphans(&pods, &nodes), [Orphan { namespace: "ns", name: "orphan", uid: "orphan" }]);
    }
}
