//! How exposed each process is while everything runs.

use anyhow::{Context as _, Result};
use harness::{Cluster, Figure, Side};
use serde::Deserialize;

use super::Printer;
use super::agent::unambiguous;
use crate::progress::Progress;

/// What `edgectl privileges -o json` says, as far as it is a figure; fields as in `proto/control.proto`.
#[derive(Debug, Deserialize)]
struct Report {
    processes: Vec<Process>,
}

#[derive(Debug, Deserialize)]
struct Process {
    component: String,
    /// 0 when it does not run: then its score says nothing.
    pid: u32,
    score: f64,
}

pub(super) fn measure(progress: &Progress, cluster: &Cluster, print: Printer) -> Result<()> {
    for supervisor in [&cluster.edge, &cluster.cloud] {
        let side = supervisor.side();
        let what = format!("scoring the processes of {}", side.program());
        let text = progress.step(&what, || supervisor.ctl(&["privileges", "-o", "json"]))?;
        for figure in figures(side, &text)? {
            print.figure(&figure);
        }
    }
    Ok(())
}

fn figures(side: Side, text: &str) -> Result<Vec<Figure>> {
    let report: Report = serde_json::from_str(text)
        .with_context(|| format!("unexpected answer of `edgectl privileges`: {text}"))?;
    let running = report.processes.into_iter().filter(|process| process.pid != 0);
    Ok(running
        .map(|Process { component, score, .. }| {
            let metric = format!("privileges.score.{}", unambiguous(side, &component));
            let figure = Figure::new(metric, score, "of 10");
            match goal(&component) {
                Some(goal) => figure.at_most(goal),
                None => figure,
            }
        })
        .collect())
}

/// The state plane holds everything and reaches nothing; the hub reaches the cloud; edged mounts.
fn goal(component: &str) -> Option<f64> {
    match component {
        "metamanager" | "keyholder" | "authority" => Some(0.6),
        "edgehub" | "cloudhub" => Some(1.3),
        "edged" => Some(4.5),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn score_of_each_running_process_is_a_figure() {
        let text = r#"{"processes": [
            {"component": "edgehub", "pid": 7, "score": 1.4, "privileges": []},
            {"component": "edged", "pid": 8, "score": 4.2},
            {"component": "metamanager", "pid": 0, "score": 0.0}
        ]}"#;
        let figures = figures(Side::Edge, text).expect("as edgectl prints it");
        let found: Vec<(&str, bool)> =
            figures.iter().map(|figure| (figure.metric.as_str(), figure.ok)).collect();
        assert_eq!(found, [("privileges.score.edgehub", false), ("privileges.score.edged", true)]);
    }
}
