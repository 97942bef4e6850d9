use serde_json::{Value, json};

use super::*;
use crate::patch::Kind;
use crate::resources;
use crate::store::{Key, Store, Work};

fn resource(plural: &str) -> &'static Resource {
    resources::RESOURCES.iter().find(|r| r.plural == plural).unwrap()
}

fn key(plural: &str, namespace: &str, name: &str) -> Key {
    Key { resource: resource(plural), namespace: namespace.into(), name: name.into() }
}

/// Runs one closure over a fresh store with its namespaces.
async fn with_store<T: Send + 'static>(
    job: impl FnOnce(&mut Work<'_>) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.db"), 1000).unwrap();
    store.write(namespaces::ensure).await.unwrap();
    store.write(job).await
}

fn add(work: &mut Work<'_>, plural: &str, namespace: &str, object: Value) -> Result<Value, ApiError> {
    create(work, resource(plural), namespace, object, WriteOptions::default()).map(|written| written.object)
}

fn pod(name: &str, node: &str) -> Value {
    let mut pod =
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    if !node.is_empty() {
        pod["spec"]["nodeName"] = node.into();
    }
    pod
}

fn ready_node(name: &str) -> Value {
    json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
}

fn remove(work: &mut Work<'_>, key: &Key, grace: Option<i64>) -> Result<Deleted, ApiError> {
    delete(work, key, &DeleteOptions { grace_period_seconds: grace, ..DeleteOptions::default() })
}

#[tokio::test]
async fn namespaces_and_their_accounts_exist_from_the_start() {
    let found = with_store(|work| work.get(&key("serviceaccounts", "kubeedge", "default"))).await.unwrap();
    assert!(found.is_some());
}

#[tokio::test]
async fn create_twice_is_already_exists() {
    let error = with_store(|work| {
        add(work, "configmaps", "default", json!({"metadata": {"name": "a"}}))?;
        add(work, "configmaps", "default", json!({"metadata": {"name": "a"}}))
    })
    .await
    .unwrap_err();
    assert_eq!(error.reason, "AlreadyExists");
}

#[tokio::test]
async fn create_in_a_missing_namespace_names_it() {
    let error = with_store(|work| add(work, "configmaps", "nope", json!({"metadata": {"name": "a"}}))).await;
    assert_eq!(error.unwrap_err().message, "namespaces \"nope\" not found");
}

#[tokio::test]
async fn generated_names_differ() {
    let names = with_store(|work| {
        let object = json!({"metadata": {"generateName": "web-"}});
        let one = add(work, "configmaps", "default", object.clone())?;
        let two = add(work, "configmaps", "default", object)?;
        Ok([object::name(&one).to_owned(), object::name(&two).to_owned()])
    })
    .await
    .unwrap();
    assert!(names.iter().all(|name| name.starts_with("web-") && name.len() == 9), "{names:?}");
    assert_ne!(names[0], names[1]);
}

