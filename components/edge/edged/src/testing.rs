//! Pods and a node for unit tests.

use crate::model::{Allocatable, NodeFacts, Pod};

/// A pod `default/web-0`, uid `uid-1`, with this spec (JSON).
pub(crate) fn pod(spec: &str) -> Pod {
    pod_with(r#"{"name": "web-0", "namespace": "default", "uid": "uid-1", "labels": {"app": "web"}}"#, spec)
}

/// A pod with this metadata and spec (JSON).
pub(crate) fn pod_with(metadata: &str, spec: &str) -> Pod {
    Pod::parse(format!(r#"{{"metadata": {metadata}, "spec": {spec}}}"#).as_bytes()).expect("a valid test pod")
}

/// Settings with everything below `root`.
pub(crate) fn settings(root: &str) -> crate::settings::Settings {
    let root = std::path::Path::new(root);
    crate::settings::Settings {
        node_name: "edge-1".into(),
        dirs: crate::volumes::PodDirs { root: root.join("kubelet") },
        pod_logs_dir: root.join("logs"),
        cluster_dns: vec![],
        cluster_domain: "cluster.local".into(),
        resolv_conf: "/etc/resolv.conf".into(),
        memory_capacity: 1 << 30,
        serialize_image_pulls: true,
    }
}

/// A node with one address, two cores and 1 GiB.
pub(crate) fn facts() -> NodeFacts {
    NodeFacts {
        node_name: "edge-1".into(),
        host_ips: vec!["192.0.2.1".parse().expect("ip")],
        runtime_name: "containerd".into(),
        allocatable: Allocatable { cpu_millis: 2000, memory: 1 << 30, ephemeral_storage: 1 << 34 },
    }
}
