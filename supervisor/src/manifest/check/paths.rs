//! The rules for paths and listeners.

use std::net::SocketAddr;
use std::path::Path;

use super::Check;

/// `sun_path` of a Unix socket, without the NUL.
const LONGEST_SOCKET_PATH: usize = 107;

/// What is wrong with the form of a path, if anything. `/` alone is right.
pub(super) fn problem(path: &str) -> Option<&'static str> {
    let Some(rest) = path.strip_prefix('/') else { return Some("must be an absolute path") };
    if path.contains('\0') {
        return Some("holds a NUL");
    }
    if !rest.is_empty() && rest.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Some("must be an absolute path without `.`, `..`, doubled or trailing slash");
    }
    None
}

impl Check<'_> {
    /// Paths are plain, do not overlap, and hold nothing of another component.
    pub(super) fn paths(&mut self) {
        let paths = &self.component.paths;
        let mut granted: Vec<(&str, &str, String)> = Vec::new();
        for (key, listed) in
            [("paths.read", &paths.read), ("paths.write", &paths.write), ("paths.shared", &paths.shared)]
        {
            for path in listed {
                let filled = match self.places.fill(path) {
                    Ok(filled) => filled,
                    Err(problem) => {
                        self.report(key, path, problem);
                        continue;
                    }
                };
                if let Some(problem) = problem(&filled) {
                    self.report(key, path, problem);
                    continue;
                }
                granted.push((key, path, filled));
            }
        }
        for (key, path, filled) in &granted {
            if *key == "paths.shared" {
                if !paths.host_root() {
                    self.report(
                        key,
                        path,
                        "mounts are shared only by who keeps the host's root: paths.write = [\"/\"]",
                    );
                }
                continue;
            }
            if filled == "/" {
                if *key == "paths.read" {
                    self.report(key, path, "is everything: name what is read");
                }
                continue;
            }
            let below = granted.iter().find(|(other_key, other_path, other)| {
                *other_key != "paths.shared"
                    && (other_key, other_path) != (key, path)
                    && Path::new(filled).starts_with(other)
            });
            if let Some((other_key, other_path, _)) = below {
                self.report(
                    key,
                    path,
                    format!("lies in {other_path}, granted in {other_key}: grant one of them"),
                );
            }
            if let Some(problem) = self.belongs_to_others(filled, *key == "paths.write") {
                self.report(key, path, problem);
            }
        }
    }

    /// State directories are their owners'. Of the run directory, another component's part may be read, for files that
    /// are made for others; links and sockets of notification are reached by grants of their own.
    fn belongs_to_others(&self, path: &str, write: bool) -> Option<String> {
        let path = Path::new(path);
        let (run, state) = (&self.places.run, &self.places.state);
        if path == state.join(self.name) || path == run.join(self.name) {
            return Some("is the component's own: it has that anyway".to_owned());
        }
        if state.starts_with(path) {
            return Some("holds the state of every component".to_owned());
        }
        if let Ok(inside) = path.strip_prefix(state) {
            let owner = inside.iter().next().unwrap_or_default().to_string_lossy();
            // Below its own directory, too: it has that anyway.
            return Some(format!("is state of {owner}"));
        }
        if run.starts_with(path) {
            return Some("holds the links and sockets of every component".to_owned());
        }
        if let Ok(inside) = path.strip_prefix(run) {
            let owner = inside.iter().next().unwrap_or_default().to_string_lossy();
            if !self.manifest.components.contains_key(&*owner) {
                return Some(
                    "is the supervisor's: links are granted by calls, listeners by listen".to_owned(),
                );
            }
            if write {
                return Some(format!("is where {owner} writes"));
            }
        }
        None
    }

    /// The addresses listened on, filled in; reports those that cannot be.
    pub(super) fn listeners(&mut self) -> Vec<String> {
        let mut addresses = Vec::new();
        for (name, address) in &self.component.listen {
            let key = format!("listen.{name}");
            if !super::is_name(name) {
                self.report(&key, address, "a name is 1 to 32 of a-z, 0-9 and -, and begins with a letter");
            }
            let filled = match self.places.fill(address) {
                Ok(filled) => filled,
                Err(problem) => {
                    self.report(&key, address, problem);
                    continue;
                }
            };
            let problem = if filled.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0) {
                None
            } else if !filled.starts_with('/') {
                Some("must be a Unix path or an IP address with a port other than 0".to_owned())
            } else {
                self.socket_problem(&filled)
            };
            match problem {
                Some(problem) => self.report(&key, address, problem),
                None => addresses.push(filled),
            }
        }
        addresses
    }

    fn socket_problem(&self, path: &str) -> Option<String> {
        if let Some(problem) = problem(path) {
            return Some(problem.to_owned());
        }
        let run = &self.places.run;
        let socket = Path::new(path);
        if socket.parent() != Some(run) || socket.extension().is_none_or(|end| end != "sock") {
            return Some(format!("a socket lies in the run directory: {}/NAME.sock", run.display()));
        }
        if socket.ends_with("control.sock") {
            return Some("is the supervisor's own".to_owned());
        }
        (path.len() > LONGEST_SOCKET_PATH)
            .then(|| format!("is longer than {LONGEST_SOCKET_PATH} bytes, the most a socket's path may have"))
    }
}
