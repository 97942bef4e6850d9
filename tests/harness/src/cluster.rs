//! One cloud and one edge node side by side.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::containerd::{Containerd, tail};
use crate::slot::Slot;
use crate::supervisor::{READY_LIMIT, Side, Supervisor};
use crate::wait::until;
use crate::watch::{PodWatch, is_ready};
use crate::{Run, clean, interrupt, machine, users};

/// The name of the one edge node.
pub const EDGE_NODE: &str = "edge-1";

/// Every file of the exec directory and the built program it is a hard link of.
const PROGRAMS: [(&str, &str); 14] = [
    ("edgecore", "edgecore"),
    ("cloudcore", "edgecore"),
    ("keyholder", "keyholder"),
    ("metamanager", "edge-roles"),
    ("edgehub", "edge-roles"),
    ("edged", "edge-roles"),
    ("edge-metrics", "edge-roles"),
    ("authority", "cloud-roles"),
    ("apiserver", "cloud-roles"),
    ("controllers", "cloud-roles"),
    ("cloudhub", "cloud-roles"),
    ("cloud-metrics", "cloud-roles"),
    ("edgectl", "edgectl"),
    ("cloudctl", "edgectl"),
];

/// The name of every program of an installation.
pub fn program_names() -> impl Iterator<Item = &'static str> {
    PROGRAMS.into_iter().map(|(name, _)| name)
}

/// How long one HTTP exchange with a pod may take.
const HTTP_LIMIT: Duration = Duration::from_secs(5);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder `cargo build` put the programs in.
    pub built: PathBuf,
    /// Gives the edge's store a file system of its own of this many KiB, so that a test can fill it.
    pub store_kib: Option<u32>,
}

impl Options {
    /// The usual cluster, with the programs in `built`.
    pub fn new(built: impl Into<PathBuf>) -> Self {
        Self { built: built.into(), store_kib: None }
    }
}

/// A cluster. Fields are dropped in this order: who depends on another ends before it.
#[derive(Debug)]
pub struct Cluster {
    /// `edgecore`.
    pub edge: Supervisor,
    /// `cloudcore --standalone`.
    pub cloud: Supervisor,
    /// The edge node's container runtime.
    pub containerd: Containerd,
    ports: Ports,
    slot: Slot,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    api: u16,
    websocket: u16,
    https: u16,
}

impl Cluster {
    /// Starts containerd, `cloudcore` and `edgecore`, joins the node and waits until it is Ready.
    pub fn start(options: &Options) -> Result<Self> {
        let mut cluster = Self::prepare(options)?;
        cluster.start_cloud()?;
        cluster.start_edge()?;
        Ok(cluster)
    }

    /// Everything but the two supervisors: containerd runs, programs and configuration are in place.
    pub fn prepare(options: &Options) -> Result<Self> {
        users::ensure()?;
        let mut slot = Slot::take()?;
        let programs = stage(&options.built, slot.root())?;
        let ports = Ports { api: slot.port()?, websocket: slot.port()?, https: slot.port()? };
        let containerd = Containerd::start(&slot)?;
        let folders = [Side::Edge, Side::Cloud].map(|side| slot.root().join(side.program()));
        for folder in &folders {
            let etc = folder.join("etc");
            fs::create_dir_all(&etc).with_context(|| format!("could not make {}", etc.display()))?;
        }
        let [edge, cloud] = folders;
        let cluster = Self {
            edge: Supervisor::new(Side::Edge, edge, programs.clone()),
            cloud: Supervisor::new(Side::Cloud, cloud, programs),
            containerd,
            ports,
            slot,
        };
        write(&cluster.cloud.config(), &cluster.cloud_configuration())?;
        write(&cluster.edge.config(), &cluster.edge_configuration())?;
        if let Some(kib) = options.store_kib {
            cluster.mount_store(kib)?;
        }
        Ok(cluster)
    }

    /// Starts the cloud, waits until its API answers and hands the join token to the edge.
    pub fn start_cloud(&mut self) -> Result<()> {
        self.cloud.start()?;
        until(READY_LIMIT, "the Kubernetes API answers", || {
            self.kubectl(&["get", "--raw", "/readyz"]).map(Some)
        })?;
        let token = self.join_token()?;
        self.set_token(&token)
    }

    /// Starts the edge and waits until its node is Ready.
    pub fn start_edge(&mut self) -> Result<()> {
        self.edge.start()?;
        self.wait_node(true)
    }

