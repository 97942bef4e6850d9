use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;

use super::{binding, namespaces};
use crate::error::ApiError;
use crate::object::{self, text};
use crate::resources;
use crate::store::{Key, Work};

/// `meta/v1 DeleteOptions`, what of it we act on. The propagation policy is accepted and has no effect: nothing here
/// owns other objects.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) preconditions: Option<Preconditions>,
    pub(crate) dry_run: Option<Vec<String>>,
}

/// What must still hold for the deletion to happen.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Preconditions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

/// What became of the object.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// It is gone; its last state.
    Gone(Value),
    /// It is marked and goes when its node, its finalizers or its content are done.
    Waiting(Value),
}

impl Deleted {
    pub(crate) fn object(&self) -> &Value {
        match self {
            Self::Gone(object) | Self::Waiting(object) => object,
        }
    }
}

/// Deletes one object.
pub(crate) fn delete(work: &mut Work<'_>, key: &Key, options: &DeleteOptions) -> Result<Deleted, ApiError> {
    let stored = work.require(key)?;
    let resource = key.resource;
    if let Some(conditions) = &options.preconditions {
        for (what, wanted, found) in [
            ("UID", &conditions.uid, object::uid(&stored)),
            ("ResourceVersion", &conditions.resource_version, object::version(&stored)),
        ] {
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
                let why = format!(
                    "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
                );
                return Err(ApiError::conflict(resource, &key.name, &why));
            }
        }
    }
    if options.grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        return Err(ApiError::bad_request("gracePeriodSeconds must not be negative"));
    }
    if options.dry_run.as_ref().is_some_and(|stages| !stages.is_empty()) {
        return Ok(Deleted::Gone(stored));
    }
    if resource.kind == "Namespace" {
        return namespaces::delete(work, &stored);
    }
    let grace = if resource.kind == "Pod" { pod_grace(work, &stored, options)? } else { 0 };
    if grace == 0 && !object::has_finalizers(&stored) {
        let gone = work.remove(resource, &stored)?;
        namespaces::finish_if_empty(work, &key.namespace)?;
        if resource.kind == "Node" {
            binding::bind_waiting(work)?;
        }
        return Ok(Deleted::Gone(gone));
    }
    let marked = mark(&stored, grace);
    if marked == stored {
        return Ok(Deleted::Waiting(stored));
    }
    work.put(resource, marked, Some(&stored)).map(Deleted::Waiting)
}

/// Seconds the pod's node has to stop it. 0: nobody runs it, it can go at once. Kubernetes differs in one point: a pod
/// of a node that does not exist waits there for the garbage collector, which does the same 40 s later.
fn pod_grace(work: &Work<'_>, pod: &Value, options: &DeleteOptions) -> Result<i64, ApiError> {
    let node = text(pod, "/spec/nodeName");
    if node.is_empty() || matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return Ok(0);
    }
    if let Some(nodes) = resources::find("", "v1", "nodes") {
        let key = Key { resource: nodes, namespace: String::new(), name: node.to_owned() };
        if work.get_bytes(&key)?.is_none() {
            return Ok(0);
        }
    }
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    // A negative one means "at once, but let the node do it".
    Ok(options.grace_period_seconds.unwrap_or(if own < 0 { 1 } else { own }))
}

/// With the time by which it should be gone. A second deletion may shorten the grace period, never lengthen it.
fn mark(stored: &Value, grace: i64) -> Value {
    let mut marked = stored.clone();
    let before = stored["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if object::is_terminating(stored) && before.is_none_or(|before| before <= grace) {
        return marked;
    }
    let now = Timestamp::now();
    // A grace period beyond the calendar means never.
    let deadline = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
    let generation = stored["metadata"]["generation"].as_i64();
    let meta = object::metadata(&mut marked);
    meta.insert("deletionTimestamp".into(), object::timestamp(deadline).into());
    meta.insert("deletionGracePeriodSeconds".into(), grace.into());
    if let Some(generation) = generation {
        meta.insert("generation".into(), (generation + 1).into());
    }
    marked
}
