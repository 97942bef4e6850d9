//! The steps of a plan, carried out: every effect on runtime and disk for one pod, with its events. A step touches one
//! target, reports what came of it, and leaves what to do next to the plan.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::check::Subject;
use crate::container::{self, Files, Inputs};
use crate::env::environment;
use crate::events::EventType::{Normal, Warning};
use crate::fetch::{self, Held};
use crate::images::{ImageFailure, PresentImage, Puller, credentials};
use crate::model::{ContainerState, Pod, Waiting};
use crate::plan::StopReason;
use crate::runtime::RuntimeError;
use crate::status::pod_ips;
use crate::volumes;

/// The least grace after a preStop hook has used it up, seconds (the kubelet's).
const MIN_GRACE: i64 = 2;
/// A hook's bound where nothing else bounds it: as long as a runtime request.
const HOOK_LIMIT: Duration = Duration::from_mins(2);

/// Fetches what volumes are made from and sets them up.
pub(crate) async fn prepare_volumes(agent: Arc<Agent>, pod: Pod, held: Held) -> Result<Held, String> {
    fetch::objects(&agent, &pod).await;
    let held = fetch::tokens(&agent, &pod, &held).await?;
    let observed = agent.view(&pod.uid).observed;
    let facts = agent.facts();
    let ips = pod_ips(&pod, &observed, &facts);
    // A copy (of shared parts): files are written without the lock.
    let objects = agent.objects().clone();
    volumes::set_up(&pod, &agent.settings.dirs, &objects, &fetch::values(&held), &facts, &ips)
        .map_err(|e| e.to_string())?;
    Ok(held)
}

/// Makes a sandbox in place of the dead one.
pub(crate) async fn create_sandbox(
    agent: Arc<Agent>,
    pod: Pod,
    attempt: u32,
    replaces: Option<String>,
) -> Result<(), RuntimeError> {
    let made = async {
        if let Some(dead) = &replaces {
            agent.recorder.pod(
                &pod,
                Normal,
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.",
            );
            agent.runtime.stop_sandbox(dead).await?;
        }
        if let Err(e) = fs::create_dir_all(agent.settings.log_dir(&pod)) {
            tracing::warn!(pod = %pod.key, error = %e, "log directory not made");
        }
        let id = agent.runtime.run_sandbox(agent.sandbox_config(&pod, attempt)).await?;
        agent.observe_sandbox(&pod.uid, &pod.key, &id).await
    };
    if let Err(e) = made.await {
        // "Reserved": the runtime is still undoing what an edged before us had begun. That passes, and is nobody's fault.
        if !e.message.contains("is reserved for") {
            let message = format!("Failed to create pod sandbox: {e}");
            agent.recorder.pod(&pod, Warning, "FailedCreatePodSandBox", message);
        }
        // Something may have been left half made.
        agent.relist.notify_one();
        return Err(e);
    }
    Ok(())
}

/// Makes sure a container's image is there.
pub(crate) async fn ensure_image(
    agent: Arc<Agent>,
    pod: Pod,
    name: String,
) -> Result<PresentImage, ImageFailure> {
    let Some(container) = find(&pod, &name) else {
        return Err(ImageFailure { reason: "InvalidImageName", message: format!("no container {name}") });
    };
    let secrets = credentials(&pod, container.image.as_deref().unwrap_or(""), &agent.objects());
    let puller =
        Puller { runtime: &agent.runtime, recorder: &agent.recorder, turn: agent.pull_turn.as_ref() };
    puller.ensure(&pod, container, secrets, agent.sandbox_config(&pod, 0)).await
}

/// Makes and starts a container and runs its postStart hook. The error is what the container waits for.
pub(crate) async fn start_container(
    agent: Arc<Agent>,
    pod: Pod,
    name: String,
    sandbox: String,
    after: Option<u32>,
    image: PresentImage,
) -> Result<(), Waiting> {
    let result = make_and_start(&agent, &pod, &name, &sandbox, after, &image).await;
    if let Err(waiting) = &result {
        let message = format!("Error: {}", waiting.message);
        agent.recorder.container(&pod, &name, Warning, "Failed", message);
        agent.relist.notify_one();
    }
    result
}

