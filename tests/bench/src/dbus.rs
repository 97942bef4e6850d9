//! D-Bus by zbus, peer to peer: its frames and its types without a broker, which would be two more hops.
//!
//! As an interface is usually written: `Vec<u8>` goes through serde byte by byte, which is what a large message costs here.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context as _, Result};
use zbus::connection::Builder;
use zbus::{Connection, Guid, interface};

use crate::load::{Call, Load};
use crate::server::listening;

const PATH: &str = "/bench";
const INTERFACE: &str = "apiary.Bench1";

struct Service;

#[allow(clippy::unused_self, reason = "the macro wants a method")]
#[interface(name = "apiary.Bench1")]
impl Service {
    #[zbus(out_args("number", "body"))]
    fn echo(&self, number: u64, body: Vec<u8>) -> (u64, Vec<u8>) {
        (number, body)
    }
}

/// Serves one connection.
pub(crate) async fn serve(socket: &Path) -> Result<()> {
    let listener =
        UnixListener::bind(socket).with_context(|| format!("could not bind {}", socket.display()))?;
    listening()?;
    let (stream, _) = listener.accept().context("could not accept")?;
    let connection = Builder::unix_stream(stream)
        .server(Guid::generate())
        .p2p()
        .serve_at(PATH, Service)
        .build()
        .await
        .context("no D-Bus connection")?;
    connection.closed().await;
    Ok(())
}

/// A connection without a proxy, which would add no more than a name.
#[derive(Clone, Debug)]
pub(crate) struct Dbus(Connection);

impl Dbus {
    pub(crate) async fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("could not connect to the D-Bus server")?;
        Ok(Self(Builder::unix_stream(stream).p2p().build().await.context("no D-Bus connection")?))
    }
}

impl Call for Dbus {
    async fn call(&mut self, load: &Load, number: u64) -> Result<bool> {
        let sent = (number, &load.body[..]);
        let reply = self.0.call_method(None::<&str>, PATH, Some(INTERFACE), "Echo", &sent).await?;
        let body = reply.body();
        let (back, bytes): (u64, &[u8]) = body.deserialize()?;
        Ok(back == number && bytes.len() == load.body.len())
    }
}
