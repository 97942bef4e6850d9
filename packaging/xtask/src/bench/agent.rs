//! Memory and CPU of the node agent, how quickly pods become ready, and components after a kill.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use harness::pods::sleeper;
use harness::{Cluster, Figure, PodWatch, Side, Supervisor, measure};
use serde_json::{Value, json};

use super::Printer;
use crate::progress::Progress;

/// What starting up leaves to do is done by then.
const SETTLE: Duration = Duration::from_secs(10);
/// How long CPU time is summed up.
const IDLE: Duration = Duration::from_secs(30);
/// No pod of a benchmark takes longer.
const POD_LIMIT: Duration = Duration::from_mins(1);
/// Pods started one at a time.
const SERIAL: usize = 10;
/// Pods started at once.
const BATCH: usize = 30;

pub(super) fn measure(progress: &Progress, cluster: &Cluster, print: Printer) -> Result<()> {
    let idle =
        progress.step(&format!("watching the idle agent for {} s", (SETTLE + IDLE).as_secs()), || {
            std::thread::sleep(SETTLE);
            Idle::measure(&cluster.edge)
        })?;
    idle.print(print);

    let serial = progress.step(&format!("starting {SERIAL} pods one at a time"), || serial(cluster))?;
    print.figure(&Figure::new("pods.serial.ready_p50_ms", percentile(&serial, 50), "ms").at_most(100.0));
    print.figure(&Figure::new("pods.serial.ready_p90_ms", percentile(&serial, 90), "ms"));
    let batch = progress.step(&format!("starting {BATCH} pods at once"), || batch(cluster))?;
    let of_batch = |name, value| Figure::new(format!("pods.batch{BATCH}.{name}_ms"), value, "ms");
    print.figure(&of_batch("ready_p50", percentile(&batch.each, 50)));
    print.figure(&of_batch("ready_p90", percentile(&batch.each, 90)));
    print.figure(&of_batch("all_ready", batch.all).at_most(1800.0));

    for supervisor in [&cluster.edge, &cluster.cloud] {
        for name in supervisor.side().components() {
            let back = progress.step(&format!("killing {name}"), || supervisor.kill_and_wait(name))?;
            let metric = format!("supervisor.restart_to_ready_ms.{}", unambiguous(supervisor.side(), name));
            print.figure(&Figure::new(metric, millis(back.took), "ms").at_most(50.0));
        }
    }
    Ok(())
}

/// A name that only one component of both sides has: the cloud's carries its side where the edge has the same one.
pub(super) fn unambiguous(side: Side, name: &str) -> String {
    if side == Side::Cloud && Side::Edge.components().contains(&name) {
        format!("cloud-{name}")
    } else {
        name.to_owned()
    }
}

/// What the node agent, all its processes together, takes when nothing happens.
struct Idle {
    /// In KiB, by process.
    pss: Vec<(String, f64)>,
    cpu_percent: f64,
}

impl Idle {
    fn measure(edge: &Supervisor) -> Result<Self> {
        let mut processes = vec![("supervisor".to_owned(), edge.pid().context("edgecore is not started")?)];
        processes.extend(edge.components()?.into_iter().map(|component| (component.name, component.pid)));
        let cpu = || processes.iter().map(|(_, pid)| measure::cpu_nanoseconds(*pid)).sum::<Result<u64>>();
        let (began, before) = (Instant::now(), cpu()?);
        std::thread::sleep(IDLE);
        let ran = Duration::from_nanos(cpu()? - before);
        let cpu_percent = 100.0 * ran.as_secs_f64() / began.elapsed().as_secs_f64();
        let mut pss = Vec::new();
        for (name, pid) in processes {
            pss.push((name, f64::from(measure::pss_kib(pid)?)));
        }
        Ok(Self { pss, cpu_percent })
    }

