//! Listeners the supervisor bound for other protocols than the bus (manifest: `listen`).

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use listenfd::ListenFd;

/// A socket this component serves without a right to bind one. Blocking, as inherited: make it non-blocking before tokio
/// takes it.
#[derive(Debug)]
pub enum InheritedListener {
    /// At a path.
    Unix(UnixListener),
    /// At an address, of IPv4 or IPv6.
    Tcp(TcpListener),
}

impl InheritedListener {
    /// The listener at this index of the inherited descriptors, whichever kind it is.
    pub(crate) fn take(inherited: &mut ListenFd, index: usize) -> io::Result<Self> {
        // A descriptor of the other kind stays where it is.
        match inherited.take_unix_listener(index) {
            Ok(Some(listener)) => Ok(Self::Unix(listener)),
            Ok(None) => Err(io::ErrorKind::NotFound.into()),
            Err(_) => {
                let listener = inherited.take_tcp_listener(index)?;
                listener.map(Self::Tcp).ok_or_else(|| io::ErrorKind::NotFound.into())
            }
        }
    }
}
