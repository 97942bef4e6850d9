//! Carries faults out.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use e2e::chaos::{Fault, Target};
use harness::{Cluster, MemoryCeiling, Side, Supervisor, Victim, interrupt};

/// The watchdog of every component in these tests: shorter than in the manifest, so that a run meets several hangs, and
/// long beside what a busy machine takes from a process that is well.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(4);
/// How long the supervisor may take to notice a hung component beyond its watchdog.
const NOTICED: Duration = Duration::from_secs(6);
/// How long a process at its memory ceiling may go without asking for more.
const ALLOCATES: Duration = Duration::from_secs(6);
/// Of a slow process: stopped, and running, in turn.
const SLOW_STOPPED: Duration = Duration::from_millis(90);
const SLOW_RUNNING: Duration = Duration::from_millis(10);
/// A supervisor that replaces its own program answers again within this.
const REEXECS: Duration = Duration::from_secs(10);

/// What became of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It happened; what was seen of it.
    Done(String),
    /// It could not be done, and why: the victim did not run just then, or the machine has no means for it.
    Skipped(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(what) => f.write_str(what),
            Self::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// A component's fault, from its beginning to its end. That the component comes back is not waited for.
pub(crate) fn component(supervisor: &Supervisor, target: Target, fault: Fault) -> Result<Outcome> {
    let before = supervisor.component(target.component)?;
    let victim = if before.pid == 0 { None } else { Victim::open(before.pid)? };
    let Some(mut victim) = victim else {
        return Ok(Outcome::Skipped(format!("it is {}", before.state)));
    };
    match fault {
        Fault::Kill => victim.kill()?,
        Fault::Pause(time) => {
            victim.stop()?;
            std::thread::sleep(time);
            victim.go_on()?;
        }
        Fault::Slow(time) => {
            let end = Instant::now() + time;
            while Instant::now() < end {
                victim.stop()?;
                std::thread::sleep(SLOW_STOPPED);
                victim.go_on()?;
                std::thread::sleep(SLOW_RUNNING);
            }
        }
        // Until it is ready its ready time-out counts, which is longer.
        Fault::Hang if before.state != "ready" => {
            return Ok(Outcome::Skipped(format!("it is {}", before.state)));
        }
        Fault::Hang => {
            victim.stop()?;
            let began = Instant::now();
            if !victim.ends_within(WATCHDOG + NOTICED)? {
                bail!("it hung for {} s and was not killed", (WATCHDOG + NOTICED).as_secs());
            }
            return Ok(Outcome::Done(format!("killed after {} ms", began.elapsed().as_millis())));
        }
        Fault::Memory => {
            let Some(ceiling) = MemoryCeiling::of(before.pid)? else {
                return Ok(Outcome::Skipped("it has no memory cgroup of its own".to_owned()));
            };
            ceiling.lower()?;
            if !victim.ends_within(ALLOCATES)? {
                return Ok(Outcome::Skipped("it asked for no more memory".to_owned()));
            }
            return Ok(Outcome::Done("killed by the kernel".to_owned()));
        }
        Fault::Supervisor | Fault::Reexec => bail!("{fault} does not concern a component"),
    }
    Ok(Outcome::Done(String::new()))
}

/// A supervisor's fault, until all its components are ready again.
pub(crate) fn supervisor(cluster: &mut Cluster, side: Side, fault: Fault) -> Result<Outcome> {
    let supervisor = if side == Side::Edge { &mut cluster.edge } else { &mut cluster.cloud };
    if fault == Fault::Supervisor {
        let took = supervisor.kill_and_respawn()?;
        return Ok(Outcome::Done(format!("all ready after {} ms", took.as_millis())));
    }
    let before = supervisor.components()?;
    let began = Instant::now();
    supervisor.ctl(&["reexec"]).context("the supervisor did not replace its program")?;
    let after = loop {
        interrupt::check()?;
        match supervisor.components() {
            Ok(components) => break components,
            Err(error) if began.elapsed() > REEXECS => {
                return Err(error.context("the supervisor did not answer after it replaced its program"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    // One that was being restarted anyway may have another process by now.
    for old in before.iter().filter(|component| component.state == "ready") {
        let now = after.iter().find(|component| component.name == old.name);
        let now = now.with_context(|| format!("{} is gone after the program was replaced", old.name))?;
        if now.pid != old.pid && now.restarts == old.restarts {
            bail!("{} was another process after the supervisor's program was replaced", old.name);
        }
    }
    Ok(Outcome::Done(format!("answers after {} ms", began.elapsed().as_millis())))
}
