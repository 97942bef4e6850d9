use serde_json::{Value, json};

use super::*;
use crate::resources::{self, Resource};

fn configmaps() -> &'static Resource {
    resources::find("", "v1", "configmaps").unwrap()
}

fn object(name: &str, data: &str) -> Value {
    json!({"kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": {"a": data}})
}

fn key(name: &str) -> Key {
    Key { resource: configmaps(), namespace: "default".into(), name: name.into() }
}

async fn put(store: &Store, name: &'static str, data: &'static str) -> u64 {
    let stored = store
        .write(move |work| {
            let before = work.get(&key(name))?;
            work.put(configmaps(), object(name, data), before.as_ref())
        })
        .await
        .unwrap();
    crate::object::version(&stored).parse().unwrap()
}

#[tokio::test]
async fn versions_continue_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = Store::open(&path, 100).unwrap();
    let first = put(&store, "one", "1").await;
    reopen(store).await;
    let store = Store::open(&path, 100).unwrap();
    assert!(put(&store, "two", "1").await > first);
    let found = store.read(|work| work.get(&key("one"))).await.unwrap();
    assert_eq!(found.unwrap()["data"]["a"], "1");
}

/// Waits until the thread has let go of the file.
async fn reopen(store: Store) {
    let jobs = store.jobs.clone();
    drop(store);
    let weak = jobs.downgrade();
    drop(jobs);
    while weak.upgrade().is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_failed_job_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.db"), 100).unwrap();
    let before = store.published();
    let failed: Result<(), ApiError> = store
        .write(|work| {
            work.put(configmaps(), object("half", "1"), None)?;
            Err(ApiError::bad_request("no"))
        })
        .await;
    assert!(failed.is_err());
    assert!(store.read(|work| work.get(&key("half"))).await.unwrap().is_none());
    assert_eq!(put(&store, "whole", "1").await, before + 1);
}

#[tokio::test]
async fn subscription_gets_each_later_change_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.db"), 100).unwrap();
    put(&store, "early", "1").await;
    let mut feed = store.read(|work| Ok(work.subscribe(configmaps(), Some("default")))).await.unwrap();
    put(&store, "late", "1").await;
    put(&store, "late", "2").await;
    assert_eq!(feed.next().await.unwrap().change, Change::Added);
    assert_eq!(feed.next().await.unwrap().change, Change::Modified);
    assert!(feed.is_drained());
}

#[tokio::test]
async fn a_watcher_that_lags_is_cut_off_and_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.db"), 100).unwrap();
    let mut feed = store.read(|work| Ok(work.subscribe(configmaps(), None))).await.unwrap();
    store
        .write(|work| {
            for _ in 0..1100 {
                let before = work.get(&key("busy"))?;
                work.put(configmaps(), object("busy", "x"), before.as_ref())?;
            }
            Ok(())
        })
        .await
        .unwrap();
    let mut seen = 0;
    while feed.next().await.is_some() {
        seen += 1;
    }
    assert_eq!(seen, 1024);
}

#[tokio::test]
async fn history_is_cut_and_an_old_version_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.db"), 8).unwrap();
    let first = put(&store, "one", "1").await;
    for _ in 0..20 {
        put(&store, "one", "2").await;
    }
    let old = store.read(move |work| work.changes_since(configmaps(), None, first)).await;
    assert_eq!(old.unwrap_err().code, 410);
    let recent = store.published() - 3;
    let changes = store.read(move |work| work.changes_since(configmaps(), None, recent)).await.unwrap();
    assert_eq!(changes.len(), 3);
}

#[tokio::test]
async fn changes_can_be_read_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = Store::open(&path, 100).unwrap();
    let first = put(&store, "one", "1").await;
    put(&store, "one", "2").await;
    reopen(store).await;
    let store = Store::open(&path, 100).unwrap();
    let changes = store.read(move |work| work.changes_since(configmaps(), None, first)).await.unwrap();
    assert_eq!(changes.len(), 1);
    assert!(changes[0].before.is_some());
}

#[tokio::test]
async fn an_object_over_the_limit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.db"), 100).unwrap();
    let big = object("big", &"x".repeat(work::OBJECT_LIMIT));
    let refused = store.write(move |work| work.put(configmaps(), big, None)).await;
    assert_eq!(refused.unwrap_err().code, 413);
}

#[tokio::test]
async fn a_full_disk_fails_the_write_and_the_next_one_works() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store.db"), 100).unwrap();
    put(&store, "one", "1").await;
    store.read(|work| work.limit_pages(20)).await.unwrap();
    let big = object("big", &"x".repeat(500_000));
    let refused = store.write(move |work| work.put(configmaps(), big, None)).await;
    assert_eq!(refused.unwrap_err().code, 500);
    store.read(|work| work.limit_pages(1_000_000)).await.unwrap();
    let before = store.published();
    assert_eq!(put(&store, "two", "1").await, before + 1);
}
