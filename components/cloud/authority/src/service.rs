//! The interface `proto/authority.proto` over a [`CertificateAuthority`].

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ipc::{Fail, Peer};
use pki::{CertificateAuthority, IssueError, NodeName, TokenError};
use proto::authority::{
    Authority, AuthorityError, CaReply, CaRequest, MintTokenReply, MintTokenRequest, SignNodeReply,
    SignNodeRequest, SignServerReply, SignServerRequest, sign_node_request::Proof,
};

/// 64 KiB: a P-256 request is under 1 KiB, an RSA one under 4.
const MAX_REQUEST: usize = 64 * 1024;

/// A year: cloudhub renews its own certificate, so it need not outlive the machine as KubeEdge's does.
const SERVER_VALIDITY: Duration = Duration::from_hours(365 * 24);

/// A year. Longer tokens would outlive the reason they were made for.
const MAX_TOKEN_TTL: Duration = Duration::from_hours(365 * 24);

/// 24 h, as KubeEdge's default (twice `tokenRefreshDuration`).
const DEFAULT_TOKEN_TTL: Duration = Duration::from_hours(24);

/// 64 names and as many addresses: a hub has a handful.
const MAX_NAMES: usize = 64;

pub(crate) struct Service {
    ca: CertificateAuthority,
    node_validity: Duration,
}

type Reply<T> = Result<T, Fail<AuthorityError>>;

impl Service {
    pub(crate) fn new(ca: CertificateAuthority, node_validity: Duration) -> Self {
        Self { ca, node_validity }
    }

    fn mint(&self, request: MintTokenRequest, now: SystemTime) -> Reply<MintTokenReply> {
        let ttl = match request.ttl_seconds {
            0 => DEFAULT_TOKEN_TTL,
            seconds => Duration::from_secs(seconds),
        };
        if ttl > MAX_TOKEN_TTL {
            return Err(invalid(format!("ttl_seconds {} is more than a year", request.ttl_seconds)));
        }
        Ok(MintTokenReply { token: self.ca.mint_token(ttl, now) })
    }

    fn sign_node(&self, request: &SignNodeRequest, now: SystemTime) -> Reply<SignNodeReply> {
        let node = NodeName::parse(&request.node_name).map_err(|error| invalid(error.to_string()))?;
        bounded(&request.csr)?;
        match &request.proof {
            Some(Proof::Token(jwt)) => {
                self.ca.verify_token(jwt, now).map_err(|error| unauthenticated(&node, &error))?;
            }
            Some(Proof::CurrentCertificate(certificate)) => {
                self.ca
                    .verify_node(certificate, &node, now)
                    .map_err(|error| unauthenticated(&node, &error))?;
            }
            None => {
                return Err(unauthenticated(
                    &node,
                    &TokenError::Malformed("neither token nor certificate given"),
                ));
            }
        }
        let certificate =
            self.ca.sign_node(&node, &request.csr, self.node_validity).map_err(|error| refused(&error))?;
        tracing::info!(%node, "signed a node certificate");
        Ok(SignNodeReply { certificate: Bytes::copy_from_slice(&certificate) })
    }

    fn sign_server(&self, request: SignServerRequest) -> Reply<SignServerReply> {
        bounded(&request.csr)?;
        if request.dns_names.len() > MAX_NAMES || request.ip_addresses.len() > MAX_NAMES {
            return Err(invalid(format!("more than {MAX_NAMES} dns_names or ip_addresses")));
        }
        let addresses: Result<Vec<IpAddr>, _> = request
            .ip_addresses
            .iter()
            .map(|text| text.parse().map_err(|_| invalid(format!("ip_addresses: {text:?} is no IP address"))))
            .collect();
        let certificate = self
            .ca
            .sign_server(&request.csr, request.dns_names, addresses?, SERVER_VALIDITY)
            .map_err(|error| refused(&error))?;
        tracing::info!("signed a server certificate");
        Ok(SignServerReply { certificate: Bytes::copy_from_slice(&certificate) })
    }
}

impl Authority for Service {
    async fn ca(&self, _: &Peer, _: CaRequest) -> Reply<CaReply> {
        Ok(CaReply { certificate: Bytes::copy_from_slice(self.ca.certificate()) })
    }

    async fn mint_token(&self, _: &Peer, request: MintTokenRequest) -> Reply<MintTokenReply> {
        self.mint(request, SystemTime::now())
    }

    async fn sign_node(&self, _: &Peer, request: SignNodeRequest) -> Reply<SignNodeReply> {
        self.sign_node(&request, SystemTime::now())
    }

    async fn sign_server(&self, _: &Peer, request: SignServerRequest) -> Reply<SignServerReply> {
        self.sign_server(request)
    }
}

fn bounded(csr: &[u8]) -> Reply<()> {
    if csr.len() > MAX_REQUEST {
        return Err(invalid(format!("csr is {} bytes, at most {MAX_REQUEST} are read", csr.len())));
    }
    Ok(())
}

fn invalid(message: String) -> Fail<AuthorityError> {
    Fail::new(AuthorityError::Invalid, message)
}

