//! A store whose disk is full.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::pods::sleeper;
use harness::{Cluster, Options, until};

const LIMIT: Duration = Duration::from_mins(1);
const STAYS_FULL: Duration = Duration::from_secs(4);

/// A store on a file system of its own, of 4 MiB.
pub(crate) fn start(options: &Options) -> Result<Cluster> {
    Cluster::start(&Options { store_kib: Some(4096), ..options.clone() })
}

pub(crate) fn full_disk(cluster: &mut Cluster) -> Result<()> {
    cluster.create(&sleeper("before"))?;
    cluster.wait_pod_ready("before")?;
    let running = cluster.containerd.running()?;
    let filler = cluster.edge.state().join("metamanager/filler");
    fill(&filler)?;
    let mark = cluster.edge.log_mark();
    cluster.create(&sleeper("during"))?;
    let line = cluster.edge.wait_log(mark, &["metamanager", "full"])?;
    ensure!(line.contains("metamanager"), "the error does not name the store: {line}");
    // Long enough for a component that gives up to be seen giving up, and for a flood of lines to be one.
    std::thread::sleep(STAYS_FULL);
    let restarts: u64 = cluster.edge.components()?.iter().map(|component| component.restarts).sum();
    let said = cluster.edge.log_lines(mark, &["full"])?;
    ensure!(said.len() <= 20, "{} lines about it in {STAYS_FULL:?}: {}", said.len(), said.join("\n"));
    ensure!(cluster.containerd.running()? == running, "the full disk changed what runs");

    std::fs::remove_file(&filler).context("could not make room")?;
    cluster.wait_pod_ready("during")?;
    until(LIMIT, "every component is ready", || {
        Ok(cluster.edge.components()?.iter().all(|component| component.state == "ready").then_some(()))
    })?;
    ensure!(restarts == 0, "components were restarted {restarts} times while the disk was full");
    Ok(())
}

/// Writes until nothing fits any more.
fn fill(path: &std::path::Path) -> Result<()> {
    let mut file = std::fs::File::create(path).context("could not make the filler")?;
    for size in [65_536, 4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    Ok(())
}
