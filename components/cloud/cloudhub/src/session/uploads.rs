//! Brings an edge's requests to controllers and their answers back.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ipc::CallError;
use pki::NodeName;
use proto::controllers::{ControllersClient, ControllersError, UpstreamRequest};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Message;
use wire::{ErrStatus, WireMessage, down, group};

use super::lanes::Lanes;
use super::{End, text};
use crate::throttle::peer_warning;

/// 55 s, during which controllers or the Kubernetes API may restart: an edge waits 60 s before it repeats a request.
const PATIENCE: Duration = Duration::from_secs(55);

/// 100 ms to 2 s between attempts while the Kubernetes API is away.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// Runs until the session ends.
pub(super) async fn run(
    node: &NodeName,
    controllers: &ControllersClient,
    mut requests: mpsc::Receiver<Box<WireMessage>>,
    answers: mpsc::Sender<Message>,
) -> End {
    let mut lanes = Lanes::default();
    let mut running = FuturesUnordered::new();
    loop {
        while let Some((lane, request)) = lanes.begin() {
            running.push(async move {
                let answer = ask(node, controllers, &request).await;
                (lane, answer)
            });
        }
        tokio::select! {
            request = requests.recv(), if lanes.has_room() => match request {
                Some(request) => lanes.push(request),
                None => return End::Closed,
            },
            Some((lane, answer)) = running.next() => {
                lanes.done(&lane);
                if let Some(answer) = answer
                    && answers.send(answer).await.is_err()
                {
                    return End::Closed;
                }
            }
        }
    }
}

/// The answer, if there is one to give. Nothing is answered that controllers did not say: an edge repeats what stays
/// unanswered, and what is answered wrongly is lost.
async fn ask(node: &NodeName, controllers: &ControllersClient, request: &WireMessage) -> Option<Message> {
    let upstream = UpstreamRequest { node: node.as_str().to_owned(), message: Bytes::from(request.encode()) };
    let give_up = Instant::now() + PATIENCE;
    let mut retry = FIRST_RETRY;
    let outcome = loop {
        let left = give_up.saturating_duration_since(Instant::now());
        match controllers.upstream_with_deadline(upstream.clone(), left).await {
            Err(CallError::Failed { code: ControllersError::Unavailable, .. }) if left > retry => {
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(LAST_RETRY);
            }
            outcome => break outcome,
        }
    };
    match outcome {
        Ok(reply) => {
            let answer = reply.answer?;
            String::from_utf8(answer.to_vec()).ok().map(text)
        }
        Err(CallError::Failed { code: ControllersError::Invalid, message }) => {
            peer_warning!(%node, resource = request.route.resource, "refused a request: {message}");
            // Only requests of edged are waited for there.
            let waited_for = request.route.group == group::META;
            let status = ErrStatus::new(400, "BadRequest", &message);
            waited_for.then(|| text(down::answer_error(request, &status).encode()))
        }
        Err(error) => {
            peer_warning!(%node, resource = request.route.resource, "left a request unanswered: {error}");
            None
        }
    }
}
