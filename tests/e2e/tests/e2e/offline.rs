//! One side gone, and back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::pods::{recorded, sleeper};
use harness::{Cluster, until};

const LIMIT: Duration = Duration::from_mins(1);

/// Cloud gone, edgecore restarted, containers removed by hand: pods come back without the cloud.
pub(crate) fn removed_containers(cluster: &mut Cluster) -> Result<()> {
    cluster.apply(&recorded(&[("ConfigMap", "app-config"), ("Secret", "app-secret"), ("Pod", "web-0")])?)?;
    cluster.create(&sleeper("quiet"))?;
    let address = cluster.wait_pod_ready("web-0")?["status"]["podIP"].clone();
    cluster.wait_pod_ready("quiet")?;
    let before = cluster.container_ids()?;

    cluster.cloud.stop()?;
    cluster.edge.stop()?;
    cluster.containerd.remove_all()?;
    ensure!(cluster.containerd.running()?.is_empty(), "containers run although all were removed");
    cluster.edge.start().context("edgecore does not start without the cloud")?;
    let running = until(LIMIT, "both pods run again, without the cloud", || {
        let running = cluster.containerd.running()?;
        // A sandbox and a container each.
        Ok((running.len() == 4).then_some(running))
    })?;

    cluster.cloud.start()?;
    until(LIMIT, "the API shows the new containers", || {
        let now = cluster.container_ids()?;
        let changed =
            before.iter().all(|(name, id)| now.get(name).is_some_and(|new| !new.is_empty() && new != id));
        Ok(changed.then_some(()))
    })?;
    let pod = cluster.wait_pod_ready("web-0")?;
    cluster.wait_pod_ready("quiet")?;
    ensure!(pod["status"]["podIP"] != address || !address.is_null(), "the pod has no address");
    ensure!(cluster.http_get("web-0", "/")?.1 == "ok\n", "web-0 does not serve");
    ensure!(cluster.read("web-0", "/etc/sec/password")? == "s3cret", "its Secret is not mounted");
    ensure!(cluster.containerd.running()? == running, "the cloud's return replaced a container");
    Ok(())
}

pub(crate) fn edge_away(cluster: &mut Cluster) -> Result<()> {
    cluster.edge.stop()?;
    let running = cluster.containerd.running()?;
    cluster.kubectl(&["patch", "configmap", "app-config", "-p", r#"{"data":{"greeting":"moin"}}"#])?;
    cluster.kubectl(&["delete", "pod", "quiet", "--wait=false"])?;
    cluster.create(&sleeper("newcomer"))?;
    cluster.start_edge()?;
    cluster.wait_pod_gone("quiet", LIMIT)?;
    cluster.wait_pod_ready("newcomer")?;
    until(LIMIT, "the changed ConfigMap is in the mounted file", || {
        Ok((cluster.read("web-0", "/etc/cfg/greeting")? == "moin").then_some(()))
    })?;
    let id = cluster.container_ids()?.remove("web-0/web").context("web-0 has no container")?;
    let id = id.trim_start_matches("containerd://");
    ensure!(running.get(id) == cluster.containerd.running()?.get(id), "web-0 was restarted");
    Ok(())
}

pub(crate) fn cloud_restart(cluster: &mut Cluster) -> Result<()> {
    let running = cluster.containerd.running()?;
    cluster.cloud.stop()?;
    cluster.cloud.start()?;
    cluster.kubectl(&["patch", "configmap", "app-config", "-p", r#"{"data":{"greeting":"ahoy"}}"#])?;
    until(LIMIT, "the changed ConfigMap is in the mounted file", || {
        Ok((cluster.read("web-0", "/etc/cfg/greeting")? == "ahoy").then_some(()))
    })?;
    ensure!(cluster.containerd.running()? == running, "a container was replaced");
    Ok(())
}
