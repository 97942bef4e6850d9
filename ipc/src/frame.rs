//! The envelope around every message, and the only place that reads or writes one.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use tokio_util::codec::LengthDelimitedCodec;

use crate::interface::deadline_ms;

/// Version of everything in this file. Both sides must speak the same.
pub const PROTOCOL: u32 = 1;

/// Largest encoded message, request or reply or item: 4 MiB, which holds any object a Kubernetes API server stores
/// (1.5 MiB) and a batch of changes.
pub const MAX_PAYLOAD: usize = 4 * 1024 * 1024;

/// Error text is cut here: it is for people.
const MAX_TEXT: usize = 4 * 1024;

/// The payload, the text, and less than 128 bytes of numbers.
pub(crate) const MAX_FRAME: usize = MAX_PAYLOAD + MAX_TEXT + 128;

/// The call number of a refusal that concerns the whole connection.
pub(crate) const NO_CALL: u64 = 0;

/// A frame as it travels. One flat message: an absent field costs nothing, and decoding is one pass.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(enumeration = "Kind", tag = "1")]
    kind: i32,
    #[prost(uint64, tag = "2")]
    call: u64,
    #[prost(uint32, tag = "3")]
    method: u32,
    #[prost(uint64, tag = "4")]
    deadline_ms: u64,
    #[prost(int32, tag = "5")]
    code: i32,
    #[prost(uint32, tag = "6")]
    credit: u32,
    #[prost(string, tag = "7")]
    text: String,
    #[prost(bytes = "bytes", tag = "8")]
    payload: Bytes,
}

/// Field 8, length-delimited: what precedes the payload.
const PAYLOAD_KEY: u8 = (8 << 3) | 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Unspecified = 0,
    Hello = 1,
    Request = 2,
    Reply = 3,
    Failed = 4,
    Item = 5,
    End = 6,
    Credit = 7,
    Cancel = 8,
    Refused = 9,
    Late = 10,
}

/// First frame each way.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Hello {
    #[prost(uint32, tag = "1")]
    pub(crate) protocol: u32,
    #[prost(string, tag = "2")]
    pub(crate) interface: String,
    #[prost(string, tag = "3")]
    pub(crate) component: String,
    #[prost(uint64, tag = "4")]
    pub(crate) generation: u64,
}

/// A frame, parsed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Frame {
    Hello(Hello),
    /// `deadline` is how long the caller waits from now; streams have none.
    Request {
        call: u64,
        method: u32,
        deadline: Option<Duration>,
        payload: Bytes,
    },
    Reply {
        call: u64,
        payload: Bytes,
    },
    Item {
        call: u64,
        payload: Bytes,
    },
    /// A stream is complete.
    End {
        call: u64,
    },
    /// The interface's own error.
    Failed {
        call: u64,
        code: i32,
        message: String,
    },
    /// A rule of the bus was broken; the connection ends after this frame.
    Refused {
        call: u64,
        message: String,
    },
    /// The deadline passed on the server.
    Late {
        call: u64,
    },
    /// The stream may send this many bytes more.
    Credit {
        call: u64,
        bytes: u32,
    },
    /// The caller no longer wants an answer.
    Cancel {
        call: u64,
    },
}

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("frame does not decode: {0}")]
    Envelope(#[source] prost::DecodeError),
    #[error("hello does not decode: {0}")]
    Hello(#[source] prost::DecodeError),
    #[error("frame of unknown kind {0}")]
    Kind(i32),
}

impl Frame {
    /// Parses the bytes behind a length prefix; payloads are slices of `bytes`.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, FrameError> {
        let envelope = Envelope::decode(bytes).map_err(FrameError::Envelope)?;
        let Envelope { kind, call, method, deadline_ms, code, credit, text, payload } = envelope;
        let kind = Kind::try_from(kind).map_err(|_| FrameError::Kind(kind))?;
        Ok(match kind {
            Kind::Unspecified => return Err(FrameError::Kind(0)),
            Kind::Hello => Self::Hello(Hello::decode(payload).map_err(FrameError::Hello)?),
            Kind::Request => {
                let deadline = (deadline_ms > 0).then(|| Duration::from_millis(deadline_ms));
                Self::Request { call, method, deadline, payload }
            }
            Kind::Reply => Self::Reply { call, payload },
            Kind::Failed => Self::Failed { call, code, message: text },
            Kind::Item => Self::Item { call, payload },
            Kind::End => Self::End { call },
            Kind::Credit => Self::Credit { call, bytes: credit },
            Kind::Cancel => Self::Cancel { call },
            Kind::Refused => Self::Refused { call, message: text },
            Kind::Late => Self::Late { call },
        })
    }
}

/// Envelope fields first, then the message straight into the same buffer: encoded once, copied once (into the socket).
fn with_payload(envelope: &Envelope, message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut buffer =
        BytesMut::with_capacity(envelope.encoded_len() + 1 + prost::length_delimiter_len(length) + length);
    envelope.encode(&mut buffer).expect("a BytesMut grows as needed");
    buffer.put_u8(PAYLOAD_KEY);
    message.encode_length_delimited(&mut buffer).expect("a BytesMut grows as needed");
    buffer.freeze()
}

fn envelope(kind: Kind, call: u64) -> Envelope {
    Envelope { kind: kind.into(), call, ..Envelope::default() }
}

fn plain(envelope: &Envelope) -> Bytes {
    envelope.encode_to_vec().into()
}

