//! One edge's downstream: everything it must have, then changes.
//!
//! State, not messages: whenever something changed, what the edge must have is compared with what it was told, and the
//! difference is sent. A slow edge therefore gets the newest state of each object and costs no queue.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ipc::Sink;
use proto::controllers::DownstreamMessage;

use crate::plan::{Step, Told};
use crate::records::Records;
use crate::world::{Session, World};

/// 1 s between attempts to read what the edge has acknowledged.
const RETRY: Duration = Duration::from_secs(1);

/// Sends until the reader is gone; when it goes while nothing happens, this future is dropped.
pub(crate) async fn run(world: &Arc<World>, records: &Records, node: &str, out: &Sink<DownstreamMessage>) {
    let mut session = world.open(node);
    let mut told = Told::default();
    if delete_what_is_gone(&mut session, records, node, out).await.is_err() {
        return;
    }
    loop {
        if let Some(view) = session.view() {
            for step in told.steps(&view) {
                if send(out, &step).await.is_err() {
                    return;
                }
                told.sent(&step);
            }
        }
        session.changed().await;
    }
}

/// Deletes what the edge acknowledged once and the API has no more. Waits until the node's state is known completely:
/// what is not known is not gone.
async fn delete_what_is_gone(
    session: &mut Session,
    records: &Records,
    node: &str,
    out: &Sink<DownstreamMessage>,
) -> Result<(), ipc::Gone> {
    let recorded = loop {
        match records.of(node).await {
            Ok(recorded) => break recorded,
            Err(error) => tracing::debug!(node, "records not read yet: {error}"),
        }
        tokio::time::sleep(RETRY).await;
    };
    if recorded.is_empty() {
        return Ok(());
    }
    let view = loop {
        match session.view() {
            Some(view) if view.held.is_empty() => break view,
            _ => session.changed().await,
        }
    };
    let present: HashSet<&str> = view.objects.iter().map(|object| object.uid.as_str()).collect();
    for record in recorded {
        if !present.contains(record.uid.as_str()) {
            tracing::info!(node, object = %record.key, uid = record.uid, "gone while the edge was away; deleting it there");
            send(out, &Step::Delete { key: record.key, uid: record.uid }).await?;
        }
    }
    Ok(())
}

async fn send(out: &Sink<DownstreamMessage>, step: &Step) -> Result<(), ipc::Gone> {
    let Some(message) = step.message() else { return Ok(()) };
    let ack = wire::ack_mode(&message);
    out.send(DownstreamMessage { message: Bytes::from(message.encode()), ack }).await
}
