//! The envelope around every message, and the only place that reads or writes one.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{self, DecodeContext, WireType};

use crate::Identity;
use crate::interface::deadline_ms;

/// Version of everything in this file. Version 1 has no parts; a peer that speaks only it gets large messages whole.
pub const PROTOCOL: u32 = 2;

/// The oldest version this build still speaks.
pub const OLDEST_PROTOCOL: u32 = 1;

/// Largest encoded message, request or reply or item: 4 MiB, which holds any object a Kubernetes API server stores
/// (1.5 MiB) and a batch of changes.
pub const MAX_PAYLOAD: usize = 4 * 1024 * 1024;

/// A message above 64 KiB travels in parts of this size, between which other calls' frames go: a small call waits for one
/// part, about 30 µs, and not for megabytes. Smaller parts would cost large messages more system calls.
pub const PART: usize = 64 * 1024;

/// Error text is cut here: it is for people.
const MAX_TEXT: usize = 4 * 1024;

/// The text, and less than 128 bytes of numbers.
const MAX_HEAD: usize = MAX_TEXT + 128;

/// The call number of a refusal that concerns the whole connection.
pub(crate) const NO_CALL: u64 = 0;

/// Bytes of the length before each frame, big-endian.
pub(crate) const PREFIX: usize = 4;

/// The longest frame a peer that speaks this version of the protocol may send.
pub(crate) fn longest(protocol: u32) -> usize {
    MAX_HEAD + if protocol >= 2 { PART } else { MAX_PAYLOAD }
}

mod tag {
    pub(super) const KIND: u32 = 1;
    pub(super) const CALL: u32 = 2;
    pub(super) const METHOD: u32 = 3;
    pub(super) const DEADLINE_MS: u32 = 4;
    pub(super) const CODE: u32 = 5;
    pub(super) const CREDIT: u32 = 6;
    pub(super) const TEXT: u32 = 7;
    pub(super) const PAYLOAD: u32 = 8;
    pub(super) const TOTAL: u32 = 9;
}

/// A frame as it travels: one flat protobuf message. An absent field costs nothing, and decoding is one pass that copies
/// and allocates nothing. By hand, because prost's derived messages own their fields.
#[derive(Debug, Clone, Copy, Default)]
struct Envelope<'a> {
    kind: u64,
    call: u64,
    method: u32,
    deadline_ms: u64,
    code: i32,
    credit: u32,
    text: &'a str,
    payload: &'a [u8],
    /// Bytes of the whole message, where this frame has only the first part of it.
    total: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
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
    Part = 11,
}

/// First frame each way.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Hello {
    /// The oldest version of the protocol it speaks. The only one, for a peer older than `newest`.
    #[prost(uint32, tag = "1")]
    pub(crate) protocol: u32,
    #[prost(string, tag = "2")]
    pub(crate) interface: String,
    #[prost(string, tag = "3")]
    pub(crate) component: String,
    #[prost(uint64, tag = "4")]
    pub(crate) generation: u64,
    /// The newest version of the protocol it speaks.
    #[prost(uint32, tag = "5")]
    pub(crate) newest: u32,
    /// Of its software.
    #[prost(string, tag = "6")]
    pub(crate) version: String,
    /// Of the interface: the number of its last method, since methods are only ever added. 0 from a peer that says none.
    #[prost(uint32, tag = "7")]
    pub(crate) revision: u32,
}

impl Hello {
    pub(crate) fn new(interface: &crate::Interface, us: &Identity) -> Self {
        Self {
            protocol: OLDEST_PROTOCOL,
            interface: interface.name.to_owned(),
            component: us.component.clone(),
            generation: us.generation,
            newest: PROTOCOL,
            version: us.version.to_owned(),
            revision: interface.revision(),
        }
    }

