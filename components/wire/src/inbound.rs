//! What a received message asks for: one enum for what the edge gets, one for what the hub gets.

use crate::message::{Operation, WireMessage, group};
use crate::{Content, ErrStatus, ObjectMeta, ResourcePath, WireError};

/// Which object, by KubeEdge's resource-type token. `namespace` is empty for cluster scope.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    /// Resource-type token.
    pub kind: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Object name.
    pub name: String,
}

impl ObjectKey {
    fn from_path(path: ResourcePath) -> Option<Self> {
        Some(Self { kind: path.kind, namespace: path.namespace.unwrap_or_default(), name: path.name? })
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// A downstream message, as the edge sees it.
#[derive(Debug, Clone, PartialEq)]
pub enum Inbound {
    /// The cloud's present state of an object.
    Put {
        /// Which object.
        key: ObjectKey,
        /// Its identity; empty only if the cloud sent none.
        uid: String,
        /// The cloud's version; 0 where the object has none.
        resource_version: u64,
        /// The object as it came.
        object: Content,
    },
    /// An object is gone.
    Delete {
        /// Which object.
        key: ObjectKey,
        /// Identity of the object that is gone; empty when the cloud did not say.
        uid: String,
        /// The version it was deleted at; 0 where unknown.
        resource_version: u64,
    },
    /// The answer to a request of this edge.
    Answer {
        /// `msg_id` of the request.
        parent: String,
        /// What the cloud said.
        answer: Answer,
    },
    /// Not for the object store: router rules, twins, tasks, CSI.
    Other,
}

/// The content of an answer, in the four forms CloudCore gives it.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// `"OK"`.
    Ok,
    /// The object, bare or inside `ObjectResp`.
    Object(Content),
    /// Success without an object.
    Empty,
    /// Refused. A text answer that is not `"OK"` is a refusal in words.
    Refused(ErrStatus),
}

impl Inbound {
    /// Takes a downstream message apart. An error means the message contradicts itself and cannot be stored.
    pub fn from_message(message: WireMessage) -> Result<Self, WireError> {
        let header_version = message.resource_version()?;
        let WireMessage { header, route, content } = message;
        if route.operation == Operation::Response && !header.parent_msg_id.is_empty() {
            return Ok(Self::Answer { parent: header.parent_msg_id, answer: Answer::from_content(content)? });
        }
        if route.group != group::RESOURCE && route.group != group::FUNC {
            return Ok(Self::Other);
        }
        let is_delete = match route.operation {
            Operation::Insert | Operation::Update => false,
            Operation::Delete => true,
            _ => return Ok(Self::Other),
        };
        let Some(key) = ObjectKey::from_path(route.resource.parse::<ResourcePath>()?) else {
            return Ok(Self::Other);
        };
        // A node's delete has no content; the path says all there is.
        let meta =
            if is_delete && content.is_null() { ObjectMeta::default() } else { content.object_meta()? };
        if !meta.name.is_empty() && meta.name != key.name {
            return Err(WireError::field(
                "content.metadata.name",
                &meta.name,
                "is not the name in route.resource",
            ));
        }
        if !meta.namespace.is_empty() && meta.namespace != key.namespace {
            return Err(WireError::field(
                "content.metadata.namespace",
                &meta.namespace,
                "is not the namespace in route.resource",
            ));
        }
        let resource_version = match header_version {
            Some(version) => version,
            None => meta.version()?.unwrap_or(0),
        };
        Ok(if is_delete {
            Self::Delete { key, uid: meta.uid, resource_version }
        } else {
            Self::Put { key, uid: meta.uid, resource_version, object: content }
        })
    }
}

impl Answer {
    /// Reads the content of a `response`.
    pub fn from_content(content: Content) -> Result<Self, WireError> {
        if content.is_ok() {
            return Ok(Self::Ok);
        }
        if content.is_null() {
            return Ok(Self::Empty);
        }
        if let Some(resp) = content.object_resp()? {
            return Ok(match (resp.err, resp.object) {
                (Some(err), _) => Self::Refused(err),
                (None, Some(object)) => Self::Object(object),
                (None, None) => Self::Empty,
            });
        }
        if let Some(status) = content.error_status()? {
            return Ok(Self::Refused(status));
        }
        Ok(match content.as_str() {
            // The PEM text of `k8s/ca.crt` is the one text answer that is data; nothing on this edge asks for it.
            Some(text) => Self::Refused(ErrStatus::new(500, "InternalError", &text)),
            None => Self::Object(content),
        })
    }
}

/// An upstream message, as the hub sees it.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "made once per message and taken apart at once, never stored")]
pub enum Upstream {
    /// The edge is alive.
    Keepalive,
    /// The edge has stored the message `parent`.
    Ack {
        /// `msg_id` of the downstream message.
        parent: String,
    },
    /// The edge could not store the message `parent`.
    Nack {
        /// `msg_id` of the downstream message.
        parent: String,
        /// Why.
        reason: String,
    },
    /// Something for a controller; the message itself is handed back.
    Request {
        /// What it is about; `None` when the path has another grammar (twins, tasks, router).
        path: Option<ResourcePath>,
        /// The message.
        message: WireMessage,
    },
}

impl Upstream {
    /// Takes an upstream message apart.
    pub fn from_message(message: WireMessage) -> Self {
        match message.route.operation {
            Operation::Keepalive => Self::Keepalive,
            Operation::Response => Self::Ack { parent: message.header.parent_msg_id },
            Operation::Error => {
                Self::Nack { parent: message.header.parent_msg_id, reason: message.content.data() }
            }
            _ => Self::Request { path: message.route.resource.parse().ok(), message },
        }
    }
}
