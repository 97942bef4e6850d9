//! The whole component against our own API server: real TLS, real watches, real patches.

use std::path::Path;

use super::*;
use crate::api::{Api, ApiResult, CONFIG_MAPS, LEASES, NODES, OBJECT_SYNCS, PODS};

const SERVICES: &str = "/api/v1/namespaces/default/services";

/// An API server on files that outlive it.
struct ApiServer {
    dir: tempfile::TempDir,
    port: u16,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl ApiServer {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, shutdown, task) = serve(dir.path(), 0).await;
        Self { dir, port, shutdown, task }
    }

    async fn stop(&mut self) {
        self.shutdown.cancel();
        (&mut self.task).await.unwrap();
    }

    async fn start_again(&mut self) {
        let (port, shutdown, task) = serve(self.dir.path(), self.port).await;
        (self.port, self.shutdown, self.task) = (port, shutdown, task);
    }
}

async fn serve(dir: &Path, port: u16) -> (u16, CancellationToken, tokio::task::JoinHandle<()>) {
    let settings = apiserver::Settings {
        address: "127.0.0.1".parse().unwrap(),
        port,
        names: vec![],
        state: dir.to_owned(),
        runtime: dir.to_owned(),
        kubeconfig_copy: None,
    };
    let shutdown = CancellationToken::new();
    let (ready, address) = tokio::sync::oneshot::channel();
    let ends = shutdown.clone();
    let task = tokio::spawn(async move {
        apiserver::serve(settings, ends, |address| ready.send(address).unwrap()).await.unwrap();
    });
    (address.await.unwrap().port(), shutdown, task)
}

struct Cluster {
    server: ApiServer,
    /// What a person with the administrator's kubeconfig does.
    admin: Api,
    client: ControllersClient,
    shutdown: CancellationToken,
    _server: Server<ControllersServer<Service>>,
    _admin: watch::Sender<Option<kube::Client>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.server.shutdown.cancel();
    }
}

async fn cluster() -> Cluster {
    let server = ApiServer::start().await;
    let shutdown = CancellationToken::new();
    let source = |name: &str| Source::File { path: server.dir.path().join(name), master: None };
    let controllers = Controllers::start(source("controllers.kubeconfig"), shutdown.clone());
    let path = server.dir.path().join("c.sock");
    let bus = Server::new(Identity::new("controllers", 1), ControllersServer::shared(controllers.service));
    bus.serve(ipc::bind(&path, 0o600).unwrap(), Admission::AnyUser).unwrap();
    let client = ControllersClient::new(Channel::new(&path, Identity::new("cloudhub", 1)));

    let (sender, mut receiver) = watch::channel(None);
    let (keeper, ends) = (sender.clone(), shutdown.clone());
    tokio::spawn(crate::connection::keep(source("admin.kubeconfig"), keeper, ends, |_| {}));
    receiver.wait_for(Option::is_some).await.unwrap();
    Cluster { server, admin: Api::new(receiver), client, shutdown, _server: bus, _admin: sender }
}

impl Cluster {
    async fn apply(&self, path: String, object: Value) -> Value {
        self.admin.create(path, &object).await.unwrap().parse("object").unwrap()
    }

    async fn get(&self, path: String) -> ApiResult<Value> {
        self.admin.get(path).await.map(|content| content.parse("object").unwrap())
    }

    async fn up(&self, message: &WireMessage) -> WireMessage {
        let request = UpstreamRequest { node: "edge-1".into(), message: Bytes::from(message.encode()) };
        let reply = self.client.upstream(request).await.unwrap();
        WireMessage::decode(&reply.answer.expect("an answer")).unwrap()
    }

    /// Registers the node and opens its session.
    async fn join(&self) -> Downstream {
        let labels = json!({"node-role.kubernetes.io/edge": "", "kubernetes.io/hostname": "edge-1"});
        let node = json!({"metadata": {"name": "edge-1", "labels": labels}});
        let answer = self.up(&request(Operation::Insert, "null/node/edge-1", &node)).await;
        assert!(answer.content.object_resp().unwrap().unwrap().is_ok(), "{}", answer.content.get());
        let mut stream = self.client.downstream(DownstreamRequest { node: "edge-1".into() }).await.unwrap();
        assert_eq!(what(&next(&mut stream).await), "update null/node/edge-1");
        stream
    }

