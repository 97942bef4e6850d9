//! Upstream messages, parsed once into what they ask for.

use serde_json::Value;
use wire::{Operation, ResourcePath, WireError, WireMessage, kind};

/// What an edge asks of the Kubernetes API.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Request {
    /// The certificate pods trust the API server by.
    GetClusterCa,
    CreateNode {
        name: String,
        node: Value,
    },
    UpdateNode {
        name: String,
        node: Value,
    },
    GetNode {
        name: String,
    },
    PatchNodeStatus {
        name: String,
        patch: String,
    },
    PatchPodStatus {
        namespace: String,
        name: String,
        patch: Value,
    },
    CreatePod {
        namespace: String,
        pod: Value,
    },
    DeletePod {
        namespace: String,
        name: String,
        options: Value,
    },
    GetConfigMap {
        namespace: String,
        name: String,
    },
    GetSecret {
        namespace: String,
        name: String,
    },
    GetVolume {
        name: String,
    },
    GetClaim {
        namespace: String,
        name: String,
    },
    GetAttachment {
        name: String,
    },
    CreateToken {
        namespace: String,
        account: String,
        body: Value,
    },
    Lease {
        namespace: String,
        name: String,
        action: LeaseAction,
    },
    CreateEvent {
        namespace: String,
        event: Value,
    },
    UpdateEvent {
        namespace: String,
        name: String,
        event: Value,
    },
    PatchEvent {
        namespace: String,
        name: String,
        event: Value,
        patch: String,
    },
}

/// What shall happen to a lease.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LeaseAction {
    Get,
    Create(Value),
    Update(Value),
}

/// Why a message is no request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadRequest {
    /// The envelope or its content does not parse.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A well-formed message nothing here answers.
    #[error("operation {operation:?} on {resource:?} is not supported")]
    Unsupported { operation: String, resource: String },
    /// A name that cannot be part of a URL.
    #[error("route.resource: {0:?} is no Kubernetes name")]
    Name(String),
}

impl Request {
    /// Reads a message in either form of `route.resource`. The node in it, if any, was put there by cloudhub.
    pub(crate) fn parse(message: &WireMessage) -> Result<Self, BadRequest> {
        if message.route.resource == "k8s/ca.crt" || message.route.resource.ends_with("/k8s/ca.crt") {
            return Ok(Self::GetClusterCa);
        }
        let target: ResourcePath = message.route.resource.parse()?;
        let unsupported = || BadRequest::Unsupported {
            operation: message.route.operation.to_string(),
            resource: message.route.resource.clone(),
        };
        let namespace = target.namespace.clone().unwrap_or_default();
        let name = target.name.clone().ok_or_else(unsupported)?;
        for part in [&namespace, &name] {
            if !part.is_empty() && !is_name(part) {
                return Err(BadRequest::Name(part.clone()));
            }
        }
        let object = || message.content.parse::<Value>("the object");
        Ok(match (target.kind.as_str(), &message.route.operation) {
            (kind::NODE, Operation::Insert) => Self::CreateNode { name, node: object()? },
            (kind::NODE, Operation::Update) => Self::UpdateNode { name, node: object()? },
            (kind::NODE, Operation::Query) => Self::GetNode { name },
            (kind::NODE_PATCH, Operation::Patch) => {
                Self::PatchNodeStatus { name, patch: message.content.patch_text()? }
            }
            (kind::POD_PATCH, Operation::Patch) => {
                let text = message.content.patch_text()?;
                let patch = serde_json::from_str(&text).map_err(|_| unsupported())?;
                Self::PatchPodStatus { namespace, name, patch }
            }
            (kind::POD, Operation::Insert) => Self::CreatePod { namespace, pod: object()? },
            (kind::POD, Operation::Delete) => {
                // Older edges send the bare uid.
                let options = match object()? {
                    Value::String(uid) => delete_options(&uid),
                    options => options,
                };
                Self::DeletePod { namespace, name, options }
            }
            ("configmap", Operation::Query) => Self::GetConfigMap { namespace, name },
            ("secret", Operation::Query) => Self::GetSecret { namespace, name },
            ("persistentvolume", Operation::Query) => Self::GetVolume { name },
            ("persistentvolumeclaim", Operation::Query) => Self::GetClaim { namespace, name },
            ("volumeattachment", Operation::Query) => Self::GetAttachment { name },
            (kind::SERVICE_ACCOUNT_TOKEN, Operation::Query) => {
                Self::CreateToken { namespace, account: name, body: object()? }
            }
            (kind::LEASE, operation) => {
                let action = match operation {
                    Operation::Query => LeaseAction::Get,
                    Operation::Insert => LeaseAction::Create(object()?),
                    Operation::Update => LeaseAction::Update(object()?),
                    _ => return Err(unsupported()),
                };
                Self::Lease { namespace, name, action }
            }
            ("event", Operation::Insert) => Self::CreateEvent { namespace, event: object()? },
            ("event", Operation::Update) => Self::UpdateEvent { namespace, name, event: object()? },
            ("event", Operation::Patch) => {
                let mut content = object()?;
                let patch = content["patchData"].as_str().ok_or_else(unsupported)?.to_owned();
                Self::PatchEvent { namespace, name, event: content["event"].take(), patch }
            }
            _ => return Err(unsupported()),
        })
    }
}

