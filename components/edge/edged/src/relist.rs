//! Keeps the inventory true: a listing at start, then whatever the runtime tells of, and a listing now and then for what
//! it did not tell. Also the judge of the runtime's health.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cri::runtime as v1;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::inventory::Stamp;
use crate::model::{ContainerState, Sandbox};
use crate::node::RuntimeHealth;
use crate::observe;
use crate::runtime::{Change, Changes, Listing, RuntimeError, time};

/// Between listings where the runtime tells of changes: only for what a lost event would have told.
const QUIET: Duration = Duration::from_secs(30);
/// Between listings where it does not, while there are pods: how late an end may be noticed.
const POLL: Duration = Duration::from_secs(1);
/// The same without pods.
const POLL_IDLE: Duration = Duration::from_secs(10);
/// After a listing was asked for: what comes together is listed once.
const GATHER: Duration = Duration::from_millis(50);
/// How long after telling of an end a runtime may still call the container running, in milliseconds from look to look.
const SETTLE: [u64; 10] = [0, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
/// Closer looks at the same time.
const LOOKS: usize = 16;
/// Between tries of a runtime that does not answer: doubled from the first to the last.
const ABSENT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Runs until `shutdown`. The first verdict about the runtime, good or bad, changes `health`.
pub(crate) async fn run(
    agent: Arc<Agent>,
    health: watch::Sender<RuntimeHealth>,
    shutdown: CancellationToken,
) {
    let mut pause = ABSENT.0;
    while !shutdown.is_cancelled() {
        let round = watch_runtime(&agent, &health, &mut pause);
        let Some(Err(e)) = shutdown.run_until_cancelled(round).await else { return };
        agent.set_usable(false);
        let endpoint = agent.runtime.endpoint();
        let message = format!("container runtime at {endpoint} is down: {} failed: {e}", e.call);
        if health.borrow().ready || health.borrow().message.is_empty() {
            tracing::error!(
                endpoint,
                call = e.call,
                error = %e,
                "the container runtime does not answer; pods wait for it"
            );
        }
        health.send_if_modified(|health| {
            let is_news = health.ready || health.message.is_empty();
            *health = RuntimeHealth { ready: false, message, version: health.version.clone() };
            is_news
        });
        let jitter = Duration::from_millis(fastrand::u64(0..50));
        shutdown.run_until_cancelled(sleep(pause + jitter)).await;
        pause = (pause * 2).min(ABSENT.1);
    }
}

/// Follows the runtime until it fails.
async fn watch_runtime(
    agent: &Arc<Agent>,
    health: &watch::Sender<RuntimeHealth>,
    pause: &mut Duration,
) -> Result<(), RuntimeError> {
    let (name, version) = agent.runtime.version().await?;
    // Before the listing, so that little falls between the two.
    let mut changes = Some(agent.runtime.events());
    let mut told_by_cri = true;
    // Whether the runtime tells of changes shows within this; and what fell between is listed then.
    let mut fresh = true;
    agent.set_runtime_name(&name);
    let version = format!("{name}://{version}");
    list(agent).await?;
    agent.set_usable(true);
    *pause = ABSENT.0;
    loop {
        let fault = agent.runtime.fault().await?;
        health.send_if_modified(|health| {
            let now = RuntimeHealth {
                ready: fault.is_none(),
                message: fault.unwrap_or_default(),
                version: version.clone(),
            };
            if *health != now && now.ready {
                tracing::info!(version, "the container runtime is ready");
            }
            let is_news = *health != now;
            *health = now;
            is_news
        });
        let unfit = !health.borrow().ready;
        let every = match &changes {
            // Not ready yet: soon it may be.
            _ if unfit || fresh => POLL,
            Some(_) => QUIET,
            None if agent.has_pods() => POLL,
            None => POLL_IDLE,
        };
        fresh = false;
        let due = Instant::now() + every;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => break,
                () = agent.relist.notified() => {
                    sleep(GATHER).await;
                    break;
                }
                change = next(&mut changes) => match change {
                    Some(Ok(Change::One(id))) => {
                        let agent = agent.clone();
                        tokio::spawn(async move { look_at(&agent, &id).await });
                    }
                    Some(Ok(Change::Removed)) => agent.relist.notify_one(),
                    Some(Err(e)) if e.is_unimplemented() => {
                        changes = told_by_cri.then(|| agent.runtime.containerd_events());
                        told_by_cri = false;
                    }
                    Some(Err(e)) => return Err(e),
                    None => {
                        // Ended in order: open it again, but not in a hurry.
                        changes = Some(agent.runtime.events());
                        (told_by_cri, fresh) = (true, true);
                        break;
                    }
                },
            }
        }
        list(agent).await?;
    }
}

