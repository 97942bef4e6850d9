//! The API's own certificates, and the kubeconfigs that carry clients' ones. The CA and the clients' certificates last
//! in the state directory; the serving certificate is made anew at every start, in memory only.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::unistd::Group;
use pki::{CertificateAuthority, CertificateInfo, ClientCertificates, EcKey, IssueError, LeafProfile, Usage};
use rustls::ServerConfig;
use serde_json::{Value, json};

use crate::auth::{ADMINISTRATORS, CONTROLLERS};

/// 1 year, as kubeadm's; renewed at a start in the second half of it.
const CLIENT_VALIDITY: Duration = Duration::from_hours(365 * 24);
/// 5 years: longer than a process runs, and gone with it.
const SERVER_VALIDITY: Duration = Duration::from_hours(5 * 365 * 24);
/// 64 KiB: our files are a few KiB.
const FILE_LIMIT: u64 = 64 * 1024;
/// The group of those who may use the controllers' kubeconfig.
const CONTROLLERS_GROUP: &str = "cloud-kube";

/// Reads the CA from the state directory, or makes it there.
pub(crate) fn authority(state: &Path) -> anyhow::Result<CertificateAuthority> {
    let (certificate, key) = (state.join("ca.crt"), state.join("ca.key"));
    if let (Some(certificate), Some(key)) = (read(&certificate)?, read(&key)?) {
        return CertificateAuthority::from_pem(&certificate, &key)
            .with_context(|| format!("could not use the API's CA in {}", state.display()));
    }
    let authority = CertificateAuthority::create("apiary-apiserver")?;
    // The key first: a certificate without its key would be taken for a damaged CA.
    write(&key, 0o600, authority.key_pem().as_bytes())?;
    write(&certificate, 0o644, authority.certificate_pem().as_bytes())?;
    Ok(authority)
}

fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    pki::read_bounded(path, FILE_LIMIT).with_context(|| format!("could not read {}", path.display()))
}

fn write(path: &Path, mode: u32, bytes: &[u8]) -> anyhow::Result<()> {
    pki::write_durable(path, mode, bytes).with_context(|| format!("could not write {}", path.display()))
}

/// TLS for the listener: a fresh certificate for every name the API is reached by; client certificates of our CA.
pub(crate) fn tls(
    authority: &CertificateAuthority,
    address: IpAddr,
    names: &[String],
) -> anyhow::Result<ServerConfig> {
    let key = EcKey::generate()?;
    let mut dns_names = vec![
        "localhost".to_owned(),
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        "kubernetes.default.svc.cluster.local".to_owned(),
    ];
    let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
    if !address.is_unspecified() {
        addresses.push(address);
    }
    for name in names {
        match name.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => dns_names.push(name.clone()),
        }
    }
    // A host name is whatever somebody once typed; one that cannot stand in a certificate is left out.
    dns_names.extend(host_name().filter(|name| crate::names::dns_subdomain(name).is_ok()));
    addresses.dedup();
    dns_names.dedup();
    let issued = authority.issue(
        &key.signer()?,
        &LeafProfile {
            organization: "apiary".to_owned(),
            common_name: "apiserver".to_owned(),
            usage: Usage::Server,
            dns_names,
            ip_addresses: addresses,
            validity: SERVER_VALIDITY,
        },
    );
    let certificate = issued.map_err(|error| match error {
        // Only the configuration brings names that were not checked here.
        IssueError::Name(_) => lifecycle::ConfigError::new(error).into(),
        other => anyhow::Error::from(other),
    })?;
    let clients = ClientCertificates::Optional(authority.certificate().clone());
    let mut config = pki::server_config(vec![certificate], key.private_key(), clients)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn host_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok().map(|name| name.to_ascii_lowercase())
}

/// Where kubeconfigs go.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    pub(crate) state: &'a Path,
    pub(crate) runtime: &'a Path,
    /// A second copy of the administrator's.
    pub(crate) copy: Option<&'a Path>,
}

/// Writes `admin.kubeconfig` and `controllers.kubeconfig`. Certificates are kept while they are good.
pub(crate) fn kubeconfigs(
    authority: &CertificateAuthority,
    server: &str,
    places: &Places<'_>,
) -> anyhow::Result<()> {
    let admin = client(authority, places.state, "admin", "kubernetes-admin", ADMINISTRATORS)?
        .kubeconfig(authority, server);
    write(&places.state.join("admin.kubeconfig"), 0o600, admin.as_bytes())?;
    if let Some(copy) = places.copy
        && let Err(error) = write(&copy.join("admin.kubeconfig"), 0o600, admin.as_bytes())
    {
        // A convenience: the first copy is enough to serve.
        tracing::warn!(error = format!("{error:#}"), "no copy of the administrator's kubeconfig");
    }
    let controllers = client(authority, places.state, "controllers", CONTROLLERS, CONTROLLERS)?
        .kubeconfig(authority, server);
    publish(&places.runtime.join("controllers.kubeconfig"), controllers.as_bytes())
}

