//! The recorded traffic of KubeEdge 1.23 against the types.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use wire::{Answer, Inbound, Operation, Upstream, WireMessage, ack_mode};

struct Line {
    number: usize,
    down: bool,
    json: Value,
    message: WireMessage,
}

fn recording() -> Vec<Line> {
    let path: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/kubeedge-1.23/wire.jsonl");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("the recorded traffic must be at {}: {e}", path.display()));
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut value: Value = serde_json::from_str(line).unwrap();
        let json = value["msg"].take();
        if json.is_null() {
            assert!(value.get("open").is_some(), "line {} is neither a message nor a handshake", index + 1);
            continue;
        }
        let message = WireMessage::decode(json.to_string().as_bytes()).unwrap();
        lines.push(Line { number: index + 1, down: value["dir"] == "down", json, message });
    }
    assert!(lines.len() > 150, "the recording has only {} messages", lines.len());
    lines
}

#[test]
fn every_line_encodes_back_to_an_equal_value() {
    for line in recording() {
        let encoded: Value = serde_json::from_str(&line.message.encode()).unwrap();
        assert_eq!(encoded, line.json, "line {}", line.number);
    }
}

#[test]
fn every_down_line_is_understood_or_known_to_be_for_another_part() {
    for line in recording().into_iter().filter(|line| line.down) {
        let route = line.message.route.clone();
        let answer = !line.message.header.parent_msg_id.is_empty();
        match Inbound::from_message(line.message).unwrap() {
            Inbound::Put { key, uid, resource_version, object } => {
                assert!(matches!(route.operation, Operation::Insert | Operation::Update));
                assert!(!uid.is_empty() && resource_version > 0 && object.is_object(), "{key}");
                assert!(route.resource.ends_with(&key.name));
            }
            Inbound::Delete { uid, .. } => assert!(route.operation == Operation::Delete && !uid.is_empty()),
            Inbound::Answer { answer, .. } => {
                assert!(!matches!(answer, Answer::Empty), "line {}", line.number);
            }
            Inbound::Other => {
                let elsewhere = ["user", "twin"].contains(&route.group.as_str());
                assert!(elsewhere || route.operation.as_str() == "applicationResponse", "{route:?}");
            }
        }
        assert!(!answer || matches!(route.operation.as_str(), "response" | "applicationResponse"));
    }
}

#[test]
fn every_push_kubeedge_acknowledged_is_ack_mode_here() {
    let lines = recording();
    for line in lines.iter().filter(|line| line.down && ack_mode(&line.message)) {
        let id = &line.message.header.msg_id;
        let acked = lines.iter().filter(|l| !l.down).any(|l| {
            l.message.header.parent_msg_id == *id && l.message.route.operation == Operation::Response
        });
        assert!(acked, "line {}: ack mode here, never acknowledged by KubeEdge's edge", line.number);
    }
}

#[test]
fn every_up_line_is_an_ack_a_keepalive_or_a_request() {
    for line in recording().into_iter().filter(|line| !line.down) {
        let route = line.message.route.clone();
        match Upstream::from_message(line.message) {
            Upstream::Keepalive => assert_eq!(route.operation, Operation::Keepalive),
            Upstream::Ack { parent } => assert!(!parent.is_empty()),
            Upstream::Nack { .. } => panic!("the recording has no error messages"),
            Upstream::Request { path, .. } => {
                assert!(path.is_some() || route.group != "meta", "{route:?}");
            }
        }
    }
}

#[test]
fn our_requests_look_like_the_recorded_ones() {
    let lines = recording();
    let recorded = |resource: &str, operation: Operation| {
        let line = lines.iter().find(|l| {
            !l.down && l.message.route.resource == resource && l.message.route.operation == operation
        });
        line.unwrap_or_else(|| panic!("no {operation} of {resource} in the recording")).message.clone()
    };
    let same = |ours: WireMessage, resource: &str| {
        let theirs = recorded(resource, ours.route.operation.clone());
        assert_eq!(ours.route, theirs.route);
        assert_eq!(ours.content, theirs.content);
        assert_eq!(ours.header.parent_msg_id, theirs.header.parent_msg_id);
        assert_eq!(ours.header.resource_version, theirs.header.resource_version);
    };
    let content = |resource: &str, operation| recorded(resource, operation).content;
    let null = wire::Content::null;

    same(wire::up::keepalive(), "node");
    let node = content("null/node/edge-1", Operation::Insert);
    same(wire::up::node_insert("edge-1", node).unwrap(), "null/node/edge-1");
    let patch = content("null/nodepatch/edge-1", Operation::Patch).patch_text().unwrap();
    same(wire::up::node_patch("edge-1", &patch).unwrap(), "null/nodepatch/edge-1");
    let patch = content("default/podpatch/web-0", Operation::Patch).patch_text().unwrap();
    same(wire::up::pod_patch("default", "web-0", &patch).unwrap(), "default/podpatch/web-0");
    let options = content("default/pod/web-0", Operation::Delete);
    same(wire::up::pod_delete("default", "web-0", options).unwrap(), "default/pod/web-0");
    let lease = "kube-node-lease/lease/edge-1";
    same(wire::up::query("kube-node-lease", "lease", "edge-1", null()).unwrap(), lease);
    let update = content(lease, Operation::Update);
    same(wire::up::lease_update("kube-node-lease", "edge-1", update).unwrap(), lease);
    same(
        wire::up::query("default", "configmap", "app-config", null()).unwrap(),
        "default/configmap/app-config",
    );
    same(wire::up::query("default", "secret", "app-secret", null()).unwrap(), "default/secret/app-secret");
    let token = "default/serviceaccounttoken/default";
    let body = content(token, Operation::Query);
    same(wire::up::query("default", "serviceaccounttoken", "default", body).unwrap(), token);
}
