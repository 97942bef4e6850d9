//! The JSON envelope: `header`, `route`, `content`, as Go's encoder writes it and its decoder takes it.
//!
//! Unknown keys are ignored and white space after the document is allowed, as on KubeEdge's link. Keys are matched exactly: Go
//! would also take `Header` for `header`, but no KubeEdge peer writes that.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Content, MAX_FIELD, MAX_MESSAGE, WireError, excerpt};

/// `route.source`: the module a message comes from.
pub mod source {
    /// The node agent.
    pub const EDGED: &str = "edged";
    /// EdgeHub's own name on the wire; it sends the keepalives.
    pub const WEBSOCKET: &str = "websocket";
    /// The edge store, as the sender of error replies.
    pub const METAMANAGER: &str = "metamanager";
    /// The cloud's controller of pods, nodes, ConfigMaps, Secrets.
    pub const EDGECONTROLLER: &str = "edgecontroller";
    /// The cloud's device controller.
    pub const DEVICECONTROLLER: &str = "devicecontroller";
    /// The cloud's controller of watched arbitrary objects.
    pub const DYNAMICCONTROLLER: &str = "dynamiccontroller";
    /// The cloud's sender of ServiceAccountAccess objects.
    pub const POLICYCONTROLLER: &str = "policycontroller";
    /// The hub itself.
    pub const CLOUDHUB: &str = "cloudhub";
    /// The cloud's task manager.
    pub const TASKMANAGER: &str = "taskmanager";
    /// The cloud's older task manager.
    pub const NODEUPGRADEJOBCONTROLLER: &str = "nodeupgradejobcontroller";
}

/// `route.group`: how the receiving side dispatches.
pub mod group {
    /// Objects and answers, downstream; keepalives.
    pub const RESOURCE: &str = "resource";
    /// Requests of edged, upstream.
    pub const META: &str = "meta";
    /// Device twins.
    pub const TWIN: &str = "twin";
    /// Router rules.
    pub const USER: &str = "user";
    /// The other group EdgeHub hands to MetaManager.
    pub const FUNC: &str = "func";
}

/// One message of the hub link.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct WireMessage {
    /// Identity and correlation.
    pub header: Header,
    /// Where from, what about.
    #[serde(default)]
    pub route: Route,
    /// The payload; JSON `null` when there is none.
    #[serde(default)]
    pub content: Content,
}

/// `header`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Header {
    /// UUIDv4 text; an ACK or an answer names it as its parent.
    pub msg_id: String,
    /// `msg_id` of the message this one answers; empty when it answers none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub parent_msg_id: String,
    /// Unix time of creation, milliseconds.
    #[serde(default)]
    pub timestamp: i64,
    /// `metadata.resourceVersion` of the object in the content, base 10; empty when there is none.
    #[serde(default, rename = "resourceversion", skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// KubeEdge's in-process synchronous call; transports clear it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sync: bool,
    /// KubeEdge's in-process context type; empty on this link.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub context_type: String,
}

/// `route`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Route {
    /// Originating module, see [`source`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Unused on this link.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub destination: String,
    /// Routing group, see [`group`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The verb.
    #[serde(default, skip_serializing_if = "Operation::is_empty")]
    pub operation: Operation,
    /// Slash path; [`crate::ResourcePath`] parses it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource: String,
}

/// `route.operation`. The verbs we act on by name; every other one travels as [`Operation::Other`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Operation {
    /// An object is new.
    Insert,
    /// An object changed, or is repeated.
    Update,
    /// A patch of an object's status.
    Patch,
    /// An object is gone, or shall go.
    Delete,
    /// A request for an object.
    Query,
    /// An answer or an ACK; the parent id says to what.
    Response,
    /// A refusal in words.
    Error,
    /// The edge is alive.
    Keepalive,
    /// Anything to the router.
    Upload,
    /// Any other verb; empty when the message has none.
    Other(String),
}

impl Operation {
    /// The word on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::Query => "query",
            Self::Response => "response",
            Self::Error => "error",
            Self::Keepalive => "keepalive",
            Self::Upload => "upload",
            Self::Other(word) => word,
        }
    }

    fn is_empty(&self) -> bool {
        self.as_str().is_empty()
    }
}

