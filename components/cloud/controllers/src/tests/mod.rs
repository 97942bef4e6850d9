//! The whole component against an API, over the bus it is called on.

mod api_double;
mod standalone;

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use ipc::{Admission, CallError, Channel, Identity, Server, Streaming};
use proto::controllers::{
    AcknowledgedRequest, ControllersClient, ControllersError, ControllersServer, DownstreamMessage,
    DownstreamRequest, PublishTokenRequest, UpstreamRequest,
};
use serde_json::{Value, json};
use wire::{Content, Operation, WireMessage};

use self::api_double::ApiDouble;
use super::*;

type Downstream = Streaming<DownstreamMessage, ControllersError>;

struct Bed {
    api: ApiDouble,
    client: ControllersClient,
    shutdown: CancellationToken,
    _server: Server<ControllersServer<Service>>,
    _dir: tempfile::TempDir,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn bed_on(api: ApiDouble) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("kubeconfig");
    std::fs::write(&kubeconfig, api.kubeconfig()).unwrap();
    let shutdown = CancellationToken::new();
    let controllers = Controllers::start(Source::File { path: kubeconfig, master: None }, shutdown.clone());
    let path = dir.path().join("c.sock");
    let server = Server::new(Identity::new("controllers", 1), ControllersServer::shared(controllers.service));
    server.serve(ipc::bind(&path, 0o600).unwrap(), Admission::AnyUser).unwrap();
    let client = ControllersClient::new(Channel::new(&path, Identity::new("cloudhub", 1)));
    Bed { api, client, shutdown, _server: server, _dir: dir }
}

async fn bed() -> Bed {
    let api = ApiDouble::start().await;
    for namespace in ["default", "kube-node-lease"] {
        api.put(&format!("/api/v1/namespaces/{namespace}"), json!({"metadata": {"name": namespace}}));
    }
    bed_on(api)
}

const WEB: &str = "/api/v1/namespaces/default/pods/web-0";
const CONFIG: &str = "/api/v1/namespaces/default/configmaps/app-config";
const SECRET: &str = "/api/v1/namespaces/default/secrets/app-secret";
const EDGE: &str = "/api/v1/nodes/edge-1";

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": node,
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "app-config"}}]}],
            "volumes": [{"secret": {"secretName": "app-secret"}}],
        },
        "status": {"phase": "Pending"},
    })
}

fn named(name: &str, data: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default"}, "data": {"key": data}})
}

/// A node, a pod on it, and what the pod names.
async fn with_pod() -> Bed {
    let bed = bed().await;
    let labels = json!({"node-role.kubernetes.io/edge": ""});
    bed.api.put(EDGE, json!({"metadata": {"name": "edge-1", "labels": labels}, "spec": {}}));
    bed.api.put(CONFIG, named("app-config", "a"));
    bed.api.put(SECRET, named("app-secret", "YQ=="));
    bed.api.put("/api/v1/namespaces/default/secrets/other", named("other", "Yg=="));
    bed.api.put(WEB, pod("web-0", "edge-1"));
    bed.api.put("/api/v1/namespaces/default/pods/elsewhere", pod("elsewhere", "edge-2"));
    bed
}

impl Bed {
    async fn open(&self) -> Downstream {
        self.client.downstream(DownstreamRequest { node: "edge-1".into() }).await.unwrap()
    }

    async fn up(&self, message: &WireMessage) -> Result<Option<WireMessage>, CallError<ControllersError>> {
        let request = UpstreamRequest { node: "edge-1".into(), message: Bytes::from(message.encode()) };
        let reply = self.client.upstream(request).await?;
        Ok(reply.answer.map(|answer| WireMessage::decode(&answer).unwrap()))
    }

    async fn acknowledge(&self, message: &WireMessage) {
        let object: Value = message.content.parse("object").unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let request = AcknowledgedRequest {
            node: "edge-1".into(),
            resource: message.route.resource.clone(),
            operation: message.route.operation.to_string(),
            uid: text(&object["metadata"]["uid"]),
            resource_version: message.resource_version().unwrap().unwrap_or(0),
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
        };
        self.client.acknowledged(request).await.unwrap();
    }
}

