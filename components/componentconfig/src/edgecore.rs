//! `edgecore.yaml`, the fields we act on. Spelling and defaults are KubeEdge's
//! (`componentconfig/edgecore/v1alpha2/{types,default}.go`, `default_kubelet_configuration.go`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ConfigError, Document, Examined, Loaded};

/// Reads `edgecore.yaml`; `None` means defaults.
pub fn load(path: Option<&Path>) -> Result<Loaded<EdgeCore>, ConfigError> {
    crate::load(path)
}

/// Everything that is wrong with `edgecore.yaml`, for a person who mends it.
pub fn examine(path: &Path) -> Examined {
    crate::examine::<EdgeCore>(path)
}

/// The document.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EdgeCore {
    kind: String,
    api_version: String,
    /// Written by KubeEdge's own tools; read by nobody.
    edgecore_version: String,
    /// Per component.
    pub modules: Modules,
    /// Settings KubeEdge does not have.
    pub apiary: Apiary,
}

/// `modules`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Modules {
    /// The cloud link.
    pub edge_hub: EdgeHub,
    /// The kubelet.
    pub edged: Edged,
    /// The node's store.
    pub meta_manager: MetaManager,
}

/// `modules.metaManager`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetaManager {
    /// Must be true: every other part reads from it.
    pub enable: bool,
}

impl Default for MetaManager {
    fn default() -> Self {
        Self { enable: true }
    }
}

/// `modules.edgeHub`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EdgeHub {
    /// Whether to connect at all.
    pub enable: bool,
    /// Base URL of the certificate API, `https://host:10002`.
    pub http_server: String,
    /// The message link.
    pub websocket: WebSocket,
    /// Seconds between keepalives; the hub gives up after 30.
    pub heartbeat: u32,
    /// First segment of the URL path.
    #[serde(rename = "projectID")]
    pub project_id: String,
    /// Join token; `apiary.tokenFile` wins where both are given.
    pub token: String,
}

/// `modules.edgeHub.websocket`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WebSocket {
    /// KubeEdge can turn it off in favour of QUIC; we cannot.
    pub enable: bool,
    /// `host:port` of the hub.
    pub server: String,
    /// Seconds for TCP, TLS and the upgrade together.
    pub handshake_timeout: u32,
    /// Seconds a single write may take.
    pub write_deadline: u32,
}

/// `modules.edged`.
#[expect(clippy::struct_excessive_bools, reason = "the switches are KubeEdge's")]
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Edged {
    /// Whether pods run here at all.
    pub enable: bool,
    /// The node's name; empty means the host's name in lower case.
    pub hostname_override: String,
    /// The node's address; empty means the address of the default route.
    #[serde(rename = "nodeIP")]
    pub node_ip: String,
    /// Create the Node object.
    pub register_node: bool,
    /// Without the `unschedulable` mark.
    pub register_schedulable: bool,
    /// Extra labels at registration.
    pub node_labels: BTreeMap<String, String>,
    /// Taints at registration.
    pub taints: Vec<Taint>,
    /// Pod directories live below it.
    pub root_directory: PathBuf,
    /// Send events to the cloud. KubeEdge's default is off; so is ours in a KubeEdge file, see [`Apiary::report_event`].
    pub report_event: bool,
    /// The kubelet's own settings.
    pub tailored_kubelet_config: TailoredKubeletConfig,
}

/// A taint as core/v1 has it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    /// Name.
    pub key: String,
    /// Value, may be empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// `modules.edged.tailoredKubeletConfig`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TailoredKubeletConfig {
    /// CRI socket, `unix:///…`.
    pub container_runtime_endpoint: String,
    /// CRI image service; empty means the same socket.
    pub image_service_endpoint: String,
    /// Cluster DNS servers for `dnsPolicy: ClusterFirst`.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<String>,
    /// Cluster domain for search paths.
    pub cluster_domain: String,
    /// Most pods on this node.
    pub max_pods: u32,
    /// `cgroupfs` or `systemd`.
    pub cgroup_driver: String,
    /// How often status is computed.
    #[serde(with = "crate::duration")]
    pub node_status_update_frequency: Duration,
    /// How often it is reported when nothing changed.
    #[serde(with = "crate::duration")]
    pub node_status_report_frequency: Duration,
    /// Lease length in seconds; renewed four times as often.
    pub node_lease_duration_seconds: u32,
    /// How often a pod is looked at when nothing changed; mounted ConfigMaps are refreshed at once, not at this pace.
    #[serde(with = "crate::duration")]
    pub sync_frequency: Duration,
    /// Container logs.
    pub pod_logs_dir: PathBuf,
    /// The host's resolver file.
    pub resolv_conf: PathBuf,
    /// One pull at a time.
    pub serialize_image_pulls: bool,
    /// Longest CRI call other than a pull.
    #[serde(with = "crate::duration")]
    pub runtime_request_timeout: Duration,
    /// Reported as the node's kubelet port; nothing listens there yet.
    pub read_only_port: u16,
}

