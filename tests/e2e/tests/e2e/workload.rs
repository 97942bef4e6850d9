//! What runs, as KubeEdge's own recorded workload and a few pods beside it ask for.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use e2e::pods::{recorded, sleeper, with_command};
use harness::{Cluster, EDGE_NODE, is_ready, machine, until};
use serde_json::{Value, json};

/// Bound on anything that has no bound of its own.
const LIMIT: Duration = Duration::from_mins(1);

pub(crate) fn node(cluster: &mut Cluster) -> Result<()> {
    let node = cluster.get("node", EDGE_NODE)?;
    for pointer in [
        "/metadata/labels/kubernetes.io~1hostname",
        "/metadata/labels/kubernetes.io~1os",
        "/metadata/labels/node-role.kubernetes.io~1edge",
        "/status/capacity/cpu",
        "/status/capacity/memory",
        "/status/allocatable/pods",
        "/status/nodeInfo/containerRuntimeVersion",
        "/status/addresses/0/address",
    ] {
        ensure!(node.pointer(pointer).is_some(), "the node has no {pointer}: {node}");
    }
    let text = cluster.kubectl(&["get", "nodes", "--no-headers"])?;
    ensure!(text.contains("Ready") && text.contains("edge"), "kubectl get nodes shows {text}");
    let renewed = || -> Result<String> {
        let lease = cluster.kubectl(&[
            "get",
            "lease",
            "-n=kube-node-lease",
            EDGE_NODE,
            "-o=jsonpath={.spec.renewTime}",
        ])?;
        ensure!(!lease.is_empty(), "the lease has no renewTime");
        Ok(lease)
    };
    let first = until(LIMIT, "the node's lease is there", || renewed().map(Some))?;
    until(LIMIT, "the node's lease is renewed", || Ok((renewed()? != first).then_some(())))
}

pub(crate) fn web(cluster: &mut Cluster) -> Result<()> {
    cluster.apply(&recorded(&[
        ("ConfigMap", "app-config"),
        ("Secret", "app-secret"),
        ("Service", "web"),
        ("Pod", "web-0"),
    ])?)?;
    let pod = cluster.wait_pod_ready("web-0")?;
    let (status, body) = cluster.http_get("web-0", "/")?;
    ensure!(status.contains(" 200 ") && body == "ok\n", "web-0 answers {status}: {body}");
    let environment = cluster.environment("web-0")?;
    let address = pod["status"]["podIP"].as_str().context("no pod IP")?;
    for wanted in ["GREETING=hello".to_owned(), "PASSWORD=s3cret".to_owned(), format!("POD_IP={address}")] {
        ensure!(environment.contains(&wanted), "{wanted} is not in {environment:?}");
    }
    for (file, content) in
        [("/etc/cfg/greeting", "hello"), ("/etc/cfg/mode", "fast"), ("/etc/sec/password", "s3cret")]
    {
        let found = cluster.read("web-0", file)?;
        ensure!(found == content, "{file} holds {found:?}");
    }
    cluster.exec("web-0", &["touch", "/scratch/is-writable"])?;
    let row = cluster.kubectl(&["get", "pods", "web-0", "--no-headers"])?;
    let row: Vec<&str> = row.split_whitespace().collect();
    ensure!(row[1..4] == ["1/1", "Running", "0"], "kubectl get pods shows {row:?}");
    Ok(())
}

/// Every field that KubeEdge's kubelet wrote into the recorded status is in ours, with a value of the same kind.
pub(crate) fn status_shape(cluster: &mut Cluster) -> Result<()> {
    let path = machine::fixture("objects/pods.json")?;
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let pods: Value =
        serde_json::from_str(&text).with_context(|| format!("could not parse {}", path.display()))?;
    let pods = pods["items"].as_array().context("the recorded pods have no items")?;
    let recorded =
        pods.iter().find(|pod| pod["metadata"]["name"] == "web-0").context("web-0 was not recorded")?;
    let ours = cluster.get("pod", "web-0")?;
    let wanted = shape(&recorded["status"]);
    let found = shape(&ours["status"]);
    // A full cluster's API server adds fields of its own to a status, and a service account's token, mounted read-only,
    // to every pod.
    let of_the_cluster = ["allocatedResources", "resources", "observedGeneration", "user"];
    let of_the_token = [".readOnly: bool", ".recursiveReadOnly: string"];
    let is_ours = |path: &&String| {
        !of_the_cluster.iter().any(|field| path.split('.').any(|part| part == *field))
            && !of_the_token.iter().any(|end| path.ends_with(end))
    };
    let missing: Vec<&String> = wanted.difference(&found).filter(is_ours).collect();
    ensure!(missing.is_empty(), "the status lacks {missing:?}; it is {}", ours["status"]);
    let kinds = |status: &Value| -> Result<BTreeSet<String>> {
        let conditions = status["conditions"].as_array().context("no conditions")?;
        Ok(conditions.iter().filter_map(|condition| Some(condition["type"].as_str()?.to_owned())).collect())
    };
    let (wanted, found) = (kinds(&recorded["status"])?, kinds(&ours["status"])?);
    ensure!(wanted == found, "the conditions are {found:?}, KubeEdge's were {wanted:?}");
    ensure!(ours["status"]["qosClass"] == recorded["status"]["qosClass"], "the QoS class differs");
    Ok(())
}

