//! edgehub against a scripted hub over real TLS and a scripted metamanager over a real bus socket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::time::Duration;

use pki::{CertificateAuthority, EcKey};
use proto::metamanager::{Key, MetaManagerError, SubmitRequest, UploadKind};
use serde_json::json;
use support::{Cloud, Edge, Met, NODE, Store, soon};
use tempfile::TempDir;
use wire::{Content, Operation, ResourcePath, WireMessage, down};

/// A cloud, an edge with a token for it, and a store.
struct World {
    dir: TempDir,
    cloud: Cloud,
    store: Store,
    key: EcKey,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cloud = Cloud::new().await;
        let world = Self { store: Store::new(dir.path()), key: EcKey::generate().unwrap(), cloud, dir };
        world.write_token(&world.cloud.token());
        world
    }

    fn write_token(&self, token: &str) {
        fs::write(self.dir.path().join("token"), format!("{token}\n")).unwrap();
    }

    fn start(&self) -> Edge {
        Edge::start(self.cloud.settings(self.dir.path()), &self.store, &self.key)
    }
}

fn push(name: &str, version: u64) -> WireMessage {
    let path = ResourcePath::object("default", "pod", name).unwrap();
    let object = json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")}});
    down::push(Operation::Insert, &path, &version.to_string(), Content::value(&object).unwrap())
}

fn pod_status(name: &str) -> SubmitRequest {
    SubmitRequest {
        kind: UploadKind::PodStatus.into(),
        key: Some(Key { kind: "pod".into(), namespace: "default".into(), name: name.into() }),
        uid: "u".into(),
        json: br#"{"status":{"phase":"Running"}}"#.as_slice().into(),
    }
}

fn is_ack_of(ack: &WireMessage, message: &WireMessage) -> bool {
    ack.header.parent_msg_id == message.header.msg_id
        && ack.route.operation == Operation::Response
        && ack.content.is_ok()
}

#[tokio::test]
async fn a_node_with_a_token_joins_connects_and_reuses_its_certificate() {
    let mut world = World::new().await;
    let certificates = world.cloud.serve_certificates();
    let mut edge = world.start();
    let mut link = world.cloud.accept().await;
    assert_eq!(link.node_id, NODE);
    assert_eq!(link.path, format!("/e632aba927ea4ac2b575ec1603d56f10/{NODE}/events"));
    assert_eq!(link.receive_any().await.route.operation, Operation::Keepalive);
    edge.says("connected to").await;
    world.store.until(&Met::Link(true)).await;
    edge.stop().await;
    world.store.until(&Met::Link(false)).await;

    // No token and no certificate API any more: neither is needed.
    drop((link, certificates));
    fs::remove_file(world.dir.path().join("token")).unwrap();
    let edge = world.start();
    world.cloud.accept().await;
    assert_eq!(world.cloud.joins.lock().unwrap().len(), 1);
    edge.stop().await;
}

#[tokio::test]
async fn a_certificate_for_another_key_is_not_used() {
    let mut world = World::new().await;
    let _certificates = world.cloud.serve_certificates();
    let edge = world.start();
    world.cloud.accept().await;
    edge.stop().await;
    world.key = EcKey::generate().unwrap();
    let edge = world.start();
    world.cloud.accept().await;
    assert_eq!(world.cloud.joins.lock().unwrap().len(), 2);
    edge.stop().await;
}

#[tokio::test]
async fn a_ca_that_is_not_the_tokens_is_refused_until_the_token_is_right() {
    let world = World::new().await;
    let _certificates = world.cloud.serve_certificates();
    let other = CertificateAuthority::create("other").unwrap();
    let now = std::time::SystemTime::now();
    world.write_token(&other.mint_token(Duration::from_mins(1), now));
    let mut edge = world.start();
    let status = edge.says("/ca.crt has SHA-256").await;
    assert!(status.contains("another cloud answers there"), "{status}");
    assert!(world.cloud.joins.lock().unwrap().is_empty(), "the token was not shown to a stranger");

    world.write_token(&world.cloud.token());
    world.cloud.accept().await;
    edge.says("connected to").await;
    edge.stop().await;
}

#[tokio::test]
async fn a_token_the_hub_refuses_is_named_until_there_is_a_better_one() {
    let world = World::new().await;
    let _certificates = world.cloud.serve_certificates();
    world.write_token(&world.cloud.ca.mint_token(Duration::ZERO, std::time::UNIX_EPOCH));
    let mut edge = world.start();
    let status = edge.says("refused the join token").await;
    assert!(status.contains("/edge.crt") && status.contains("expired"), "{status}");

    world.write_token("not.a-token");
    edge.says("is not one").await;
    fs::remove_file(world.dir.path().join("token")).unwrap();
    edge.says("does not exist").await;

    world.write_token(&world.cloud.token());
    world.cloud.accept().await;
    edge.stop().await;
}

