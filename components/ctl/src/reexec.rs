//! `reexec`: the supervisor's program replaced under its components.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use ipc::CallError;
use proto::control::{ControlClient, ControlError, ReexecRequest, StatusReply, StatusRequest};
use serde::Serialize;

use crate::cli::Format;
use crate::control::explain;
use crate::output::{harmless, plural, print, print_json};

/// The new program is run twice before it is trusted; on a slow card that takes its time.
const ACCEPT_DEADLINE: Duration = Duration::from_mins(1);
/// From the reply until the new program answers.
const TAKE_OVER: Duration = Duration::from_secs(30);
/// Between looks at whether it does.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) async fn reexec(control: &ControlClient, format: Format) -> anyhow::Result<()> {
    let before = control.status(StatusRequest {}).await.map_err(explain)?;
    let began = Instant::now();
    let reply = control.reexec_with_deadline(ReexecRequest {}, ACCEPT_DEADLINE).await.map_err(explain)?;
    let after = taken_over(control, &before).await?;
    let outcome = Outcome::of(&before, &after, began.elapsed());
    if format == Format::Json {
        print_json(&outcome)?;
    }
    ensure!(
        after.version == reply.version,
        "the program that took over says it is {:?}, and was to be {:?}",
        after.version,
        reply.version
    );
    if !outcome.changed.is_empty() {
        bail!(harmless(&outcome.complaint()));
    }
    if format == Format::Table {
        print(&harmless(&outcome.sentence()))?;
        print("\n")?;
    }
    Ok(())
}

/// The status as the new program tells it.
async fn taken_over(control: &ControlClient, before: &StatusReply) -> anyhow::Result<StatusReply> {
    let until = Instant::now() + TAKE_OVER;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match control.status_with_deadline(StatusRequest {}, left).await {
            Ok(after) if after.reexecs != before.reexecs || after.pid != before.pid => return Ok(after),
            Ok(_) => {}
            Err(CallError::<ControlError>::Disconnected(_) | CallError::Deadline) if !left.is_zero() => {}
            Err(error) => {
                return Err(explain(error).context("the new program was accepted, but does not answer"));
            }
        }
        ensure!(!left.is_zero(), "the new program was accepted, but the old one still answers");
        tokio::time::sleep(LOOK).await;
    }
}

/// What a replacement came to.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome<'a> {
    supervisor: &'a str,
    pid: u32,
    pid_before: u32,
    version: &'a str,
    version_before: &'a str,
    reexecs: u64,
    took_ms: u64,
    kept: Vec<Kept<'a>>,
    changed: Vec<Changed<'a>>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Kept<'a> {
    name: &'a str,
    pid: u32,
}

/// A component that ran before and whose process is not the same now.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Changed<'a> {
    name: &'a str,
    pid_before: u32,
    pid: u32,
}

impl<'a> Outcome<'a> {
    fn of(before: &'a StatusReply, after: &'a StatusReply, took: Duration) -> Self {
        let (mut kept, mut changed) = (Vec::new(), Vec::new());
        for component in before.components.iter().filter(|component| component.pid != 0) {
            let now = after.components.iter().find(|now| now.name == component.name);
            match now {
                Some(now) if now.pid == component.pid && now.generation == component.generation => {
                    kept.push(Kept { name: &component.name, pid: component.pid });
                }
                now => changed.push(Changed {
                    name: &component.name,
                    pid_before: component.pid,
                    pid: now.map_or(0, |now| now.pid),
                }),
            }
        }
        Self {
            supervisor: &after.supervisor,
            pid: after.pid,
            pid_before: before.pid,
            version: &after.version,
            version_before: &before.version,
            reexecs: after.reexecs,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            kept,
            changed,
        }
    }

    fn sentence(&self) -> String {
        let (supervisor, version, took) = (self.supervisor, self.version, self.took_ms);
        let from = if self.version == self.version_before {
            "the same version as before".to_owned()
        } else {
            format!("before: {}", self.version_before)
        };
        let kept = plural(self.kept.len(), "component");
        format!(
            "{supervisor} {version} took over in {took} ms ({from}); {kept} kept running, none was touched"
        )
    }

    fn complaint(&self) -> String {
        let one = |changed: &Changed<'_>| match changed.pid {
            0 => format!("{} (was pid {}) does not run", changed.name, changed.pid_before),
            pid => format!("{} has pid {pid}, before {}", changed.name, changed.pid_before),
        };
        let changed: Vec<String> = self.changed.iter().map(one).collect();
        format!("{} {} took over, but {}", self.supervisor, self.version, changed.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use proto::control::Component;

    use super::*;

    fn reply(version: &str, pids: [u32; 3]) -> StatusReply {
        let component =
            |(name, pid): (&str, u32)| Component { name: name.into(), pid, ..Component::default() };
        StatusReply {
            components: ["metamanager", "edgehub", "edged"].into_iter().zip(pids).map(component).collect(),
            supervisor: "edgecore".into(),
            version: version.into(),
            ..StatusReply::default()
        }
    }

    #[test]
    fn processes_that_live_on_are_kept() {
        let (before, after) = (reply("1", [3, 4, 0]), reply("2", [3, 4, 9]));
        let outcome = Outcome::of(&before, &after, Duration::from_millis(31));
        assert_eq!(
            outcome.sentence(),
            "edgecore 2 took over in 31 ms (before: 1); 2 components kept running, none was touched"
        );
        assert_eq!(outcome.changed, []);
    }

    #[test]
    fn process_that_is_another_now_is_named() {
        let (before, after) = (reply("1", [3, 4, 5]), reply("1", [3, 8, 0]));
        let outcome = Outcome::of(&before, &after, Duration::ZERO);
        assert_eq!(
            outcome.complaint(),
            "edgecore 1 took over, but edgehub has pid 8, before 4, edged (was pid 5) does not run"
        );
        assert_eq!(outcome.kept, [Kept { name: "metamanager", pid: 3 }]);
    }

    #[test]
    fn same_number_for_another_process_is_seen() {
        let (before, mut after) = (reply("1", [3, 4, 5]), reply("1", [3, 4, 5]));
        after.components[0].generation = 2;
        assert_eq!(Outcome::of(&before, &after, Duration::ZERO).changed.len(), 1);
    }
}
