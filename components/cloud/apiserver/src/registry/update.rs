use serde_json::Value;

use super::{WriteOptions, Written, accept, binding, create, namespaces, services};
use crate::admission::{defaults, validate};
use crate::error::ApiError;
use crate::object;
use crate::patch;
use crate::resources::Resource;
use crate::store::{Key, Work};

/// Replaces an object, or its status.
pub(crate) fn update(
    work: &mut Work<'_>,
    key: &Key,
    part: Part,
    mut object: Value,
    options: WriteOptions,
) -> Result<Written, ApiError> {
    let warnings = accept(key.resource, &key.namespace, &mut object, options.unknown)?;
    match object::name(&object) {
        "" => drop(object::metadata(&mut object).insert("name".into(), key.name.clone().into())),
        name if name != key.name => {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                key.name
            )));
        }
        _ => {}
    }
    let Some(stored) = work.get(key)? else {
        if key.resource.create_on_update && part == Part::Main && object::uid(&object).is_empty() {
            object::metadata(&mut object).remove("resourceVersion");
            return create(work, key.resource, &key.namespace, object, options);
        }
        return Err(ApiError::not_found(key.resource, &key.name));
    };
    replace(work, key, part, &stored, object, options).map(|object| Written {
        object,
        created: false,
        warnings,
    })
}

/// Changes parts of an object, or of its status.
pub(crate) fn patch(
    work: &mut Work<'_>,
    key: &Key,
    part: Part,
    kind: patch::Kind,
    patch: &Value,
    options: WriteOptions,
) -> Result<Written, ApiError> {
    let Some(stored) = work.get(key)? else {
        if kind == patch::Kind::Apply && part == Part::Main {
            let mut object = patch.clone();
            object::metadata(&mut object).insert("name".into(), key.name.clone().into());
            return create(work, key.resource, &key.namespace, object, options);
        }
        return Err(ApiError::not_found(key.resource, &key.name));
    };
    let mut object = patch::apply(kind, key.resource, &stored, patch)?;
    let warnings = accept(key.resource, &key.namespace, &mut object, options.unknown)?;
    if object::name(&object) != key.name {
        return Err(ApiError::bad_request("the name of an object cannot be patched"));
    }
    replace(work, key, part, &stored, object, options).map(|object| Written {
        object,
        created: false,
        warnings,
    })
}

/// Which part of an object a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status, where the status is a part of its own.
    Main,
    /// The status only.
    Status,
}

fn replace(
    work: &mut Work<'_>,
    key: &Key,
    part: Part,
    stored: &Value,
    mut object: Value,
    options: WriteOptions,
) -> Result<Value, ApiError> {
    let resource = key.resource;
    let version = object::version(&object);
    if !version.is_empty() && version != object::version(stored) {
        return Err(ApiError::modified(resource, &key.name));
    }
    let uid = object::uid(&object);
    if !uid.is_empty() && uid != object::uid(stored) {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::uid(stored)
        );
        return Err(ApiError::conflict(resource, &key.name, &why));
    }
    // What the server keeps, whatever the client sent.
    let meta = object::metadata(&mut object);
    for ours in [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        match stored["metadata"].get(ours) {
            Some(value) => drop(meta.insert(ours.to_owned(), value.clone())),
            None => drop(meta.remove(ours)),
        }
    }
    if resource.status {
        object = with_part_of(part, stored, object);
    }
    if part == Part::Main {
        if resource.kind == "Service" {
            services::keep_address(stored, &mut object);
        }
        defaults::fill(resource, &mut object);
        let causes = validate::update(resource, stored, &object);
        if !causes.is_empty() {
            return Err(ApiError::invalid(resource, &key.name, &causes));
        }
        if resource.kind == "Service" {
            services::allocate_address(work, &mut object)?;
        }
        if object.get("spec") != stored.get("spec")
            && let Some(generation) = stored["metadata"]["generation"].as_i64()
        {
            object::metadata(&mut object).insert("generation".into(), (generation + 1).into());
        }
    }
    if object == *stored || options.dry_run {
        return Ok(object);
    }
    if part == Part::Main && finished(resource, &object) {
        let gone = work.remove(resource, &object)?;
        namespaces::finish_if_empty(work, &key.namespace)?;
        return Ok(gone);
    }
    let written = work.put(resource, object, Some(stored))?;
    if resource.kind == "Node" && binding::differs(stored, &written) {
        binding::bind_waiting(work)?;
    }
    Ok(written)
}

/// The stored object with `part` taken from the new one.
fn with_part_of(part: Part, stored: &Value, new: Value) -> Value {
    let (mut base, other) = match part {
        Part::Main => (new, stored),
        Part::Status => (stored.clone(), &new),
    };
    if let Some(base) = base.as_object_mut() {
        match other.get("status") {
            Some(status) => drop(base.insert("status".to_owned(), status.clone())),
            None => drop(base.remove("status")),
        }
    }
    base
}

/// Its deletion waited only for finalizers, and the last one is gone.
fn finished(resource: &Resource, object: &Value) -> bool {
    let waits_for_node =
        resource.kind == "Pod" && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
    object::is_terminating(object)
        && !object::has_finalizers(object)
        && !waits_for_node
        && resource.kind != "Namespace"
}
