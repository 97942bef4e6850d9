//! Messages larger than a part: how they are cut, and how they are put together again.

use std::collections::{HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::frame::{self, Head, Kind, PART, Payload, Piece};
use crate::{IN_WORK, MAX_PAYLOAD};

/// A large message on its way out.
#[derive(Debug)]
pub(crate) struct Large {
    pub(crate) head: Head,
    /// Bytes of the whole.
    pub(crate) total: usize,
    rest: Bytes,
    /// Frames of the same call that must not overtake it.
    pub(crate) behind: VecDeque<Behind>,
}

/// What waits behind a large message of its call.
#[derive(Debug)]
pub(crate) enum Behind {
    /// Whole frames.
    Frames(Vec<u8>),
    Large(Large),
}

impl Large {
    pub(crate) fn new(head: Head, message: &impl Message) -> Self {
        let rest = Bytes::from(message.encode_to_vec());
        Self { head, total: rest.len(), rest, behind: VecDeque::new() }
    }

    /// Appends the head of the next part's frame to `out` and returns the bytes that follow it.
    pub(crate) fn cut(&mut self, out: &mut Vec<u8>) -> Bytes {
        let first = self.rest.len() == self.total;
        let bytes = self.rest.split_to(PART.min(self.rest.len()));
        let (head, total) =
            if first { (self.head, self.total) } else { (Head::of(Kind::Part, self.head.call), 0) };
        frame::part(out, head, total, bytes.len());
        bytes
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.rest.is_empty()
    }

    /// Bytes not cut yet, with those behind.
    pub(crate) fn queued(&self) -> usize {
        let behind = self.behind.iter().map(|behind| match behind {
            Behind::Frames(frames) => frames.len(),
            Behind::Large(large) => large.queued(),
        });
        self.rest.len() + behind.sum::<usize>()
    }
}

/// The messages of one connection that have begun to arrive, each with what is known of it.
///
/// At most [`IN_WORK`] bytes have been announced at any time, and a message in parts is larger than a part, so both the
/// memory and the number of them is bounded before anything is allocated.
#[derive(Debug)]
pub(crate) struct Assembly<T> {
    open: HashMap<u64, Partial<T>>,
    announced: usize,
}

#[derive(Debug)]
struct Partial<T> {
    about: T,
    total: usize,
    bytes: BytesMut,
}

impl<T> Default for Assembly<T> {
    fn default() -> Self {
        Self { open: HashMap::new(), announced: 0 }
    }
}

impl<T> Assembly<T> {
    /// Takes the first part of a message. The error is the rule that was broken.
    pub(crate) fn begin(
        &mut self,
        call: u64,
        total: usize,
        first: Payload<'_>,
        about: T,
    ) -> Result<(), String> {
        if total <= PART || total > MAX_PAYLOAD || first.len() >= total {
            return Err(format!("a message of {total} bytes in parts, the first of {}", first.len()));
        }
        if self.announced + total > IN_WORK {
            return Err(format!("more than {IN_WORK} bytes in unfinished messages"));
        }
        if self.open.contains_key(&call) {
            return Err(format!("a second message of call {call} while the first is unfinished"));
        }
        // Pages nobody has written to cost no memory: what a peer only announces is an address range.
        let mut bytes = BytesMut::with_capacity(total);
        bytes.extend_from_slice(first.as_slice());
        self.announced += total;
        self.open.insert(call, Partial { about, total, bytes });
        Ok(())
    }

    /// Takes a further part; the message, when it was the last. The error is the rule that was broken.
    pub(crate) fn add(&mut self, call: u64, part: Payload<'_>) -> Result<Option<(T, Bytes)>, String> {
        let partial =
            self.open.get_mut(&call).ok_or_else(|| format!("a part of no message of call {call}"))?;
        let left = partial.total - partial.bytes.len();
        if part.len() == 0 || part.len() > left {
            return Err(format!("a part of {} bytes where {left} are missing", part.len()));
        }
        partial.bytes.extend_from_slice(part.as_slice());
        if part.len() < left {
            return Ok(None);
        }
        Ok(self.forget(call).map(|partial| (partial.about, partial.bytes.freeze())))
    }

    /// Drops what has arrived of a call that was cancelled.
    pub(crate) fn cancel(&mut self, call: u64) -> Option<T> {
        self.forget(call).map(|partial| partial.about)
    }

    fn forget(&mut self, call: u64) -> Option<Partial<T>> {
        if self.open.is_empty() {
            return None;
        }
        let partial = self.open.remove(&call)?;
        self.announced -= partial.total;
        Some(partial)
    }

    /// Takes a message or its first part; the message, when it is whole.
    pub(crate) fn take<'a>(
        &mut self,
        call: u64,
        piece: Piece<'a>,
        about: T,
    ) -> Result<Option<(T, Payload<'a>)>, String> {
        match piece.total {
            None => Ok(Some((about, piece.payload))),
            Some(total) => self.begin(call, total, piece.payload, about).map(|()| None),
        }
    }
}
