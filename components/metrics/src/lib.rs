//! What the supervisor knows of its components and links, for Prometheus: `GET /metrics` on a Unix socket, and on a
//! loopback port where the installation grants one.
//!
//! **What it holds:** nothing but the last answer, for a second. **Which untrusted bytes it touches:** the HTTP requests of
//! whoever may connect. **What keeps it safe:** it is a process of its own, so that the supervisor parses no HTTP; it has
//! no network, since it inherits its listeners, and may ask the supervisor for two things only. Connections are bounded in
//! number, time and head size, request bodies are not read, and however many scrape, the supervisor is asked once a second.
//!
//! The same role runs on both sides, under a supervisor each. Names and units follow Prometheus' conventions; a counter
//! that begins again at 0 after a restart is what `rate()` expects.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod families;
mod http_server;
mod scrape;
mod text;

use std::process::ExitCode;

use anyhow::Context as _;
use lifecycle::{ConfigError, Context, InheritedListener};
use tokio::net::{TcpListener, UnixListener};

use http_server::{Door, Site};
use scrape::Scrapes;

/// The listeners a manifest may give, by name.
const LISTENERS: [&str; 2] = ["http", "tcp"];

/// Runs the component until it is asked to end.
pub fn main() -> ExitCode {
    lifecycle::run("metrics", run)
}

async fn run(mut ctx: Context) -> anyhow::Result<()> {
    let site = Site::new(Scrapes::new(ctx.call("supervisor")?));
    let mut doors = 0;
    for name in LISTENERS {
        let Some(listener) = ctx.listener(name) else { continue };
        let door =
            door(listener).with_context(|| format!("could not serve the inherited listener {name}"))?;
        tokio::spawn(site.clone().serve(door));
        doors += 1;
    }
    if doors == 0 {
        let missing =
            "no listener was inherited; the manifest gives them: listen = { http = \"/path.sock\" }";
        return Err(ConfigError::message(missing).into());
    }
    ctx.ready();
    ctx.shutdown().cancelled().await;
    Ok(())
}

fn door(listener: InheritedListener) -> std::io::Result<Door> {
    Ok(match listener {
        InheritedListener::Unix(listener) => {
            listener.set_nonblocking(true)?;
            Door::Unix(UnixListener::from_std(listener)?)
        }
        InheritedListener::Tcp(listener) => {
            listener.set_nonblocking(true)?;
            Door::Tcp(TcpListener::from_std(listener)?)
        }
    })
}
