//! Every process killed in turn, while pods run, one is being created and one deleted: the same containers keep running,
//! the new pod becomes Ready, the deleted one goes, statuses converge, nothing acknowledged is missing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::Group;
use e2e::pods::{recorded, sleeper};
use harness::{Cluster, Options, Side, Supervisor, is_ready, until};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_mins(1);
/// How long after a pod was created the victim is killed, in milliseconds: while the pod is on its way to the node, while
/// its sandbox is being made, and while its container is. Starting a pod takes some 200 ms.
const DELAYS: [u64; 3] = [0, 60, 160];

pub(crate) const GROUP: Group = Group {
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
};

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
        let others = |supervisor: &Supervisor| -> Result<BTreeMap<String, i32>> {
            let components = supervisor.components()?.into_iter().filter(|component| component.name != name);
            Ok(components.map(|component| (component.name, component.pid)).collect())
        };
        let before = others(supervisor)?;
        let back = supervisor.kill_and_wait(name)?;
        ensure!(others(supervisor)? == before, "another component was replaced, too");
        let reason = &back.component.last_exit;
        ensure!(reason.contains("SIGKILL"), "edgectl says {name} ended by {reason:?}");
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
        let leaver = format!("leaves-{victim}-{delay}");
        cluster.create(&pod(&leaver))?;
        cluster.wait_pod_ready(&leaver)?;
        let before = Before::look(cluster, &leaver)?;

        // All three are acknowledged by the API before the kill, and on their way to the node during it.
        let newcomer = format!("comes-{victim}-{delay}");
        let patch = format!(r#"{{"data":{{"greeting":"{newcomer}"}}}}"#);
        cluster.kubectl(&["patch", "configmap", "app-config", "-p", &patch])?;
        cluster.kubectl(&["delete", "pod", &leaver, "--wait=false"])?;
        cluster.create(&pod(&newcomer))?;
        std::thread::sleep(Duration::from_millis(delay));
        let killed = Instant::now();
        back.push(kill(cluster)?.as_millis().to_string());
        let pod = cluster.wait_pod_ready(&newcomer)?;
        let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
        ensure!(restarts == 0, "{newcomer}, which was being started, shows {restarts} restarts");
        ready.push(killed.elapsed().as_millis().to_string());

        until(LIMIT, "the ConfigMap changed before the kill is in the mounted file", || {
            Ok((cluster.read("web-0", "/etc/cfg/greeting")? == newcomer).then_some(()))
        })?;
        cluster.wait_pod_gone(&leaver, LIMIT)?;
        before.still_holds(cluster)?;
    }
    println!(
        "\n    killed {victim} {DELAYS:?} ms into a pod's start: back in service after {} ms, the pod Ready after {} ms, \
         lost: nothing",
        back.join(", "),
        ready.join(", ")
    );
    Ok(())
}

/// A pod that is deaf to SIGTERM, as process 1 is, and has a second of grace.
fn pod(name: &str) -> Value {
    let mut pod = sleeper(name);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(1);
    pod
}

/// What ran before a kill and must run after it.
struct Before {
    /// Process ids by container id, sandboxes included.
    running: BTreeMap<String, i32>,
    /// Container ids by pod and container, as the API showed them.
    shown: BTreeMap<String, String>,
}

impl Before {
    /// Everything but the pod that is about to be deleted.
    fn look(cluster: &Cluster, leaver: &str) -> Result<Self> {
        let uid =
            cluster.get("pod", leaver)?["metadata"]["uid"].as_str().context("a pod has a uid")?.to_owned();
        let leaving = cluster.containerd.containers_of(&uid)?;
        let mut running = cluster.containerd.running()?;
        running.retain(|id, _| !leaving.contains(id));
        let mut shown = cluster.container_ids()?;
        shown.retain(|name, _| !name.starts_with(&format!("{leaver}/")));
        Ok(Self { running, shown })
    }

    /// Its containers are the same processes still, and the API shows what runs and nothing else.
    fn still_holds(&self, cluster: &Cluster) -> Result<()> {
        let now = cluster.containerd.running()?;
        for (id, pid) in &self.running {
            ensure!(now.get(id) == Some(pid), "container {id} was replaced or ended");
        }
        cluster.wait_node(true)?;
        until(LIMIT, "the API shows what runs and nothing else", || {
            let (running, shown) = (cluster.containerd.running()?, cluster.container_ids()?);
            for (name, id) in &self.shown {
                ensure!(shown.get(name) == Some(id), "{name} is shown with {:?}", shown.get(name));
            }
            for (name, id) in &shown {
                let id = id
                    .strip_prefix("containerd://")
                    .with_context(|| format!("{name} has no container id"))?;
                ensure!(running.contains_key(id), "{id} is shown for {name} and does not run");
            }
            // A sandbox and a container each.
            ensure!(
                running.len() == 2 * shown.len(),
                "{} containers run for {} pods",
                running.len(),
                shown.len()
            );
            Ok(cluster.list("pods")?.iter().all(is_ready).then_some(()))
        })
    }
}