    async fn apply_web(&self) -> Value {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app-config"}, "data": {"a": "b"}});
        self.apply(CONFIG_MAPS.path("default"), map).await;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web-0", "labels": {"app": "web"}},
            "spec": {
                "nodeName": "edge-1", "terminationGracePeriodSeconds": 3,
                "containers": [{
                    "name": "c", "image": "busybox", "ports": [{"name": "http", "containerPort": 8080}],
                    "envFrom": [{"configMapRef": {"name": "app-config"}}],
                }],
            },
        });
        self.apply(PODS.path("default"), pod).await
    }

    async fn report(&self, status: Value) -> WireMessage {
        let patch = json!({"status": status}).to_string();
        self.up(&request(Operation::Patch, "default/podpatch/web-0", &json!(patch))).await
    }
}

/// Skips what is not about `resource`.
async fn next_of(stream: &mut Downstream, resource: &str) -> WireMessage {
    loop {
        let message = next(stream).await;
        if message.route.resource == resource {
            return message;
        }
    }
}

async fn until<F: Future<Output = bool>>(what: impl Fn() -> F) {
    let wait = async {
        while !what().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it comes true in time");
}

#[tokio::test]
async fn the_life_of_a_pod() {
    let cluster = cluster().await;
    let mut stream = cluster.join().await;
    let created = cluster.apply_web().await;
    let uid = created["metadata"]["uid"].as_str().unwrap().to_owned();

    let insert = next_of(&mut stream, "default/pod/web-0").await;
    assert_eq!(insert.route.operation, Operation::Insert);
    assert_eq!(insert.content.object_meta().unwrap().uid, uid);

    let ready = json!({"phase": "Running", "podIP": "10.1.0.7", "podIPs": [{"ip": "10.1.0.7"}],
                       "conditions": [{"type": "Ready", "status": "True"}]});
    let answer = cluster.report(ready).await;
    assert!(answer.content.object_resp().unwrap().unwrap().is_ok(), "{}", answer.content.get());
    assert_eq!(cluster.get(PODS.object("default", "web-0")).await.unwrap()["status"]["phase"], "Running");

    cluster.admin.delete(PODS.object("default", "web-0"), &json!({})).await.unwrap();
    let ending = loop {
        let message = next_of(&mut stream, "default/pod/web-0").await;
        if message.content.object_meta().unwrap().deletion_timestamp.is_some() {
            break message;
        }
    };
    assert_eq!(ending.route.operation, Operation::Update);

    let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
    let answer = cluster.up(&request(Operation::Delete, "default/pod/web-0", &options)).await;
    assert!(answer.content.is_ok(), "{}", answer.content.get());
    let delete = next_of(&mut stream, "default/pod/web-0").await;
    assert_eq!(delete.route.operation, Operation::Delete);
    assert_eq!(delete.content.object_meta().unwrap().uid, uid);
}

#[tokio::test]
async fn the_api_server_restarts_and_nothing_is_missed() {
    let mut cluster = cluster().await;
    let mut stream = cluster.join().await;
    cluster.apply_web().await;
    next_of(&mut stream, "default/pod/web-0").await;
    cluster.server.stop().await;
    cluster.server.start_again().await;
    let patch = json!({"data": {"a": "changed"}}).to_string();
    let map = CONFIG_MAPS.object("default", "app-config");
    until(|| async {
        let patch = cluster.admin.patch(map.clone(), crate::api::PatchKind::Merge, patch.clone());
        patch.await.is_ok()
    })
    .await;
    let changed = next_of(&mut stream, "default/configmap/app-config").await;
    assert_eq!(changed.content.parse::<Value>("map").unwrap()["data"]["a"], "changed");
}

#[tokio::test]
async fn an_acknowledged_pod_has_its_record() {
    let cluster = cluster().await;
    let mut stream = cluster.join().await;
    cluster.apply_web().await;
    let insert = next_of(&mut stream, "default/pod/web-0").await;
    let metadata = insert.content.object_meta().unwrap();
    let acknowledged = AcknowledgedRequest {
        node: "edge-1".into(),
        resource: insert.route.resource.clone(),
        operation: "insert".into(),
        uid: metadata.uid.clone(),
        resource_version: metadata.version().unwrap().unwrap(),
        api_version: "v1".into(),
        kind: "Pod".into(),
    };
    cluster.client.acknowledged(acknowledged).await.unwrap();
    let record =
        cluster.get(OBJECT_SYNCS.object("default", &format!("edge-1.{}", metadata.uid))).await.unwrap();
    assert_eq!(record["status"]["objectResourceVersion"], metadata.resource_version);
    assert_eq!(record["spec"]["objectName"], "web-0");
}

#[tokio::test]
async fn a_service_gets_endpoints_when_its_pod_is_ready() {
    let cluster = cluster().await;
    let mut stream = cluster.join().await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    });
    cluster.apply(SERVICES.to_owned(), service).await;
    cluster.apply_web().await;
    next_of(&mut stream, "default/pod/web-0").await;
    let ready = json!({"phase": "Running", "podIP": "10.1.0.7", "podIPs": [{"ip": "10.1.0.7"}],
                       "conditions": [{"type": "Ready", "status": "True"}]});
    cluster.report(ready).await;
    let endpoints = "/api/v1/namespaces/default/endpoints/web".to_owned();
    until(|| async {
        let endpoints = cluster.get(endpoints.clone()).await.unwrap_or_default();
        endpoints["subsets"][0]["addresses"][0]["ip"] == "10.1.0.7"
    })
    .await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/web".to_owned();
    let slice = cluster.get(slices.clone()).await.unwrap();
    assert_eq!(slice["endpoints"][0]["conditions"]["ready"], true);
    assert_eq!(slice["ports"][0]["port"], 8080);
    cluster.admin.delete(format!("{SERVICES}/web"), &json!({})).await.unwrap();
    until(|| async { cluster.get(slices.clone()).await.is_err_and(|error| error.code() == 404) }).await;
}

