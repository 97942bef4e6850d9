//! What the supervisor, or systemd, tells a process in its environment.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ipc::Admission;
use listenfd::ListenFd;

use crate::error::EnvironmentError;
use crate::listener::InheritedListener;

/// The environment, parsed.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) name: &'static str,
    pub(crate) generation: u64,
    pub(crate) config: Option<PathBuf>,
    pub(crate) state: PathBuf,
    pub(crate) runtime: PathBuf,
    /// Socket by server name.
    pub(crate) calls: BTreeMap<String, PathBuf>,
    /// Inherited listeners, each with who may come in.
    pub(crate) listeners: Vec<(OwnedFd, Admission)>,
    /// Inherited listeners of other protocols, by the manifest's name for them.
    pub(crate) sockets: BTreeMap<String, InheritedListener>,
}

impl Environment {
    /// Reads the process's environment and takes its inherited listeners, once.
    pub(crate) fn from_process(name: &'static str) -> Result<Self, EnvironmentError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let links = parse_links(variable("APIARY_LINKS").as_deref().unwrap_or_default())?;
        let names: Vec<String> = variable("LISTEN_FDNAMES")
            .map(|names| names.split(':').map(str::to_owned).collect())
            .unwrap_or_default();
        let (listeners, sockets) = take_listeners(ListenFd::from_env(), &names, links)?;
        let generation = match variable("APIARY_GENERATION") {
            Some(value) => value.parse().map_err(|error| wrong("APIARY_GENERATION", &value, &error))?,
            None => by_hand(),
        };
        Ok(Self {
            name,
            generation,
            config: variable("APIARY_CONFIG").map(PathBuf::from),
            state: directory("STATE_DIRECTORY", variable("STATE_DIRECTORY"))?,
            runtime: directory("RUNTIME_DIRECTORY", variable("RUNTIME_DIRECTORY"))?,
            calls: parse_calls(variable("APIARY_CALLS").as_deref().unwrap_or_default())?,
            listeners,
            sockets,
        })
    }
}

/// A generation for a process nobody counts: rises from start to start, as the supervisor's numbers do.
fn by_hand() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX >> 16) << 16
}

fn wrong(variable: &'static str, value: &str, problem: &dyn Display) -> EnvironmentError {
    EnvironmentError::Value { variable, value: value.to_owned(), problem: problem.to_string() }
}

/// The first of systemd's colon-separated list.
fn directory(variable: &'static str, value: Option<String>) -> Result<PathBuf, EnvironmentError> {
    let value = value.ok_or(EnvironmentError::Missing { variable })?;
    let path = Path::new(value.split(':').next().unwrap_or_default());
    if path.is_dir() { Ok(path.to_owned()) } else { Err(EnvironmentError::Directory(path.to_owned())) }
}

/// `server=/run/apiary/edge/link/server.client.sock` entries, joined by `;`.
fn parse_calls(value: &str) -> Result<BTreeMap<String, PathBuf>, EnvironmentError> {
    entries(value)
        .map(|entry| match entry.split_once('=') {
            Some((server, path)) if !server.is_empty() && path.starts_with('/') => {
                Ok((server.to_owned(), PathBuf::from(path)))
            }
            _ => Err(wrong("APIARY_CALLS", entry, &"an entry is server=/absolute/path")),
        })
        .collect()
}

/// `client:uid:Method,Method` entries, joined by `;`.
fn parse_links(value: &str) -> Result<Vec<Admission>, EnvironmentError> {
    entries(value)
        .map(|entry| {
            let mut parts = entry.splitn(3, ':');
            let (Some(client), Some(uid), Some(methods)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(wrong("APIARY_LINKS", entry, &"an entry is client:uid:Method,Method"));
            };
            let uid = uid.parse().map_err(|error| wrong("APIARY_LINKS", entry, &format!("uid: {error}")))?;
            let methods = methods.split(',').filter(|method| !method.is_empty()).map(str::to_owned).collect();
            Ok(Admission::Link { client: client.to_owned(), uid, methods })
        })
        .collect()
}

