//! The only loop that writes to the socket: downstream within the window, answers, pings.

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use ipc::Streaming;
use pki::NodeName;
use proto::controllers::{AcknowledgedRequest, ControllersError, DownstreamMessage, DownstreamRequest};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::window::{Due, Pending, Window};
use super::{End, Sign, Socket, text};
use crate::Hub;
use crate::throttle::peer_warning;

/// 15 s for one write, as KubeEdge's edge allows itself.
const WRITE: Duration = Duration::from_secs(15);

/// 50 ms to 2 s between attempts to open the downstream: controllers that restart are back in a moment.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);

type Downstream = Streaming<DownstreamMessage, ControllersError>;

struct Writer<'a> {
    node: &'a NodeName,
    sink: SplitSink<Socket, Message>,
    window: Window,
    /// The next message, where the window does not admit it yet.
    held: Option<Pending>,
    acknowledged: mpsc::UnboundedSender<Box<AcknowledgedRequest>>,
}

/// Runs until the socket fails or the edge is silent for too long.
pub(super) async fn run(
    node: &NodeName,
    sink: SplitSink<Socket, Message>,
    mut signs: mpsc::Receiver<Sign>,
    mut answers: mpsc::Receiver<Message>,
    acknowledged: mpsc::UnboundedSender<Box<AcknowledgedRequest>>,
    hub: &Hub,
) -> End {
    let mut writer = Writer { node, sink, window: Window::default(), held: None, acknowledged };
    let mut downstream: Option<Downstream> = None;
    let mut retry = FIRST_RETRY;
    let mut open_at = Instant::now();
    let mut heard = Instant::now();
    let mut pinged = Instant::now();
    // A third of the silence that ends a session: two pings may be lost.
    let ping_every = hub.silence / 3;
    loop {
        let now = Instant::now();
        let wake =
            [Some(heard + hub.silence), Some(heard.max(pinged) + ping_every), writer.window.next_due()];
        let wake = wake.into_iter().flatten().min().unwrap_or(now + hub.silence);
        let result = tokio::select! {
            sign = signs.recv() => {
                heard = Instant::now();
                match sign {
                    Some(sign) => writer.hear(sign).await,
                    None => return End::Closed,
                }
            }
            Some(answer) = answers.recv() => writer.send(answer).await,
            opened = open(hub, node, open_at), if downstream.is_none() => {
                match opened {
                    Ok(opened) => {
                        writer.start_over();
                        downstream = Some(opened);
                    }
                    Err(reason) => {
                        tracing::debug!(%node, "no downstream yet: {reason}");
                        open_at = Instant::now() + jittered(retry);
                        retry = (retry * 2).min(LAST_RETRY);
                    }
                }
                Ok(())
            }
            item = next(&mut downstream), if writer.held.is_none() => match item {
                Some(Ok(item)) => {
                    retry = FIRST_RETRY;
                    writer.push(item).await
                }
                ended => {
                    if let Some(Err(error)) = ended {
                        tracing::debug!(%node, "downstream interrupted: {error}");
                    }
                    downstream = None;
                    open_at = Instant::now() + jittered(retry);
                    retry = (retry * 2).min(LAST_RETRY);
                    Ok(())
                }
            },
            () = tokio::time::sleep_until(wake.into()) => {
                let now = Instant::now();
                if now >= heard + hub.silence {
                    return End::Silent(hub.silence);
                }
                if now >= heard.max(pinged) + ping_every {
                    pinged = now;
                    writer.send(Message::Ping(bytes::Bytes::new())).await
                } else {
                    writer.repeat(now).await
                }
            }
        };
        if let Err(end) = result {
            return end;
        }
    }
}

impl Writer<'_> {
    async fn send(&mut self, message: Message) -> Result<(), End> {
        match tokio::time::timeout(WRITE, self.sink.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(End::Socket(error.to_string())),
            Err(_) => Err(End::Stalled),
        }
    }

    /// A message from controllers.
    async fn push(&mut self, item: DownstreamMessage) -> Result<(), End> {
        // Copied: a slice of the bus's read buffer would keep all of that buffer while this waits for its ACK.
        let Ok(json) = String::from_utf8(item.message.to_vec()) else { return Ok(()) };
        if !item.ack {
            return self.send(text(json)).await;
        }
        match Pending::new(self.node.as_str(), json) {
            Ok(message) => self.push_or_hold(message).await,
            Err(error) => {
                tracing::error!(node = %self.node, "controllers sent what is no message: {error}");
                Ok(())
            }
        }
    }

    async fn push_or_hold(&mut self, message: Pending) -> Result<(), End> {
        if !self.window.admits(&message) {
            self.held = Some(message);
            return Ok(());
        }
        let text = message.text.clone();
        self.window.sent(message, Instant::now());
        self.send(Message::Text(text)).await
    }

    async fn hear(&mut self, sign: Sign) -> Result<(), End> {
        match sign {
            // Also writes the pong the WebSocket layer may have queued.
            Sign::Life => {
                let flushed = tokio::time::timeout(WRITE, self.sink.flush()).await;
                return match flushed {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => Err(End::Socket(error.to_string())),
                    Err(_) => Err(End::Stalled),
                };
            }
            Sign::Ack(id) => {
                if let Some(ack) = self.window.acknowledged(&id) {
                    // Fails only when the session is ending.
                    let _ = self.acknowledged.send(Box::new(ack));
                }
            }
            // It stays under way and is sent again in a while: what hinders the edge may pass.
            Sign::Nack(id, reason) => {
                let resource = self.window.resource_of(&id).unwrap_or_default();
                peer_warning!(node = %self.node, resource, "the edge could not store a message: {reason}");
            }
        }
        match self.held.take() {
            Some(message) => self.push_or_hold(message).await,
            None => Ok(()),
        }
    }

    /// Sends again what was not acknowledged in time.
    async fn repeat(&mut self, now: Instant) -> Result<(), End> {
        while let Some(due) = self.window.due(now) {
            match due {
                Due::Resend(text) => self.send(Message::Text(text)).await?,
                Due::GiveUp(message) => peer_warning!(
                    node = %self.node,
                    resource = message.ack.resource,
                    "the edge did not acknowledge a message sent 5 times; it will be sent again to its next session"
                ),
            }
        }
        match self.held.take() {
            Some(message) => self.push_or_hold(message).await,
            None => Ok(()),
        }
    }

    /// A new stream sends everything anew, so what waits of the old one need not be repeated.
    fn start_over(&mut self) {
        self.window.clear();
        self.held = None;
    }
}

async fn open(hub: &Hub, node: &NodeName, at: Instant) -> Result<Downstream, String> {
    tokio::time::sleep_until(at.into()).await;
    hub.controllers
        .downstream(DownstreamRequest { node: node.as_str().to_owned() })
        .await
        .map_err(|error| error.to_string())
}

/// The next item; waits for ever while there is no stream.
async fn next(
    downstream: &mut Option<Downstream>,
) -> Option<Result<DownstreamMessage, ipc::CallError<ControllersError>>> {
    match downstream {
        Some(downstream) => downstream.next().await,
        None => std::future::pending().await,
    }
}

/// Half to all of `delay`: thousands of sessions do not come back in step.
fn jittered(delay: Duration) -> Duration {
    delay / 2 + delay.mul_f64(fastrand::f64() / 2.0)
}
