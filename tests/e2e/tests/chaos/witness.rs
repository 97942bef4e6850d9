//! Follows the container runtime's own events.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context as _, Result};
use e2e::chaos::{Event, Labels, Lives};
use harness::{Containerd, Run, machine};
use serde_json::Value;

use crate::load::Book;

/// `ctr events` with who reads it. Dropping it ends both.
pub(crate) struct Witness {
    child: Child,
    lives: Arc<Mutex<Lives>>,
    socket: PathBuf,
}

impl Witness {
    pub(crate) fn start(containerd: &Containerd, book: Book) -> Result<Self> {
        let socket = containerd.socket();
        let mut child = Command::new(machine::program("ctr")?)
            .arg("--address")
            .arg(&socket)
            .args(["--namespace", "k8s.io", "events"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start ctr")?;
        let lines = BufReader::new(child.stdout.take().context("ctr's output is a pipe")?).lines();
        let lives = Arc::new(Mutex::new(Lives::default()));
        let (noted, place) = (lives.clone(), socket.clone());
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let Some(event) = Event::parse(&line) else { continue };
                open(&noted).note(&event, book.now());
                if let Event::Created(id) = event
                    // It may be gone already.
                    && let Ok(labels) = labels(&place, &id)
                {
                    open(&noted).0.entry(id).or_default().labels = Some(labels);
                }
            }
        });
        Ok(Self { child, lives, socket })
    }

    /// What has been seen until now.
    pub(crate) fn lives(&self) -> Lives {
        open(&self.lives).clone()
    }

    /// The containers and sandboxes there are now, by the pod's uid.
    pub(crate) fn containers(&self, containerd: &Containerd) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for id in containerd.containers()? {
            let known = open(&self.lives).0.get(&id).and_then(|life| life.labels.clone());
            let labels = match known {
                Some(labels) => labels,
                None => labels(&self.socket, &id)?,
            };
            found.entry(labels.pod_uid).or_default().insert(id);
        }
        Ok(found)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn open(lives: &Mutex<Lives>) -> MutexGuard<'_, Lives> {
    lives.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn labels(socket: &Path, id: &str) -> Result<Labels> {
    let ctr = Run::new(machine::program("ctr")?).arg("--address").arg(socket);
    let text = ctr.args(["--namespace", "k8s.io", "containers", "info", id]).output()?;
    let info: Value = serde_json::from_str(&text).with_context(|| format!("no JSON for container {id}"))?;
    let label = |name: &str| info["Labels"][name].as_str().unwrap_or_default().to_owned();
    Ok(Labels {
        pod_uid: label("io.kubernetes.pod.uid"),
        sandbox: label("io.cri-containerd.kind") == "sandbox",
    })
}
