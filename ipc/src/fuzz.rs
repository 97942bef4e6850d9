//! What a fuzz target calls. Each takes any bytes and must return.

use bytes::{Bytes, BytesMut};
use tokio_util::codec::Decoder as _;

use crate::frame::{self, Frame};

/// What a peer's socket gives: length prefixes and frames, as they come.
pub fn frame(bytes: &[u8]) {
    let mut codec = frame::codec();
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(frame)) = codec.decode(&mut buffer) {
        let _ = Frame::decode(frame.freeze());
    }
}

/// A peer's first frame, without its length.
pub fn hello(bytes: &[u8]) {
    let _ = Frame::decode(Bytes::copy_from_slice(bytes));
}
