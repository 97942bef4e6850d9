//! Pods for unit tests.

use crate::model::Pod;

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
