//! A cloud hub and a metamanager under the test's control: real TLS, HTTP, WebSocket and bus sockets on this machine.
//!
//! What the hub leaves out: it sends and expects only what a test says, keeps no queue, never resends, does not time out
//! keepalives, and serves one link at a time. What metamanager leaves out: SQLite, coalescing, watches and reads.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use componentconfig::edgecore::EdgeCore;
use edgehub::config::Settings;
use edgehub::keys::NodeKey;
use edgehub::{Hub, KeySource, Report};
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use ipc::{Fail, Peer, Sink};
use pki::{CertificateAuthority, ClientCertificates, EcKey, NodeName};
use proto::metamanager::outgoing_item::Item;
use proto::metamanager::{
    ApplyReply, ApplyRequest, Change, DeliveredReply, DeliveredRequest, GetReply, GetRequest, MetaManager,
    MetaManagerClient, MetaManagerError, MetaManagerServer, OutgoingItem, OutgoingRequest, QueryReply,
    QueryRequest, SetLinkReply, SetLinkRequest, SubmitReply, SubmitRequest, WatchEvent, WatchRequest,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{
    ErrorResponse, Request as Upgrade, Response as Upgraded,
};
use tokio_util::sync::CancellationToken;
use wire::WireMessage;

/// For anything a test waits for; only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(20);

const HOUR: Duration = Duration::from_hours(1);

pub(crate) const NODE: &str = "edge-1";

/// Fails with `what` when it does not happen.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("did not happen: {what}"))
}

/// One cloud: its CA, certificate API and message link.
pub(crate) struct Cloud {
    pub(crate) ca: Arc<CertificateAuthority>,
    pub(crate) joins: Arc<Mutex<Vec<NodeName>>>,
    http: Arc<TcpListener>,
    hub: TcpListener,
    acceptor: TlsAcceptor,
}

impl Cloud {
    pub(crate) async fn new() -> Self {
        let ca = Arc::new(CertificateAuthority::create("KubeEdge").unwrap());
        let acceptor = acceptor(&ca, &ca);
        Self {
            http: Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap()),
            hub: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            joins: Arc::default(),
            acceptor,
            ca,
        }
    }

    /// From now on the message link shows a certificate of another CA.
    pub(crate) fn show_certificate_of(&mut self, other: &CertificateAuthority) {
        self.acceptor = acceptor(&self.ca, other);
    }

    pub(crate) fn token(&self) -> String {
        self.ca.mint_token(HOUR, SystemTime::now())
    }

    /// Serves `/ca.crt` and `/edge.crt` as CloudCore does, until dropped.
    pub(crate) fn serve_certificates(&self) -> Task {
        let (ca, joins, listener) = (Arc::clone(&self.ca), Arc::clone(&self.joins), Arc::clone(&self.http));
        let acceptor = server(&self.ca, ClientCertificates::NotAsked);
        Task(tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                // The edge may hang up in the middle when it does not like what it sees.
                let Ok(tls) = acceptor.accept(tcp).await else { continue };
                let service = hyper::service::service_fn(|request| certificate_api(&ca, &joins, request));
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tls), service)
                    .await;
            }
        }))
    }

    /// Accepts the edge's next link.
    pub(crate) async fn accept(&self) -> Link {
        loop {
            let (tcp, _) = soon("the edge connects", self.hub.accept()).await.unwrap();
            let Ok(tls) = self.acceptor.accept(tcp).await else { continue };
            // Boxed: a server's handshake is a future of 20 KiB.
            return Box::pin(Link::open(tls)).await;
        }
    }

    /// Accepts the edge's next TCP connection and fails its TLS handshake, if it fails.
    pub(crate) async fn turn_away(&self) -> bool {
        let (tcp, _) = soon("the edge connects", self.hub.accept()).await.unwrap();
        self.acceptor.accept(tcp).await.is_err()
    }

    /// Settings of an edge that is to join this cloud; the token file is `token` in `dir`.
    pub(crate) fn settings(&self, dir: &Path) -> Settings {
        let mut config = EdgeCore::default();
        config.modules.edged.hostname_override = NODE.into();
        config.modules.edge_hub.http_server = format!("https://{}", self.http.local_addr().unwrap());
        config.modules.edge_hub.websocket.server = self.hub.local_addr().unwrap().to_string();
        config.apiary.token_file = Some(dir.join("token"));
        Settings::new(&config, None, dir).unwrap()
    }
}