fn unauthenticated(node: &NodeName, error: &dyn std::error::Error) -> Fail<AuthorityError> {
    Fail::new(AuthorityError::Unauthenticated, format!("node {node}: {error}"))
}

/// What the request itself is to blame for, and what is ours.
fn refused(error: &IssueError) -> Fail<AuthorityError> {
    let code = match error {
        IssueError::Request(_) | IssueError::Possession | IssueError::Name(_) => AuthorityError::Invalid,
        IssueError::Untrusted(_) | IssueError::OtherNode { .. } => AuthorityError::Unauthenticated,
        IssueError::Authority(_) | IssueError::Key(_) => AuthorityError::Storage,
    };
    Fail::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pki::{CertificateInfo, EcKey, JoinToken, node_request};

    const YEAR: Duration = Duration::from_hours(365 * 24);

    fn service() -> Service {
        Service::new(CertificateAuthority::create("KubeEdge").unwrap(), YEAR)
    }

    fn csr(name: &str) -> Bytes {
        let key = EcKey::generate().unwrap().signer().unwrap();
        node_request(&NodeName::parse(name).unwrap(), &key).unwrap().into()
    }

    fn token(service: &Service) -> Proof {
        let minted = service.mint(MintTokenRequest { ttl_seconds: 0 }, SystemTime::now()).unwrap();
        Proof::Token(JoinToken::parse(&minted.token).unwrap().jwt().to_owned())
    }

    fn request(name: &str, proof: Option<Proof>) -> SignNodeRequest {
        SignNodeRequest { node_name: name.to_owned(), csr: csr(name), proof }
    }

    fn code<T>(reply: Reply<T>) -> AuthorityError {
        reply.err().expect("a refusal").code
    }

    #[test]
    fn a_join_token_gets_a_certificate_for_the_named_node_whatever_the_request_says() {
        let service = service();
        let mut asked = request("edge-1", Some(token(&service)));
        asked.csr = csr("edge-2");
        let signed = service.sign_node(&asked, SystemTime::now()).unwrap();
        assert_eq!(CertificateInfo::from_der(&signed.certificate).unwrap().common_name, "system:node:edge-1");
    }

    #[test]
    fn a_certificate_renews_itself_but_no_other_nodes() {
        let service = service();
        let now = SystemTime::now();
        let first = service.sign_node(&request("edge-1", Some(token(&service))), now).unwrap();
        let proof = || Some(Proof::CurrentCertificate(first.certificate.clone()));
        assert!(service.sign_node(&request("edge-1", proof()), now).is_ok());
        assert_eq!(
            code(service.sign_node(&request("edge-2", proof()), now)),
            AuthorityError::Unauthenticated
        );
    }

    #[test]
    fn no_proof_an_expired_and_a_foreign_token_are_unauthenticated() {
        let service = service();
        let now = SystemTime::now();
        assert_eq!(code(service.sign_node(&request("edge-1", None), now)), AuthorityError::Unauthenticated);
        let old = request("edge-1", Some(token(&service)));
        assert_eq!(
            code(service.sign_node(&old, now + 2 * DEFAULT_TOKEN_TTL)),
            AuthorityError::Unauthenticated
        );
        let foreign = request("edge-1", Some(token(&self::service())));
        assert_eq!(code(service.sign_node(&foreign, now)), AuthorityError::Unauthenticated);
    }

    #[test]
    fn bad_names_and_requests_are_invalid() {
        let service = service();
        let now = SystemTime::now();
        let mut asked = request("edge-1", Some(token(&service)));
        asked.node_name = "../edge".to_owned();
        assert_eq!(code(service.sign_node(&asked, now)), AuthorityError::Invalid);
        let mut asked = request("edge-1", Some(token(&service)));
        asked.csr = Bytes::from_static(b"noise");
        assert_eq!(code(service.sign_node(&asked, now)), AuthorityError::Invalid);
        asked.csr = vec![0; MAX_REQUEST + 1].into();
        assert_eq!(code(service.sign_node(&asked, now)), AuthorityError::Invalid);
    }

    #[test]
    fn a_server_certificate_carries_the_given_names_and_bad_ones_are_refused() {
        let service = service();
        let ask = |dns: &str, ip: &str| {
            service.sign_server(SignServerRequest {
                csr: csr("hub"),
                dns_names: vec![dns.to_owned()],
                ip_addresses: vec![ip.to_owned()],
            })
        };
        let info = CertificateInfo::from_der(&ask("hub.test", "10.0.0.1").unwrap().certificate).unwrap();
        assert_eq!(info.dns_names, ["hub.test"]);
        assert_eq!(info.ip_addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(code(ask("", "10.0.0.1")), AuthorityError::Invalid);
        assert_eq!(code(ask("hub.test", "ten")), AuthorityError::Invalid);
    }

    #[test]
    fn tokens_longer_than_a_year_are_refused() {
        let refused = service().mint(MintTokenRequest { ttl_seconds: u64::MAX }, SystemTime::now());
        assert_eq!(code(refused), AuthorityError::Invalid);
    }
}