pub(crate) fn hello(interface: &str, us: &crate::Identity) -> Bytes {
    raw_hello(&Hello {
        protocol: PROTOCOL,
        interface: interface.to_owned(),
        component: us.component.clone(),
        generation: us.generation,
    })
}

pub(crate) fn raw_hello(hello: &Hello) -> Bytes {
    with_payload(&envelope(Kind::Hello, NO_CALL), hello)
}

/// A reply whose payload is not what its method promises.
#[cfg(test)]
pub(crate) fn reply_bytes(call: u64, payload: &'static [u8]) -> Bytes {
    plain(&Envelope { payload: Bytes::from_static(payload), ..envelope(Kind::Reply, call) })
}

pub(crate) fn request(call: u64, method: u32, deadline: Option<Duration>, message: &impl Message) -> Bytes {
    let deadline_ms = deadline.map_or(0, deadline_ms);
    with_payload(&Envelope { method, deadline_ms, ..envelope(Kind::Request, call) }, message)
}

pub(crate) fn reply(call: u64, message: &impl Message) -> Bytes {
    with_payload(&envelope(Kind::Reply, call), message)
}

pub(crate) fn item(call: u64, message: &impl Message) -> Bytes {
    with_payload(&envelope(Kind::Item, call), message)
}

pub(crate) fn end(call: u64) -> Bytes {
    plain(&envelope(Kind::End, call))
}

pub(crate) fn failed(call: u64, code: i32, message: &str) -> Bytes {
    plain(&Envelope { code, text: cut(message).to_owned(), ..envelope(Kind::Failed, call) })
}

pub(crate) fn refused(call: u64, message: &str) -> Bytes {
    plain(&Envelope { text: cut(message).to_owned(), ..envelope(Kind::Refused, call) })
}

pub(crate) fn late(call: u64) -> Bytes {
    plain(&envelope(Kind::Late, call))
}

pub(crate) fn credit(call: u64, bytes: u32) -> Bytes {
    plain(&Envelope { credit: bytes, ..envelope(Kind::Credit, call) })
}

pub(crate) fn cancel(call: u64) -> Bytes {
    plain(&envelope(Kind::Cancel, call))
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

/// Four bytes of length before each frame; a longer one than [`MAX_FRAME`] is an error before anything is allocated.
pub(crate) fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME).new_codec()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Identity;

    /// A message of one bytes field, as the interfaces have them.
    #[derive(Clone, PartialEq, Message)]
    struct Blob {
        #[prost(bytes = "bytes", tag = "1")]
        data: Bytes,
    }

    #[test]
    fn request_survives_the_wire() {
        let blob = Blob { data: Bytes::from_static(b"x") };
        let frame = request(7, 3, Some(Duration::from_millis(250)), &blob);
        let Frame::Request { call, method, deadline, payload } = Frame::decode(frame).unwrap() else {
            panic!("not a request")
        };
        assert_eq!((call, method), (7, 3));
        assert!(deadline.unwrap() >= Duration::from_millis(250), "a deadline is never shortened");
        assert_eq!(Blob::decode(payload).unwrap(), blob);
    }

    #[test]
    fn payload_is_a_slice_of_the_frame() {
        let frame = reply(1, &Blob { data: Bytes::from(vec![9; 1000]) });
        let range = frame.as_ptr() as usize..frame.as_ptr() as usize + frame.len();
        let Frame::Reply { payload, .. } = Frame::decode(frame).unwrap() else { panic!("not a reply") };
        let blob = Blob::decode(payload).unwrap();
        assert!(range.contains(&(blob.data.as_ptr() as usize)), "the bytes field was copied");
    }

    #[test]
    fn largest_message_fits_the_largest_frame() {
        let blob = Blob { data: Bytes::from(vec![0; MAX_PAYLOAD - 5]) };
        assert_eq!(blob.encoded_len(), MAX_PAYLOAD);
        let frame = request(u64::MAX, u32::MAX, Some(Duration::MAX), &blob);
        assert!(frame.len() <= MAX_FRAME);
    }

    #[test]
    fn long_error_text_is_cut_at_a_character() {
        let text = "ä".repeat(MAX_TEXT);
        let Frame::Failed { message, .. } = Frame::decode(failed(1, 2, &text)).unwrap() else {
            panic!("not a failure")
        };
        assert_eq!(message.len(), MAX_TEXT);
    }

    #[test]
    fn hello_survives_the_wire() {
        let frame = hello("apiary.test.v1.Test", &Identity::new("edgehub", 42));
        let Frame::Hello(hello) = Frame::decode(frame).unwrap() else { panic!("not a hello") };
        assert_eq!(hello.protocol, PROTOCOL);
        assert_eq!((hello.component.as_str(), hello.generation), ("edgehub", 42));
    }

    #[test]
    fn unknown_kind_is_an_error() {
        let frame = plain(&Envelope { kind: 99, ..Envelope::default() });
        assert!(matches!(Frame::decode(frame), Err(FrameError::Kind(99))));
        assert!(matches!(Frame::decode(Bytes::new()), Err(FrameError::Kind(0))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Frame::decode(Bytes::from(bytes));
        }

        #[test]
        fn damaged_frames_never_panic(
            data in proptest::collection::vec(any::<u8>(), 0..64),
            at in any::<prop::sample::Index>(),
            with in any::<u8>(),
        ) {
            let frame = request(1, 2, Some(Duration::from_secs(1)), &Blob { data: data.into() });
            let mut bytes = frame.to_vec();
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _ = Frame::decode(Bytes::from(bytes));
        }
    }
}
