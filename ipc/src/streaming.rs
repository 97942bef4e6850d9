//! The reader's end of a stream.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::client::Slot;
use futures_util::{Stream, StreamExt};
use prost::Message;

use crate::connection::{Event, Incoming};
use crate::{CallError, ErrorCode};

/// Items of one call, in order. Dropping it cancels the call on the server.
///
/// The server may be at most [`crate::STREAM_WINDOW`] bytes ahead: credit goes back as items are taken. `bytes` fields of
/// an item are slices of a read buffer (16 KiB or more) and keep it alive: copy what is kept for long.
#[derive(Debug)]
pub struct Streaming<T, E> {
    // Before the permit: the cancel must be on its way when the next stream of this method may open.
    incoming: Option<Incoming>,
    _slot: Slot,
    types: PhantomData<fn() -> (T, E)>,
}

impl<T: Message + Default, E: ErrorCode> Streaming<T, E> {
    pub(crate) fn new(incoming: Incoming, slot: Slot) -> Self {
        Self { incoming: Some(incoming), _slot: slot, types: PhantomData }
    }

    /// The next item; `None` when the server ended the stream in good order. After an error there is nothing more.
    ///
    /// Safe to cancel: no item is lost.
    pub async fn next(&mut self) -> Option<Result<T, CallError<E>>> {
        StreamExt::next(self).await
    }
}

impl<T: Message + Default, E: ErrorCode> Stream for Streaming<T, E> {
    type Item = Result<T, CallError<E>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let next = match ready!(incoming.poll_next(cx)) {
            Event::Item(payload) => match T::decode(payload) {
                Ok(item) => return Poll::Ready(Some(Ok(item))),
                Err(error) => Some(Err(CallError::Malformed(error.to_string()))),
            },
            Event::End => None,
            Event::Broken(broken) => Some(Err(broken.into())),
        };
        self.incoming = None;
        Poll::Ready(next)
    }
}
