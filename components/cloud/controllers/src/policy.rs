//! What an edge node may ask for. cloudcore's own credentials reach the whole cluster, so this is where a node that was
//! taken over stops: its own Node and Lease, the pods bound to it, and what those pods name. Pure; the facts come from
//! [`World`](crate::world::World).

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::object::{Key, Kind, Object};
use crate::request::{LeaseAction, Request};

/// What is known of the node that asks.
pub(crate) struct Facts<'a> {
    pub(crate) node: &'a str,
    /// The pods bound to it.
    pub(crate) pods: &'a [Arc<Object>],
}

/// A refusal; the text is for the edge and the log.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node} may not {what}")]
pub(crate) struct Denied {
    node: String,
    what: String,
}

/// Whether the node may make this request. Requests about pods that are gone pass here: the API answers them.
pub(crate) fn check(facts: &Facts<'_>, request: &Request) -> Result<(), Denied> {
    let denied = |what: String| Err(Denied { node: facts.node.to_owned(), what });
    let named = |kind, namespace: &str, name: &str| {
        let key = Key::new(kind, namespace, name);
        if facts.names(&key) { Ok(()) } else { denied(format!("read {key}, which none of its pods names")) }
    };
    match request {
        Request::GetClusterCa => Ok(()),
        Request::CreateNode { name, .. }
        | Request::UpdateNode { name, .. }
        | Request::GetNode { name }
        | Request::PatchNodeStatus { name, .. } => {
            if name == facts.node {
                Ok(())
            } else {
                denied(format!("touch node {name}"))
            }
        }
        Request::Lease { namespace, name, action } => {
            if (namespace.as_str(), name.as_str()) != ("kube-node-lease", facts.node) {
                return denied(format!("touch lease {namespace}/{name}"));
            }
            match action {
                LeaseAction::Get => Ok(()),
                LeaseAction::Create(lease) | LeaseAction::Update(lease) => {
                    match lease["metadata"]["name"].as_str() {
                        Some(name) if name != facts.node => denied(format!("write lease {name}")),
                        _ => Ok(()),
                    }
                }
            }
        }
        Request::PatchPodStatus { namespace, name, patch } => match foreign_part(patch) {
            Some(part) => denied(format!("change {part} of pod {namespace}/{name}")),
            None => Ok(()),
        },
        Request::DeletePod { .. } => Ok(()),
        Request::CreatePod { namespace, pod } => {
            let mirror = pod
                .pointer("/metadata/annotations/kubernetes.io~1config.mirror")
                .is_some_and(Value::is_string);
            let own = pod["spec"]["nodeName"].as_str() == Some(facts.node);
            let secrets = Object::from_value(Kind::Pod, identified(pod, namespace))
                .ok()
                .and_then(|object| object.pod)
                .is_none_or(|pod| !pod.references.is_empty());
            match () {
                () if !mirror => denied("create a pod that is no mirror of a static one".to_owned()),
                () if !own => denied("create a pod of another node".to_owned()),
                () if secrets => denied("create a pod that names ConfigMaps or Secrets".to_owned()),
                () => Ok(()),
            }
        }
        Request::GetConfigMap { namespace, name } => named(Kind::ConfigMap, namespace, name),
        Request::GetSecret { namespace, name } => named(Kind::Secret, namespace, name),
        Request::GetClaim { namespace, name } => {
            if facts.claims(namespace, name) {
                Ok(())
            } else {
                denied(format!("read claim {namespace}/{name}, which none of its pods names"))
            }
        }
        // Who may read these two depends on what they say: `check_volume`, `check_attachment`.
        Request::GetVolume { .. } | Request::GetAttachment { .. } => Ok(()),
        Request::CreateToken { namespace, account, body } => token(facts, namespace, account, body),
        Request::CreateEvent { namespace, event }
        | Request::UpdateEvent { namespace, event, .. }
        | Request::PatchEvent { namespace, event, .. } => {
            let host = [&event["source"]["host"], &event["reportingInstance"]];
            if event["metadata"]["namespace"].as_str().is_some_and(|own| own != namespace) {
                denied(format!("write an event of another namespace than {namespace}"))
            } else if host.iter().any(|host| host.as_str() == Some(facts.node)) {
                Ok(())
            } else {
                denied("write an event that names another reporter".to_owned())
            }
        }
    }
}

/// Whether the node may act on a pod bound to `bound`.
pub(crate) fn check_pod(node: &str, namespace: &str, name: &str, bound: Option<&str>) -> Result<(), Denied> {
    match bound {
        Some(bound) if bound == node => Ok(()),
        _ => Err(Denied {
            node: node.to_owned(),
            what: format!("touch pod {namespace}/{name}, which is not bound to it"),
        }),
    }
}

