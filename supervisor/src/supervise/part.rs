//! One component as the event loop sees it.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ipc::Fail;
use launch::{Exit, Inherited, Launch, Process};
use proto::control::{self, ControlError};
use tokio::sync::oneshot;

use super::{report, state_word};
use crate::cli::Settings;
use crate::logs::unix_millis;
use crate::memory;
use crate::notify;
use crate::order::Member;
use crate::policy::{Cause, Machine, Policy, State, Then};
use crate::setup::Prepared;

type Answer = oneshot::Sender<Result<control::Component, Fail<ControlError>>>;

pub(super) struct Part {
    pub(super) prepared: Prepared,
    pub(super) machine: Machine,
    pub(super) running: Option<Running>,
    /// Its turn to stop has come.
    pub(super) told_to_stop: bool,
    /// Who asked for a restart and waits for its result.
    pub(super) waiting: Vec<Answer>,
    pub(super) last_exit: String,
    pub(super) status_text: String,
    notify: Option<notify::Socket>,
    launches: u64,
    ready_since_ms: u64,
    killed_for: Option<Cause>,
}

pub(super) struct Running {
    pub(super) process: Arc<Process>,
    pub(super) generation: u64,
    pub(super) since: Instant,
}

impl Part {
    pub(super) fn new((prepared, notify): (Prepared, notify::Socket)) -> Self {
        Self {
            machine: Machine::new(Policy::from(&prepared.component)),
            prepared,
            running: None,
            told_to_stop: false,
            waiting: Vec::new(),
            last_exit: String::new(),
            status_text: String::new(),
            notify: Some(notify),
            launches: 0,
            ready_since_ms: 0,
            killed_for: None,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.prepared.name
    }

    pub(super) fn member(&self) -> Member {
        Member {
            rank: self.prepared.component.rank,
            settled: self.machine.settled(),
            at_rest: self.machine.at_rest(),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.machine.state(), State::Ready { .. })
    }

    pub(super) fn take_notify(&mut self) -> Option<notify::Socket> {
        self.notify.take()
    }

    /// The number of the launch that comes now, from 1.
    pub(super) fn count_launch(&mut self) -> u64 {
        self.launches += 1;
        self.launches
    }

    pub(super) fn plan<'a>(&'a self, settings: &Settings, generation: u64) -> Launch<'a> {
        let prepared = &self.prepared;
        let mut env: Vec<_> =
            prepared.env.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        env.push(("APIARY_GENERATION", generation.to_string().into()));
        Launch {
            component: &prepared.name,
            exec: settings.exec_dir.join(&prepared.component.exec),
            argv0: &prepared.name,
            args: Vec::new(),
            env,
            inherited: prepared
                .links
                .iter()
                .map(|link| Inherited { name: &link.client, fd: link.listener.as_fd() })
                .collect(),
            identity: prepared.change_identity.then(|| prepared.identity.clone()),
            capabilities: prepared.capabilities,
            limits: prepared.limits.clone(),
            confinement: launch::Confinement::default(),
        }
    }

    pub(super) fn terminate(&self) {
        if let Some(running) = &self.running {
            report(running.process.terminate(), "end a component");
        }
    }

    pub(super) fn kill(&mut self, cause: Cause) {
        let policy = self.machine.policy();
        match cause {
            Cause::NotReady => {
                tracing::error!(component = self.name(), timeout = ?policy.ready_timeout, "component is not ready in time: killing it");
            }
            Cause::Silent => {
                tracing::error!(component = self.name(), watchdog = ?policy.watchdog, "component is silent: killing it");
            }
            Cause::NotDrained => {
                tracing::warn!(component = self.name(), drain = ?policy.drain, "component does not end: killing it");
            }
        }
        self.killed_for = Some(cause);
        if let Some(running) = &self.running {
            report(running.process.kill(), "kill a component");
        }
    }

    /// Takes note of the end of its process, in words.
    pub(super) fn ended(&mut self, exit: Exit) {
        let policy = self.machine.policy();
        let exit = match exit {
            Exit::Code(crate::policy::EXIT_CONFIG) => format!("{exit}: bad configuration, see its log"),
            _ => exit.to_string(),
        };
        self.last_exit = match self.killed_for.take() {
            None => exit,
            Some(Cause::NotReady) => format!("not ready in {:?}: {exit}", policy.ready_timeout),
            Some(Cause::Silent) => format!("silent for {:?}: {exit}", policy.watchdog.unwrap_or_default()),
            Some(Cause::NotDrained) => format!("not drained in {:?}: {exit}", policy.drain),
        };
        self.running = None;
        self.status_text.clear();
    }

    /// Logs a change of state and keeps its time.
    pub(super) fn note_change(&mut self, before: State) {
        let after = self.machine.state();
        if before == after {
            return;
        }
        match (before, after) {
            (State::Starting { .. }, State::Ready { .. }) => {
                self.ready_since_ms = unix_millis(SystemTime::now());
                let after = self.running.as_ref().map(|running| running.since.elapsed()).unwrap_or_default();
                tracing::info!(component = self.name(), after = ?after, "component ready");
            }
            (_, State::Backoff { until }) => {
                let wait = until.saturating_duration_since(Instant::now());
                tracing::warn!(component = self.name(), reason = self.last_exit, wait = ?wait, "component ended, waiting to start it again");
            }
            (_, State::Failed) => {
                tracing::error!(
                    component = self.name(),
                    reason = self.last_exit,
                    "component failed and is left alone until it is asked for"
                );
            }
            (State::Ready { .. }, State::Starting { .. }) => {
                tracing::warn!(
                    component = self.name(),
                    reason = self.last_exit,
                    "component ended, started again"
                );
            }
            (_, State::Stopped) => {
                tracing::info!(component = self.name(), reason = self.last_exit, "component stopped");
            }
            _ => {}
        }
    }

    /// Answers those who asked for a restart, when its result is known.
    pub(super) fn answer_waiting(&mut self) {
        let ready = match self.machine.state() {
            State::Ready { .. } => true,
            State::Starting { .. } | State::Ending { then: Then::Start, .. } => return,
            State::Stopped | State::Backoff { .. } | State::Failed | State::Ending { .. } => false,
        };
        if self.waiting.is_empty() {
            return;
        }
        let result = if ready {
            Ok(self.status())
        } else {
            let reason = match self.machine.state() {
                State::Ending { .. } => "it was not ready in time",
                _ => &self.last_exit,
            };
            Err(Fail::new(
                ControlError::NotReady,
                format!("{} was started and is not ready: {reason}", self.name()),
            ))
        };
        for answer in self.waiting.drain(..) {
            // Whoever asked may have left.
            let _ = answer.send(result.clone());
        }
    }

    pub(super) fn status(&self) -> control::Component {
        let state = self.machine.state();
        let pid = self.running.as_ref().map_or(0, |running| running.process.pid());
        let next_start = match state {
            State::Backoff { until } => until.saturating_duration_since(Instant::now()),
            _ => std::time::Duration::ZERO,
        };
        control::Component {
            name: self.name().to_owned(),
            state: state_word(state).to_owned(),
            pid,
            uid: self.prepared.identity.uid,
            user: self.prepared.user.clone(),
            generation: self.running.as_ref().map_or(0, |running| running.generation),
            restarts: self.launches.saturating_sub(1),
            pss_kib: if pid == 0 { 0 } else { memory::pss_kib(pid) },
            ready_since_ms: self.ready_since_ms,
            last_exit: self.last_exit.clone(),
            next_start_ms: u64::try_from(next_start.as_millis()).unwrap_or(u64::MAX),
            status_text: self.status_text.clone(),
            degraded: self.prepared.degraded.clone(),
            ..control::Component::default()
        }
    }
}
