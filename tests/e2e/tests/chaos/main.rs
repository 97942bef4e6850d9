//! Every process killed in turn, while pods run and while one is being created: the same containers keep running, the
//! new pod becomes Ready, statuses converge, nothing acknowledged is missing.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::pods::{recorded, sleeper};
use e2e::{Group, Suite};
use harness::{Cluster, Options, Side, until};

const LIMIT: Duration = Duration::from_mins(1);
/// How long after a pod was created the victim is killed, in milliseconds: while the pod is on its way to the node, while
/// its sandbox is being made, and while its container is. Starting a pod takes some 200 ms.
const DELAYS: [u64; 3] = [0, 60, 160];

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
/// Repeated with each delay.
fn survives(
    cluster: &mut Cluster,
    victim: &str,
    kill: impl Fn(&mut Cluster) -> Result<Duration>,
) -> Result<()> {
    let (mut back, mut ready) = (Vec::new(), Vec::new());
    for delay in DELAYS {
        let running = cluster.containerd.running()?;
        let ids = cluster.container_ids()?;
        let newcomer = format!("{victim}-{delay}");
        let patch = format!(r#"{{"data":{{"greeting":"{newcomer}"}}}}"#);
        // Both are acknowledged by the API before the kill, and on their way to the node during it.
        cluster.kubectl(&["patch", "configmap", "app-config", "-p", &patch])?;
        cluster.create(&sleeper(&newcomer))?;
        std::thread::sleep(Duration::from_millis(delay));
        let killed = Instant::now();
        back.push(kill(cluster)?.as_millis().to_string());
        cluster.wait_pod_ready(&newcomer)?;
        ready.push(killed.elapsed().as_millis().to_string());
        nothing_is_lost(cluster, &newcomer, &running, &ids)?;
    }
    println!(
        "\n    killed {victim} {DELAYS:?} ms into a pod's start: back in service after {} ms, the pod Ready after {} ms, \
         lost: nothing",
        back.join(", "),
        ready.join(", ")
    );
    Ok(())
}

/// The containers that ran are the same processes still, the last change of the ConfigMap arrives, and the API shows
/// what runs and nothing else.
fn nothing_is_lost(
    cluster: &Cluster,
    greeting: &str,
    running: &BTreeMap<String, i32>,
    ids: &BTreeMap<String, String>,
) -> Result<()> {
    until(LIMIT, "the ConfigMap changed before the kill is in the mounted file", || {
        Ok((cluster.exec("web-0", &["cat", "/etc/cfg/greeting"])? == greeting).then_some(()))
    })?;
    until(LIMIT, "the statuses converge", || {
        let pods = cluster.list("pods")?;
        let shown = cluster.container_ids()?;
        let same = ids.iter().all(|(name, id)| shown.get(name) == Some(id));
        Ok((same && pods.iter().all(harness::is_ready)).then_some(()))
    })?;
    cluster.wait_node(true)?;
    let now = cluster.containerd.running()?;
    for (id, pid) in running {
        ensure!(now.get(id) == Some(pid), "container {id} was replaced or ended");
    }
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
    Ok(())
}
