//! One component for `edgectl status`. What must be read from the kernel is filled in by [`crate::control`].

use std::time::{Duration, Instant};

use proto::control::Component;

use super::part::Part;
use super::words;
use crate::binary::Choice;
use crate::policy::State;

impl Part {
    pub(super) fn status(&self) -> Component {
        let (state, record) = (self.machine.state(), &self.record);
        let next_start = match state {
            State::Backoff { until } => until.saturating_duration_since(Instant::now()),
            _ => Duration::ZERO,
        };
        let ceilings = &self.group.enforced;
        Component {
            name: self.name().to_owned(),
            state: words::state(state).to_owned(),
            pid: self.running.as_ref().map_or(0, |running| running.process.pid()),
            uid: self.prepared.identity.uid,
            user: self.prepared.user.clone(),
            generation: self.running.as_ref().map_or(0, |running| running.generation),
            restarts: record.launches.saturating_sub(1),
            ready_since_ms: record.ready_since_ms,
            last_exit: record.last_exit.clone(),
            next_start_ms: u64::try_from(next_start.as_millis()).unwrap_or(u64::MAX),
            status_text: if self.running.is_some() {
                record.status_text.clone()
            } else {
                words::rest(&self.machine, &record.asked_by, self.program.is_hopeless())
            },
            degraded: self.degraded(),
            memory_limit_kib: ceilings.memory.unwrap_or(0) / 1024,
            pids_limit: ceilings.pids.unwrap_or(0),
            exec: self.exec.display().to_string(),
            rolled_back: self.program.choice() == Choice::Previous,
            ready_us: record.ready_us,
            memory_kills: record.memory_kills,
            hang_kills: record.hang_kills,
            ..Component::default()
        }
    }

    /// Answers those who asked for a change, when its result is known.
    pub(super) fn answer_waiting(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.answer(self.machine.state(), &self.record.last_exit, || self.status());
        self.waiting = waiting;
    }
}
