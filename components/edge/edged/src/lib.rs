//! The kubelet of the edge: pods through CRI, volumes, probes, status, node and lease.
//!
//! **What it holds:** the right to run containers, root's mounts and the pods' directories; ConfigMaps, Secrets and
//! tokens of the pods bound to this node, in memory and in their volumes. Nothing durable of its own: what must run is
//! metamanager's, what does run is the runtime's, and after a restart both are read anew.
//!
//! **Which untrusted bytes it touches:** pod objects, ConfigMaps and Secrets from the cloud (parsed once into types, names
//! checked before they become paths), answers of probed containers (bounded, only their verdict is kept), files and log
//! lines a container wrote (opened without following links, bounded), the runtime's answers (bounded, over a root-only
//! socket).
//!
//! **What keeps it safe:** decisions are pure functions (`plan`, `status`, `container`, …) and effects sit apart
//! (`steps`, `runtime`, `volumes`); each pod has a worker of its own that nothing of another pod can hold up; before the
//! store has told all its pods nothing is taken for a stranger, and a container whose pod is known is only ever stopped
//! for a reason its plan names. Nothing runs through a shell.

mod agent;
mod atomic_writer;
mod backoff;
mod check;
mod container;
mod env;
mod events;
mod fetch;
mod host;
mod images;
mod inventory;
mod labels;
mod mailbox;
mod model;
mod node;
mod objects;
mod observe;
mod payload;
mod plan;
mod probes;
mod quantity;
mod relist;
mod resources;
mod runtime;
mod sandbox;
mod security;
mod settings;
mod source;
mod status;
mod steps;
#[cfg(test)]
mod testing;
mod volumes;
#[cfg(test)]
mod whole;
mod worker;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use componentconfig::edgecore::{self, EdgeCore};
use lifecycle::Context;
use proto::metamanager::MetaManagerClient;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::events::EventType;
use crate::host::Host;
use crate::model::NodeFacts;
use crate::node::{NodeAgent, NodeEvent, RuntimeHealth};
use crate::runtime::Runtime;
use crate::settings::Settings;
use crate::source::Source;

/// Events for the node's task that wait at most; it drains them far faster than they come.
const NODE_EVENTS: usize = 64;

/// The component's `main`.
pub fn main() -> ExitCode {
    lifecycle::run("edged", run)
}

async fn run(ctx: Context) -> anyhow::Result<()> {
    // What the file has and we do not act on is named by edgehub, once for the node.
    let loaded = edgecore::load(ctx.config_path()).map_err(lifecycle::ConfigError::new)?;
    let config = Arc::new(loaded.config);
    if let Some(shared) = std::env::var_os("APIARY_SHARED") {
        reach_the_runtime(&shared, &config.modules.edged.root_directory)
            .map_err(lifecycle::ConfigError::message)?;
    }
    let client = MetaManagerClient::new(ctx.call("metamanager")?);
    let edged = start(&config, client, ctx.shutdown().clone())?;
    let ready = async {
        edged.settled().await;
        ctx.ready();
    };
    let mut health = edged.health.clone();
    let status = async {
        loop {
            let text = match &*health.borrow_and_update() {
                health if health.ready => format!("runs pods with {}", health.version),
                health => health.message.clone(),
            };
            ctx.status(&text);
            if health.changed().await.is_err() {
                return;
            }
        }
    };
    ctx.shutdown().run_until_cancelled(async { tokio::join!(ready, status) }).await;
    edged.finish().await;
    Ok(())
}

/// In a mount namespace of its own, what is mounted reaches the container runtime only below the places its supervisor
/// shares with the host. Anywhere else, containers would see empty folders where their Secrets should be.
fn reach_the_runtime(shared: &OsStr, root: &Path) -> Result<(), String> {
    if std::env::split_paths(shared).any(|place| root.starts_with(place)) {
        return Ok(());
    }
    Err(format!(
        "modules.edged.rootDirectory is {root}, but volumes mounted there would not reach the container runtime: start \
         edgecore with --path kubelet={root}",
        root = root.display()
    ))
}

/// A running edged.
struct Edged {
    tasks: tokio::task::JoinSet<()>,
    health: watch::Receiver<RuntimeHealth>,
    synced: watch::Receiver<bool>,
}

impl Edged {
    /// Returns when metamanager has told all pods and there is a verdict about the runtime.
    async fn settled(&self) {
        let (mut health, mut synced) = (self.health.clone(), self.synced.clone());
        // Senders live as long as their tasks; an end of those is an end of edged.
        let _ = synced.wait_for(|synced| *synced).await;
        let _ = health.wait_for(|health| health.ready || !health.message.is_empty()).await;
    }

    /// Waits for the tasks, which end on shutdown. Containers go on.
    async fn finish(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

fn start(
    config: &Arc<EdgeCore>,
    client: MetaManagerClient,
    shutdown: CancellationToken,
) -> anyhow::Result<Edged> {
    let edged = &config.modules.edged;
    let kubelet = &edged.tailored_kubelet_config;
    let host = Host::read(&edged.root_directory);
    let settings = Settings::new(config, host.memory);
    let address = match edged.node_ip.parse() {
        Ok(address) => address,
        Err(_) => host::primary_address(),
    };
    let facts = NodeFacts {
        node_name: settings.node_name.clone(),
        host_ips: vec![address],
        // Until the runtime has told its own.
        runtime_name: "containerd".to_owned(),
        allocatable: node::allocatable(&host),
    };
    let runtime = Runtime::new(
        &kubelet.container_runtime_endpoint,
        &kubelet.image_service_endpoint,
        kubelet.runtime_request_timeout,
    )
    .with_context(|| {
        format!("could not use containerRuntimeEndpoint {:?}", kubelet.container_runtime_endpoint)
    })?;

    let mut tasks = tokio::task::JoinSet::new();
    let wanted = edged.report_event || config.apiary.report_event;
    let (recorder, events) =
        events::recorder(client.clone(), settings.node_name.clone(), wanted, shutdown.clone());
    tasks.spawn(events);
    recorder.node(&settings.node_name, EventType::Normal, "Starting", "Starting kubelet.");
    let (node_events, for_node) = mpsc::channel::<NodeEvent>(NODE_EVENTS);
    let unknown = RuntimeHealth { ready: false, message: String::new(), version: String::new() };
    let (health_sender, health) = watch::channel(unknown);
    let node = NodeAgent {
        client: client.clone(),
        config: config.clone(),
        name: settings.node_name.clone(),
        address,
        health: health.clone(),
        events: for_node,
    };
    tasks.spawn(node.run(shutdown.clone()));
    let agent = Arc::new(Agent::new(settings, runtime, client, recorder, facts));
    tasks.spawn(relist::run(agent.clone(), health_sender, shutdown.clone()));
    let (synced_sender, synced) = watch::channel(false);
    tasks.spawn(Source::new(agent, node_events, synced_sender).run(shutdown));
    Ok(Edged { tasks, health, synced })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_lie_where_the_runtime_sees_their_mounts() {
        let shared = OsStr::new("/var/lib/kubelet:/data/k");
        for root in ["/var/lib/kubelet", "/data/k/pods"] {
            assert_eq!(reach_the_runtime(shared, Path::new(root)), Ok(()));
        }
        let problem = reach_the_runtime(shared, Path::new("/data/kubelet")).expect_err("not shared");
        assert!(problem.contains("--path kubelet=/data/kubelet"), "{problem}");
    }
}
