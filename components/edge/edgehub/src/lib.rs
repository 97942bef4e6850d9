//! The link to the cloud hub.
//!
//! **Holds** the WebSocket to the hub, the node's certificate and the cloud's CA (both public), and for a moment the join
//! token. Not the node's private key: keyholder signs. Not the node's state: everything the cloud sends is committed by
//! metamanager before it is acknowledged, everything the node tells waits in metamanager's outbox until the cloud has it.
//!
//! **Untrusted bytes:** whatever answers at the hub's address, before and after TLS: HTTP answers, certificates, WebSocket
//! messages; the join token and the configuration come from the operator.
//!
//! **What keeps it safe:** the one unverified TLS connection fetches the CA certificate, which counts only if the token has
//! its hash; all others trust that CA alone. Messages are bounded ([`wire::MAX_MESSAGE`]) and parsed once; what the store does
//! not take is refused by message, never acknowledged. At most 32 uploads are under way, and reading pauses while the
//! store lags behind. Odd messages are counted, and logged at the 1st, 10th, 100th of a kind.
//!
//! Nothing here ends the process but a configuration that cannot be used: without its cloud the node goes on.
//!
//! | file | what |
//! |---|---|
//! | `process` | configuration, links to the other components, readiness |
//! | `hub` | join, connect, session, back-off, again |
//! | `session`, `pushes`, `uploads` | what a session does, as pure functions of state, event and time |
//! | `link` | the WebSocket, and the loop that carries a session's actions out |
//! | `join`, `keys`, `tls` | certificates |

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod backoff;
pub mod config;
mod hub;
pub mod join;
pub mod keys;
mod link;
mod process;
mod pushes;
mod report;
mod session;
pub mod tls;
mod uploads;

pub use hub::{Hub, KeySource};
pub use process::main;
pub use report::Report;
