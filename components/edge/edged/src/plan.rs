//! What to do next for one pod: a pure function of what is wanted, what is there and what is remembered. It may be asked
//! at any time and as often as one likes; what is under way is not asked for twice, so asking again after every change
//! is all it takes to get from any state to the wanted one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as core;

use crate::backoff::{Backoff, go_duration};
use crate::images::{ImageFailure, PresentImage};
use crate::inventory::{Container, PodView};
use crate::labels::spec_hash;
use crate::model::{ContainerState, Pod, Sandbox, Waiting};
use crate::status::is_sidecar;

/// How long the reason of a failed pull is shown before the waiting for the next one is.
const SHOW_PULL_ERROR: SignedDuration = SignedDuration::from_secs(1);

/// What an action acts on. At most one action per target is under way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// The pod's volumes and the objects they are made from.
    Volumes,
    /// Making a sandbox.
    Sandbox,
    /// A container's image, by the container's name.
    Image(String),
    /// Making and starting a container, by name.
    Container(String),
    /// Stopping or removing something, by the runtime's id.
    Id(String),
    /// The pod's files.
    Files,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volumes => f.write_str("volumes"),
            Self::Sandbox => f.write_str("sandbox"),
            Self::Image(container) => write!(f, "image of {container}"),
            Self::Container(name) => write!(f, "container {name}"),
            Self::Id(id) => write!(f, "id {id}"),
            Self::Files => f.write_str("files"),
        }
    }
}

/// Why a container is stopped while its pod goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The pod ends.
    PodEnds,
    /// Its image was changed.
    Changed,
    /// Its liveness or startup probe failed; what to tell.
    Unhealthy(String),
    /// The runtime lost track of it.
    Unknown,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Fetch missing objects and tokens, set the volumes up.
    PrepareVolumes,
    /// Make a sandbox; first stop the one it replaces.
    CreateSandbox {
        /// Counts the pod's sandboxes from 0.
        attempt: u32,
        /// The dead one.
        replaces: Option<String>,
    },
    /// See that a container's image is there.
    EnsureImage {
        /// By name.
        container: String,
    },
    /// Make and start a container.
    Start {
        /// By name.
        container: String,
        /// In this sandbox.
        sandbox: String,
        /// One more than the last; `None` when the runtime remembers none.
        after: Option<u32>,
    },
    /// Stop a container.
    Stop {
        /// The runtime's id.
        id: String,
        /// By name.
        container: String,
        /// Seconds.
        grace: i64,
        /// Why.
        reason: StopReason,
    },
    /// Stop a sandbox.
    StopSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Remove a sandbox and what is in it.
    RemoveSandbox {
        /// The runtime's id.
        id: String,
    },
    /// Remove a dead container and its log.
    RemoveContainer {
        /// The runtime's id.
        id: String,
    },
    /// Unmount volumes and remove the pod's files.
    RemoveFiles,
}

impl Action {
    /// What it acts on.
    pub(crate) fn target(&self) -> Target {
        match self {
            Self::PrepareVolumes => Target::Volumes,
            Self::CreateSandbox { .. } => Target::Sandbox,
            Self::EnsureImage { container } => Target::Image(container.clone()),
            Self::Start { container, .. } => Target::Container(container.clone()),
            Self::Stop { id, .. }
            | Self::StopSandbox { id }
            | Self::RemoveSandbox { id }
            | Self::RemoveContainer { id } => Target::Id(id.clone()),
            Self::RemoveFiles => Target::Files,
        }
    }
}

/// What is known of a container's image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageState {
    /// There, and good for one start.
    Present(PresentImage),
    /// Not there.
    Failed {
        /// Why.
        failure: ImageFailure,
        /// Since when.
        at: Timestamp,
        /// The next try.
        until: Timestamp,
    },
}

