//! What a fuzz target calls. Each takes any bytes and must return.

use crate::frame::{Frame, Hello, PREFIX, longest};
use crate::parts::Assembly;
use crate::{Identity, PROTOCOL};

/// What a peer's socket gives: length prefixes and frames, as they come, with messages in parts put together.
pub fn frame(mut bytes: &[u8]) {
    let mut arriving = Assembly::default();
    while let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX>() {
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > longest(PROTOCOL) {
            return;
        }
        let Some((frame, rest)) = rest.split_at_checked(length) else { return };
        bytes = rest;
        let whole = match Frame::decode(frame, None) {
            Ok(Frame::Request { call, message, .. } | Frame::Reply { call, message }) => {
                arriving.take(call, message, ()).map(drop)
            }
            Ok(Frame::Part { call, payload }) => arriving.add(call, payload).map(drop),
            Ok(Frame::Cancel { call }) => {
                arriving.cancel(call);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(_) => return,
        };
        if whole.is_err() {
            return;
        }
    }
}

/// A peer's first frame, without its length: parsed, and its versions compared with ours.
pub fn hello(bytes: &[u8]) {
    if let Ok(Frame::Hello(hello)) = Frame::decode(bytes, None) {
        let _ = negotiate(&hello);
    }
}

fn negotiate(hello: &Hello) -> Result<u32, String> {
    hello.negotiate(&Identity::new("fuzz", 1))
}
