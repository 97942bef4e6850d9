use super::*;

#[tokio::test]
async fn watch_from_0_lists_then_marks_then_follows() {
    let rig = Rig::new();
    let hub = rig.client("edgehub");
    apply(&hub, vec![put("pod", "b", 1, "{}"), put("node", "n", 1, "{}"), put("pod", "a", 1, "{}")]).await;
    let mut events = watch(&rig.client("edged"), &["pod"], 0).await;
    assert_eq!(shorts(&mut events, 3).await, ["+b", "+a", "bookmark"]);
    apply(&hub, vec![put("pod", "b", 2, "{}"), delete("pod", "a"), put("node", "n", 2, "{}")]).await;
    assert_eq!(shorts(&mut events, 2).await, ["+b", "-a"]);
}

#[tokio::test]
async fn empty_store_is_listed_with_a_bookmark() {
    let rig = Rig::new();
    let mut events = watch(&rig.client("edged"), &["pod"], 0).await;
    assert_eq!(shorts(&mut events, 1).await, ["bookmark"]);
}

#[tokio::test]
async fn watcher_that_comes_back_sees_what_it_missed_with_deletes() {
    let rig = Rig::new();
    let hub = rig.client("edgehub");
    apply(&hub, vec![put("pod", "kept", 1, "{}"), put("pod", "gone", 1, "{last}")]).await;
    let mut events = watch(&rig.client("edged"), &["pod"], 0).await;
    shorts(&mut events, 2).await;
    let Event::Bookmark(seen) = next(&mut events).await else { panic!("no bookmark") };
    drop(events);

    apply(&hub, vec![delete("pod", "gone"), put("pod", "new", 1, "{}")]).await;
    let rig = rig.restart();
    let mut events = watch(&rig.client("edged"), &["pod"], seen).await;
    let Event::Delete(gone) = next(&mut events).await else { panic!("no delete") };
    assert_eq!(&gone.json[..], b"{last}");
    assert_eq!(shorts(&mut events, 2).await, ["+new", "bookmark"]);
}

#[tokio::test]
async fn revision_that_is_not_known_is_compacted() {
    let rig = Rig::new();
    let mut events = watch(&rig.client("edged"), &["pod"], 1).await;
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(MetaManagerError::Compacted));
}

#[tokio::test]
async fn watch_of_nothing_is_invalid() {
    let rig = Rig::new();
    let mut events = watch(&rig.client("edged"), &[], 0).await;
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(MetaManagerError::Invalid));
}

#[tokio::test]
async fn slow_watcher_delays_nobody_and_ends_at_the_newest() {
    const CHANGES: u64 = 200;
    let rig = Rig::new();
    let hub = rig.client("edgehub");
    let body = "x".repeat(8 * 1024);
    let mut slow = watch(&rig.client("edged"), &["pod"], 0).await;
    let mut fast = watch(&rig.client("metaserver"), &["pod"], 0).await;
    assert_eq!(shorts(&mut fast, 1).await, ["bookmark"]);

    // The fast one is told of each change, though the slow one reads nothing all the while.
    for version in 1..=CHANGES {
        apply(&hub, vec![put("pod", "busy", version, &body)]).await;
        let Event::Put(object) = next(&mut fast).await else { panic!("no put") };
        assert_eq!(object.resource_version, version);
    }
    apply(&hub, vec![put("pod", "last", 1, "{}")]).await;

    let mut seen = 0;
    let newest = loop {
        match next(&mut slow).await {
            Event::Put(object) if object.key.as_ref().unwrap().name == "last" => break seen,
            Event::Put(object) => {
                assert!(object.resource_version > seen);
                seen = object.resource_version;
            }
            _ => {}
        }
    };
    assert_eq!(newest, CHANGES);
}