/// The paths of all fields, with `[]` for the elements of lists and the JSON type of what they hold.
fn shape(value: &Value) -> BTreeSet<String> {
    fn walk(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    walk(field, &format!("{path}.{name}"), found);
                }
            }
            Value::Array(elements) => {
                for element in elements {
                    walk(element, &format!("{path}[]"), found);
                }
            }
            Value::Null => {}
            Value::Bool(_) => drop(found.insert(format!("{path}: bool"))),
            Value::Number(_) => drop(found.insert(format!("{path}: number"))),
            Value::String(_) => drop(found.insert(format!("{path}: string"))),
        }
    }
    let mut found = BTreeSet::new();
    walk(value, "", &mut found);
    found
}

pub(crate) fn edited_objects(cluster: &mut Cluster) -> Result<()> {
    let before = cluster.container_ids()?;
    cluster.kubectl(&["patch", "configmap", "app-config", "-p", r#"{"data":{"greeting":"salut"}}"#])?;
    until(LIMIT, "the changed ConfigMap is in the mounted file", || {
        Ok((cluster.read("web-0", "/etc/cfg/greeting")? == "salut").then_some(()))
    })?;
    cluster.kubectl(&["patch", "secret", "app-secret", "-p", r#"{"stringData":{"password":"0pen"}}"#])?;
    until(LIMIT, "the changed Secret is in the mounted file", || {
        Ok((cluster.read("web-0", "/etc/sec/password")? == "0pen").then_some(()))
    })?;
    ensure!(cluster.container_ids()? == before, "a container was replaced");
    Ok(())
}

pub(crate) fn crash_loop(cluster: &mut Cluster) -> Result<()> {
    cluster.apply(&recorded(&[("Pod", "tok")])?)?;
    let restarts =
        |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default();
    let pod = cluster.wait_pod("tok", "crash-loops", |pod| {
        restarts(pod) >= 1
            && pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    })?;
    let init = &pod["status"]["initContainerStatuses"][0];
    ensure!(init["state"]["terminated"]["reason"] == "Completed", "the init container is {init}");
    ensure!(init["restartCount"] == 0, "the init container ran again: {init}");
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    ensure!(last["exitCode"] == 1 && last["reason"] == "Error", "the last state is {last}");
    let row = cluster.kubectl(&["get", "pod", "tok", "--no-headers"])?;
    ensure!(row.contains("0/1") && row.contains("CrashLoopBackOff"), "kubectl get pods shows {row}");
    let first = restarts(&pod);
    cluster.wait_pod("tok", "was restarted again", |pod| restarts(pod) > first)?;
    cluster.wait_event("tok", "BackOff", "restarting failed container")?;
    // The container prints how long the token it mounts is.
    let log = newest_log(cluster, "default_tok_")?;
    let length: usize = log.split_whitespace().last().and_then(|word| word.parse().ok()).unwrap_or_default();
    ensure!(length > 100, "the projected token is empty or missing: {log}");
    cluster.kubectl(&["delete", "pod", "tok", "--wait=false"])?;
    cluster.wait_pod_gone("tok", LIMIT)
}

/// The last line of the newest log file of a pod, below the kubelet's directory of pod logs.
fn newest_log(cluster: &Cluster, pod: &str) -> Result<String> {
    let folder = cluster.root().join("edgecore/pod-logs");
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("could not read {}", folder.display()))? {
        let entry = entry.context("could not read the log folder")?;
        if !entry.file_name().to_string_lossy().starts_with(pod) {
            continue;
        }
        for log in std::fs::read_dir(entry.path().join("c")).context("the container has no log folder")? {
            let path = log.context("could not read the log folder")?.path();
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("could not read {}", path.display()))?;
            lines.extend(text.lines().last().map(str::to_owned));
        }
    }
    lines.pop().with_context(|| format!("no log of {pod} in {}", folder.display()))
}

pub(crate) fn missing_image(cluster: &mut Cluster) -> Result<()> {
    cluster.apply(&recorded(&[("Pod", "badimg")])?)?;
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    cluster.wait_pod("badimg", "waits for its image", |pod| {
        ["ErrImagePull", "ImagePullBackOff"].iter().any(|reason| waiting(pod) == *reason)
    })?;
    cluster.wait_pod("badimg", "backs off", |pod| waiting(pod) == "ImagePullBackOff")?;
    cluster.wait_event("badimg", "Failed", "docker.io/library/nope:1")?;
    cluster.wait_event("badimg", "BackOff", "docker.io/library/nope:1")?;
    cluster.kubectl(&["delete", "pod", "badimg", "--wait=false"])?;
    cluster.wait_pod_gone("badimg", LIMIT)
}

pub(crate) fn volumes(cluster: &mut Cluster) -> Result<()> {
    let host = cluster.root().join("host-volume");
    std::fs::create_dir_all(&host).context("could not make the host's folder")?;
    std::fs::write(host.join("from-host"), "host").context("could not write the host's file")?;
    let mut pod = sleeper("volumes");
    pod["metadata"]["labels"] = json!({"tier": "edge"});
    pod["spec"]["volumes"] = json!([
        {"name": "empty", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},
        {"name": "host", "hostPath": {"path": host, "type": "Directory"}},
        {"name": "config", "configMap": {"name": "app-config", "items": [{"key": "mode", "path": "deep/mode"}]}},
        {"name": "secret", "secret": {"secretName": "app-secret", "defaultMode": 0o400}},
        {"name": "down", "downwardAPI": {"items": [
            {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        ]}},
        {"name": "both", "projected": {"sources": [
            {"configMap": {"name": "app-config", "items": [{"key": "mode", "path": "mode"}]}},
            {"secret": {"name": "app-secret", "items": [{"key": "password", "path": "password"}]}},
        ]}},
    ]);
    let names = ["empty", "memory", "host", "config", "secret", "down", "both"];
    let mounts = names.map(|name| json!({"name": name, "mountPath": format!("/v/{name}")}));
    pod["spec"]["containers"][0]["volumeMounts"] = json!(mounts);
    cluster.create(&pod)?;
    cluster.wait_pod_ready("volumes")?;
    for (file, content) in [
        ("/v/host/from-host", "host"),
        ("/v/config/deep/mode", "fast"),
        ("/v/down/name", "volumes"),
        ("/v/down/labels", "tier=\"edge\""),
        ("/v/both/mode", "fast"),
    ] {
        let found = cluster.read("volumes", file)?;
        ensure!(found.trim_end() == content, "{file} holds {found:?}");
    }
    ensure!(!cluster.read("volumes", "/v/both/password")?.is_empty(), "the projected secret is empty");
    let secret = cluster.inside("volumes", "/v/secret/password")?;
    let mode =
        std::fs::metadata(&secret).context("could not look at the secret's file")?.permissions().mode();
    ensure!(mode & 0o777 == 0o400, "the secret's mode is {mode:o}");
    let mounts = cluster.read("volumes", "/proc/1/mounts")?;
    ensure!(mounts.lines().any(|line| line.starts_with("tmpfs /v/memory ")), "the mounts are {mounts}");
    cluster.exec("volumes", &["touch", "/v/empty/a", "/v/memory/a", "/v/host/to-host"])?;
    ensure!(host.join("to-host").exists(), "what the pod wrote is not on the host");
    cluster.kubectl(&["delete", "pod", "volumes", "--wait=false"])?;
    cluster.wait_pod_gone("volumes", LIMIT)?;
    ensure!(host.join("from-host").exists(), "removing the pod removed the host's file");
    Ok(())
}

pub(crate) fn environment(cluster: &mut Cluster) -> Result<()> {
    let mut pod = sleeper("environment");
    let container = &mut pod["spec"]["containers"][0];
    container["command"] = json!(["sh", "-c", "echo $(GREETING) > /said; exec sleep 3600"]);
    container["envFrom"] = json!([{"prefix": "CFG_", "configMapRef": {"name": "app-config"}}]);
    container["env"] = json!([
        {"name": "GREETING", "value": "good day"},
        {"name": "TWICE", "value": "$(GREETING), $(GREETING)"},
        {"name": "ESCAPED", "value": "$$(GREETING)"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "MAYBE", "valueFrom": {"secretKeyRef": {"name": "not-there", "key": "x", "optional": true}}},
    ]);
    container["resources"] = json!({"limits": {"memory": "32Mi", "cpu": "100m"}});
    let created: Value = {
        cluster.create(&pod)?;
        cluster.wait_pod_ready("environment")?
    };
    let environment = cluster.environment("environment")?;
    let uid = created["metadata"]["uid"].as_str().context("no uid")?;
    for wanted in [
        "GREETING=good day".to_owned(),
        "TWICE=good day, good day".to_owned(),
        "ESCAPED=$(GREETING)".to_owned(),
        "CFG_mode=fast".to_owned(),
        format!("NODE={EDGE_NODE}"),
        format!("UID={uid}"),
        "LIMIT=32".to_owned(),
    ] {
        ensure!(environment.contains(&wanted), "{wanted} is not in {environment:?}");
    }
    ensure!(
        !environment.iter().any(|variable| variable.starts_with("MAYBE=")),
        "an optional reference to nothing made a variable"
    );
    let said = cluster.read("environment", "/said")?;
    ensure!(said == "good day\n", "the command's variable became {said:?}");
    cluster.kubectl(&["delete", "pod", "environment", "--wait=false"])?;
    cluster.wait_pod_gone("environment", LIMIT)
}

pub(crate) fn liveness(cluster: &mut Cluster) -> Result<()> {
    let mut pod = with_command("liveness", &["sh", "-c", "touch /alive; exec sleep 3600"]);
    pod["spec"]["containers"][0]["livenessProbe"] =
        json!({"exec": {"command": ["cat", "/alive"]}, "periodSeconds": 1, "failureThreshold": 2});
    cluster.create(&pod)?;
    cluster.wait_pod_ready("liveness")?;
    cluster.exec("liveness", &["rm", "/alive"])?;
    cluster.wait_pod("liveness", "was restarted once", |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"] == 1 && is_ready(pod)
    })?;
    cluster.wait_event("liveness", "Unhealthy", "Liveness probe failed")?;
    cluster.wait_event("liveness", "Killing", "failed liveness probe")?;
    cluster.kubectl(&["delete", "pod", "liveness", "--wait=false"])?;
    cluster.wait_pod_gone("liveness", LIMIT)
}

pub(crate) fn readiness(cluster: &mut Cluster) -> Result<()> {
    let mut pod = with_command("readiness", &["sh", "-c", "mkdir /www; exec httpd -f -p 8080 -h /www"]);
    let container = &mut pod["spec"]["containers"][0];
    container["readinessProbe"] =
        json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
    container["livenessProbe"] = json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1});
    cluster.create(&pod)?;
    cluster.wait_event(
        "readiness",
        "Unhealthy",
        "Readiness probe failed: HTTP probe failed with statuscode: 404",
    )?;
    ensure!(!is_ready(&cluster.get("pod", "readiness")?), "it is Ready although its probe fails");
    cluster.exec("readiness", &["touch", "/www/healthz"])?;
    cluster.wait_pod_ready("readiness")?;
    cluster.exec("readiness", &["rm", "/www/healthz"])?;
    let pod = cluster.wait_pod("readiness", "is no longer Ready", |pod| !is_ready(pod))?;
    ensure!(
        pod["status"]["containerStatuses"][0]["restartCount"] == 0,
        "a failed readiness probe restarted it"
    );
    cluster.kubectl(&["delete", "pod", "readiness", "--wait=false"])?;
    cluster.wait_pod_gone("readiness", LIMIT)
}