impl Default for Operation {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

impl From<&str> for Operation {
    fn from(word: &str) -> Self {
        match word {
            "insert" => Self::Insert,
            "update" => Self::Update,
            "patch" => Self::Patch,
            "delete" => Self::Delete,
            "query" => Self::Query,
            "response" => Self::Response,
            "error" => Self::Error,
            "keepalive" => Self::Keepalive,
            "upload" => Self::Upload,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Operation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Operation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(Cow::<str>::deserialize(deserializer)?.as_ref()))
    }
}

impl WireMessage {
    /// A message with a fresh id and the present time that answers nothing.
    pub fn new(source: &str, group: &str, operation: Operation, resource: String, content: Content) -> Self {
        Self {
            header: Header::fresh(String::new()),
            route: Route {
                source: source.to_owned(),
                destination: String::new(),
                group: group.to_owned(),
                operation,
                resource,
            },
            content,
        }
    }

    /// The one way in: bounds, JSON, field lengths. `bytes` is one whole WebSocket message.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(WireError::TooLarge { size: bytes.len() });
        }
        let message: Self = serde_json::from_slice(bytes).map_err(|e| WireError::NotAMessage {
            reason: e.to_string(),
            start: excerpt(&String::from_utf8_lossy(&bytes[..bytes.len().min(320)])),
        })?;
        let Self { header, route, .. } = &message;
        for (field, value) in [
            ("header.msg_id", header.msg_id.as_str()),
            ("header.parent_msg_id", &header.parent_msg_id),
            ("header.resourceversion", &header.resource_version),
            ("header.type", &header.context_type),
            ("route.source", &route.source),
            ("route.destination", &route.destination),
            ("route.group", &route.group),
            ("route.operation", route.operation.as_str()),
            ("route.resource", &route.resource),
        ] {
            if value.len() > MAX_FIELD {
                return Err(WireError::field(field, value, "longer than 1024 bytes"));
            }
        }
        if header.msg_id.is_empty() {
            return Err(WireError::field("header.msg_id", "", "empty: nothing could be answered to it"));
        }
        Ok(message)
    }

    /// The JSON text of one WebSocket message.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("strings, integers and valid raw JSON always serialize")
    }

    /// An answer as KubeEdge builds one: source, group and resource are echoed, the parent is this message.
    #[must_use]
    pub fn reply(&self, content: Content) -> Self {
        Self {
            header: Header {
                context_type: self.header.context_type.clone(),
                ..Header::fresh(self.header.msg_id.clone())
            },
            route: Route { destination: String::new(), operation: Operation::Response, ..self.route.clone() },
            content,
        }
    }

    /// "I have it, durably": `response` with content `"OK"`.
    #[must_use]
    pub fn ack(&self) -> Self {
        self.reply(Content::ok())
    }

    /// "I could not store it": `error` with the reason. CloudCore logs it and sends the message again later.
    #[must_use]
    pub fn nack(&self, source: &str, reason: &str) -> Self {
        let mut message = self.reply(Content::text(reason));
        message.route.operation = Operation::Error;
        source.clone_into(&mut message.route.source);
        message
    }

    /// `header.resourceversion` as a number; `None` when the header has none.
    pub fn resource_version(&self) -> Result<Option<u64>, WireError> {
        parse_version("header.resourceversion", &self.header.resource_version)
    }
}

impl Header {
    fn fresh(parent_msg_id: String) -> Self {
        Self {
            msg_id: uuid::Uuid::new_v4().to_string(),
            parent_msg_id,
            timestamp: now_ms(),
            ..Self::default()
        }
    }
}

/// Kubernetes calls resource versions opaque; KubeEdge's hub compares them as base-10 u64, so that is what the link carries.
pub(crate) fn parse_version(field: &'static str, text: &str) -> Result<Option<u64>, WireError> {
    match text {
        "" => Ok(None),
        text => {
            let digits = text.bytes().all(|b| b.is_ascii_digit());
            match text.parse() {
                Ok(version) if digits => Ok(Some(version)),
                _ => Err(WireError::field(field, text, "not a base-10 unsigned 64-bit number")),
            }
        }
    }
}

fn now_ms() -> i64 {
    // A clock before 1970 or after the year 292 million gives 0; nothing on the link depends on the timestamp.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_millis()).ok())
        .unwrap_or(0)
}
