//! The way to the hub, and who listens here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use componentconfig::cloudcore::{CloudCore, KubeApiConfig};
use componentconfig::edgecore::EdgeCore;
use supervisor::cli::Settings;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::{read, read_or_empty, seen};
use crate::check::cluster::{self, Cluster};
use crate::check::finding::Seen;
use crate::check::hub::{Door, DoorKind, Hub, Token};
use crate::check::ports::{Holder, Listener, Port, in_the_way, listeners};

/// A person waits; the resolver's own patience is longer.
const LOOK_UP: Duration = Duration::from_secs(5);
/// A hub on the other side of the world answers in a tenth of it.
const CONNECT: Duration = Duration::from_secs(3);
/// As edgehub bounds it.
const LONGEST_TOKEN: u64 = 16 << 10;
/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 4;

pub(super) async fn hub(edge: &EdgeCore, settings: &Settings, single: bool) -> Hub {
    let configured = &edge.modules.edge_hub;
    let certificates = configured.http_server.strip_prefix("https://").unwrap_or(&configured.http_server);
    let certificates = certificates.split('/').next().unwrap_or_default();
    let wanted = [
        (DoorKind::Certificates, certificates, 443),
        (DoorKind::Messages, configured.websocket.server.as_str(), 10000),
    ];
    let mut doors = Vec::new();
    if configured.enable {
        for (kind, server, default) in wanted {
            let (host, port) = host_and_port(server, default);
            doors.push(door(kind, host, port).await);
        }
    }
    let nameservers = read_or_empty("/etc/resolv.conf");
    let names_server = |line: &&str| line.split_whitespace().next() == Some("nameserver");
    let identity = settings.state_dir.join("edgehub/node.pem");
    Hub {
        enabled: configured.enable,
        doors,
        nameservers: nameservers.lines().filter(names_server).count(),
        joined: seen(std::fs::metadata(identity)).map(|_| ()),
        token: token(edge, settings, single),
    }
}

/// `host:port`, `[::1]:port`, or a host alone.
fn host_and_port(server: &str, default: u16) -> (String, u16) {
    match server.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !port.ends_with(']') => {
            (host.to_owned(), port.parse().unwrap_or(default))
        }
        _ => (server.to_owned(), default),
    }
}

/// The cluster of a cloud side without its own API; nothing when it is not known which.
pub(super) async fn cluster(cloud: &CloudCore) -> Option<Cluster> {
    let KubeApiConfig { kube_config, master } = &cloud.kube_api_config;
    let (server, key) = if master.is_empty() {
        let Seen::Yes(text) = read(Path::new(kube_config)) else { return None };
        match cluster::server(&text) {
            Ok(server) => (server, kube_config.clone()),
            Err(error) => {
                return Some(Cluster {
                    server: String::new(),
                    key: kube_config.clone(),
                    reached: Err(error),
                });
            }
        }
    } else {
        (master.clone(), "kubeAPIConfig.master".to_owned())
    };
    let reached = match cluster::host_and_port(&server) {
        None => Err("it is no URL of an API server".to_owned()),
        Some((host, port)) => {
            let door = door(DoorKind::Messages, host.to_owned(), port).await;
            door.addresses
                .and(door.reached.unwrap_or_else(|| Err("it has no address".to_owned())))
                .map(|_| ())
        }
    };
    Some(Cluster { server, key, reached })
}

async fn door(kind: DoorKind, host: String, port: u16) -> Door {
    let bare = host.trim_matches(['[', ']']).to_owned();
    let addresses = match timeout(LOOK_UP, lookup_host((bare.as_str(), port))).await {
        Ok(Ok(found)) => Ok(found.map(|address| address.ip()).collect::<Vec<IpAddr>>()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LOOK_UP.as_secs())),
    };
    let mut reached = None;
    for address in addresses.iter().flatten().take(MOST_ADDRESSES) {
        let connected = timeout(CONNECT, TcpStream::connect(SocketAddr::new(*address, port))).await;
        reached = Some(match connected {
            Ok(Ok(_)) => Ok(*address),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", CONNECT.as_secs())),
        });
        if matches!(reached, Some(Ok(_))) {
            break;
        }
    }
    Door { kind, host, port, addresses, reached }
}

/// Where edgehub looks for it, in the same order.
fn token(edge: &EdgeCore, settings: &Settings, single: bool) -> Token {
    let inside = edge.apiary.token_file.is_none();
    let file = edge.apiary.token_file.as_ref().unwrap_or(&settings.config);
    let (place, text) = if let Some(file) = &edge.apiary.token_file {
        let place = file.display().to_string();
        match pki::read_bounded(file, LONGEST_TOKEN) {
            Ok(Some(bytes)) => (place, String::from_utf8_lossy(&bytes).trim().to_owned()),
            Ok(None) => return Token::NoFile(place),
            Err(pki::ReadError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                return Token::Hidden(place);
            }
            Err(error) => return Token::Malformed { place, problem: crate::config::chain(&error) },
        }
    } else {
        ("modules.edgeHub.token".to_owned(), edge.modules.edge_hub.token.trim().to_owned())
    };
    if text.is_empty() {
        return Token::Absent;
    }
    match pki::JoinToken::parse(&text) {
        Ok(_) if std::fs::metadata(file).is_ok_and(|metadata| metadata.mode() & 0o004 != 0) => {
            Token::Exposed(place)
        }
        Ok(_) if !inside && !single && !readable_by_edgehub(file) => Token::Unreadable(place),
        Ok(_) => Token::Good(place),
        Err(problem) => Token::Malformed { place, problem: problem.to_string() },
    }
}

