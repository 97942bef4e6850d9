//! kubectl's verbs, as a user types them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::pods::sleeper;
use harness::{Cluster, EDGE_NODE, Run, until};
use serde_json::json;

const LIMIT: Duration = Duration::from_mins(1);

pub(crate) fn get(cluster: &mut Cluster) -> Result<()> {
    for (name, app) in [("get-a", "one"), ("get-b", "two")] {
        let mut pod = sleeper(name);
        pod["metadata"]["labels"] = json!({"app": app});
        // Long enough for a second kubectl to find it while it goes.
        pod["spec"]["terminationGracePeriodSeconds"] = json!(2);
        cluster.create(&pod)?;
        cluster.wait_pod_ready(name)?;
    }
    let table = cluster.kubectl(&["get", "pods"])?;
    let head: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    ensure!(head == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"], "the head is {head:?}");
    let wide = cluster.kubectl(&["get", "pods", "-o=wide", "get-a"])?;
    ensure!(
        wide.contains("NODE") && wide.contains(EDGE_NODE) && wide.contains("10.213."),
        "wide shows {wide}"
    );
    let names = |selector: &[&str]| -> Result<Vec<String>> {
        let arguments = [&["get", "pods", "-o=name"], selector].concat();
        Ok(cluster.kubectl(&arguments)?.lines().map(str::to_owned).collect())
    };
    for selector in
        [&["-l=app=one"][..], &["-l=app in (one, three)"], &["--field-selector=metadata.name=get-a"]]
    {
        let found = names(selector)?;
        ensure!(found == ["pod/get-a"], "{selector:?} selects {found:?}");
    }
    ensure!(names(&["-l=app"])?.len() >= 2, "a label's existence selects too few");
    ensure!(
        names(&["--field-selector=spec.nodeName=nowhere"])?.is_empty(),
        "a field selects what it does not match"
    );
    for kinds in
        ["nodes", "configmaps", "secrets", "services", "endpoints", "endpointslices", "leases", "events"]
    {
        cluster.kubectl(&["get", kinds, "--all-namespaces"])?;
    }
    for kinds in ["namespaces", "serviceaccounts"] {
        let found = cluster.kubectl(&["get", kinds, "-o=name"])?;
        ensure!(found.contains("default"), "{kinds} are {found}");
    }
    ensure!(cluster.kubectl(&["get", "pod", "get-a", "-o=yaml"])?.contains("podIP:"), "YAML shows no podIP");
    let error = cluster.kubectl(&["get", "pod", "nobody"]).expect_err("there is no such pod").to_string();
    ensure!(error.contains("Error from server (NotFound): pods \"nobody\" not found"), "{error}");
    let error = cluster.kubectl(&["get", "sandwiches"]).expect_err("there is no such kind").to_string();
    ensure!(error.contains("the server doesn't have a resource type \"sandwiches\""), "{error}");
    cluster.kubectl(&["api-resources"])?;
    cluster.kubectl(&["version"]).map(drop)
}

pub(crate) fn watch(cluster: &mut Cluster) -> Result<()> {
    let kubeconfig = cluster.kubeconfig().display().to_string();
    // kubectl follows for ever; `timeout` ends it, with a status of its own.
    let follow = Run::new("timeout").args(["8", "kubectl", "--kubeconfig", &kubeconfig, "get", "pods", "-w"]);
    let rows = std::thread::scope(|scope| -> Result<String> {
        let following = scope.spawn(|| follow.finish());
        cluster.create(&sleeper("watched"))?;
        cluster.wait_pod_ready("watched")?;
        cluster.kubectl(&["delete", "pod", "watched", "--wait=false"])?;
        Ok(following.join().expect("the follower does not panic")?.stdout)
    })?;
    let rows: Vec<&str> = rows.lines().filter(|row| row.starts_with("watched")).collect();
    for shown in ["1/1", "Running"] {
        ensure!(rows.iter().any(|row| row.contains(shown)), "no row shows {shown}: {rows:?}");
    }
    cluster.wait_pod_gone("watched", LIMIT)
}

pub(crate) fn apply(cluster: &mut Cluster) -> Result<()> {
    let document = |value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: applied}}\ndata: {{a: '{value}', b: stays}}\n"
        )
    };
    for (value, said) in [("1", "created"), ("1", "unchanged"), ("2", "configured")] {
        let found = cluster.apply(&document(value))?;
        ensure!(found.trim() == format!("configmap/applied {said}"), "kubectl apply says {found}");
    }
    // apply removes what the last applied document had and the new one has not.
    cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: '3'}\n")?;
    let object = cluster.get("configmap", "applied")?;
    ensure!(object["data"] == json!({"a": "3"}), "the data are {}", object["data"]);
    cluster.kubectl(&["delete", "configmap", "applied"]).map(drop)
}

