//! tonic over a Unix socket, with its defaults.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::Stream;
use futures_util::stream;
use tokio::net::UnixListener;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::bench_grpc::bench_client::BenchClient;
use crate::bench_grpc::bench_server::{Bench, BenchServer};
use crate::bench_grpc::{FlowRequest, Message};
use crate::load::{self, Call, Calls, Client, Load};
use crate::server::listening;

struct Service;

type Answer<T> = std::result::Result<Response<T>, Status>;

#[tonic::async_trait]
impl Bench for Service {
    async fn echo(&self, request: Request<Message>) -> Answer<Message> {
        Ok(Response::new(request.into_inner()))
    }

    type FlowStream = Pin<Box<dyn Stream<Item = std::result::Result<Message, Status>> + Send>>;

    async fn flow(&self, request: Request<FlowRequest>) -> Answer<Self::FlowStream> {
        let FlowRequest { count, body } = request.into_inner();
        let body = bytes::Bytes::from(vec![0x5a; body as usize]);
        let messages = (1..=count).map(move |number| Ok(Message { number, body: body.clone() }));
        Ok(Response::new(Box::pin(stream::iter(messages))))
    }
}

pub(crate) async fn serve(socket: &Path) -> Result<()> {
    let listener =
        UnixListener::bind(socket).with_context(|| format!("could not bind {}", socket.display()))?;
    let incoming = stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    listening()?;
    tonic::transport::Server::builder()
        .serve_with_incoming(BenchServer::new(Service), incoming)
        .await
        .context("the gRPC server ended")
}

/// tonic's generated client.
#[derive(Clone, Debug)]
pub(crate) struct Grpc(BenchClient<Channel>);

impl Grpc {
    pub(crate) fn new(socket: &Path) -> Result<Self> {
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display()))?;
        Ok(Self(BenchClient::new(endpoint.connect_lazy())))
    }
}

impl Call for Grpc {
    async fn call(&mut self, load: &Load, number: u64) -> Result<bool> {
        let reply = self.0.echo(Message { number, body: load.body.clone() }).await?.into_inner();
        Ok(reply.number == number && reply.body.len() == load.body.len())
    }
}

impl Client for Grpc {
    async fn receive(&mut self, load: &Load, count: u64) -> Result<u64> {
        let body = u32::try_from(load.body.len()).context("a body is small")?;
        let mut messages = self.0.flow(FlowRequest { count, body }).await?.into_inner();
        let mut came = 0;
        while let Some(message) = messages.message().await? {
            came += u64::from(message.number == came + 1 && message.body.len() == load.body.len());
        }
        Ok(came)
    }

    async fn keep_calling(&mut self, load: &Load, at_once: usize, slice: Duration) -> Result<Calls> {
        load::keep_calling(self, load, at_once, slice).await
    }
}
