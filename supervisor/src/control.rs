//! The control socket: what `edgectl` asks. Requests go to the event loop through a bounded queue; logs are read here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipc::{Fail, Peer, Sink};
use proto::control::{
    self, Component, ControlError, LinksReply, LinksRequest, LogLine, LogsRequest, PrivilegesReply,
    PrivilegesRequest, ReexecReply, ReexecRequest, RestartReply, RestartRequest, StartReply, StartRequest,
    StatusReply, StatusRequest, StopReply, StopRequest,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};

use crate::cgroup::Group;
use crate::exposure;
use crate::logs::{Line, Logs};
use crate::manifest::Places;
use crate::setup::Prepared;
use crate::usage;

/// For reading what the kernel knows of all processes: a hundred times what it takes.
const LOOK_LIMIT: Duration = Duration::from_secs(3);

/// What the event loop answers. It fills in what it knows without asking the kernel; the rest is filled in here.
#[derive(Debug)]
pub enum Request {
    /// Everything there is to know.
    Status(oneshot::Sender<StatusReply>),
    /// A change of one component.
    Change {
        /// Which one.
        component: String,
        /// What is asked for.
        change: Change,
        /// Who asks, for logs and `edgectl status`.
        by: String,
        /// The answer, once it came true or cannot.
        answer: Answer,
    },
    /// Every link.
    Links(oneshot::Sender<Vec<control::Link>>),
    /// What privileges are judged by: each component with its process, and every link.
    Privileges(oneshot::Sender<(Vec<Granted>, Vec<control::Link>)>),
    /// Let the program that is now in our file take over; the answer is its version.
    Reexec(oneshot::Sender<Result<String, Fail<ControlError>>>),
}

/// A component, and its process when it runs.
pub type Granted = (Arc<Prepared>, Option<u32>);

/// A place for the component as it is after a change.
pub type Answer = oneshot::Sender<Result<Component, Fail<ControlError>>>;

/// What may be asked of one component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A process, if it has none; answered when it is ready, or is not.
    Start,
    /// No process; answered when it is gone.
    Stop,
    /// Another process; answered when it is ready, or is not.
    Restart,
}

/// Serves the control interface.
#[derive(Debug)]
pub struct Control<T> {
    requests: mpsc::Sender<T>,
    logs: Arc<Logs>,
    groups: Arc<BTreeMap<String, Arc<Group>>>,
    places: Arc<Places>,
}

impl<T: From<Request> + Send + 'static> Control<T> {
    /// `groups` are the components there are, with their control groups; `places` are the manifest's.
    pub fn new(
        requests: mpsc::Sender<T>,
        logs: Arc<Logs>,
        groups: BTreeMap<String, Arc<Group>>,
        places: Arc<Places>,
    ) -> Self {
        Self { requests, logs, groups: Arc::new(groups), places }
    }

    async fn ask<R>(
        &self,
        request: impl FnOnce(oneshot::Sender<R>) -> Request,
    ) -> Result<R, Fail<ControlError>> {
        let gone = || Fail::new(ControlError::Unspecified, "the supervisor is ending");
        let (sender, answer) = oneshot::channel();
        self.requests.send(request(sender).into()).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    async fn change(
        &self,
        peer: &Peer,
        component: String,
        change: Change,
    ) -> Result<Option<Component>, Fail<ControlError>> {
        self.known(&component)?;
        tracing::info!(component, by = peer.component, by_pid = peer.pid, "{} requested", change.verb());
        let by = peer.component.clone();
        let changed = self.ask(|answer| Request::Change { component, change, by, answer }).await??;
        Ok(self.with_usage(vec![changed]).await.pop())
    }

    /// Fills in what the kernel knows. On a thread beside the event loop: adding up a process's pages takes the kernel
    /// milliseconds, in which no component that ended would be started again; and it may have to wait for a process that
    /// hangs in the kernel. Then the figures are left out.
    async fn with_usage(&self, components: Vec<Component>) -> Vec<Component> {
        let (groups, mut filled) = (Arc::clone(&self.groups), components.clone());
        let fill = move || {
            for component in filled.iter_mut().filter(|component| component.pid != 0) {
                component.pss_kib = usage::pss_kib(component.pid);
                component.cpu_ns = usage::cpu_ns(component.pid);
                component.threads = usage::threads(component.pid);
                component.memory_kib = groups.get(&component.name).map_or(0, |group| group.memory_kib());
            }
            filled
        };
        aside(fill).await.unwrap_or(components)
    }

    fn known(&self, component: &str) -> Result<(), Fail<ControlError>> {
        if self.groups.contains_key(component) {
            return Ok(());
        }
        let there = self.groups.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Err(Fail::new(
            ControlError::NoComponent,
            format!("there is no component {component:?}; there are {there}"),
        ))
    }
}

