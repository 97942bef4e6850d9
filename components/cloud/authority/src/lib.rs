//! The CA key: signs certificates, mints join tokens.
//!
//! Holds: the CA's private key, which is also the HMAC key of join tokens, in its state directory and nowhere else.
//! Untrusted bytes: certificate requests, tokens and certificates that came from the network, each handed over by cloudhub
//! as one bounded field of a typed call; no socket but the link to cloudhub is open here.
//! What keeps it safe: subject, usage and names of every certificate come from what was authenticated, never from the
//! request; one method per purpose, so a token holder can get a certificate for one node's client side and nothing else.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod service;
mod store;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use lifecycle::{ConfigError, Context};

use crate::service::Service;

/// The process.
pub fn main() -> ExitCode {
    lifecycle::run("authority", run)
}

async fn run(mut ctx: Context) -> anyhow::Result<()> {
    let loaded = componentconfig::cloudcore::load(ctx.config_path()).map_err(ConfigError::new)?;
    for warning in &loaded.warnings {
        tracing::debug!("{warning}");
    }
    let ca = store::open(ctx.state_dir())?;
    let node_validity =
        Duration::from_hours(24 * u64::from(loaded.config.modules.cloud_hub.edge_cert_signing_duration));
    ctx.serve(proto::authority::AuthorityServer::new(Service::new(ca, node_validity)))
        .context("could not serve")?;
    ctx.ready();
    ctx.shutdown().cancelled().await;
    Ok(())
}