/// What the worker remembers of a pod, as far as it decides something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Under way.
    pub busy: BTreeSet<Target>,
    /// Failed, and when to try again.
    pub retry: BTreeMap<Target, Timestamp>,
    /// The volumes are as the pod wants them.
    pub volumes_ready: bool,
    /// By container name.
    pub images: BTreeMap<String, ImageState>,
    /// Why a container could not be started, by name.
    pub start_failures: BTreeMap<String, Waiting>,
    /// Pulls, by image.
    pub pulls: Backoff,
    /// Restarts, by [`restart_key`].
    pub restarts: Backoff,
    /// Containers whose probes failed, by id: what to tell.
    pub unhealthy: BTreeMap<String, Unhealthy>,
    /// Results of startup probes, by name.
    pub started: BTreeMap<String, bool>,
    /// Containers being stopped, by id: when their grace ends.
    pub stopping: BTreeMap<String, Timestamp>,
    /// The pod has ended for good, whatever its restart policy says.
    pub over: bool,
    /// Nothing of the pod is left on disk.
    pub files_removed: bool,
}

/// A failed liveness or startup probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unhealthy {
    /// `Container c failed liveness probe, will be restarted`.
    pub message: String,
    /// The probe's own grace, seconds.
    pub grace: Option<i64>,
}

/// Whether the pod is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Yes.
    Run,
    /// No: it is deleted, with so many seconds of grace.
    End {
        /// Seconds.
        grace: i64,
    },
}

/// What comes of a look at a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// To be begun now, all at the same time.
    pub actions: Vec<Action>,
    /// Why containers are not running.
    pub waiting: BTreeMap<String, Waiting>,
    /// Look again then, though nothing may have changed.
    pub wake_at: Option<Timestamp>,
    /// Where the pod is.
    pub stage: Stage,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It runs or is made to.
    Live,
    /// Its containers have all ended for good.
    Over,
    /// It is being taken down.
    Ending,
    /// Runtime and disk hold nothing of it.
    Gone,
}

/// Looks at a pod.
pub(crate) fn plan(pod: &Pod, view: &PodView, memory: &Memory, goal: Goal, now: Timestamp) -> Plan {
    let mut planner = Planner {
        pod,
        view,
        memory,
        now,
        plan: Plan { actions: Vec::new(), waiting: BTreeMap::new(), wake_at: None, stage: Stage::Live },
    };
    match goal {
        Goal::Run => planner.run(),
        Goal::End { grace } => planner.end(grace),
    }
    planner.plan
}

/// The key a container's restarts are counted under: another image starts over.
pub(crate) fn restart_key(container: &core::Container) -> String {
    format!("{}/{}", container.name, spec_hash(container))
}

/// Whether a container that ended is started again.
fn restarts(spec: &core::PodSpec, container: &core::Container, exit_code: i32) -> bool {
    let policy = if is_sidecar(container) { Some("Always") } else { spec.restart_policy.as_deref() };
    match policy {
        Some("Never") => false,
        Some("OnFailure") => exit_code != 0,
        _ => true,
    }
}

struct Planner<'a> {
    pod: &'a Pod,
    view: &'a PodView,
    memory: &'a Memory,
    now: Timestamp,
    plan: Plan,
}

impl<'a> Planner<'a> {
    fn run(&mut self) {
        self.collect_garbage();
        if self.is_over() {
            return self.finish();
        }
        let newest = self.view.sandboxes.first();
        let ready = newest.filter(|sandbox| sandbox.ready);
        if ready.is_none() {
            self.need_sandbox(newest);
        }
        self.stop_bad_containers(ready);
        self.start_containers(ready);
    }

    /// All containers have ended and none is to be started again.
    fn is_over(&self) -> bool {
        let spec = self.pod.spec();
        let phase = self.pod.object.status.as_ref().and_then(|status| status.phase.as_deref());
        if self.memory.over || matches!(phase, Some("Succeeded" | "Failed")) {
            return true;
        }
        let init_failed = spec
            .init_containers
            .iter()
            .flatten()
            .any(|container| self.ended(container).is_some_and(|code| code != 0));
        let main_ended =
            !spec.containers.is_empty() && spec.containers.iter().all(|c| self.ended(c).is_some());
        init_failed || main_ended
    }

    /// The exit code of a container that has ended and is not to be started again.
    fn ended(&self, container: &core::Container) -> Option<i32> {
        match self.newest(&container.name)?.record.state {
            ContainerState::Exited { .. } if self.was_interrupted(&container.name) => None,
            ContainerState::Exited { exit_code, .. } if !restarts(self.pod.spec(), container, exit_code) => {
                Some(exit_code)
            }
            _ => None,
        }
    }

