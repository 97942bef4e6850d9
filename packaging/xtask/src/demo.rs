//! `cargo xtask demo`: one cloud and one edge node on this machine, with a sample pod.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use harness::{Cluster, EDGE_NODE, Options, interrupt, machine};
use serde_json::{Map, Value, json};

use crate::cargo::{self, Profile};
use crate::distribution;
use crate::progress::Progress;

/// The pod of the sample.
const POD: &str = "web-0";

/// Starts the demo; with `check` asserts, cleans up and prints the timings instead of staying.
pub(crate) fn run(progress: &Progress, check: bool) -> Result<()> {
    let began = Instant::now();
    let mut timings = Timings::default();
    timings.take("install_ms", || distribution::ensure_cluster(progress))?;
    let built = timings.take("build_ms", || cargo::build(progress, Profile::Release))?;
    let mut cluster = timings.take("containerd_ms", || {
        progress.step("starting containerd with its own state", || Cluster::prepare(&Options::new(built)))
    })?;
    let outcome = start(progress, &mut timings, &mut cluster).and_then(|()| {
        if check {
            timings.take("assert_ms", || {
                progress.step("checking what the pod serves", || assert_sample(&cluster))
            })
        } else {
            stay(&cluster)
        }
    });
    if outcome.is_err() && !interrupt::requested() {
        eprintln!("{}", cluster.describe());
    }
    let ended =
        timings.take("cleanup_ms", || progress.step("ending and removing everything", || cluster.end()));
    if !interrupt::requested() {
        outcome?;
    }
    ended?;
    if check {
        timings.add("total_ms", began.elapsed());
        println!("{}", timings.into_json());
    }
    Ok(())
}

fn start(progress: &Progress, timings: &mut Timings, cluster: &mut Cluster) -> Result<()> {
    timings.take("cloud_ready_ms", || progress.step("starting cloudcore", || cluster.start_cloud()))?;
    timings.take("node_ready_ms", || {
        progress.step(&format!("starting edgecore and joining {EDGE_NODE}"), || cluster.start_edge())
    })?;
    timings.take("pod_ready_ms", || {
        progress.step("applying the sample and waiting for its pod", || {
            let sample = machine::repository().join("packaging/demo/sample.yaml");
            let sample = std::fs::read_to_string(&sample)
                .with_context(|| format!("could not read {}", sample.display()))?;
            cluster.apply(&sample)?;
            cluster.wait_pod_ready(POD)
        })
    })?;
    Ok(())
}

/// The pod answers, with its environment and its files.
fn assert_sample(cluster: &Cluster) -> Result<()> {
    let pod = cluster.get("pod", POD)?;
    let address = pod["status"]["podIP"].as_str().context("the pod has no IP address")?;
    for (path, wanted) in [
        ("/", "ok\n".to_owned()),
        ("/env", format!("hello s3cret {address}\n")),
        ("/cfg/greeting", "hello".to_owned()),
        ("/sec/password", "s3cret".to_owned()),
    ] {
        let (status, body) = cluster.http_get(POD, path)?;
        ensure!(status.contains(" 200 "), "{path} of {POD} answers {status}");
        ensure!(body == wanted, "{path} of {POD} is {body:?} and should be {wanted:?}");
    }
    Ok(())
}

/// Prints where to look and stays until Ctrl-C.
fn stay(cluster: &Cluster) -> Result<()> {
    let pod = cluster.get("pod", POD)?;
    let address = pod["status"]["podIP"].as_str().unwrap_or("?");
    let programs = cluster.root().join("bin");
    let socket = |path: &Path| path.display().to_string();
    println!(
        "
It runs. Look around from another terminal:

  export KUBECONFIG={kubeconfig} PATH=$PATH:{programs}
  kubectl get nodes,pods -o wide
  curl http://{address}:8080/env
  kubectl edit configmap app-config      # then: curl http://{address}:8080/cfg/greeting
  edgectl --socket {edge} status
  edgectl --socket {edge} privileges
  cloudctl --socket {cloud} status
  kill -9 any of their processes         # and look again

Ctrl-C ends and removes everything.
",
        kubeconfig = cluster.kubeconfig().display(),
        programs = programs.display(),
        edge = socket(&cluster.edge.control_socket()),
        cloud = socket(&cluster.cloud.control_socket()),
    );
    while !interrupt::requested() {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Milliseconds by name.
#[derive(Debug, Default)]
struct Timings(Map<String, Value>);

impl Timings {
    fn take<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let result = work()?;
        self.add(name, began.elapsed());
        Ok(result)
    }

    fn add(&mut self, name: &str, taken: Duration) {
        self.0.insert(name.to_owned(), json!(u64::try_from(taken.as_millis()).unwrap_or(u64::MAX)));
    }

    fn into_json(self) -> Value {
        json!({"demo": "ok", "timings": self.0})
    }
}
