//! The Node object: registration, status, lease (`pkg/kubelet/kubelet_node_status.go`, `pkg/kubelet/nodestatus`,
//! `component-helpers/apimachinery/lease`). What it looks like is decided by pure functions; [`NodeAgent`] has the
//! clock and the store.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use componentconfig::edgecore::EdgeCore;
use ipc::CallError;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1 as coordination;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use proto::metamanager::{
    GetRequest, Key, MetaManagerClient, MetaManagerError, QueryRequest, SubmitRequest, UploadKind,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::host::{Host, Pressure};
use crate::model::Allocatable;

/// Namespace of all node leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How long a failed registration or lease renewal waits before it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Whether the container runtime answers, for the Ready condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuntimeHealth {
    /// Answers and says it is ready.
    pub ready: bool,
    /// Why not.
    pub message: String,
    /// `containerd://1.6.20`; empty before the first answer.
    pub version: String,
}

/// What the watch of metamanager has to say about the node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NodeEvent {
    /// The cloud link came up or went down.
    Connected(bool),
    /// The cloud answered an upload of the node's own.
    Delivered {
        /// Which.
        kind: UploadKind,
        /// HTTP-like; 200 is accepted.
        code: u32,
    },
    /// The cloud's Node object, JSON; `None` when it was deleted.
    Node(Option<Vec<u8>>),
}

/// What pods may use: everything but a reserve of memory the kubelet keeps for `memory.available` (100 MiB) and 10 % of
/// the disk (`nodefs.available`).
pub(crate) fn allocatable(host: &Host) -> Allocatable {
    Allocatable {
        cpu_millis: host.cpus * 1000,
        memory: (host.memory - (100 << 20)).max(0),
        ephemeral_storage: host.storage / 10 * 9,
    }
}

/// The object an edge node registers with.
pub(crate) fn node_object(config: &EdgeCore, name: &str, status: core::NodeStatus) -> core::Node {
    let edged = &config.modules.edged;
    let arch = status.node_info.as_ref().map(|info| info.architecture.clone()).unwrap_or_default();
    let mut labels: BTreeMap<String, String> = [
        ("beta.kubernetes.io/arch", arch.as_str()),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch.as_str()),
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("node-role.kubernetes.io/agent", ""),
        ("node-role.kubernetes.io/edge", ""),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    labels.extend(edged.node_labels.clone());
    let taint = |taint: &componentconfig::edgecore::Taint| core::Taint {
        key: taint.key.clone(),
        value: Some(taint.value.clone()).filter(|v| !v.is_empty()),
        effect: taint.effect.clone(),
        time_added: None,
    };
    core::Node {
        metadata: ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..Default::default() },
        spec: Some(core::NodeSpec {
            unschedulable: (!edged.register_schedulable).then_some(true),
            taints: (!edged.taints.is_empty()).then(|| edged.taints.iter().map(taint).collect()),
            ..Default::default()
        }),
        status: Some(status),
    }
}

