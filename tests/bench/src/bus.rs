//! Ours: the generated client and server over `ipc`, admitted as a link is.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipc::{Admission, Channel, Identity, Peer, Sink};

use crate::bench::{BENCH, Bench, BenchClient, BenchError, BenchServer, FlowRequest, Message};
use crate::load::{self, Call, Calls, Client, Load};
use crate::server::listening;

/// The client's name in its hello.
const CLIENT: &str = "bench-client";

struct Service;

type Answer<T> = std::result::Result<T, ipc::Fail<BenchError>>;

impl Bench for Service {
    async fn echo(&self, _: &Peer, request: Message) -> Answer<Message> {
        Ok(request)
    }

    async fn flow(&self, _: &Peer, request: FlowRequest, out: Sink<Message>) -> Answer<()> {
        let body = bytes::Bytes::from(vec![0x5a; request.body as usize]);
        for number in 1..=request.count {
            if out.send(Message { number, body: body.clone() }).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// One link, with every method on its allow-list.
pub(crate) async fn serve(socket: &Path) -> Result<()> {
    let listener =
        ipc::bind(socket, 0o600).with_context(|| format!("could not bind {}", socket.display()))?;
    let server = ipc::Server::new(Identity::new("bench", 1), BenchServer::new(Service));
    let admission = Admission::Link {
        client: CLIENT.to_owned(),
        uid: nix::unistd::geteuid().as_raw(),
        methods: BENCH.methods.iter().map(|method| method.name.to_owned()).collect(),
    };
    server.serve(listener, admission)?;
    listening()?;
    std::future::pending().await
}

/// The typed client.
#[derive(Clone, Debug)]
pub(crate) struct Typed(BenchClient);

impl Typed {
    pub(crate) fn new(socket: &Path) -> Self {
        Self(BenchClient::new(Channel::new(socket, Identity::new(CLIENT, 1))))
    }
}

impl Call for Typed {
    async fn call(&mut self, load: &Load, number: u64) -> Result<bool> {
        let sent = load.message(number);
        Ok(self
            .0
            .echo(sent)
            .await
            .is_ok_and(|reply| reply.number == number && reply.body.len() == load.body.len()))
    }
}

impl Client for Typed {
    async fn receive(&mut self, load: &Load, count: u64) -> Result<u64> {
        let body = u32::try_from(load.body.len()).context("a body is small")?;
        let mut messages = self.0.flow(FlowRequest { count, body }).await?;
        let mut came = 0;
        while let Some(Ok(message)) = messages.next().await {
            came += u64::from(message.number == came + 1 && message.body.len() == load.body.len());
        }
        Ok(came)
    }

    async fn keep_calling(&mut self, load: &Load, at_once: usize, slice: Duration) -> Result<Calls> {
        load::keep_calling(self, load, at_once, slice).await
    }
}
