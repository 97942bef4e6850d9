//! Which node runs a pod. There is no scheduler: a pod names its node, or somebody posts a binding, or exactly one
//! node fits and gets it. With several that fit the pod waits and says so, since choosing well is a scheduler's work.

use serde_json::{Value, json};

use super::{WriteOptions, create};
use crate::error::ApiError;
use crate::object::{self, list, text};
use crate::resources::{self, Resource};
use crate::store::{Key, Work};

/// Who binds, as shown with events: the name every pod expects to be scheduled by.
const COMPONENT: &str = "default-scheduler";

fn pods() -> &'static Resource {
    resources::find("", "v1", "pods").expect("a row of the table")
}

fn nodes() -> &'static Resource {
    resources::find("", "v1", "nodes").expect("a row of the table")
}

/// Gives a new pod its node, or the condition that says why it has none. Returns whether there was anything to decide.
pub(super) fn admit(work: &Work<'_>, pod: &mut Value) -> Result<bool, ApiError> {
    let open = text(pod, "/spec/nodeName").is_empty();
    if open {
        decide(&work.all(nodes(), None)?, pod);
    } else {
        set_scheduled(pod);
    }
    Ok(open)
}

/// Writes the event that a scheduler writes, which is where people look for the reason a pod waits.
pub(super) fn announce(work: &mut Work<'_>, pod: &Value) {
    let (namespace, name) = (object::namespace(pod), object::name(pod));
    let node = text(pod, "/spec/nodeName");
    let (kind, reason, message) = if node.is_empty() {
        let waiting = list(pod, "/status/conditions").iter().find(|c| c["type"] == "PodScheduled");
        ("Warning", "FailedScheduling", waiting.map_or("", |c| text(c, "/message")).to_owned())
    } else {
        ("Normal", "Scheduled", format!("Successfully assigned {namespace}/{name} to {node}"))
    };
    let now = object::now();
    // Event names have no meaning; long pod names leave room for the suffix.
    let prefix: String = name.chars().take(200).collect();
    let suffix = uuid::Uuid::new_v4().simple().to_string();
    let event = json!({
        "metadata": {"name": format!("{}.{}", prefix.trim_end_matches(['-', '.']), &suffix[..16])},
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": object::uid(pod),
            "resourceVersion": object::version(pod),
        },
        "type": kind, "reason": reason, "message": message, "count": 1,
        "source": {"component": COMPONENT}, "reportingComponent": COMPONENT, "reportingInstance": "",
        "firstTimestamp": now, "lastTimestamp": now,
    });
    let Some(events) = resources::find("", "v1", "events") else { return };
    // An event that cannot be written, say because its namespace is going, must not undo the binding.
    if let Err(error) = create(work, events, namespace, event, WriteOptions::default()) {
        tracing::debug!(%error, pod = name, "no event for the binding");
    }
}

/// Looks again at the pods without a node, after the nodes have changed.
pub(super) fn bind_waiting(work: &mut Work<'_>) -> Result<(), ApiError> {
    let nodes = work.all(nodes(), None)?;
    for pod in work.all(pods(), None)? {
        if !text(&pod, "/spec/nodeName").is_empty() || object::is_terminating(&pod) {
            continue;
        }
        let mut decided = pod.clone();
        decide(&nodes, &mut decided);
        if decided != pod {
            let decided = work.put(pods(), decided, Some(&pod))?;
            announce(work, &decided);
        }
    }
    Ok(())
}

/// `POST pods/x/binding`.
pub(crate) fn bind(work: &mut Work<'_>, key: &Key, binding: &Value) -> Result<(), ApiError> {
    let node = text(binding, "/target/name");
    if node.is_empty() || !matches!(text(binding, "/target/kind"), "" | "Node") {
        return Err(ApiError::bad_request("target must be a Node with a name"));
    }
    let stored = work.require(key)?;
    let uid = object::uid(binding);
    let conflict = |why: String| Err(ApiError::conflict(key.resource, &key.name, &why));
    if !uid.is_empty() && uid != object::uid(&stored) {
        return conflict(format!("Precondition failed: UID in precondition: {uid}"));
    }
    if object::is_terminating(&stored) {
        return conflict(format!("pod {} is being deleted, cannot be assigned to a host", key.name));
    }
    match text(&stored, "/spec/nodeName") {
        "" => {}
        assigned => return conflict(format!("pod {} is already assigned to node {assigned:?}", key.name)),
    }
    let mut bound = stored.clone();
    assign(&mut bound, node);
    let bound = work.put(key.resource, bound, Some(&stored))?;
    announce(work, &bound);
    Ok(())
}

