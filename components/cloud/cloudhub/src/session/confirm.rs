//! Tells controllers what the edge has acknowledged, until they have it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use ipc::CallError;
use pki::NodeName;
use proto::controllers::{AcknowledgedRequest, ControllersClient, ControllersError};
use tokio::sync::mpsc;

use super::End;
use crate::throttle::peer_warning;

/// 1 s between attempts while controllers or the Kubernetes API are away.
const RETRY: Duration = Duration::from_secs(1);

/// What waits, the newest per object: at most one entry for each object the node has.
#[derive(Default)]
struct Waiting {
    order: VecDeque<String>,
    newest: HashMap<String, AcknowledgedRequest>,
}

impl Waiting {
    fn push(&mut self, ack: AcknowledgedRequest) {
        let uid = ack.uid.clone();
        if self.newest.insert(uid.clone(), ack).is_none() {
            self.order.push_back(uid);
        }
    }

    fn pop(&mut self) -> Option<AcknowledgedRequest> {
        let uid = self.order.pop_front()?;
        self.newest.remove(&uid)
    }
}

/// Runs until the session ends.
pub(super) async fn run(
    node: &NodeName,
    controllers: &ControllersClient,
    mut acknowledged: mpsc::UnboundedReceiver<Box<AcknowledgedRequest>>,
) -> End {
    let mut waiting = Waiting::default();
    loop {
        while let Ok(ack) = acknowledged.try_recv() {
            waiting.push(*ack);
        }
        let Some(ack) = waiting.pop() else {
            match acknowledged.recv().await {
                Some(ack) => waiting.push(*ack),
                None => return End::Closed,
            }
            continue;
        };
        match controllers.acknowledged(ack.clone()).await {
            Ok(_) => {}
            Err(CallError::Failed { code: ControllersError::Invalid, message }) => {
                peer_warning!(%node, resource = ack.resource, "an acknowledgement was not recorded: {message}");
            }
            Err(error) => {
                tracing::debug!(%node, resource = ack.resource, "acknowledgement not recorded yet: {error}");
                // A newer one of the same object may have come; it stands in for this.
                if !waiting.newest.contains_key(&ack.uid) {
                    waiting.push(ack);
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_acknowledgement_of_an_object_stands_for_all() {
        let ack = |uid: &str, version| AcknowledgedRequest {
            uid: uid.into(),
            resource_version: version,
            ..AcknowledgedRequest::default()
        };
        let mut waiting = Waiting::default();
        for (uid, version) in [("a", 1), ("b", 2), ("a", 3)] {
            waiting.push(ack(uid, version));
        }
        assert_eq!(waiting.pop().unwrap().resource_version, 3);
        assert_eq!(waiting.pop().unwrap().resource_version, 2);
        assert!(waiting.pop().is_none());
    }
}