#[tokio::test]
async fn node_status_lease_and_events_are_written() {
    let cluster = cluster().await;
    let _stream = cluster.join().await;
    let patch =
        json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "EdgeReady"}]}});
    let answer =
        cluster.up(&request(Operation::Patch, "null/nodepatch/edge-1", &json!(patch.to_string()))).await;
    assert!(answer.content.object_resp().unwrap().unwrap().is_ok(), "{}", answer.content.get());
    let node = cluster.get(NODES.object("", "edge-1")).await.unwrap();
    assert_eq!(node["status"]["conditions"][0]["reason"], "EdgeReady");

    let lease = json!({
        "metadata": {"name": "edge-1", "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": "edge-1", "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"},
    });
    let answer = cluster.up(&request(Operation::Insert, "kube-node-lease/lease/edge-1", &lease)).await;
    assert!(answer.content.object_resp().unwrap().unwrap().is_ok(), "{}", answer.content.get());
    cluster.get(LEASES.object("kube-node-lease", "edge-1")).await.unwrap();

    let event = json!({
        "metadata": {"name": "edge-1.1", "namespace": "default"},
        "involvedObject": {"kind": "Node", "name": "edge-1"}, "reason": "Starting", "message": "m", "type": "Normal",
        "source": {"component": "kubelet", "host": "edge-1"},
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1,
    });
    let message = request(Operation::Insert, "default/event/edge-1.1", &event);
    let upstream = UpstreamRequest { node: "edge-1".into(), message: Bytes::from(message.encode()) };
    assert!(cluster.client.upstream(upstream).await.unwrap().answer.is_none());
    cluster.get("/api/v1/namespaces/default/events/edge-1.1".to_owned()).await.unwrap();
}

#[tokio::test]
async fn a_pod_gets_a_token_of_its_service_account() {
    let cluster = cluster().await;
    let mut stream = cluster.join().await;
    let created = cluster.apply_web().await;
    next_of(&mut stream, "default/pod/web-0").await;
    let bound =
        json!({"kind": "Pod", "apiVersion": "v1", "name": "web-0", "uid": created["metadata"]["uid"]});
    let body = json!({"spec": {"audiences": ["x"], "expirationSeconds": 3607, "boundObjectRef": bound}});
    let answer = cluster.up(&request(Operation::Query, "default/serviceaccounttoken/default", &body)).await;
    let token: Value = answer.content.parse("token").unwrap();
    assert!(token["status"]["token"].as_str().is_some_and(|token| !token.is_empty()), "{token}");
    assert!(!wire::ack_mode(&answer));
}