async fn next(stream: &mut Downstream) -> WireMessage {
    let item = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("a message in time");
    let item = item.unwrap().unwrap();
    let message = WireMessage::decode(&item.message).unwrap();
    assert_eq!(item.ack, wire::ack_mode(&message));
    message
}

async fn several(stream: &mut Downstream, count: usize) -> Vec<WireMessage> {
    let mut messages = Vec::new();
    for _ in 0..count {
        messages.push(next(stream).await);
    }
    messages
}

async fn is_quiet(stream: &mut Downstream) -> bool {
    tokio::time::timeout(Duration::from_millis(300), stream.next()).await.is_err()
}

fn what(message: &WireMessage) -> String {
    format!("{} {}", message.route.operation, message.route.resource)
}

fn request(operation: Operation, resource: &str, content: &Value) -> WireMessage {
    WireMessage::new("edged", "meta", operation, resource.to_owned(), Content::value(content).unwrap())
}

fn refusal(answer: &WireMessage) -> u32 {
    match answer.content.object_resp().unwrap() {
        Some(resp) => resp.err.expect("a refusal").code,
        None => answer.content.error_status().unwrap().expect("a refusal").code,
    }
}

#[tokio::test]
async fn an_edge_gets_what_it_needs_in_order_and_nothing_else() {
    let bed = with_pod().await;
    let mut stream = bed.open().await;
    let messages = several(&mut stream, 4).await;
    let what: Vec<String> = messages.iter().map(what).collect();
    assert_eq!(
        what,
        [
            "update null/node/edge-1",
            "insert default/configmap/app-config",
            "update default/secret/app-secret",
            "insert default/pod/web-0"
        ]
    );
    let pod: Value = messages[3].content.parse("pod").unwrap();
    assert_eq!((&pod["kind"], &pod["apiVersion"]), (&json!("Pod"), &json!("v1")));
    assert_eq!(pod["metadata"]["resourceVersion"], messages[3].header.resource_version.as_str());
    assert!(is_quiet(&mut stream).await);
}

#[tokio::test]
async fn changes_follow_and_status_changes_do_not() {
    let bed = with_pod().await;
    let mut stream = bed.open().await;
    several(&mut stream, 4).await;
    bed.api.put(CONFIG, named("app-config", "b"));
    let changed = next(&mut stream).await;
    assert_eq!(what(&changed), "update default/configmap/app-config");
    let mut running = pod("web-0", "edge-1");
    running["status"]["phase"] = "Running".into();
    bed.api.put(WEB, running);
    bed.api.put("/api/v1/namespaces/default/secrets/other", named("other", "Yw=="));
    assert!(is_quiet(&mut stream).await);
    bed.api.remove(WEB);
    let gone: Vec<String> = several(&mut stream, 3).await.iter().map(what).collect();
    assert_eq!(
        gone,
        [
            "delete default/pod/web-0",
            "delete default/secret/app-secret",
            "delete default/configmap/app-config"
        ]
    );
}

#[tokio::test]
async fn a_pod_bound_while_the_session_is_open_comes_with_what_it_names() {
    let bed = bed().await;
    let mut stream = bed.open().await;
    bed.api.put(CONFIG, named("app-config", "a"));
    bed.api.put(WEB, pod("web-0", "edge-1"));
    let messages: Vec<String> = several(&mut stream, 2).await.iter().map(what).collect();
    assert_eq!(messages, ["insert default/configmap/app-config", "insert default/pod/web-0"]);
    bed.api.put(SECRET, named("app-secret", "YQ=="));
    assert_eq!(
        what(&next(&mut stream).await),
        "update default/secret/app-secret",
        "made after the pod that names it"
    );
}

