//! All durable state of the node: revisioned store, watch, outbox.
//!
//! **What it holds:** one SQLite file with every object the cloud has sent (Secrets among them) and everything the node
//! still has to tell the cloud; in memory, questions that wait for the cloud's answer.
//!
//! **Which untrusted bytes it touches:** requests of edgehub and edged. Keys are checked for length; bodies are JSON that
//! it stores and hands on without looking inside.
//!
//! **What keeps it safe:** it calls nobody, has no network, and least code of all. The file and its folder are its user's
//! alone. Nothing is acknowledged before SQLite has synced it, so no death of any process at any instant loses anything
//! acknowledged. Every queue is bounded, and a slow watcher reads from the file instead of a queue. Bodies have no
//! `Debug`, so none reaches a log.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod convert;
mod decide;
mod object;
mod outgoing;
mod queries;
mod server;
mod store;
#[cfg(test)]
mod tests;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use lifecycle::Context;
use proto::metamanager::MetaManagerServer;

use server::State;
use store::{OpenError, Store};

/// The file in the state directory.
const FILE: &str = "state.db";

/// Runs metamanager until it is told to stop.
pub fn main() -> ExitCode {
    lifecycle::run("metamanager", run)
}

async fn run(mut ctx: Context) -> anyhow::Result<()> {
    let path = ctx.state_dir().join(FILE);
    let store = match Store::open(&path) {
        // Starting again does not help: the file belongs to a later version of this program.
        Err(error @ OpenError::Newer { .. }) => {
            return Err(lifecycle::ConfigError::new(error))
                .context(format!("could not open {}", path.display()));
        }
        opened => Arc::new(opened.with_context(|| format!("could not open {}", path.display()))?),
    };
    let events_dropped = store.events_dropped().await?;
    tracing::info!(store = %path.display(), epoch = store.epoch(), events_dropped, "store opened");
    if let Some(aside) = store.set_aside() {
        ctx.status(&format!("began a new store; the corrupt one is {}", aside.display()));
    }
    ctx.serve(MetaManagerServer::new(State::new(Arc::clone(&store))))?;
    ctx.ready();
    tokio::select! {
        () = ctx.shutdown().cancelled() => Ok(()),
        () = store.corrupt() => bail!("store {} is damaged: ending, to check it at the next start", path.display()),
    }
}
