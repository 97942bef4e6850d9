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

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use ipc::{Fail, Peer};
    use pki::{CertificateAuthority, EcKey, NodeName};
    use proto::keyholder::{Keyholder, KeyholderError, KeyholderServer, PublicKeyReply, SignReply};
    use tokio_util::sync::CancellationToken;

    use super::*;

    struct Holder(EcKey);

    impl Keyholder for Holder {
        async fn public_key(
            &self,
            _: &Peer,
            _: PublicKeyRequest,
        ) -> Result<PublicKeyReply, Fail<KeyholderError>> {
            Ok(PublicKeyReply { point: self.0.public_point().to_vec().into() })
        }

        async fn sign(&self, _: &Peer, request: SignRequest) -> Result<SignReply, Fail<KeyholderError>> {
            let signature = rcgen::SigningKey::sign(&self.0.signer().unwrap(), &request.message).unwrap();
            Ok(SignReply { signature: signature.into() })
        }
    }

    /// keyholder on a thread of its own, since edgehub's calls to it block. Runs until the token is cancelled.
    fn serve(dir: &Path) -> (PathBuf, CancellationToken) {
        let (path, stop) = (dir.join("key.sock"), CancellationToken::new());
        let listener = ipc::bind(&path, 0o600).unwrap();
        let stopped = stop.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let service = KeyholderServer::new(Holder(EcKey::generate().unwrap()));
                let server = ipc::Server::new(ipc::Identity::new("keyholder", 1), service);
                server.serve(listener, ipc::Admission::AnyUser).unwrap();
                stopped.cancelled().await;
            });
        });
        (path, stop)
    }

    #[test]
    fn a_request_signed_by_keyholder_over_the_bus_is_one_the_ca_accepts() {
        let dir = tempfile::tempdir().unwrap();
        let (path, stop) = serve(dir.path());
        let channel = ipc::blocking::Channel::new(path, ipc::Identity::new("edgehub", 1));
        let key = key_source(KeyholderBlockingClient::new(channel))().unwrap();

        let node = NodeName::parse("edge-1").unwrap();
        let request = pki::node_request(&node, &key).unwrap();
        let ca = CertificateAuthority::create("KubeEdge").unwrap();
        // Checks the request's signature against its public key.
        let certificate = ca.sign_node(&node, &request, Duration::from_mins(1)).unwrap();
        let info = pki::CertificateInfo::from_der(&certificate).unwrap();
        assert_eq!(info.public_key, key.point());
        stop.cancel();
    }
}
