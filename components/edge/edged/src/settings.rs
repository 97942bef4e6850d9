//! What edged takes from edgecore.yaml for running pods.

use std::path::{Path, PathBuf};

use componentconfig::edgecore::EdgeCore;

use crate::model::Pod;
use crate::volumes::PodDirs;

/// The same for every pod, fixed at start.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The Node object's name; only pods bound to it run here.
    pub node_name: String,
    /// Pod directories.
    pub dirs: PodDirs,
    /// Container logs.
    pub pod_logs_dir: PathBuf,
    /// Servers for `dnsPolicy: ClusterFirst`; empty means such pods get the host's.
    pub cluster_dns: Vec<String>,
    /// Domain of the search path.
    pub cluster_domain: String,
    /// The host's resolver file.
    pub resolv_conf: PathBuf,
    /// Bytes of memory of the machine, for `oom_score_adj`.
    pub memory_capacity: i64,
    /// One pull at a time.
    pub serialize_image_pulls: bool,
}

impl Settings {
    /// Picks them out; `memory_capacity` comes from the machine.
    pub(crate) fn new(config: &EdgeCore, memory_capacity: i64) -> Self {
        let edged = &config.modules.edged;
        let kubelet = &edged.tailored_kubelet_config;
        Self {
            node_name: edged.node_name(),
            dirs: PodDirs { root: edged.root_directory.clone() },
            pod_logs_dir: kubelet.pod_logs_dir.clone(),
            cluster_dns: kubelet.cluster_dns.clone(),
            cluster_domain: kubelet.cluster_domain.clone(),
            resolv_conf: kubelet.resolv_conf.clone(),
            memory_capacity,
            serialize_image_pulls: kubelet.serialize_image_pulls,
        }
    }

    /// `<podLogsDir>/<namespace>_<name>_<uid>`.
    pub(crate) fn log_dir(&self, pod: &Pod) -> PathBuf {
        log_dir(&self.pod_logs_dir, &pod.key.namespace, &pod.key.name, &pod.uid)
    }
}

/// Where the kubelet puts a pod's logs.
pub(crate) fn log_dir(root: &Path, namespace: &str, name: &str, uid: &str) -> PathBuf {
    root.join(format!("{namespace}_{name}_{uid}"))
}
