//! What the edge sends. Source `edged`, group `meta`, as KubeEdge's edge does.

use crate::message::{Operation, WireMessage, group, source};
use crate::path::{ResourcePath, kind};
use crate::{Content, WireError};

fn request(
    operation: Operation,
    namespace: &str,
    kind: &str,
    name: &str,
    content: Content,
) -> Result<WireMessage, WireError> {
    let path = ResourcePath::object(namespace, kind, name)?;
    Ok(WireMessage::new(source::EDGED, group::META, operation, path.to_string(), content))
}

/// "This edge is alive"; never answered.
pub fn keepalive() -> WireMessage {
    WireMessage::new(
        source::WEBSOCKET,
        group::RESOURCE,
        Operation::Keepalive,
        "node".to_owned(),
        Content::text("ping"),
    )
}

/// Registers the node. Answer: `ObjectResp`.
pub fn node_insert(node: &str, object: Content) -> Result<WireMessage, WireError> {
    request(Operation::Insert, "", kind::NODE, node, object)
}

/// Patches the node's status; `patch` is a strategic-merge patch. Answer: `ObjectResp`.
pub fn node_patch(node: &str, patch: &str) -> Result<WireMessage, WireError> {
    request(Operation::Patch, "", kind::NODE_PATCH, node, Content::text(patch))
}

/// Patches a pod's status; `patch` is a strategic-merge patch with `metadata.uid`. Answer: `ObjectResp`.
pub fn pod_patch(namespace: &str, pod: &str, patch: &str) -> Result<WireMessage, WireError> {
    request(Operation::Patch, namespace, kind::POD_PATCH, pod, Content::text(patch))
}

/// Tells that the pod has ended on this node; `options` are DeleteOptions. Answer: `"OK"` or a refusal.
pub fn pod_delete(namespace: &str, pod: &str, options: Content) -> Result<WireMessage, WireError> {
    request(Operation::Delete, namespace, kind::POD, pod, options)
}

/// Creates the node's lease. Answer: `ObjectResp`.
pub fn lease_insert(namespace: &str, name: &str, lease: Content) -> Result<WireMessage, WireError> {
    request(Operation::Insert, namespace, kind::LEASE, name, lease)
}

/// Renews the node's lease. Answer: `ObjectResp`.
pub fn lease_update(namespace: &str, name: &str, lease: Content) -> Result<WireMessage, WireError> {
    request(Operation::Update, namespace, kind::LEASE, name, lease)
}

/// Reports an event. Never answered.
pub fn event_insert(namespace: &str, name: &str, event: Content) -> Result<WireMessage, WireError> {
    request(Operation::Insert, namespace, kind::EVENT, name, event)
}

/// Asks for an object. Leases answer with `ObjectResp`, others with the bare object or `{"ErrStatus":…}`.
/// `body` is `null`, except a TokenRequest for `serviceaccounttoken`.
pub fn query(namespace: &str, kind: &str, name: &str, body: Content) -> Result<WireMessage, WireError> {
    request(Operation::Query, namespace, kind, name, body)
}
