//! Which downstream messages the hub expects an ACK for.

use crate::message::{Operation, WireMessage, group, source};
use crate::path::{ResourcePath, kind};

/// Whether a downstream message stays queued at the hub until the edge says `"OK"`. Answers at the edge whether an ACK is due.
///
/// CloudCore's rules (`cloud/pkg/cloudhub/dispatcher`), with one difference: it looks for `membership`, `podlist` and others
/// as substrings of the whole path, so that a ConfigMap called `app-membership` loses reliable delivery. Here they are whole
/// segments. An ACK CloudCore did not wait for is ignored there, so the difference is safe at the edge too.
pub fn ack_mode(message: &WireMessage) -> bool {
    let route = &message.route;
    let resource = route.resource.as_str();
    let path: Option<ResourcePath> = resource.parse().ok();
    let kind = path.as_ref().map(|path| path.kind.as_str());

    let unqueued = matches!(kind, Some("podlist" | kind::SERVICE_ACCOUNT_TOKEN))
        || resource.split('/').next_back() == Some("membership")
        || resource.ends_with("/twin/cloud_updated")
        || resource == "k8s/ca.crt"
        || resource.ends_with("/k8s/ca.crt");
    let one_shot = matches!(
        route.operation.as_str(),
        "createvolume"
            | "deletevolume"
            | "controllerpublishvolume"
            | "controllerunpublishvolume"
            | "applicationResponse"
    );
    let elsewhere = route.group == group::USER
        || route.source == source::TASKMANAGER
        || route.source == source::NODEUPGRADEJOBCONTROLLER;
    let plain_answer = route.operation == Operation::Response
        && (message.content.is_ok() || matches!(message.content.error_status(), Ok(Some(_))));
    let status_traffic = route.source == source::EDGECONTROLLER
        && match kind {
            Some(kind::NODE) => route.operation != Operation::Update,
            Some(kind::POD) => route.operation == Operation::Response,
            Some(
                kind::LEASE
                | kind::NODE_PATCH
                | kind::POD_PATCH
                | kind::POD_STATUS
                | kind::CERTIFICATE_SIGNING_REQUEST,
            ) => true,
            _ => false,
        };
    !(unqueued || one_shot || elsewhere || plain_answer || status_traffic)
}
