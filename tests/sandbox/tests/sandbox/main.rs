//! The sandbox is tested by trying to leave it: a probe is launched in place of each component, under the component's real
//! profile and user, tries one thing and says how it went. What came out is held, cell by cell, against the reviewed
//! tables in `expected/`; `UPDATE_EXPECTED=1` writes them anew, for review.
//!
//! How exposed such processes are is counted, too. Then a real cluster shows that the keys are where they belong and nowhere
//! else, and that each of its processes' grants has a reason.

mod attempts;
mod keys;
mod scene;
mod scores;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use e2e::{Group, Suite};
use harness::{Cluster, Side, Slot, clean, interrupt};
use sandbox::{Difference, Table};

use crate::attempts::{Attempt, Control};
use crate::scene::{Held, Scene};

fn main() -> ExitCode {
    e2e::run(&Suite {
        lone: &[
            ("edge_profiles_hold_as_reviewed", |_| profiles(Side::Edge, Held::Whole)),
            ("cloud_profiles_hold_as_reviewed", |_| profiles(Side::Cloud, Held::Whole)),
            ("edge_profiles_hold_without_their_filters", |_| profiles(Side::Edge, Held::WithoutFilters)),
            ("cloud_profiles_hold_without_their_filters", |_| profiles(Side::Cloud, Held::WithoutFilters)),
            ("edge_profiles_reach_the_goals_of_exposure", |_| exposure(Side::Edge)),
            ("cloud_profiles_reach_the_goals_of_exposure", |_| exposure(Side::Cloud)),
        ],
        groups: &[Group {
            name: "cluster",
            start: Cluster::start,
            cases: &[
                ("node_key_is_keyholders_alone", |cluster| keys::apart(cluster, Side::Edge)),
                ("ca_key_is_authoritys_alone", |cluster| keys::apart(cluster, Side::Cloud)),
                ("no_grant_is_without_a_reason", scores::reasons),
                ("processes_reach_the_goals_of_exposure", scores::goals),
            ],
        }],
    })
}

/// What stands for "there is nothing to try".
const NOTHING: &str = "-";

/// What is tried without filters: what other mechanisms are there for. The rest would show the kernel of one machine.
const BENEATH_FILTERS: [&str; 5] = ["files", "sockets", "network", "other processes", "limits"];

fn heading(side: Side, held: Held) -> String {
    let held = match held {
        Held::Whole => "",
        Held::WithoutFilters => " if it got past the filters of system calls",
    };
    format!(
        "What a process in place of each component of {} can do{held}; found by `cargo xtask test sandbox`.\n\
         \n\
         allowed    it succeeded\n\
         EACCES, …  the kernel's answer; ENOSYS is that of the component's list of system calls\n\
         SIGSYS     the process was killed for a system call no component has an honest use for\n\
         unseen     it succeeded, and nobody outside sees it\n\
         -          nothing to try\n\
         \n\
         The files of others that are tried have wide open modes here: it is not file permissions alone that hold.",
        side.program()
    )
}

/// Tries everything under every profile of a side.
fn profiles(side: Side, held: Held) -> Result<()> {
    let mut slot = Slot::take()?;
    let scene = Scene::prepare(side, &mut slot)?;
    println!();
    let names = scene.names();
    println!("    control groups: {}", scene.cgroup_mode());
    for name in &names {
        for lacking in scene.missing(name) {
            println!("    {name} runs here without {lacking}");
        }
    }
    let mut found = Table::new(names.clone());
    let mut lacking = Lacking::default();
    lacking.components.extend(names.iter().filter(|name| scene.is_short(name)).cloned());
    let mut attempts = attempts::all(&scene);
    if held == Held::WithoutFilters {
        attempts.retain(|attempt| BENEATH_FILTERS.contains(&attempt.group));
    }
    for attempt in attempts {
        interrupt::check()?;
        let outcomes: Vec<String> = names
            .iter()
            .map(|name| {
                let outcome = scene
                    .attempt(&attempt, name, held)
                    .with_context(|| format!("{name}: {}", attempt.name))?;
                Ok(outcome.map_or_else(|| NOTHING.to_owned(), |outcome| outcome.0))
            })
            .collect::<Result<_>>()?;
        if let Some(reason) = lacks(&scene, &attempt)? {
            println!("    {}: {reason}", attempt.name);
            lacking.attempts.push(attempt.name.clone());
        }
        found.add(attempt.group, &attempt.name, outcomes);
    }
    let groups = clean::cgroups(&slot);
    drop(scene);
    clean::remove(&slot)?;
    clean::assert_clean(&slot, &groups)?;
    compare(side, held, &found, &lacking)
}

