//! Kubernetes' own types decide which fields exist and what type a value has. The object itself is kept as the client
//! wrote it, less what the types do not know, as kube-apiserver does it.

use std::fmt::Write as _;

use serde_json::Value;

use crate::error::ApiError;
use crate::resources::Resource;

/// What to do about fields that do not exist (`?fieldValidation=`). They are dropped in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Unknown {
    /// Nothing.
    Ignore,
    /// Name them in `Warning` headers.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// Fields named in one answer; a hostile body could have as many as it has bytes.
const REPORTED: usize = 20;

/// Checks types and drops unknown fields. Returns the paths of the dropped ones (`spec.foo`, `spec.volumes[0].bar`).
pub(crate) fn check(resource: &Resource, object: &mut Value) -> Result<Vec<String>, ApiError> {
    let Some(shape) = resource.shape else { return Ok(Vec::new()) };
    let known = shape(object).map_err(|why| {
        ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {why}",
            resource.kind,
            resource.api_version(),
            resource.kind
        ))
    })?;
    let mut dropped = Vec::new();
    prune(object, &known, &mut String::new(), &mut dropped);
    Ok(dropped)
}

/// The refusal or the warnings that `dropped` fields earn.
pub(crate) fn judge(
    resource: &Resource,
    unknown: Unknown,
    dropped: Vec<String>,
) -> Result<Vec<String>, ApiError> {
    let texts: Vec<String> = dropped.into_iter().map(|path| format!("unknown field {path:?}")).collect();
    match unknown {
        Unknown::Ignore => Ok(Vec::new()),
        Unknown::Warn => Ok(texts),
        Unknown::Strict if texts.is_empty() => Ok(texts),
        Unknown::Strict => Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
            resource.kind,
            resource.api_version(),
            resource.kind,
            texts.join(", ")
        ))),
    }
}

/// Drops nulls and what `known` lacks.
fn prune(object: &mut Value, known: &Value, path: &mut String, dropped: &mut Vec<String>) {
    match (object, known) {
        (Value::Object(fields), Value::Object(known)) => {
            fields.retain(|key, value| {
                if value.is_null() {
                    return false;
                }
                let before = path.len();
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(key);
                let kept = match known.get(key) {
                    Some(known) => {
                        prune(value, known, path, dropped);
                        true
                    }
                    // The types do not write back what they hold as empty.
                    None if is_empty(value) => false,
                    None => {
                        if dropped.len() < REPORTED {
                            dropped.push(path.clone());
                        }
                        false
                    }
                };
                path.truncate(before);
                kept
            });
        }
        (Value::Array(items), Value::Array(known)) => {
            for (index, (item, known)) in items.iter_mut().zip(known).enumerate() {
                let before = path.len();
                // Writing to a String cannot fail.
                let _ = write!(path, "[{index}]");
                prune(item, known, path, dropped);
                path.truncate(before);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_dropped_and_named() {
        let pods = resources::find("", "v1", "pods").unwrap();
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
            "spec": {"containers": [{"name": "c", "image": "i", "imgae": "typo"}], "foo": 1}});
        let dropped = check(pods, &mut pod).unwrap();
        assert_eq!(dropped, ["spec.containers[0].imgae", "spec.foo"]);
        assert_eq!(pod["spec"], json!({"containers": [{"name": "c", "image": "i"}]}));
        assert!(judge(pods, Unknown::Strict, dropped).is_err());
    }

    #[test]
    fn values_stay_as_they_were_written() {
        let leases = resources::find("coordination.k8s.io", "v1", "leases").unwrap();
        let mut lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "x"},
            "spec": {"renewTime": "2026-01-01T00:00:00.123456Z"}});
        let before = lease.clone();
        assert!(check(leases, &mut lease).unwrap().is_empty());
        assert_eq!(lease, before);
    }

    #[test]
    fn bad_base64_in_a_secret_is_refused() {
        let secrets = resources::find("", "v1", "secrets").unwrap();
        let mut secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "data": {"a": "%%"}});
        assert_eq!(check(secrets, &mut secret).unwrap_err().code, 400);
    }
}
