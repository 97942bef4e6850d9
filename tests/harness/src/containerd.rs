//! A containerd of the run's own, with its own root, state, socket, images and pod network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::slot::Slot;
use crate::supervisor::{spawn_daemon, stop_child};
use crate::wait::until;
use crate::{Run, images, machine};

/// containerd answers within a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(30);
/// containerd ends at once; its shims and containers stay.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Where Debian and everybody else put the CNI plugins.
const PLUGIN_FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// A running (or stopped) containerd. Dropping it ends containerd; the slot ends the containers.
#[derive(Debug)]
pub struct Containerd {
    folder: PathBuf,
    child: Option<Child>,
    snapshotter: &'static str,
}

impl Containerd {
    /// Writes the configuration, starts containerd and imports the images.
    pub fn start(slot: &Slot) -> Result<Self> {
        let folder = slot.root().join("containerd");
        let cni = folder.join("cni");
        fs::create_dir_all(&cni).with_context(|| format!("could not make {}", cni.display()))?;
        let snapshotter = machine::snapshotter(slot.root())?;
        write(&cni.join("10-bridge.conflist"), &network(slot, &folder))?;
        write(&folder.join("config.toml"), &configuration(&folder, snapshotter)?)?;
        let mut containerd = Self { folder, child: None, snapshotter };
        containerd.respawn()?;
        let work = containerd.folder.join("images");
        let tar = images::build(&work)?;
        let tar = tar.to_str().context("the run's directory is not UTF-8")?;
        containerd.ctr(&["images", "import", "--snapshotter", snapshotter, tar])?;
        fs::remove_dir_all(&work).with_context(|| format!("could not remove {}", work.display()))?;
        Ok(containerd)
    }

    /// The CRI socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("c.sock")
    }

    /// The socket as kubelet-like programs are configured with it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Runs a container without a pod, with `ctr run` and further options of it, and returns what it prints.
    pub fn run(&self, options: &[&str], id: &str, command: &[&str]) -> Result<String> {
        // ctr's own choice is one directory for all containerds of the machine.
        let state = self.folder.join("runc").display().to_string();
        let fixed = ["run", "--runc-root", &state, "--snapshotter", self.snapshotter];
        self.ctr(&[&fixed, options, &[images::BUSYBOX, id], command].concat())
    }

    /// Runs `ctr` in the namespace of the CRI and returns what it prints.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        Run::new(machine::program("ctr")?)
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", "k8s.io"])
            .args(arguments)
            .output()
    }

    /// Runs a program in a running container to its end.
    pub fn exec(&self, container: &str, command: &[&str]) -> Result<()> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut arguments = vec!["tasks", "exec", "--exec-id", &id, container];
        arguments.extend(command);
        self.ctr(&arguments).map(drop)
    }

    /// Kills and removes every container and sandbox, as an operator with `ctr` might.
    pub fn remove_all(&self) -> Result<()> {
        for id in self.containers()? {
            // A container that has ended has no task any more.
            let _ = self.ctr(&["tasks", "delete", "--force", &id]);
            self.ctr(&["containers", "delete", &id])?;
        }
        Ok(())
    }

    /// The process id of each running container and sandbox, by its id.
    pub fn running(&self) -> Result<BTreeMap<String, i32>> {
        let table = self.ctr(&["tasks", "list"])?;
        let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
        let running = rows.filter(|row| row.get(2) == Some(&"RUNNING"));
        Ok(running.filter_map(|row| Some((row[0].to_owned(), row[1].parse().ok()?))).collect())
    }

    /// The ids of all containers and sandboxes that containerd knows.
    pub fn containers(&self) -> Result<Vec<String>> {
        Ok(self.ctr(&["containers", "list", "--quiet"])?.lines().map(str::to_owned).collect())
    }

    /// The ids of the containers and sandboxes of one pod.
    pub fn containers_of(&self, pod_uid: &str) -> Result<BTreeSet<String>> {
        let filter = format!("labels.\"io.kubernetes.pod.uid\"=={pod_uid}");
        Ok(self.ctr(&["containers", "list", "--quiet", &filter])?.lines().map(str::to_owned).collect())
    }

    /// Ends containerd as a crash would; containers keep running.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("could not kill containerd")?;
            child.wait().context("could not wait for containerd")?;
        }
        Ok(())
    }

    /// Starts containerd again, as systemd would, and waits until it answers.
    pub fn respawn(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("containerd runs already");
        }
        let log = self.log();
        let child = spawn_daemon(
            &machine::program("containerd")?,
            &["--config", &self.folder.join("config.toml").display().to_string()],
            &log,
        )?;
        self.child = Some(child);
        until(START_LIMIT, "containerd answers", || {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().transpose()) {
                bail!("containerd ended with {}: {}", status?, tail(&log, 5));
            }
            self.ctr(&["version"]).map(Some)
        })?;
        Ok(())
    }

    /// Where it logs.
    pub fn log(&self) -> PathBuf {
        self.folder.join("containerd.log")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take()
            && let Err(error) = stop_child(&mut child, STOP_LIMIT)
        {
            eprintln!("could not stop containerd: {error:#}");
        }
    }
}

/// The last lines of a file, for messages.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn network(slot: &Slot, folder: &Path) -> String {
    let bridge = json!({
        "type": "bridge",
        "bridge": slot.bridge(),
        "isGateway": true,
        "ipMasq": false,
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "dataDir": folder.join("addresses"),
            "ranges": [[{"subnet": slot.subnet()}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    let ports = json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true});
    json!({"cniVersion": "0.4.0", "name": slot.network(), "plugins": [bridge, ports]}).to_string()
}

fn configuration(folder: &Path, snapshotter: &str) -> Result<String> {
    let plugins = PLUGIN_FOLDERS
        .into_iter()
        .find(|place| Path::new(place).join("bridge").exists())
        .context("the CNI plugins are not installed (Debian package containernetworking-plugins)")?;
    // Without CAP_SYS_RESOURCE runc fails with "can't get final child's PID from pipe: EOF".
    let restrict = !machine::may_lower_oom_score()?;
    let folder = folder.display();
    let pause = images::PAUSE;
    Ok(format!(
        r#"version = 2
root = "{folder}/root"
state = "{folder}/state"

[grpc]
address = "{folder}/c.sock"

[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = {restrict}
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{folder}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
Root = "{folder}/runc"
"#
    ))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

/// Opens a log for appending, so that a daemon started again continues it.
pub(crate) fn open_log(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("could not open {}", path.display()))
}