pub(crate) fn restart_policies(cluster: &mut Cluster) -> Result<()> {
    for (name, policy, command, phase, code) in [
        ("ends-well", "Never", "exit 0", "Succeeded", 0),
        ("ends-badly", "Never", "exit 3", "Failed", 3),
        ("done", "OnFailure", "exit 0", "Succeeded", 0),
    ] {
        let mut pod = with_command(name, &["sh", "-c", command]);
        pod["spec"]["restartPolicy"] = json!(policy);
        cluster.create(&pod)?;
        let pod = cluster.wait_pod(name, phase, |pod| pod["status"]["phase"] == phase)?;
        let status = &pod["status"]["containerStatuses"][0];
        ensure!(status["state"]["terminated"]["exitCode"] == code, "{name} ended with {status}");
        ensure!(status["restartCount"] == 0, "{name} was restarted: {status}");
    }
    let rows = cluster.kubectl(&["get", "pods", "--no-headers"])?;
    for (name, shown) in [("ends-well", "Completed"), ("ends-badly", "Error"), ("done", "Completed")] {
        let row = rows.lines().find(|row| row.starts_with(name)).unwrap_or_default();
        ensure!(row.contains(shown), "kubectl get pods shows {row:?}, not {shown}");
    }
    cluster.kubectl(&["delete", "pod", "ends-well", "ends-badly", "done", "--wait=false"])?;
    ["ends-well", "ends-badly", "done"].iter().try_for_each(|name| cluster.wait_pod_gone(name, LIMIT))
}