    /// The newest version of the protocol that both sides speak; else what each speaks, in words.
    pub(crate) fn negotiate(&self, us: &Identity) -> Result<u32, String> {
        let newest = self.newest.max(self.protocol);
        let common = newest.min(PROTOCOL);
        if common >= self.protocol.max(OLDEST_PROTOCOL) {
            return Ok(common);
        }
        Err(format!(
            "{} speaks protocol versions {} to {newest}, {} {} speaks {OLDEST_PROTOCOL} to {PROTOCOL}",
            self.speaker(),
            self.protocol,
            us.component,
            us.version
        ))
    }

    /// Component and version, for people.
    pub(crate) fn speaker(&self) -> String {
        let version = if self.version.is_empty() { "of an unknown version" } else { &self.version };
        format!("{} {version}", self.component)
    }
}

/// The bytes of a message, or of a part of it, in a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payload<'a> {
    bytes: &'a [u8],
    /// What `bytes` is a slice of, where it may be kept without copying.
    owner: Option<&'a Bytes>,
}

impl<'a> Payload<'a> {
    pub(crate) fn whole(owner: &'a Bytes) -> Self {
        Self { bytes: owner, owner: Some(owner) }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn as_slice(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn to_bytes(self) -> Bytes {
        match self.owner {
            Some(owner) => owner.slice_ref(self.bytes),
            None => Bytes::copy_from_slice(self.bytes),
        }
    }

    pub(crate) fn decode<T: Message + Default>(self) -> Result<T, prost::DecodeError> {
        match self.owner {
            Some(owner) => T::decode(owner.slice_ref(self.bytes)),
            // Straight out of the read buffer: `bytes` fields are copied once, others were going to be.
            None => T::decode(self.bytes),
        }
    }
}

/// A message, or its first part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub(crate) payload: Payload<'a>,
    /// Bytes of the whole message when more parts follow.
    pub(crate) total: Option<usize>,
}

/// A frame, parsed.
#[derive(Debug, Clone)]
pub(crate) enum Frame<'a> {
    Hello(Hello),
    /// `deadline` is how long the caller waits from now; streams have none.
    Request {
        call: u64,
        method: u32,
        deadline: Option<Duration>,
        message: Piece<'a>,
    },
    Reply {
        call: u64,
        message: Piece<'a>,
    },
    Item {
        call: u64,
        message: Piece<'a>,
    },
    /// What follows of the message that began in an earlier frame of the same call.
    Part {
        call: u64,
        payload: Payload<'a>,
    },
    /// A stream is complete.
    End {
        call: u64,
    },
    /// The interface's own error.
    Failed {
        call: u64,
        code: i32,
        message: &'a str,
    },
    /// A rule of the bus was broken. Of the whole connection, which ends after this frame, when it names no call.
    Refused {
        call: u64,
        message: &'a str,
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
    Envelope(#[from] prost::DecodeError),
    #[error("frame does not decode: field {tag} is of wire type {wire:?} or cut short")]
    Field { tag: u32, wire: WireType },
    #[error("hello does not decode: {0}")]
    Hello(#[source] prost::DecodeError),
    #[error("frame of unknown kind {0}")]
    Kind(u64),
    #[error("frame of {length} bytes, at most {longest} are allowed")]
    Length { length: usize, longest: usize },
}

impl<'a> Envelope<'a> {
    fn decode(mut bytes: &'a [u8]) -> Result<Self, FrameError> {
        let rest = &mut bytes;
        let mut envelope = Self::default();
        while !rest.is_empty() {
            let (tag, wire) = encoding::decode_key(rest)?;
            match (tag, wire) {
                (tag::KIND..=tag::TOTAL, WireType::Varint) => {
                    envelope.set(tag, encoding::decode_varint(rest)?);
                }
                (tag::TEXT | tag::PAYLOAD, WireType::LengthDelimited) => {
                    let length = encoding::decode_varint(rest)?;
                    let field = usize::try_from(length)
                        .ok()
                        .and_then(|length| rest.split_off(..length))
                        .ok_or(FrameError::Field { tag, wire })?;
                    if tag == tag::PAYLOAD {
                        envelope.payload = field;
                    } else {
                        envelope.text =
                            std::str::from_utf8(field).map_err(|_| FrameError::Field { tag, wire })?;
                    }
                }
                (tag::KIND..=tag::TOTAL, _) => return Err(FrameError::Field { tag, wire }),
                // Of a newer peer.
                _ => encoding::skip_field(wire, tag, rest, DecodeContext::default())?,
            }
        }
        Ok(envelope)
    }

    /// Takes what protobuf takes of a number that is too large for its field: the low bits.
    #[expect(clippy::cast_possible_truncation, reason = "as protobuf decoders do")]
    fn set(&mut self, tag: u32, value: u64) {
        match tag {
            tag::KIND => self.kind = value,
            tag::CALL => self.call = value,
            tag::METHOD => self.method = value as u32,
            tag::DEADLINE_MS => self.deadline_ms = value,
            tag::CODE => self.code = value as i32,
            tag::CREDIT => self.credit = value as u32,
            _ => self.total = value as u32,
        }
    }
}

impl<'a> Frame<'a> {
    /// Parses the bytes behind a length prefix. `owner` is what they are a slice of, where they may be kept.
    pub(crate) fn decode(bytes: &'a [u8], owner: Option<&'a Bytes>) -> Result<Self, FrameError> {
        let envelope = Envelope::decode(bytes)?;
        let Envelope { kind, call, method, deadline_ms, code, credit, text, payload, total } = envelope;
        let payload = Payload { bytes: payload, owner };
        let message = Piece { payload, total: (total != 0).then_some(total as usize) };
        Ok(match kind {
            1 => Self::Hello(Hello::decode(payload.bytes).map_err(FrameError::Hello)?),
            2 => {
                let deadline = (deadline_ms > 0).then(|| Duration::from_millis(deadline_ms));
                Self::Request { call, method, deadline, message }
            }
            3 => Self::Reply { call, message },
            4 => Self::Failed { call, code, message: text },
            5 => Self::Item { call, message },
            6 => Self::End { call },
            7 => Self::Credit { call, bytes: credit },
            8 => Self::Cancel { call },
            9 => Self::Refused { call, message: text },
            10 => Self::Late { call },
            11 => Self::Part { call, payload },
            _ => return Err(FrameError::Kind(kind)),
        })
    }
}

/// What stands before a message in its frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) call: u64,
    pub(crate) method: u32,
    pub(crate) deadline_ms: u64,
}

impl Head {
    pub(crate) fn request(call: u64, method: u32, deadline: Option<Duration>) -> Self {
        Self { kind: Kind::Request, call, method, deadline_ms: deadline.map_or(0, deadline_ms) }
    }

    pub(crate) fn of(kind: Kind, call: u64) -> Self {
        Self { kind, call, method: 0, deadline_ms: 0 }
    }
}

/// The fields of a frame before its last one, on the stack: `Vec` has a price per call that ten small fields pay dearly.
struct Fields {
    bytes: [u8; Self::ROOM],
    length: usize,
}

impl Fields {
    /// The prefix, and eight numbers of one byte of key and ten of value at most.
    const ROOM: usize = PREFIX + 8 * 11;

    fn of(head: Head) -> Self {
        let mut fields = Self { bytes: [0; Self::ROOM], length: PREFIX };
        fields.number(tag::KIND, head.kind as u64);
        fields.number(tag::CALL, head.call);
        fields.number(tag::METHOD, u64::from(head.method));
        fields.number(tag::DEADLINE_MS, head.deadline_ms);
        fields
    }

    fn number(&mut self, tag: u32, value: u64) {
        if value != 0 {
            self.varint(u64::from(tag << 3));
            self.varint(value);
        }
    }

    /// The key and length of a last field whose bytes follow.
    fn last(&mut self, tag: u32, length: usize) {
        self.varint(u64::from(tag << 3 | WireType::LengthDelimited as u32));
        self.varint(length as u64);
    }

    #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes[self.length] = value as u8 | 0x80;
            self.length += 1;
            value >>= 7;
        }
        self.bytes[self.length] = value as u8;
        self.length += 1;
    }

