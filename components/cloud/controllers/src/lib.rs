//! Watches the Kubernetes API for the edges and writes their status back.
//!
//! Holds: the Kubernetes credentials, which reach every object of the cluster; of the cluster's objects only what connected
//! edges need.
//! Untrusted bytes: what edges send upstream, handed over by cloudhub under the name in the session's certificate. No network
//! socket is open here but the one to the Kubernetes API.
//! What keeps it safe: a message is parsed once into a [`request::Request`]; [`policy`] decides, from what is bound to the
//! node, whether that node may make it, before anything reaches the API; names that could change a URL are no names.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod api;
mod connection;
mod downstream;
mod object;
mod plan;
mod policy;
mod records;
mod request;
mod service;
mod standalone;
#[cfg(test)]
mod tests;
mod upstream;
mod watches;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use lifecycle::{ConfigError, Context};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::connection::Source;
use crate::object::Kind;
use crate::records::Records;
use crate::service::Service;
use crate::watches::Progress;
use crate::world::World;

/// The process.
pub fn main() -> ExitCode {
    lifecycle::run("controllers", run)
}

async fn run(mut ctx: Context) -> anyhow::Result<()> {
    let loaded = componentconfig::cloudcore::load(ctx.config_path()).map_err(ConfigError::new)?;
    for warning in &loaded.warnings {
        tracing::debug!("{warning}");
    }
    let kubernetes = &loaded.config.kube_api_config;
    let environment = std::env::var_os("KUBECONFIG").map(PathBuf::from);
    let source = Source::choose(&kubernetes.kube_config, &kubernetes.master, environment);

    let controllers = Controllers::start(source, ctx.shutdown().clone());
    ctx.serve(proto::controllers::ControllersServer::shared(controllers.service))
        .context("could not serve")?;
    // Ready means: calls are taken. Without an API they are answered `Unavailable`, and the status text says why.
    ctx.ready();
    let mut says = controllers.says;
    loop {
        ctx.status(&says.borrow_and_update().clone());
        tokio::select! {
            () = ctx.shutdown().cancelled() => return Ok(()),
            Ok(()) = says.changed() => {}
        }
    }
}

/// Everything but the process around it, so that tests can run it against a real API.
pub(crate) struct Controllers {
    pub(crate) service: Arc<Service>,
    /// What an operator should know, one line.
    pub(crate) says: watch::Receiver<String>,
}

impl Controllers {
    /// Starts the watches; inside a tokio runtime.
    pub(crate) fn start(source: Source, shutdown: CancellationToken) -> Self {
        let (clients, client) = watch::channel(None);
        let (say, says) = watch::channel(String::new());
        let (progress, mut listed) = watch::channel(Progress::default());
        let api = Api::new(client);
        let (world, wanted) = World::new();
        let service = Arc::new(Service::new(api.clone(), world.clone(), Records::new(api.clone())));

        let tell = say.clone();
        tokio::spawn(connection::keep(source, clients, shutdown, move |text| {
            tell.send_replace(text);
        }));
        for kind in [Kind::Node, Kind::Pod, Kind::ConfigMap, Kind::Secret] {
            tokio::spawn(watches::run(kind, api.clone(), world.clone(), progress.clone()));
        }
        tokio::spawn(watches::fetch(api.clone(), world, wanted));
        tokio::spawn(standalone::run(api));
        tokio::spawn(async move {
            if listed.wait_for(|progress| progress.listed == watches::WATCHES).await.is_ok() {
                say.send_replace("watching the Kubernetes API".to_owned());
            }
        });
        Self { service, says }
    }
}
