use std::sync::Arc;

use tokio::sync::mpsc;

use super::log::Event;
use crate::resources::Resource;

/// Changes a watcher may lag behind. They are shared between watchers, so a slow one holds few bytes of its own.
const LAG: usize = 1024;

/// A live feed of committed changes, in order. It ends when the watcher lags by more than [`LAG`]: it has then missed
/// changes and must start over.
pub(crate) struct Subscription(mpsc::Receiver<Arc<Event>>);

impl Subscription {
    /// The next change; `None` after lagging behind.
    pub(crate) async fn next(&mut self) -> Option<Arc<Event>> {
        self.0.recv().await
    }

    /// Whether nothing is waiting.
    pub(crate) fn is_drained(&self) -> bool {
        self.0.is_empty()
    }
}

struct Watcher {
    resource: &'static Resource,
    namespace: Option<String>,
    /// Later changes only: the earlier ones came with the answer to the subscription.
    after: u64,
    feed: mpsc::Sender<Arc<Event>>,
}

#[derive(Default)]
pub(super) struct Watchers(Vec<Watcher>);

impl Watchers {
    pub(super) fn subscribe(
        &mut self,
        resource: &'static Resource,
        namespace: Option<&str>,
        after: u64,
    ) -> Subscription {
        self.0.retain(|watcher| !watcher.feed.is_closed());
        let (feed, receiver) = mpsc::channel(LAG);
        self.0.push(Watcher { resource, namespace: namespace.map(str::to_owned), after, feed });
        Subscription(receiver)
    }

    pub(super) fn publish(&mut self, event: &Arc<Event>) {
        self.0.retain(|watcher| {
            let concerned = std::ptr::eq(watcher.resource, event.resource)
                && event.version > watcher.after
                && watcher.namespace.as_ref().is_none_or(|ns| *ns == event.namespace);
            // A full feed or a reader that left: dropping our end tells the former.
            !concerned || watcher.feed.try_send(event.clone()).is_ok()
        });
    }
}
