//! One task per pod: wakes when something changed, asks the plan what to do, begins it, tells the cloud what came of it.
//! It never waits for a step: steps run beside it, so a pod that is being started can be stopped, and a runtime that
//! hangs on one call keeps no other pod.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as core;
use proto::metamanager::{Key, SubmitRequest, UploadKind};
use serde_json::json;
use tokio::task::JoinSet;

use crate::agent::Agent;
use crate::events::EventType::{Normal, Warning};
use crate::fetch::{self, Held};
use crate::images::{ImageFailure, PresentImage};
use crate::inventory::{Container, PodView};
use crate::mailbox::{Mail, Mailbox};
use crate::model::{ContainerState, Live, Pod, Waiting};
use crate::plan::{
    Action, Goal, ImageState, Memory, Plan, Stage, StopReason, Target, Unhealthy, plan, restart_key,
    retry_delay,
};
use crate::probes::{Kind, Probes, Start};
use crate::status::{pod_status, status_patch};
use crate::steps;

/// How long a refused or failed upload waits before it is sent again.
const UPLOAD_RETRY: Duration = Duration::from_secs(5);

/// What came of a step.
enum Outcome {
    Volumes(Result<Held, String>),
    Image(Result<PresentImage, ImageFailure>),
    Started(Result<(), Waiting>),
    /// Any other; the error is for the log.
    Done(Result<(), String>),
    /// An upload of the status, or of the pod's end.
    Uploaded {
        what: Upload,
        ok: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    Status,
    End,
}

/// One pod.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not one state")]
pub(crate) struct Worker {
    agent: Arc<Agent>,
    mailbox: Arc<Mailbox>,
    pod: Pod,
    /// The store no longer has the pod.
    gone: bool,
    memory: Memory,
    failures: BTreeMap<Target, u32>,
    live: Live,
    tokens: Held,
    /// Volumes are to be set up again: an object changed, or edged was restarted.
    refresh: bool,
    steps: JoinSet<(Option<Target>, Outcome)>,
    probes: Probes,
    /// Running containers whose readiness is tracked: name to id.
    tracked: BTreeMap<String, String>,
    /// The last status made, reported or not.
    status: Option<core::PodStatus>,
    /// Differs from what was last handed to metamanager.
    unreported: bool,
    uploading: bool,
    upload_at: Option<Timestamp>,
    /// The pod's containers are being removed: its last status stands.
    frozen: bool,
    end_reported: bool,
}

impl Worker {
    /// A worker for a pod of the store.
    pub(crate) fn new(agent: Arc<Agent>, mailbox: Arc<Mailbox>, pod: Pod) -> Self {
        let status = pod.object.status.clone();
        Self {
            agent,
            mailbox,
            pod,
            gone: false,
            memory: Memory::default(),
            failures: BTreeMap::new(),
            live: Live::default(),
            tokens: Held::new(),
            refresh: true,
            steps: JoinSet::new(),
            probes: Probes::default(),
            tracked: BTreeMap::new(),
            status,
            // Even if the cloud's copy says the same: something newer and now wrong may still wait to be sent.
            unreported: true,
            uploading: false,
            upload_at: None,
            frozen: false,
            end_reported: false,
        }
    }

    /// A worker that only takes down what a pod left: the store does not have it.
    pub(crate) fn stranger(agent: Arc<Agent>, mailbox: Arc<Mailbox>, pod: Pod) -> Self {
        Self { gone: true, ..Self::new(agent, mailbox, pod) }
    }

    /// Runs until nothing of the pod is left on the node and in the store.
    pub(crate) async fn run(mut self) {
        loop {
            let mail = self.mailbox.take();
            self.read(mail);
            let wake_at = match self.step() {
                Some(wake_at) => wake_at,
                // Back in the store while its last traces went.
                None if self.mailbox.has_pod() => continue,
                None => return self.agent.close_mailbox(&self.pod.uid),
            };
            let pause =
                wake_at.map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
            tokio::select! {
                () = self.mailbox.woken() => {}
                Some(done) = self.steps.join_next() => match done {
                    Ok((target, outcome)) => self.absorb(target, outcome),
                    // Unwinding only happens in tests: a release build aborts and the supervisor starts us again.
                    Err(e) => tracing::error!(pod = %self.pod.key, error = %e, "a step ended without a result"),
                },
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
            }
        }
    }

