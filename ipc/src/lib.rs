//! Typed calls and streams over Unix sockets.
//!
//! **What it holds:** nothing durable. A [`Channel`] is a client's end of one link, a [`Server`] the other; generated
//! code in the `proto` crate puts types on both, so no component sees bytes.
//!
//! **Which untrusted bytes it touches:** every frame of every peer. A component that was taken over may send anything.
//!
//! **What keeps it safe:**
//! - A frame's length is checked before its buffer grows, a message's length before its parts are put together, and each
//!   is parsed once ([`MAX_PAYLOAD`], lower per method).
//! - Every queue has a size: calls in flight per method ([`Method::at_once`]), bytes of large requests in work
//!   ([`IN_WORK`]), bytes a stream may be ahead of its reader ([`STREAM_WINDOW`]), bytes that wait to be written before no
//!   further request is read ([`WRITE_QUEUE`]). Together they are the ceiling of a link, [`LINK_MEMORY`], which
//!   `tests/memory.rs` measures.
//! - A server knows its peer by the listener it came in on, and checks the uid the kernel reports.
//! - A peer that breaks a bound, or calls what its link does not allow, is told why, disconnected and counted, and both
//!   sides log it with both names. It is never waited for.
//!
//! # The protocol
//!
//! Each frame is a big-endian `u32` length and a protobuf envelope of a kind and its fields. Both sides start with a
//! hello: the range of protocol versions they speak, the interface and its revision, component, generation and software
//! version. They go on in the newest version both speak, or not at all. Then the client sends requests, each with a call
//! number of its choice and the milliseconds it will wait; the server answers each with one reply, or with items and an
//! end, or with an error. The client may cancel a call at any time and grants a stream further credit as it consumes.
//!
//! A message above [`PART`] travels in parts (protocol 2): its first frame says how long the whole is, further ones carry
//! the rest, and between them go the frames of other calls. A call's own frames stay in order.
//!
//! # One task and one lock per connection
//!
//! Whoever has something to say appends it to the connection's outbox, under its lock; the connection's task reads, and
//! writes what has gathered when its turn comes: after everybody who was ready to speak. So a burst leaves in one system
//! call without a timer, and a call that is alone does not wait for a turn. Most unary calls have nothing to wait for and
//! are answered from within the server's reading task.
//!
//! # Other versions
//!
//! Methods and fields are only added, so an interface's revision is the number of its last method. A client refuses a call
//! that its server lacks without sending it; a server that is asked all the same refuses that call and goes on.
//!
//! # When a server dies in the middle
//!
//! Unary calls are repeated to the next server until their deadline: every interface on this bus is idempotent, and its
//! `.proto` says so. A stream ends with [`CallError::Disconnected`], and its owner decides where to resume.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod backoff;
pub mod blocking;
mod client;
mod connection;
mod deadline;
mod error;
mod frame;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod inbox;
mod interface;
mod link;
mod outbox;
mod parts;
mod server;
mod session;
mod sink;
mod stats;
mod streaming;
mod table;
mod throttle;
mod transport;

pub use client::{Caller, Channel, DEFAULT_DEADLINE};
pub use deadline::{deadline, remaining};
pub use error::{CallError, ErrorCode, Fail};
pub use frame::{MAX_PAYLOAD, OLDEST_PROTOCOL, PART, PROTOCOL};
pub use interface::{Identity, Interface, Method, Shape};
pub use outbox::WRITE_QUEUE;
pub use server::{Admission, ServeError, Server, bind};
pub use session::{Answer, Call, Handling, Malformed, Peer, Request, Service};
pub use sink::{Gone, Sink};
pub use stats::{LATENCY_BOUNDS, LinkStats, MethodStats, Stats};
pub use streaming::Streaming;

/// Bytes a stream's server may be ahead of its reader: 256 KiB, so that a batch of small items costs one wake-up.
///
/// An item counts its length plus 64 bytes, at most half the window; so a stream never holds more than two items larger
/// than that, and a reader that stands still costs a bounded amount of memory.
pub const STREAM_WINDOW: u32 = 256 * 1024;

/// Bytes of large requests one connection may have in work, and of messages in parts it may have unfinished: 5 MiB, one of
/// the largest and a mebibyte for others beside it.
///
/// A client waits for its turn; a server disconnects who does not. So what a peer can make this process hold is known
/// before it is allocated.
pub const IN_WORK: usize = MAX_PAYLOAD + WRITE_QUEUE;

/// Connections of one link at once; a further one waits in the backlog. A client needs one, perhaps a blocking one beside
/// it, and its successor after a restart may come before the old one's end is noticed.
pub const CONNECTIONS_PER_LINK: usize = 3;

/// What this crate holds for one link, at most: 50 MiB, however hostile the client. An honest one has one connection,
/// mostly empty.
///
/// Per connection: the requests in work and arriving; frames that wait to be written; messages that go in parts, and
/// answers that wait behind those, each up to its bound and then one of the largest size; and buffers of ten parts. What
/// a handler holds while it works is its component's: the `.proto` says how many there may be.
pub const LINK_MEMORY: usize =
    CONNECTIONS_PER_LINK * (IN_WORK + WRITE_QUEUE + 2 * (WRITE_QUEUE + MAX_PAYLOAD) + 10 * PART);

/// What one item takes out of the window.
fn item_cost(payload: usize) -> u32 {
    /// Keeps the number of empty items bounded too.
    const ITEM_OVERHEAD: u32 = 64;
    // Half the window at most: the reader returns credit once it owes half, so a server that waits for this much is
    // always let go on.
    u32::try_from(payload).unwrap_or(u32::MAX).saturating_add(ITEM_OVERHEAD).min(STREAM_WINDOW / 2)
}

#[cfg(test)]
mod tests;