    /// Appends them, the length of the frame before them. `following` bytes of it are still to come.
    fn write(mut self, out: &mut Vec<u8>, following: usize) {
        let length = u32::try_from(self.length - PREFIX + following).expect("a frame is at most 5 MiB");
        self.bytes[..PREFIX].copy_from_slice(&length.to_be_bytes());
        out.reserve(self.length + following);
        out.extend_from_slice(&self.bytes[..self.length]);
    }
}

/// Appends a whole message of this encoded size in one frame: encoded once, straight to where it is written from.
pub(crate) fn message(out: &mut Vec<u8>, head: Head, size: usize, message: &impl Message) {
    let mut fields = Fields::of(head);
    fields.last(tag::PAYLOAD, size);
    fields.write(out, size);
    message.encode(out).expect("a Vec grows as needed");
}

/// Appends all of a part's frame but its bytes, of which there are `length`. The first of a message has its `total`.
pub(crate) fn part(out: &mut Vec<u8>, head: Head, total: usize, length: usize) {
    let mut fields = Fields::of(head);
    fields.number(tag::TOTAL, total as u64);
    fields.last(tag::PAYLOAD, length);
    fields.write(out, length);
}

fn text(out: &mut Vec<u8>, mut fields: Fields, text: &str) {
    let text = &text[..text.floor_char_boundary(MAX_TEXT)];
    fields.last(tag::TEXT, text.len());
    fields.write(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn hello(hello: &Hello) -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, Head::of(Kind::Hello, NO_CALL), hello.encoded_len(), hello);
    out
}

