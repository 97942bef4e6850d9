//! Kubernetes' protobuf, inwards only. Answers are JSON always, and clients take that; but since 1.32 the typed Go
//! client sends protobuf without asking (`kubectl create configmap`, `kubectl auth can-i`, `kubectl drain`). So bodies
//! of the few kinds that such commands send are turned into JSON by field tables; others get a 415 that names them.

mod kinds;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use jiff::Timestamp;
use prost::DecodeError;
use prost::Message as _;
use prost::encoding::{
    DecodeContext, WireType, check_wire_type, decode_key, decode_varint, encode_varint, skip_field,
};
use serde_json::{Map, Value};

use crate::error::ApiError;

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// `runtime.Unknown`, the envelope.
#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(message, optional, tag = "1")]
    kind: Option<TypeMeta>,
    #[prost(bytes = "bytes", tag = "2")]
    raw: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Time {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct IntOrString {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int32, tag = "2")]
    number: i32,
    #[prost(string, tag = "3")]
    text: String,
}

/// A message's fields: number, JSON name, type. Numbers that are not listed are skipped.
type Fields = &'static [(u32, &'static str, Type)];

/// How a field's bytes become JSON.
#[derive(Debug, Clone, Copy)]
enum Type {
    /// A string; the empty one is left out, as Go's `omitempty` does.
    Text,
    /// Base64 in JSON.
    Bytes,
    /// An integer that is left out when 0.
    Number,
    /// An integer whose 0 means something.
    OptionalNumber,
    /// A boolean whose `false` means something.
    Flag,
    /// A message; left out when nothing is in it.
    Message(Fields),
    /// A list of strings.
    Texts,
    /// A list of messages.
    Messages(Fields),
    /// `map<string, string>`.
    TextMap,
    /// `map<string, bytes>`.
    BytesMap,
    /// `metav1.Time`, whole seconds.
    Time,
    /// `metav1.MicroTime`.
    MicroTime,
    /// `intstr.IntOrString`.
    IntOrString,
}

/// The JSON of a protobuf body.
pub(crate) fn to_json(body: &Bytes) -> Result<Value, ApiError> {
    let unreadable =
        |e: DecodeError| ApiError::bad_request(format!("the body is not readable protobuf: {e}"));
    let Some(rest) = body.strip_prefix(MAGIC) else {
        return Err(ApiError::bad_request("the body does not begin as Kubernetes' protobuf does"));
    };
    let envelope = Envelope::decode(body.slice_ref(rest)).map_err(unreadable)?;
    let TypeMeta { api_version, kind } = envelope.kind.unwrap_or_default();
    let fields = kinds::fields(&kind).ok_or_else(|| {
        ApiError::unsupported_media_type(&format!("{MEDIA_TYPE} of kind {kind}"), &["application/json"])
    })?;
    let mut object = message(fields, envelope.raw).map_err(unreadable)?;
    for (field, value) in [("apiVersion", api_version), ("kind", kind)] {
        if !value.is_empty() {
            object.insert(field.to_owned(), value.into());
        }
    }
    Ok(Value::Object(object))
}

/// Recursion is as deep as the tables, which do not refer to themselves.
fn message(fields: Fields, mut bytes: Bytes) -> Result<Map<String, Value>, DecodeError> {
    let mut object = Map::new();
    while bytes.has_remaining() {
        let (number, wire) = decode_key(&mut bytes)?;
        match fields.iter().find(|(known, ..)| *known == number) {
            Some((_, name, of)) => {
                let before = object.remove(*name);
                let value = field(*of, wire, &mut bytes, before)?;
                object.extend(value.map(|value| ((*name).to_owned(), value)));
            }
            None => skip_field(wire, number, &mut bytes, DecodeContext::default())?,
        }
    }
    Ok(object)
}