/// Puts the file in place with its group and mode already right: its reader waits for the name to appear.
fn publish(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let temporary = path.with_extension("kubeconfig.new");
    write(&temporary, 0o600, bytes)?;
    if let Ok(Some(group)) = Group::from_name(CONTROLLERS_GROUP) {
        if let Err(error) = chown(&temporary, None, Some(group.gid.as_raw())) {
            tracing::warn!(%error, group = CONTROLLERS_GROUP, "could not give the controllers' kubeconfig to its group");
        }
    } else {
        tracing::info!(
            group = CONTROLLERS_GROUP,
            "no such group: only this user can read the controllers' kubeconfig"
        );
    }
    let failed = || format!("could not write {}", path.display());
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o640)).with_context(failed)?;
    std::fs::rename(&temporary, path).with_context(failed)
}

struct Client {
    name: &'static str,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// The client's certificate and key from the state directory; new ones when they are missing, of another CA, or past
/// half their life.
fn client(
    authority: &CertificateAuthority,
    state: &Path,
    name: &'static str,
    common_name: &str,
    group: &str,
) -> anyhow::Result<Client> {
    let paths: [PathBuf; 2] = [state.join(format!("{name}.crt")), state.join(format!("{name}.key"))];
    if let (Some(certificate), Some(key)) = (read(&paths[0])?, read(&paths[1])?)
        && is_good(&certificate, &key, common_name, group)
    {
        return Ok(Client { name, certificate, key });
    }
    let key = EcKey::generate()?;
    let certificate = authority.issue(
        &key.signer()?,
        &LeafProfile {
            organization: group.to_owned(),
            common_name: common_name.to_owned(),
            usage: Usage::Client,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            validity: CLIENT_VALIDITY,
        },
    )?;
    let client = Client {
        name,
        certificate: pki::to_pem("CERTIFICATE", &certificate).into_bytes(),
        key: key.to_pem().into_bytes(),
    };
    write(&paths[1], 0o600, &client.key)?;
    write(&paths[0], 0o600, &client.certificate)?;
    Ok(client)
}

fn is_good(certificate: &[u8], key: &[u8], common_name: &str, group: &str) -> bool {
    let info = pki::pem_certificates(certificate).and_then(|chain| CertificateInfo::from_der(chain.first()?));
    let (Some(info), Ok(key)) = (info, EcKey::from_pem(key)) else { return false };
    let half = SystemTime::now() + CLIENT_VALIDITY / 2;
    info.common_name == common_name
        && info.organization == group
        && info.not_after > half
        && info.public_key == key.public_point()
}

impl Client {
    /// JSON, which is YAML.
    fn kubeconfig(&self, authority: &CertificateAuthority, server: &str) -> String {
        let cluster = json!({
            "server": server,
            "certificate-authority-data": STANDARD.encode(authority.certificate_pem()),
        });
        let user = json!({
            "client-certificate-data": STANDARD.encode(&self.certificate),
            "client-key-data": STANDARD.encode(&self.key),
        });
        let config: Value = json!({
            "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": "apiary",
            "clusters": [{"name": "apiary", "cluster": cluster}],
            "users": [{"name": self.name, "user": user}],
            "contexts": [{"name": "apiary", "context": {"cluster": "apiary", "user": self.name}}],
        });
        format!("{config:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_last_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let first = authority(dir.path()).unwrap();
        let again = authority(dir.path()).unwrap();
        assert_eq!(first.certificate(), again.certificate());
        let one = client(&first, dir.path(), "admin", "kubernetes-admin", ADMINISTRATORS).unwrap();
        let two = client(&again, dir.path(), "admin", "kubernetes-admin", ADMINISTRATORS).unwrap();
        assert_eq!(one.certificate, two.certificate);
        let other = client(&again, dir.path(), "admin", "somebody-else", ADMINISTRATORS).unwrap();
        assert_ne!(one.certificate, other.certificate);
    }

    #[test]
    fn kubeconfigs_are_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let ca = authority(dir.path()).unwrap();
        let places = Places { state: dir.path(), runtime: dir.path(), copy: None };
        kubeconfigs(&ca, "https://127.0.0.1:6443", &places).unwrap();
        let mode =
            |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("admin.kubeconfig"), 0o600);
        assert_eq!(mode("controllers.kubeconfig"), 0o640);
    }
}