    fn read(&mut self, mail: Mail) {
        if let Some(pod) = mail.pod {
            self.replace(pod);
            if self.gone && !mail.gone {
                self.gone = false;
                self.memory.files_removed = false;
                self.memory.volumes_ready = false;
            }
        }
        self.gone |= mail.gone;
        self.refresh |= mail.refresh;
        if mail.refresh || mail.connected {
            // What a container waited for may have come.
            self.memory.retry.retain(|target, _| !matches!(target, Target::Volumes | Target::Container(_)));
        }
        if mail.refused.status {
            self.unreported = true;
            self.upload_at = after(UPLOAD_RETRY);
        }
        if mail.refused.delete {
            self.end_reported = false;
            self.upload_at = after(UPLOAD_RETRY);
        }
        for ((id, kind), ok) in mail.verdicts {
            self.note_verdict(&id, kind, ok);
        }
    }

    fn replace(&mut self, pod: Pod) {
        let changed = |name: &str, new: &core::Container| {
            let spec = self.pod.spec();
            let old =
                spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name);
            old.is_none_or(|old| old.image != new.image)
        };
        let spec = pod.spec();
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            if changed(&container.name, container) {
                self.memory.images.remove(&container.name);
                self.memory.start_failures.remove(&container.name);
            }
        }
        // Labels and annotations may be in files of the pod.
        self.refresh |= pod.object.metadata.labels != self.pod.object.metadata.labels
            || pod.object.metadata.annotations != self.pod.object.metadata.annotations;
        // The cloud thought the node lost and said its pods are not ready: nobody else sets that right.
        self.unreported |= is_ready(pod.object.status.as_ref()) != is_ready(self.status.as_ref());
        self.pod = pod;
    }

    fn note_verdict(&mut self, id: &str, kind: Kind, ok: bool) {
        let Some((name, _)) = self.tracked.iter().find(|(_, tracked)| *tracked == id) else { return };
        let name = name.clone();
        match (kind, ok) {
            (Kind::Readiness, _) => {
                self.live.ready.insert(name, ok);
            }
            (Kind::Startup, true) => {
                self.live.started.insert(name, true);
            }
            (Kind::Startup | Kind::Liveness, false) => {
                let probe = self.container(&name).and_then(|c| kind.of(c));
                let unhealthy = Unhealthy {
                    message: format!("Container {name} failed {} probe, will be restarted", kind.word()),
                    grace: probe.and_then(|p| p.termination_grace_period_seconds),
                };
                self.memory.unhealthy.insert(id.to_owned(), unhealthy);
            }
            (Kind::Liveness, true) => {}
        }
    }

    /// Looks, begins what is to be done, reports. Returns when to look again at the latest; `None` when all is done.
    #[expect(clippy::option_option, reason = "no time to wake at and the end are different things")]
    fn step(&mut self) -> Option<Option<Timestamp>> {
        let now = Timestamp::now();
        if !self.agent.usable() {
            // What is known of the runtime is old or nothing: neither act nor report on it.
            return Some(None);
        }
        let view = self.agent.view(&self.pod.uid);
        let goal = if self.gone || self.pod.is_terminating() {
            Goal::End { grace: self.pod.grace_seconds() }
        } else {
            Goal::Run
        };
        self.expire(now);
        let deadline = self.deadline(now);
        self.track(&view, goal);
        self.memory.started = self.live.started.clone();
        let Plan { actions, waiting, wake_at, stage } = plan(&self.pod, &view, &self.memory, goal, now);
        if stage == Stage::Gone {
            if self.gone {
                return None;
            }
            if !self.end_reported && !self.uploading && self.upload_at.is_none_or(|at| at <= now) {
                self.upload(Upload::End);
            }
            return Some(self.upload_at.filter(|at| *at > now));
        }
        self.tell_of_waiting(&waiting);
        self.live.waiting = waiting;
        let alive = |c: &Container| {
            matches!(c.record.state, ContainerState::Running { .. } | ContainerState::Unknown)
        };
        self.live.taken_down = stage == Stage::Ending
            && !self.memory.busy.iter().any(|target| matches!(target, Target::Container(_)))
            && !view.containers.iter().any(alive);
        self.frozen |=
            actions.iter().any(|a| matches!(a, Action::RemoveSandbox { .. })) && stage == Stage::Ending;
        for action in actions {
            self.begin(action, &view, now);
        }
        if stage == Stage::Live && self.refresh && !self.memory.busy.contains(&Target::Volumes) {
            let due = self.memory.retry.get(&Target::Volumes).is_none_or(|at| *at <= now);
            // A pod that was never prepared asks for it when it wants to start something.
            if due && (self.memory.volumes_ready || !view.containers.is_empty()) {
                self.begin(Action::PrepareVolumes, &view, now);
            }
        }
        self.report(&view, now);
        let others = [
            fetch::refresh_at(&self.tokens).filter(|_| stage == Stage::Live),
            self.memory.retry.get(&Target::Volumes).copied(),
            self.upload_at,
            deadline,
        ];
        Some(others.into_iter().flatten().chain(wake_at).filter(|at| *at > now).min())
    }

    fn expire(&mut self, now: Timestamp) {
        self.memory.retry.retain(|_, at| *at > now);
        if fetch::refresh_at(&self.tokens).is_some_and(|at| at <= now) {
            self.refresh = true;
        }
    }

    /// When `activeDeadlineSeconds` ends the pod; ends it when that is past.
    fn deadline(&mut self, now: Timestamp) -> Option<Timestamp> {
        let seconds = self.pod.spec().active_deadline_seconds?;
        let start = self.status.as_ref()?.start_time.as_ref()?.0;
        let deadline = start.saturating_add(SignedDuration::from_secs(seconds)).ok()?;
        if deadline <= now && !self.memory.over {
            let message = "Pod was active on the node longer than the specified deadline";
            self.agent.recorder.pod(&self.pod, Normal, "DeadlineExceeded", message);
            self.live.failed =
                Some(Waiting { reason: "DeadlineExceeded".to_owned(), message: message.to_owned() });
            self.memory.over = true;
        }
        Some(deadline)
    }

    /// Follows which containers run: probes begin and end with them.
    fn track(&mut self, view: &PodView, goal: Goal) {
        let ids: Vec<&str> = view.containers.iter().map(|c| c.record.id.as_str()).collect();
        self.memory.unhealthy.retain(|id, _| ids.contains(&id.as_str()));
        self.memory.stopping.retain(|id, _| ids.contains(&id.as_str()));
        let mut running = BTreeMap::new();
        for container in &view.containers {
            let record = &container.record;
            if matches!(record.state, ContainerState::Running { .. }) {
                running.entry(record.name.clone()).or_insert_with(|| record.id.clone());
            }
        }
        for (name, id) in &running {
            if self.tracked.get(name) != Some(id) {
                // What the cloud last heard of this very container holds until its probes say otherwise: a restart of
                // edged makes no ready pod unready.
                let heard = self.heard_of(name, id);
                set(&mut self.live.ready, name, heard.as_ref().is_some_and(|s| s.ready));
                set(&mut self.live.started, name, heard.is_some_and(|s| s.started == Some(true)));
                self.memory.images.remove(name);
            }
        }
        self.live.ready.retain(|name, _| running.contains_key(name));
        self.live.started.retain(|name, _| running.contains_key(name));
        self.tracked = running;
        let wanted = self.wanted_probes(goal);
        let (agent, mailbox, pod) = (&self.agent, &self.mailbox, &self.pod);
        self.probes.keep(&wanted, |id| {
            let found = view.containers.iter().find(|c| c.record.id == id)?;
            let ContainerState::Running { started_at } = found.record.state else { return None };
            let spec = pod.spec();
            let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            let container = all.find(|c| c.name == found.record.name)?;
            Some(Start {
                pod: pod.clone(),
                subject: steps::subject(agent, pod, container, id),
                started_at,
                mailbox: mailbox.clone(),
                recorder: agent.recorder.clone(),
            })
        });
    }

    fn heard_of(&self, name: &str, id: &str) -> Option<core::ContainerStatus> {
        let status = self.pod.object.status.as_ref()?;
        let lists = [&status.container_statuses, &status.init_container_statuses];
        let mut all = lists.into_iter().flatten().flatten();
        let same = |s: &&core::ContainerStatus| {
            s.name == name && s.container_id.as_ref().is_some_and(|known| known.ends_with(id))
        };
        all.find(same).cloned()
    }

    fn wanted_probes(&self, goal: Goal) -> Vec<(String, Kind)> {
        let mut wanted = Vec::new();
        for (name, id) in &self.tracked {
            let Some(container) = self.container(name) else { continue };
            let started = container.startup_probe.is_none() || self.live.started.get(name) == Some(&true);
            let healthy = !self.memory.unhealthy.contains_key(id);
            // A pod that ends may still turn unready; it is not restarted any more.
            let kinds: &[Kind] = match (goal, started) {
                (Goal::Run, false) => &[Kind::Startup],
                (Goal::Run, true) => &[Kind::Liveness, Kind::Readiness],
                (Goal::End { .. }, true) => &[Kind::Readiness],
                (Goal::End { .. }, false) => &[],
            };
            for kind in kinds {
                if kind.of(container).is_some() && (healthy || *kind == Kind::Readiness) {
                    wanted.push((id.clone(), *kind));
                }
            }
        }
        wanted
    }

    fn container(&self, name: &str) -> Option<&core::Container> {
        let spec = self.pod.spec();
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
    }

    /// Events of back-offs, once as each begins.
    fn tell_of_waiting(&self, waiting: &BTreeMap<String, Waiting>) {
        let recorder = &self.agent.recorder;
        for (name, now) in waiting {
            if self.live.waiting.get(name).is_some_and(|before| before.reason == now.reason) {
                continue;
            }
            match now.reason.as_str() {
                "CrashLoopBackOff" => {
                    let Pod { key, uid, .. } = &self.pod;
                    let pod = format!("{}_{}({uid})", key.name, key.namespace);
                    let message = format!("Back-off restarting failed container {name} in pod {pod}");
                    recorder.container(&self.pod, name, Warning, "BackOff", message);
                }
                "ImagePullBackOff" => {
                    let image = self.container(name).and_then(|c| c.image.as_deref()).unwrap_or("");
                    recorder.container(
                        &self.pod,
                        name,
                        Normal,
                        "BackOff",
                        format!("Back-off pulling image \"{image}\""),
                    );
                    recorder.container(&self.pod, name, Warning, "Failed", "Error: ImagePullBackOff");
                }
                _ => {}
            }
        }
    }

    fn begin(&mut self, action: Action, view: &PodView, now: Timestamp) {
        let target = action.target();
        self.memory.busy.insert(target.clone());
        let (agent, pod) = (self.agent.clone(), self.pod.clone());
        match action {
            Action::PrepareVolumes => {
                self.refresh = false;
                let step = steps::prepare_volumes(agent, pod, self.tokens.clone());
                self.spawn(target, async { Outcome::Volumes(step.await) });
            }
            Action::CreateSandbox { attempt, replaces } => {
                let step = steps::create_sandbox(agent, pod, attempt, replaces);
                self.spawn(target, async { Outcome::Done(step.await.map_err(|e| e.to_string())) });
            }
            Action::EnsureImage { container } => {
                let step = steps::ensure_image(agent, pod, container);
                self.spawn(target, async { Outcome::Image(step.await) });
            }
            Action::Start { container, sandbox, after } => {
                let Some(ImageState::Present(image)) = self.memory.images.remove(&container) else {
                    self.memory.busy.remove(&target);
                    return;
                };
                let last = view.containers.iter().find(|c| c.record.name == container);
                if let Some(ContainerState::Exited { finished_at, .. }) = last.map(|c| &c.record.state)
                    && let Some(key) = self.container(&container).map(restart_key)
                {
                    self.memory.restarts.next(&key, *finished_at, now);
                }
                let step = steps::start_container(agent, pod, container, sandbox, after, image);
                self.spawn(target, async { Outcome::Started(step.await) });
            }
            Action::Stop { id, container, grace, reason } => {
                let until = now.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(now);
                self.memory.stopping.insert(id.clone(), until);
                if matches!(reason, StopReason::Changed | StopReason::Unhealthy(_)) {
                    self.live.ready.insert(container.clone(), false);
                }
                let step = steps::stop_container(agent, pod, id, container, grace, reason);
                self.spawn(target, async { Outcome::Done(step.await.map_err(|e| e.to_string())) });
            }
            Action::StopSandbox { id } => {
                let step = steps::stop_sandbox(agent, pod, id);
                self.spawn(target, async { Outcome::Done(step.await.map_err(|e| e.to_string())) });
            }
            Action::RemoveSandbox { id } => {
                let step = steps::remove_sandbox(agent, pod, id);
                self.spawn(target, async { Outcome::Done(step.await.map_err(|e| e.to_string())) });
            }
            Action::RemoveContainer { id } => {
                let step = steps::remove_container(agent, pod, id);
                self.spawn(target, async { Outcome::Done(step.await.map_err(|e| e.to_string())) });
            }
            Action::RemoveFiles => {
                self.spawn(target, async move { Outcome::Done(steps::remove_files(&agent, &pod)) });
            }
        }
    }

    fn spawn(&mut self, target: Target, step: impl Future<Output = Outcome> + Send + 'static) {
        self.steps.spawn(async move { (Some(target), step.await) });
    }

    fn absorb(&mut self, target: Option<Target>, outcome: Outcome) {
        if let Some(target) = &target {
            self.memory.busy.remove(target);
        }
        let failed = match (target.clone(), outcome) {
            (_, Outcome::Volumes(Ok(held))) => {
                self.tokens = held;
                self.memory.volumes_ready = true;
                self.live.blocked = None;
                false
            }
            (_, Outcome::Volumes(Err(why))) => {
                self.agent.recorder.pod(&self.pod, Warning, "FailedMount", why.clone());
                if !self.memory.volumes_ready {
                    self.live.blocked = Some(Waiting { reason: "ContainerCreating".into(), message: why });
                }
                self.refresh = true;
                true
            }
            (Some(Target::Image(name)), Outcome::Image(result)) => {
                self.note_image(name, result);
                false
            }
            (Some(Target::Container(name)), Outcome::Started(result)) => match result {
                Ok(()) => {
                    self.memory.start_failures.remove(&name);
                    false
                }
                Err(waiting) => {
                    self.memory.start_failures.insert(name, waiting);
                    true
                }
            },
            (Some(Target::Files), Outcome::Done(Ok(()))) => {
                self.memory.files_removed = true;
                false
            }
            (_, Outcome::Done(Ok(()))) => false,
            (target, Outcome::Done(Err(why))) => {
                let step = target.as_ref().map(tracing::field::display);
                tracing::warn!(pod = %self.pod.key, step, error = why, "a step failed, it will be repeated");
                true
            }
            (_, Outcome::Uploaded { what, ok }) => {
                self.uploading = false;
                self.upload_at = if ok { None } else { after(UPLOAD_RETRY) };
                match what {
                    Upload::Status => self.unreported |= !ok,
                    Upload::End => self.end_reported = ok,
                }
                return;
            }
            (_, Outcome::Image(_) | Outcome::Started(_)) => false,
        };
        let Some(target) = target else { return };
        if failed {
            let count = self.failures.entry(target.clone()).or_default();
            *count = count.saturating_add(1);
            if let Some(at) = after(retry_delay(&target, *count)) {
                self.memory.retry.insert(target, at);
            }
        } else {
            self.failures.remove(&target);
            self.memory.retry.remove(&target);
        }
    }

    fn note_image(&mut self, name: String, result: Result<PresentImage, ImageFailure>) {
        let now = Timestamp::now();
        let key = self.container(&name).and_then(|c| c.image.clone()).unwrap_or_default();
        let state = match result {
            Ok(image) => {
                self.memory.pulls.reset(&key);
                ImageState::Present(image)
            }
            Err(failure) => {
                self.memory.pulls.next(&key, now, now);
                let until = self.memory.pulls.until(&key, now, now).map_or(now, |(until, _)| until);
                ImageState::Failed { failure, at: now, until }
            }
        };
        self.memory.images.insert(name, state);
    }

    /// Makes the status and hands it over when it is news.
    fn report(&mut self, view: &PodView, now: Timestamp) {
        if self.gone {
            return;
        }
        if !self.frozen {
            let facts = self.agent.facts();
            let status = pod_status(&self.pod, &view.observed, &self.live, &facts, self.status.as_ref(), now);
            if self.status.as_ref() != Some(&status) {
                self.status = Some(status);
                self.unreported = true;
            }
        }
        if self.unreported && !self.uploading && self.upload_at.is_none_or(|at| at <= now) {
            self.unreported = false;
            self.upload(Upload::Status);
        }
    }

    fn upload(&mut self, what: Upload) {
        let uid = self.pod.uid.clone();
        let (kind, json) = match (what, &self.status) {
            (Upload::Status, Some(status)) => (UploadKind::PodStatus, status_patch(&uid, status)),
            (Upload::Status, None) => return,
            (Upload::End, _) => {
                let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
                (UploadKind::PodDelete, options.to_string().into_bytes())
            }
        };
        let key = Key {
            kind: "pod".into(),
            namespace: self.pod.key.namespace.clone(),
            name: self.pod.key.name.clone(),
        };
        let request = SubmitRequest { kind: kind.into(), key: Some(key), uid, json: Bytes::from(json) };
        let (agent, pod) = (self.agent.clone(), self.pod.key.clone());
        self.uploading = true;
        self.steps.spawn(async move {
            let submitted = agent.meta.submit(request).await;
            if let Err(e) = &submitted {
                tracing::warn!(%pod, upload = kind.as_str_name(), error = %e, "not stored, it will be repeated");
            }
            (None, Outcome::Uploaded { what, ok: submitted.is_ok() })
        });
    }
}

/// The Ready condition.
fn is_ready(status: Option<&core::PodStatus>) -> bool {
    let conditions = status.and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn set(map: &mut BTreeMap<String, bool>, name: &str, value: bool) {
    map.insert(name.to_owned(), value);
}

fn after(pause: Duration) -> Option<Timestamp> {
    Timestamp::now().checked_add(SignedDuration::try_from(pause).ok()?).ok()
}
