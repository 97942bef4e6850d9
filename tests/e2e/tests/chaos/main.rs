//! Every process killed in turn, while pods run and while one is being created: the same containers keep running, the
//! new pod becomes Ready, statuses converge, nothing acknowledged is missing.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::pods::{recorded, sleeper};
use e2e::{Group, Suite};
use harness::{Cluster, Options, Side, until};
use serde_json::Value;

const LIMIT: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    e2e::run(&Suite {
        lone: &[],
        groups: &[Group {
            name: "chaos",
            start,
            cases: &[
                ("metamanager_dies", |cluster| component(cluster, Side::Edge, "metamanager")),
                ("keyholder_dies", |cluster| component(cluster, Side::Edge, "keyholder")),
                ("edgehub_dies", |cluster| component(cluster, Side::Edge, "edgehub")),
                ("edged_dies", |cluster| component(cluster, Side::Edge, "edged")),
                ("authority_dies", |cluster| component(cluster, Side::Cloud, "authority")),
                ("apiserver_dies", |cluster| component(cluster, Side::Cloud, "apiserver")),
                ("controllers_die", |cluster| component(cluster, Side::Cloud, "controllers")),
                ("cloudhub_dies", |cluster| component(cluster, Side::Cloud, "cloudhub")),
                ("edge_supervisor_dies", |cluster| supervisor(cluster, Side::Edge)),
                ("cloud_supervisor_dies", |cluster| supervisor(cluster, Side::Cloud)),
            ],
        }],
    })
}

/// A cluster with pods that run before anything is killed.
fn start(options: &Options) -> Result<Cluster> {
    let cluster = Cluster::start(options)?;
    cluster.apply(&recorded(&[("ConfigMap", "app-config"), ("Secret", "app-secret"), ("Pod", "web-0")])?)?;
    cluster.create(&sleeper("quiet"))?;
    cluster.wait_pod_ready("web-0")?;
    cluster.wait_pod_ready("quiet")?;
    Ok(cluster)
}

fn component(cluster: &mut Cluster, side: Side, name: &str) -> Result<()> {
    survives(cluster, name, |cluster| {
        let supervisor = if side == Side::Edge { &cluster.edge } else { &cluster.cloud };
        let others = |supervisor: &harness::Supervisor| -> Result<BTreeMap<String, i32>> {
            let components = supervisor.components()?.into_iter().filter(|component| component.name != name);
            Ok(components.map(|component| (component.name, component.pid)).collect())
        };
        let before = others(supervisor)?;
        let back = supervisor.kill_and_wait(name)?;
        ensure!(others(supervisor)? == before, "another component was replaced, too");
        ensure!(
            back.component.last_exit.contains('9') || back.component.last_exit.contains("KILL"),
            "edgectl says {name} ended by {:?}",
            back.component.last_exit
        );
        Ok(back.took)
    })
}

fn supervisor(cluster: &mut Cluster, side: Side) -> Result<()> {
    survives(cluster, side.program(), |cluster| {
        let supervisor = if side == Side::Edge { &mut cluster.edge } else { &mut cluster.cloud };
        supervisor.kill_and_respawn()
    })
}

/// `kill` ends something and returns how long it took to be back; then everything acknowledged before is still true.
fn survives(
    cluster: &mut Cluster,
    victim: &str,
    kill: impl FnOnce(&mut Cluster) -> Result<Duration>,
) -> Result<()> {
    let running = cluster.containerd.running()?;
    let ids = cluster.container_ids()?;
    let newcomer = format!("while-{victim}-dies");
    let patch = format!(r#"{{"data":{{"greeting":"{victim}"}}}}"#);
    // Both are acknowledged by the API before the kill, and on their way to the node during it.
    cluster.kubectl(&["patch", "configmap", "app-config", "-p", &patch])?;
    cluster.create(&sleeper(&newcomer))?;
    let took = kill(cluster)?;

    cluster.wait_pod_ready(&newcomer)?;
    until(LIMIT, "the ConfigMap changed before the kill is in the mounted file", || {
        Ok((cluster.exec("web-0", &["cat", "/etc/cfg/greeting"])? == victim).then_some(()))
    })?;
    let now = cluster.containerd.running()?;
    for (id, pid) in &running {
        ensure!(now.get(id) == Some(pid), "container {id} was replaced or ended");
    }
    until(LIMIT, "the statuses converge", || {
        let shown = cluster.container_ids()?;
        let same = ids.iter().all(|(name, id)| shown.get(name) == Some(id));
        let all_ready = cluster.list("pods")?.iter().all(harness::is_ready);
        let none_restarted = cluster.list("pods")?.iter().all(|pod| restarts(pod) == 0);
        Ok((same && all_ready && none_restarted).then_some(()))
    })?;
    cluster.wait_node(true)?;
    // What is shown is what runs: the container of each pod, and no other.
    let shown = cluster.container_ids()?;
    for (name, id) in &shown {
        let id = id.strip_prefix("containerd://").with_context(|| format!("{name} has no container id"))?;
        ensure!(now.contains_key(id), "the API shows {id} for {name}, which does not run");
    }
    ensure!(
        now.len() == 2 * shown.len(),
        "{} containers and sandboxes run for {} pods",
        now.len(),
        shown.len()
    );
    println!("\n    killed {victim}: back in service after {} ms, lost: nothing", took.as_millis());
    Ok(())
}

fn restarts(pod: &Value) -> u64 {
    let statuses = pod["status"]["containerStatuses"].as_array();
    statuses.into_iter().flatten().filter_map(|status| status["restartCount"].as_u64()).sum()
}
