//! The API by hand: `cargo run -p apiserver --example apiserver -- DIRECTORY [PORT]`, then
//! `kubectl --kubeconfig DIRECTORY/admin.kubeconfig …`. Ctrl-C ends it; the directory keeps everything.

use std::path::PathBuf;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().context("usage: apiserver DIRECTORY [PORT]")?);
    let port = arguments.next().map_or(Ok(0), |port| port.parse()).context("PORT is not a port number")?;
    std::fs::create_dir_all(&directory)?;
    let settings = apiserver::Settings {
        address: [127, 0, 0, 1].into(),
        port,
        names: Vec::new(),
        state: directory.clone(),
        runtime: directory.clone(),
        kubeconfig_copy: None,
    };
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    apiserver::serve(settings, shutdown, |address| {
        eprintln!("serving on {address}: kubectl --kubeconfig {}/admin.kubeconfig", directory.display());
    })
    .await
}
