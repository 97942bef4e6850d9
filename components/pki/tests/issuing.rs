//! The CA against real requests and real TLS connections.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pki::{
    CertificateAuthority, CertificateInfo, ClientCertificates, EcKey, IssueError, LeafProfile, NodeName,
    Usage, node_request,
};
use rustls::client::ResolvesClientCert;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const YEAR: Duration = Duration::from_hours(365 * 24);

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn request(name: &str, key: &EcKey) -> Vec<u8> {
    node_request(&node(name), &key.signer().unwrap()).unwrap()
}

#[test]
fn a_node_certificate_says_what_was_authenticated_not_what_was_requested() {
    let ca = CertificateAuthority::create("KubeEdge").unwrap();
    let key = EcKey::generate().unwrap();
    let certificate = ca.sign_node(&node("edge-1"), &request("edge-2", &key), YEAR).unwrap();
    let info = CertificateInfo::from_der(&certificate).unwrap();
    assert_eq!(info.common_name, "system:node:edge-1");
    assert_eq!(info.organization, "system:nodes");
    assert_eq!(info.public_key, key.public_point());
    assert!(info.dns_names.is_empty() && info.ip_addresses.is_empty());
    let life = info.not_after.duration_since(info.not_before).unwrap();
    assert!(life >= YEAR && life < YEAR + Duration::from_hours(1));
}

#[test]
fn a_request_signed_by_another_key_is_refused() {
    let ca = CertificateAuthority::create("KubeEdge").unwrap();
    let (a, b) = (EcKey::generate().unwrap(), EcKey::generate().unwrap());
    let mut swapped = request("edge-1", &a);
    let at = swapped.windows(65).position(|w| w == a.public_point()).unwrap();
    swapped[at..at + 65].copy_from_slice(b.public_point());
    assert!(matches!(ca.sign_node(&node("edge-1"), &swapped, YEAR), Err(IssueError::Possession)));
}

#[test]
fn noise_and_truncated_requests_are_malformed() {
    let ca = CertificateAuthority::create("KubeEdge").unwrap();
    let mut longer = request("edge-1", &EcKey::generate().unwrap());
    longer.push(0);
    for bytes in [b"".as_slice(), b"hello", &longer[..40], &longer] {
        assert!(matches!(ca.sign_node(&node("edge-1"), bytes, YEAR), Err(IssueError::Request(_))));
    }
}

#[test]
fn a_ca_read_back_from_its_files_is_the_same_ca() {
    let ca = CertificateAuthority::create("KubeEdge").unwrap();
    let read =
        CertificateAuthority::from_pem(ca.certificate_pem().as_bytes(), ca.key_pem().as_bytes()).unwrap();
    let certificate =
        read.sign_node(&node("edge-1"), &request("edge-1", &EcKey::generate().unwrap()), YEAR).unwrap();
    ca.verify_node(&certificate, &node("edge-1"), SystemTime::now()).unwrap();
    let token = ca.mint_token(YEAR, SystemTime::now());
    let token = pki::JoinToken::parse(&token).unwrap();
    assert!(token.matches(read.certificate()));
    read.verify_token(token.jwt(), SystemTime::now()).unwrap();
}

#[test]
fn files_of_two_cas_do_not_make_one() {
    let (a, b) = (
        CertificateAuthority::create("KubeEdge").unwrap(),
        CertificateAuthority::create("KubeEdge").unwrap(),
    );
    let mixed = CertificateAuthority::from_pem(a.certificate_pem().as_bytes(), b.key_pem().as_bytes());
    assert!(matches!(mixed, Err(IssueError::Authority(_))));
}

#[test]
fn only_the_nodes_own_certificate_of_this_ca_in_its_time_vouches_for_it() {
    let ca = CertificateAuthority::create("KubeEdge").unwrap();
    let other = CertificateAuthority::create("KubeEdge").unwrap();
    let request = request("edge-1", &EcKey::generate().unwrap());
    let own = ca.sign_node(&node("edge-1"), &request, YEAR).unwrap();
    let now = SystemTime::now();
    ca.verify_node(&own, &node("edge-1"), now).unwrap();
    assert!(matches!(ca.verify_node(&own, &node("edge-2"), now), Err(IssueError::OtherNode { .. })));
    assert!(matches!(ca.verify_node(&own, &node("edge-1"), now + 2 * YEAR), Err(IssueError::Untrusted(_))));
    let foreign = other.sign_node(&node("edge-1"), &request, YEAR).unwrap();
    assert!(matches!(ca.verify_node(&foreign, &node("edge-1"), now), Err(IssueError::Untrusted(_))));
    let server = ca
        .sign(
            &request,
            &LeafProfile {
                organization: "system:nodes".to_owned(),
                common_name: "system:node:edge-1".to_owned(),
                usage: Usage::Server,
                dns_names: vec![],
                ip_addresses: vec![],
                validity: YEAR,
            },
        )
        .unwrap();
    assert!(matches!(ca.verify_node(&server, &node("edge-1"), now), Err(IssueError::Untrusted(_))));
}

#[test]
fn names_that_are_no_dns_names_are_refused() {
    let ca = CertificateAuthority::create("KubeEdge").unwrap();
    let request = request("hub", &EcKey::generate().unwrap());
    for name in ["", "a b", "é", "a/b"] {
        let refused = ca.sign_server(&request, vec![name.to_owned()], vec![], YEAR);
        assert!(matches!(refused, Err(IssueError::Name(_))), "{name:?}");
    }
}

