//! The three ways to change a part of an object: JSON merge patch (RFC 7396), JSON patch (RFC 6902) and Kubernetes'
//! strategic merge patch. All are pure functions of the stored object and the patch.

mod merge_keys;
mod strategic;

use json_patch::PatchOperation;
use serde_json::Value;

use crate::error::ApiError;
use crate::resources::Resource;

/// Operations of one JSON patch (kube-apiserver's limit): each may copy the document.
const JSON_PATCH_LIMIT: usize = 10_000;

/// 3 MiB that all `copy` operations of a patch may add: each can double the document.
const COPY_LIMIT: usize = 3 * 1024 * 1024;

/// A patch's kind, by its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// RFC 7396.
    Merge,
    /// RFC 6902.
    Json,
    /// Lists are merged by key.
    Strategic,
    /// Server-side apply. Thin: merged like a strategic patch, creates the object if it is missing; nobody owns fields.
    Apply,
}

/// The media types, for the message of a 415.
pub(crate) const MEDIA_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

impl Kind {
    pub(crate) fn of(media_type: &str) -> Option<Self> {
        match media_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        }
    }
}

/// The object after the patch.
pub(crate) fn apply(
    kind: Kind,
    resource: &Resource,
    object: &Value,
    patch: &Value,
) -> Result<Value, ApiError> {
    let mut patched = object.clone();
    match kind {
        Kind::Json => {
            let operations: json_patch::Patch = serde_json::from_value(patch.clone())
                .map_err(|e| ApiError::bad_request(format!("not a JSON patch: {e}")))?;
            if operations.0.len() > JSON_PATCH_LIMIT {
                let what = format!("a JSON patch of {} operations", operations.0.len());
                return Err(ApiError::too_large(&what, JSON_PATCH_LIMIT));
            }
            apply_operations(&mut patched, &operations)?;
        }
        Kind::Merge => json_patch::merge(&mut patched, must_be_object(patch)?),
        Kind::Strategic if resource.is_custom() => {
            return Err(ApiError::unsupported_media_type(
                "application/strategic-merge-patch+json",
                &MEDIA_TYPES[..2],
            ));
        }
        Kind::Strategic | Kind::Apply => {
            let merged = strategic::merge(&patched, must_be_object(patch)?, merge_keys::of(resource))
                .map_err(ApiError::bad_request)?;
            patched = merged;
        }
    }
    if patched.is_object() { Ok(patched) } else { Err(ApiError::bad_request("the patch leaves no object")) }
}

fn apply_operations(object: &mut Value, operations: &[PatchOperation]) -> Result<(), ApiError> {
    let mut copied = 0;
    for operation in operations {
        if let PatchOperation::Copy(copy) = operation {
            copied += object.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
            if copied > COPY_LIMIT {
                return Err(ApiError::too_large("what a JSON patch copies", COPY_LIMIT));
            }
        }
        json_patch::patch(object, std::slice::from_ref(operation)).map_err(|e| {
            ApiError::new(
                http::StatusCode::UNPROCESSABLE_ENTITY,
                "Invalid",
                format!("the server rejected our request due to an error in our request: {e}"),
            )
        })?;
    }
    Ok(())
}