#[tokio::test]
async fn what_waits_for_a_slow_watcher_is_bounded() {
    let rig = Rig::new();
    let hub = rig.client("edgehub");
    let body = "x".repeat(8 * 1024);
    let mut slow = watch(&rig.client("edged"), &["pod"], 0).await;
    for version in 1..=300 {
        apply(&hub, vec![put("pod", "busy", version, &body)]).await;
    }
    apply(&hub, vec![put("pod", "last", 1, "{}")]).await;
    let mut events = 0;
    while short(&next(&mut slow).await) != "+last" {
        events += 1;
    }
    assert!(events < 100, "{events} events waited");
}

#[tokio::test]
async fn watcher_whose_kinds_rest_is_told_how_far_the_store_is() {
    let rig = Rig::new();
    let hub = rig.client("edgehub");
    let mut events = watch(&rig.client("edged"), &["pod"], 0).await;
    assert_eq!(shorts(&mut events, 1).await, ["bookmark"]);
    let changes = (1..=100).map(|version| put("node", "n", version, "{}")).collect();
    let revision = apply(&hub, changes).await;
    let Event::Bookmark(told) = next(&mut events).await else { panic!("no bookmark") };
    assert_eq!(told, revision);
}

async fn watch_all(client: &MetaManagerClient) -> Events {
    let request = WatchRequest { kinds: vec!["pod".into()], from_revision: 0, deliveries: true };
    client.watch(request).await.unwrap()
}

#[tokio::test]
async fn link_is_told_at_first_and_whenever_it_changes() {
    let rig = Rig::new();
    let hub = rig.client("edgehub");
    let mut events = watch_all(&rig.client("edged")).await;
    assert_eq!(shorts(&mut events, 2).await, ["connected false", "bookmark"]);
    set_link(&hub, true).await;
    assert_eq!(shorts(&mut events, 1).await, ["connected true"]);
    set_link(&hub, true).await;
    set_link(&hub, false).await;
    assert_eq!(shorts(&mut events, 1).await, ["connected false"]);
}

#[tokio::test]
async fn delivery_comes_after_the_object_it_brought() {
    let rig = Rig::new();
    let (hub, edged) = (rig.client("edgehub"), rig.client("edged"));
    let mut events = watch_all(&edged).await;
    shorts(&mut events, 2).await;
    let seq = submit(&edged, UploadKind::PodStatus, "web", "{status}").await;
    delivered(&hub, seq, 200, "", Some(put("pod", "web", 5, "{}"))).await;
    assert_eq!(shorts(&mut events, 2).await, ["+web", "delivery web 200"]);
}

#[tokio::test]
async fn delivery_of_a_replaced_upload_is_not_told() {
    let rig = Rig::new();
    let (hub, edged) = (rig.client("edgehub"), rig.client("edged"));
    let mut events = watch_all(&edged).await;
    shorts(&mut events, 2).await;
    let old = submit(&edged, UploadKind::PodStatus, "web", "{1}").await;
    let new = submit(&edged, UploadKind::PodStatus, "web", "{2}").await;
    delivered(&hub, old, 200, "", None).await;
    delivered(&hub, new, 404, "gone", None).await;
    assert_eq!(shorts(&mut events, 1).await, ["delivery web 404"]);
}

#[tokio::test]
async fn watcher_that_loses_deliveries_is_told_the_link_again() {
    let rig = Rig::new();
    let (hub, edged) = (rig.client("edgehub"), rig.client("edged"));
    let mut events = watch_all(&edged).await;
    // More than the window of the stream and the bound of the queue hold.
    let message = "m".repeat(4096);
    for n in 0..250 {
        let seq = submit(&edged, UploadKind::Event, &format!("e{n}"), "{}").await;
        delivered(&hub, seq, 200, &message, None).await;
    }
    let mut told = Vec::new();
    while told.last().is_none_or(|last| last != "delivery e249 200") {
        told.push(short(&next(&mut events).await));
    }
    assert_eq!(told[..2], ["connected false", "bookmark"]);
    assert_eq!(told.iter().filter(|event| *event == "connected false").count(), 2);
    assert!(told.len() < 250, "{} events", told.len());
}
