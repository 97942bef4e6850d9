//! What a component is given when it starts.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use ipc::{Admission, Identity};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::environment::Environment;
use crate::listener::InheritedListener;
use crate::notify::{notify, notify_surely};
use crate::{LinkError, report};

/// A component's place in the system: directories, links, and the conversation with its supervisor.
#[derive(Debug)]
pub struct Context {
    identity: Identity,
    config: Option<PathBuf>,
    state: PathBuf,
    runtime: PathBuf,
    calls: BTreeMap<String, PathBuf>,
    listeners: Option<Vec<(OwnedFd, Admission)>>,
    sockets: BTreeMap<String, InheritedListener>,
    shutdown: CancellationToken,
    watchdog: Once,
}

impl Context {
    pub(crate) fn new(environment: Environment, shutdown: CancellationToken) -> Self {
        let Environment { name, generation, config, state, runtime, calls, listeners, sockets } = environment;
        Self {
            identity: Identity::new(name, generation),
            config,
            state,
            runtime,
            calls,
            listeners: Some(listeners),
            sockets,
            shutdown,
            watchdog: Once::new(),
        }
    }

    /// The configuration file, which may not exist; `None` when there is none.
    pub fn config_path(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Where the component keeps what must survive: its own, mode 0700.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// Where the component puts what others may find while it runs.
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime
    }

    /// Tells this start of the component from every other; rises.
    pub fn generation(&self) -> u64 {
        self.identity.generation
    }

    /// Cancelled on SIGTERM and SIGINT. The component then has 5 s to return.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// A channel to a server this component may call; connects at its first call.
    pub fn call(&self, server: &str) -> Result<ipc::Channel, LinkError> {
        Ok(ipc::Channel::new(self.link(server)?, self.identity.clone()))
    }

    /// The same for code that cannot wait asynchronously.
    pub fn call_blocking(&self, server: &str) -> Result<ipc::blocking::Channel, LinkError> {
        Ok(ipc::blocking::Channel::new(self.link(server)?, self.identity.clone()))
    }

    fn link(&self, server: &str) -> Result<&Path, LinkError> {
        self.calls.get(server).map(PathBuf::as_path).ok_or_else(|| LinkError::NoLink {
            server: server.to_owned(),
            known: self.calls.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        })
    }

    /// Serves every inherited listener until the process ends. Once per process.
    pub fn serve<S: ipc::Service>(&mut self, service: S) -> Result<(), LinkError> {
        let listeners = self.listeners.take().ok_or(LinkError::AlreadyServed)?;
        let server = ipc::Server::new(self.identity.clone(), service);
        for (listener, admission) in listeners {
            server.serve(listener, admission)?;
        }
        // The server stops when it is dropped; this one goes with the runtime, even if the component drops its context.
        tokio::spawn(report::links(server));
        Ok(())
    }

    /// A listener of the manifest's `listen`, by its name there; `None` when the supervisor gave none, or the second
    /// time.
    pub fn listener(&mut self, name: &str) -> Option<InheritedListener> {
        self.sockets.remove(name)
    }

    /// Tells the supervisor that this component serves, and from now on, at half the watchdog interval, that it is alive.
    pub fn ready(&self) {
        notify_surely("READY=1\n");
        self.watchdog.call_once(|| {
            if let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) {
                tokio::spawn(tick(limit / 2));
            }
        });
    }

    /// One line for `edgectl status`: what the component is doing. Line breaks become spaces.
    pub fn status(&self, text: &str) {
        notify(&format!("STATUS={}\n", text.replace('\n', " ")));
    }
}

/// A task of the component's own runtime, so that a runtime that hangs is noticed.
async fn tick(period: Duration) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        notify("WATCHDOG=1\n");
    }
}
