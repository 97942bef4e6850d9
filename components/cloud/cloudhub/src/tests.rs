//! The hub over real TLS and WebSockets, with a real CA behind it and scripted controllers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use ipc::{Admission, Channel, Fail, Identity, Peer, Server, Sink};
use pki::{CertificateAuthority, CertificateInfo, EcKey, JoinToken, NodeName};
use proto::authority::{self as auth, AuthorityError, sign_node_request::Proof};
use proto::controllers::{
    self as ctrl, AcknowledgedReply, AcknowledgedRequest, ControllersError, DownstreamMessage,
    DownstreamRequest,
};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;
use wire::{Content, Operation, WireMessage};

use super::*;

const YEAR: Duration = Duration::from_hours(365 * 24);

/// The authority's calls on a real CA.
struct FakeAuthority(Arc<CertificateAuthority>);

impl auth::Authority for FakeAuthority {
    async fn ca(&self, _: &Peer, _: auth::CaRequest) -> Result<auth::CaReply, Fail<AuthorityError>> {
        Ok(auth::CaReply { certificate: Bytes::copy_from_slice(self.0.certificate()) })
    }
    async fn mint_token(
        &self,
        _: &Peer,
        _: auth::MintTokenRequest,
    ) -> Result<auth::MintTokenReply, Fail<AuthorityError>> {
        Ok(auth::MintTokenReply { token: self.0.mint_token(YEAR, SystemTime::now()) })
    }
    async fn sign_node(
        &self,
        _: &Peer,
        request: auth::SignNodeRequest,
    ) -> Result<auth::SignNodeReply, Fail<AuthorityError>> {
        let denied =
            |error: &dyn std::fmt::Display| Fail::new(AuthorityError::Unauthenticated, error.to_string());
        let node = NodeName::parse(&request.node_name)
            .map_err(|e| Fail::new(AuthorityError::Invalid, e.to_string()))?;
        match request.proof {
            Some(Proof::Token(jwt)) => {
                self.0.verify_token(&jwt, SystemTime::now()).map_err(|e| denied(&e))?;
            }
            Some(Proof::CurrentCertificate(c)) => {
                self.0.verify_node(&c, &node, SystemTime::now()).map_err(|e| denied(&e))?;
            }
            None => return Err(denied(&"no proof")),
        }
        let certificate = self.0.sign_node(&node, &request.csr, YEAR);
        let certificate = certificate.map_err(|e| Fail::new(AuthorityError::Invalid, e.to_string()))?;
        Ok(auth::SignNodeReply { certificate: Bytes::copy_from_slice(&certificate) })
    }
    async fn sign_server(
        &self,
        _: &Peer,
        request: auth::SignServerRequest,
    ) -> Result<auth::SignServerReply, Fail<AuthorityError>> {
        let addresses = request.ip_addresses.iter().map(|a| a.parse().unwrap()).collect();
        let certificate = self.0.sign_server(&request.csr, request.dns_names, addresses, YEAR).unwrap();
        Ok(auth::SignServerReply { certificate: Bytes::copy_from_slice(&certificate) })
    }
}

/// Controllers that say what the test says and keep what they hear.
#[derive(Default)]
struct Script {
    downstream: AsyncMutex<Option<mpsc::UnboundedReceiver<DownstreamMessage>>>,
    streams: AtomicUsize,
    acknowledged: Mutex<Vec<AcknowledgedRequest>>,
    upstream: Mutex<Vec<(String, WireMessage)>>,
    unavailable: std::sync::atomic::AtomicBool,
}

struct FakeControllers(Arc<Script>);

