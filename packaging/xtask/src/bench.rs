//! `cargo xtask bench`: the figures of DESIGN section 7 that one node can show.
//!
//! A benchmark, not a test: every figure is printed beside its goal, and missing one is not a failure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use harness::{BUSYBOX, Cluster, EDGE_NODE, Options, PodWatch, Supervisor, measure};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cargo::{self, Profile};
use crate::distribution;
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

/// Measures and prints; with `as_json` one object a line.
pub(crate) fn run(progress: &Progress, as_json: bool) -> Result<()> {
    distribution::ensure(progress)?;
    let built = cargo::build(progress, Profile::Release)?;
    let cluster = progress.step("starting a cluster", || Cluster::start(&Options::new(built)))?;
    let measured = measure_all(progress, &cluster, &Printer { as_json });
    if measured.is_err() {
        eprintln!("{}", cluster.describe());
    }
    progress.step("ending and removing everything", || cluster.end())?;
    measured
}

fn measure_all(progress: &Progress, cluster: &Cluster, print: &Printer) -> Result<()> {
    let idle =
        progress.step(&format!("watching the idle agent for {} s", (SETTLE + IDLE).as_secs()), || {
            std::thread::sleep(SETTLE);
            Idle::measure(&cluster.edge)
        })?;
    print.metric("agent.pss_kb", idle.pss.iter().map(|(_, kib)| kib).sum(), "kB", Some(20_480.0));
    for (name, kib) in &idle.pss {
        print.metric(&format!("agent.pss_kb.{name}"), *kib, "kB", None);
    }
    print.metric("agent.idle_cpu_pct", idle.cpu_percent, "% of a core", Some(0.1));

    let serial = progress.step(&format!("starting {SERIAL} pods one at a time"), || serial(cluster))?;
    print.metric("pods.serial.ready_p50_ms", percentile(&serial, 50), "ms", Some(100.0));
    print.metric("pods.serial.ready_p90_ms", percentile(&serial, 90), "ms", None);
    let batch = progress.step(&format!("starting {BATCH} pods at once"), || batch(cluster))?;
    print.metric(&format!("pods.batch{BATCH}.ready_p50_ms"), percentile(&batch.each, 50), "ms", None);
    print.metric(&format!("pods.batch{BATCH}.ready_p90_ms"), percentile(&batch.each, 90), "ms", None);
    print.metric(&format!("pods.batch{BATCH}.all_ready_ms"), batch.all, "ms", Some(1800.0));

    for supervisor in [&cluster.edge, &cluster.cloud] {
        for name in supervisor.side().components() {
            let back = progress.step(&format!("killing {name}"), || supervisor.kill_and_wait(name))?;
            print.metric(&format!("kill.{name}.back_ms"), millis(back.took), "ms", Some(50.0));
        }
    }
    Ok(())
}

/// What the node agent, all its processes together, takes when nothing happens.
struct Idle {
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
}

/// From each pod's appearance in a watch to its readiness in the same watch, in milliseconds, sorted.
fn serial(cluster: &Cluster) -> Result<Vec<f64>> {
    let watch = cluster.watch_pods()?;
    let mut taken = Vec::new();
    for number in 0..SERIAL {
        let name = format!("serial-{number}");
        cluster.create(&pod(&name))?;
        taken.extend(until_ready(&watch, std::slice::from_ref(&name))?.each);
        delete(cluster, &[name])?;
    }
    taken.sort_by(f64::total_cmp);
    Ok(taken)
}

fn batch(cluster: &Cluster) -> Result<Taken> {
    let names: Vec<String> = (0..BATCH).map(|number| format!("batch-{number}")).collect();
    let pods: Vec<Value> = names.iter().map(|name| pod(name)).collect();
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

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": EDGE_NODE,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "3600"]}],
        },
    })
}

/// The smallest value that at least `percent` of the sorted values do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

struct Printer {
    as_json: bool,
}

/// One figure; the fields in the order of the line.
#[derive(Serialize)]
struct Figure<'a> {
    #[serde(rename = "metric")]
    name: &'a str,
    value: f64,
    unit: &'a str,
    goal: Option<f64>,
    ok: bool,
}

impl Printer {
    fn metric(&self, metric: &str, value: f64, unit: &str, goal: Option<f64>) {
        // Three decimals are finer than any of these is repeatable.
        let value = (value * 1000.0).round() / 1000.0;
        let ok = goal.is_none_or(|goal| value <= goal);
        if self.as_json {
            let line = serde_json::to_string(&Figure { name: metric, value, unit, goal, ok });
            println!("{}", line.expect("numbers and text are JSON"));
        } else {
            let goal =
                goal.map_or(String::new(), |goal| format!("goal {goal} {}", if ok { "✓" } else { "✗" }));
            println!("{metric:<32} {value:>12.3} {unit:<12} {goal}");
        }
    }
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
}
