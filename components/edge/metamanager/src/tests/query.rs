use proto::metamanager::outgoing_item::Item;
use proto::metamanager::{GetRequest, QueryReply, QueryRequest};
use tokio::task::JoinHandle;

use super::*;

type Asked = JoinHandle<Result<QueryReply, CallError<MetaManagerError>>>;

fn ask(client: &MetaManagerClient, kind: &str, name: &str) -> Asked {
    let (client, key) = (client.clone(), Some(key(kind, name)));
    tokio::spawn(async move { client.query(QueryRequest { key, ..Default::default() }).await })
}

async fn code(asked: Asked) -> MetaManagerError {
    let error = tokio::time::timeout(PATIENCE, asked).await.expect("an answer comes").unwrap().unwrap_err();
    error.code().unwrap_or_else(|| panic!("{error}"))
}

/// A server with a hub that is connected and listens.
async fn online() -> (Rig, MetaManagerClient, MetaManagerClient, Items) {
    let rig = Rig::new();
    let (hub, edged) = (rig.client("edgehub"), rig.client("edged"));
    let mut items = outgoing(&hub).await;
    set_link(&hub, true).await;
    // The stream has begun once something comes out of it.
    let seq = submit(&edged, UploadKind::PodStatus, "first", "{}").await;
    assert_eq!(next_item(&mut items).await.seq, seq);
    delivered(&hub, seq, 200, "", None).await;
    (rig, hub, edged, items)
}

/// The number of the question that comes next, which is about `name`.
async fn question(items: &mut Items, name: &str) -> u64 {
    let item = next_item(items).await;
    let Some(Item::Query(query)) = item.item else { panic!("no query") };
    assert_eq!(query.key.unwrap().name, name);
    item.seq
}

#[tokio::test]
async fn query_without_a_link_or_a_hub_is_offline_at_once() {
    let rig = Rig::new();
    let (hub, edged) = (rig.client("edgehub"), rig.client("edged"));
    assert_eq!(code(ask(&edged, "configmap", "settings")).await, MetaManagerError::Offline);
    set_link(&hub, true).await;
    assert_eq!(code(ask(&edged, "configmap", "settings")).await, MetaManagerError::Offline);
}

#[tokio::test]
async fn answered_object_is_returned_and_stored() {
    let (_rig, hub, edged, mut items) = online().await;
    let asked = ask(&edged, "configmap", "settings");
    let seq = question(&mut items, "settings").await;
    delivered(&hub, seq, 200, "", Some(put("configmap", "settings", 3, "{data}"))).await;
    assert_eq!(&asked.await.unwrap().unwrap().json[..], b"{data}");
    let stored = edged.get(GetRequest { key: Some(key("configmap", "settings")) }).await.unwrap();
    assert_eq!(stored.object.unwrap().resource_version, 3);
}

#[tokio::test]
async fn token_is_returned_and_not_stored() {
    let (_rig, hub, edged, mut items) = online().await;
    let asked = ask(&edged, "serviceaccounttoken", "builder");
    let seq = question(&mut items, "builder").await;
    delivered(&hub, seq, 201, "", Some(put("serviceaccounttoken", "builder", 0, "{token}"))).await;
    assert_eq!(&asked.await.unwrap().unwrap().json[..], b"{token}");
    let error = edged.get(GetRequest { key: Some(key("serviceaccounttoken", "builder")) }).await.unwrap_err();
    assert_eq!(error.code(), Some(MetaManagerError::NotFound));
}

#[tokio::test]
async fn answer_that_names_no_object_is_returned_only() {
    let (_rig, hub, edged, mut items) = online().await;
    let asked = ask(&edged, "configmap", "settings");
    let seq = question(&mut items, "settings").await;
    let unnamed = Change { key: None, ..put("configmap", "settings", 3, "{data}") };
    delivered(&hub, seq, 200, "", Some(unnamed)).await;
    assert_eq!(&asked.await.unwrap().unwrap().json[..], b"{data}");
    let error = edged.get(GetRequest { key: Some(key("configmap", "settings")) }).await.unwrap_err();
    assert_eq!(error.code(), Some(MetaManagerError::NotFound));
}

#[tokio::test]
async fn refusals_keep_their_meaning() {
    let (_rig, hub, edged, mut items) = online().await;
    let cases = [
        (404, MetaManagerError::NotFound),
        (403, MetaManagerError::Forbidden),
        (500, MetaManagerError::Refused),
    ];
    for (status, expected) in cases {
        let asked = ask(&edged, "secret", "token");
        let seq = question(&mut items, "token").await;
        delivered(&hub, seq, status, "the cloud's words", None).await;
        let error = asked.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Some(expected));
        assert!(error.to_string().contains("the cloud's words"), "{error}");
    }
}

async fn is_stored(client: &MetaManagerClient, kind: &str, name: &str) -> bool {
    match client.get(GetRequest { key: Some(key(kind, name)) }).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.code(), Some(MetaManagerError::NotFound), "{error}");
            false
        }
    }
}