/// A volume may be read by the node whose pods claim it.
pub(crate) fn check_volume(facts: &Facts<'_>, volume: &Value) -> Result<(), Denied> {
    let claim = &volume["spec"]["claimRef"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if facts.claims(&text(&claim["namespace"]), &text(&claim["name"])) {
        Ok(())
    } else {
        Err(Denied { node: facts.node.to_owned(), what: "read a volume none of its pods claims".to_owned() })
    }
}

/// An attachment may be read by its own node.
pub(crate) fn check_attachment(facts: &Facts<'_>, attachment: &Value) -> Result<(), Denied> {
    if attachment["spec"]["nodeName"].as_str() == Some(facts.node) {
        Ok(())
    } else {
        Err(Denied { node: facts.node.to_owned(), what: "read an attachment of another node".to_owned() })
    }
}

/// A token of a service account a pod of the node runs as, bound to that pod so that it ends with it.
fn token(facts: &Facts<'_>, namespace: &str, account: &str, body: &Value) -> Result<(), Denied> {
    let bound = &body["spec"]["boundObjectRef"];
    let uid = bound["uid"].as_str().unwrap_or_default();
    let fits = facts.pods.iter().any(|pod| {
        pod.key.namespace == namespace
            && pod.uid == uid
            && bound["kind"] == "Pod"
            && bound["name"] == pod.key.name.as_str()
            && pod.pod.as_ref().is_some_and(|facts| facts.service_account == account)
    });
    if fits {
        Ok(())
    } else {
        let what = format!(
            "get a token of service account {namespace}/{account} that is not bound to a pod of its own"
        );
        Err(Denied { node: facts.node.to_owned(), what })
    }
}

impl Facts<'_> {
    fn names(&self, key: &Key) -> bool {
        self.pods.iter().any(|pod| pod.pod.as_ref().is_some_and(|facts| facts.references.contains(key)))
    }

    fn claims(&self, namespace: &str, claim: &str) -> bool {
        self.pods.iter().any(|pod| {
            pod.key.namespace == namespace
                && pod.pod.as_ref().is_some_and(|facts| facts.claims.contains(claim))
        })
    }
}

/// A status patch says status, and the uid it is meant for.
fn foreign_part(patch: &Value) -> Option<String> {
    let parts = patch.as_object()?;
    for (name, part) in parts {
        match (name.as_str(), part) {
            ("status", _) => {}
            ("metadata", Value::Object(metadata)) => {
                if let Some(other) = metadata.keys().find(|key| *key != "uid") {
                    return Some(format!("metadata.{other}"));
                }
            }
            (other, _) => return Some(other.to_owned()),
        }
    }
    None
}

/// A pod that is yet to be created has no identity; one to be read with.
fn identified(pod: &Value, namespace: &str) -> Value {
    let mut pod = pod.clone();
    pod["metadata"] =
        serde_json::json!({"name": "new", "namespace": namespace, "uid": "new", "resourceVersion": "0"});
    pod
}