    /// The join token as `keadm gettoken` reads it.
    pub fn join_token(&self) -> Result<String> {
        until(READY_LIMIT, "the join token is published", || {
            let template = "-o=go-template={{.data.tokendata | base64decode}}";
            let token = self.kubectl(&["get", "secret", "--namespace=kubeedge", "tokensecret", template])?;
            Ok((!token.is_empty()).then_some(token))
        })
    }

    /// Writes the file the edge reads its join token from.
    pub fn set_token(&self, token: &str) -> Result<()> {
        let path = self.token_file();
        write(&path, token)?;
        let hub = nix::unistd::User::from_name("edge-hub").context("could not look up edge-hub")?;
        let hub = hub.context("there is no user edge-hub")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .context("could not restrict the token file")?;
        std::os::unix::fs::chown(&path, Some(hub.uid.as_raw()), None)
            .context("could not give the token file away")
    }

    /// Waits until the edge's node is Ready, or is not.
    pub fn wait_node(&self, ready: bool) -> Result<()> {
        until(READY_LIMIT, &format!("node {EDGE_NODE} has Ready={ready}"), || {
            Ok((is_ready(&self.get("node", EDGE_NODE)?) == ready).then_some(()))
        })
    }

    /// Runs kubectl against the cloud's API and returns what it prints.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_command()?.args(arguments).output()
    }

    /// kubectl with the administrator's kubeconfig, to be given arguments.
    pub fn kubectl_command(&self) -> Result<Run> {
        // HOME: kubectl caches discovery there, which must not outlive the cluster.
        let kubectl = Run::new(machine::program("kubectl")?).env("HOME", self.slot.root());
        Ok(kubectl.arg("--kubeconfig").arg(self.kubeconfig()))
    }

    /// Applies a YAML or JSON document.
    pub fn apply(&self, document: &str) -> Result<String> {
        self.kubectl_command()?.args(["apply", "-f", "-"]).input(document).output()
    }

    /// Creates the objects of a JSON document, which must not exist yet: quicker than [`Self::apply`].
    pub fn create(&self, document: &Value) -> Result<String> {
        self.kubectl_command()?.args(["create", "-f", "-"]).input(document.to_string()).output()
    }

    /// One object of namespace `default` (or of the cluster).
    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        let text = self.kubectl(&["get", kind, name, "-o=json"])?;
        serde_json::from_str(&text).with_context(|| format!("kubectl printed no JSON for {kind} {name}"))
    }

    /// All objects of a kind in namespace `default`.
    pub fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let text = self.kubectl(&["get", kind, "-o=json"])?;
        let mut list: Value =
            serde_json::from_str(&text).with_context(|| format!("kubectl printed no JSON for {kind}"))?;
        Ok(serde_json::from_value(list["items"].take())?)
    }

    /// Waits until the pod exists and is Ready, and returns it.
    pub fn wait_pod_ready(&self, name: &str) -> Result<Value> {
        self.wait_pod(name, "is Ready", is_ready)
    }

    /// Waits until `wanted` says yes to the pod, and returns it; `what` is for the message.
    pub fn wait_pod(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let found = until(READY_LIMIT, &format!("pod {name} {what}"), || {
            last = self.get("pod", name)?;
            Ok(wanted(&last).then(|| last.clone()))
        });
        found.with_context(|| format!("pod {name} was last {}", last["status"]))
    }

    /// Waits until the API no longer has the pod.
    pub fn wait_pod_gone(&self, name: &str, limit: Duration) -> Result<()> {
        until(limit, &format!("pod {name} is gone"), || {
            let found = self.kubectl(&["get", "pod", name, "--ignore-not-found", "-o=name"])?;
            Ok(found.trim().is_empty().then_some(()))
        })
    }

    /// Waits for an event of this reason on the pod whose message holds `words`, and returns the message.
    pub fn wait_event(&self, pod: &str, reason: &str, words: &str) -> Result<String> {
        let what = format!("event {reason} with \"{words}\" on pod {pod}");
        let mut seen = Vec::new();
        let found = until(READY_LIMIT, &what, || {
            seen = self.list("events")?;
            seen.retain(|event| event["involvedObject"]["name"] == pod);
            let wanted = seen.iter().find(|event| {
                event["reason"] == reason
                    && event["message"].as_str().is_some_and(|message| message.contains(words))
            });
            Ok(wanted.map(|event| event["message"].as_str().unwrap_or_default().to_owned()))
        });
        found.with_context(|| {
            let lines: Vec<String> =
                seen.iter().map(|event| format!("{}: {}", event["reason"], event["message"])).collect();
            format!("pod {pod} has the events {}", lines.join("; "))
        })
    }

    /// Opens a watch on the pods.
    pub fn watch_pods(&self) -> Result<PodWatch> {
        PodWatch::open(&self.kubeconfig())
    }

    /// The container ids of all pods, by pod and container, as the API reports them.
    pub fn container_ids(&self) -> Result<BTreeMap<String, String>> {
        let mut ids = BTreeMap::new();
        for pod in self.list("pods")? {
            for container in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let name = format!("{}/{}", text(&pod["metadata"]["name"]), text(&container["name"]));
                ids.insert(name, text(&container["containerID"]));
            }
        }
        Ok(ids)
    }

    /// Runs a program in the pod's first container, through containerd. What it prints is not to be had: ctr may lose
    /// the output of a program that ends at once.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<()> {
        self.containerd.exec(&self.first_container(pod)?, command)
    }

    /// A file as the pod's first container sees it.
    pub fn read(&self, pod: &str, path: &str) -> Result<String> {
        let file = self.inside(pod, path)?;
        fs::read_to_string(&file)
            .with_context(|| format!("could not read {path} of {pod}, which is {}", file.display()))
    }

    /// Where a path of the pod's first container is found from outside. Absolute symbolic links in it are not followed
    /// as the container would.
    pub fn inside(&self, pod: &str, path: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root{path}", self.first_process(pod)?)))
    }

    /// The environment the pod's first container was started with, `NAME=value` each.
    pub fn environment(&self, pod: &str) -> Result<Vec<String>> {
        let path = format!("/proc/{}/environ", self.first_process(pod)?);
        let bytes = fs::read(&path).with_context(|| format!("could not read {path}"))?;
        Ok(String::from_utf8_lossy(&bytes).split_terminator('\0').map(str::to_owned).collect())
    }

    fn first_container(&self, pod: &str) -> Result<String> {
        let status = self.get("pod", pod)?["status"]["containerStatuses"][0].take();
        let id = status["containerID"].as_str().and_then(|id| id.strip_prefix("containerd://"));
        Ok(id.with_context(|| format!("pod {pod} has no running container"))?.to_owned())
    }

    fn first_process(&self, pod: &str) -> Result<i32> {
        let container = self.first_container(pod)?;
        self.containerd
            .running()?
            .remove(&container)
            .with_context(|| format!("container {container} does not run"))
    }

    /// `GET http://POD-IP:8080/PATH` of a pod: status line and body.
    pub fn http_get(&self, pod: &str, path: &str) -> Result<(String, String)> {
        let pod = self.get("pod", pod)?;
        let address = pod["status"]["podIP"].as_str().context("the pod has no IP address")?;
        let address: Ipv4Addr = address.parse().with_context(|| format!("not an IPv4 address: {address}"))?;
        http_get(SocketAddr::from((address, 8080)), path)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.cloud.state().join("apiserver/admin.kubeconfig")
    }

    /// The file the edge reads its join token from.
    pub fn token_file(&self) -> PathBuf {
        self.edge.etc().join("token")
    }

    /// The directory of everything in this cluster.
    pub fn root(&self) -> &Path {
        self.slot.root()
    }

    /// The cloud's port for certificates (`https`), and the one for sessions (`websocket`).
    pub fn hub_ports(&self) -> (u16, u16) {
        (self.ports.https, self.ports.websocket)
    }

    /// The slot, for [`crate::clean`].
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// What to read first when a test failed: states, events and the ends of the logs.
    pub fn describe(&self) -> String {
        let or_error = |found: Result<String>| found.unwrap_or_else(|error| format!("{error:#}"));
        let mut text = String::new();
        for (title, content) in [
            ("edgectl status", or_error(self.edge.ctl(&["status"]))),
            ("cloudctl status", or_error(self.cloud.ctl(&["status"]))),
            ("pods", or_error(self.kubectl(&["get", "pods,nodes", "-o=wide"]))),
            ("events", or_error(self.kubectl(&["get", "events"]))),
            ("edgecore.log", tail(&self.edge.log(), 40)),
            ("cloudcore.log", tail(&self.cloud.log(), 25)),
            ("containerd.log", tail(&self.containerd.log(), 5)),
        ] {
            text.push_str("--- ");
            text.push_str(title);
            text.push('\n');
            text.push_str(content.trim_end());
            text.push('\n');
        }
        text
    }

    /// Copies the logs to where they outlive the cluster.
    pub fn save_logs(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
        for log in
            [self.edge.log(), self.cloud.log(), self.containerd.log()].iter().filter(|log| log.exists())
        {
            let name = log.file_name().context("a log has a name")?;
            fs::copy(log, folder.join(name)).with_context(|| format!("could not copy {}", log.display()))?;
        }
        Ok(())
    }

    /// Ends everything in order, removes it, and fails when something is left.
    pub fn end(self) -> Result<()> {
        // Also after Ctrl-C: ending waits for processes, and is what was asked for.
        interrupt::shielded(|| self.end_all())
    }

    fn end_all(self) -> Result<()> {
        let Self { mut edge, mut cloud, containerd, slot, .. } = self;
        let cgroups = clean::cgroups(&slot);
        for supervisor in [&mut edge, &mut cloud] {
            if supervisor.pid().is_some() {
                let status = supervisor.stop()?;
                if !status.success() {
                    bail!("{} ended with {status} when asked to stop", supervisor.side().program());
                }
            }
        }
        drop(containerd);
        clean::remove(&slot)?;
        clean::assert_clean(&slot, &cgroups)
    }

    fn mount_store(&self, kib: u32) -> Result<()> {
        use nix::mount::{MsFlags, mount};
        let user = nix::unistd::User::from_name("edge-meta").context("could not look up edge-meta")?;
        let user = user.context("there is no user edge-meta")?;
        let place = self.edge.state().join("metamanager");
        fs::create_dir_all(&place).with_context(|| format!("could not make {}", place.display()))?;
        let options = format!("size={kib}k,mode=0700,uid={},gid={}", user.uid, user.gid);
        mount(Some("store"), &place, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .with_context(|| format!("could not mount a file system on {}", place.display()))
    }

    fn cloud_configuration(&self) -> String {
        let Ports { api, websocket, https } = self.ports;
        format!(
            "apiVersion: cloudcore.config.kubeedge.io/v1alpha1
kind: CloudCore
modules:
  cloudHub:
    advertiseAddress: [127.0.0.1]
    websocket: {{enable: true, address: 127.0.0.1, port: {websocket}}}
    https: {{enable: true, address: 127.0.0.1, port: {https}}}
apiary:
  standalone: {{address: 127.0.0.1, port: {api}}}
"
        )
    }

    fn edge_configuration(&self) -> String {
        let Ports { websocket, https, .. } = self.ports;
        let root = self.slot.root().display();
        let runtime = self.containerd.endpoint();
        let token = self.token_file();
        let token = token.display();
        format!(
            "apiVersion: edgecore.config.kubeedge.io/v1alpha2
kind: EdgeCore
modules:
  edgeHub:
    enable: true
    heartbeat: 15
    httpServer: https://127.0.0.1:{https}
    websocket: {{enable: true, server: '127.0.0.1:{websocket}'}}
  edged:
    enable: true
    hostnameOverride: {EDGE_NODE}
    rootDirectory: {root}/edgecore/kubelet
    tailoredKubeletConfig:
      containerRuntimeEndpoint: {runtime}
      imageServiceEndpoint: {runtime}
      podLogsDir: {root}/edgecore/pod-logs
      cgroupDriver: cgroupfs
apiary:
  tokenFile: {token}
"
        )
    }
}

