use proto::metamanager::outgoing_item::Item;

use super::*;

fn upload(item: &OutgoingItem) -> (u64, String) {
    let Some(Item::Upload(upload)) = &item.item else { panic!("no upload") };
    (item.seq, String::from_utf8(upload.json.to_vec()).unwrap())
}

async fn uploads(items: &mut Items, count: usize) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(upload(&next_item(items).await));
    }
    all
}

#[tokio::test]
async fn what_waits_is_sent_in_order_and_then_what_comes() {
    let rig = Rig::new();
    let edged = rig.client("edged");
    let first = submit(&edged, UploadKind::NodeStatus, "n", "{1}").await;
    let second = submit(&edged, UploadKind::PodStatus, "p", "{2}").await;
    let mut items = outgoing(&rig.client("edgehub")).await;
    assert_eq!(uploads(&mut items, 2).await, [(first, "{1}".to_owned()), (second, "{2}".to_owned())]);
    let third = submit(&edged, UploadKind::PodStatus, "p", "{3}").await;
    assert_eq!(uploads(&mut items, 1).await, [(third, "{3}".to_owned())]);
}

#[tokio::test]
async fn backlog_of_many_pages_is_sent_whole() {
    let rig = Rig::new();
    let edged = rig.client("edged");
    for n in 0..200 {
        submit(&edged, UploadKind::Event, &format!("e{n}"), &n.to_string()).await;
    }
    let mut items = outgoing(&rig.client("edgehub")).await;
    let sent = uploads(&mut items, 200).await;
    assert!(sent.iter().map(|(_, body)| body.parse::<u32>().unwrap()).eq(0..200));
}

#[tokio::test]
async fn what_was_not_confirmed_is_sent_to_the_next_stream() {
    let rig = Rig::new();
    let (hub, edged) = (rig.client("edgehub"), rig.client("edged"));
    let first = submit(&edged, UploadKind::PodStatus, "a", "{1}").await;
    let second = submit(&edged, UploadKind::PodStatus, "b", "{2}").await;
    let mut items = outgoing(&hub).await;
    uploads(&mut items, 2).await;
    delivered(&hub, first, 200, "", None).await;
    drop(items);

    let rig = rig.restart();
    let mut items = outgoing(&rig.client("edgehub")).await;
    assert_eq!(uploads(&mut items, 1).await, [(second, "{2}".to_owned())]);
}

#[tokio::test]
async fn newer_stream_ends_the_older() {
    let rig = Rig::new();
    let mut older = outgoing(&rig.client("edgehub")).await;
    // Its first item shows that it began.
    let seq = submit(&rig.client("edged"), UploadKind::PodStatus, "a", "{1}").await;
    uploads(&mut older, 1).await;
    let mut newer = outgoing(&rig.client("edgehub")).await;
    assert_eq!(uploads(&mut newer, 1).await, [(seq, "{1}".to_owned())]);
    let end = tokio::time::timeout(PATIENCE, older.next()).await.unwrap();
    assert!(end.is_none(), "{end:?}");
}

#[tokio::test]
async fn refused_upload_is_forgotten_like_an_accepted_one() {
    let rig = Rig::new();
    let (hub, edged) = (rig.client("edgehub"), rig.client("edged"));
    let refused = submit(&edged, UploadKind::PodStatus, "a", "{1}").await;
    delivered(&hub, refused, 404, "gone", None).await;
    // Said again, as after a lost reply.
    delivered(&hub, refused, 404, "gone", None).await;
    let next = submit(&edged, UploadKind::PodStatus, "b", "{2}").await;
    let mut items = outgoing(&hub).await;
    assert_eq!(uploads(&mut items, 1).await, [(next, "{2}".to_owned())]);
}

#[tokio::test]
async fn delivery_without_a_code_is_invalid() {
    let rig = Rig::new();
    let error = rig.client("edgehub").delivered(DeliveredRequest::default()).await.unwrap_err();
    assert!(matches!(error, CallError::Failed { code: MetaManagerError::Invalid, .. }), "{error}");
}

#[tokio::test]
async fn refusal_with_a_body_stores_nothing() {
    let rig = Rig::new();
    let (hub, edged) = (rig.client("edgehub"), rig.client("edged"));
    let seq = submit(&edged, UploadKind::PodStatus, "a", "{1}").await;
    delivered(&hub, seq, 409, "conflict", Some(put("pod", "a", 9, "{error}"))).await;
    let error = edged.get(proto::metamanager::GetRequest { key: Some(key("pod", "a")) }).await.unwrap_err();
    assert_eq!(error.code(), Some(MetaManagerError::NotFound));
}
