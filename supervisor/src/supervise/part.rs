//! One component as the event loop sees it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use launch::{Exit, Process};
use nix::sys::signal::Signal;
use proto::control::LinkReport;

use super::report;
use super::waiting::Waiting;
use super::words;
use crate::binary::{self, History};
use crate::cgroup::{Ceilings, Cgroups, Group};
use crate::control::{Answer, Change};
use crate::logs::unix_millis;
use crate::notify;
use crate::order::Member;
use crate::policy::{Cause, EXIT_CONFIG, Machine, Policy, State, Then};
use crate::reexec::Record;
use crate::setup::Prepared;

const SIGKILL: i32 = Signal::SIGKILL as i32;

pub(super) struct Part {
    pub(super) prepared: Arc<Prepared>,
    /// What of its confinement this machine does not give, in words.
    pub(super) degraded: Vec<String>,
    pub(super) group: Arc<Group>,
    pub(super) memory_kills_before: u64,
    /// The program file that its last start ran, and how that file fares.
    pub(super) exec: PathBuf,
    pub(super) program: History,
    pub(super) machine: Machine,
    pub(super) running: Option<Running>,
    /// Its turn to stop has come.
    pub(super) told_to_stop: bool,
    /// Who asked for a change and waits for its result.
    pub(super) waiting: Waiting,
    pub(super) record: Record,
    /// What its process counted on its links.
    pub(super) links: LinkReport,
    pub(super) notify: Arc<notify::Socket>,
    pub(super) killed_for: Option<Cause>,
}

pub(super) struct Running {
    pub(super) process: Arc<Process>,
    /// What it writes. Read through a copy; this one is for the program that takes over from us.
    pub(super) output: OwnedFd,
    pub(super) generation: u64,
    pub(super) since: Instant,
    /// [`Part::granted`] when it was started.
    pub(super) granted: String,
}

impl Part {
    pub(super) fn new((prepared, notify): (Prepared, notify::Socket), cgroups: &Cgroups) -> Self {
        let (group, missing) = cgroups.group(&prepared.name, &Ceilings::from(&prepared.component.limits));
        Self {
            degraded: prepared.degraded.iter().cloned().chain(missing).collect(),
            group: Arc::new(group),
            memory_kills_before: 0,
            program: History::default(),
            exec: PathBuf::new(),
            machine: Machine::new(Policy::from(&prepared.component)),
            prepared: Arc::new(prepared),
            running: None,
            told_to_stop: false,
            waiting: Waiting::default(),
            record: Record::default(),
            links: LinkReport::default(),
            notify: Arc::new(notify),
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

    /// Everything its process depends on, in a form that can be compared.
    pub(super) fn granted(&self) -> String {
        let prepared = &self.prepared;
        let clients: Vec<_> = prepared.links.iter().map(|link| (&link.client, &link.methods)).collect();
        format!("{:?} {clients:?}", prepared.component)
    }

    /// What of its confinement a process lacks, in words.
    pub(super) fn degraded(&self) -> Vec<String> {
        let outdated = self.running.as_ref().is_some_and(|running| running.granted != self.granted());
        let outdated = outdated.then(|| "the present manifest (restart it to apply)".to_owned());
        self.degraded.iter().cloned().chain(outdated).collect()
    }

    /// The number of the launch that comes now, from 1.
    pub(super) fn count_launch(&mut self) -> u64 {
        self.record.launches += 1;
        self.record.launches
    }

    /// Takes note of who asks for what.
    pub(super) fn ask(&mut self, change: Change, by: &str, answer: Answer) {
        by.clone_into(&mut self.record.asked_by);
        self.waiting.add(change, answer);
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
        self.record.hang_kills += u64::from(cause != Cause::NotDrained);
        self.killed_for = Some(cause);
        if let Some(running) = &self.running {
            report(running.process.kill(), "kill a component");
        }
    }

    /// Takes note of the end of its process, in words. Before the machine does, which gets the exit code to go by.
    /// `served`: all that it calls were ready, so that being late is its own fault.
    pub(super) fn ended(&mut self, exit: Exit, served: bool) -> Option<i32> {
        let mut code = match exit {
            Exit::Code(code) => Some(code),
            Exit::Signal(_) => None,
        };
        // By itself or for being late, and not on request, before it was ever ready.
        let failed = match self.machine.state() {
            State::Starting { .. } => true,
            State::Ending { then: Then::Retry { ready_for: None }, .. } => served,
            _ => false,
        };
        if failed {
            self.program.failed();
            // Of no account once the previous one is what ran.
            let has_previous = binary::previous(&self.exec).exists();
            if code == Some(EXIT_CONFIG) && !self.program.blames_configuration(has_previous) {
                code = None;
            }
        }
        let by_memory = exit == Exit::Signal(SIGKILL) && self.group.memory_kills() > self.memory_kills_before;
        self.record.memory_kills += u64::from(by_memory);
        self.group.sweep();

        let exit = words::exit(exit);
        let policy = self.machine.policy();
        let reason = match self.killed_for.take() {
            None if by_memory => words::memory(self.group.enforced.memory, &exit),
            None => exit,
            Some(Cause::NotReady) => format!("not ready in {:?}: {exit}", policy.ready_timeout),
            Some(Cause::Silent) => format!("silent for {:?}: {exit}", policy.watchdog.unwrap_or_default()),
            Some(Cause::NotDrained) => format!("not drained in {:?}: {exit}", policy.drain),
        };
        let by = &self.record.asked_by;
        self.record.last_exit = match self.machine.state() {
            State::Ending { then: Then::Rest, .. } if !by.is_empty() => format!("stopped by {by}: {reason}"),
            State::Ending { then: Then::Start, .. } => format!("restarted by {by}: {reason}"),
            _ => reason,
        };
        self.running = None;
        self.record.status_text.clear();
        self.links = LinkReport::default();
        code
    }

    /// Logs a change of state and keeps its time.
    pub(super) fn note_change(&mut self, before: State) {
        let after = self.machine.state();
        if before == after {
            return;
        }
        match (before, after) {
            (State::Starting { .. }, State::Ready { .. }) => {
                let after = self.running.as_ref().map(|running| running.since.elapsed()).unwrap_or_default();
                self.program.was_ready();
                self.record.ready_since_ms = unix_millis(SystemTime::now());
                self.record.ready_us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
                tracing::info!(component = self.name(), after = ?after, "component ready");
            }
            (_, State::Backoff { until }) => {
                let wait = until.saturating_duration_since(Instant::now());
                tracing::warn!(component = self.name(), reason = self.record.last_exit, wait = ?wait, "component ended, waiting to start it again");
            }
            (_, State::Failed) => {
                tracing::error!(
                    component = self.name(),
                    reason = self.record.last_exit,
                    "component failed and is left alone until it is asked for"
                );
            }
            (State::Ready { .. }, State::Starting { .. }) => {
                tracing::warn!(
                    component = self.name(),
                    reason = self.record.last_exit,
                    "component ended, started again"
                );
            }
            (_, State::Stopped) => {
                tracing::info!(component = self.name(), reason = self.record.last_exit, "component stopped");
            }
            _ => {}
        }
    }
}