/// `GET` by HTTP/1.0: status line and body.
fn http_get(address: SocketAddr, path: &str) -> Result<(String, String)> {
    let mut stream = TcpStream::connect_timeout(&address, HTTP_LIMIT)
        .with_context(|| format!("could not connect to {address}"))?;
    stream.set_read_timeout(Some(HTTP_LIMIT)).context("could not bound the answer")?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").with_context(|| format!("could not ask {address}"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("could not read the answer of {address}"))?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("no HTTP answer of {address}: {answer}")
    };
    Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
}

/// Copies the programs to where the service users can reach them, one file per binary, hard-linked under its names.
fn stage(built: &Path, root: &Path) -> Result<PathBuf> {
    let programs = root.join("bin");
    fs::create_dir(&programs).with_context(|| format!("could not make {}", programs.display()))?;
    let mut copies = BTreeMap::new();
    for (name, binary) in PROGRAMS {
        let target = programs.join(name);
        if let Some(copy) = copies.get(binary) {
            fs::hard_link(copy, &target).with_context(|| format!("could not link {}", target.display()))?;
            continue;
        }
        let source = built.join(binary);
        fs::copy(&source, &target)
            .with_context(|| format!("{} is not built; `cargo xtask` builds it", source.display()))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).context("could not set a mode")?;
        copies.insert(binary, target);
    }
    Ok(programs)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
