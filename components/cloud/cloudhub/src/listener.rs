//! Accepts TCP connections and brings them through TLS within bounds of time and number.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::Hub;
use crate::certificate::Acceptors;

/// 10 s for TLS and for what follows it before a session stands: longer is a stranger holding the door.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);

/// 256 handshakes at a time on a port: each holds some 50 KiB. More wait in the kernel's backlog.
const HANDSHAKES: usize = 256;

/// A connection on its way in. The permit is given back when the handshake is over.
pub(crate) struct Incoming {
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) acceptors: Acceptors,
    pub(crate) permit: tokio::sync::OwnedSemaphorePermit,
}

/// Accepts until shutdown; `serve` runs each connection as its own task.
pub(crate) async fn run<F>(
    listener: TcpListener,
    acceptors: watch::Receiver<Acceptors>,
    hub: Arc<Hub>,
    serve: impl Fn(Incoming, Arc<Hub>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = hub.shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Messages are small and answered: waiting to fill a segment would only delay them.
                let _ = stream.set_nodelay(true);
                let acceptors = acceptors.borrow().clone();
                tokio::spawn(serve(Incoming { stream, peer, acceptors, permit }, hub.clone()));
            }
            // Out of descriptors, or a connection that was gone before we took it. The pause keeps the first from spinning.
            Err(error) => {
                tracing::warn!("could not accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