/// Whether a change of a node can make a pod fit that did not, or the other way round.
pub(super) fn differs(before: &Value, after: &Value) -> bool {
    let traits = |node: &Value| {
        (
            is_ready(node),
            node["metadata"]["labels"].clone(),
            node["spec"].clone(),
            object::is_terminating(node),
        )
    };
    traits(before) != traits(after)
}

fn assign(pod: &mut Value, node: &str) {
    object::child(pod, "spec").insert("nodeName".into(), node.into());
    set_scheduled(pod);
}

fn set_scheduled(pod: &mut Value) {
    object::set_condition(pod, "PodScheduled", "True", "", "", &object::now());
}

/// Assigns the only node that fits, or says why there is none.
fn decide(nodes: &[Value], pod: &mut Value) {
    let mut refusals: Vec<(&'static str, usize)> = Vec::new();
    let mut fitting = Vec::new();
    for node in nodes {
        match refusal(node, pod) {
            None => fitting.push(object::name(node).to_owned()),
            Some(why) => match refusals.iter_mut().find(|(known, _)| *known == why) {
                Some((_, count)) => *count += 1,
                None => refusals.push((why, 1)),
            },
        }
    }
    let message = match fitting.as_slice() {
        [only] => return assign(pod, only),
        [] => {
            let reasons: Vec<String> = refusals.iter().map(|(why, count)| format!("{count} {why}")).collect();
            let reasons = if reasons.is_empty() { "no nodes".to_owned() } else { reasons.join(", ") };
            format!("0/{} nodes are available: {reasons}.", nodes.len())
        }
        several => format!(
            "{} nodes match ({}): the standalone API has no scheduler, set spec.nodeName or a nodeSelector.",
            several.len(),
            several.join(", ")
        ),
    };
    object::set_condition(pod, "PodScheduled", "False", "Unschedulable", &message, &object::now());
}

/// Why the node cannot take the pod, in the scheduler's words.
fn refusal(node: &Value, pod: &Value) -> Option<&'static str> {
    if object::is_terminating(node) {
        return Some("node(s) were being deleted");
    }
    if node["spec"]["unschedulable"] == true {
        return Some("node(s) were unschedulable");
    }
    if !is_ready(node) {
        return Some("node(s) were not ready");
    }
    let labels = &node["metadata"]["labels"];
    let selector = pod["spec"]["nodeSelector"].as_object();
    if !selector.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value)) {
        return Some("node(s) didn't match Pod's node affinity/selector");
    }
    let tolerations = list(pod, "/spec/tolerations");
    let blocked = list(node, "/spec/taints")
        .iter()
        .filter(|taint| matches!(text(taint, "/effect"), "NoSchedule" | "NoExecute"))
        .any(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)));
    blocked.then_some("node(s) had untolerated taint(s)")
}

fn is_ready(node: &Value) -> bool {
    list(node, "/status/conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let field = |name: &str| toleration[name].as_str().unwrap_or_default();
    let effect = field("effect").is_empty() || field("effect") == text(taint, "/effect");
    let key = field("key").is_empty() && field("operator") == "Exists" || field("key") == text(taint, "/key");
    let value = field("operator") == "Exists" || field("value") == text(taint, "/value");
    effect && key && value
}

/// The answer to a binding.
pub(crate) fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, ready: &str) -> Value {
        json!({"metadata": {"name": name, "labels": {"zone": name}}, "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn decided(nodes: &[Value], spec: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
        decide(nodes, &mut pod);
        pod
    }

    #[test]
    fn the_only_ready_node_gets_the_pod() {
        let pod = decided(&[node("a", "True"), node("b", "Unknown")], json!({}));
        assert_eq!(pod["spec"]["nodeName"], "a");
        assert_eq!(pod["status"]["conditions"][0]["status"], "True");
    }

    #[test]
    fn among_several_nobody_chooses() {
        let nodes = [node("a", "True"), node("b", "True")];
        let pod = decided(&nodes, json!({}));
        assert_eq!(text(&pod, "/spec/nodeName"), "");
        assert_eq!(pod["status"]["conditions"][0]["reason"], "Unschedulable");
        assert_eq!(decided(&nodes, json!({"nodeSelector": {"zone": "b"}}))["spec"]["nodeName"], "b");
    }

    #[test]
    fn taints_need_tolerations() {
        let mut tainted = node("a", "True");
        tainted["spec"]["taints"] = json!([{"key": "edge", "effect": "NoSchedule"}]);
        let waiting = decided(std::slice::from_ref(&tainted), json!({}));
        assert_eq!(
            waiting["status"]["conditions"][0]["message"],
            "0/1 nodes are available: 1 node(s) had untolerated taint(s)."
        );
        let tolerant = json!({"tolerations": [{"key": "edge", "operator": "Exists"}]});
        assert_eq!(decided(&[tainted], tolerant)["spec"]["nodeName"], "a");
    }
}