/// Whether edgehub's user may read it; there is none before the installation.
fn readable_by_edgehub(file: &Path) -> bool {
    let user = nix::unistd::User::from_name("edge-hub").ok().flatten();
    user.is_none_or(|user| super::owned::may_read(file, &user, &[]))
}

/// What the cloud's components bind, and who is there already.
pub(super) fn ports(cloud: &CloudCore, standalone: bool) -> Vec<Port> {
    let hub = &cloud.modules.cloud_hub;
    let api = &cloud.apiary.standalone;
    let mut wanted = vec![
        ("modules.cloudHub.websocket.port", "cloudhub", &hub.websocket.address, hub.websocket.port),
        ("modules.cloudHub.https.port", "cloudhub", &hub.https.address, hub.https.port),
    ];
    if standalone {
        wanted.push(("apiary.standalone.port", "apiserver", &api.address, api.port));
    }
    let mut there = listeners(&read_or_empty("/proc/net/tcp"));
    there.extend(listeners(&read_or_empty("/proc/net/tcp6")));
    // Nobody needs to be known where nobody is in the way: that spares looking into every process.
    let ours = |listener: &&Listener| wanted.iter().any(|(.., port)| *port == listener.port);
    let owners = if there.iter().any(|listener| ours(&listener)) { socket_owners() } else { BTreeMap::new() };
    let one = |(key, component, address, port): (&'static str, &'static str, &String, u16)| {
        let address: IpAddr = address.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]));
        let held = |listener: &&Listener| listener.port == port && in_the_way(address, listener.address);
        let holder = |listener: &Listener| Holder {
            address: listener.address,
            process: owners.get(&listener.inode).cloned(),
        };
        Port {
            key,
            component,
            address,
            number: port,
            holders: there.iter().filter(held).map(holder).collect(),
        }
    };
    wanted.into_iter().map(one).collect()
}

/// Processes by the sockets they hold, as far as we may see that.
fn socket_owners() -> BTreeMap<u64, (u32, String)> {
    let mut owners = BTreeMap::new();
    let folders = |path: &Path| std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    for process in folders(Path::new("/proc")) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        for descriptor in folders(&process.path().join("fd")) {
            let target: PathBuf = std::fs::read_link(descriptor.path()).unwrap_or_default();
            let inode = target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']'));
            let Some(inode) = inode.and_then(|inode| inode.parse().ok()) else { continue };
            let name = match read(&process.path().join("comm")) {
                Seen::Yes(name) => name.trim().to_owned(),
                Seen::Absent | Seen::Hidden | Seen::Damaged(_) => "?".to_owned(),
            };
            owners.insert(inode, (pid, name));
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_from_ports() {
        assert_eq!(host_and_port("cloud.example:10002", 443), ("cloud.example".to_owned(), 10002));
        assert_eq!(host_and_port("[::1]:10000", 443), ("[::1]".to_owned(), 10000));
        assert_eq!(host_and_port("[::1]", 443), ("[::1]".to_owned(), 443));
        assert_eq!(host_and_port("cloud.example", 443), ("cloud.example".to_owned(), 443));
    }

    #[test]
    fn listener_of_ours_is_found_with_its_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut cloud = CloudCore::default();
        cloud.modules.cloud_hub.websocket.port = listener.local_addr().unwrap().port();
        let ports = ports(&cloud, false);
        let (pid, _) = ports[0].holders[0].process.clone().unwrap();
        assert_eq!(pid, std::process::id());
    }

    #[test]
    fn cluster_is_tried_where_it_is_known() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut cloud = CloudCore::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert_eq!(runtime.block_on(cluster(&cloud)), None);
        cloud.kube_api_config.master = format!("https://{}", listener.local_addr().unwrap());
        assert_eq!(runtime.block_on(cluster(&cloud)).unwrap().reached, Ok(()));
        drop(listener);
        assert!(runtime.block_on(cluster(&cloud)).unwrap().reached.is_err());
    }

    #[test]
    fn door_that_is_open_is_reached() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let open = runtime.block_on(door(DoorKind::Messages, "127.0.0.1".into(), port));
        assert_eq!(open.reached, Some(Ok([127, 0, 0, 1].into())));
        drop(listener);
        let closed = runtime.block_on(door(DoorKind::Messages, "127.0.0.1".into(), port));
        assert!(matches!(closed.reached, Some(Err(_))));
    }
}
