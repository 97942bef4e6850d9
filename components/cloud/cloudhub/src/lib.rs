//! TLS sessions of all edges; no Kubernetes credentials, no CA key.
//!
//! Holds: the hub's own TLS key, and one session per connected edge with the messages that edge has not acknowledged.
//! Untrusted bytes: everything on ports 10000 and 10002: TLS, HTTP, WebSocket frames, JSON messages.
//! What keeps it safe:
//! - A session belongs to the node in its certificate; a `node_id` header that says otherwise ends the connection. No
//!   message carries an identity of its own.
//! - Sizes are bounded before they are allocated (requests 64 KiB, messages 4 MiB), so are times (handshakes 10 s) and
//!   numbers (handshakes, sessions, messages in flight, uploads waiting).
//! - What goes up is one bounded field of a typed call to controllers, which decides what it may do; what comes to be
//!   signed is one of a typed call to authority.
//! - Log lines a peer can cause are limited in number.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod api;
mod certificate;
mod listener;
mod registry;
mod session;
#[cfg(test)]
mod tests;
mod throttle;
mod token;
mod websocket;

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use componentconfig::cloudcore::{CloudHub, Endpoint};
use lifecycle::{ConfigError, Context};
use proto::authority::AuthorityClient;
use proto::controllers::ControllersClient;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::registry::Registry;

/// What every connection works with.
struct Hub {
    authority: AuthorityClient,
    controllers: ControllersClient,
    registry: Registry,
    /// A session without any sign of life for this long ends.
    silence: Duration,
    shutdown: CancellationToken,
}

/// The process.
pub fn main() -> ExitCode {
    lifecycle::run("cloudhub", run)
}

async fn run(ctx: Context) -> anyhow::Result<()> {
    let loaded = componentconfig::cloudcore::load(ctx.config_path()).map_err(ConfigError::new)?;
    for warning in &loaded.warnings {
        tracing::debug!("{warning}");
    }
    let config = loaded.config.modules.cloud_hub;
    let hub = Arc::new(Hub {
        authority: AuthorityClient::new(ctx.call("authority")?),
        controllers: ControllersClient::new(ctx.call("controllers")?),
        registry: Registry::new(config.node_limit as usize),
        silence: Duration::from_secs(u64::from(config.keepalive_interval)),
        shutdown: ctx.shutdown().clone(),
    });
    let websocket = bind(&config.websocket).await?;
    let https = bind(&config.https).await?;

    ctx.status("waiting for authority");
    let wanted = certificate::Names::wanted(&config);
    let acceptors = certificate::keep(hub.authority.clone(), ctx.state_dir().to_owned(), wanted).await?;
    tokio::spawn(token::publish(hub.clone(), refresh(&config)));
    tokio::spawn(listener::run(websocket, acceptors.clone(), hub.clone(), websocket::serve));
    tokio::spawn(listener::run(https, acceptors, hub.clone(), api::serve));

    ctx.ready();
    ctx.status(&format!("edges connect to ports {} and {}", config.websocket.port, config.https.port));
    ctx.shutdown().cancelled().await;
    hub.registry.drained().await;
    Ok(())
}

fn refresh(config: &CloudHub) -> Duration {
    Duration::from_hours(u64::from(config.token_refresh_duration))
}

async fn bind(endpoint: &Endpoint) -> anyhow::Result<TcpListener> {
    let address: IpAddr = endpoint
        .address
        .parse()
        .with_context(|| format!("{:?} is no IP address", endpoint.address))
        .map_err(ConfigError::new)?;
    let address = SocketAddr::new(address, endpoint.port);
    TcpListener::bind(address).await.with_context(|| format!("could not listen on {address}"))
}