/// Runs what may wait for the kernel beside the event loop; `None` when it takes longer than [`LOOK_LIMIT`].
async fn aside<R: Send + 'static>(look: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    let task = tokio::task::spawn_blocking(look);
    let waiting = task.abort_handle();
    let result = tokio::time::timeout(LOOK_LIMIT, task).await;
    // If it has not begun, because those before it hang, it never needs to.
    waiting.abort();
    result.ok()?.ok()
}

impl Change {
    /// As in "restart requested".
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }
}

impl<T: From<Request> + Send + 'static> control::Control for Control<T> {
    async fn status(&self, _: &Peer, _: StatusRequest) -> Result<StatusReply, Fail<ControlError>> {
        let mut reply = self.ask(Request::Status).await?;
        reply.components = self.with_usage(reply.components).await;
        Ok(reply)
    }

    async fn restart(
        &self,
        peer: &Peer,
        request: RestartRequest,
    ) -> Result<RestartReply, Fail<ControlError>> {
        let component = self.change(peer, request.component, Change::Restart).await?;
        Ok(RestartReply { component })
    }

    async fn start(&self, peer: &Peer, request: StartRequest) -> Result<StartReply, Fail<ControlError>> {
        let component = self.change(peer, request.component, Change::Start).await?;
        Ok(StartReply { component })
    }

    async fn stop(&self, peer: &Peer, request: StopRequest) -> Result<StopReply, Fail<ControlError>> {
        let component = self.change(peer, request.component, Change::Stop).await?;
        Ok(StopReply { component })
    }

    async fn reexec(&self, peer: &Peer, _: ReexecRequest) -> Result<ReexecReply, Fail<ControlError>> {
        tracing::info!(by = peer.component, by_pid = peer.pid, "reexec requested");
        Ok(ReexecReply { version: self.ask(Request::Reexec).await?? })
    }

    async fn links(&self, _: &Peer, _: LinksRequest) -> Result<LinksReply, Fail<ControlError>> {
        Ok(LinksReply { links: self.ask(Request::Links).await? })
    }

    async fn privileges(
        &self,
        _: &Peer,
        _: PrivilegesRequest,
    ) -> Result<PrivilegesReply, Fail<ControlError>> {
        let (granted, links) = self.ask(Request::Privileges).await?;
        let places = Arc::clone(&self.places);
        let assess = move || {
            granted.iter().map(|(prepared, pid)| exposure::assess(prepared, &places, *pid, &links)).collect()
        };
        let processes = aside(assess).await.ok_or_else(|| {
            Fail::new(
                ControlError::Unspecified,
                "a process hangs in the kernel, so that its files in /proc cannot be read",
            )
        })?;
        Ok(PrivilegesReply { processes })
    }

    async fn logs(
        &self,
        _: &Peer,
        request: LogsRequest,
        out: Sink<LogLine>,
    ) -> Result<(), Fail<ControlError>> {
        self.known(&request.component)?;
        let tail = usize::try_from(request.tail).unwrap_or(usize::MAX);
        let (kept, mut news) = self.logs.read(&request.component, tail);
        for line in kept {
            if out.send(line.into()).await.is_err() {
                return Ok(());
            }
        }
        if !request.follow {
            return Ok(());
        }
        loop {
            let line = match news.recv().await {
                Ok(line) if line.component == request.component => line.into(),
                Ok(_) => continue,
                Err(RecvError::Lagged(missed)) => LogLine {
                    component: request.component.clone(),
                    line: format!("({missed} lines of all components went by unread)"),
                    ..LogLine::default()
                },
                Err(RecvError::Closed) => return Ok(()),
            };
            if out.send(line).await.is_err() {
                return Ok(());
            }
        }
    }
}

impl From<Line> for LogLine {
    fn from(line: Line) -> Self {
        Self {
            component: line.component,
            pid: line.pid,
            generation: line.generation,
            time_ms: line.time_ms,
            line: line.text,
        }
    }
}