#[tokio::test]
async fn stale_update_conflicts_and_equal_update_changes_nothing() {
    with_store(|work| {
        let old = add(work, "configmaps", "default", json!({"metadata": {"name": "a"}}))?;
        let at = key("configmaps", "default", "a");
        let mut new = old.clone();
        new["data"] = json!({"x": "1"});
        let new = update(work, &at, Part::Main, new, WriteOptions::default())?.object;
        let stale = update(work, &at, Part::Main, old, WriteOptions::default()).unwrap_err();
        assert_eq!(stale.reason, "Conflict");
        let same = update(work, &at, Part::Main, new.clone(), WriteOptions::default())?.object;
        assert_eq!(same, new);
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    with_store(|work| {
        add(work, "pods", "default", pod("p", "edge-1"))?;
        let at = key("pods", "default", "p");
        let status = json!({"status": {"phase": "Running"}, "metadata": {"labels": {"x": "y"}}});
        let pod = patch(work, &at, Part::Status, Kind::Strategic, &status, WriteOptions::default())?.object;
        assert_eq!((&pod["status"]["phase"], &pod["metadata"]["labels"]), (&json!("Running"), &Value::Null));
        let main = json!({"status": {"phase": "Failed"}, "metadata": {"labels": {"x": "y"}}});
        let pod = patch(work, &at, Part::Main, Kind::Merge, &main, WriteOptions::default())?.object;
        assert_eq!(
            (&pod["status"]["phase"], &pod["metadata"]["labels"]["x"]),
            (&json!("Running"), &json!("y"))
        );
        assert_eq!(pod["metadata"]["generation"], 1);
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_bound_pod_waits_for_its_node() {
    with_store(|work| {
        add(work, "nodes", "", ready_node("edge-1"))?;
        let old = add(work, "pods", "default", pod("p", "edge-1"))?;
        let at = key("pods", "default", "p");
        let Deleted::Waiting(marked) = remove(work, &at, Some(3))? else { panic!("gone at once") };
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 3);
        assert!(object::is_terminating(&marked));
        let wrong = DeleteOptions {
            grace_period_seconds: Some(0),
            preconditions: Some(serde_json::from_value(json!({"uid": "other"})).unwrap()),
            ..DeleteOptions::default()
        };
        assert_eq!(delete(work, &at, &wrong).unwrap_err().code, 409);
        let right = DeleteOptions {
            preconditions: Some(serde_json::from_value(json!({"uid": object::uid(&old)})).unwrap()),
            ..wrong
        };
        assert!(matches!(delete(work, &at, &right)?, Deleted::Gone(_)));
        assert!(work.get(&at)?.is_none());
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_unbound_or_finished_pod_goes_at_once() {
    with_store(|work| {
        add(work, "pods", "default", pod("unbound", ""))?;
        assert!(matches!(remove(work, &key("pods", "default", "unbound"), None)?, Deleted::Gone(_)));
        add(work, "pods", "default", pod("orphan", "no-such-node"))?;
        assert!(matches!(remove(work, &key("pods", "default", "orphan"), None)?, Deleted::Gone(_)));
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    with_store(|work| {
        let object = json!({"metadata": {"name": "a", "finalizers": ["example.com/wait"]}});
        add(work, "configmaps", "default", object)?;
        let at = key("configmaps", "default", "a");
        assert!(matches!(remove(work, &at, None)?, Deleted::Waiting(_)));
        let patch_ = json!({"metadata": {"finalizers": null}});
        patch(work, &at, Part::Main, Kind::Merge, &patch_, WriteOptions::default())?;
        assert!(work.get(&at)?.is_none());
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_namespace_goes_with_its_content_and_waits_for_pods() {
    with_store(|work| {
        add(work, "nodes", "", ready_node("edge-1"))?;
        add(work, "namespaces", "", json!({"metadata": {"name": "shop"}}))?;
        add(work, "configmaps", "shop", json!({"metadata": {"name": "a"}}))?;
        add(work, "pods", "shop", pod("p", "edge-1"))?;
        let at = key("namespaces", "", "shop");
        let Deleted::Waiting(going) = remove(work, &at, None)? else { panic!("gone with a pod in it") };
        assert_eq!(going["status"]["phase"], "Terminating");
        assert!(work.get(&key("configmaps", "shop", "a"))?.is_none());
        let refused = add(work, "configmaps", "shop", json!({"metadata": {"name": "b"}})).unwrap_err();
        assert_eq!(refused.code, 403);
        remove(work, &key("pods", "shop", "p"), Some(0))?;
        assert!(work.get(&at)?.is_none());
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_waiting_pod_is_bound_when_a_node_appears() {
    with_store(|work| {
        let waiting = add(work, "pods", "default", pod("p", ""))?;
        assert_eq!(waiting["status"]["conditions"][0]["reason"], "Unschedulable");
        add(work, "nodes", "", ready_node("edge-1"))?;
        let bound = work.get(&key("pods", "default", "p"))?.unwrap();
        assert_eq!(bound["spec"]["nodeName"], "edge-1");
        let events = work.all(resource("events"), Some("default"))?;
        let mut reasons: Vec<&str> = events.iter().map(|event| object::text(event, "/reason")).collect();
        reasons.sort_unstable();
        assert_eq!(reasons, ["FailedScheduling", "Scheduled"]);
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn binding_twice_conflicts() {
    with_store(|work| {
        add(work, "pods", "default", pod("p", ""))?;
        let at = key("pods", "default", "p");
        let target = json!({"target": {"kind": "Node", "name": "edge-1"}});
        binding::bind(work, &at, &target)?;
        assert_eq!(binding::bind(work, &at, &target).unwrap_err().code, 409);
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn services_get_distinct_addresses_and_keep_them() {
    with_store(|work| {
        let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
        let one = add(work, "services", "default", service("one"))?;
        let two = add(work, "services", "default", service("two"))?;
        assert_ne!(one["spec"]["clusterIP"], two["spec"]["clusterIP"]);
        let again = update(
            work,
            &key("services", "default", "one"),
            Part::Main,
            service("one"),
            WriteOptions::default(),
        )?;
        assert_eq!(again.object["spec"]["clusterIP"], one["spec"]["clusterIP"]);
        let mut stolen = service("three");
        stolen["spec"]["clusterIP"] = one["spec"]["clusterIP"].clone();
        assert_eq!(add(work, "services", "default", stolen).unwrap_err().code, 422);
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn dry_run_stores_nothing() {
    with_store(|work| {
        let options = WriteOptions { dry_run: true, ..WriteOptions::default() };
        create(work, resource("configmaps"), "default", json!({"metadata": {"name": "a"}}), options)?;
        assert!(work.get(&key("configmaps", "default", "a"))?.is_none());
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn body_that_contradicts_the_path_is_refused() {
    for object in [
        json!({"kind": "Secret", "metadata": {"name": "a"}}),
        json!({"apiVersion": "v2", "metadata": {"name": "a"}}),
        json!({"metadata": {"name": "a", "namespace": "other"}}),
        json!({"metadata": "a"}),
        json!([]),
        json!({"metadata": {"name": "a", "labels": {"x": 1}}}),
    ] {
        let error = with_store(move |work| add(work, "configmaps", "default", object)).await.unwrap_err();
        assert_eq!(error.code, 400, "{error:?}");
    }
}
