//! What the cloud sends: source `edgecontroller`, group `resource`, paths without the node prefix.

use crate::message::{Operation, WireMessage, group, source};
use crate::{Content, ErrStatus, ObjectResp, ResourcePath};

/// The state of an object, or its end: `operation` is insert, update or delete. `resource_version` must be that of the object:
/// KubeEdge's hub drops a push without one.
pub fn push(
    operation: Operation,
    path: &ResourcePath,
    resource_version: &str,
    object: Content,
) -> WireMessage {
    let path = path.clone().without_node();
    let mut message =
        WireMessage::new(source::EDGECONTROLLER, group::RESOURCE, operation, path.to_string(), object);
    resource_version.clone_into(&mut message.header.resource_version);
    message
}

/// `"OK"`, with the version where a request changed an object.
pub fn answer_ok(request: &WireMessage, resource_version: &str) -> WireMessage {
    answer(request, resource_version, Content::ok())
}

/// The bare object a query asked for.
pub fn answer_object(request: &WireMessage, resource_version: &str, object: Content) -> WireMessage {
    answer(request, resource_version, object)
}

/// `{"Object":…,"Err":…}`, what inserts, patches and everything about leases get.
pub fn answer_resp(request: &WireMessage, resource_version: &str, resp: &ObjectResp) -> WireMessage {
    answer(request, resource_version, resp.to_content())
}

/// `{"ErrStatus":…}`, what a failed query gets.
pub fn answer_error(request: &WireMessage, err: &ErrStatus) -> WireMessage {
    answer(request, "", err.to_content())
}

fn answer(request: &WireMessage, resource_version: &str, content: Content) -> WireMessage {
    let mut message = request.reply(content);
    if let Ok(path) = request.route.resource.parse::<ResourcePath>() {
        message.route.resource = path.without_node().to_string();
    }
    source::EDGECONTROLLER.clone_into(&mut message.route.source);
    group::RESOURCE.clone_into(&mut message.route.group);
    resource_version.clone_into(&mut message.header.resource_version);
    message
}
