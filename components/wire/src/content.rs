//! Content: raw JSON that is kept as it came, and typed views of the members a decision needs.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::WireError;
use crate::message::parse_version;

/// The payload of a message: valid JSON text, never re-encoded, so fields newer than our types survive.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Content(Box<RawValue>);

impl Content {
    /// JSON `null`.
    pub fn null() -> Self {
        Self(RawValue::NULL.to_owned())
    }

    /// The string `"OK"`: KubeEdge compares it byte for byte.
    pub fn ok() -> Self {
        Self::text("OK")
    }

    /// A JSON string.
    pub fn text(text: &str) -> Self {
        Self(serde_json::value::to_raw_value(text).expect("a string is JSON"))
    }

    /// JSON text as it is, checked to be one JSON document.
    pub fn json(text: impl Into<String>) -> Result<Self, WireError> {
        RawValue::from_string(text.into()).map(Self).map_err(|e| WireError::content("JSON", &e))
    }

    /// JSON bytes as they are, checked to be UTF-8 and one JSON document.
    pub fn json_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        Self::json(std::str::from_utf8(bytes).map_err(|e| WireError::content("JSON", &e))?)
    }

    /// Any serializable value.
    pub fn value<T: Serialize>(value: &T) -> Result<Self, WireError> {
        serde_json::value::to_raw_value(value).map(Self).map_err(|e| WireError::content("JSON", &e))
    }

    /// The JSON text.
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// The JSON text, without copying it.
    pub fn into_json(self) -> String {
        String::from(Box::<str>::from(self.0))
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        self.get() == "null"
    }

    /// Whether it is a JSON object.
    pub fn is_object(&self) -> bool {
        self.get().starts_with('{')
    }

    /// The text of a JSON string; `None` for any other value.
    pub fn as_str(&self) -> Option<String> {
        serde_json::from_str(self.get()).ok()
    }

    /// Whether it is the success string.
    pub fn is_ok(&self) -> bool {
        self.get() == "\"OK\"" || self.as_str().is_some_and(|text| text == "OK")
    }

    /// The bytes KubeEdge's `GetContentData` would give: a string's text, else the JSON.
    pub fn data(&self) -> String {
        self.as_str().unwrap_or_else(|| self.get().to_owned())
    }

    /// A patch: a JSON string holding JSON (what edges send), or the patch object itself.
    pub fn patch_text(&self) -> Result<String, WireError> {
        let text = self.data();
        match serde_json::from_str::<&RawValue>(&text) {
            Ok(patch) if patch.get().starts_with('{') => Ok(text),
            Ok(_) => Err(WireError::content("a patch", &"not a JSON object")),
            Err(e) => Err(WireError::content("a patch", &e)),
        }
    }

    /// `metadata` of a Kubernetes object.
    pub fn object_meta(&self) -> Result<ObjectMeta, WireError> {
        #[derive(Deserialize)]
        struct WithMeta {
            metadata: ObjectMeta,
        }
        self.parse::<WithMeta>("object metadata").map(|object| object.metadata)
    }

    /// The wrapper `{"Object":…,"Err":…}`; `None` when the content is something else.
    pub fn object_resp(&self) -> Result<Option<ObjectResp>, WireError> {
        #[derive(Deserialize)]
        struct Probe<'a> {
            #[serde(rename = "Object", borrow, default, deserialize_with = "present")]
            object: Option<&'a RawValue>,
            #[serde(rename = "Err", borrow, default, deserialize_with = "present")]
            err: Option<&'a RawValue>,
        }
        if !self.is_object() {
            return Ok(None);
        }
        let probe: Probe<'_> = self.parse_borrowed("ObjectResp")?;
        let (Some(object), Some(err)) = (probe.object, probe.err) else { return Ok(None) };
        Ok(Some(ObjectResp {
            object: (object.get() != "null").then(|| Self(object.to_owned())),
            err: if err.get() == "null" { None } else { Some(ErrStatus::from_go_error(err)?) },
        }))
    }

    /// The failure a bare error answer carries: `{"ErrStatus":{…}}`, or `{}`, which is how Go writes an error without
    /// exported fields; `None` when the content is something else.
    pub fn error_status(&self) -> Result<Option<ErrStatus>, WireError> {
        if !self.is_object() {
            return Ok(None);
        }
        let probe: ErrProbe = self.parse("ErrStatus")?;
        match probe.err_status {
            Some(status) => Ok(Some(status)),
            None if is_empty_object(self.get()) => Ok(Some(ErrStatus::unnamed())),
            None => Ok(None),
        }
    }

    /// Reads a typed view.
    pub fn parse<T: for<'de> Deserialize<'de>>(&self, what: &'static str) -> Result<T, WireError> {
        self.parse_borrowed(what)
    }

    fn parse_borrowed<'a, T: Deserialize<'a>>(&'a self, what: &'static str) -> Result<T, WireError> {
        serde_json::from_str(self.get()).map_err(|e| WireError::content(what, &e))
    }
}