fn entries(value: &str) -> impl Iterator<Item = &str> {
    value.split(';').filter(|entry| !entry.is_empty())
}

/// What a listener that is no link is called in `LISTEN_FDNAMES`, before its own name.
const LISTEN: &str = "listen-";

type Listeners = (Vec<(OwnedFd, Admission)>, BTreeMap<String, InheritedListener>);

/// Pairs descriptors with links, whose names must agree since the link is the peer's identity; after those come the
/// listeners of other protocols.
fn take_listeners(
    mut inherited: ListenFd,
    names: &[String],
    links: Vec<Admission>,
) -> Result<Listeners, EnvironmentError> {
    if inherited.len() != names.len() || names.len() < links.len() {
        let problem =
            format!("{} links, but {} listeners with {} names", links.len(), inherited.len(), names.len());
        return Err(wrong("LISTEN_FDNAMES", &names.join(":"), &problem));
    }
    let unusable = |index: usize| {
        move |source| EnvironmentError::Listener {
            client: names[index].clone(),
            descriptor: index + 3,
            source,
        }
    };
    let (clients, others) = names.split_at(links.len());
    let mut listeners = Vec::new();
    for (index, (name, link)) in clients.iter().zip(links).enumerate() {
        if !matches!(&link, Admission::Link { client, .. } if client == name) {
            return Err(wrong("LISTEN_FDNAMES", name, &"not the client at this place of APIARY_LINKS"));
        }
        let listener = inherited
            .take_unix_listener(index)
            .and_then(|listener| listener.ok_or_else(|| std::io::ErrorKind::NotFound.into()))
            .map_err(unusable(index))?;
        listeners.push((listener.into(), link));
    }
    let mut sockets = BTreeMap::new();
    for (index, name) in (clients.len()..).zip(others) {
        let own = name.strip_prefix(LISTEN).filter(|own| !own.is_empty()).ok_or_else(|| {
            wrong("LISTEN_FDNAMES", name, &"neither a client of APIARY_LINKS nor listen-<name>")
        })?;
        let listener = InheritedListener::take(&mut inherited, index).map_err(unusable(index))?;
        sockets.insert(own.to_owned(), listener);
    }
    Ok((listeners, sockets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links_of(value: &str) -> Vec<Admission> {
        parse_links(value).unwrap()
    }

    #[test]
    fn calls_are_paths_by_server() {
        let calls = parse_calls("metamanager=/r/link/metamanager.edged.sock;keyholder=/r/k.sock").unwrap();
        assert_eq!(calls["metamanager"], Path::new("/r/link/metamanager.edged.sock"));
        assert_eq!(calls.len(), 2);
        assert!(parse_calls("").unwrap().is_empty());
    }

    #[test]
    fn links_are_client_uid_and_methods() {
        let links = parse_links("edgehub:990:Apply,Delivered;edged:0:").unwrap();
        assert_eq!(
            links[0],
            Admission::Link {
                client: "edgehub".into(),
                uid: 990,
                methods: vec!["Apply".into(), "Delivered".into()]
            }
        );
        assert_eq!(links[1], Admission::Link { client: "edged".into(), uid: 0, methods: vec![] });
    }

    #[test]
    fn a_bad_entry_is_named() {
        let error = parse_links("edgehub:x:Apply").unwrap_err().to_string();
        assert!(error.contains("APIARY_LINKS") && error.contains("edgehub:x:Apply"), "{error}");
        let error = parse_calls("metamanager=relative.sock").unwrap_err().to_string();
        assert!(error.contains("APIARY_CALLS") && error.contains("relative.sock"), "{error}");
    }

    #[test]
    fn a_link_without_its_listener_is_refused() {
        let links = parse_links("edged:0:Get").unwrap();
        let error = take_listeners(ListenFd::empty(), &["edged".to_owned()], links).unwrap_err();
        assert!(error.to_string().contains("1 links, but 0 listeners"), "{error}");
        let error = take_listeners(ListenFd::empty(), &[], links_of("edged:0:Get")).unwrap_err();
        assert!(error.to_string().contains("with 0 names"), "{error}");
    }
}
