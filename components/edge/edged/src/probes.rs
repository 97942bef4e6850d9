//! Startup, liveness and readiness probes (`pkg/kubelet/prober`): when to ask, what answers add up to, and the tasks
//! that ask. Verdicts go to the pod's mailbox; what follows from them is the plan's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1 as core;
use tokio_util::task::AbortOnDropHandle;

use crate::check::{Fault, Subject};
use crate::events::{EventType, Recorder};
use crate::mailbox::Mailbox;
use crate::model::Pod;

/// Until a container has answered for the first time it is asked again after this, then twice as long, up to the
/// probe's own period: most are ready long before that. Such early failures are not counted and make no event.
const EARLY: Duration = Duration::from_millis(10);
/// The same for commands, which cost a process each.
const EARLY_EXEC: Duration = Duration::from_millis(100);
/// Nor are failures in a container's first second counted: a kubelet asks no sooner.
const YOUNG: SignedDuration = SignedDuration::from_secs(1);
/// Kubernetes' bound of what an event tells of a probe's output.
const MAX_OUTPUT: usize = 512;

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Until it has passed, the others wait.
    Startup,
    /// A container that fails it is restarted.
    Liveness,
    /// A container that fails it gets no traffic.
    Readiness,
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    /// In the middle of a sentence.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
        }
    }

    /// The container's probe of this kind.
    pub(crate) fn of(self, container: &core::Container) -> Option<&core::Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// A probe's numbers, with Kubernetes' defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timing {
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    success: u32,
    failure: u32,
}

impl Timing {
    fn of(probe: &core::Probe) -> Self {
        let seconds = |value: Option<i32>, default: u64, least: u64| {
            Duration::from_secs(
                value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v >= least).unwrap_or(default),
            )
        };
        let count = |value: Option<i32>, default| {
            value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        Self {
            initial_delay: seconds(probe.initial_delay_seconds, 0, 0),
            period: seconds(probe.period_seconds, 10, 1),
            timeout: seconds(probe.timeout_seconds, 1, 1),
            success: count(probe.success_threshold, 1),
            failure: count(probe.failure_threshold, 3),
        }
    }
}

/// Answers in a row, and what they add up to.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    last: Option<bool>,
    run: u32,
    verdict: Option<bool>,
}

impl Tally {
    /// Counts an answer. Returns the verdict if that changed it.
    fn count(&mut self, ok: bool, timing: &Timing) -> Option<bool> {
        self.run = if self.last == Some(ok) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(ok);
        let enough = if ok { timing.success } else { timing.failure };
        if self.run < enough || self.verdict == Some(ok) {
            return None;
        }
        self.verdict = Some(ok);
        Some(ok)
    }
}

/// The probes of one pod's running containers. Dropping it ends them.
#[derive(Default)]
pub(crate) struct Probes {
    running: BTreeMap<(String, Kind), AbortOnDropHandle<()>>,
}

/// What a probe is started with.
pub(crate) struct Start {
    /// The pod.
    pub pod: Pod,
    /// What is asked.
    pub subject: Subject,
    /// Since when the container runs.
    pub started_at: Timestamp,
    /// Where verdicts go.
    pub mailbox: Arc<Mailbox>,
    /// Where failures are told.
    pub recorder: Recorder,
}

impl Probes {
    /// Lets exactly these probes run; `start` makes what a new one needs.
    pub(crate) fn keep(&mut self, wanted: &[(String, Kind)], start: impl Fn(&str) -> Option<Start>) {
        self.running.retain(|key, _| wanted.contains(key));
        for key in wanted {
            if self.running.contains_key(key) {
                continue;
            }
            let (id, kind) = key;
            let Some(start) = start(id) else { continue };
            let Some(probe) = kind.of(&start.subject.container).cloned() else { continue };
            let task = tokio::spawn(run(start, *kind, probe));
            self.running.insert(key.clone(), AbortOnDropHandle::new(task));
        }
    }
}

