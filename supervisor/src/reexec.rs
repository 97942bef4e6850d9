//! `edgectl reexec`: another program takes over this process, and every component lives on.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Descriptors an earlier program of this process left to us, by name: the path of a socket's file, `lock`, and the like.
/// Empty after an ordinary start.
#[derive(Debug, Default)]
pub struct Kept(BTreeMap<String, OwnedFd>);

impl Kept {
    /// The descriptor of that name. Whoever takes it keeps it.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.0.remove(name)
    }

    /// The listener at `path`: the one that was kept, with everybody who waits in its backlog, or a new one.
    pub fn listener(&mut self, path: &Path, mode: u32) -> io::Result<OwnedFd> {
        match self.take(&path.to_string_lossy()) {
            Some(listener) => Ok(listener),
            None => ipc::bind(path, mode),
        }
    }
}

impl FromIterator<(String, OwnedFd)> for Kept {
    fn from_iter<T: IntoIterator<Item = (String, OwnedFd)>>(kept: T) -> Self {
        Self(kept.into_iter().collect())
    }
}
