//! Links: one listener per `calls` entry of the manifest, bound once and kept while servers come and go, so that a
//! caller of a restarting server waits in the backlog and is not refused.

use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use launch::Identity;

use crate::accounts;
use crate::manifest::{Component, Manifest, Places};
use crate::reexec::Kept;

/// `sun_path` of a Unix socket, without the NUL.
const LONGEST_SOCKET_PATH: usize = 107;

/// One client's way into one server.
#[derive(Debug)]
pub struct Link {
    /// Who calls.
    pub client: String,
    /// The client's uid, which the server compares with what the kernel says.
    pub client_uid: u32,
    /// What it may call.
    pub methods: Vec<String>,
    /// The listener. The server gets a copy at each start.
    pub listener: OwnedFd,
}

/// A listener for others than components, such as those who collect metrics.
#[derive(Debug)]
pub struct Listener {
    /// Its name among the inherited descriptors, `listen-<name>`.
    pub name: String,
    /// A Unix or a TCP socket.
    pub listener: OwnedFd,
}

/// Whose members may connect to listeners on Unix sockets, where there is such a group; else only root.
const LISTENERS_GROUP: &str = "apiary";

/// Where a link's socket is.
pub fn path(run_dir: &Path, server: &str, client: &str) -> PathBuf {
    run_dir.join("link").join(format!("{server}.{client}.sock"))
}

/// Names every socket of this manifest whose path the kernel would not take.
pub fn too_long(run_dir: &Path, manifest: &Manifest) -> Vec<PathBuf> {
    let links = manifest.components.iter().flat_map(|(client, component)| {
        component.calls.keys().map(move |server| path(run_dir, server, client))
    });
    let own =
        manifest.components.keys().map(|name| notify_path(run_dir, name)).chain([control_path(run_dir)]);
    links.chain(own).filter(|path| path.as_os_str().len() > LONGEST_SOCKET_PATH).collect()
}

/// Where a component's notify socket is.
pub fn notify_path(run_dir: &Path, component: &str) -> PathBuf {
    run_dir.join("notify").join(format!("{component}.sock"))
}

/// Where the control socket is.
pub fn control_path(run_dir: &Path) -> PathBuf {
    run_dir.join("control.sock")
}

/// Binds every link into `server`, in order of client. Mode 0660: the client's group may connect, nobody else.
pub fn bind(
    run_dir: &Path,
    manifest: &Manifest,
    server: &str,
    identity_of: impl Fn(&str) -> Identity,
    kept: &mut Kept,
) -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    for (client, component) in &manifest.components {
        let Some(methods) = component.calls.get(server) else { continue };
        let identity = identity_of(client);
        let path = path(run_dir, server, client);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let listener = kept.listener(&path, 0o660).map_err(named)?;
        std::os::unix::fs::chown(&path, None, Some(identity.gid)).map_err(named)?;
        links.push(Link {
            client: client.clone(),
            client_uid: identity.uid,
            methods: methods.clone(),
            listener,
        });
    }
    Ok(links)
}

/// Binds what a component listens on, in order of name. The check has made sure that the addresses can be read.
pub fn listen(places: &Places, component: &Component, kept: &mut Kept) -> io::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for (name, address) in &component.listen {
        let address = places.fill(address).map_err(io::Error::other)?;
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
        let listener = match (address.parse::<SocketAddr>(), kept.take(&address)) {
            (_, Some(listener)) => listener,
            (Ok(address), None) => TcpListener::bind(address).map_err(named)?.into(),
            (Err(_), None) => {
                let listener = ipc::bind(Path::new(&address), 0o660).map_err(named)?;
                if let Some(gid) = accounts::group_id(LISTENERS_GROUP).filter(|_| accounts::own_uid() == 0) {
                    std::os::unix::fs::chown(&address, None, Some(gid)).map_err(named)?;
                }
                listener
            }
        };
        listeners.push(Listener { name: format!("listen-{name}"), listener });
    }
    Ok(listeners)
}

