//! Pod changes as the Kubernetes API reports them, with the moment each arrived.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{interrupt, machine};

/// One change of one pod.
#[derive(Debug)]
pub struct PodEvent {
    /// When it arrived here.
    pub at: Instant,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub kind: String,
    /// The pod, whole.
    pub pod: Value,
}

impl PodEvent {
    /// The pod's name.
    pub fn name(&self) -> &str {
        self.pod["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Whether the pod's Ready condition is true.
    pub fn is_ready(&self) -> bool {
        is_ready(&self.pod)
    }
}

/// Whether an object's Ready condition is true.
pub fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// An open watch on the pods of namespace `default`: one long-running kubectl, so that starting a program does not
/// count into what is measured.
#[derive(Debug)]
pub struct PodWatch {
    child: Child,
    events: Receiver<PodEvent>,
}

impl PodWatch {
    pub(crate) fn open(kubeconfig: &Path) -> Result<Self> {
        let mut child = Command::new(machine::program("kubectl")?)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["get", "--raw", "/api/v1/namespaces/default/pods?watch=1&timeoutSeconds=3600"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("could not start kubectl")?;
        let lines = BufReader::new(child.stdout.take().context("kubectl's output is a pipe")?).lines();
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let at = Instant::now();
                let Ok(mut event) = serde_json::from_str::<Value>(&line) else { break };
                let kind = event["type"].as_str().unwrap_or_default().to_owned();
                if sender.send(PodEvent { at, kind, pod: event["object"].take() }).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, events })
    }

    /// The next event that `wanted` says yes to; others are dropped.
    pub fn next(&self, limit: Duration, what: &str, wanted: impl Fn(&PodEvent) -> bool) -> Result<PodEvent> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left.min(Duration::from_millis(200))) {
                Ok(event) if wanted(&event) => return Ok(event),
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the watch ended while waiting for {what}"),
                Err(RecvTimeoutError::Timeout) => {
                    interrupt::check()?;
                    if left.is_zero() {
                        bail!("waited {} s in vain on the watch for {what}", limit.as_secs());
                    }
                }
            }
        }
    }
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