impl ctrl::Controllers for FakeControllers {
    async fn downstream(
        &self,
        _: &Peer,
        _: DownstreamRequest,
        out: Sink<DownstreamMessage>,
    ) -> Result<(), Fail<ControllersError>> {
        self.0.streams.fetch_add(1, Ordering::SeqCst);
        let mut source = self.0.downstream.lock().await;
        while let Some(item) = match source.as_mut() {
            Some(source) => source.recv().await,
            None => std::future::pending().await,
        } {
            if out.send(item).await.is_err() {
                break;
            }
        }
        Ok(())
    }
    async fn acknowledged(
        &self,
        _: &Peer,
        request: AcknowledgedRequest,
    ) -> Result<AcknowledgedReply, Fail<ControllersError>> {
        self.0.acknowledged.lock().unwrap().push(request);
        Ok(AcknowledgedReply {})
    }
    async fn upstream(
        &self,
        _: &Peer,
        request: ctrl::UpstreamRequest,
    ) -> Result<ctrl::UpstreamReply, Fail<ControllersError>> {
        let message = WireMessage::decode(&request.message).unwrap();
        self.0.upstream.lock().unwrap().push((request.node, message.clone()));
        if self.0.unavailable.load(Ordering::SeqCst) {
            return Err(Fail::new(ControllersError::Unavailable, "no API"));
        }
        if message.route.resource.contains("bad") {
            return Err(Fail::new(ControllersError::Invalid, "not supported"));
        }
        Ok(ctrl::UpstreamReply { answer: Some(wire::down::answer_ok(&message, "9").encode().into()) })
    }
    async fn publish_token(
        &self,
        _: &Peer,
        _: ctrl::PublishTokenRequest,
    ) -> Result<ctrl::PublishTokenReply, Fail<ControllersError>> {
        Ok(ctrl::PublishTokenReply {})
    }
}

/// A whole hub on ports of its own.
struct Bed {
    ca: Arc<CertificateAuthority>,
    script: Arc<Script>,
    down: mpsc::UnboundedSender<DownstreamMessage>,
    websocket: SocketAddr,
    https: SocketAddr,
    hub: Arc<Hub>,
    controllers: ControllersProcess,
    _authority: Server<auth::AuthorityServer<FakeAuthority>>,
    dir: tempfile::TempDir,
}

type ControllersProcess = Server<ctrl::ControllersServer<FakeControllers>>;
type Edge = WebSocketStream<TlsStream<TcpStream>>;

async fn bed_with(limit: usize, silence: Duration) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let ca = Arc::new(CertificateAuthority::create("KubeEdge").unwrap());
    let us = || Identity::new("cloudhub", 1);
    let (auth_path, ctrl_path) = (dir.path().join("a.sock"), dir.path().join("c.sock"));
    let authority =
        Server::new(Identity::new("authority", 1), auth::AuthorityServer::new(FakeAuthority(ca.clone())));
    authority.serve(ipc::bind(&auth_path, 0o600).unwrap(), Admission::AnyUser).unwrap();
    let (script, down, controllers) = start_controllers(dir.path(), 1);
    let hub = Arc::new(Hub {
        authority: AuthorityClient::new(Channel::new(&auth_path, us())),
        controllers: ControllersClient::new(Channel::new(&ctrl_path, us())),
        registry: Registry::new(limit),
        silence,
        shutdown: CancellationToken::new(),
    });
    let names = certificate::Names::wanted(&CloudHub::default());
    let acceptors = certificate::keep(hub.authority.clone(), dir.path().to_owned(), names).await.unwrap();
    let listen = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (websocket, https) = (listen().await, listen().await);
    let (websocket_address, https_address) = (websocket.local_addr().unwrap(), https.local_addr().unwrap());
    tokio::spawn(listener::run(websocket, acceptors.clone(), hub.clone(), websocket::serve));
    tokio::spawn(listener::run(https, acceptors, hub.clone(), api::serve));
    Bed {
        ca,
        script,
        down,
        websocket: websocket_address,
        https: https_address,
        hub,
        controllers,
        _authority: authority,
        dir,
    }
}

/// A controllers process with a script of its own.
fn start_controllers(
    dir: &std::path::Path,
    generation: u64,
) -> (Arc<Script>, mpsc::UnboundedSender<DownstreamMessage>, ControllersProcess) {
    let (down, source) = mpsc::unbounded_channel();
    let script = Arc::new(Script { downstream: AsyncMutex::new(Some(source)), ..Script::default() });
    let service = ctrl::ControllersServer::new(FakeControllers(script.clone()));
    let server = Server::new(Identity::new("controllers", generation), service);
    server.serve(ipc::bind(&dir.join("c.sock"), 0o600).unwrap(), Admission::AnyUser).unwrap();
    (script, down, server)
}

async fn bed() -> Bed {
    bed_with(10, Duration::from_secs(30)).await
}

