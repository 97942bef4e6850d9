//! Defaults of a pod, as kube-apiserver fills them in (`pkg/apis/core/v1/defaults.go` and the admission plugins
//! ServiceAccount, Priority and DefaultTolerationSeconds). Not done here: no service account token is mounted
//! (`kube-api-access-*`), since pods of the standalone API have no rights in it.

use serde_json::{Map, Value, json};

use crate::object::{self, child, default, text};

/// Fills in what the client left out of `spec`, and nothing of `status`.
pub(crate) fn fill(pod: &mut Value) {
    let spec = child(pod, "spec");
    default(spec, "restartPolicy", "Always");
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "schedulerName", "default-scheduler");
    default(spec, "securityContext", json!({}));
    default(spec, "enableServiceLinks", true);
    default(spec, "preemptionPolicy", "PreemptLowerPriority");
    default(spec, "priority", 0);
    let account = spec.get("serviceAccount").cloned().unwrap_or_else(|| "default".into());
    default(spec, "serviceAccountName", account);
    let account = spec["serviceAccountName"].clone();
    spec.insert("serviceAccount".into(), account);
    tolerate_lost_node(spec);
    let host_network = spec.get("hostNetwork").is_some_and(|v| v == true);
    for list in ["initContainers", "containers"] {
        for container in objects(spec, list) {
            fill_container(container, host_network);
        }
    }
    for volume in objects(spec, "volumes") {
        fill_volume(volume);
    }
}

/// The object elements of a list; others failed the shape check before.
fn objects<'a>(
    parent: &'a mut Map<String, Value>,
    list: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    parent.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

fn object<'a>(parent: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    parent.get_mut(key).and_then(Value::as_object_mut)
}

/// 300 s on a node that is lost, unless the pod says otherwise.
fn tolerate_lost_node(spec: &mut Map<String, Value>) {
    default(spec, "tolerations", json!([]));
    let Some(tolerations) = spec["tolerations"].as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|t| {
            (text(t, "/key") == key || text(t, "/key").is_empty())
                && matches!(text(t, "/effect"), "" | "NoExecute")
        });
        if !tolerated {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }));
        }
    }
}

fn fill_container(container: &mut Map<String, Value>, host_network: bool) {
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    default(container, "resources", json!({}));
    let policy = pull_policy(container.get("image").and_then(Value::as_str).unwrap_or_default());
    default(container, "imagePullPolicy", policy);
    for port in objects(container, "ports") {
        default(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            default(port, "hostPort", number);
        }
    }
    for variable in objects(container, "env") {
        if let Some(field) = object(variable, "valueFrom").and_then(|from| object(from, "fieldRef")) {
            default(field, "apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object(container, probe) {
            default(probe, "timeoutSeconds", 1);
            default(probe, "periodSeconds", 10);
            default(probe, "successThreshold", 1);
            default(probe, "failureThreshold", 3);
            fill_handler(probe);
            if let Some(grpc) = object(probe, "grpc") {
                default(grpc, "service", "");
            }
        }
    }
    if let Some(lifecycle) = object(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = object(lifecycle, hook) {
                fill_handler(hook);
            }
        }
    }
    if let Some(resources) = object(container, "resources") {
        for list in ["limits", "requests"] {
            if let Some(list) = object(resources, list) {
                for value in list.values_mut().filter(|value| value.is_number()) {
                    *value = value.to_string().into();
                }
            }
        }
        if let Some(limits) =
            resources.get("limits").and_then(Value::as_object).cloned().filter(|l| !l.is_empty())
        {
            default(resources, "requests", json!({}));
            if let Some(requests) = object(resources, "requests") {
                limits.into_iter().for_each(|(name, value)| default(requests, &name, value));
            }
        }
    }
}

fn fill_handler(handler: &mut Map<String, Value>) {
    if let Some(get) = object(handler, "httpGet") {
        default(get, "path", "/");
        default(get, "scheme", "HTTP");
    }
}

/// `Always` for `latest` or no tag, else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    if image.contains('@') {
        return "IfNotPresent";
    }
    match last.rsplit_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