/// The labels of a node that registers, split into those it may give itself and the names of those it may not
/// (Kubernetes: the NodeRestriction admission plugin; `node-role.kubernetes.io/edge` and `agent` are KubeEdge's).
pub(crate) fn node_labels(
    labels: serde_json::Map<String, Value>,
) -> (serde_json::Map<String, Value>, BTreeSet<String>) {
    const OWN: [&str; 14] = [
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.kubernetes.io/region",
        "failure-domain.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "node-role.kubernetes.io/edge",
    ];
    let within = |prefix: &str, domain: &str| prefix == domain || prefix.ends_with(&format!(".{domain}"));
    let mut refused = BTreeSet::new();
    let kept = labels
        .into_iter()
        .filter(|(label, _)| {
            let Some((prefix, _)) = label.split_once('/') else { return true };
            let allowed = !(within(prefix, "kubernetes.io") || within(prefix, "k8s.io"))
                || OWN.contains(&label.as_str())
                || label == "node-role.kubernetes.io/agent"
                || within(prefix, "kubelet.kubernetes.io")
                || within(prefix, "node.kubernetes.io");
            if !allowed {
                refused.insert(label.clone());
            }
            allowed
        })
        .collect();
    (kept, refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pods() -> Vec<Arc<Object>> {
        let pod = json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u1", "resourceVersion": "1"},
            "spec": {
                "nodeName": "edge-1", "serviceAccountName": "app",
                "volumes": [{"secret": {"secretName": "s"}}, {"persistentVolumeClaim": {"claimName": "data"}}],
            },
        });
        vec![Arc::new(Object::from_value(Kind::Pod, pod).unwrap())]
    }

    fn allowed(request: &Request) -> bool {
        check(&Facts { node: "edge-1", pods: &pods() }, request).is_ok()
    }

    fn secret(namespace: &str, name: &str) -> Request {
        Request::GetSecret { namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn a_node_reads_the_secrets_its_pods_name_and_no_others() {
        assert!(allowed(&secret("ns", "s")));
        assert!(!allowed(&secret("ns", "other")));
        assert!(!allowed(&secret("kube-system", "s")));
        assert!(!allowed(&Request::GetConfigMap { namespace: "ns".into(), name: "s".into() }));
    }

    #[test]
    fn a_node_touches_its_own_node_and_lease_only() {
        assert!(allowed(&Request::GetNode { name: "edge-1".into() }));
        assert!(!allowed(&Request::PatchNodeStatus { name: "edge-2".into(), patch: "{}".into() }));
        let lease = |namespace: &str, name: &str, action| Request::Lease {
            namespace: namespace.into(),
            name: name.into(),
            action,
        };
        assert!(allowed(&lease("kube-node-lease", "edge-1", LeaseAction::Get)));
        assert!(!allowed(&lease("kube-node-lease", "edge-2", LeaseAction::Get)));
        assert!(!allowed(&lease("kube-system", "edge-1", LeaseAction::Get)));
        let other = json!({"metadata": {"name": "edge-2"}});
        assert!(!allowed(&lease("kube-node-lease", "edge-1", LeaseAction::Update(other))));
    }

    #[test]
    fn a_pods_status_may_be_patched_and_nothing_else_of_it() {
        let patch = |patch: Value| {
            allowed(&Request::PatchPodStatus { namespace: "ns".into(), name: "web".into(), patch })
        };
        assert!(patch(json!({"metadata": {"uid": "u1"}, "status": {"phase": "Running"}})));
        assert!(!patch(json!({"metadata": {"uid": "u1", "labels": {"app": "other"}}, "status": {}})));
        assert!(!patch(json!({"spec": {"nodeName": "x"}})));
    }

    #[test]
    fn pods_bound_elsewhere_are_out_of_reach() {
        assert!(check_pod("edge-1", "ns", "p", Some("edge-1")).is_ok());
        assert!(check_pod("edge-1", "ns", "p", Some("edge-2")).is_err());
        assert!(check_pod("edge-1", "ns", "p", None).is_err());
    }

    #[test]
    fn tokens_are_bound_to_an_own_pod_of_that_account() {
        let token = |account: &str, bound: Value| {
            allowed(&Request::CreateToken {
                namespace: "ns".into(),
                account: account.into(),
                body: json!({"spec": {"boundObjectRef": bound}}),
            })
        };
        assert!(token("app", json!({"kind": "Pod", "name": "web", "uid": "u1"})));
        assert!(!token("app", json!({"kind": "Pod", "name": "web", "uid": "u2"})));
        assert!(!token("admin", json!({"kind": "Pod", "name": "web", "uid": "u1"})));
        assert!(!token("app", json!(null)));
    }

    #[test]
    fn volumes_follow_claims_and_attachments_their_node() {
        let pods = pods();
        let facts = Facts { node: "edge-1", pods: &pods };
        let volume = |name: &str| json!({"spec": {"claimRef": {"namespace": "ns", "name": name}}});
        assert!(check_volume(&facts, &volume("data")).is_ok());
        assert!(check_volume(&facts, &volume("other")).is_err());
        assert!(check_volume(&facts, &json!({})).is_err());
        assert!(check_attachment(&facts, &json!({"spec": {"nodeName": "edge-1"}})).is_ok());
        assert!(check_attachment(&facts, &json!({"spec": {"nodeName": "edge-2"}})).is_err());
    }

    #[test]
    fn only_mirror_pods_of_the_own_node_without_secrets_are_created() {
        let create = |spec: Value, annotations: Value| {
            let pod = json!({"metadata": {"name": "m", "annotations": annotations}, "spec": spec});
            allowed(&Request::CreatePod { namespace: "ns".into(), pod })
        };
        let mirror = json!({"kubernetes.io/config.mirror": "hash"});
        assert!(create(json!({"nodeName": "edge-1"}), mirror.clone()));
        assert!(!create(json!({"nodeName": "edge-1"}), json!({})));
        assert!(!create(json!({"nodeName": "edge-2"}), mirror.clone()));
        assert!(!create(json!({"nodeName": "edge-1", "volumes": [{"secret": {"secretName": "s"}}]}), mirror));
    }

    #[test]
    fn events_name_their_node_as_reporter() {
        let event = |event: Value| allowed(&Request::CreateEvent { namespace: "ns".into(), event });
        assert!(event(json!({"source": {"host": "edge-1"}})));
        assert!(!event(json!({"source": {"host": "edge-2"}})));
        assert!(!event(json!({"source": {"host": "edge-1"}, "metadata": {"namespace": "kube-system"}})));
    }

    #[test]
    fn a_node_cannot_give_itself_reserved_labels() {
        let labels = json!({
            "kubernetes.io/hostname": "edge-1", "node-role.kubernetes.io/edge": "", "node-role.kubernetes.io/control-plane": "",
            "node-restriction.kubernetes.io/zone": "secure", "site": "roof", "example.com/x": "y",
        });
        let (kept, refused) = node_labels(labels.as_object().unwrap().clone());
        assert_eq!(kept.len(), 4);
        let refused: Vec<_> = refused.into_iter().collect();
        assert_eq!(refused, ["node-restriction.kubernetes.io/zone", "node-role.kubernetes.io/control-plane"]);
    }
}
