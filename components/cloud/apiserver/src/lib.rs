//! A Kubernetes API for one machine: REST, watch, patch and discovery on SQLite. It serves `cloudcore --standalone`: our
//! controllers reach it through kube-rs as they would a cluster, people through `kubectl`.
//!
//! **What it holds:** every object, in `store.db`; a CA of its own (not KubeEdge's: that is the authority's) and the
//! client certificates of an administrator and of our controllers; the key of service account tokens. All in its state
//! directory.
//!
//! **Which untrusted bytes it touches:** TLS and HTTP from whoever reaches its port; after authentication, paths,
//! queries, objects and patches.
//!
//! **What keeps it safe:** connections, headers, bodies, objects, watches and their backlogs are bounded; nobody without
//! a certificate of its CA or a token of its key gets past `/healthz` and `/version`; every object passes Kubernetes' own
//! types before it is stored; what fails is answered with a `Status` that says what and why. Every write is one SQLite
//! transaction that is on disk before it is answered.
//!
//! **What it is not:** no RBAC (administrators and controllers may do everything, tokens of pods nothing), no scheduler
//! (a pod goes to the only node that fits), no field ownership (`managedFields` is dropped; server-side apply merges and
//! creates), no log, exec or port-forward, no garbage collection of owned objects.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]
#![cfg_attr(
    test,
    allow(clippy::needless_pass_by_value, reason = "`found(json!({…}))` reads better than with a reference")
)]

mod admission;
mod auth;
mod discovery;
mod error;
mod identity;
mod names;
mod object;
mod openapi;
mod patch;
mod protobuf;
mod registry;
mod resources;
mod rest;
mod review;
mod selectors;
mod server;
mod store;
mod table;
mod tokens;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Changes a watch can look back: with ten nodes that report every ten seconds, half an hour.
const HISTORY: u64 = 2000;

/// What the server needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address to listen on.
    pub address: IpAddr,
    /// TCP port; 0 takes a free one.
    pub port: u16,
    /// Further names and addresses the API is reached by, for its certificate.
    pub names: Vec<String>,
    /// Where the objects, the CA and `admin.kubeconfig` are.
    pub state: PathBuf,
    /// Where `controllers.kubeconfig` goes.
    pub runtime: PathBuf,
    /// Where a second copy of `admin.kubeconfig` goes.
    pub kubeconfig_copy: Option<PathBuf>,
}

/// The component.
pub fn main() -> ExitCode {
    lifecycle::run("apiserver", |ctx| async move {
        let loaded =
            componentconfig::cloudcore::load(ctx.config_path()).map_err(lifecycle::ConfigError::new)?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let standalone = &loaded.config.apiary.standalone;
        let hub = &loaded.config.modules.cloud_hub;
        let settings = Settings {
            address: standalone.address.parse().map_err(lifecycle::ConfigError::new)?,
            port: standalone.port,
            names: hub.advertise_address.iter().chain(&hub.dns_names).cloned().collect(),
            state: ctx.state_dir().to_owned(),
            runtime: ctx.runtime_dir().to_owned(),
            kubeconfig_copy: standalone.kubeconfig_dir.clone(),
        };
        let shutdown = ctx.shutdown().clone();
        serve(settings, shutdown, |address| {
            ctx.status(&format!("serving on {address}"));
            ctx.ready();
        })
        .await
    })
}

/// Serves until `shutdown`. `ready` is called once, with the address, when requests are answered and the kubeconfigs
/// are written.
pub async fn serve(
    settings: Settings,
    shutdown: CancellationToken,
    ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    let store = store::Store::open(&settings.state.join("store.db"), HISTORY)?;
    store.write(registry::namespaces::ensure).await.context("could not make the first namespaces")?;
    let authority = identity::authority(&settings.state)?;
    let tokens = tokens::Issuer::open(&settings.state.join("token.key"))?;
    let tls = identity::tls(&authority, settings.address, &settings.names)?;

    let wanted = SocketAddr::new(settings.address, settings.port);
    let listener =
        TcpListener::bind(wanted).await.with_context(|| format!("could not listen on {wanted}"))?;
    let address = listener.local_addr().context("could not read the listener's address")?;
    let reached = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new([127, 0, 0, 1].into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new([0, 0, 0, 0, 0, 0, 0, 1].into(), address.port())
        }
        _ => address,
    };
    let places = identity::Places {
        state: &settings.state,
        runtime: &settings.runtime,
        copy: settings.kubeconfig_copy.as_deref(),
    };
    identity::kubeconfigs(&authority, &format!("https://{reached}"), &places)?;
    // The CA's key is not needed any more.
    drop(authority);

    ready(address);
    tracing::info!(%address, "serving the Kubernetes API");
    let router = rest::router(store, auth::Authenticator::new(tokens), shutdown.clone());
    server::serve(listener, TlsAcceptor::from(Arc::new(tls)), router, shutdown).await;
    Ok(())
}