#[derive(Debug)]
struct OneIdentity(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for OneIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

fn csr(key: &EcKey) -> Vec<u8> {
    pki::node_request(&NodeName::parse("any").unwrap(), &key.signer().unwrap()).unwrap()
}

impl Bed {
    /// TLS with a certificate of this node, or without one.
    async fn tls(&self, to: SocketAddr, node: Option<&str>) -> std::io::Result<TlsStream<TcpStream>> {
        let identity = node.map(|node| {
            let key = EcKey::generate().unwrap();
            let certificate = self.ca.sign_node(&NodeName::parse(node).unwrap(), &csr(&key), YEAR).unwrap();
            let signer = rustls::crypto::ring::sign::any_ecdsa_type(&key.private_key()).unwrap();
            let identity = OneIdentity(Arc::new(rustls::sign::CertifiedKey::new(vec![certificate], signer)));
            Arc::new(identity) as Arc<dyn rustls::client::ResolvesClientCert>
        });
        let config = pki::client_config(self.ca.certificate(), identity).unwrap();
        let stream = TcpStream::connect(to).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await
    }

    async fn connect_as(
        &self,
        certificate: &str,
        header: &str,
    ) -> Result<Edge, tokio_tungstenite::tungstenite::Error> {
        let stream = self.tls(self.websocket, Some(certificate)).await?;
        let mut request =
            format!("wss://{}/project/{header}/events", self.websocket).into_client_request()?;
        request.headers_mut().insert("Node_id", header.parse().unwrap());
        request.headers_mut().insert("Connectionuse", "msg".parse().unwrap());
        tokio_tungstenite::client_async(request, stream).await.map(|(socket, _)| socket)
    }

    async fn connect(&self, node: &str) -> Edge {
        self.connect_as(node, node).await.unwrap()
    }

    fn push(&self, name: &str, version: u64) -> WireMessage {
        let message = pod(name, version);
        self.down.send(DownstreamMessage { message: message.encode().into(), ack: true }).unwrap();
        message
    }

    fn restart_controllers(&mut self) {
        (self.script, self.down, self.controllers) = start_controllers(self.dir.path(), 2);
    }

    async fn get(
        &self,
        node: Option<&str>,
        request: http::Request<Full<Bytes>>,
    ) -> (http::StatusCode, Bytes) {
        let stream = TokioIo::new(self.tls(self.https, node).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    }
}

fn pod(name: &str, version: u64) -> WireMessage {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
    });
    let path = format!("ns/pod/{name}").parse().unwrap();
    wire::down::push(Operation::Insert, &path, &version.to_string(), Content::value(&object).unwrap())
}