pub(crate) fn end(out: &mut Vec<u8>, call: u64) {
    Fields::of(Head::of(Kind::End, call)).write(out, 0);
}

pub(crate) fn late(out: &mut Vec<u8>, call: u64) {
    Fields::of(Head::of(Kind::Late, call)).write(out, 0);
}

pub(crate) fn cancel(out: &mut Vec<u8>, call: u64) {
    Fields::of(Head::of(Kind::Cancel, call)).write(out, 0);
}

pub(crate) fn credit(out: &mut Vec<u8>, call: u64, bytes: u32) {
    let mut fields = Fields::of(Head::of(Kind::Credit, call));
    fields.number(tag::CREDIT, u64::from(bytes));
    fields.write(out, 0);
}

pub(crate) fn failed(out: &mut Vec<u8>, call: u64, code: i32, message: &str) {
    let mut fields = Fields::of(Head::of(Kind::Failed, call));
    // Sign-extended, as protobuf's int32 is.
    fields.number(tag::CODE, i64::from(code).cast_unsigned());
    text(out, fields, message);
}

pub(crate) fn refused(out: &mut Vec<u8>, call: u64, message: &str) {
    text(out, Fields::of(Head::of(Kind::Refused, call)), message);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One frame without its length.
    fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
        let mut out = Vec::new();
        write(&mut out);
        let length = u32::from_be_bytes(*out.first_chunk().unwrap());
        assert_eq!(length as usize, out.len() - PREFIX);
        Bytes::from(out).slice(PREFIX..)
    }

    fn request(blob: &Blob) -> Bytes {
        encoded(|out| {
            message(out, Head::request(7, 3, Some(Duration::from_millis(250))), blob.encoded_len(), blob);
        })
    }

    /// A message of one bytes field, as the interfaces have them.
    #[derive(Clone, PartialEq, Message)]
    struct Blob {
        #[prost(bytes = "bytes", tag = "1")]
        data: Bytes,
    }

    #[test]
    fn request_survives_the_wire() {
        let blob = Blob { data: Bytes::from_static(b"x") };
        let bytes = request(&blob);
        let Frame::Request { call, method, deadline, message } = Frame::decode(&bytes, None).unwrap() else {
            panic!("not a request")
        };
        assert_eq!((call, method, message.total), (7, 3, None));
        assert!(deadline.unwrap() >= Duration::from_millis(250), "a deadline is never shortened");
        assert_eq!(message.payload.decode::<Blob>().unwrap(), blob);
    }

    #[test]
    fn payload_is_a_slice_of_a_frame_that_is_shared() {
        let reply = Blob { data: Bytes::from(vec![9; 1000]) };
        let bytes = encoded(|out| message(out, Head::of(Kind::Reply, 1), reply.encoded_len(), &reply));
        let range = bytes.as_ptr() as usize..bytes.as_ptr() as usize + bytes.len();
        let Frame::Reply { message, .. } = Frame::decode(&bytes, Some(&bytes)).unwrap() else {
            panic!("not a reply")
        };
        let blob: Blob = message.payload.decode().unwrap();
        assert!(range.contains(&(blob.data.as_ptr() as usize)), "the bytes field was copied");
    }

    #[test]
    fn the_longest_frames_are_within_their_bound() {
        let head = Head { kind: Kind::Request, call: u64::MAX, method: u32::MAX, deadline_ms: u64::MAX };
        let largest = Blob { data: Bytes::from(vec![0; MAX_PAYLOAD - 5]) };
        assert_eq!(largest.encoded_len(), MAX_PAYLOAD);
        assert!(encoded(|out| message(out, head, MAX_PAYLOAD, &largest)).len() <= longest(1));
        let mut first = Vec::new();
        part(&mut first, head, MAX_PAYLOAD, PART);
        assert!(first.len() + PART <= longest(2));
    }

    #[test]
    fn part_says_what_follows_it() {
        let mut bytes = Vec::new();
        part(&mut bytes, Head::of(Kind::Item, 9), 100_000, 3);
        bytes.extend_from_slice(b"abc");
        let length = u32::from_be_bytes(*bytes.first_chunk().unwrap()) as usize;
        assert_eq!(length, bytes.len() - PREFIX);
        let Frame::Item { call, message } = Frame::decode(&bytes[PREFIX..], None).unwrap() else {
            panic!("not an item")
        };
        assert_eq!((call, message.total, message.payload.as_slice()), (9, Some(100_000), &b"abc"[..]));
    }

    #[test]
    fn error_code_and_text_survive_the_wire_and_long_text_is_cut_at_a_character() {
        let text = "ä".repeat(MAX_TEXT);
        let bytes = encoded(|out| failed(out, 1, -2, &text));
        let Frame::Failed { code, message, .. } = Frame::decode(&bytes, None).unwrap() else {
            panic!("not a failure")
        };
        assert_eq!((code, message.len()), (-2, MAX_TEXT));
    }

    #[test]
    fn unknown_kind_is_an_error_and_an_unknown_field_is_not() {
        assert!(matches!(Frame::decode(&[8, 99], None), Err(FrameError::Kind(99))));
        assert!(matches!(Frame::decode(&[], None), Err(FrameError::Kind(0))));
        // Field 15, a number, behind an `End` of call 4.
        assert!(matches!(Frame::decode(&[8, 6, 16, 4, 120, 1], None), Ok(Frame::End { call: 4 })));
    }

    #[test]
    fn field_of_the_wrong_type_or_cut_short_is_an_error() {
        assert!(matches!(Frame::decode(&[10, 0], None), Err(FrameError::Field { tag: 1, .. })));
        assert!(matches!(Frame::decode(&[66, 5, 1], None), Err(FrameError::Field { tag: 8, .. })));
        assert!(matches!(Frame::decode(&[58, 1, 0xff], None), Err(FrameError::Field { tag: 7, .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Frame::decode(&bytes, None);
        }

        #[test]
        fn damaged_frames_never_panic(
            data in proptest::collection::vec(any::<u8>(), 0..64),
            at in any::<prop::sample::Index>(),
            with in any::<u8>(),
        ) {
            let mut bytes = request(&Blob { data: data.into() }).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _ = Frame::decode(&bytes, None);
        }
    }
}