#[tokio::test]
async fn a_hub_of_another_ca_is_not_spoken_to_until_it_is_ours_again() {
    let mut world = World::new().await;
    let _certificates = world.cloud.serve_certificates();
    let edge = world.start();
    world.cloud.accept().await;
    edge.stop().await;

    let other = CertificateAuthority::create("other").unwrap();
    world.cloud.show_certificate_of(&other);
    let mut edge = world.start();
    assert!(world.cloud.turn_away().await);
    let status = edge.says("certificate of another CA").await;
    assert!(status.contains("127.0.0.1:"), "{status}");

    let ours = CertificateAuthority::from_pem(
        world.cloud.ca.certificate_pem().as_bytes(),
        world.cloud.ca.key_pem().as_bytes(),
    );
    world.cloud.show_certificate_of(&ours.unwrap());
    world.cloud.accept().await;
    edge.says("connected to").await;
    edge.stop().await;
}

#[tokio::test]
async fn a_message_that_is_not_json_is_shown_and_the_link_goes_on() {
    let world = World::new().await;
    let _certificates = world.cloud.serve_certificates();
    let mut edge = world.start();
    let mut link = world.cloud.accept().await;
    edge.says("connected to").await;
    link.send_text("hello, edge").await;
    let status = edge.says("not a KubeEdge JSON message").await;
    assert!(status.contains("hello, edge"), "{status}");

    let message = push("web-0", 1);
    link.send(&message).await;
    assert!(is_ack_of(&link.receive().await, &message));
    edge.says("connected to").await;
    edge.stop().await;
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_committed() {
    let mut world = World::new().await;
    let _certificates = world.cloud.serve_certificates();
    world.store.hold_commits();
    let edge = world.start();
    let mut link = world.cloud.accept().await;
    let message = push("web-0", 7);
    link.send(&message).await;
    assert!(link.is_quiet_for(Duration::from_millis(200)).await);

    world.store.commit_one();
    assert!(is_ack_of(&link.receive().await, &message));
    loop {
        if let Met::Applied(changes) = world.store.next().await {
            assert_eq!((changes[0].uid.as_str(), changes[0].resource_version), ("uid-web-0", 7));
            break;
        }
    }
    edge.stop().await;
}

#[tokio::test]
async fn a_full_disk_is_told_to_the_hub_and_the_retry_succeeds() {
    let world = World::new().await;
    let _certificates = world.cloud.serve_certificates();
    world.store.refuse_applies(Some(MetaManagerError::Storage));
    let edge = world.start();
    let mut link = world.cloud.accept().await;
    let message = push("web-0", 1);
    link.send(&message).await;
    let refusal = link.receive().await;
    assert_eq!(refusal.route.operation, Operation::Error);
    assert_eq!(refusal.header.parent_msg_id, message.header.msg_id);
    assert!(refusal.content.as_str().unwrap().contains("no space left"));

    world.store.refuse_applies(None);
    link.send(&message).await;
    assert!(is_ack_of(&link.receive().await, &message));
    edge.stop().await;
}

#[tokio::test]
async fn an_upload_the_cloud_did_not_answer_is_sent_again_after_a_break() {
    let mut world = World::new().await;
    let _certificates = world.cloud.serve_certificates();
    world.store.submit(1, pod_status("web-0"));
    let edge = world.start();
    let mut link = world.cloud.accept().await;
    let first = link.receive().await;
    assert_eq!(first.route.resource, "default/podpatch/web-0");
    drop(link);
    world.store.until(&Met::Link(false)).await;

    let mut link = world.cloud.accept().await;
    let again = link.receive().await;
    assert_eq!((&again.route, &again.content), (&first.route, &first.content));
    link.send(&down::answer_ok(&again, "5")).await;
    loop {
        if let Met::Delivered(outcome) = world.store.next().await {
            assert_eq!((outcome.seq, outcome.code), (1, 200));
            break;
        }
    }
    assert!(link.is_quiet_for(Duration::from_millis(100)).await);
    edge.stop().await;
}

#[tokio::test]
async fn metamanager_may_be_restarted_without_losing_the_link() {
    let mut world = World::new().await;
    let _certificates = world.cloud.serve_certificates();
    let mut edge = world.start();
    let mut link = world.cloud.accept().await;
    edge.says("connected to").await;
    world.store.until(&Met::Link(true)).await;

    world.store.stop();
    let message = push("web-0", 1);
    link.send(&message).await;
    assert!(link.is_quiet_for(Duration::from_millis(200)).await);
    world.store.submit(1, pod_status("web-1"));
    world.store.start(2);

    // The new metamanager hears that the cloud is there; both directions go on where they stood.
    world.store.until(&Met::Link(true)).await;
    let (mut acked, mut uploaded) = (false, false);
    while !(acked && uploaded) {
        let received = link.receive().await;
        acked |= is_ack_of(&received, &message);
        uploaded |= received.route.resource == "default/podpatch/web-1";
    }
    edge.stop().await;
}

#[tokio::test]
async fn an_edge_without_a_cloud_stops_when_asked() {
    let world = World::new().await;
    fs::remove_file(world.dir.path().join("token")).unwrap();
    let mut edge = world.start();
    edge.says("does not exist").await;
    soon("edgehub ends", edge.stop()).await;
}
