//! The process: configuration, links, readiness.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use componentconfig::edgecore;
use lifecycle::Context;
use proto::keyholder::{KeyholderBlockingClient, PublicKeyRequest, SignRequest};
use proto::metamanager::{MetaManagerClient, SetLinkRequest};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::config::Settings;
use crate::keys::NodeKey;
use crate::{Hub, KeySource, Report};

/// Between tries to reach metamanager at start.
const START_RETRY: Duration = Duration::from_millis(200);

/// The process.
pub fn main() -> ExitCode {
    lifecycle::run("edgehub", run)
}

async fn run(ctx: Context) -> anyhow::Result<()> {
    let loaded = edgecore::load(ctx.config_path()).map_err(lifecycle::ConfigError::new)?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let settings = Settings::new(&loaded.config, ctx.config_path(), ctx.state_dir())
        .map_err(lifecycle::ConfigError::new)?;
    let meta = MetaManagerClient::new(ctx.call("metamanager").context("link to metamanager")?);
    let keyholder =
        KeyholderBlockingClient::new(ctx.call_blocking("keyholder").context("link to keyholder")?);
    let shutdown = ctx.shutdown().clone();

    // Ready means: the store answers. Whether the cloud does is a matter of status.
    while let Err(error) = meta.set_link(SetLinkRequest { connected: false }).await {
        warn!(%error, "metamanager does not answer");
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = sleep(START_RETRY) => {}
        }
    }
    ctx.ready();
    if !settings.enabled {
        info!("modules.edgeHub.enable is false: no cloud link");
        ctx.status("switched off in the configuration");
        shutdown.cancelled().await;
        return Ok(());
    }
    let report = Report::new(move |text| ctx.status(text));
    Hub::new(settings, meta, key_source(keyholder), report).run(&shutdown).await;
    Ok(())
}

fn key_source(keyholder: KeyholderBlockingClient) -> KeySource {
    Box::new(move || {
        let reply = keyholder.public_key(PublicKeyRequest {}).map_err(|error| error.to_string())?;
        let signer = keyholder.clone();
        let sign = move |message: &[u8]| {
            let request = SignRequest { message: message.to_vec().into() };
            signer.sign(request).map(|reply| reply.signature.to_vec()).map_err(|error| error.to_string())
        };
        NodeKey::new(&reply.point, Arc::new(sign))
            .ok_or_else(|| format!("its public key of {} bytes is no P-256 point", reply.point.len()))
    })
}
