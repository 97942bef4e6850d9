//! Strategic merge patch, as `kubectl apply`, `edit`, `label` and `patch` send it. Behaviour after
//! `apimachinery/pkg/util/strategicpatch`: `null` deletes, maps merge, lists merge by key where the type says so, and
//! four directives: `$patch: replace|delete|merge`, `$retainKeys`, `$setElementOrder/<list>`,
//! `$deleteFromPrimitiveList/<list>`.

use serde_json::{Map, Value};

use super::merge_keys::{List, Type};

/// Comparisons that merging one list may take: real lists have tens of elements.
const COMPARISONS: usize = 25_000_000;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_VALUES: &str = "$deleteFromPrimitiveList/";

/// The object with the patch merged in. Recursion is as deep as the JSON, which the parser bounds to 128 levels.
pub(super) fn merge(object: &Value, patch: &Value, of: &Type) -> Result<Value, String> {
    let empty = Map::new();
    let object = object.as_object().unwrap_or(&empty);
    let Some(patch) = patch.as_object() else { return Ok(patch.clone()) };
    merge_map(object, patch, of).map(Value::Object)
}

fn merge_map(
    object: &Map<String, Value>,
    patch: &Map<String, Value>,
    of: &Type,
) -> Result<Map<String, Value>, String> {
    match patch.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => return Ok(patch.iter().filter(|(k, _)| *k != DIRECTIVE).map(owned).collect()),
        Some("delete") => return Ok(Map::new()),
        Some(_) => return Err(unknown_directive(&patch[DIRECTIVE])),
    }
    let mut merged = object.clone();
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        let keys = keys.as_array().ok_or_else(|| format!("{RETAIN_KEYS} is {keys}, must be a list"))?;
        merged.retain(|key, _| keys.iter().any(|k| k == key));
    }
    for (key, value) in patch {
        if key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(ELEMENT_ORDER) {
            continue;
        }
        if let Some(field) = key.strip_prefix(DELETE_VALUES) {
            let gone = value.as_array().ok_or_else(|| format!("{key} is {value}, must be a list"))?;
            if let Some(Value::Array(values)) = merged.get_mut(field) {
                bounded(field, values.len(), gone.len())?;
                values.retain(|v| !gone.contains(v));
            }
            continue;
        }
        let result = match (merged.get(key), value) {
            (_, Value::Null) => None,
            (old, Value::Object(patch)) => {
                let empty = Map::new();
                let old = old.and_then(Value::as_object).unwrap_or(&empty);
                Some(Value::Object(merge_map(old, patch, of.map(key))?))
            }
            (old, Value::Array(patch)) => {
                let old = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                Some(Value::Array(merge_list(key, old, patch, of.list(key))?))
            }
            (_, scalar) => Some(scalar.clone()),
        };
        match result {
            Some(result) => drop(merged.insert(key.clone(), result)),
            None => drop(merged.remove(key)),
        }
    }
    for (key, order) in patch {
        let Some(field) = key.strip_prefix(ELEMENT_ORDER) else { continue };
        let order = order.as_array().ok_or_else(|| format!("{key} is {order}, must be a list"))?;
        let before = object.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if let (Some(Value::Array(list)), Some(how)) = (merged.get_mut(field), of.list(field)) {
            bounded(field, list.len(), list.len().max(order.len()).max(before.len()))?;
            *list = reorder(std::mem::take(list), order, before, how);
        }
    }
    Ok(merged)
}

