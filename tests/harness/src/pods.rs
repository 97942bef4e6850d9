//! Pods to run on the edge node.

use serde_json::{Value, json};

use crate::{BUSYBOX, EDGE_NODE};

/// A pod on the edge node with one busybox container that sleeps.
pub fn sleeper(name: &str) -> Value {
    with_command(name, &["sleep", "3600"])
}

/// A pod on the edge node with one busybox container.
pub fn with_command(name: &str, command: &[&str]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": EDGE_NODE,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {"name": "c", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": command},
            ],
        },
    })
}
