//! The certificate API on port 10002, as KubeEdge's edges use it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming as RequestBody;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipc::CallError;
use pki::NodeName;
use proto::authority::{AuthorityError, SignNodeRequest, sign_node_request::Proof};
use proto::controllers::UpstreamRequest;
use wire::{Content, Operation, ResourcePath, WireMessage, kind};

use crate::Hub;
use crate::listener::{HANDSHAKE, Incoming};
use crate::throttle::peer_warning;

/// 64 KiB: a certificate request is under 4.
const MAX_BODY: usize = 64 * 1024;

/// 16 KiB of request line and headers: a token is 200 bytes.
const MAX_HEADERS: usize = 16 * 1024;

/// 60 s for a whole connection: an edge asks twice and leaves.
const CONNECTION: Duration = Duration::from_mins(1);

/// What is known of the caller.
struct Caller {
    peer: SocketAddr,
    /// The certificate TLS has verified.
    certificate: Option<Bytes>,
    ca: Bytes,
}

/// One connection.
pub(crate) async fn serve(incoming: Incoming, hub: Arc<Hub>) {
    let Incoming { stream, peer, acceptors, permit } = incoming;
    let stream = match tokio::time::timeout(HANDSHAKE, acceptors.optional.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return peer_warning!(%peer, "certificate API: TLS handshake failed: {error}"),
        Err(_) => return peer_warning!(%peer, "certificate API: no TLS handshake in 10 s"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = certificate.map(|certificate| Bytes::copy_from_slice(certificate));
    let caller = Arc::new(Caller { peer, certificate, ca: acceptors.ca });
    let service = service_fn(|request| {
        let (hub, caller) = (hub.clone(), caller.clone());
        async move { Ok::<_, Infallible>(answer(&hub, &caller, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE)
        .max_buf_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    // A connection that ends early or late harms nobody: every request was answered or not begun.
    let _ = tokio::time::timeout(CONNECTION, connection).await;
    drop(permit);
}

async fn answer(hub: &Hub, caller: &Caller, request: Request<RequestBody>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here");
    }
    match path.as_str() {
        "/ca.crt" => Response::new(Full::new(caller.ca.clone())),
        "/edge.crt" => edge_certificate(hub, caller, request).await,
        path => match path.strip_prefix("/node/").map(NodeName::parse) {
            Some(Ok(node)) => node_exists(hub, &node).await,
            Some(Err(error)) => text(StatusCode::BAD_REQUEST, &error.to_string()),
            None => text(StatusCode::NOT_FOUND, "no such path"),
        },
    }
}

/// Signs the request in the body for the node in the header, on the word of a join token or of the node's certificate.
async fn edge_certificate(
    hub: &Hub,
    caller: &Caller,
    request: Request<RequestBody>,
) -> Response<Full<Bytes>> {
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let node = header("NodeName").unwrap_or_default();
    let token = header(AUTHORIZATION.as_str())
        .and_then(|value| value.strip_prefix("Bearer ").or(value.strip_prefix("bearer ")).map(str::to_owned));
    let proof = match (token, &caller.certificate) {
        (Some(token), _) => Proof::Token(token),
        (None, Some(certificate)) => Proof::CurrentCertificate(certificate.clone()),
        (None, None) => {
            return refused(
                caller,
                &node,
                StatusCode::UNAUTHORIZED,
                "neither token nor client certificate given",
            );
        }
    };
    let body = Limited::new(request.into_body(), MAX_BODY);
    let csr = match tokio::time::timeout(HANDSHAKE, body.collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => {
            return refused(caller, &node, StatusCode::PAYLOAD_TOO_LARGE, &format!("request body: {error}"));
        }
        Err(_) => return refused(caller, &node, StatusCode::REQUEST_TIMEOUT, "no request body in 10 s"),
    };
    match hub.authority.sign_node(SignNodeRequest { node_name: node.clone(), csr, proof: Some(proof) }).await
    {
        Ok(reply) => {
            tracing::info!(node, peer = %caller.peer, "gave a node its certificate");
            Response::new(Full::new(reply.certificate))
        }
        Err(CallError::Failed { code: AuthorityError::Unauthenticated, message }) => {
            refused(caller, &node, StatusCode::UNAUTHORIZED, &message)
        }
        Err(CallError::Failed { code: AuthorityError::Invalid, message }) => {
            refused(caller, &node, StatusCode::BAD_REQUEST, &message)
        }
        Err(error) => {
            tracing::error!(node, "could not sign a node certificate: {error}");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the certificate could not be signed; see the hub's log")
        }
    }
}

/// What `keadm join` asks to learn whether a name is taken. As in KubeEdge anybody may ask.
async fn node_exists(hub: &Hub, node: &NodeName) -> Response<Full<Bytes>> {
    let internal = |reason: &dyn std::fmt::Display| {
        tracing::warn!(%node, "could not look a node up: {reason}");
        text(StatusCode::INTERNAL_SERVER_ERROR, "the node could not be looked up")
    };
    let path = match ResourcePath::object("", kind::NODE, node.as_str()) {
        Ok(path) => path.to_string(),
        Err(error) => return internal(&error),
    };
    let query = WireMessage::new("cloudhub", "meta", Operation::Query, path, Content::null());
    let request = UpstreamRequest { node: node.as_str().to_owned(), message: Bytes::from(query.encode()) };
    let answer = match hub.controllers.upstream(request).await {
        Ok(reply) => WireMessage::decode(&reply.answer.unwrap_or_default()),
        Err(error) => return internal(&error),
    };
    match answer.and_then(|answer| answer.content.error_status()) {
        Ok(None) => text(StatusCode::OK, "Node founded"),
        Ok(Some(status)) if status.code == 404 => text(StatusCode::NOT_FOUND, "Node not found"),
        Ok(Some(status)) => internal(&status.message),
        Err(error) => internal(&error),
    }
}

fn refused(caller: &Caller, node: &str, status: StatusCode, reason: &str) -> Response<Full<Bytes>> {
    let node: String = node.chars().take(64).collect();
    peer_warning!(peer = %caller.peer, node, %status, "refused a certificate: {reason}");
    text(status, reason)
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}