async fn make_and_start(
    agent: &Agent,
    pod: &Pod,
    name: &str,
    sandbox: &str,
    after: Option<u32>,
    image: &PresentImage,
) -> Result<(), Waiting> {
    let waiting = |reason: &str, message: String| Waiting { reason: reason.to_owned(), message };
    let config_error = |message: String| waiting("CreateContainerConfigError", message);
    let container = find(pod, name).ok_or_else(|| config_error(format!("no container {name}")))?;
    let attempt = match after {
        Some(last) => last.saturating_add(1),
        None => next_attempt(agent, pod, name),
    };
    let facts = agent.facts();
    let inventory = agent.view(&pod.uid);
    let sandbox_attempt = inventory.sandboxes.iter().find(|s| s.id == sandbox).map_or(0, |s| s.attempt);
    let ips = pod_ips(pod, &inventory.observed, &facts);
    let resolve = || environment(pod, container, &agent.objects(), &facts, &ips);
    let mut env = resolve();
    if env.is_err() {
        // The cloud may have what the store does not.
        fetch::objects(agent, pod).await;
        env = resolve();
    }
    let env = env.map_err(|e| config_error(e.to_string()))?;
    let mounts = volumes::mounts(pod, container, &env, &agent.settings.dirs)
        .map_err(|e| config_error(e.to_string()))?;
    let files = Files::make(pod, container, &agent.settings, attempt, &ips)
        .map_err(|e| config_error(format!("could not make the container's files: {e}")))?;
    let config = container::config(&Inputs {
        pod,
        container,
        settings: &agent.settings,
        attempt,
        image_id: &image.id,
        image_user: &image.user,
        env: &env,
        mounts: &mounts,
        files: &files,
    })
    .map_err(config_error)?;
    let id = agent
        .runtime
        .create_container(sandbox, config, agent.sandbox_config(pod, sandbox_attempt))
        .await
        .map_err(|e| waiting("CreateContainerError", e.to_string()))?;
    agent.recorder.container(pod, name, Normal, "Created", format!("Created container: {name}"));
    let started = agent.runtime.start_container(&id).await;
    let observed = agent.observe_container(&pod.uid, &pod.key, &id, Some(sandbox.to_owned())).await;
    started.map_err(|e| waiting("RunContainerError", e.to_string()))?;
    agent.recorder.container(pod, name, Normal, "Started", format!("Started container {name}"));
    observed.map_err(|e| waiting("RunContainerError", e.to_string()))?;
    let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
    let subject = subject(agent, pod, container, &id);
    if let Err(why) = subject.hook(hook, HOOK_LIMIT).await {
        agent.recorder.container(
            pod,
            name,
            Warning,
            "FailedPostStartHook",
            format!("PostStartHook failed: {why}"),
        );
        let reason = StopReason::Unhealthy("FailedPostStartHook".to_owned());
        if let Err(e) = stop(agent, pod, &id, name, pod.grace_seconds(), &reason).await {
            tracing::warn!(pod = %pod.key, container = name, error = %e, "container not stopped");
        }
        return Err(waiting("PostStartHookError", format!("PostStartHook failed: {why}")));
    }
    Ok(())
}

/// The number after the newest log: the runtime may have forgotten what ran here, its logs tell.
fn next_attempt(agent: &Agent, pod: &Pod, name: &str) -> u32 {
    let logs = fs::read_dir(agent.settings.log_dir(pod).join(name));
    let numbers = logs.into_iter().flatten().flatten().filter_map(|entry| {
        let file = entry.file_name();
        file.to_str()?.split_once('.')?.0.parse::<u32>().ok()
    });
    numbers.max().map_or(0, |last| last.saturating_add(1))
}

/// Stops a container: preStop hook, stop signal, SIGKILL, all within its grace.
pub(crate) async fn stop_container(
    agent: Arc<Agent>,
    pod: Pod,
    id: String,
    name: String,
    grace: i64,
    reason: StopReason,
) -> Result<(), RuntimeError> {
    stop(&agent, &pod, &id, &name, grace, &reason).await
}