/// A server certificate as KubeEdge issues it: an address, and one empty DNS name, which is its default for `dnsNames`.
fn certificate(ca: &CertificateAuthority) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let ca_key = EcKey::from_pem(ca.key_pem().as_bytes()).unwrap().signer().unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(ca.certificate(), ca_key).unwrap();
    let mut profile = rcgen::CertificateParams::default();
    profile.distinguished_name.push(rcgen::DnType::CommonName, "KubeEdge");
    profile.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    profile.subject_alt_names = vec![
        rcgen::SanType::DnsName(rcgen::string::Ia5String::try_from("").unwrap()),
        rcgen::SanType::IpAddress(IpAddr::from([127, 0, 0, 1])),
    ];
    let key = EcKey::generate().unwrap();
    let leaf = profile.signed_by(&key.signer().unwrap(), &issuer).unwrap();
    (leaf.der().clone(), key.private_key())
}

fn server(ca: &CertificateAuthority, clients: ClientCertificates) -> TlsAcceptor {
    let (leaf, key) = certificate(ca);
    TlsAcceptor::from(Arc::new(pki::server_config(vec![leaf], key, clients).unwrap()))
}

fn acceptor(clients: &CertificateAuthority, shown: &CertificateAuthority) -> TlsAcceptor {
    server(shown, ClientCertificates::Required(clients.certificate().clone()))
}

async fn certificate_api(
    ca: &CertificateAuthority,
    joins: &Mutex<Vec<NodeName>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let answer = |status, body: &[u8]| {
        let mut response = Response::new(Full::new(Bytes::copy_from_slice(body)));
        *response.status_mut() = status;
        Ok(response)
    };
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    match request.uri().path() {
        "/ca.crt" => answer(StatusCode::OK, ca.certificate()),
        "/edge.crt" => {
            let bearer = header(header::AUTHORIZATION.as_str()).unwrap_or_default();
            let jwt = bearer.strip_prefix("Bearer ").unwrap_or_default();
            if let Err(error) = ca.verify_token(jwt, SystemTime::now()) {
                return answer(StatusCode::UNAUTHORIZED, error.to_string().as_bytes());
            }
            let node = NodeName::parse(&header("NodeName").unwrap_or_default()).unwrap();
            let csr = request.into_body().collect().await?.to_bytes();
            let certificate = ca.sign_node(&node, &csr, HOUR).unwrap();
            joins.lock().unwrap().push(node);
            answer(StatusCode::OK, &certificate)
        }
        _ => answer(StatusCode::NOT_FOUND, b""),
    }
}

/// The hub's end of one message link.
pub(crate) struct Link {
    pub(crate) path: String,
    pub(crate) node_id: String,
    socket: WebSocketStream<TlsStream<TcpStream>>,
}

impl Link {
    async fn open(tls: TlsStream<TcpStream>) -> Self {
        let (mut path, mut node_id) = (String::new(), String::new());
        #[allow(clippy::result_large_err, reason = "the signature is tungstenite's")]
        let look = |request: &Upgrade, response: Upgraded| -> Result<Upgraded, ErrorResponse> {
            request.uri().path().clone_into(&mut path);
            let header = |name| request.headers().get(name).unwrap().to_str().unwrap().to_owned();
            node_id = header("node_id");
            assert_eq!(header("project_id"), path.split('/').nth(1).unwrap());
            assert_eq!(header("connectionuse"), "msg");
            Ok(response)
        };
        let socket = Box::pin(soon("the WebSocket upgrade", tokio_tungstenite::accept_hdr_async(tls, look)))
            .await
            .unwrap();
        Self { path, node_id, socket }
    }