fn owned((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

fn unknown_directive(found: &Value) -> String {
    format!("unknown patch type {found} in {DIRECTIVE}, must be replace, merge or delete")
}

fn merge_list(field: &str, old: &[Value], patch: &[Value], how: Option<&List>) -> Result<Vec<Value>, String> {
    let replaces = |element: &Value| element.get(DIRECTIVE).is_some_and(|d| d == "replace");
    if patch.iter().any(replaces) {
        return Ok(patch.iter().filter(|element| !replaces(element)).cloned().collect());
    }
    let Some(how) = how else { return Ok(patch.to_vec()) };
    bounded(field, old.len() + patch.len(), patch.len())?;
    match how {
        List::Values => {
            let mut merged = old.to_vec();
            for value in patch {
                if !merged.contains(value) {
                    merged.push(value.clone());
                }
            }
            Ok(merged)
        }
        List::ByKey(key, of) => merge_by_key(field, old, patch, key, of),
    }
}

/// Merging compares elements pairwise.
fn bounded(field: &str, one: usize, other: usize) -> Result<(), String> {
    if one.saturating_mul(other) > COMPARISONS {
        return Err(format!("{field} is too long a list to merge"));
    }
    Ok(())
}

fn merge_by_key(
    field: &str,
    old: &[Value],
    patch: &[Value],
    key: &str,
    of: &Type,
) -> Result<Vec<Value>, String> {
    let mut merged = old.to_vec();
    for element in patch {
        let change = element
            .as_object()
            .ok_or_else(|| format!("{field} has an element {element} that is not an object"))?;
        let id = change.get(key).filter(|id| !id.is_null()).ok_or_else(|| {
            format!("map: {element} does not contain declared merge key: {key} (in {field})")
        })?;
        let position = merged.iter().position(|e| e.get(key) == Some(id));
        if change.get(DIRECTIVE).is_some_and(|d| d == "delete") {
            merged.retain(|e| e.get(key) != Some(id));
            continue;
        }
        let empty = Map::new();
        let before = position.and_then(|at| merged[at].as_object()).unwrap_or(&empty);
        let result = Value::Object(merge_map(before, change, of)?);
        match position {
            Some(at) => merged[at] = result,
            None => merged.push(result),
        }
    }
    Ok(merged)
}

/// Elements named in `order` come in that order; the others keep their place relative to those the list had `before`.
fn reorder(list: Vec<Value>, order: &[Value], before: &[Value], how: &List) -> Vec<Value> {
    let same = |a: &Value, b: &Value| match how {
        List::Values => a == b,
        List::ByKey(key, _) => a.get(key).is_some() && a.get(key) == b.get(key),
    };
    let rank = |element: &Value| order.iter().position(|o| same(o, element));
    let (mut named, others): (Vec<_>, Vec<_>) = list.into_iter().partition(|element| rank(element).is_some());
    named.sort_by_key(rank);
    let place = |element: &Value| before.iter().position(|b| same(b, element));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().peekable();
    for other in others {
        // An element that is new has no place yet and goes before those that stay.
        while let Some(next) = named.next_if(|next| place(next) < place(&other)) {
            result.push(next);
        }
        result.push(other);
    }
    result.extend(named);
    result
}

#[cfg(test)]
mod tests {
    use super::super::merge_keys;
    use super::*;
    use crate::resources;
    use serde_json::json;

    fn pod(object: Value, patch: Value) -> Value {
        let of = merge_keys::of(resources::find("", "v1", "pods").unwrap());
        merge(&object, &patch, of).unwrap()
    }

    #[test]
    fn containers_merge_by_name_and_env_within() {
        let object = json!({"spec": {"containers": [
            {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "b:1"}]}});
        let patch = json!({"spec": {"containers": [
            {"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "2"}]}]}});
        assert_eq!(
            pod(object, patch),
            json!({"spec": {"containers": [
                {"name": "a", "image": "a:2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
                {"name": "b", "image": "b:1"}]}})
        );
    }

    #[test]
    fn null_deletes_and_atomic_lists_are_replaced() {
        let object =
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"tolerations": [{"key": "x"}]}});
        let patch = json!({"metadata": {"labels": {"a": null}}, "spec": {"tolerations": [{"key": "y"}]}});
        assert_eq!(
            pod(object, patch),
            json!({"metadata": {"labels": {"b": "2"}}, "spec": {"tolerations": [{"key": "y"}]}})
        );
    }

    #[test]
    fn delete_directive_removes_an_element() {
        let object = json!({"spec": {"volumes": [{"name": "a"}, {"name": "b"}]}});
        let patch = json!({"spec": {"volumes": [{"$patch": "delete", "name": "a"}]}});
        assert_eq!(pod(object, patch), json!({"spec": {"volumes": [{"name": "b"}]}}));
    }

    #[test]
    fn replace_directive_replaces_list_and_map() {
        let object = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"volumes": [{"name": "a"}]}});
        let patch = json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}},
            "spec": {"volumes": [{"name": "z"}, {"$patch": "replace"}]}});
        assert_eq!(
            pod(object, patch),
            json!({"metadata": {"labels": {"b": "2"}}, "spec": {"volumes": [{"name": "z"}]}})
        );
    }

    #[test]
    fn retain_keys_clears_the_old_volume_source() {
        let object = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let patch = json!({"spec": {"volumes": [
            {"name": "v", "hostPath": {"path": "/x"}, "$retainKeys": ["name", "hostPath"]}]}});
        assert_eq!(
            pod(object, patch),
            json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}})
        );
    }

    #[test]
    fn element_order_places_new_ones_and_keeps_foreign_ones() {
        let object = json!({"spec": {"containers": [{"name": "a"}, {"name": "server"}, {"name": "b"}]}});
        let patch = json!({"spec": {
            "$setElementOrder/containers": [{"name": "new"}, {"name": "a"}, {"name": "b"}],
            "containers": [{"name": "new"}]}});
        assert_eq!(
            pod(object, patch),
            json!({"spec": {"containers": [{"name": "new"}, {"name": "a"}, {"name": "server"}, {"name": "b"}]}})
        );
    }

    #[test]
    fn primitive_lists_merge_and_lose_values() {
        let object = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}});
        assert_eq!(pod(object, patch), json!({"metadata": {"finalizers": ["b", "c"]}}));
    }

    #[test]
    fn conditions_merge_by_type() {
        let object = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "X"}]}});
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(
            pod(object, patch),
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "X"}]}})
        );
    }

    #[test]
    fn an_element_without_its_key_is_refused() {
        let of = merge_keys::of(resources::find("", "v1", "pods").unwrap());
        let error = merge(&json!({}), &json!({"spec": {"containers": [{"image": "x"}]}}), of).unwrap_err();
        assert!(error.contains("merge key: name"), "{error}");
    }
}