/// Tells `"Err": null` (present) from no `Err` at all.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn is_empty_object(json: &str) -> bool {
    json.strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .is_some_and(|inner| inner.bytes().all(|b| b.is_ascii_whitespace()))
}

impl Default for Content {
    fn default() -> Self {
        Self::null()
    }
}

/// Text equality: the same JSON written differently is not equal.
impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

/// The members of `metadata` that decide where an object goes and whether it is newer.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// Object name.
    pub name: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Object identity.
    pub uid: String,
    /// As text; [`ObjectMeta::version`] parses it.
    pub resource_version: String,
    /// Set once the object is being deleted.
    pub deletion_timestamp: Option<String>,
}

impl ObjectMeta {
    /// The resource version as a number; `None` when the object has none.
    pub fn version(&self) -> Result<Option<u64>, WireError> {
        parse_version("content.metadata.resourceVersion", &self.resource_version)
    }
}

/// The answer to most requests: the object as it now is, or why not.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectResp {
    /// On failure Go sends a zero object or `null`; look at `err` first.
    pub object: Option<Content>,
    /// `None` is success.
    pub err: Option<ErrStatus>,
}

impl ObjectResp {
    /// Whether the request succeeded.
    pub fn is_ok(&self) -> bool {
        self.err.is_none()
    }

    /// The content of a success.
    pub fn success(object: Content) -> Self {
        Self { object: Some(object), err: None }
    }

    /// The content of a refusal.
    pub fn failure(err: ErrStatus) -> Self {
        Self { object: None, err: Some(err) }
    }

    /// `{"Object":…,"Err":…}`.
    pub fn to_content(&self) -> Content {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Wrapper<'a> {
            object: Option<&'a Content>,
            err: Option<GoError<'a>>,
        }
        let wrapper = Wrapper {
            object: self.object.as_ref(),
            err: self.err.as_ref().map(|err_status| GoError { err_status }),
        };
        Content::value(&wrapper).expect("raw JSON and strings always serialize")
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GoError<'a> {
    err_status: &'a ErrStatus,
}

#[derive(Deserialize)]
struct ErrProbe {
    #[serde(rename = "ErrStatus")]
    err_status: Option<ErrStatus>,
}

/// A Kubernetes `Status` of a refused request, as much of it as a caller can act on.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct ErrStatus {
    /// Always empty; Go clients expect the member.
    metadata: EmptyObject,
    /// `Failure`.
    pub status: String,
    /// For people.
    pub message: String,
    /// For programs: `NotFound`, `AlreadyExists`, …
    pub reason: String,
    /// HTTP status.
    pub code: u32,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq, Eq)]
struct EmptyObject {}

impl Default for ErrStatus {
    fn default() -> Self {
        Self::new(0, "", "")
    }
}

impl ErrStatus {
    /// A refusal with an HTTP status.
    pub fn new(code: u32, reason: &str, message: &str) -> Self {
        Self {
            metadata: EmptyObject {},
            status: "Failure".to_owned(),
            message: message.to_owned(),
            reason: reason.to_owned(),
            code,
        }
    }

    /// The content of a bare error answer, as a failed query gets it.
    pub fn to_content(&self) -> Content {
        Content::value(&GoError { err_status: self }).expect("strings and a number always serialize")
    }

    /// Go errors without exported fields are written `{}`. KubeEdge's edge takes that for success; it never is.
    fn unnamed() -> Self {
        Self::new(500, "InternalError", "the cloud answered with an error that has no text")
    }

    fn from_go_error(err: &RawValue) -> Result<Self, WireError> {
        let probe: Result<ErrProbe, _> = serde_json::from_str(err.get());
        match probe {
            Ok(ErrProbe { err_status: Some(status) }) => Ok(status),
            Ok(ErrProbe { err_status: None }) if is_empty_object(err.get()) => Ok(Self::unnamed()),
            // A transport error between hub and API server: whatever fields it has are the only text there is.
            Ok(_) => Ok(Self::new(500, "InternalError", &crate::excerpt(err.get()))),
            Err(e) => Err(WireError::content("ObjectResp.Err", &e)),
        }
    }

    /// The code, never below 400: an error without a code is still an error.
    pub fn http_code(&self) -> u32 {
        if self.code >= 400 { self.code } else { 500 }
    }
}
