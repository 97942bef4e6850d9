//! The floor without tokio: what two processes that block in `read` and `write` take.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::bare::{PREFIX, frame, has_number, set_number, whole};
use crate::load::{Call, Load};
use crate::server::listening;

/// Serves one connection.
pub(crate) fn serve(socket: &Path) -> Result<()> {
    let listener =
        UnixListener::bind(socket).with_context(|| format!("could not bind {}", socket.display()))?;
    listening()?;
    let (mut stream, _) = listener.accept().context("could not accept")?;
    let mut buffer = vec![0; 128 * 1024];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..])? {
            0 => return Ok(()),
            read => filled += read,
        }
        let whole = whole(&buffer[..filled]);
        stream.write_all(&buffer[..whole])?;
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}

/// A client with one connection.
#[derive(Debug)]
pub(crate) struct Blocking {
    stream: UnixStream,
    out: Vec<u8>,
    back: Vec<u8>,
}

impl Blocking {
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("could not connect to the blocking server")?;
        Ok(Self { stream, out: Vec::new(), back: Vec::new() })
    }
}

impl Call for Blocking {
    async fn call(&mut self, load: &Load, number: u64) -> Result<bool> {
        let Self { stream, out, back } = self;
        if out.len() != PREFIX + load.bytes {
            *out = frame(load);
            back.resize(out.len(), 0);
        }
        set_number(out, number);
        stream.write_all(out)?;
        stream.read_exact(back)?;
        Ok(has_number(back, number))
    }
}
