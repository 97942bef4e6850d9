//! One edge's session: four loops in one task, so that a stalled socket stops only what needs it.
//!
//! | loop | does |
//! |---|---|
//! | [`read`] | takes messages apart; the only one that reads the socket |
//! | [`write`] | the only one that writes: downstream within the window, answers, pings |
//! | [`uploads`] | brings requests to controllers, in order per object |
//! | [`confirm`] | tells controllers what the edge has acknowledged, until they have it |

mod confirm;
mod lanes;
mod read;
mod uploads;
mod window;
mod write;

use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::Hub;
use crate::registry::Place;

/// A connected edge.
pub(crate) type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// 64 requests wait for controllers; what comes on top is dropped unanswered, and the edge repeats it.
const UPLOADS: usize = 64;

/// 16 answers wait for the socket; then no further upload is begun.
const ANSWERS: usize = 16;

/// 256 acknowledgements wait for the writer, more than can be under way: the window is 32.
const SIGNS: usize = 256;

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("it closed the connection")]
    Closed,
    #[error("cloudhub is stopping")]
    Shutdown,
    #[error("a newer session of the node has replaced it")]
    Replaced,
    #[error("no sign of life for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("it does not read what it is sent")]
    Stalled,
    #[error("connection: {0}")]
    Socket(String),
    #[error("{0}")]
    Message(wire::WireError),
}

/// What the reader tells the writer.
#[derive(Debug)]
enum Sign {
    /// Any frame: the edge is alive.
    Life,
    Ack(String),
    Nack(String, String),
}

/// Runs until one of the loops has a reason to end.
pub(crate) async fn run(place: &Place, socket: Socket, hub: &Hub) -> End {
    let node = place.node();
    let (sink, stream) = socket.split();
    let (signs, signals) = mpsc::channel(SIGNS);
    let (requests, waiting) = mpsc::channel(UPLOADS);
    let (answers, answered) = mpsc::channel(ANSWERS);
    // Boxed items: a channel sets aside room for 32 of them.
    let (acknowledged, to_confirm) = mpsc::unbounded_channel();

    // Boxed: the loops' own futures are large, and most of their bytes are never needed at the same time.
    let mut write = Box::pin(write::run(node, sink, signals, answered, acknowledged, hub));
    tokio::select! {
        end = read::run(node, stream, signs, requests) => end,
        end = &mut write => end,
        never = uploads::run(node, &hub.controllers, waiting, answers) => never,
        never = confirm::run(node, &hub.controllers, to_confirm) => never,
        () = place.replaced() => End::Replaced,
        () = hub.shutdown.cancelled() => End::Shutdown,
    }
}

/// A text frame; JSON of ours is UTF-8 by construction.
fn text(json: String) -> Message {
    Message::text(json)
}