async fn receive(edge: &mut Edge) -> WireMessage {
    loop {
        let message =
            tokio::time::timeout(Duration::from_secs(20), edge.next()).await.expect("a message in time");
        match message.unwrap().unwrap() {
            Message::Text(text) => return WireMessage::decode(text.as_bytes()).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

async fn send(edge: &mut Edge, message: &WireMessage) {
    edge.send(Message::text(message.encode())).await.unwrap();
}

/// Whether the hub ends this connection, which is what the test waits for.
async fn ends(edge: &mut Edge) -> bool {
    let end = async { while let Some(Ok(_)) = edge.next().await {} };
    tokio::time::timeout(Duration::from_secs(10), end).await.is_ok()
}

async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it comes true in time");
}

fn query(resource: &str) -> WireMessage {
    WireMessage::new("edged", "meta", Operation::Query, resource.to_owned(), Content::null())
}

#[tokio::test]
async fn a_push_is_delivered_acknowledged_and_recorded() {
    let bed = bed().await;
    let mut edge = bed.connect("edge-1").await;
    let pushed = bed.push("web", 7);
    let received = receive(&mut edge).await;
    assert_eq!(received, pushed);
    send(&mut edge, &received.ack()).await;
    until(|| !bed.script.acknowledged.lock().unwrap().is_empty()).await;
    let recorded = bed.script.acknowledged.lock().unwrap()[0].clone();
    assert_eq!(
        (recorded.node.as_str(), recorded.uid.as_str(), recorded.resource_version),
        ("edge-1", "uid-web", 7)
    );
}

#[tokio::test]
async fn at_most_a_window_is_under_way() {
    let bed = bed().await;
    let mut edge = bed.connect("edge-1").await;
    let pushed: Vec<_> = (0..40).map(|number| bed.push(&format!("p{number}"), 1)).collect();
    let mut received = Vec::new();
    for _ in 0..32 {
        received.push(receive(&mut edge).await);
    }
    assert!(tokio::time::timeout(Duration::from_millis(200), edge.next()).await.is_err(), "the 33rd waits");
    for message in &received {
        send(&mut edge, &message.ack()).await;
    }
    for _ in 32..40 {
        received.push(receive(&mut edge).await);
    }
    assert_eq!(received, pushed, "in order");
}

#[tokio::test]
async fn a_second_state_of_an_object_waits_for_the_first_to_be_acknowledged() {
    let bed = bed().await;
    let mut edge = bed.connect("edge-1").await;
    let (first, second) = (bed.push("web", 1), bed.push("web", 2));
    assert_eq!(receive(&mut edge).await, first);
    assert!(tokio::time::timeout(Duration::from_millis(200), edge.next()).await.is_err());
    send(&mut edge, &first.ack()).await;
    assert_eq!(receive(&mut edge).await, second);
}

#[tokio::test]
async fn an_unacknowledged_message_is_sent_again_as_it_was() {
    let bed = bed().await;
    let mut edge = bed.connect("edge-1").await;
    let pushed = bed.push("web", 1);
    assert_eq!(receive(&mut edge).await, pushed);
    assert_eq!(receive(&mut edge).await, pushed, "after 5 s");
}

#[tokio::test]
async fn controllers_restart_and_the_session_goes_on() {
    let mut bed = bed().await;
    let mut edge = bed.connect("edge-1").await;
    let before = bed.push("web", 1);
    assert_eq!(receive(&mut edge).await, before);
    // Not acknowledged: the next controllers send everything anew, under new ids.
    bed.restart_controllers();
    let after = bed.push("web", 1);
    assert_eq!(receive(&mut edge).await, after);
    send(&mut edge, &query("ns/configmap/a")).await;
    assert!(receive(&mut edge).await.content.is_ok());
    assert_eq!(bed.script.streams.load(Ordering::SeqCst), 1, "of the second controllers");
}

#[tokio::test]
async fn requests_carry_the_certificates_name_and_get_their_answer() {
    let bed = bed().await;
    let mut edge = bed.connect("edge-1").await;
    let request = query("ns/configmap/a");
    send(&mut edge, &request).await;
    let answer = receive(&mut edge).await;
    assert_eq!(answer.header.parent_msg_id, request.header.msg_id);
    assert!(answer.content.is_ok());
    assert_eq!(bed.script.upstream.lock().unwrap()[0].0, "edge-1");
}

#[tokio::test]
async fn a_request_waits_while_the_api_is_away() {
    let bed = bed().await;
    let mut edge = bed.connect("edge-1").await;
    bed.script.unavailable.store(true, Ordering::SeqCst);
    let waiting = query("ns/configmap/a");
    send(&mut edge, &waiting).await;
    until(|| bed.script.upstream.lock().unwrap().len() >= 2).await;
    bed.script.unavailable.store(false, Ordering::SeqCst);
    let answer = receive(&mut edge).await;
    assert_eq!(answer.header.parent_msg_id, waiting.header.msg_id);
    assert!(answer.content.is_ok(), "answered once it could be, not refused before");
}

#[tokio::test]
async fn a_request_nothing_supports_is_told_so() {
    let bed = bed().await;
    let mut edge = bed.connect("edge-1").await;
    let bad = query("ns/bad/a");
    send(&mut edge, &bad).await;
    let answer = receive(&mut edge).await;
    assert_eq!(answer.header.parent_msg_id, bad.header.msg_id);
    assert_eq!(answer.content.error_status().unwrap().unwrap().code, 400);
}

#[tokio::test]
async fn messages_that_claim_to_come_from_the_cloud_are_dropped() {
    let bed = bed().await;
    let mut edge = bed.connect("edge-1").await;
    let mut forged = query("ns/configmap/forged");
    forged.route.source = "edgecontroller".into();
    send(&mut edge, &forged).await;
    send(&mut edge, &query("ns/configmap/a")).await;
    receive(&mut edge).await;
    assert_eq!(bed.script.upstream.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_node_that_claims_another_name_is_refused() {
    let bed = bed().await;
    assert!(bed.connect_as("edge-1", "edge-2").await.is_err());
    assert!(bed.hub.registry.enter(&NodeName::parse("edge-2").unwrap()).is_ok());
}

#[tokio::test]
async fn without_a_certificate_there_is_no_session() {
    let bed = bed().await;
    let connected = async {
        let stream = bed.tls(bed.websocket, None).await?;
        let request = format!("wss://{}/", bed.websocket).into_client_request()?;
        tokio_tungstenite::client_async(request, stream).await
    };
    assert!(connected.await.is_err());
}

#[tokio::test]
async fn what_is_not_json_or_too_large_ends_the_session_and_no_other() {
    let bed = bed().await;
    let mut bystander = bed.connect("edge-2").await;
    let mut noise = bed.connect("edge-1").await;
    noise.send(Message::text("hello")).await.unwrap();
    assert!(ends(&mut noise).await);
    let mut large = bed.connect("edge-1").await;
    // The hub may end the connection while this is still being written.
    let _ = large.send(Message::text("x".repeat(5 * 1024 * 1024))).await;
    assert!(ends(&mut large).await);
    send(&mut bystander, &query("ns/configmap/a")).await;
    receive(&mut bystander).await;
}

#[tokio::test]
async fn a_newer_session_replaces_the_older_and_keeps_working_when_that_ends() {
    let bed = bed().await;
    let mut older = bed.connect("edge-1").await;
    let mut newer = bed.connect("edge-1").await;
    assert!(ends(&mut older).await);
    send(&mut newer, &query("ns/configmap/a")).await;
    receive(&mut newer).await;
}

#[tokio::test]
async fn a_full_hub_refuses_new_nodes_only() {
    let bed = bed_with(1, Duration::from_secs(30)).await;
    let _first = bed.connect("edge-1").await;
    assert!(bed.connect_as("edge-2", "edge-2").await.is_err());
    let _again = bed.connect("edge-1").await;
}

#[tokio::test]
async fn an_edge_that_says_nothing_is_given_up() {
    let bed = bed_with(10, Duration::from_millis(300)).await;
    let edge = bed.connect("edge-1").await;
    // Not polled, so it answers no ping: the same as a cut cable.
    tokio::time::timeout(Duration::from_secs(5), bed.hub.registry.drained()).await.expect("the session ends");
    drop(edge);
}

#[tokio::test]
async fn an_edge_that_answers_pings_stays() {
    let bed = bed_with(10, Duration::from_millis(300)).await;
    let mut edge = bed.connect("edge-1").await;
    assert!(
        tokio::time::timeout(Duration::from_secs(1), async { while let Some(Ok(_)) = edge.next().await {} })
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_join_token_gets_a_certificate_that_opens_a_session() {
    let bed = bed().await;
    let (status, ca) = bed.get(None, http::Request::get("/ca.crt").body(Full::default()).unwrap()).await;
    assert_eq!(status, 200);
    let token = JoinToken::parse(&bed.ca.mint_token(YEAR, SystemTime::now())).unwrap();
    assert!(token.matches(&ca));
    let key = EcKey::generate().unwrap();
    let request = |token: &str| {
        http::Request::get("/edge.crt")
            .header("NodeName", "edge-1")
            .header("Authorization", format!("Bearer {token}"))
            .body(Full::from(csr(&key)))
            .unwrap()
    };
    let (status, certificate) = bed.get(None, request(token.jwt())).await;
    assert_eq!(status, 200);
    assert_eq!(CertificateInfo::from_der(&certificate).unwrap().common_name, "system:node:edge-1");
    assert!(pki::issued_by(&CertificateDer::from(certificate.to_vec()), &ca));
    let (status, reason) = bed.get(None, request("a.b.c")).await;
    assert_eq!(status, 401, "{reason:?}");
}

#[tokio::test]
async fn a_node_renews_with_its_certificate_and_strangers_get_none() {
    let bed = bed().await;
    let key = EcKey::generate().unwrap();
    let request = |node: &str| {
        http::Request::get("/edge.crt").header("NodeName", node).body(Full::from(csr(&key))).unwrap()
    };
    assert_eq!(bed.get(Some("edge-1"), request("edge-1")).await.0, 200);
    assert_eq!(bed.get(Some("edge-1"), request("edge-2")).await.0, 401);
    assert_eq!(bed.get(None, request("edge-1")).await.0, 401);
}

#[tokio::test]
async fn oversized_bodies_other_methods_and_unknown_paths_are_refused() {
    let bed = bed().await;
    let large = http::Request::get("/edge.crt")
        .header("Authorization", "Bearer a.b.c")
        .body(Full::from(vec![0; 70_000]))
        .unwrap();
    assert_eq!(bed.get(None, large).await.0, 413);
    assert_eq!(bed.get(None, http::Request::post("/ca.crt").body(Full::default()).unwrap()).await.0, 405);
    assert_eq!(bed.get(None, http::Request::get("/x").body(Full::default()).unwrap()).await.0, 404);
    assert_eq!(bed.get(None, http::Request::get("/node/..").body(Full::default()).unwrap()).await.0, 400);
    assert_eq!(bed.get(None, http::Request::get("/node/edge-1").body(Full::default()).unwrap()).await.0, 200);
}
