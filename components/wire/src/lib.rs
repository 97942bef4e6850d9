//! KubeEdge's message envelope, resource paths and content wrappers, parsed once into types.
//!
//! Holds nothing: pure functions between bytes and types. Every byte given to [`WireMessage::decode`] comes from the other end
//! of the hub link and is wrong until it has become one of these types. What keeps it safe: one decode entry point with a
//! size bound ([`MAX_MESSAGE`]) and field bounds, no recursion over nested JSON (content stays raw text until a typed
//! accessor reads the few members it needs), and numbers that never pass through a float.
//!
//! | module | what |
//! |---|---|
//! | [`message`] | the envelope: header, route, content; decode, encode, replies |
//! | [`path`] | `route.resource`, in the form on the wire and the form inside the cloud |
//! | [`content`] | content as raw JSON with typed views: object metadata, `ObjectResp`, `ErrStatus`, patch text |
//! | [`inbound`] | what a received message asks for, one enum per end of the link |
//! | [`up`], [`down`] | constructors of every message each end sends |
//! | [`ack`] | which downstream messages the hub expects an ACK for |

#![allow(
    clippy::missing_panics_doc,
    reason = "the `expect`s here state why they cannot fail; a caller has nothing to heed"
)]

pub mod ack;
pub mod content;
pub mod down;
pub mod inbound;
pub mod message;
pub mod path;
pub mod up;

pub use ack::ack_mode;
pub use content::{Content, ErrStatus, ObjectMeta, ObjectResp};
pub use inbound::{Answer, Inbound, ObjectKey, Upstream};
pub use message::{Header, Operation, Route, WireMessage, group, source};
pub use path::{ResourcePath, kind};

/// Largest message taken or made, bytes. KubeEdge sets no limit; the largest object an API server stores is 1.5 MiB (etcd's
/// request limit), so this leaves room for an answer that wraps one and for JSON escapes.
pub const MAX_MESSAGE: usize = 8 * 1024 * 1024;

/// Longest header or route string, bytes. The longest legal resource path, two 253-byte names and a type, is under 700.
pub const MAX_FIELD: usize = 1024;

/// Why bytes were not a message, or a message not what it claimed to be. The text names the field and the value.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The message is larger than [`MAX_MESSAGE`].
    #[error("message of {size} bytes is larger than the limit of {MAX_MESSAGE}")]
    TooLarge {
        /// Size in bytes.
        size: usize,
    },
    /// Not JSON, or JSON of another shape than the envelope.
    #[error("message is not a KubeEdge JSON message: {reason} (it begins {start:?})")]
    NotAMessage {
        /// What the JSON parser found, with line and column.
        reason: String,
        /// The first bytes, for the log.
        start: String,
    },
    /// A field has a value it cannot have.
    #[error("{field} {value:?}: {reason}")]
    Field {
        /// JSON path of the field, e.g. `route.resource`.
        field: &'static str,
        /// The value, cut to a loggable length.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The content is not of the shape this message needs.
    #[error("content of {what}: {reason}")]
    Content {
        /// What was expected, e.g. `object metadata`.
        what: &'static str,
        /// What the JSON parser found.
        reason: String,
    },
}

impl WireError {
    fn field(field: &'static str, value: &str, reason: &'static str) -> Self {
        Self::Field { field, value: excerpt(value), reason }
    }

    fn content(what: &'static str, reason: &dyn std::fmt::Display) -> Self {
        Self::Content { what, reason: reason.to_string() }
    }
}

/// The first 80 characters: enough to recognise a value in a log, too little to flood it.
fn excerpt(value: &str) -> String {
    value.chars().take(80).collect()
}