/// `apiary`: settings KubeEdge does not have.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Apiary {
    /// A file holding the join token, readable by edgehub's user; keeps it out of this file.
    pub token_file: Option<PathBuf>,
    /// Report events as a kubelet does, whatever `modules.edged.reportEvent` says.
    pub report_event: bool,
}

impl Default for EdgeHub {
    fn default() -> Self {
        Self {
            enable: true,
            http_server: "https://127.0.0.1:10002".into(),
            websocket: WebSocket::default(),
            heartbeat: 15,
            project_id: "e632aba927ea4ac2b575ec1603d56f10".into(),
            token: String::new(),
        }
    }
}

impl Default for WebSocket {
    fn default() -> Self {
        Self { enable: true, server: "127.0.0.1:10000".into(), handshake_timeout: 30, write_deadline: 15 }
    }
}

impl Default for Edged {
    fn default() -> Self {
        Self {
            enable: true,
            hostname_override: String::new(),
            node_ip: String::new(),
            register_node: true,
            register_schedulable: true,
            node_labels: BTreeMap::new(),
            taints: Vec::new(),
            root_directory: "/var/lib/kubelet".into(),
            report_event: false,
            tailored_kubelet_config: TailoredKubeletConfig::default(),
        }
    }
}

impl Default for TailoredKubeletConfig {
    fn default() -> Self {
        Self {
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            image_service_endpoint: String::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            max_pods: 110,
            cgroup_driver: "cgroupfs".into(),
            node_status_update_frequency: Duration::from_secs(10),
            node_status_report_frequency: Duration::from_mins(5),
            node_lease_duration_seconds: 40,
            sync_frequency: Duration::from_mins(1),
            pod_logs_dir: "/var/log/pods".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            serialize_image_pulls: true,
            runtime_request_timeout: Duration::from_mins(2),
            read_only_port: 10350,
        }
    }
}

impl Default for Apiary {
    fn default() -> Self {
        Self { token_file: None, report_event: true }
    }
}

impl Document for EdgeCore {
    const KIND: &'static str = "EdgeCore";
    const API_VERSION: &'static str = "edgecore.config.kubeedge.io/v1alpha2";
    const KUBEEDGE_DEFAULT: &'static str = include_str!("../kubeedge-defaults/edgecore.yaml");

    fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let hub = &self.modules.edge_hub;
        let edged = &self.modules.edged;
        if !(1..=3600).contains(&hub.heartbeat) {
            wrong.push(format!("modules.edgeHub.heartbeat is {}, must be 1 to 3600 s", hub.heartbeat));
        }
        if !self.modules.meta_manager.enable {
            wrong.push(
                "modules.metaManager.enable is false, must be true: nothing works without the store"
                    .to_owned(),
            );
        }
        if !hub.http_server.starts_with("https://") {
            wrong.push(format!(
                "modules.edgeHub.httpServer is {:?}, must begin with https://",
                hub.http_server
            ));
        }
        if !hub.websocket.server.contains(':') {
            wrong.push(format!(
                "modules.edgeHub.websocket.server is {:?}, must be host:port",
                hub.websocket.server
            ));
        }
        if !edged.node_ip.is_empty() && edged.node_ip.parse::<std::net::IpAddr>().is_err() {
            wrong.push(format!("modules.edged.nodeIP is {:?}, must be an IP address", edged.node_ip));
        }
        let kubelet = &edged.tailored_kubelet_config;
        if !kubelet.container_runtime_endpoint.starts_with("unix://") {
            wrong.push(format!(
                "modules.edged.tailoredKubeletConfig.containerRuntimeEndpoint is {:?}, must begin with unix://",
                kubelet.container_runtime_endpoint
            ));
        }
        if kubelet.node_lease_duration_seconds < 4 {
            wrong.push(format!(
                "modules.edged.tailoredKubeletConfig.nodeLeaseDurationSeconds is {}, must be at least 4",
                kubelet.node_lease_duration_seconds
            ));
        }
        wrong
    }
}

impl Edged {
    /// The node's name: `hostnameOverride`, else the host's name in lower case (as KubeEdge does).
    pub fn node_name(&self) -> String {
        if !self.hostname_override.is_empty() {
            return self.hostname_override.clone();
        }
        // By uname(2): a confined component sees no /proc.
        rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase()
    }
}
