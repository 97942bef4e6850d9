//! What the supervisor, or systemd, tells a process in its environment.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ipc::Admission;
use listenfd::ListenFd;

use crate::error::EnvironmentError;

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
}

impl Environment {
    /// Reads the process's environment and takes its inherited listeners, once.
    pub(crate) fn from_process(name: &'static str) -> Result<Self, EnvironmentError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let links = parse_links(variable("APIARY_LINKS").as_deref().unwrap_or_default())?;
        let clients: Vec<String> = variable("LISTEN_FDNAMES")
            .map(|names| names.split(':').map(str::to_owned).collect())
            .unwrap_or_default();
        let listeners = take_listeners(ListenFd::from_env(), &clients, links)?;
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

/// Pairs descriptors with links; their number and names must agree, since the link is the peer's identity.
fn take_listeners(
    mut inherited: ListenFd,
    clients: &[String],
    links: Vec<Admission>,
) -> Result<Vec<(OwnedFd, Admission)>, EnvironmentError> {
    if inherited.len() != links.len() || clients.len() != links.len() {
        let problem =
            format!("{} links, but {} listeners with {} names", links.len(), inherited.len(), clients.len());
        return Err(wrong("LISTEN_FDNAMES", &clients.join(":"), &problem));
    }
    links
        .into_iter()
        .enumerate()
        .map(|(index, link)| {
            let name = &clients[index];
            if !matches!(&link, Admission::Link { client, .. } if client == name) {
                return Err(wrong("LISTEN_FDNAMES", name, &"not the client at this place of APIARY_LINKS"));
            }
            let listener = inherited
                .take_unix_listener(index)
                .and_then(|listener| listener.ok_or_else(|| std::io::ErrorKind::NotFound.into()))
                .map_err(|source| EnvironmentError::Listener {
                    client: name.clone(),
                    descriptor: index + 3,
                    source,
                })?;
            Ok((listener.into(), link))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
