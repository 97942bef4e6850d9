use axum::extract::Request;
use http::header;
use http_body_util::{BodyExt, Limited};
use serde_json::Value;

use crate::error::ApiError;
use crate::protobuf;

/// 3 MiB, kube-apiserver's limit for a request.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// A request's body and its media type.
pub(crate) struct Body {
    /// Without parameters, lower case; "" when not given.
    pub(crate) media_type: String,
    bytes: bytes::Bytes,
}

/// Reads the body, bounded.
pub(crate) async fn read(request: Request) -> Result<Body, ApiError> {
    let media_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let collected = Limited::new(request.into_body(), BODY_LIMIT).collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            ApiError::too_large("the body", BODY_LIMIT)
        } else {
            ApiError::bad_request(format!("the body could not be read: {error}"))
        }
    })?;
    Ok(Body { media_type, bytes: collected.to_bytes() })
}

impl Body {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// An object in JSON, YAML or (some kinds) protobuf, by media type.
    pub(crate) fn object(&self) -> Result<Value, ApiError> {
        match self.media_type.as_str() {
            "" | "application/json" | "text/json" => self.json(),
            "application/yaml" => self.yaml(),
            protobuf::MEDIA_TYPE => protobuf::to_json(&self.bytes),
            other => Err(ApiError::unsupported_media_type(other, &["application/json", "application/yaml"])),
        }
    }

    pub(crate) fn json(&self) -> Result<Value, ApiError> {
        serde_json::from_slice(&self.bytes)
            .map_err(|e| ApiError::bad_request(format!("the body is not JSON: {e}")))
    }

    /// YAML, of which JSON is a part.
    pub(crate) fn yaml(&self) -> Result<Value, ApiError> {
        if let Ok(value) = serde_json::from_slice(&self.bytes) {
            return Ok(value);
        }
        let text =
            std::str::from_utf8(&self.bytes).map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
        serde_saphyr::from_str(text).map_err(|e| ApiError::bad_request(format!("the body is not YAML: {e}")))
    }
}