    /// What is left of an ended pod: sidecars stop, then the sandbox; dead containers stay for their logs.
    fn finish(&mut self) {
        self.plan.stage = Stage::Over;
        let grace = self.pod.grace_seconds();
        if self.stop_all(grace) {
            return;
        }
        for sandbox in self.view.sandboxes.iter().filter(|sandbox| sandbox.ready) {
            self.push(Action::StopSandbox { id: sandbox.id.clone() });
        }
    }

    fn need_sandbox(&mut self, dead: Option<&Sandbox>) {
        // What still runs in a dead sandbox has no network: it goes first.
        if self.stop_all(self.pod.grace_seconds()) || !self.volumes() {
            return;
        }
        let attempt = dead.map_or(0, |sandbox| sandbox.attempt + 1);
        self.push(Action::CreateSandbox { attempt, replaces: dead.map(|sandbox| sandbox.id.clone()) });
    }

    fn stop_bad_containers(&mut self, sandbox: Option<&Sandbox>) {
        let Some(sandbox) = sandbox else { return };
        for container in self.containers() {
            let Some(found) = self.current(&container.name, sandbox) else { continue };
            let id = found.record.id.clone();
            let (reason, grace) = match &found.record.state {
                ContainerState::Running { .. } => {
                    if found.hash.as_ref().is_some_and(|hash| *hash != spec_hash(container)) {
                        (StopReason::Changed, None)
                    } else if let Some(unhealthy) = self.memory.unhealthy.get(&id) {
                        (StopReason::Unhealthy(unhealthy.message.clone()), unhealthy.grace)
                    } else {
                        continue;
                    }
                }
                ContainerState::Unknown => (StopReason::Unknown, None),
                ContainerState::Created | ContainerState::Exited { .. } => continue,
            };
            let grace = grace.unwrap_or_else(|| self.pod.grace_seconds());
            self.stop(id, container.name.clone(), grace, reason);
        }
    }

    /// Init containers one after the other, then all others.
    fn start_containers(&mut self, sandbox: Option<&Sandbox>) {
        let spec = self.pod.spec();
        let current = |name: &str| sandbox.and_then(|sandbox| self.current(name, sandbox));
        // Once a main container was made in this sandbox, the init containers have done their work in it, even if the
        // runtime no longer remembers them.
        let initialized = spec.containers.iter().any(|c| current(&c.name).is_some());
        for container in spec.init_containers.iter().flatten() {
            let state = self.state(&container.name, sandbox);
            if is_sidecar(container) {
                let running = matches!(state, Some(ContainerState::Running { .. }));
                if !running {
                    self.start(container, sandbox);
                }
                let started = running
                    && (container.startup_probe.is_none()
                        || self.memory.started.get(&container.name) == Some(&true));
                if !started && !initialized {
                    return;
                }
            } else if !initialized {
                match state {
                    Some(ContainerState::Exited { exit_code: 0, .. }) => {}
                    Some(ContainerState::Running { .. }) => return,
                    _ => return self.start(container, sandbox),
                }
            }
        }
        for container in &spec.containers {
            let running =
                matches!(self.state(&container.name, sandbox), Some(ContainerState::Running { .. }));
            let done = self.ended(container).is_some();
            if !running && !done {
                self.start(container, sandbox);
            }
        }
    }

    /// An edged that died while it started the container had the runtime give up: it ended without having run. What
    /// cannot be started at all looks the same, but then this edged has tried, and knows.
    fn was_interrupted(&self, name: &str) -> bool {
        let state = self.newest(name).map(|c| &c.record.state);
        matches!(state, Some(ContainerState::Exited { started_at: None, .. }))
            && !self.memory.start_failures.contains_key(name)
    }

