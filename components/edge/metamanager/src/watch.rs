//! One watcher: pages out of the store until there is nothing more, then again whenever one of its kinds has changed.
//!
//! A watcher holds one page and its place in the revisions, however far it is behind, so a slow one costs no memory and
//! delays nobody. Deliveries are different: they are not stored, so a watcher that falls [`DELIVERIES`] behind loses the
//! oldest. It is then told the state of the link once more, which is the sign to compare what it waits for with its own
//! books.

use std::sync::Arc;

use ipc::{Fail, Gone, Sink};
use proto::metamanager::watch_event::Event;
use proto::metamanager::{Delivery, MetaManagerError, WatchEvent};
use tokio::sync::{broadcast, watch};

use crate::convert;
use crate::server::storage;
use crate::store::{Cursor, FAR_BEHIND, Paged, Store};

/// Deliveries a watcher may be behind.
pub(crate) const DELIVERIES: usize = 128;

/// What is known beside the store.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) link: watch::Receiver<bool>,
    pub(crate) deliveries: broadcast::Receiver<Delivery>,
}

/// Why a watch ends.
enum End {
    Gone,
    Failed(Fail<MetaManagerError>),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

/// Serves one watcher until it is gone or has to list again.
pub(crate) async fn serve(
    store: &Store,
    kinds: Vec<String>,
    from_revision: u64,
    news: Option<News>,
    out: Sink<WatchEvent>,
) -> Result<(), Fail<MetaManagerError>> {
    let watcher = Watcher { store, kinds: kinds.into(), out };
    match watcher.run(Cursor::resume(from_revision), news).await {
        Ok(()) | Err(End::Gone) => Ok(()),
        Err(End::Failed(fail)) => Err(fail),
    }
}

struct Watcher<'a> {
    store: &'a Store,
    kinds: Arc<[String]>,
    out: Sink<WatchEvent>,
}

impl Watcher<'_> {
    async fn run(&self, mut cursor: Cursor, mut news: Option<News>) -> Result<(), End> {
        // Subscribed before the first page, so that no commit falls in between.
        let mut revisions = self.store.follow(Arc::clone(&self.kinds));
        if let Some(news) = &mut news {
            let connected = *news.link.borrow_and_update();
            self.send(Event::Connected(connected)).await?;
        }
        // The revision the watcher knows of; none before the first bookmark.
        let mut told = None;
        loop {
            revisions.mark_unchanged();
            let head = self.catch_up(&mut cursor, &mut told).await?;
            // A watcher whose kinds rest is told too, so that it can still resume when old deletes are forgotten.
            if told.is_none_or(|told| head.saturating_sub(told) >= FAR_BEHIND) {
                self.send(Event::Bookmark(head)).await?;
                told = Some(head);
            }
            // Objects first: what was committed with a delivery is seen before it.
            tokio::select! {
                biased;
                changed = revisions.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                event = next_news(&mut news) => self.send(event).await?,
            }
        }
    }

    /// Sends everything up to the newest revision and returns that.
    async fn catch_up(&self, cursor: &mut Cursor, told: &mut Option<u64>) -> Result<u64, End> {
        loop {
            let page = match self.store.page(*cursor, Arc::clone(&self.kinds)).await {
                Ok(Paged::Page(page)) => page,
                Ok(Paged::Compacted) => {
                    let message = "deletes since that revision are forgotten: watch again from 0";
                    return Err(End::Failed(Fail::new(MetaManagerError::Compacted, message)));
                }
                Err(error) => return Err(End::Failed(storage(&"read of the store", &error))),
            };
            for event in page.events {
                let event = convert::wire_event(event);
                if let (Some(told), Event::Put(object) | Event::Delete(object)) = (told.as_mut(), &event) {
                    *told = object.revision;
                }
                self.send(event).await?;
            }
            *cursor = page.next;
            if let Some(head) = page.complete {
                return Ok(head);
            }
        }
    }

    async fn send(&self, event: Event) -> Result<(), Gone> {
        self.out.send(WatchEvent { event: Some(event) }).await
    }
}

/// The next thing to tell beside objects; never, for a watcher that did not ask.
async fn next_news(news: &mut Option<News>) -> Event {
    let Some(news) = news else { return std::future::pending().await };
    tokio::select! {
        biased;
        Ok(()) = news.link.changed() => Event::Connected(*news.link.borrow_and_update()),
        delivery = news.deliveries.recv() => match delivery {
            Ok(delivery) => Event::Delivery(delivery),
            Err(broadcast::error::RecvError::Lagged(_)) => Event::Connected(*news.link.borrow_and_update()),
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        },
        else => std::future::pending().await,
    }
}