/// The node's status now; transition times are kept from `previous` where a condition did not change.
#[expect(clippy::too_many_arguments, reason = "everything a node's status is made of")]
pub(crate) fn node_status(
    config: &EdgeCore,
    name: &str,
    address: IpAddr,
    host: &Host,
    pressure: Pressure,
    health: &RuntimeHealth,
    previous: Option<&core::NodeStatus>,
    now: Timestamp,
) -> core::NodeStatus {
    let kubelet = &config.modules.edged.tailored_kubelet_config;
    let free = allocatable(host);
    let resources = |cpu: String, memory: i64, storage: String| {
        BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu)),
            ("memory".to_owned(), Quantity(format!("{}Ki", memory / 1024))),
            ("ephemeral-storage".to_owned(), Quantity(storage)),
            ("pods".to_owned(), Quantity(kubelet.max_pods.to_string())),
        ])
    };
    core::NodeStatus {
        capacity: Some(resources(host.cpus.to_string(), host.memory, format!("{}Ki", host.storage / 1024))),
        allocatable: Some(resources(host.cpus.to_string(), free.memory, free.ephemeral_storage.to_string())),
        addresses: Some(vec![
            core::NodeAddress { type_: "InternalIP".into(), address: address.to_string() },
            core::NodeAddress { type_: "Hostname".into(), address: name.to_owned() },
        ]),
        conditions: Some(conditions(pressure, health, previous, now)),
        daemon_endpoints: Some(core::NodeDaemonEndpoints {
            kubelet_endpoint: Some(core::DaemonEndpoint { port: i32::from(kubelet.read_only_port) }),
        }),
        node_info: Some(core::NodeSystemInfo {
            architecture: host.arch.to_owned(),
            boot_id: host.boot_id.clone(),
            container_runtime_version: health.version.clone(),
            kernel_version: host.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: concat!("v1.32.10-kubeedge-v1.23.0-apiary-", env!("CARGO_PKG_VERSION"))
                .to_owned(),
            machine_id: host.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: host.os_image.clone(),
            system_uuid: host.system_uuid.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn conditions(
    pressure: Pressure,
    health: &RuntimeHealth,
    previous: Option<&core::NodeStatus>,
    now: Timestamp,
) -> Vec<core::NodeCondition> {
    let pick = |bad, reasons: (&'static str, &'static str), messages: (&'static str, &'static str)| {
        if bad {
            ("True", reasons.0, messages.0.to_owned())
        } else {
            ("False", reasons.1, messages.1.to_owned())
        }
    };
    let ready = if health.ready {
        ("True", "EdgeReady", "edge is posting ready status".to_owned())
    } else {
        ("False", "KubeletNotReady", health.message.clone())
    };
    let all = [
        (
            "MemoryPressure",
            pick(
                pressure.memory,
                ("KubeletHasInsufficientMemory", "KubeletHasSufficientMemory"),
                ("kubelet has insufficient memory available", "kubelet has sufficient memory available"),
            ),
        ),
        (
            "DiskPressure",
            pick(
                pressure.disk,
                ("KubeletHasDiskPressure", "KubeletHasNoDiskPressure"),
                ("kubelet has disk pressure", "kubelet has no disk pressure"),
            ),
        ),
        (
            "PIDPressure",
            pick(
                pressure.pid,
                ("KubeletHasInsufficientPID", "KubeletHasSufficientPID"),
                ("kubelet has insufficient PID available", "kubelet has sufficient PID available"),
            ),
        ),
        ("Ready", ready),
    ];
    let known = previous.and_then(|p| p.conditions.as_ref());
    all.into_iter()
        .map(|(type_, (status, reason, message))| {
            let since = known.into_iter().flatten().find(|c| c.type_ == type_ && c.status == status);
            core::NodeCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: since.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
            }
        })
        .collect()
}

/// Whether two statuses differ in more than the heartbeat.
fn differs(a: &core::NodeStatus, b: &core::NodeStatus) -> bool {
    let without_heartbeat = |status: &core::NodeStatus| {
        let mut status = status.clone();
        status.conditions.iter_mut().flatten().for_each(|c| c.last_heartbeat_time = None);
        status
    };
    without_heartbeat(a) != without_heartbeat(b)
}

/// Type and status of each condition.
fn verdicts(status: &core::NodeStatus) -> BTreeMap<String, String> {
    status.conditions.iter().flatten().map(|c| (c.type_.clone(), c.status.clone())).collect()
}

/// Strategic-merge patch for `nodes/status`.
fn status_patch(status: &core::NodeStatus) -> Vec<u8> {
    let mut json = serde_json::to_value(status).unwrap_or_default();
    if let Some(addresses) = json.get_mut("addresses").and_then(Value::as_array_mut) {
        // Merged by type: without the directive an address we no longer have would stay.
        addresses.insert(0, json!({"$patch": "replace"}));
    }
    json!({"status": json}).to_string().into_bytes()
}

/// The lease to send: what the cloud has, renewed; a new one where it has none.
fn renewed(
    known: Option<coordination::Lease>,
    name: &str,
    node_uid: Option<&str>,
    seconds: u32,
    now: Timestamp,
) -> coordination::Lease {
    let mut lease = known.unwrap_or_else(|| coordination::Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            ..Default::default()
        },
        spec: None,
    });
    if let Some(uid) = node_uid {
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            ..Default::default()
        };
        lease.metadata.owner_references = Some(vec![owner]);
    }
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity = Some(name.to_owned());
    spec.lease_duration_seconds = i32::try_from(seconds).ok();
    spec.renew_time = Some(MicroTime(now));
    lease
}

/// Keeps the Node object, its status and its lease true. Ends on `shutdown`.
pub(crate) struct NodeAgent {
    /// The store.
    pub client: MetaManagerClient,
    /// The file.
    pub config: Arc<EdgeCore>,
    /// The node's name.
    pub name: String,
    /// The node's address.
    pub address: IpAddr,
    /// The runtime's state.
    pub health: watch::Receiver<RuntimeHealth>,
    /// From the watch.
    pub events: mpsc::Receiver<NodeEvent>,
}

/// What the agent remembers between rounds.
struct State {
    connected: bool,
    /// The cloud's Node object has been seen (its uid), or not.
    node_uid: Option<String>,
    reported: Option<(core::NodeStatus, Instant)>,
    status_due: Instant,
    lease_due: Instant,
    /// When to register next; `None` once the cloud has the node or an attempt is under way.
    register_due: Option<Instant>,
    /// The stored lease is not what the cloud has: ask before renewing.
    lease_stale: bool,
}

