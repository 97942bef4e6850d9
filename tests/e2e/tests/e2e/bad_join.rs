//! Wrong tokens and wrong hubs.

use anyhow::{Context as _, Result, ensure};
use e2e::pods::sleeper;
use harness::{Cluster, Options};

/// A cloud that runs, and an edge that is ready to start.
pub(crate) fn prepare(options: &Options) -> Result<Cluster> {
    let mut cluster = Cluster::prepare(options)?;
    cluster.start_cloud()?;
    Ok(cluster)
}

pub(crate) fn wrong_token(cluster: &mut Cluster) -> Result<()> {
    let token = cluster.join_token()?;
    let (hash, _) = token.split_once('.').context("the token has no hash")?;
    // The signature of another secret, over the same header and a far expiry.
    let forged = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjQxMDI0NDQ4MDB9.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    refused_then_joins(cluster, &format!("{hash}.{forged}"), &["token", "refused"])
}

pub(crate) fn wrong_hash(cluster: &mut Cluster) -> Result<()> {
    let token = cluster.join_token()?;
    let (_, jwt) = token.split_once('.').context("the token has no hash")?;
    refused_then_joins(cluster, &format!("{}.{jwt}", "0".repeat(64)), &["sha-256", &"0".repeat(64)])
}

fn refused_then_joins(cluster: &mut Cluster, wrong: &str, words: &[&str]) -> Result<()> {
    let right = cluster.join_token()?;
    cluster.set_token(wrong)?;
    let mark = cluster.edge.log_mark();
    cluster.edge.spawn()?;
    let line = cluster.edge.wait_log(mark, words)?;
    ensure!(line.contains("edgehub"), "the error does not name the component: {line}");
    for name in ["metamanager", "keyholder", "edged"] {
        let component =
            harness::until(std::time::Duration::from_secs(30), &format!("{name} is ready"), || {
                let component = cluster.edge.component(name)?;
                Ok((component.state == "ready").then_some(component))
            })?;
        ensure!(component.restarts == 0, "{name} was restarted");
    }
    cluster.set_token(&right)?;
    cluster.edge.wait_ready()?;
    cluster.wait_node(true)
}

/// Another cloud answers on the same ports; then the right one is back.
pub(crate) fn other_ca(cluster: &mut Cluster) -> Result<()> {
    cluster.create(&sleeper("loyal"))?;
    cluster.wait_pod_ready("loyal")?;
    let running = cluster.containerd.running()?;
    let state = cluster.cloud.state();
    let aside = cluster.root().join("cloud-aside");
    cluster.cloud.stop()?;
    std::fs::rename(&state, &aside).context("could not set the cloud's state aside")?;
    let mark = cluster.edge.log_mark();
    cluster.cloud.start()?;
    let line = cluster.edge.wait_log(mark, &["edgehub", "certificate"])?;
    ensure!(line.contains("127.0.0.1"), "the error does not name the hub: {line}");
    ensure!(cluster.containerd.running()? == running, "a container was replaced");

    cluster.cloud.stop()?;
    std::fs::remove_dir_all(&state).context("could not remove the other cloud's state")?;
    std::fs::rename(&aside, &state).context("could not put the cloud's state back")?;
    cluster.cloud.start()?;
    cluster.create(&sleeper("again"))?;
    cluster.wait_pod_ready("again")?;
    ensure!(
        running
            .iter()
            .all(|(id, pid)| cluster.containerd.running().is_ok_and(|now| now.get(id) == Some(pid))),
        "a container was replaced"
    );
    Ok(())
}