async fn run(start: Start, kind: Kind, probe: core::Probe) {
    let Start { pod, subject, started_at, mailbox, recorder } = start;
    let timing = Timing::of(&probe);
    let mut tally = Tally::default();
    let mut early =
        Some(if probe.exec.is_some() { EARLY_EXEC } else { EARLY }).filter(|_| kind != Kind::Liveness);
    let mut answered = false;
    let age = Duration::try_from(Timestamp::now().duration_since(started_at)).unwrap_or_default();
    tokio::time::sleep(timing.initial_delay.saturating_sub(age)).await;
    let mut due = tokio::time::Instant::now();
    loop {
        let outcome = subject.probe(&probe, timing.timeout).await;
        // On the probe's own beat; between beats only the time before the first success is used.
        let mut on_beat = tokio::time::Instant::now() >= due;
        if on_beat {
            due += timing.period;
        }
        on_beat &= answered || Timestamp::now().duration_since(started_at) >= YOUNG;
        if outcome.is_ok() {
            answered = true;
            early = None;
        }
        if let Err(fault) = &outcome
            && on_beat
        {
            let why: String = fault.to_string().chars().take(MAX_OUTPUT).collect();
            let what = match fault {
                Fault::Failed(_) => "failed",
                Fault::Errored(_) => "errored and resulted in unknown state",
            };
            let message = format!("{} probe {what}: {why}", kind.title());
            recorder.container(&pod, &subject.container.name, EventType::Warning, "Unhealthy", message);
        }
        let counts = match &outcome {
            Ok(()) => true,
            Err(Fault::Failed(_)) => on_beat,
            Err(Fault::Errored(_)) => false,
        };
        if counts && let Some(verdict) = tally.count(outcome.is_ok(), &timing) {
            mailbox.verdict(&subject.id, kind, verdict);
            // A startup probe has done its work either way, a failed liveness probe its last.
            if kind == Kind::Startup || (kind == Kind::Liveness && !verdict) {
                return;
            }
        }
        let beat = due.saturating_duration_since(tokio::time::Instant::now());
        let pause = early.map_or(beat, |early| early.min(beat));
        early = early.map(|early| early * 2);
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(success: u32, failure: u32) -> Timing {
        let probe = core::Probe {
            success_threshold: i32::try_from(success).ok(),
            failure_threshold: i32::try_from(failure).ok(),
            ..Default::default()
        };
        Timing::of(&probe)
    }

    fn verdicts(timing: &Timing, answers: &[bool]) -> Vec<Option<bool>> {
        let mut tally = Tally::default();
        answers.iter().map(|ok| tally.count(*ok, timing)).collect()
    }

    #[test]
    fn thresholds_count_answers_in_a_row() {
        let t = timing(2, 3);
        assert_eq!(verdicts(&t, &[true, true, true]), [None, Some(true), None]);
        assert_eq!(
            verdicts(&t, &[false, false, true, false, false, false]),
            [None, None, None, None, None, Some(false)]
        );
        assert_eq!(verdicts(&t, &[true, false, true, true]), [None, None, None, Some(true)]);
    }

    #[test]
    fn a_verdict_is_told_once_and_when_it_turns() {
        let t = timing(1, 1);
        assert_eq!(
            verdicts(&t, &[true, true, false, false, true]),
            [Some(true), None, Some(false), None, Some(true)]
        );
    }

    #[test]
    fn defaults_are_kubernetes() {
        let t = Timing::of(&core::Probe {
            period_seconds: Some(0),
            timeout_seconds: Some(-1),
            ..Default::default()
        });
        let seconds = Duration::from_secs;
        let expected = Timing {
            initial_delay: seconds(0),
            period: seconds(10),
            timeout: seconds(1),
            success: 1,
            failure: 3,
        };
        assert_eq!(t, expected);
    }
}