#[tokio::test]
async fn acknowledgements_are_recorded_and_the_records_removed_with_the_object() {
    let bed = with_pod().await;
    let mut stream = bed.open().await;
    let insert = several(&mut stream, 4).await.pop().unwrap();
    bed.acknowledge(&insert).await;
    let uid = insert.content.object_meta().unwrap().uid;
    let sync =
        format!("/apis/reliablesyncs.kubeedge.io/v1alpha1/namespaces/default/objectsyncs/edge-1.{uid}");
    let recorded = bed.api.get(&sync).expect("recorded");
    assert_eq!(
        recorded["spec"],
        json!({"objectAPIVersion": "v1", "objectKind": "Pod", "objectName": "web-0"})
    );
    assert_eq!(recorded["status"]["objectResourceVersion"], insert.header.resource_version.as_str());
    bed.api.remove(WEB);
    let delete = next(&mut stream).await;
    bed.acknowledge(&delete).await;
    assert!(bed.api.get(&sync).is_none());
}

#[tokio::test]
async fn what_went_while_everybody_was_away_is_deleted_on_the_edge() {
    let bed = with_pod().await;
    let mut stream = bed.open().await;
    let insert = several(&mut stream, 4).await.pop().unwrap();
    bed.acknowledge(&insert).await;
    let api = bed.api.clone();
    drop((stream, bed));
    api.remove(WEB);
    let bed = bed_on(api);
    let mut stream = bed.open().await;
    let first = next(&mut stream).await;
    assert_eq!(what(&first), "delete default/pod/web-0");
    assert_eq!(first.content.object_meta().unwrap().uid, insert.content.object_meta().unwrap().uid);
}

#[tokio::test]
async fn a_node_registers_and_is_told_when_it_exists() {
    let bed = bed().await;
    let labels = json!({"node-role.kubernetes.io/edge": "", "node-role.kubernetes.io/control-plane": ""});
    let node = json!({"metadata": {"name": "edge-1", "labels": labels}, "spec": {}});
    let insert = request(Operation::Insert, "node/edge-1/null/node/edge-1", &node);
    let answer = bed.up(&insert).await.unwrap().unwrap();
    assert_eq!(answer.route.resource, "null/node/edge-1");
    assert_eq!(answer.header.parent_msg_id, insert.header.msg_id);
    assert!(answer.content.object_resp().unwrap().unwrap().is_ok());
    let created = bed.api.get(EDGE).unwrap();
    assert_eq!(created["metadata"]["labels"], json!({"node-role.kubernetes.io/edge": ""}));
    assert_eq!(refusal(&bed.up(&insert).await.unwrap().unwrap()), 409);
}

#[tokio::test]
async fn status_is_patched_for_own_pods_only() {
    let bed = with_pod().await;
    let mut stream = bed.open().await;
    several(&mut stream, 4).await;
    let patch = |pod: &str| {
        let patch = json!({"status": {"phase": "Running"}}).to_string();
        request(Operation::Patch, &format!("default/podpatch/{pod}"), &json!(patch))
    };
    let answer = bed.up(&patch("web-0")).await.unwrap().unwrap();
    assert_eq!(bed.api.get(WEB).unwrap()["status"]["phase"], "Running");
    assert!(!answer.header.resource_version.is_empty());
    assert_eq!(refusal(&bed.up(&patch("elsewhere")).await.unwrap().unwrap()), 403);
    assert_eq!(refusal(&bed.up(&patch("unknown")).await.unwrap().unwrap()), 404);
}

#[tokio::test]
async fn a_pod_that_is_gone_already_counts_as_deleted_and_another_of_its_name_stays() {
    let bed = with_pod().await;
    let mut stream = bed.open().await;
    several(&mut stream, 4).await;
    let delete = |pod: &str, uid: &str| {
        let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
        request(Operation::Delete, &format!("default/pod/{pod}"), &options)
    };
    assert!(bed.up(&delete("gone", "x")).await.unwrap().unwrap().content.is_ok());
    assert!(bed.up(&delete("web-0", "older")).await.unwrap().unwrap().content.is_ok());
    let uid = bed.api.get(WEB).expect("the newer one stays")["metadata"]["uid"].as_str().unwrap().to_owned();
    assert!(bed.up(&delete("web-0", &uid)).await.unwrap().unwrap().content.is_ok());
    assert!(bed.api.get(WEB).is_none());
}

