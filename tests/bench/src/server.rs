//! The servers: which there are, and their processes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use tokio::runtime::Runtime;

use crate::{bare, blocking, bus, dbus, grpc};

/// What a server says on its standard output when it can be connected to.
const LISTENING: &str = "listening";

/// A way to talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// Ours: generated client and server
    Bus,
    /// The floor: length-prefixed frames on a socket, tokio on both sides as we have it
    Bare,
    /// The same without tokio: blocking reads and writes
    Blocking,
    /// tonic
    Grpc,
    /// zbus
    Dbus,
}

/// What `lifecycle` gives every component.
pub(crate) fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("could not start the runtime")
}

/// Serves on `socket` until standard input ends, which is when the client does.
pub(crate) fn be(kind: Kind, socket: &Path) -> Result<()> {
    std::thread::spawn(|| {
        // Its end and an error say the same.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    match kind {
        Kind::Bus => runtime()?.block_on(bus::serve(socket)),
        Kind::Bare => runtime()?.block_on(bare::serve(socket)),
        Kind::Blocking => blocking::serve(socket),
        Kind::Grpc => runtime()?.block_on(grpc::serve(socket)),
        Kind::Dbus => runtime()?.block_on(dbus::serve(socket)),
    }
}

/// Called by a server when it listens.
pub(crate) fn listening() -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{LISTENING}").and_then(|()| out.flush()).context("nobody waits for this server")
}

/// The process of a server. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// Starts this program as a server of this kind, with its socket in `folder`, and waits until it listens.
    pub(crate) fn start(kind: Kind, folder: &Path) -> Result<Self> {
        let name = kind.to_possible_value().context("no kind is hidden")?.get_name().to_owned();
        let socket = folder.join(format!("{name}.sock"));
        let program = std::env::current_exe().context("could not find this program")?;
        let mut child = Command::new(program)
            .args(["serve", &name])
            .arg(&socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start the {name} server"))?;
        let mut said = String::new();
        let output = child.stdout.take().context("its output is a pipe")?;
        let server = Self { child, socket };
        BufReader::new(output).read_line(&mut said).with_context(|| format!("could not hear {name}"))?;
        ensure!(said.trim_end() == LISTENING, "the {name} server did not come up");
        Ok(server)
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It has ended, or does now.
        let _ = self.child.wait();
    }
}
