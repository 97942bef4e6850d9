use serde_json::Value;

use super::{WriteOptions, Written, accept, binding, events, namespaces, services};
use crate::admission::{defaults, validate};
use crate::error::ApiError;
use crate::object;
use crate::resources::Resource;
use crate::store::{Key, Work};

/// Letters Kubernetes appends to `generateName`: no vowels, nothing that looks alike.
const SUFFIX_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// 63: what a generated name is cut to before the suffix, so that it fits where a label must.
const GENERATED_LIMIT: usize = 63;

/// Creates an object.
pub(crate) fn create(
    work: &mut Work<'_>,
    resource: &'static Resource,
    namespace: &str,
    mut object: Value,
    options: WriteOptions,
) -> Result<Written, ApiError> {
    let warnings = accept(resource, namespace, &mut object, options.unknown)?;
    if !matches!(object::version(&object), "" | "0") {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    generate_name(&mut object);
    let name = object::name(&object).to_owned();
    if resource.namespaced {
        namespaces::require_active(work, namespace, resource, &name)?;
    }
    let meta = object::metadata(&mut object);
    for ours in ["deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion"] {
        meta.remove(ours);
    }
    meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp".into(), object::now().into());
    if object.get("spec").is_some() {
        object::metadata(&mut object).insert("generation".into(), 1.into());
    }
    defaults::fill(resource, &mut object);
    match defaults::initial_status(resource, &object) {
        Some(status) => object["status"] = status,
        // A custom resource's status is written through its subresource only.
        None if resource.status && resource.is_custom() => {
            object.as_object_mut().map(|object| object.remove("status"));
        }
        None => {}
    }
    let causes = validate::create(resource, &object);
    if !causes.is_empty() {
        return Err(ApiError::invalid(resource, &name, &causes));
    }
    if resource.kind == "Service" {
        services::allocate_address(work, &mut object)?;
    }
    let key = Key::of(resource, &object);
    if work.get_bytes(&key)?.is_some() {
        return Err(ApiError::already_exists(resource, &name));
    }
    let bound_here = resource.kind == "Pod" && binding::admit(work, &mut object)?;
    if options.dry_run {
        return Ok(Written { object, created: true, warnings });
    }
    let object = work.put(resource, object, None)?;
    match resource.kind {
        "Namespace" => namespaces::add_default_account(work, &name)?,
        "Node" => binding::bind_waiting(work)?,
        "Event" => events::expire(work, &object)?,
        "Pod" if bound_here => binding::announce(work, &object),
        _ => {}
    }
    Ok(Written { object, created: true, warnings })
}

fn generate_name(object: &mut Value) {
    let meta = object::metadata(object);
    let has = |key: &str| meta.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (None, Some(prefix)) = (has("name"), has("generateName")) else { return };
    let mut name: String = prefix.chars().take(GENERATED_LIMIT - SUFFIX_LENGTH).collect();
    name.extend(
        uuid::Uuid::new_v4()
            .into_bytes()
            .iter()
            .take(SUFFIX_LENGTH)
            .map(|byte| char::from(SUFFIX_LETTERS[usize::from(*byte) % SUFFIX_LETTERS.len()])),
    );
    meta.insert("name".into(), name.into());
}