    /// Brings a container that should run one step nearer to it.
    fn start(&mut self, container: &core::Container, sandbox: Option<&Sandbox>) {
        let name = &container.name;
        if let Some(waiting) = self.memory.start_failures.get(name) {
            self.plan.waiting.insert(name.clone(), waiting.clone());
        }
        if self.memory.busy.contains(&Target::Container(name.clone())) {
            return;
        }
        let newest = self.newest(name);
        match newest.map(|c| (&c.record.state, &c.record.id)) {
            // Made by an edged that died before it could start it. The same attempt is made again.
            Some((ContainerState::Created, id)) => {
                return self.push(Action::RemoveContainer { id: id.clone() });
            }
            Some((_, id)) if self.was_interrupted(name) => {
                return self.push(Action::RemoveContainer { id: id.clone() });
            }
            // Being stopped.
            Some((ContainerState::Running { .. } | ContainerState::Unknown, _)) => return,
            Some((ContainerState::Exited { finished_at, .. }, _)) => {
                let key = restart_key(container);
                if let Some((until, delay)) = self.memory.restarts.until(&key, *finished_at, self.now) {
                    let message = format!(
                        "back-off {} restarting failed container={name} pod={}_{}({})",
                        go_duration(delay),
                        self.pod.key.name,
                        self.pod.key.namespace,
                        self.pod.uid
                    );
                    self.wait(name, "CrashLoopBackOff", message);
                    return self.wake(until);
                }
            }
            None => {}
        }
        if !self.volumes() {
            return;
        }
        if let Some(at) = self.memory.retry.get(&Target::Container(name.clone())).filter(|at| **at > self.now)
        {
            return self.wake(*at);
        }
        match self.memory.images.get(name) {
            Some(ImageState::Present(_)) => {
                if let Some(sandbox) = sandbox {
                    let after = newest.map(|c| c.record.attempt);
                    self.push(Action::Start { container: name.clone(), sandbox: sandbox.id.clone(), after });
                }
            }
            Some(ImageState::Failed { failure, at, until }) => {
                let shown = at.saturating_add(SHOW_PULL_ERROR).unwrap_or(*at);
                if failure.reason == "ErrImagePull" && self.now >= shown {
                    let image = container.image.as_deref().unwrap_or("");
                    let message =
                        format!("Back-off pulling image \"{image}\": ErrImagePull: {}", failure.message);
                    self.wait(name, "ImagePullBackOff", message);
                } else {
                    self.wait(name, failure.reason, failure.message.clone());
                    self.wake(shown);
                }
                if self.now >= *until {
                    self.push(Action::EnsureImage { container: name.clone() });
                } else {
                    self.wake(*until);
                }
            }
            None => self.push(Action::EnsureImage { container: name.clone() }),
        }
    }

    /// Whether the volumes are ready; asks for them if not.
    fn volumes(&mut self) -> bool {
        if !self.memory.volumes_ready {
            self.push(Action::PrepareVolumes);
        }
        self.memory.volumes_ready
    }

    fn end(&mut self, grace: i64) {
        self.plan.stage = Stage::Ending;
        let starting =
            |target: &Target| matches!(target, Target::Container(_) | Target::Sandbox | Target::Volumes);
        let was_starting = self.memory.busy.iter().any(starting);
        if self.stop_all(grace) || was_starting {
            return;
        }
        let ready: Vec<_> = self.view.sandboxes.iter().filter(|sandbox| sandbox.ready).collect();
        if !ready.is_empty() {
            for sandbox in ready {
                self.push(Action::StopSandbox { id: sandbox.id.clone() });
            }
            return;
        }
        if !self.view.sandboxes.is_empty() {
            for sandbox in &self.view.sandboxes {
                self.push(Action::RemoveSandbox { id: sandbox.id.clone() });
            }
        } else if !self.view.containers.is_empty() {
            for container in &self.view.containers {
                self.push(Action::RemoveContainer { id: container.record.id.clone() });
            }
        } else if !self.memory.files_removed {
            self.push(Action::RemoveFiles);
        } else {
            self.plan.stage = Stage::Gone;
        }
    }

    /// Stops what runs, sidecars after the containers they serve and the last one first. Says whether anything is left
    /// to stop.
    fn stop_all(&mut self, grace: i64) -> bool {
        let spec = self.pod.spec();
        let is_init_sidecar =
            |name: &str| spec.init_containers.iter().flatten().position(|c| c.name == name && is_sidecar(c));
        let alive: Vec<&Container> = self
            .view
            .containers
            .iter()
            .filter(|c| matches!(c.record.state, ContainerState::Running { .. } | ContainerState::Unknown))
            .collect();
        let (sidecars, others): (Vec<_>, Vec<_>) =
            alive.iter().copied().partition(|c| is_init_sidecar(&c.record.name).is_some());
        let last_sidecar = sidecars.into_iter().max_by_key(|c| is_init_sidecar(&c.record.name));
        let to_stop = if others.is_empty() { last_sidecar.into_iter().collect() } else { others };
        for container in to_stop {
            let record = &container.record;
            self.stop(record.id.clone(), record.name.clone(), grace, StopReason::PodEnds);
        }
        !alive.is_empty()
    }