async fn stop(
    agent: &Agent,
    pod: &Pod,
    id: &str,
    name: &str,
    grace: i64,
    reason: &StopReason,
) -> Result<(), RuntimeError> {
    let message = match reason {
        StopReason::PodEnds => format!("Stopping container {name}"),
        StopReason::Changed => format!("Container {name} definition changed, will be restarted"),
        StopReason::Unhealthy(message) => message.clone(),
        StopReason::Unknown => format!("Container {name} is in unknown state, try killing it before restart"),
    };
    agent.recorder.container(pod, name, Normal, "Killing", message);
    let began = Instant::now();
    let container = find(pod, name);
    let hook = container.and_then(|c| c.lifecycle.as_ref()?.pre_stop.as_ref());
    if let (Some(container), Some(hook)) = (container, hook)
        && grace > 0
    {
        let limit = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let outcome = tokio::time::timeout(limit, subject(agent, pod, container, id).hook(hook, limit)).await;
        if let Ok(Err(why)) = outcome {
            agent.recorder.container(
                pod,
                name,
                Warning,
                "FailedPreStopHook",
                format!("PreStopHook failed: {why}"),
            );
        }
    }
    let used = i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX);
    let left = if grace > 0 { (grace - used).max(if hook.is_some() { MIN_GRACE } else { 1 }) } else { 0 };
    agent.runtime.stop_container(id, left).await?;
    let sandbox = agent.inventory().container(&pod.uid, id).and_then(|c| c.sandbox.clone());
    agent.observe_container(&pod.uid, &pod.key, id, sandbox).await.map(drop).or_else(gone)
}

/// Stops a sandbox.
pub(crate) async fn stop_sandbox(agent: Arc<Agent>, pod: Pod, id: String) -> Result<(), RuntimeError> {
    agent.runtime.stop_sandbox(&id).await?;
    agent.observe_sandbox(&pod.uid, &pod.key, &id).await.map(drop).or_else(gone)
}

/// Removes a sandbox with its containers.
pub(crate) async fn remove_sandbox(agent: Arc<Agent>, pod: Pod, id: String) -> Result<(), RuntimeError> {
    agent.runtime.remove_sandbox(&id).await?;
    agent.inventory().remove(&pod.uid, &id);
    Ok(())
}

/// Removes a dead container, or one that was never started, and its log.
pub(crate) async fn remove_container(agent: Arc<Agent>, pod: Pod, id: String) -> Result<(), RuntimeError> {
    let known = agent.inventory().container(&pod.uid, &id).cloned();
    agent.runtime.remove_container(&id).await?;
    agent.inventory().remove(&pod.uid, &id);
    // The runtime may have made the log of one whose start was cut short; left there, it would count as an attempt.
    let dead =
        known.filter(|c| matches!(c.record.state, ContainerState::Created | ContainerState::Exited { .. }));
    if let Some(container) = dead {
        // Built from checked names, not from what the runtime says: this deletes.
        let log = container::log_path(&container.record.name, container.record.attempt);
        if crate::model::is_segment(&container.record.name) {
            let _ = fs::remove_file(agent.settings.log_dir(&pod).join(log));
        }
    }
    Ok(())
}

/// Unmounts and removes all the pod's files, logs too.
pub(crate) fn remove_files(agent: &Agent, pod: &Pod) -> Result<(), String> {
    volumes::tear_down(&pod.uid, &agent.settings.dirs)
        .map_err(|e| format!("could not remove volumes: {e}"))?;
    match fs::remove_dir_all(agent.settings.log_dir(pod)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("could not remove logs: {e}")),
        _ => Ok(()),
    }
}

fn gone(e: RuntimeError) -> Result<(), RuntimeError> {
    if e.is_not_found() { Ok(()) } else { Err(e) }
}

fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a k8s_openapi::api::core::v1::Container> {
    let spec = pod.spec();
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
}

/// What probes and hooks of a container act on.
pub(crate) fn subject(
    agent: &Agent,
    pod: &Pod,
    container: &k8s_openapi::api::core::v1::Container,
    id: &str,
) -> Subject {
    let ips = pod_ips(pod, &agent.view(&pod.uid).observed, &agent.facts());
    Subject {
        runtime: agent.runtime.clone(),
        id: id.to_owned(),
        container: container.clone(),
        address: ips.first().copied(),
    }
}