pub(crate) fn binding(cluster: &mut Cluster) -> Result<()> {
    let mut pod = sleeper("unbound");
    pod["spec"].as_object_mut().context("a pod has a spec")?.remove("nodeName");
    cluster.create(&pod)?;
    let bound = cluster.wait_pod_ready("unbound")?;
    ensure!(bound["spec"]["nodeName"] == EDGE_NODE, "it was bound to {}", bound["spec"]["nodeName"]);
    cluster.kubectl(&["delete", "pod", "unbound", "--wait=false"])?;
    cluster.wait_pod_gone("unbound", LIMIT)
}

pub(crate) fn graceful_delete(cluster: &mut Cluster) -> Result<()> {
    let host = cluster.root().join("last-words");
    std::fs::create_dir_all(&host).context("could not make the host's folder")?;
    // Says its last words a second after SIGTERM, well within its grace.
    let script =
        "trap 'sleep 1; echo bye > /host/words; exit 0' TERM; touch /host/up; while :; do sleep 0.1; done";
    let mut pod = with_command("graceful", &["sh", "-c", script]);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(20);
    pod["spec"]["volumes"] = json!([{"name": "host", "hostPath": {"path": host}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "host", "mountPath": "/host"}]);
    cluster.create(&pod)?;
    let pod = cluster.wait_pod_ready("graceful")?;
    until(LIMIT, "the script has set its trap", || Ok(host.join("up").exists().then_some(())))?;
    let began = Instant::now();
    cluster.kubectl(&["delete", "pod", "graceful", "--wait=false"])?;
    let row = cluster.kubectl(&["get", "pod", "graceful", "--no-headers"])?;
    ensure!(row.contains("Terminating"), "kubectl get pods shows {row}");
    cluster.wait_pod_gone("graceful", LIMIT)?;
    ensure!(
        began.elapsed() < Duration::from_secs(15),
        "it took {:?} although the pod ended by itself",
        began.elapsed()
    );
    let words = std::fs::read_to_string(host.join("words")).context("it was killed before its last words")?;
    ensure!(words == "bye\n", "its last words were {words:?}");
    is_removed(cluster, &pod)
}

pub(crate) fn deaf_delete(cluster: &mut Cluster) -> Result<()> {
    // The recorded pod's shell is process 1 and therefore deaf to SIGTERM; its grace is 3 s.
    let pod = cluster.get("pod", "web-0")?;
    let began = Instant::now();
    cluster.kubectl(&["delete", "pod", "web-0", "--wait=false"])?;
    cluster.wait_pod_gone("web-0", LIMIT)?;
    let took = began.elapsed();
    ensure!(took > Duration::from_millis(2500), "it was gone after {took:?}, before its grace was over");
    ensure!(took < Duration::from_secs(10), "it was gone after {took:?}, long after its grace");
    is_removed(cluster, &pod)
}

/// No container of the pod is left, nor its directory.
fn is_removed(cluster: &Cluster, pod: &Value) -> Result<()> {
    let uid = pod["metadata"]["uid"].as_str().context("no uid")?;
    let folder = cluster.root().join("edgecore/kubelet/pods").join(uid);
    until(LIMIT, "the pod's containers and directory are gone", || {
        let left = cluster.containerd.containers_of(uid)?;
        if !left.is_empty() || folder.exists() {
            bail!("containers {left:?}, directory {}", folder.exists());
        }
        Ok(Some(()))
    })
}
