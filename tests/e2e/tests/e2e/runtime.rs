//! A container runtime that is not there, or goes away.

use anyhow::{Result, ensure};
use e2e::pods::sleeper;
use harness::{Cluster, Options};

/// The edge runs without its containerd.
pub(crate) fn start_without_runtime(options: &Options) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(options)?;
    cluster.containerd.kill()?;
    cluster.start_cloud()?;
    cluster.edge.spawn()?;
    Ok(cluster)
}

pub(crate) fn absent(cluster: &mut Cluster) -> Result<()> {
    let socket = cluster.containerd.socket().display().to_string();
    cluster.edge.wait_log(0, &["edged", &socket])?;
    cluster.edge.wait_ready()?;
    cluster.wait_node(false)?;
    cluster.create(&sleeper("patient"))?;
    cluster.containerd.respawn()?;
    cluster.wait_node(true)?;
    cluster.wait_pod_ready("patient")?;
    let edged = cluster.edge.component("edged")?;
    ensure!(edged.restarts == 0, "edged was restarted: {}", edged.last_exit);
    Ok(())
}

pub(crate) fn dies(cluster: &mut Cluster) -> Result<()> {
    let before = cluster.containerd.running()?;
    let mark = cluster.edge.log_mark();
    cluster.containerd.kill()?;
    let socket = cluster.containerd.socket().display().to_string();
    cluster.edge.wait_log(mark, &["edged", &socket])?;
    cluster.wait_node(false)?;
    for pid in before.values() {
        ensure!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "container process {pid} ended");
    }
    cluster.create(&sleeper("waiting"))?;
    cluster.containerd.respawn()?;
    cluster.wait_node(true)?;
    cluster.wait_pod_ready("waiting")?;
    let after = cluster.containerd.running()?;
    ensure!(before.iter().all(|(id, pid)| after.get(id) == Some(pid)), "a container was replaced");
    let edged = cluster.edge.component("edged")?;
    ensure!(edged.restarts == 0, "edged was restarted: {}", edged.last_exit);
    Ok(())
}