/// A volume of which only the name is given is empty. This runs before unknown fields are dropped: a volume of an unknown
/// type must not become an empty one without a word, which is what kube-apiserver makes of it.
pub(crate) fn fill_named_volumes(pod: &mut Value) {
    let volumes = pod.pointer_mut("/spec/volumes").and_then(Value::as_array_mut);
    for volume in volumes.into_iter().flatten().filter_map(Value::as_object_mut) {
        if volume.len() == 1 && volume.contains_key("name") {
            volume.insert("emptyDir".into(), json!({}));
        }
    }
}

fn fill_volume(volume: &mut Map<String, Value>) {
    for kind in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = object(volume, kind) {
            default(source, "defaultMode", 0o644);
        }
    }
    if let Some(path) = object(volume, "hostPath") {
        default(path, "type", "");
    }
    let field_refs = |source: &mut Map<String, Value>| {
        for item in objects(source, "items") {
            if let Some(field) = object(item, "fieldRef") {
                default(field, "apiVersion", "v1");
            }
        }
    };
    if let Some(downward) = object(volume, "downwardAPI") {
        field_refs(downward);
    }
    if let Some(projected) = object(volume, "projected") {
        for source in objects(projected, "sources") {
            if let Some(token) = object(source, "serviceAccountToken") {
                default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = object(source, "downwardAPI") {
                field_refs(downward);
            }
        }
    }
}

/// The first status of a pod.
pub(crate) fn initial_status(pod: &Value) -> Value {
    json!({"phase": "Pending", "qosClass": qos_class(pod)})
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from requests and limits of cpu and memory.
fn qos_class(pod: &Value) -> &'static str {
    let containers = || {
        let lists = ["/spec/initContainers", "/spec/containers"];
        lists.into_iter().flat_map(|list| object::list(pod, list))
    };
    let amount = |container: &Value, list: &str, name: &str| {
        crate::names::quantity_milli(text(container, &format!("/resources/{list}/{name}"))).filter(|n| *n > 0)
    };
    let (mut any, mut guaranteed) = (false, true);
    for container in containers() {
        for name in ["cpu", "memory"] {
            let (request, limit) = (amount(container, "requests", name), amount(container, "limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(spec: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
        fill_named_volumes(&mut pod);
        fill(&mut pod);
        pod["spec"].take()
    }

    #[test]
    fn a_bare_pod_gets_what_kubernetes_gives() {
        let spec = filled(json!({"containers": [{"name": "c", "image": "busybox"}]}));
        assert_eq!(spec["restartPolicy"], "Always");
        assert_eq!(spec["terminationGracePeriodSeconds"], 30);
        assert_eq!(spec["serviceAccountName"], "default");
        assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
        assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(spec["containers"][0]["terminationMessagePath"], "/dev/termination-log");
    }

    #[test]
    fn given_values_stay() {
        let spec = filled(
            json!({"restartPolicy": "Never", "serviceAccountName": "me", "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "c", "image": "b:1", "readinessProbe": {"httpGet": {"port": 80}, "periodSeconds": 1}}]}),
        );
        assert_eq!(spec["restartPolicy"], "Never");
        assert_eq!(spec["serviceAccount"], "me");
        assert_eq!(spec["tolerations"].as_array().unwrap().len(), 1);
        let probe = &spec["containers"][0]["readinessProbe"];
        assert_eq!((&probe["periodSeconds"], &probe["failureThreshold"]), (&json!(1), &json!(3)));
        assert_eq!(probe["httpGet"], json!({"port": 80, "path": "/", "scheme": "HTTP"}));
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("busybox", "Always"),
            ("busybox:latest", "Always"),
            ("busybox:1.35", "IfNotPresent"),
            ("registry:5000/busybox", "Always"),
            ("registry:5000/busybox@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn volumes_get_modes_and_a_named_one_is_empty() {
        let spec = filled(
            json!({"containers": [], "volumes": [{"name": "a"}, {"name": "b", "configMap": {"name": "x"}},
            {"name": "c", "hostPath": {"path": "/x"}}]}),
        );
        assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(spec["volumes"][1]["configMap"]["defaultMode"], 420);
        assert_eq!(spec["volumes"][2]["hostPath"]["type"], "");
    }

    #[test]
    fn qos_follows_requests_and_limits() {
        let class = |resources: Value| {
            let mut pod =
                json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}});
            fill(&mut pod);
            qos_class(&pod)
        };
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
        assert_eq!(class(json!({"limits": {"cpu": 1, "memory": "1Gi"}})), "Guaranteed");
    }
}
