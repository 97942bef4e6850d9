//! What the client's end of a link is, whichever way its calls wait.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prost::Message;

use crate::connection::Broken;
use crate::frame::{self, Frame, Hello};
use crate::inbox::Taken;
use crate::transport::lock;
use crate::{CallError, Identity, Interface, Method};

/// A longer deadline counts as this one, 24 h, so that adding it to a time cannot overflow.
pub(crate) const LONGEST_DEADLINE: Duration = Duration::from_hours(24);

/// One end: where the server listens, who we are, and who it turned out to be.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) path: PathBuf,
    us: Identity,
    /// The server last connected to.
    server: Mutex<Option<Hello>>,
}

impl Link {
    pub(crate) fn new(path: PathBuf, us: Identity) -> Self {
        Self { path, us, server: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Generation of the server last connected to.
    pub(crate) fn generation(&self) -> Option<u64> {
        lock(&self.server).as_ref().map(|server| server.generation)
    }

    /// Who talks to whom, for people. Before the first connection only the socket is known.
    pub(crate) fn names(&self) -> String {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        match &*server {
            Some(server) => format!("{} to {}", self.us.component, server.component),
            None => self.socket(),
        }
    }

    /// The same where the server could not be reached: its socket is what there is to look at.
    pub(crate) fn socket(&self) -> String {
        format!("{} to {}", self.us.component, self.path.display())
    }

    /// Our first frame.
    pub(crate) fn hello(&self, interface: &Interface) -> Vec<u8> {
        frame::hello(&Hello::new(interface, &self.us))
    }

    /// Judges the server's first frame; also says which protocol to go on in.
    pub(crate) fn greeted(
        &self,
        first: Option<io::Result<Taken<'_>>>,
        interface: &Interface,
    ) -> Result<(Hello, u32), Broken> {
        let frame = match first {
            None => return Err(Broken::Disconnected("closed before its hello".to_owned())),
            Some(Err(error)) => return Err(Broken::Disconnected(error.to_string())),
            Some(Ok(frame)) => frame,
        };
        let hello = match frame.parse() {
            Ok(Frame::Hello(hello)) => hello,
            Ok(Frame::Refused { message, .. }) => return Err(self.refused(message)),
            Ok(_) => return Err(Broken::Disconnected("its first frame is no hello".to_owned())),
            Err(error) => return Err(Broken::Disconnected(error.to_string())),
        };
        let protocol = hello.negotiate(&self.us).map_err(|versions| self.refused(&versions))?;
        if hello.interface != interface.name {
            let served = format!("{} serves {}, not {}", hello.speaker(), hello.interface, interface.name);
            return Err(self.refused(&served));
        }
        let previous = lock(&self.server).replace(hello.clone());
        if let Some(previous) = previous.filter(|previous| previous.generation != hello.generation) {
            tracing::info!(
                server = hello.component,
                generation = hello.generation,
                previous = previous.generation,
                version = hello.version,
                "server was restarted"
            );
        }
        Ok((hello, protocol))
    }

    /// A refusal of the whole connection; the server's side of it is in its own log.
    fn refused(&self, reason: &str) -> Broken {
        let link = self.socket();
        tracing::warn!(link, reason, "connection refused");
        Broken::Refused(format!("{link}: {reason}"))
    }

    /// The encoded size of a request, where the method takes it.
    pub(crate) fn size_of<E>(&self, method: &Method, request: &impl Message) -> Result<usize, CallError<E>> {
        let size = request.encoded_len();
        if size > method.max_request {
            let (link, name, limit) = (self.names(), method.name, method.max_request);
            return Err(CallError::Refused(format!(
                "{link}: {name} takes at most {limit} bytes, these are {size}"
            )));
        }
        Ok(size)
    }

    /// Whether the server has the method: an older one may not. One that does not say is asked.
    pub(crate) fn known(&self, server: &Hello, interface: &Interface, method: &Method) -> Result<(), Broken> {
        if server.revision == 0 || method.number <= server.revision {
            return Ok(());
        }
        Err(Broken::Refused(format!(
            "{}: {} does not have {}, method {} of {}: it ends at {}",
            self.names(),
            server.speaker(),
            method.name,
            method.number,
            interface.name,
            server.revision
        )))
    }
}
