//! The hub's own certificate: its key never leaves its state directory, the certificate comes from authority and is renewed
//! when an edge could dial a name or address it lacks, or when a third of its life is left.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use bytes::Bytes;
use componentconfig::cloudcore::CloudHub;
use pki::{CertificateInfo, ClientCertificates, EcKey, NodeName, read_bounded, write_durable};
use proto::authority::{AuthorityClient, CaRequest, SignServerRequest};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

const KEY: &str = "server.key";
const CERTIFICATE: &str = "server.crt";

/// 64 KiB: key and certificate are under 2 KiB each.
const LIMIT: u64 = 64 * 1024;

/// 10 minutes: an address the machine gets is usable for edges soon after.
const LOOK: Duration = Duration::from_mins(10);

/// 5 minutes, during which authority may start or restart; the bus repeats the call.
const PATIENCE: Duration = Duration::from_mins(5);

/// TLS for both ports; replaced as a whole when the certificate is.
#[derive(Clone)]
pub(crate) struct Acceptors {
    /// Every client has a certificate of our CA.
    pub(crate) required: TlsAcceptor,
    /// A client may have one; one it has is of our CA.
    pub(crate) optional: TlsAcceptor,
    /// The CA, DER.
    pub(crate) ca: Bytes,
}

/// Names and addresses an edge may dial.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    dns: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl Names {
    /// What the configuration says, and what every machine has.
    pub(crate) fn wanted(config: &CloudHub) -> Self {
        let mut dns: BTreeSet<String> =
            config.dns_names.iter().filter(|name| !name.is_empty()).cloned().collect();
        dns.insert("localhost".to_owned());
        // KubeEdge's default configuration has one address or none; a wrong one was refused when it was loaded.
        let mut addresses: BTreeSet<IpAddr> =
            config.advertise_address.iter().filter_map(|a| a.parse().ok()).collect();
        addresses.insert(IpAddr::from([127, 0, 0, 1]));
        Self { dns, addresses }
    }

    /// With what this machine is called and reachable at now.
    fn with_machine(mut self) -> Self {
        if let Some(host) = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()) {
            let host = host.to_ascii_lowercase();
            // The same alphabet as a node's name: what else a host may be called cannot stand in a certificate.
            if NodeName::parse(&host).is_ok() {
                self.dns.insert(host);
            }
        }
        let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
        self.addresses.extend(interfaces.filter_map(|interface| {
            let address = interface.address?;
            let address = address
                .as_sockaddr_in()
                .map(|v4| IpAddr::from(v4.ip()))
                .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))?;
            is_dialable(&address).then_some(address)
        }));
        self
    }

    fn covered_by(&self, certificate: &CertificateInfo) -> bool {
        self.dns.iter().all(|name| certificate.dns_names.contains(name))
            && self.addresses.iter().all(|address| certificate.ip_addresses.contains(address))
    }
}

/// Link-local addresses come and go with every interface and mean nothing on another machine.
fn is_dialable(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_unspecified() && !v6.is_loopback(),
    }
}

/// Whether a certificate serves on: of this key, for these names, with more than a third of its life left.
fn is_good(certificate: &CertificateInfo, key: &EcKey, names: &Names, now: SystemTime) -> bool {
    let life = certificate.not_after.duration_since(certificate.not_before).unwrap_or_default();
    certificate.public_key == key.public_point()
        && names.covered_by(certificate)
        && certificate.not_after.duration_since(now).is_ok_and(|left| left > life / 3)
}

/// Gets a certificate, and renews it from then on.
pub(crate) async fn keep(
    authority: AuthorityClient,
    directory: PathBuf,
    names: Names,
) -> anyhow::Result<watch::Receiver<Acceptors>> {
    let key = load_key(&directory)?;
    let first = obtain(&authority, &directory, &key, &names).await?;
    let (sender, acceptors) = watch::channel(first.acceptors);
    let mut in_use = first.certificate;
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK).await;
            match obtain(&authority, &directory, &key, &names).await {
                Ok(next) if next.certificate == in_use => {}
                Ok(next) => {
                    in_use = next.certificate;
                    sender.send_replace(next.acceptors);
                }
                Err(error) => tracing::warn!("could not renew the hub's certificate: {error:#}"),
            }
        }
    });
    Ok(acceptors)
}

struct Obtained {
    certificate: CertificateDer<'static>,
    acceptors: Acceptors,
}

