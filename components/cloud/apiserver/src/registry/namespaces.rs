//! Namespaces: those that always exist, what a new one gets, and how one goes.

use serde_json::{Value, json};

use super::{DeleteOptions, Deleted, WriteOptions, create};
use crate::error::ApiError;
use crate::object;
use crate::resources::{self, RESOURCES, Resource};
use crate::store::{Key, Work};

/// They exist from the first start, and cannot be deleted.
const ALWAYS: [&str; 5] = ["default", "kube-node-lease", "kube-public", "kube-system", "kubeedge"];

fn namespaces() -> &'static Resource {
    resources::find("", "v1", "namespaces").expect("a row of the table")
}

fn key(name: &str) -> Key {
    Key { resource: namespaces(), namespace: String::new(), name: name.to_owned() }
}

/// Makes what always exists.
pub(crate) fn ensure(work: &mut Work<'_>) -> Result<(), ApiError> {
    for name in ALWAYS {
        if work.get_bytes(&key(name))?.is_none() {
            let namespace = json!({"metadata": {"name": name}});
            create(work, namespaces(), "", namespace, WriteOptions::default())?;
        }
    }
    Ok(())
}

/// The service account that pods without another one run as.
pub(super) fn add_default_account(work: &mut Work<'_>, namespace: &str) -> Result<(), ApiError> {
    let accounts = resources::find("", "v1", "serviceaccounts").expect("a row of the table");
    let account = json!({"metadata": {"name": "default"}});
    create(work, accounts, namespace, account, WriteOptions::default()).map(drop)
}

/// Refuses a new object in a namespace that is missing or going.
pub(super) fn require_active(
    work: &Work<'_>,
    namespace: &str,
    resource: &Resource,
    name: &str,
) -> Result<(), ApiError> {
    let found = work.require(&key(namespace))?;
    if object::is_terminating(&found) {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        return Err(ApiError::forbidden(resource, name, &why));
    }
    Ok(())
}

/// Marks the namespace, deletes what is in it, and removes it when nothing has to wait.
pub(super) fn delete(work: &mut Work<'_>, stored: &Value) -> Result<Deleted, ApiError> {
    let name = object::name(stored).to_owned();
    if ALWAYS.contains(&name.as_str()) {
        return Err(ApiError::forbidden(namespaces(), &name, "this namespace may not be deleted"));
    }
    let mut marked = stored.clone();
    if !object::is_terminating(stored) {
        object::metadata(&mut marked).insert("deletionTimestamp".into(), object::now().into());
        marked["status"] = json!({"phase": "Terminating"});
        marked = work.put(namespaces(), marked, Some(stored))?;
    }
    for resource in RESOURCES.iter().filter(|resource| resource.namespaced) {
        for row in work.list(resource, Some(&name), None, usize::MAX)? {
            let key = Key { resource, namespace: name.clone(), name: row.name };
            delete_content(work, &key)?;
        }
    }
    // The last of the content may have taken the namespace with it.
    match work.get(&key(&name))? {
        None => Ok(Deleted::Gone(marked)),
        Some(_) if finish_if_empty(work, &name)? => Ok(Deleted::Gone(marked)),
        Some(_) => Ok(Deleted::Waiting(marked)),
    }
}

fn delete_content(work: &mut Work<'_>, key: &Key) -> Result<(), ApiError> {
    super::delete(work, key, &DeleteOptions::default()).map(drop)
}

/// Removes a terminating namespace that has become empty. Called after every removal of a namespaced object.
pub(super) fn finish_if_empty(work: &mut Work<'_>, name: &str) -> Result<bool, ApiError> {
    if name.is_empty() {
        return Ok(false);
    }
    let Some(found) = work.get(&key(name))? else { return Ok(false) };
    let done = object::is_terminating(&found)
        && !object::has_finalizers(&found)
        && !work.namespace_has_content(name)?;
    if done {
        work.remove(namespaces(), &found)?;
    }
    Ok(done)
}