/// Counts how exposed a process under each profile of a side is.
fn exposure(side: Side) -> Result<()> {
    let mut slot = Slot::take()?;
    let scene = Scene::prepare(side, &mut slot)?;
    let processes: Vec<_> = scene.names().iter().map(|name| scene.exposure(name)).collect::<Result<_>>()?;
    scores::check(&processes)
}

/// What this machine lacks: an outcome that is not as reviewed may be due to it.
#[derive(Default)]
struct Lacking {
    /// Attempts that do not succeed for an unconfined process either. Another error than expected is excused.
    attempts: Vec<String>,
    /// Components that run without a mechanism. Every difference is shown, and excused.
    components: Vec<String>,
}

impl Lacking {
    fn excuses(&self, difference: &Difference) -> bool {
        let allowed = difference.found.as_deref() == Some("allowed");
        self.components.contains(&difference.component)
            || (self.attempts.contains(&difference.attempt) && !allowed)
    }
}

/// What this machine lacks to make an attempt telling.
fn lacks(scene: &Scene, attempt: &Attempt) -> Result<Option<String>> {
    if let Control::Cgroup(limit) = attempt.control {
        let without = scene
            .names()
            .into_iter()
            .find(|name| scene.missing(name).iter().any(|word| word.starts_with(limit)));
        return Ok(without.map(|name| format!("{name} has no {limit} on this machine")));
    }
    let outcome = scene.control(attempt).with_context(|| format!("unconfined: {}", attempt.name))?;
    Ok(outcome
        .filter(|outcome| outcome.0 != "allowed")
        .map(|outcome| format!("even an unconfined process of root gets {} on this machine", outcome.0)))
}

fn expected_file(side: Side, held: Held) -> PathBuf {
    let name = match (side, held) {
        (Side::Edge, Held::Whole) => "edge.txt",
        (Side::Cloud, Held::Whole) => "cloud.txt",
        (Side::Edge, Held::WithoutFilters) => "edge-without-filters.txt",
        (Side::Cloud, Held::WithoutFilters) => "cloud-without-filters.txt",
    };
    Path::new(env!("CARGO_MANIFEST_DIR")).join("expected").join(name)
}

fn compare(side: Side, held: Held, found: &Table, lacking: &Lacking) -> Result<()> {
    let path = expected_file(side, held);
    if std::env::var_os("UPDATE_EXPECTED").is_some_and(|value| value == "1") {
        std::fs::write(&path, found.text(&heading(side, held)))
            .with_context(|| format!("could not write {}", path.display()))?;
        println!("    written for review: {}", path.display());
        return Ok(());
    }
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    let expected = Table::parse(&text)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("{} is no table", path.display()))?;
    let (excused, failed): (Vec<_>, Vec<_>) =
        found.differences(&expected).into_iter().partition(|difference| lacking.excuses(difference));
    for difference in excused {
        println!("    on this machine {difference}");
    }
    if !failed.is_empty() {
        let lines: Vec<String> = failed.iter().map(ToString::to_string).collect();
        bail!(
            "{} cells differ from {} (UPDATE_EXPECTED=1 writes it anew, for review)\n{}",
            lines.len(),
            path.display(),
            lines.join("\n")
        );
    }
    Ok(())
}
