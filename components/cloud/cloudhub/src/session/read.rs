//! Takes what the edge sends apart.

use futures_util::StreamExt;
use futures_util::stream::SplitStream;
use pki::NodeName;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::Message;
use wire::{Upstream, WireMessage};

use super::{End, Sign, Socket};
use crate::throttle::peer_warning;

/// Modules of the cloud: an edge that names one as its own is not believed.
const CLOUD_SOURCES: [&str; 5] =
    ["cloudhub", "cloudStream", "devicecontroller", "edgecontroller", "synccontroller"];

/// Reads until the socket ends or says what cannot be understood.
pub(super) async fn run(
    node: &NodeName,
    mut stream: SplitStream<Socket>,
    signs: mpsc::Sender<Sign>,
    requests: mpsc::Sender<Box<WireMessage>>,
) -> End {
    loop {
        let message = match stream.next().await {
            Some(Ok(message)) => message,
            Some(Err(Error::ConnectionClosed)) | None => return End::Closed,
            Some(Err(error)) => return End::Socket(error.to_string()),
        };
        let bytes = match message {
            Message::Text(text) => text.into(),
            Message::Binary(bytes) => bytes,
            // Pings are answered by the WebSocket layer at the next write; the writer flushes on every sign of life.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => bytes::Bytes::new(),
            Message::Close(_) => return End::Closed,
        };
        let sign = if bytes.is_empty() {
            Sign::Life
        } else {
            match WireMessage::decode(&bytes).map(Upstream::from_message) {
                Ok(Upstream::Keepalive) => Sign::Life,
                Ok(Upstream::Ack { parent }) => Sign::Ack(parent),
                Ok(Upstream::Nack { parent, reason }) => Sign::Nack(parent, reason),
                Ok(Upstream::Request { message, .. }) => {
                    take(node, message, &requests);
                    Sign::Life
                }
                Err(error) => return End::Message(error),
            }
        };
        // The writer ends only together with this loop.
        if signs.send(sign).await.is_err() {
            return End::Closed;
        }
    }
}

/// Hands a request on, or leaves it unanswered: the edge repeats what it gets no answer to.
fn take(node: &NodeName, message: WireMessage, requests: &mpsc::Sender<Box<WireMessage>>) {
    if CLOUD_SOURCES.contains(&message.route.source.as_str()) {
        peer_warning!(%node, source = message.route.source, "dropped a message that claims to come from the cloud");
    } else if let Err(full) = requests.try_send(Box::new(message)) {
        let message = full.into_inner();
        peer_warning!(%node, resource = message.route.resource, "too many requests wait; dropped one, the edge will repeat it");
    }
}