#[test]
fn a_certificate_tells_which_ca_issued_it() {
    let (ca, other) = (
        CertificateAuthority::create("KubeEdge").unwrap(),
        CertificateAuthority::create("KubeEdge").unwrap(),
    );
    let certificate =
        ca.sign_node(&node("edge-1"), &request("edge-1", &EcKey::generate().unwrap()), YEAR).unwrap();
    assert!(pki::issued_by(&certificate, ca.certificate()));
    assert!(!pki::issued_by(&certificate, other.certificate()));
    assert!(!pki::issued_by(b"noise", ca.certificate()));
}

#[derive(Debug)]
struct Identity(Arc<rustls::sign::CertifiedKey>);

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

fn identity(certificate: CertificateDer<'static>, key: &EcKey) -> Arc<dyn ResolvesClientCert> {
    let key = rustls::crypto::ring::sign::any_ecdsa_type(&key.private_key()).unwrap();
    Arc::new(Identity(Arc::new(rustls::sign::CertifiedKey::new(vec![certificate], key))))
}

/// Both ends of one handshake; what the server and the client made of it.
async fn handshake(
    server: rustls::ServerConfig,
    client: rustls::ClientConfig,
    name: &'static str,
) -> (std::io::Result<Option<CertificateDer<'static>>>, std::io::Result<()>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (a, b) = tokio::io::duplex(16 * 1024);
    let server = async {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(a).await?;
        stream.write_all(b"x").await?;
        stream.flush().await?;
        Ok(stream.get_ref().1.peer_certificates().map(|c| c[0].clone().into_owned()))
    };
    let client = async {
        let name = ServerName::try_from(name).unwrap();
        let mut stream = TlsConnector::from(Arc::new(client)).connect(name, b).await?;
        // In TLS 1.3 a client learns only from the first read that its certificate was refused.
        stream.read_u8().await.map(|_| ())
    };
    tokio::join!(server, client)
}

struct Side {
    ca: CertificateAuthority,
    server: EcKey,
    server_certificate: CertificateDer<'static>,
}

fn hub() -> Side {
    let ca = CertificateAuthority::create("KubeEdge").unwrap();
    let server = EcKey::generate().unwrap();
    let server_certificate = ca
        .sign_server(
            &request("hub", &server),
            vec!["hub.test".into()],
            vec!["127.0.0.1".parse().unwrap()],
            YEAR,
        )
        .unwrap();
    Side { ca, server, server_certificate }
}

impl Side {
    fn config(&self, clients: ClientCertificates) -> rustls::ServerConfig {
        pki::server_config(vec![self.server_certificate.clone()], self.server.private_key(), clients).unwrap()
    }
    fn node(&self, name: &str) -> Arc<dyn ResolvesClientCert> {
        let key = EcKey::generate().unwrap();
        identity(self.ca.sign_node(&node(name), &request(name, &key), YEAR).unwrap(), &key)
    }
}

#[tokio::test]
async fn a_node_reaches_the_hub_by_name_and_by_address() {
    let hub = hub();
    for name in ["hub.test", "127.0.0.1"] {
        let client = pki::client_config(hub.ca.certificate(), Some(hub.node("edge-1"))).unwrap();
        let server = hub.config(ClientCertificates::Required(hub.ca.certificate().clone()));
        let (server, client) = handshake(server, client, name).await;
        client.unwrap();
        let info = CertificateInfo::from_der(&server.unwrap().unwrap()).unwrap();
        assert_eq!(info.common_name, "system:node:edge-1");
    }
}

#[tokio::test]
async fn a_hub_of_another_ca_is_not_trusted() {
    let (mine, other) = (hub(), hub());
    let client = pki::client_config(mine.ca.certificate(), None).unwrap();
    let (_, client) = handshake(other.config(ClientCertificates::NotAsked), client, "hub.test").await;
    assert!(client.unwrap_err().to_string().contains("certificate"), "names the certificate");
}

#[tokio::test]
async fn without_a_certificate_only_the_optional_port_answers() {
    let hub = hub();
    let ca = hub.ca.certificate().clone();
    let client = || pki::client_config(&ca, None).unwrap();
    let (server, _) =
        handshake(hub.config(ClientCertificates::Required(ca.clone())), client(), "hub.test").await;
    assert!(server.is_err());
    let (server, _) =
        handshake(hub.config(ClientCertificates::Optional(ca.clone())), client(), "hub.test").await;
    assert!(server.unwrap().is_none());
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_even_where_none_is_needed() {
    let (mine, other) = (hub(), hub());
    let client = pki::client_config(mine.ca.certificate(), Some(other.node("edge-1"))).unwrap();
    let server = mine.config(ClientCertificates::Optional(mine.ca.certificate().clone()));
    let (server, client) = handshake(server, client, "hub.test").await;
    assert!(server.is_err() && client.is_err());
}

#[tokio::test]
async fn fetching_the_ca_needs_no_trust() {
    let hub = hub();
    let client = pki::client_config_unverified().unwrap();
    let (_, client) = handshake(hub.config(ClientCertificates::NotAsked), client, "any.test").await;
    client.unwrap();
}