/// Ends a pod that has ended on its node, unless another of its name has come since.
fn delete_options(uid: &str) -> Value {
    serde_json::json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})
}

/// Every name in Kubernetes is made of these; none of them has a meaning in a URL path.
fn is_name(text: &str) -> bool {
    text != "." && text != ".." && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Content;

    fn message(operation: &str, resource: &str, content: &str) -> WireMessage {
        WireMessage::new(
            "edged",
            "meta",
            operation.into(),
            resource.to_owned(),
            Content::json(content).unwrap(),
        )
    }

    #[test]
    fn both_forms_of_a_path_mean_the_same() {
        for resource in ["ns/secret/s", "node/edge-1/ns/secret/s"] {
            let request = Request::parse(&message("query", resource, "null")).unwrap();
            assert_eq!(request, Request::GetSecret { namespace: "ns".into(), name: "s".into() });
        }
    }

    #[test]
    fn every_request_of_kubeedges_edged_is_understood() {
        let recorded =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../../../shared/fixtures/kubeedge-1.23/wire.jsonl");
        let text =
            std::fs::read_to_string(recorded).expect("the recorded traffic lies beside the repository");
        let mut seen = std::collections::BTreeSet::new();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let Some(message) = line.get("msg").filter(|_| line["dir"] == "up") else { continue };
            let message = WireMessage::decode(message.to_string().as_bytes()).unwrap();
            let requests = message.route.source == "edged" && message.route.operation != Operation::Response;
            if requests {
                let request =
                    Request::parse(&message).unwrap_or_else(|error| panic!("{error}: {}", message.encode()));
                let name = format!("{request:?}").split([' ', '{']).next().unwrap().to_owned();
                seen.insert(name);
            }
        }
        let kinds: Vec<_> = seen.iter().map(String::as_str).collect();
        assert_eq!(
            kinds,
            [
                "CreateEvent",
                "CreateNode",
                "CreateToken",
                "DeletePod",
                "GetConfigMap",
                "GetSecret",
                "Lease",
                "PatchEvent",
                "PatchNodeStatus",
                "PatchPodStatus"
            ]
        );
    }

    #[test]
    fn patches_are_strings_with_json_in_them() {
        let request = Request::parse(&message("patch", "ns/podpatch/p", r#""{\"status\":{}}""#)).unwrap();
        assert!(matches!(request, Request::PatchPodStatus { patch, .. } if patch["status"].is_object()));
        assert!(Request::parse(&message("patch", "ns/podpatch/p", r#""not json""#)).is_err());
    }

    #[test]
    fn a_bare_uid_deletes_that_pod_only() {
        let request = Request::parse(&message("delete", "ns/pod/p", r#""u1""#)).unwrap();
        assert!(
            matches!(request, Request::DeletePod { options, .. } if options["preconditions"]["uid"] == "u1")
        );
    }

    #[test]
    fn names_that_would_change_a_url_are_refused() {
        for name in ["..", ".", "a%2fb", "a?x=1", "a#b", "é"] {
            let parsed = Request::parse(&message("query", &format!("ns/secret/{name}"), "null"));
            assert!(matches!(parsed, Err(BadRequest::Name(_))), "{name}");
        }
    }

    #[test]
    fn what_nothing_answers_is_unsupported() {
        for (operation, resource) in
            [("insert", "ns/secret/s"), ("query", "ns/secret"), ("dance", "ns/lease/l")]
        {
            let parsed = Request::parse(&message(operation, resource, "{}"));
            assert!(matches!(parsed, Err(BadRequest::Unsupported { .. })), "{operation} {resource}");
        }
    }
}