    fn stop(&mut self, id: String, container: String, grace: i64, reason: StopReason) {
        // A grace that was shortened since (`kubectl delete --now`) is worth a second stop beside the first.
        let deadline = self.now.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(self.now);
        let sooner = self
            .memory
            .stopping
            .get(&id)
            .is_some_and(|until| until.duration_since(deadline) > SignedDuration::from_secs(1));
        let action = Action::Stop { id, container, grace, reason };
        if sooner {
            self.plan.actions.push(action);
        } else {
            self.push(action);
        }
    }

    /// Keeps the newest attempt of each container and one dead one; older sandboxes go when nothing kept is in them.
    fn collect_garbage(&mut self) {
        let mut dead: BTreeMap<&str, usize> = BTreeMap::new();
        let mut kept_in = BTreeSet::new();
        for container in &self.view.containers {
            let dead = dead.entry(&container.record.name).or_default();
            if matches!(container.record.state, ContainerState::Exited { .. }) {
                *dead += 1;
                if *dead > 1 {
                    self.push(Action::RemoveContainer { id: container.record.id.clone() });
                    continue;
                }
            }
            kept_in.extend(container.sandbox.as_deref());
        }
        for sandbox in self.view.sandboxes.iter().skip(1) {
            if sandbox.ready {
                self.push(Action::StopSandbox { id: sandbox.id.clone() });
            } else if !kept_in.contains(sandbox.id.as_str()) {
                self.push(Action::RemoveSandbox { id: sandbox.id.clone() });
            }
        }
    }

    fn containers(&self) -> impl Iterator<Item = &'a core::Container> + use<'a> {
        let spec = self.pod.spec();
        spec.init_containers.iter().flatten().chain(&spec.containers)
    }

    fn newest(&self, name: &str) -> Option<&'a Container> {
        self.view.containers.iter().find(|c| c.record.name == name)
    }

    /// The newest attempt in this sandbox.
    fn current(&self, name: &str, sandbox: &Sandbox) -> Option<&'a Container> {
        self.newest(name).filter(|c| match &c.sandbox {
            Some(id) => *id == sandbox.id,
            None => c.record.created_at >= sandbox.created_at,
        })
    }

    fn state(&self, name: &str, sandbox: Option<&Sandbox>) -> Option<&'a ContainerState> {
        self.current(name, sandbox?).map(|c| &c.record.state)
    }

    fn wait(&mut self, name: &str, reason: &str, message: String) {
        self.plan.waiting.insert(name.to_owned(), Waiting { reason: reason.to_owned(), message });
    }

    fn wake(&mut self, at: Timestamp) {
        if at > self.now {
            self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |wake| wake.min(at)));
        }
    }

    fn push(&mut self, action: Action) {
        let target = action.target();
        if self.memory.busy.contains(&target) || self.plan.actions.iter().any(|a| a.target() == target) {
            return;
        }
        match self.memory.retry.get(&target) {
            Some(at) if *at > self.now => self.wake(*at),
            _ => self.plan.actions.push(action),
        }
    }
}

/// How long a failed action waits: twice as long each time, at most 30 s. What only the runtime can get wrong begins with
/// 200 ms: after a restart of edged it is often still undoing what the one before had begun. What is wrong with the pod or
/// missing in the cloud begins with 1 s.
pub(crate) fn retry_delay(target: &Target, failures: u32) -> Duration {
    let first = match target {
        Target::Sandbox | Target::Id(_) | Target::Files => Duration::from_millis(200),
        Target::Volumes | Target::Image(_) | Target::Container(_) => Duration::from_secs(1),
    };
    (first * (1 << failures.saturating_sub(1).min(8))).min(Duration::from_secs(30))
}

#[cfg(test)]
mod tests;
