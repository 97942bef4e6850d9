//! `cargo xtask bench`: the figures of DESIGN section 7 that one machine can show.
//!
//! A benchmark, not a test: every figure is printed beside its goal, and missing one is not a failure.

mod agent;
mod ipc;
mod privileges;

use anyhow::Result;
use clap::ValueEnum;
use harness::{Cluster, Figure, Options};

use crate::cargo::{self, Profile};
use crate::distribution;
use crate::progress::Progress;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Area {
    /// Memory, CPU, pods and restarts of an edge node and its cloud
    Agent,
    /// Calls and streams between two processes, beside a bare socket and gRPC
    Ipc,
    /// How exposed each process is, as `edgectl privileges` scores it
    Privileges,
}

/// Measures the areas (all when none is named) and prints; with `as_json` one object a line.
pub(crate) fn run(progress: &Progress, areas: &[Area], as_json: bool) -> Result<()> {
    let wanted = |area| areas.is_empty() || areas.contains(&area);
    let print = Printer { as_json };
    // First, as a cluster would disturb it.
    if wanted(Area::Ipc) {
        ipc::measure(progress, print)?;
    }
    if wanted(Area::Agent) || wanted(Area::Privileges) {
        on_cluster(progress, |cluster| {
            if wanted(Area::Privileges) {
                privileges::measure(progress, cluster, print)?;
            }
            if wanted(Area::Agent) {
                agent::measure(progress, cluster, print)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Starts a cluster of release programs, measures, and ends it whatever happened.
fn on_cluster(progress: &Progress, measure: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    distribution::ensure_cluster(progress)?;
    let built = cargo::build(progress, Profile::Release)?;
    let cluster = progress.step("starting a cluster", || Cluster::start(&Options::new(built)))?;
    let measured = measure(&cluster);
    if measured.is_err() {
        eprintln!("{}", cluster.describe());
    }
    progress.step("ending and removing everything", || cluster.end())?;
    measured
}

/// How figures come out.
#[derive(Clone, Copy, Debug)]
struct Printer {
    as_json: bool,
}

impl Printer {
    fn figure(self, figure: &Figure) {
        if self.as_json {
            println!("{}", figure.json());
        } else {
            println!("{figure}");
        }
    }
}
