//! The server's end of a stream.

use std::marker::PhantomData;
use std::sync::Arc;

use prost::Message;
use tokio::sync::Semaphore;

use crate::frame::{Head, Kind};
use crate::session::Serving;
use crate::{MAX_PAYLOAD, STREAM_WINDOW, item_cost};

/// The reader of a stream is gone: cancelled, or its connection ended. The handler has nothing left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reader of the stream is gone")]
pub struct Gone;

/// Sends the items of one stream. May leave its handler, but the stream ends when the handler returns.
#[derive(Debug)]
pub struct Sink<T> {
    call: u64,
    serving: Arc<Serving>,
    credit: Credit,
    types: PhantomData<fn(T)>,
}

/// What the reader lets us send, in bytes; closed when it is gone.
#[derive(Debug, Clone)]
pub(crate) struct Credit(Arc<Semaphore>);

impl Credit {
    pub(crate) fn full() -> Self {
        Self(Arc::new(Semaphore::new(STREAM_WINDOW as usize)))
    }

    /// False when the reader grants more than the window: no honest reader does.
    pub(crate) fn grant(&self, bytes: u32) -> bool {
        if self.0.available_permits() + bytes as usize > STREAM_WINDOW as usize {
            return false;
        }
        self.0.add_permits(bytes as usize);
        true
    }

    pub(crate) fn close(&self) {
        self.0.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl<T: Message> Sink<T> {
    pub(crate) fn new(call: u64, serving: Arc<Serving>, credit: Credit) -> Self {
        Self { call, serving, credit, types: PhantomData }
    }

    /// Sends one item, waiting while the reader is [`STREAM_WINDOW`] behind, or [`crate::WRITE_QUEUE`] waits for its
    /// connection.
    ///
    /// An item above [`MAX_PAYLOAD`] cannot travel: it is logged and ends the stream, whose reader is told why.
    pub async fn send(&self, item: T) -> Result<(), Gone> {
        let size = item.encoded_len();
        if size > MAX_PAYLOAD {
            tracing::error!(size, limit = MAX_PAYLOAD, "stream item is too large to send");
            let reason = format!("an item of {size} bytes is larger than a message may be");
            self.serving.break_off(self.call, &self.credit, &reason);
            return Err(Gone);
        }
        self.credit.0.acquire_many(item_cost(size)).await.map_err(|_| Gone)?.forget();
        let head = Head::of(Kind::Item, self.call);
        self.serving
            .line
            .push_with_room(size, |state| {
                // The wait for room may have seen the reader go.
                if self.is_closed() {
                    return Err(Gone);
                }
                state.outbox.message(head, size, &item);
                Ok(())
            })
            .await
    }

    /// Whether the reader is gone, for handlers that wait for something else.
    pub fn is_closed(&self) -> bool {
        self.credit.is_closed()
    }
}