fn must_be_object(patch: &Value) -> Result<&Value, ApiError> {
    if patch.is_object() { Ok(patch) } else { Err(ApiError::bad_request("the patch must be a JSON object")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources;
    use proptest::prelude::*;
    use serde_json::json;

    fn pods() -> &'static Resource {
        resources::find("", "v1", "pods").unwrap()
    }

    #[test]
    fn json_patch_that_does_not_fit_is_invalid() {
        let patch = json!([{"op": "remove", "path": "/metadata/labels/missing"}]);
        let error = apply(Kind::Json, pods(), &json!({"metadata": {}}), &patch).unwrap_err();
        assert_eq!(error.code, 422);
    }

    #[test]
    fn copies_cannot_grow_the_document_without_bound() {
        let copies: Vec<Value> =
            (0..64).map(|n| json!({"op": "copy", "from": "", "path": format!("/x{n}")})).collect();
        assert_eq!(apply(Kind::Json, pods(), &json!({"a": 1}), &json!(copies)).unwrap_err().code, 413);
    }

    #[test]
    fn huge_lists_are_not_merged() {
        let list: Vec<Value> = (0..6000).map(|n| json!({"name": n.to_string()})).collect();
        let pod = json!({"spec": {"containers": list}});
        assert_eq!(apply(Kind::Strategic, pods(), &pod, &pod).unwrap_err().code, 400);
    }

    #[test]
    fn a_patch_of_the_wrong_shape_is_refused() {
        assert_eq!(apply(Kind::Merge, pods(), &json!({}), &json!([])).unwrap_err().code, 400);
        assert_eq!(apply(Kind::Json, pods(), &json!({}), &json!({"a": 1})).unwrap_err().code, 400);
        let replace_root = json!([{"op": "replace", "path": "", "value": 3}]);
        assert_eq!(apply(Kind::Json, pods(), &json!({}), &replace_root).unwrap_err().code, 400);
    }

    #[test]
    fn custom_resources_take_no_strategic_merge() {
        let syncs = resources::find("reliablesyncs.kubeedge.io", "v1alpha1", "objectsyncs").unwrap();
        assert_eq!(apply(Kind::Strategic, syncs, &json!({}), &json!({})).unwrap_err().code, 415);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0_i64..9).prop_map(Value::from),
            "[a-c]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(
                    prop_oneof![
                        "[a-c]",
                        Just("metadata".to_owned()),
                        Just("spec".to_owned()),
                        Just("containers".to_owned()),
                        Just("name".to_owned()),
                        Just("$patch".to_owned()),
                        Just("$setElementOrder/containers".to_owned()),
                        Just("$deleteFromPrimitiveList/finalizers".to_owned()),
                        Just("finalizers".to_owned()),
                    ],
                    inner,
                    0..5
                )
                .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_patch_panics(object in any_json(), patch in any_json()) {
            for kind in [Kind::Merge, Kind::Json, Kind::Strategic] {
                let _ = apply(kind, pods(), &object, &patch);
            }
        }

        #[test]
        fn merge_patch_is_idempotent(object in any_json(), patch in any_json()) {
            if let Ok(once) = apply(Kind::Merge, pods(), &object, &patch) {
                prop_assert_eq!(apply(Kind::Merge, pods(), &once, &patch).unwrap(), once);
            }
        }

        #[test]
        fn empty_strategic_patch_changes_nothing(names in prop::collection::hash_set("[a-z]{1,4}", 0..5)) {
            let containers: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
            let pod = json!({"spec": {"containers": containers}});
            prop_assert_eq!(apply(Kind::Strategic, pods(), &pod, &json!({})).unwrap(), pod);
        }

        #[test]
        fn strategic_patch_of_containers_is_idempotent(
            old in prop::collection::hash_map("[a-d]", 0_u8..9, 0..4),
            new in prop::collection::hash_map("[a-d]", 0_u8..9, 0..4),
        ) {
            let list = |map: &std::collections::HashMap<String, u8>| -> Vec<Value> {
                map.iter().map(|(name, image)| json!({"name": name, "image": image.to_string()})).collect()
            };
            let pod = json!({"spec": {"containers": list(&old)}});
            let patch = json!({"spec": {"containers": list(&new)}});
            let once = apply(Kind::Strategic, pods(), &pod, &patch).unwrap();
            let result = once["spec"]["containers"].as_array().unwrap();
            let all: std::collections::HashSet<_> = old.keys().chain(new.keys()).collect();
            prop_assert_eq!(result.len(), all.len());
            for (name, image) in &new {
                prop_assert!(result.iter().any(|c| c["name"] == *name && c["image"].as_str() == Some(image.to_string().as_str())));
            }
            prop_assert_eq!(apply(Kind::Strategic, pods(), &once, &patch).unwrap(), once);
        }
    }
}
