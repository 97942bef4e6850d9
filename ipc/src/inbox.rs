//! The reading half of a connection: bytes as frames.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::net::unix::OwnedReadHalf;

use crate::frame::{self, Frame, FrameError, PART, PREFIX};

/// Read at once: 68 KiB, so that the frame of a part fits, or some 200 small frames for one system call. Pages that no
/// burst has touched cost no memory.
pub(crate) const READ_BUFFER: usize = PART + SMALL;

/// A frame up to 4 KiB is decoded out of the buffer, and what is kept of it copied: cheaper than sharing the buffer, and
/// a small value that is kept does not keep 64 KiB with it. The payload of a longer one is a slice of the buffer.
pub(crate) const SMALL: usize = 4 * 1024;

#[derive(Debug)]
pub(crate) struct Inbox {
    socket: OwnedReadHalf,
    buffer: BytesMut,
    /// Length of the frame given out last, which is still at the start of the buffer.
    given: usize,
    /// The longest frame the peer may send.
    longest: usize,
}

/// The bytes of one frame.
#[derive(Debug)]
pub(crate) enum Taken<'a> {
    Small(&'a [u8]),
    Shared(Bytes),
}

impl Taken<'_> {
    pub(crate) fn parse(&self) -> Result<Frame<'_>, FrameError> {
        match self {
            Self::Small(bytes) => Frame::decode(bytes, None),
            Self::Shared(bytes) => Frame::decode(bytes, Some(bytes)),
        }
    }
}

impl Inbox {
    pub(crate) fn new(socket: OwnedReadHalf) -> Self {
        // A hello, until more is agreed.
        Self { socket, buffer: BytesMut::new(), given: 0, longest: frame::longest(crate::PROTOCOL) }
    }

    /// From now on frames are those of this version of the protocol.
    pub(crate) fn speak(&mut self, protocol: u32) {
        self.longest = frame::longest(protocol);
    }

    /// The length of the next frame, if all of it has been read. A length beyond the bound is an error before anything
    /// is allocated.
    fn complete(&mut self) -> Result<Option<usize>, FrameError> {
        self.buffer.advance(std::mem::take(&mut self.given));
        let Some(length) = self.announced() else { return Ok(None) };
        if length > self.longest {
            return Err(FrameError::Length { length, longest: self.longest });
        }
        Ok((self.buffer.len() >= PREFIX + length).then_some(length))
    }

    /// Whether there is more to take before the next read: a frame, or the error that a length is.
    pub(crate) fn has_frame(&mut self) -> bool {
        !matches!(self.complete(), Ok(None))
    }

    fn announced(&self) -> Option<usize> {
        self.buffer.first_chunk::<PREFIX>().map(|prefix| u32::from_be_bytes(*prefix) as usize)
    }

    /// The next frame, if all of it has been read.
    pub(crate) fn take(&mut self) -> Result<Option<Taken<'_>>, FrameError> {
        let Some(length) = self.complete()? else { return Ok(None) };
        let end = PREFIX + length;
        if length <= SMALL {
            self.given = end;
            return Ok(Some(Taken::Small(&self.buffer[PREFIX..end])));
        }
        self.buffer.advance(PREFIX);
        Ok(Some(Taken::Shared(self.buffer.split_to(length).freeze())))
    }

    /// Reads what there is, once [`Inbox::take`] has nothing more; 0 bytes are the end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // The rest of a frame that has begun, or as much as pays.
        let whole = self.announced().map_or(0, |length| PREFIX + length.min(self.longest));
        let missing = whole.saturating_sub(self.buffer.len()).max(SMALL);
        if self.buffer.capacity() - self.buffer.len() < missing {
            // Gives the same allocation again where nobody holds a slice of it.
            self.buffer.reserve(missing.max(READ_BUFFER - self.buffer.len().min(READ_BUFFER)));
        }
        let read = ready!(tokio_util::io::poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.buffer))?;
        Poll::Ready(Ok(read))
    }

    /// Waits for the next frame; `None` at the end. A frame that is too long is an error of kind `InvalidData`.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Taken<'_>>> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        loop {
            match self.complete() {
                Ok(Some(_)) => return self.take().map_err(invalid).transpose(),
                Ok(None) => {}
                Err(error) => return Some(Err(invalid(error))),
            }
            match poll_fn(|cx| self.poll_fill(cx)).await {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
