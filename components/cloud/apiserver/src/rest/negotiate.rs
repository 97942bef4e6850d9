use http::{HeaderMap, header};

use crate::error::ApiError;

/// The form an object is answered in. All are JSON: protobuf is not spoken, and clients that prefer it accept JSON too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The object itself.
    Object,
    /// What `kubectl get` prints.
    Table,
    /// Metadata only.
    Partial,
}

/// 4 KiB: `Accept` headers are short.
const ACCEPT_LIMIT: usize = 4096;

impl Form {
    /// The first form in `Accept` that we have.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let Some(accept) = headers.get(header::ACCEPT) else { return Ok(Self::Object) };
        let accept = accept
            .to_str()
            .ok()
            .filter(|accept| accept.len() <= ACCEPT_LIMIT)
            .ok_or_else(ApiError::not_acceptable)?;
        if accept.trim().is_empty() {
            return Ok(Self::Object);
        }
        accept.split(',').find_map(Self::of_range).ok_or_else(ApiError::not_acceptable)
    }

    fn of_range(range: &str) -> Option<Self> {
        let mut parts = range.split(';').map(str::trim);
        if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
            return None;
        }
        let (mut form, mut version) = (Some(Self::Object), "v1");
        for parameter in parts {
            match parameter.split_once('=')? {
                ("as", "Table") => form = Some(Self::Table),
                ("as", "PartialObjectMetadata" | "PartialObjectMetadataList") => form = Some(Self::Partial),
                ("as", _) => form = None,
                ("v", found) => version = found,
                _ => {}
            }
        }
        form.filter(|_| version == "v1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(accept: &str) -> Option<Form> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        Form::of(&headers).ok()
    }

    #[test]
    fn the_first_form_we_have_wins() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(kubectl), Some(Form::Table));
        assert_eq!(
            form("application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json"),
            Some(Form::Object)
        );
        assert_eq!(form("application/vnd.kubernetes.protobuf,application/json"), Some(Form::Object));
        assert_eq!(
            form("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Some(Form::Partial)
        );
        assert_eq!(form("*/*"), Some(Form::Object));
        assert_eq!(form("application/vnd.kubernetes.protobuf"), None);
    }
}