    pub(crate) async fn send(&mut self, message: &WireMessage) {
        self.send_text(message.encode()).await;
    }

    pub(crate) async fn send_text(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).await.unwrap();
    }

    /// The next message that is not a keepalive.
    pub(crate) async fn receive(&mut self) -> WireMessage {
        loop {
            let message = self.receive_any().await;
            if message.route.operation != wire::Operation::Keepalive {
                return message;
            }
        }
    }

    pub(crate) async fn receive_any(&mut self) -> WireMessage {
        loop {
            let frame = soon("a message of the edge", self.socket.next()).await.unwrap().unwrap();
            if let Message::Text(text) = frame {
                return WireMessage::decode(text.as_bytes()).unwrap();
            }
        }
    }

    /// Whether the edge says nothing but keepalives for this long.
    pub(crate) async fn is_quiet_for(&mut self, time: Duration) -> bool {
        let talk = async {
            loop {
                if self.receive_any().await.route.operation != wire::Operation::Keepalive {
                    return;
                }
            }
        };
        timeout(time, talk).await.is_err()
    }
}

/// Ends with the test.
pub(crate) struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What happened at metamanager.
#[derive(Debug, PartialEq)]
pub(crate) enum Met {
    Applied(Vec<Change>),
    Delivered(DeliveredRequest),
    Link(bool),
}

struct Meta {
    /// A permit lets one Apply commit.
    commits: Semaphore,
    outbox: watch::Sender<Vec<OutgoingItem>>,
    met: mpsc::UnboundedSender<Met>,
    refuse: Mutex<Option<MetaManagerError>>,
}

/// The edge's metamanager, which can be restarted.
pub(crate) struct Store {
    path: std::path::PathBuf,
    meta: Arc<Meta>,
    server: Option<ipc::Server<MetaManagerServer<Meta>>>,
    met: mpsc::UnboundedReceiver<Met>,
}

impl Store {
    /// A store that commits at once.
    pub(crate) fn new(dir: &Path) -> Self {
        let (met, events) = mpsc::unbounded_channel();
        let meta = Meta {
            commits: Semaphore::new(Semaphore::MAX_PERMITS),
            outbox: watch::Sender::default(),
            met,
            refuse: Mutex::default(),
        };
        let mut store = Self { path: dir.join("meta.sock"), meta: Arc::new(meta), server: None, met: events };
        store.start(1);
        store
    }

    pub(crate) fn start(&mut self, generation: u64) {
        let service = MetaManagerServer::shared(Arc::clone(&self.meta));
        let server = ipc::Server::new(ipc::Identity::new("metamanager", generation), service);
        server.serve(ipc::bind(&self.path, 0o600).unwrap(), ipc::Admission::AnyUser).unwrap();
        self.server = Some(server);
    }

    /// Ends every connection; the state stays, as SQLite would keep it.
    pub(crate) fn stop(&mut self) {
        self.server = None;
    }

    pub(crate) fn client(&self) -> MetaManagerClient {
        MetaManagerClient::new(ipc::Channel::new(&self.path, ipc::Identity::new("edgehub", 1)))
    }

