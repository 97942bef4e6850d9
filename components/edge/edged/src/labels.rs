//! Labels and annotations by which containers are recognised after a restart of edged, spelled as the kubelet spells
//! them (`pkg/kubelet/types/labels.go`, `pkg/kubelet/kuberuntime/labels.go`): what another node agent left behind is
//! adopted, too.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1 as core;

use crate::model::Pod;

/// Label: the pod's name.
pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: the pod's namespace.
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: the pod's uid.
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label: the container's name in the pod.
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: [`spec_hash`].
pub(crate) const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// Annotation: the attempt, counted from 0.
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: where in the container its last words are.
pub(crate) const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: `File` or `FallbackToLogsOnError`.
pub(crate) const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation: the pod's `terminationGracePeriodSeconds`, for when the pod's object is gone.
pub(crate) const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Labels of a pod's sandbox: the pod's own and its identity.
pub(crate) fn of_sandbox(pod: &Pod) -> BTreeMap<String, String> {
    let mut labels = pod.object.metadata.labels.clone().unwrap_or_default();
    labels.extend(identity(pod));
    labels
}

/// Labels of a container.
pub(crate) fn of_container(pod: &Pod, container: &core::Container) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<_, _> = identity(pod).into();
    labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
    labels
}

fn identity(pod: &Pod) -> [(String, String); 3] {
    [(POD_NAME, &pod.key.name), (POD_NAMESPACE, &pod.key.namespace), (POD_UID, &pod.uid)]
        .map(|(label, value)| (label.to_owned(), value.clone()))
}

/// Annotations of one attempt at running a container.
pub(crate) fn annotations_of_container(
    pod: &Pod,
    container: &core::Container,
    attempt: u32,
) -> BTreeMap<String, String> {
    let path = container.termination_message_path.as_deref().unwrap_or(DEFAULT_TERMINATION_MESSAGE_PATH);
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    let mut annotations = BTreeMap::from([
        (CONTAINER_HASH.to_owned(), spec_hash(container)),
        (RESTART_COUNT.to_owned(), attempt.to_string()),
        (TERMINATION_MESSAGE_PATH.to_owned(), path.to_owned()),
        (TERMINATION_MESSAGE_POLICY.to_owned(), policy.to_owned()),
    ]);
    if let Some(grace) = pod.spec().termination_grace_period_seconds {
        annotations.insert(GRACE_PERIOD.to_owned(), grace.to_string());
    }
    annotations
}

/// Kubernetes' default for `terminationMessagePath`.
pub(crate) const DEFAULT_TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";

/// What makes a running container another one: its name and image (`HashContainer` since Kubernetes 1.31). The hash is
/// the kubelet's bit for bit, 32-bit FNV-1a over Go's printed form of the JSON bytes, so that a node taken over from a
/// kubelet keeps its containers.
pub(crate) fn spec_hash(container: &core::Container) -> String {
    let image = container.image.as_deref().unwrap_or("");
    let fields = BTreeMap::from([("image", image), ("name", container.name.as_str())]);
    let json = serde_json::to_string(&fields).expect("a map of strings is JSON");
    // Go's encoder escapes these for HTML.
    let json = json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e");
    let mut printed = String::from("([]uint8)[");
    for (at, byte) in json.bytes().enumerate() {
        let gap = if at == 0 { "" } else { " " };
        write!(printed, "{gap}{byte}").expect("a String takes everything");
    }
    printed.push(']');
    let hash = printed
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_the_kubelets() {
        // Kubernetes' own sample, pkg/kubelet/container/helpers_test.go.
        let container = core::Container {
            name: "test_container".into(),
            image: Some("foo/image:v1".into()),
            args: Some(vec!["/bin/sh".into()]),
            ..Default::default()
        };
        assert_eq!(spec_hash(&container), "8e45cbd0");
    }
}
