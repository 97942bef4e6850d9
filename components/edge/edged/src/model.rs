//! What edged knows of a pod: what is wanted (the API object), what is there (the runtime's answer) and what edged
//! itself remembers in between. Plain data; decisions and effects live elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;

/// Namespace and name. Unique at one moment, not over time: a re-created pod has the same key and another uid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PodKey {
    /// Never empty.
    pub namespace: String,
    /// Never empty.
    pub name: String,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod as the cloud sent it, parsed once. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    /// Namespace and name.
    pub key: PodKey,
    /// Identity over time.
    pub uid: String,
    /// The typed object. Fields newer than our Kubernetes types are lost here, which is why only decisions read it.
    pub object: Arc<core::Pod>,
}

/// Why an object from the store is not a pod edged can run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PodError {
    /// Not JSON, or not of a pod's shape.
    #[error("not a pod: {0}")]
    Shape(#[from] serde_json::Error),
    /// A field every pod has is missing.
    #[error("pod has no {0}")]
    Missing(&'static str),
    /// A field holds what would not be safe to use in a path or a runtime name.
    #[error("pod {field} {value:?} is not a valid name")]
    Name {
        /// Which field.
        field: &'static str,
        /// What it held.
        value: String,
    },
}

impl Pod {
    /// Parses the JSON of a pod. Namespace, name and uid become path segments, so anything but the characters of DNS
    /// subdomains (RFC 1123) and uids is refused here, once.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, PodError> {
        let object: core::Pod = serde_json::from_slice(json)?;
        let meta = &object.metadata;
        let namespace = segment("metadata.namespace", meta.namespace.as_deref().unwrap_or("default"))?;
        let name = segment("metadata.name", meta.name.as_deref().ok_or(PodError::Missing("metadata.name"))?)?;
        let uid = segment("metadata.uid", meta.uid.as_deref().ok_or(PodError::Missing("metadata.uid"))?)?;
        let spec = object.spec.as_ref().ok_or(PodError::Missing("spec"))?;
        let init = spec.init_containers.iter().flatten();
        for container in spec.containers.iter().chain(init) {
            segment("container name", &container.name)?;
        }
        for volume in spec.volumes.iter().flatten() {
            segment("volume name", &volume.name)?;
        }
        Ok(Self { key: PodKey { namespace, name }, uid, object: Arc::new(object) })
    }

    /// The pod's spec.
    pub(crate) fn spec(&self) -> &core::PodSpec {
        self.object.spec.as_ref().expect("parse refuses a pod without spec")
    }

    /// The cloud asked for this pod to end.
    pub(crate) fn is_terminating(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// Seconds a terminating pod's containers get: the deletion's own grace, else the spec's, else Kubernetes' 30.
    pub(crate) fn grace_seconds(&self) -> i64 {
        let asked = self.object.metadata.deletion_grace_period_seconds;
        asked.or(self.spec().termination_grace_period_seconds).unwrap_or(30).max(0)
    }
}

/// Refuses what could leave a directory or confuse a runtime name.
fn segment(field: &'static str, value: &str) -> Result<String, PodError> {
    if is_segment(value) {
        Ok(value.to_owned())
    } else {
        Err(PodError::Name { field, value: value.chars().take(80).collect() })
    }
}

/// Whether a name can be a path segment as it stands.
pub(crate) fn is_segment(value: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !value.is_empty() && value.len() <= 253 && value.chars().all(plain) && value != "." && value != ".."
}

/// What the runtime holds for one pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Observed {
    /// The newest sandbox, if there is one.
    pub sandbox: Option<Sandbox>,
    /// Every container of the pod, all attempts, newest first within a name.
    pub containers: Vec<ContainerRecord>,
}

impl Observed {
    /// The newest attempt of a container.
    pub(crate) fn newest(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// The attempt before the newest.
    pub(crate) fn previous(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().filter(|c| c.name == name).nth(1)
    }
}

/// A pod sandbox as the runtime describes it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// In state READY.
    pub ready: bool,
    /// Pod addresses, the primary one first; empty with host network (the node's address is used then).
    pub ips: Vec<IpAddr>,
    /// Counts sandboxes of this pod, from 0.
    pub attempt: u32,
    /// When the runtime made it.
    pub created_at: Timestamp,
}

/// One attempt at running a container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ContainerRecord {
    /// The name in the pod spec.
    pub name: String,
    /// The runtime's id, without `containerd://`.
    pub id: String,
    /// The image as the pod named it.
    pub image: String,
    /// What the runtime resolved it to.
    pub image_id: String,
    /// Counts attempts from 0: the container's restart count.
    pub attempt: u32,
    /// When the runtime made it.
    pub created_at: Timestamp,
    /// What it does now.
    pub state: ContainerState,
}

/// State of one container attempt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ContainerState {
    /// Made, not started.
    Created,
    /// Running.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Ended.
    Exited {
        /// When it had started; `None` when it never did.
        started_at: Option<Timestamp>,
        /// When it ended.
        finished_at: Timestamp,
        /// The process's exit code, or 128 + signal.
        exit_code: i32,
        /// `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`, …
        reason: String,
        /// Termination message, at most 4 KiB.
        message: String,
    },
    /// The runtime lost track of it.
    Unknown,
}

/// Why a container is not running yet, as `state.waiting` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// `ContainerCreating`, `PodInitializing`, `ImagePullBackOff`, `ErrImagePull`, `CrashLoopBackOff`,
    /// `CreateContainerConfigError`, …
    pub reason: String,
    /// What a person reads.
    pub message: String,
}

/// What edged itself knows of a pod beside object and runtime.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    /// Why containers are not running, by name.
    pub waiting: BTreeMap<String, Waiting>,
    /// Results of readiness probes, by container name; a running container without an entry and without a readiness
    /// probe is ready.
    pub ready: BTreeMap<String, bool>,
    /// Results of startup probes, by container name; likewise.
    pub started: BTreeMap<String, bool>,
    /// The pod as a whole cannot run (`Failed` with this reason and message), e.g. refused at admission.
    pub failed: Option<Waiting>,
    /// The pod was taken down and none of its containers runs any more: its phase says how it went.
    pub taken_down: bool,
    /// Why the pod's containers cannot be started at all for now, e.g. a volume that cannot be set up.
    pub blocked: Option<Waiting>,
}

/// What is the same for every pod of the node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeFacts {
    /// The Node object's name.
    pub node_name: String,
    /// The node's addresses, the primary one first; never empty.
    pub host_ips: Vec<IpAddr>,
    /// The runtime's name as it says itself, `containerd`: prefix of container ids.
    pub runtime_name: String,
    /// What a container without a limit is told it has.
    pub allocatable: Allocatable,
}

/// What pods may use of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allocatable {
    /// Thousandths of a core.
    pub cpu_millis: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of the file system below the root directory.
    pub ephemeral_storage: i64,
}