#[tokio::test]
async fn queries_are_answered_for_what_the_nodes_pods_name() {
    let bed = with_pod().await;
    let mut stream = bed.open().await;
    several(&mut stream, 4).await;
    let query = |resource: &str| request(Operation::Query, resource, &Value::Null);
    let answer = bed.up(&query("default/secret/app-secret")).await.unwrap().unwrap();
    assert_eq!(answer.content.parse::<Value>("secret").unwrap()["data"]["key"], "YQ==");
    assert!(!answer.header.resource_version.is_empty());
    assert_eq!(refusal(&bed.up(&query("default/secret/other")).await.unwrap().unwrap()), 403);
}

#[tokio::test]
async fn a_lease_is_queried_created_and_renewed() {
    let bed = bed().await;
    let resource = "kube-node-lease/lease/edge-1";
    let query = request(Operation::Query, resource, &Value::Null);
    assert_eq!(refusal(&bed.up(&query).await.unwrap().unwrap()), 404);
    let lease =
        json!({"metadata": {"name": "edge-1", "namespace": "kube-node-lease"}, "spec": {"renewTime": "1"}});
    let insert = request(Operation::Insert, resource, &lease);
    assert!(bed.up(&insert).await.unwrap().unwrap().content.object_resp().unwrap().unwrap().is_ok());
    let update = request(Operation::Update, resource, &lease);
    assert!(bed.up(&update).await.unwrap().unwrap().content.object_resp().unwrap().unwrap().is_ok());
    assert!(bed.up(&query).await.unwrap().unwrap().content.object_resp().unwrap().unwrap().is_ok());
}

#[tokio::test]
async fn while_the_api_is_away_requests_are_unavailable_and_the_stream_catches_up_after() {
    let bed = with_pod().await;
    let mut stream = bed.open().await;
    several(&mut stream, 4).await;
    bed.api.set_away(true);
    bed.api.put(CONFIG, named("app-config", "b"));
    let query = request(Operation::Query, "default/configmap/app-config", &Value::Null);
    let unavailable = bed.up(&query).await.unwrap_err();
    assert_eq!(unavailable.code(), Some(ControllersError::Unavailable));
    bed.api.set_away(false);
    bed.api.put("/api/v1/namespaces/wake", json!({"metadata": {"name": "wake"}}));
    assert_eq!(what(&next(&mut stream).await), "update default/configmap/app-config");
}

#[tokio::test]
async fn the_join_token_is_where_keadm_looks_for_it() {
    let bed = bed().await;
    for token in ["first", "second"] {
        bed.client.publish_token(PublishTokenRequest { token: token.into() }).await.unwrap();
        let secret = bed.api.get("/api/v1/namespaces/kubeedge/secrets/tokensecret").unwrap();
        let expected = base64::engine::general_purpose::STANDARD.encode(token);
        assert_eq!(secret["data"]["tokendata"], expected.as_str());
    }
}

#[tokio::test]
async fn a_bad_message_is_invalid_and_reaches_no_api() {
    let bed = bed().await;
    let before = bed.api.requests().len();
    let request = UpstreamRequest { node: "edge-1".into(), message: Bytes::from_static(b"hello") };
    assert_eq!(bed.client.upstream(request).await.unwrap_err().code(), Some(ControllersError::Invalid));
    let unsupported = self::request(Operation::Insert, "default/secret/x", &json!({}));
    assert_eq!(bed.up(&unsupported).await.unwrap_err().code(), Some(ControllersError::Invalid));
    assert!(!bed.api.requests()[before..].iter().any(|request| request.contains("secrets/x")));
}
