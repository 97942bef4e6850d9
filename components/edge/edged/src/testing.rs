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