/// Removes sockets of links that are in no manifest any more, so that `ls` shows the wiring there is.
pub fn remove_stale(run_dir: &Path, manifest: &Manifest) -> io::Result<()> {
    let wanted: Vec<PathBuf> = manifest
        .components
        .iter()
        .flat_map(|(client, component)| {
            component.calls.keys().map(move |server| path(run_dir, server, client))
        })
        .collect();
    for entry in std::fs::read_dir(run_dir.join("link"))? {
        let path = entry?.path();
        if !wanted.contains(&path) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The sockets of the run directory that are none of a component's business: those of others' links and listeners, others'
/// notify sockets, and the control socket.
pub fn sockets_of_others(places: &Places, manifest: &Manifest, name: &str) -> Vec<PathBuf> {
    let mut sockets = vec![control_path(&places.run)];
    for (other, component) in manifest.components.iter().filter(|(other, _)| *other != name) {
        sockets.extend(component.calls.keys().map(|server| path(&places.run, server, other)));
        sockets.push(notify_path(&places.run, other));
        let addresses = component.listen.values().filter_map(|address| places.fill(address).ok());
        sockets.extend(addresses.map(PathBuf::from).filter(|address| address.is_absolute()));
    }
    sockets
}

/// `APIARY_LINKS`: `client:uid:Method,Method` entries joined by `;`, in the order of the inherited descriptors.
pub fn links_variable(links: &[Link]) -> String {
    let mut text = String::new();
    for link in links {
        let separator = if text.is_empty() { "" } else { ";" };
        let methods = link.methods.join(",");
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{}:{}:{methods}", link.client, link.client_uid);
    }
    text
}

/// `APIARY_CALLS`: `server=/path` entries joined by `;`.
pub fn calls_variable<'a>(run_dir: &Path, client: &str, servers: impl Iterator<Item = &'a String>) -> String {
    servers
        .map(|server| format!("{server}={}", path(run_dir, server, client).display()))
        .collect::<Vec<_>>()
        .join(";")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::accounts::{own_gid, own_uid};
    use crate::manifest::parse;

    const TWO: &str = r#"
        [component.store]
        rank = 1
        exec = "store"
        user = "store"
        ready_timeout = "10s"
        drain = "5s"

        [component.hub]
        rank = 2
        exec = "hub"
        user = "hub"
        ready_timeout = "10s"
        drain = "5s"
        calls = { store = ["Get", "Put"] }
    "#;

    #[test]
    fn listeners_are_bound_by_path_and_by_address() {
        let temp = run_dir();
        let (manifest, findings) =
            parse("m", &format!("{TWO}\nlisten = {{ a = \"{{run}}/a.sock\", b = \"127.0.0.1:0\" }}"));
        assert_eq!(findings, []);
        let places = Places::new(temp.path(), temp.path(), &manifest.path, &[].into());
        let bound = listen(&places, &manifest.components["hub"], &mut Kept::default()).expect("bound");
        assert_eq!(
            bound.iter().map(|listener| listener.name.as_str()).collect::<Vec<_>>(),
            ["listen-a", "listen-b"]
        );
        let socket = temp.path().join("a.sock");
        assert_eq!(std::fs::metadata(&socket).expect("socket").mode() & 0o7777, 0o660);
        UnixStream::connect(socket).expect("waits in the backlog");
        let tcp = TcpListener::from(bound[1].listener.try_clone().expect("copy"));
        std::net::TcpStream::connect(tcp.local_addr().expect("address")).expect("waits in the backlog");
    }

    fn me(_: &str) -> Identity {
        Identity { uid: own_uid(), gid: own_gid(), groups: Vec::new() }
    }

    fn run_dir() -> tempfile::TempDir {
        let temp = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(temp.path().join("link")).expect("link");
        temp
    }

    #[test]
    fn each_call_becomes_a_socket_for_the_clients_group() {
        let (temp, (manifest, _)) = (run_dir(), parse("m", TWO));
        let links = bind(temp.path(), &manifest, "store", me, &mut Kept::default()).expect("bound");
        assert_eq!(links_variable(&links), format!("hub:{}:Get,Put", own_uid()));
        let meta = std::fs::metadata(path(temp.path(), "store", "hub")).expect("socket");
        assert!(meta.file_type().is_socket());
        assert_eq!(meta.mode() & 0o7777, 0o660);
        assert!(bind(temp.path(), &manifest, "hub", me, &mut Kept::default()).expect("bound").is_empty());
    }

    #[test]
    fn caller_connects_while_nobody_accepts() {
        let (temp, (manifest, _)) = (run_dir(), parse("m", TWO));
        let _links = bind(temp.path(), &manifest, "store", me, &mut Kept::default()).expect("bound");
        UnixStream::connect(path(temp.path(), "store", "hub")).expect("waits in the backlog");
    }

    #[test]
    fn socket_of_an_earlier_supervisor_is_replaced_and_an_unknown_one_removed() {
        let (temp, (manifest, _)) = (run_dir(), parse("m", TWO));
        drop(bind(temp.path(), &manifest, "store", me, &mut Kept::default()).expect("bound"));
        let _links = bind(temp.path(), &manifest, "store", me, &mut Kept::default()).expect("bound again");
        let stale = path(temp.path(), "store", "gone");
        std::fs::write(&stale, "").expect("written");
        remove_stale(temp.path(), &manifest).expect("removed");
        assert!(!stale.exists() && path(temp.path(), "store", "hub").exists());
    }

    #[test]
    fn calls_are_named_by_path() {
        let text =
            calls_variable(Path::new("/r"), "hub", [&"keys".to_owned(), &"store".to_owned()].into_iter());
        assert_eq!(text, "keys=/r/link/keys.hub.sock;store=/r/link/store.hub.sock");
    }

    #[test]
    fn overlong_socket_paths_are_all_named() {
        let (manifest, _) = parse("m", TWO);
        assert!(too_long(Path::new("/run/apiary/edge"), &manifest).is_empty());
        let long = PathBuf::from(format!("/{}", "x".repeat(100)));
        assert_eq!(too_long(&long, &manifest).len(), 4);
    }
}
