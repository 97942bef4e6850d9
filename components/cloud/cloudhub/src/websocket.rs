//! The message port: TLS, the node's name, the WebSocket upgrade, then a session.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use pki::{CertificateInfo, NodeName};
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::Hub;
use crate::listener::{HANDSHAKE, Incoming};
use crate::registry::{Place, Registry};
use crate::session;
use crate::throttle::peer_warning;

/// 4 MiB less what the bus adds: the largest object of an API server is 1.5 MiB.
const MAX_MESSAGE: usize = 4 * 1024 * 1024 - 64 * 1024;

/// 4 KiB: with thousands of sessions, buffers are what a session costs.
const BUFFER: usize = 4 * 1024;

/// One connection.
pub(crate) async fn serve(incoming: Incoming, hub: Arc<Hub>) {
    let Incoming { stream, peer, acceptors, permit } = incoming;
    let handshake = async {
        let stream = acceptors
            .required
            .accept(stream)
            .await
            .map_err(|error| format!("TLS handshake failed: {error}"))?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let node = certificate.and_then(|certificate| node_of(certificate));
        let node = node.ok_or_else(|| {
            "the certificate is no node's (O=system:nodes, CN=system:node:<name>)".to_owned()
        })?;
        let mut admission = Admission { hub: &hub.registry, node: &node, result: Err(String::new()) };
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let upgraded =
            tokio_tungstenite::accept_hdr_async_with_config(stream, &mut admission, Some(config)).await;
        match (admission.result, upgraded) {
            (Ok(place), Ok(socket)) => Ok((place, socket)),
            (Err(refusal), Err(_)) if !refusal.is_empty() => Err(format!("node {node}: {refusal}")),
            (_, Err(error)) => Err(format!("node {node}: no WebSocket upgrade: {error}")),
            (Err(refusal), Ok(_)) => Err(format!("node {node}: {refusal}")),
        }
    };
    let (place, socket) = match tokio::time::timeout(HANDSHAKE, Box::pin(handshake)).await {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(reason)) => return peer_warning!(%peer, "refused a connection: {reason}"),
        Err(_) => return peer_warning!(%peer, "refused a connection: no handshake in 10 s"),
    };
    drop(permit);
    drop(acceptors);
    run_session(place, socket, peer, hub).await;
}

async fn run_session(place: Place, socket: session::Socket, peer: SocketAddr, hub: Arc<Hub>) {
    let node = place.node().clone();
    tracing::info!(%node, %peer, "edge connected");
    let end = session::run(&place, socket, &hub).await;
    match end {
        session::End::Closed | session::End::Shutdown => {
            tracing::info!(%node, %peer, "edge disconnected: {end}");
        }
        _ => peer_warning!(%node, %peer, "edge disconnected: {end}"),
    }
}

/// The node a verified certificate belongs to.
fn node_of(certificate: &[u8]) -> Option<NodeName> {
    let info = CertificateInfo::from_der(certificate)?;
    if info.organization == "system:nodes" { NodeName::from_common_name(&info.common_name) } else { None }
}

/// Decides over the upgrade request; any path is accepted, as by KubeEdge.
struct Admission<'a> {
    hub: &'a Registry,
    node: &'a NodeName,
    result: Result<Place, String>,
}

impl Callback for &mut Admission<'_> {
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        let (status, refusal) = match check_headers(request.headers(), self.node) {
            Ok(()) => match self.hub.enter(self.node) {
                Ok(place) => {
                    self.result = Ok(place);
                    return Ok(response);
                }
                Err(full) => (StatusCode::SERVICE_UNAVAILABLE, full.to_string()),
            },
            Err(mismatch) => (StatusCode::FORBIDDEN, mismatch),
        };
        let mut response = ErrorResponse::new(Some(refusal.clone()));
        *response.status_mut() = status;
        self.result = Err(refusal);
        Err(response)
    }
}

/// The name in the header must be the one in the certificate. `Connectionuse` and `Project_id` say nothing we need.
fn check_headers(headers: &HeaderMap, node: &NodeName) -> Result<(), String> {
    match headers.get("node_id").map(|value| value.to_str()) {
        Some(Ok(claimed)) if claimed == node.as_str() => Ok(()),
        Some(Ok(claimed)) => Err(format!("node_id is {:?}", claimed.chars().take(64).collect::<String>())),
        Some(Err(_)) => Err("node_id is not text".to_owned()),
        None => Err("no node_id header".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([("node_id".parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn the_header_must_name_the_certificates_node() {
        let node = NodeName::parse("edge-1").unwrap();
        assert!(check_headers(&headers("edge-1"), &node).is_ok());
        assert_eq!(check_headers(&headers("edge-2"), &node).unwrap_err(), "node_id is \"edge-2\"");
        assert_eq!(check_headers(&HeaderMap::new(), &node).unwrap_err(), "no node_id header");
    }
}