/// The field's value after one more occurrence of it; `None` where Go would omit it.
fn field(
    of: Type,
    wire: WireType,
    bytes: &mut Bytes,
    before: Option<Value>,
) -> Result<Option<Value>, DecodeError> {
    if let Type::Number | Type::OptionalNumber | Type::Flag = of {
        check_wire_type(WireType::Varint, wire)?;
        let number = decode_varint(bytes)?.cast_signed();
        return Ok(match of {
            Type::Flag => Some((number != 0).into()),
            Type::Number => Some(number.into()).filter(|_| number != 0),
            _ => Some(number.into()),
        });
    }
    let mut content = Bytes::new();
    prost::encoding::bytes::merge(wire, &mut content, bytes, DecodeContext::default())?;
    let value = match of {
        Type::Text => text(&content)?,
        Type::Bytes => STANDARD.encode(&content).into(),
        Type::Message(fields) => Value::Object(message(fields, content)?),
        Type::Texts => appended(before, text(&content)?),
        Type::Messages(fields) => appended(before, Value::Object(message(fields, content)?)),
        Type::TextMap => extended(before, message(TEXT_ENTRY, content)?),
        Type::BytesMap => extended(before, message(BYTES_ENTRY, content)?),
        Type::Time => time(content, "%Y-%m-%dT%H:%M:%SZ")?,
        Type::MicroTime => time(content, "%Y-%m-%dT%H:%M:%S%.6fZ")?,
        Type::IntOrString => {
            let value = IntOrString::decode(content)?;
            if value.kind == 0 { value.number.into() } else { value.text.into() }
        }
        Type::Number | Type::OptionalNumber | Type::Flag => Value::Null,
    };
    let omitted = match &value {
        Value::Null => true,
        Value::String(text) => text.is_empty() && !matches!(of, Type::Bytes),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    Ok(Some(value).filter(|_| !omitted))
}

const TEXT_ENTRY: Fields = &[(1, "key", Type::Text), (2, "value", Type::Text)];
const BYTES_ENTRY: Fields = &[(1, "key", Type::Text), (2, "value", Type::Bytes)];

fn appended(list: Option<Value>, item: Value) -> Value {
    let mut list = match list {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    list.push(item);
    Value::Array(list)
}

fn extended(map: Option<Value>, mut entry: Map<String, Value>) -> Value {
    let mut take = |name: &str| entry.remove(name).unwrap_or_else(|| "".into());
    let (key, value) = (take("key"), take("value"));
    let mut map = match map {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    map.insert(key.as_str().unwrap_or_default().to_owned(), value);
    Value::Object(map)
}

/// prost checks UTF-8 while it merges a string, so the bytes get their length back in front.
fn text(bytes: &[u8]) -> Result<Value, DecodeError> {
    let mut framed = Vec::with_capacity(bytes.len() + 10);
    encode_varint(bytes.len() as u64, &mut framed);
    framed.extend_from_slice(bytes);
    let mut text = String::new();
    prost::encoding::string::merge(
        WireType::LengthDelimited,
        &mut text,
        &mut framed.as_slice(),
        DecodeContext::default(),
    )?;
    Ok(text.into())
}

/// Go's zero time is an empty message.
fn time(bytes: Bytes, format: &str) -> Result<Value, DecodeError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let time = Time::decode(bytes)?;
    let at = Timestamp::new(time.seconds, time.nanos).ok();
    Ok(at.map_or(Value::Null, |at| at.strftime(format).to_string().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// A length-delimited field.
    fn part(number: u32, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        prost::encoding::bytes::encode(number, &bytes.to_vec(), &mut out);
        out
    }

    fn body(kind: &str, raw: &[u8]) -> Bytes {
        let meta = [part(1, b"v1"), part(2, kind.as_bytes())].concat();
        Bytes::from([MAGIC, &part(1, &meta), &part(2, raw)].concat())
    }

    #[test]
    fn a_config_map_becomes_json() {
        let entry =
            |key: &str, value: &str| part(2, &[part(1, key.as_bytes()), part(2, value.as_bytes())].concat());
        // Name, and the empty creation time Go always writes.
        let meta = [part(1, b"a"), part(8, b"")].concat();
        let raw = [part(1, &meta), entry("x", "1"), entry("y", "")].concat();
        assert_eq!(
            to_json(&body("ConfigMap", &raw)).unwrap(),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1", "y": ""}})
        );
    }

    #[test]
    fn another_kind_is_named_in_a_415() {
        let error = to_json(&body("Pod", b"")).unwrap_err();
        assert_eq!(error.code, 415);
        assert!(error.message.contains("Pod"), "{error}");
    }

    #[test]
    fn times_have_go_s_form() {
        let mut time_bytes = Vec::new();
        prost::encoding::int64::encode(1, &1, &mut time_bytes);
        let lease = part(2, &part(4, &time_bytes));
        assert_eq!(
            to_json(&body("Lease", &lease)).unwrap()["spec"]["renewTime"],
            "1970-01-01T00:00:01.000000Z"
        );
    }

    proptest! {
        #[test]
        fn never_panics(raw in prop::collection::vec(any::<u8>(), 0..60), rest in prop::collection::vec(any::<u8>(), 0..60)) {
            for kind in ["Secret", "Service", "Event", "TokenRequest"] {
                let _ = to_json(&body(kind, &raw));
            }
            let _ = to_json(&Bytes::from(rest));
        }
    }
}