impl NodeAgent {
    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let now = Instant::now();
        let mut state = State {
            connected: false,
            node_uid: None,
            reported: None,
            status_due: now,
            lease_due: now,
            register_due: self.config.modules.edged.register_node.then_some(now),
            lease_stale: true,
        };
        loop {
            let mut due = state.status_due;
            if state.connected {
                due = due.min(state.lease_due);
                due = state.register_due.map_or(due, |at| due.min(at));
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep_until(due) => {}
                event = self.events.recv() => match event {
                    Some(event) => self.note(&mut state, event),
                    None => return,
                },
                changed = self.health.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    state.status_due = Instant::now();
                }
            }
            self.act(&mut state).await;
        }
    }

    fn note(&self, state: &mut State, event: NodeEvent) {
        let now = Instant::now();
        match event {
            NodeEvent::Connected(connected) => {
                state.connected = connected;
                if connected {
                    // Somebody may have changed or removed anything meanwhile.
                    state.lease_stale = true;
                    state.lease_due = now;
                    if state.node_uid.is_none() && self.config.modules.edged.register_node {
                        state.register_due = Some(now);
                    }
                }
            }
            NodeEvent::Node(Some(json)) => {
                let node = serde_json::from_slice::<core::Node>(&json);
                match node {
                    Ok(node) => {
                        // Transition times survive a restart of edged. Later, what the cloud shows counts as reported only
                        // where it is another verdict than ours (it thought the node lost): it is set right at once.
                        let ours = state.reported.as_ref().map(|(ours, _)| verdicts(ours));
                        if let Some(status) = node.status.filter(|theirs| ours != Some(verdicts(theirs))) {
                            state.reported = Some((status, now));
                            state.status_due = now;
                        }
                        state.node_uid = node.metadata.uid;
                        state.register_due = None;
                    }
                    Err(e) => tracing::warn!(error = %e, "the cloud's Node object does not parse"),
                }
            }
            NodeEvent::Node(None) | NodeEvent::Delivered { kind: UploadKind::NodeStatus, code: 404 } => {
                state.node_uid = None;
                if self.config.modules.edged.register_node {
                    state.register_due = Some(now);
                }
            }
            NodeEvent::Delivered { kind: UploadKind::Node, code } if code != 200 && code != 409 => {
                tracing::warn!(code, "the cloud refused to register the node");
                state.register_due = Some(now + RETRY);
            }
            NodeEvent::Delivered { kind: UploadKind::Node, .. } => {
                state.register_due = None;
                state.status_due = now;
                state.reported = None;
            }
            NodeEvent::Delivered { kind: UploadKind::Lease, code } if code != 200 => {
                state.lease_stale = true;
                state.lease_due = now + RETRY;
            }
            NodeEvent::Delivered { .. } => {}
        }
    }

    async fn act(&mut self, state: &mut State) {
        let now = Instant::now();
        let kubelet = &self.config.modules.edged.tailored_kubelet_config;
        if state.status_due <= now {
            state.status_due = now + kubelet.node_status_update_frequency;
            let status = self.status(state.reported.as_ref().map(|(status, _)| status));
            let report = match &state.reported {
                Some((last, at)) => {
                    differs(last, &status) || now - *at >= kubelet.node_status_report_frequency
                }
                None => true,
            };
            if report && self.submit(UploadKind::NodeStatus, "node", "", status_patch(&status).into()).await {
                state.reported = Some((status, now));
            }
        }
        if state.connected && state.register_due.is_some_and(|at| at <= now) {
            // Asked again after a while when no answer comes at all.
            state.register_due = Some(now + 6 * RETRY);
            let node = node_object(&self.config, &self.name, self.status(None));
            if let Ok(json) = serde_json::to_vec(&node) {
                self.submit(UploadKind::Node, "node", "", json.into()).await;
            }
        }
        if state.connected && state.lease_due <= now {
            let period = Duration::from_secs(u64::from(kubelet.node_lease_duration_seconds)) / 4;
            state.lease_due = now + if self.renew_lease(state).await { period } else { RETRY };
        }
    }

    fn status(&self, previous: Option<&core::NodeStatus>) -> core::NodeStatus {
        let root = &self.config.modules.edged.root_directory;
        let health = self.health.borrow();
        let (host, pressure) = (Host::read(root), Pressure::read(root));
        node_status(
            &self.config,
            &self.name,
            self.address,
            &host,
            pressure,
            &health,
            previous,
            Timestamp::now(),
        )
    }

    /// The cloud's lease is asked for when ours may be out of date: an update must name the version it replaces.
    async fn renew_lease(&self, state: &mut State) -> bool {
        let key = Key { kind: "lease".into(), namespace: LEASE_NAMESPACE.into(), name: self.name.clone() };
        let json = if state.lease_stale {
            let request = QueryRequest { key: Some(key), json: bytes::Bytes::new() };
            match self.client.query(request).await {
                Ok(reply) => Some(reply.json),
                Err(CallError::Failed { code: MetaManagerError::NotFound, .. }) => None,
                Err(e) => {
                    tracing::debug!(error = %e, "lease not read");
                    return false;
                }
            }
        } else {
            match self.client.get(GetRequest { key: Some(key) }).await {
                Ok(reply) => reply.object.map(|object| object.json),
                Err(CallError::Failed { code: MetaManagerError::NotFound, .. }) => None,
                Err(_) => return false,
            }
        };
        let known = json.and_then(|json| serde_json::from_slice::<coordination::Lease>(&json).ok());
        let seconds = self.config.modules.edged.tailored_kubelet_config.node_lease_duration_seconds;
        let lease = renewed(known, &self.name, state.node_uid.as_deref(), seconds, Timestamp::now());
        state.lease_stale = false;
        match serde_json::to_vec(&lease) {
            Ok(json) => self.submit(UploadKind::Lease, "lease", LEASE_NAMESPACE, json.into()).await,
            Err(_) => false,
        }
    }

    async fn submit(&self, kind: UploadKind, token: &str, namespace: &str, json: bytes::Bytes) -> bool {
        let key = Key { kind: token.into(), namespace: namespace.into(), name: self.name.clone() };
        let request = SubmitRequest { kind: kind.into(), key: Some(key), uid: String::new(), json };
        match self.client.submit(request).await {
            Ok(_) => true,
            Err(e) => {
                tracing::warn!(error = %e, upload = kind.as_str_name(), "not stored");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            cpus: 2,
            memory: 1 << 30,
            storage: 100 << 30,
            machine_id: "m".into(),
            system_uuid: "u".into(),
            boot_id: "b".into(),
            kernel: "6.18".into(),
            os_image: "Debian".into(),
            arch: "amd64",
        }
    }

    fn status(ready: bool, previous: Option<&core::NodeStatus>, second: i64) -> core::NodeStatus {
        let health = RuntimeHealth {
            ready,
            message: "container runtime is down".into(),
            version: "containerd://1".into(),
        };
        let config = EdgeCore::default();
        let now = Timestamp::from_second(second).expect("time");
        let address = "192.0.2.1".parse().expect("ip");
        node_status(&config, "edge-1", address, &host(), Pressure::default(), &health, previous, now)
    }

    fn ready_condition(status: &core::NodeStatus) -> &core::NodeCondition {
        status.conditions.iter().flatten().find(|c| c.type_ == "Ready").expect("Ready")
    }

    #[test]
    fn ready_follows_the_runtime_and_says_why() {
        let up = status(true, None, 1);
        assert_eq!(ready_condition(&up).reason.as_deref(), Some("EdgeReady"));
        let down = status(false, Some(&up), 2);
        assert_eq!(ready_condition(&down).status, "False");
        assert_eq!(ready_condition(&down).message.as_deref(), Some("container runtime is down"));
    }

    #[test]
    fn heartbeat_alone_is_no_difference_and_keeps_the_transition_time() {
        let first = status(true, None, 1);
        let second = status(true, Some(&first), 99);
        assert!(!differs(&first, &second));
        assert_eq!(
            ready_condition(&second).last_transition_time,
            ready_condition(&first).last_transition_time
        );
        assert!(differs(&second, &status(false, Some(&second), 100)));
    }

    #[test]
    fn node_carries_kubeedges_labels_and_the_configured_ones() {
        let mut config = EdgeCore::default();
        config.modules.edged.node_labels.insert("site".into(), "north".into());
        let node = node_object(&config, "edge-1", status(true, None, 1));
        let labels = node.metadata.labels.expect("labels");
        assert_eq!(labels["node-role.kubernetes.io/edge"], "");
        assert_eq!((labels["site"].as_str(), labels["kubernetes.io/arch"].as_str()), ("north", "amd64"));
    }

    #[test]
    fn lease_keeps_the_clouds_version_and_moves_its_time() {
        let now = Timestamp::from_second(7).expect("time");
        let fresh = renewed(None, "edge-1", Some("uid"), 40, now);
        assert!(fresh.metadata.resource_version.is_none(), "the cloud makes it");
        let mut known = fresh;
        known.metadata.resource_version = Some("12".into());
        let later = Timestamp::from_second(17).expect("time");
        let again = renewed(Some(known), "edge-1", Some("uid"), 40, later);
        assert_eq!(again.metadata.resource_version.as_deref(), Some("12"));
        assert_eq!(again.spec.and_then(|s| s.renew_time), Some(MicroTime(later)));
    }
}