#[tokio::test]
async fn object_the_cloud_does_not_have_is_removed_and_no_other_refusal_does_that() {
    let (_rig, hub, edged, mut items) = online().await;
    apply(&hub, vec![put("configmap", "settings", 3, "{data}")]).await;
    for status in [400, 401, 403, 409, 410, 500, 503, 504] {
        let asked = ask(&edged, "configmap", "settings");
        let seq = question(&mut items, "settings").await;
        delivered(&hub, seq, status, "", None).await;
        code(asked).await;
        assert!(is_stored(&edged, "configmap", "settings").await, "code {status}");
    }
    let mut events = watch(&edged, &["configmap"], 0).await;
    assert_eq!(shorts(&mut events, 2).await, ["+settings", "bookmark"]);
    let asked = ask(&edged, "configmap", "settings");
    let seq = question(&mut items, "settings").await;
    delivered(&hub, seq, 404, "", None).await;
    assert_eq!(code(asked).await, MetaManagerError::NotFound);
    assert!(!is_stored(&edged, "configmap", "settings").await);
    assert_eq!(shorts(&mut events, 1).await, ["-settings"]);
}

#[tokio::test]
async fn object_that_came_after_the_question_is_newer_than_its_absence() {
    let (_rig, hub, edged, mut items) = online().await;
    let asked = ask(&edged, "configmap", "settings");
    let seq = question(&mut items, "settings").await;
    apply(&hub, vec![put("configmap", "settings", 3, "{data}")]).await;
    delivered(&hub, seq, 404, "", None).await;
    assert_eq!(code(asked).await, MetaManagerError::NotFound);
    assert!(is_stored(&edged, "configmap", "settings").await);
}

#[tokio::test]
async fn refusal_of_a_request_with_a_body_says_nothing_of_the_object() {
    let (_rig, hub, edged, mut items) = online().await;
    apply(&hub, vec![put("pod", "web", 3, "{}")]).await;
    let request = QueryRequest { key: Some(key("pod", "web")), json: "{request}".into() };
    let asked = tokio::spawn({
        let edged = edged.clone();
        async move { edged.query(request).await }
    });
    let seq = question(&mut items, "web").await;
    delivered(&hub, seq, 404, "", None).await;
    assert_eq!(code(asked).await, MetaManagerError::NotFound);
    assert!(is_stored(&edged, "pod", "web").await);
}

#[tokio::test]
async fn answers_may_come_in_another_order() {
    let (_rig, hub, edged, mut items) = online().await;
    let first = ask(&edged, "configmap", "first");
    let first_seq = question(&mut items, "first").await;
    let second = ask(&edged, "configmap", "second");
    let second_seq = question(&mut items, "second").await;
    delivered(&hub, second_seq, 404, "", None).await;
    delivered(&hub, first_seq, 403, "", None).await;
    assert_eq!(code(second).await, MetaManagerError::NotFound);
    assert_eq!(code(first).await, MetaManagerError::Forbidden);
}

#[tokio::test]
async fn pending_query_is_offline_when_the_link_goes_down() {
    let (_rig, hub, edged, mut items) = online().await;
    let asked = ask(&edged, "configmap", "settings");
    question(&mut items, "settings").await;
    set_link(&hub, false).await;
    assert_eq!(code(asked).await, MetaManagerError::Offline);
}

#[tokio::test]
async fn pending_query_is_offline_when_the_hub_dies_and_is_not_repeated() {
    let (rig, hub, edged, mut items) = online().await;
    let asked = ask(&edged, "configmap", "settings");
    let seq = question(&mut items, "settings").await;
    drop((items, hub));
    assert_eq!(code(asked).await, MetaManagerError::Offline);

    let hub = rig.client("edgehub");
    let mut items = outgoing(&hub).await;
    // A late answer is no error, and answers nobody.
    delivered(&hub, seq, 404, "", None).await;
    let upload = submit(&edged, UploadKind::PodStatus, "next", "{}").await;
    assert_eq!(next_item(&mut items).await.seq, upload);
}

#[tokio::test]
async fn pending_query_is_offline_when_a_newer_stream_takes_over() {
    let (_rig, hub, edged, mut items) = online().await;
    let asked = ask(&edged, "configmap", "settings");
    question(&mut items, "settings").await;
    let _newer = outgoing(&hub).await;
    assert_eq!(code(asked).await, MetaManagerError::Offline);
}

#[tokio::test]
async fn query_beyond_its_deadline_is_withdrawn() {
    let (_rig, hub, edged, mut items) = online().await;
    let request = QueryRequest { key: Some(key("configmap", "settings")), ..Default::default() };
    let deadline = Duration::from_millis(50);
    let error = edged.query_with_deadline(request, deadline).await.unwrap_err();
    assert_eq!(error, CallError::Deadline);
    let seq = question(&mut items, "settings").await;
    delivered(&hub, seq, 404, "", None).await;
}

#[tokio::test]
async fn question_does_not_wait_behind_a_backlog() {
    let (rig, hub, edged, items) = online().await;
    drop(items);
    let body = "x".repeat(8 * 1024);
    for n in 0..200 {
        submit(&edged, UploadKind::Event, &format!("e{n}"), &body).await;
    }
    let mut items = outgoing(&hub).await;
    let _ = next_item(&mut items).await;
    let asked = ask(&edged, "configmap", "settings");
    // Only after it was asked is more of the backlog taken: calls of one connection begin in order.
    tokio::task::yield_now().await;
    let after_it = edged.get(GetRequest { key: Some(key("pod", "none")) }).await;
    assert_eq!(after_it.unwrap_err().code(), Some(MetaManagerError::NotFound));
    let mut uploads = 1;
    while let Some(Item::Upload(_)) = next_item(&mut items).await.item {
        uploads += 1;
    }
    assert!(uploads < 150, "{uploads} uploads came first");
    drop((asked, rig));
}
