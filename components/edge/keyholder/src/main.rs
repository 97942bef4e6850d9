//! Holds the node's private key and signs on request.
//!
//! **What it holds:** the node's ECDSA P-256 key, in `node.key` (PKCS#8, mode 0600) in its state directory and in memory.
//! It is made here, at the first start, and never leaves. In `ps` it is `keyholder`, user `edge-key`.
//!
//! **Which untrusted bytes it touches:** the messages edgehub asks it to sign, which it hashes and does not interpret. No
//! byte of the network reaches it unparsed.
//!
//! **What keeps it safe:** it has no network, no TLS or HTTP code, one file, and two methods. A caller that was taken
//! over can have things signed while it runs, but cannot take the key with it.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod key;
mod service;

use std::process::ExitCode;

use proto::keyholder::KeyholderServer;

use crate::key::NodeKey;
use crate::service::Signer;

fn main() -> ExitCode {
    lifecycle::run("keyholder", run)
}

async fn run(mut ctx: lifecycle::Context) -> anyhow::Result<()> {
    let key = NodeKey::load_or_create(ctx.state_dir())?;
    ctx.serve(KeyholderServer::new(Signer::new(key)))?;
    ctx.ready();
    ctx.shutdown().cancelled().await;
    Ok(())
}