    /// Holds every commit back until [`Self::commit_one`].
    pub(crate) fn hold_commits(&self) {
        self.meta.commits.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub(crate) fn commit_one(&self) {
        self.meta.commits.add_permits(1);
    }

    pub(crate) fn refuse_applies(&self, error: Option<MetaManagerError>) {
        *self.meta.refuse.lock().unwrap() = error;
    }

    pub(crate) fn submit(&self, seq: u64, upload: SubmitRequest) {
        self.meta
            .outbox
            .send_modify(|outbox| outbox.push(OutgoingItem { seq, item: Some(Item::Upload(upload)) }));
    }

    pub(crate) async fn next(&mut self) -> Met {
        soon("something at metamanager", self.met.recv()).await.unwrap()
    }

    pub(crate) async fn until(&mut self, what: &Met) {
        while self.next().await != *what {}
    }
}

type Answer<T> = Result<T, Fail<MetaManagerError>>;

fn unused<T>() -> Answer<T> {
    Err(Fail::new(MetaManagerError::Invalid, "edgehub does not call this"))
}

impl MetaManager for Meta {
    async fn apply(&self, _: &Peer, request: ApplyRequest) -> Answer<ApplyReply> {
        self.commits.acquire().await.unwrap().forget();
        if let Some(code) = *self.refuse.lock().unwrap() {
            return Err(Fail::new(code, "could not write /var/lib/x: no space left on device"));
        }
        let _ = self.met.send(Met::Applied(request.changes));
        Ok(ApplyReply { revision: 1 })
    }

    async fn outgoing(&self, _: &Peer, _: OutgoingRequest, out: Sink<OutgoingItem>) -> Answer<()> {
        let mut outbox = self.outbox.subscribe();
        let mut sent = 0;
        loop {
            let items: Vec<_> =
                outbox.borrow_and_update().iter().filter(|item| item.seq > sent).cloned().collect();
            for item in items {
                sent = item.seq;
                if out.send(item).await.is_err() {
                    return Ok(());
                }
            }
            if outbox.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn delivered(&self, _: &Peer, request: DeliveredRequest) -> Answer<DeliveredReply> {
        self.outbox.send_modify(|outbox| outbox.retain(|item| item.seq != request.seq));
        let _ = self.met.send(Met::Delivered(request));
        Ok(DeliveredReply {})
    }

    async fn set_link(&self, _: &Peer, request: SetLinkRequest) -> Answer<SetLinkReply> {
        let _ = self.met.send(Met::Link(request.connected));
        Ok(SetLinkReply {})
    }

    async fn get(&self, _: &Peer, _: GetRequest) -> Answer<GetReply> {
        unused()
    }

    async fn watch(&self, _: &Peer, _: WatchRequest, _: Sink<WatchEvent>) -> Answer<()> {
        unused()
    }

    async fn submit(&self, _: &Peer, _: SubmitRequest) -> Answer<SubmitReply> {
        unused()
    }

    async fn query(&self, _: &Peer, _: QueryRequest) -> Answer<QueryReply> {
        unused()
    }
}

/// A running edgehub and its status line.
pub(crate) struct Edge {
    status: mpsc::UnboundedReceiver<String>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Edge {
    pub(crate) fn start(settings: Settings, store: &Store, key: &EcKey) -> Self {
        let (show, status) = mpsc::unbounded_channel();
        let report = Report::new(move |text| {
            let _ = show.send(text.to_owned());
        });
        let hub = Hub::new(settings, store.client(), key_source(key), report);
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        Self { status, shutdown, task: tokio::spawn(async move { hub.run(&stop).await }) }
    }

    /// Waits for a status line that contains `text`; returns it.
    pub(crate) async fn says(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let wait = async {
            loop {
                let line = self.status.recv().await.unwrap();
                if line.contains(text) {
                    return line;
                }
                seen.push(line);
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("status never said {text:?}"))
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        soon("edgehub ends", self.task).await.unwrap();
    }
}

/// The key as keyholder would hold it.
fn key_source(key: &EcKey) -> KeySource {
    let (point, pair) = (*key.public_point(), Arc::new(key.signer().unwrap()));
    Box::new(move || {
        let pair = Arc::clone(&pair);
        let sign = move |message: &[u8]| {
            rcgen::SigningKey::sign(pair.as_ref(), message).map_err(|error| error.to_string())
        };
        Ok(NodeKey::new(&point, Arc::new(sign)).unwrap())
    })
}