    fn print(&self, print: Printer) {
        let sum = self.pss.iter().map(|(_, kib)| kib).sum();
        print.figure(&Figure::new("agent.pss_kb", sum, "kB").at_most(20_480.0));
        for (name, kib) in &self.pss {
            print.figure(&Figure::new(format!("agent.pss_kb.{name}"), *kib, "kB"));
        }
        // What the split costs is seen in the process that does least: the others have work that needs memory anywhere.
        let least = self.pss.iter().map(|(_, kib)| *kib).min_by(f64::total_cmp).unwrap_or_default();
        print.figure(&Figure::new("agent.pss_kb.per_process", least, "kB").at_most(717.0));
        print.figure(&Figure::new("agent.idle_cpu_pct", self.cpu_percent, "% of a core").at_most(0.1));
    }
}

/// From each pod's appearance in a watch to its readiness in the same watch, in milliseconds, sorted.
fn serial(cluster: &Cluster) -> Result<Vec<f64>> {
    let watch = cluster.watch_pods()?;
    let mut taken = Vec::new();
    for number in 0..SERIAL {
        let name = format!("serial-{number}");
        cluster.create(&sleeper(&name))?;
        taken.extend(until_ready(&watch, std::slice::from_ref(&name))?.each);
        delete(cluster, &[name])?;
    }
    taken.sort_by(f64::total_cmp);
    Ok(taken)
}

fn batch(cluster: &Cluster) -> Result<Taken> {
    let names: Vec<String> = (0..BATCH).map(|number| format!("batch-{number}")).collect();
    let pods: Vec<Value> = names.iter().map(|name| sleeper(name)).collect();
    let watch = cluster.watch_pods()?;
    cluster.create(&json!({"apiVersion": "v1", "kind": "List", "items": pods}))?;
    let taken = until_ready(&watch, &names)?;
    delete(cluster, &names)?;
    Ok(taken)
}

/// How long pods took to become ready, in milliseconds.
struct Taken {
    /// Each pod from its own appearance, sorted.
    each: Vec<f64>,
    /// From the first pod's appearance to the last one's readiness.
    all: f64,
}

fn until_ready(watch: &PodWatch, names: &[String]) -> Result<Taken> {
    let mut appeared = BTreeMap::<String, Instant>::new();
    let mut each = BTreeMap::<String, f64>::new();
    let mut last = Duration::ZERO;
    while each.len() < names.len() {
        let what = format!("pod {} of {} to be Ready", each.len() + 1, names.len());
        let ours = |name: &str| names.iter().any(|ours| ours == name) && !each.contains_key(name);
        let event = watch.next(POD_LIMIT, &what, |event| ours(event.name()))?;
        let name = event.name().to_owned();
        let since = *appeared.entry(name.clone()).or_insert(event.at);
        if event.is_ready() {
            each.insert(name, millis(event.at - since));
            let first = appeared.values().min().copied().unwrap_or(event.at);
            last = last.max(event.at - first);
        }
    }
    let mut each: Vec<f64> = each.into_values().collect();
    each.sort_by(f64::total_cmp);
    Ok(Taken { each, all: millis(last) })
}

fn delete(cluster: &Cluster, names: &[String]) -> Result<()> {
    let mut arguments = vec!["delete", "pod", "--wait=false"];
    arguments.extend(names.iter().map(String::as_str));
    cluster.kubectl(&arguments)?;
    names.iter().try_for_each(|name| cluster.wait_pod_gone(name, POD_LIMIT))
}

/// The smallest value that at least `percent` of the sorted values do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_a_measured_value() {
        let sorted: Vec<f64> = (1..=10).map(f64::from).collect();
        assert!((percentile(&sorted, 50) - 5.0).abs() < f64::EPSILON);
        assert!((percentile(&sorted, 90) - 9.0).abs() < f64::EPSILON);
    }

    #[test]
    fn component_of_the_cloud_is_told_from_its_namesake_on_the_edge() {
        assert_eq!(unambiguous(Side::Edge, "metamanager"), "metamanager");
        assert_eq!(unambiguous(Side::Cloud, "authority"), "authority");
        assert_eq!(unambiguous(Side::Cloud, "metamanager"), "cloud-metamanager");
    }
}