async fn next(changes: &mut Option<Changes>) -> Option<Result<Change, RuntimeError>> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

/// Looks at what an event named. The event may come before the runtime's own books are made up.
async fn look_at(agent: &Agent, id: &str) {
    let found = {
        let inventory = agent.inventory();
        inventory.owner(id).map(|(uid, is_container)| (uid.to_owned(), is_container)).and_then(
            |(uid, is_container)| {
                let key = inventory.pods().find(|(known, _)| *known == uid)?.1.clone();
                let sandbox = inventory.container(&uid, id).and_then(|c| c.sandbox.clone());
                Some((uid, key, is_container, sandbox))
            },
        )
    };
    // Made a moment ago, or not a pod's.
    let Some((uid, key, is_container, sandbox)) = found else { return agent.relist.notify_one() };
    for wait in SETTLE {
        sleep(Duration::from_millis(wait)).await;
        let running = if is_container {
            let container = agent.observe_container(&uid, &key, id, sandbox.clone()).await;
            container.is_ok_and(|c| matches!(c.record.state, ContainerState::Running { .. }))
        } else {
            agent.observe_sandbox(&uid, &key, id).await.is_ok_and(|sandbox| sandbox.ready)
        };
        if !running {
            return;
        }
    }
    agent.relist.notify_one();
}

/// Lists everything and looks closer at what is new or changed.
async fn list(agent: &Agent) -> Result<(), RuntimeError> {
    let began = agent.inventory().begin();
    let Listing { sandboxes, containers } = agent.runtime.list().await?;
    let ids = sandboxes.iter().map(|s| s.id.clone()).chain(containers.iter().map(|c| c.id.clone()));
    let present: BTreeSet<String> = ids.collect();
    // Sandboxes first: a container without one would look like one of another sandbox.
    let looks = sandboxes.into_iter().map(|listed| listed_sandbox(agent, listed, began));
    stream::iter(looks).buffer_unordered(LOOKS).try_collect::<()>().await?;
    let looks = containers.into_iter().map(|listed| listed_container(agent, listed));
    stream::iter(looks).buffer_unordered(LOOKS).try_collect::<()>().await?;
    let changed = agent.inventory().retain(began, &present);
    for uid in changed {
        agent.wake(&uid);
    }
    Ok(())
}

async fn listed_sandbox(agent: &Agent, listed: v1::PodSandbox, began: Stamp) -> Result<(), RuntimeError> {
    let Some((uid, key)) = observe::owner(&listed.labels) else { return Ok(()) };
    let ready = listed.state == v1::PodSandboxState::SandboxReady as i32;
    let known = agent.inventory().sandbox(&uid, &listed.id).map(|sandbox| sandbox.ready);
    if known == Some(ready) {
        return Ok(());
    }
    if ready {
        // A ready one is asked for its addresses.
        return agent.observe_sandbox(&uid, &key, &listed.id).await.map(drop).or_else(gone);
    }
    let sandbox = Sandbox {
        id: listed.id,
        ready,
        ips: Vec::new(),
        attempt: listed.metadata.unwrap_or_default().attempt,
        created_at: time(listed.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
    };
    agent.note_sandbox(&uid, &key, sandbox, began);
    Ok(())
}

async fn listed_container(agent: &Agent, listed: v1::Container) -> Result<(), RuntimeError> {
    let Some((uid, key)) = observe::owner(&listed.labels) else { return Ok(()) };
    let state = v1::ContainerState::try_from(listed.state).unwrap_or(v1::ContainerState::ContainerUnknown);
    let known = agent.inventory().container(&uid, &listed.id).map(|c| as_listed(&c.record.state));
    if known == Some(state) {
        return Ok(());
    }
    let sandbox = Some(listed.pod_sandbox_id);
    agent.observe_container(&uid, &key, &listed.id, sandbox).await.map(drop).or_else(gone)
}

/// Removed since it was listed.
fn gone(e: RuntimeError) -> Result<(), RuntimeError> {
    if e.is_not_found() { Ok(()) } else { Err(e) }
}

fn as_listed(state: &ContainerState) -> v1::ContainerState {
    match state {
        ContainerState::Created => v1::ContainerState::ContainerCreated,
        ContainerState::Running { .. } => v1::ContainerState::ContainerRunning,
        ContainerState::Exited { .. } => v1::ContainerState::ContainerExited,
        ContainerState::Unknown => v1::ContainerState::ContainerUnknown,
    }
}