pub(crate) fn describe(cluster: &mut Cluster) -> Result<()> {
    let pod = cluster.kubectl(&["describe", "pod", "get-a"])?;
    for part in ["Conditions:", "Ready", "Containers:", "Container ID:", "Events:", "Started", "Node:"] {
        ensure!(pod.contains(part), "kubectl describe pod lacks {part}: {pod}");
    }
    let node = cluster.kubectl(&["describe", "node", EDGE_NODE])?;
    for part in ["Conditions:", "Capacity:", "System Info:", "Non-terminated Pods:", "get-a"] {
        ensure!(node.contains(part), "kubectl describe node lacks {part}: {node}");
    }
    Ok(())
}

pub(crate) fn edit_patch_label(cluster: &mut Cluster) -> Result<()> {
    cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: edited}\ndata: {speed: fast}\n")?;
    let editor = "sed -i s/fast/slow/";
    cluster.kubectl_command()?.args(["edit", "configmap", "edited"]).env("KUBE_EDITOR", editor).output()?;
    ensure!(cluster.get("configmap", "edited")?["data"]["speed"] == "slow", "kubectl edit changed nothing");
    for (kind, patch, key) in [
        ("merge", r#"{"data":{"merged":"yes"}}"#, "merged"),
        ("strategic", r#"{"data":{"woven":"yes"}}"#, "woven"),
        ("json", r#"[{"op":"add","path":"/data/added","value":"yes"}]"#, "added"),
    ] {
        cluster.kubectl(&["patch", "configmap", "edited", "--type", kind, "-p", patch])?;
        ensure!(
            cluster.get("configmap", "edited")?["data"][key] == "yes",
            "the {kind} patch changed nothing"
        );
    }
    cluster.kubectl(&["label", "pod", "get-a", "tier=edge"])?;
    ensure!(
        cluster.get("pod", "get-a")?["metadata"]["labels"]["tier"] == "edge",
        "kubectl label changed nothing"
    );
    cluster.kubectl(&["label", "pod", "get-a", "tier-"])?;
    ensure!(cluster.get("pod", "get-a")?["metadata"]["labels"]["tier"].is_null(), "the label stayed");
    cluster.kubectl(&["annotate", "pod", "get-a", "note=seen"])?;
    let error = cluster.kubectl(&[
        "patch",
        "configmap",
        "edited",
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/data/x"}]"#,
    ]);
    ensure!(error.is_err(), "a patch of what is not there was taken");
    cluster.kubectl(&["delete", "configmap", "edited"]).map(drop)
}

pub(crate) fn wait_delete(cluster: &mut Cluster) -> Result<()> {
    cluster.kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", "pod/get-a", "pod/get-b"])?;
    cluster.kubectl(&["delete", "pod", "get-a", "--timeout=30s"])?;
    ensure!(
        cluster.kubectl(&["get", "pod", "get-a"]).is_err(),
        "kubectl delete returned before the pod was gone"
    );
    cluster.kubectl(&["delete", "pod", "-l=app=two", "--wait=false"])?;
    cluster.kubectl(&["wait", "--for=delete", "--timeout=30s", "pod/get-b"])?;
    cluster.create(&sleeper("forced"))?;
    let pod = cluster.wait_pod_ready("forced")?;
    cluster.kubectl(&["delete", "pod", "forced", "--force", "--grace-period=0"])?;
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
    let id = id.strip_prefix("containerd://").context("no container id")?;
    until(LIMIT, "the container of the pod deleted by force is gone", || {
        Ok((!cluster.containerd.containers()?.iter().any(|found| found == id)).then_some(()))
    })
}