/// The certificate on disk while it is good, else a new one.
async fn obtain(
    authority: &AuthorityClient,
    directory: &Path,
    key: &EcKey,
    names: &Names,
) -> anyhow::Result<Obtained> {
    let ca = authority.ca_with_deadline(CaRequest {}, PATIENCE).await.context("authority")?;
    let ca = CertificateDer::from(ca.certificate.to_vec());
    let names = names.clone().with_machine();
    let path = directory.join(CERTIFICATE);
    let stored =
        read_bounded(&path, LIMIT)?.and_then(|pem| pki::pem_certificates(&pem)).and_then(|mut all| all.pop());
    let good = |certificate: &CertificateDer<'static>| {
        CertificateInfo::from_der(certificate)
            .is_some_and(|info| is_good(&info, key, &names, SystemTime::now()))
            && pki::issued_by(certificate, &ca)
    };
    let certificate = if let Some(certificate) = stored.filter(good) {
        certificate
    } else {
        let request = pki::node_request(&NodeName::parse("cloudhub")?, &key.signer()?)?;
        let request = SignServerRequest {
            csr: Bytes::from(request),
            dns_names: names.dns.iter().cloned().collect(),
            ip_addresses: names.addresses.iter().map(ToString::to_string).collect(),
        };
        let signed = authority.sign_server_with_deadline(request, PATIENCE).await.context("authority")?;
        let certificate = CertificateDer::from(signed.certificate.to_vec());
        write_durable(&path, 0o644, pki::to_pem("CERTIFICATE", &certificate).as_bytes())
            .with_context(|| format!("could not write {}", path.display()))?;
        tracing::info!(dns = ?names.dns, addresses = ?names.addresses, "got a new hub certificate");
        certificate
    };
    let acceptor = |clients| -> anyhow::Result<TlsAcceptor> {
        let config = pki::server_config(vec![certificate.clone()], key.private_key(), clients)?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    };
    let acceptors = Acceptors {
        required: acceptor(ClientCertificates::Required(ca.clone()))?,
        optional: acceptor(ClientCertificates::Optional(ca.clone()))?,
        ca: Bytes::copy_from_slice(&ca),
    };
    Ok(Obtained { certificate, acceptors })
}

fn load_key(directory: &Path) -> anyhow::Result<EcKey> {
    let path = directory.join(KEY);
    if let Some(pem) = read_bounded(&path, LIMIT)? {
        return EcKey::from_pem(&pem).with_context(|| format!("could not use {}", path.display()));
    }
    let key = EcKey::generate()?;
    write_durable(&path, 0o600, key.to_pem().as_bytes())
        .with_context(|| format!("could not write {}", path.display()))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pki::CertificateAuthority;

    const YEAR: Duration = Duration::from_hours(365 * 24);

    fn names(dns: &str) -> Names {
        Names { dns: [dns.to_owned()].into(), addresses: [IpAddr::from([10, 0, 0, 1])].into() }
    }

    fn certificate(key: &EcKey, names: &Names) -> CertificateInfo {
        let ca = CertificateAuthority::create("KubeEdge").unwrap();
        let request = pki::node_request(&NodeName::parse("hub").unwrap(), &key.signer().unwrap()).unwrap();
        let signed = ca.sign_server(
            &request,
            names.dns.iter().cloned().collect(),
            names.addresses.iter().copied().collect(),
            YEAR,
        );
        CertificateInfo::from_der(&signed.unwrap()).unwrap()
    }

    #[test]
    fn a_certificate_serves_until_a_name_is_missing_or_its_life_runs_out() {
        let key = EcKey::generate().unwrap();
        let (names, now) = (names("hub.test"), SystemTime::now());
        let certificate = certificate(&key, &names);
        assert!(is_good(&certificate, &key, &names, now));
        assert!(is_good(&certificate, &key, &names, now + YEAR / 2));
        assert!(!is_good(&certificate, &key, &names, now + YEAR * 3 / 4));
        assert!(!is_good(&certificate, &key, &names, now + YEAR * 2));
        assert!(!is_good(&certificate, &key, &self::names("other.test"), now));
        assert!(!is_good(&certificate, &EcKey::generate().unwrap(), &names, now));
    }

    #[test]
    fn fewer_names_than_the_certificate_has_are_covered() {
        let key = EcKey::generate().unwrap();
        let certificate = certificate(&key, &names("hub.test"));
        let fewer = Names { dns: BTreeSet::new(), ..names("hub.test") };
        assert!(is_good(&certificate, &key, &fewer, SystemTime::now()));
    }

    #[test]
    fn kubeedges_empty_dns_name_is_left_out() {
        let config = CloudHub { dns_names: vec![String::new()], ..CloudHub::default() };
        let wanted = Names::wanted(&config);
        assert_eq!(wanted.dns, ["localhost".to_owned()].into());
    }

    #[test]
    fn link_local_addresses_are_not_dialable() {
        for address in ["169.254.1.1", "fe80::1", "::1", "0.0.0.0"] {
            assert!(!is_dialable(&address.parse().unwrap()), "{address}");
        }
        assert!(is_dialable(&"10.0.0.1".parse().unwrap()) && is_dialable(&"2001:db8::1".parse().unwrap()));
    }
}
