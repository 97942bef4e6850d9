//! What create, update, patch, delete and bind mean. Each runs inside one transaction of the store, so a
//! read-modify-write is atomic and what follows from a change (a binding, a namespace that becomes empty) is committed
//! with it.

pub(crate) mod binding;
mod create;
mod delete;
mod events;
pub(crate) mod namespaces;
mod services;
mod update;

use serde_json::Value;

use crate::admission::pod;
use crate::admission::shape::{self, Unknown};
use crate::error::ApiError;
use crate::object;
use crate::resources::Resource;

pub(crate) use create::create;
pub(crate) use delete::{DeleteOptions, Deleted, delete};
pub(crate) use update::{Part, patch, update};

/// What a writer asks for besides the change.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct WriteOptions {
    /// Everything but the store's change.
    pub(crate) dry_run: bool,
    /// What to do about fields that do not exist.
    pub(crate) unknown: Unknown,
}

/// A written object and what its writer should be told.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Value,
    /// It was not there before.
    pub(crate) created: bool,
    /// For `Warning` headers.
    pub(crate) warnings: Vec<String>,
}

/// Makes sure that the body is what the path says, and that its shape is right.
fn accept(
    resource: &'static Resource,
    namespace: &str,
    object: &mut Value,
    unknown: Unknown,
) -> Result<Vec<String>, ApiError> {
    let Some(fields) = object.as_object_mut() else {
        return Err(ApiError::bad_request("the body must be a JSON object"));
    };
    for (field, expected) in [("apiVersion", resource.api_version()), ("kind", resource.kind.to_owned())] {
        let found = fields.get(field).and_then(Value::as_str).unwrap_or_default();
        if !found.is_empty() && found != expected {
            return Err(ApiError::bad_request(format!(
                "the {} in the data ({found}) does not match the expected {} ({expected})",
                if field == "kind" { "kind" } else { "API version" },
                if field == "kind" { "kind" } else { "API version" },
            )));
        }
        fields.insert(field.to_owned(), expected.into());
    }
    if fields.get("metadata").is_some_and(|m| !m.is_object() && !m.is_null()) {
        return Err(ApiError::bad_request("metadata must be an object"));
    }
    // Who wrote which field is not kept.
    let meta = object::metadata(object);
    meta.remove("managedFields");
    meta.remove("selfLink");
    let found = meta.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if resource.namespaced {
        if !found.is_empty() && found != namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        meta.insert("namespace".into(), namespace.into());
    } else if !found.is_empty() {
        return Err(ApiError::bad_request("namespace may not be set on a cluster-scoped object"));
    }
    if resource.is_custom() {
        return custom_shape(object).map(|()| Vec::new());
    }
    if resource.kind == "Pod" {
        pod::fill_named_volumes(object);
    }
    let dropped = shape::check(resource, object)?;
    shape::judge(resource, unknown, dropped)
}

/// Without a schema at least the metadata must be readable.
fn custom_shape(object: &Value) -> Result<(), ApiError> {
    let meta = &object["metadata"];
    serde_path_to_error::deserialize::<_, k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>(meta)
        .map(drop)
        .map_err(|e| ApiError::bad_request(format!("metadata.{}: {}", e.path(), e.inner())))
}

#[cfg(test)]
mod tests;
