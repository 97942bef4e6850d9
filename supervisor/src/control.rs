//! The control socket: what `edgectl` asks. Requests go to the event loop through a bounded queue; logs are read here.

use std::sync::Arc;

use ipc::{Fail, Peer, Sink};
use proto::control::{
    self, ControlError, LinksReply, LinksRequest, LogLine, LogsRequest, PrivilegesReply, PrivilegesRequest,
    ReexecReply, ReexecRequest, RestartReply, RestartRequest, StartReply, StartRequest, StatusReply,
    StatusRequest, StopReply, StopRequest,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};

use crate::logs::{Line, Logs};

/// What the event loop answers.
#[derive(Debug)]
pub enum Request {
    /// Everything there is to know.
    Status(oneshot::Sender<StatusReply>),
    /// Restart one component; the answer comes when it is ready again, or is not.
    Restart(String, oneshot::Sender<Result<control::Component, Fail<ControlError>>>),
}

/// Serves the control interface.
#[derive(Debug)]
pub struct Control<T> {
    requests: mpsc::Sender<T>,
    logs: Arc<Logs>,
    names: Vec<String>,
}

impl<T: From<Request> + Send + 'static> Control<T> {
    /// `names` are the components there are.
    pub fn new(requests: mpsc::Sender<T>, logs: Arc<Logs>, names: Vec<String>) -> Self {
        Self { requests, logs, names }
    }

    async fn ask<R>(&self, request: Request, answer: oneshot::Receiver<R>) -> Result<R, Fail<ControlError>> {
        let gone = || Fail::new(ControlError::Unspecified, "the supervisor is ending");
        self.requests.send(request.into()).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    fn known(&self, component: &str) -> Result<(), Fail<ControlError>> {
        if self.names.iter().any(|name| name == component) {
            return Ok(());
        }
        let there = self.names.join(", ");
        Err(Fail::new(
            ControlError::NoComponent,
            format!("there is no component {component:?}; there are {there}"),
        ))
    }
}

impl<T: From<Request> + Send + 'static> control::Control for Control<T> {
    async fn status(&self, _: &Peer, _: StatusRequest) -> Result<StatusReply, Fail<ControlError>> {
        let (sender, answer) = oneshot::channel();
        self.ask(Request::Status(sender), answer).await
    }

    async fn restart(
        &self,
        peer: &Peer,
        request: RestartRequest,
    ) -> Result<RestartReply, Fail<ControlError>> {
        self.known(&request.component)?;
        tracing::info!(
            component = request.component,
            by_uid = peer.uid,
            by_pid = peer.pid,
            "restart requested"
        );
        let (sender, answer) = oneshot::channel();
        let component = self.ask(Request::Restart(request.component, sender), answer).await??;
        Ok(RestartReply { component: Some(component) })
    }

    async fn start(&self, _: &Peer, _: StartRequest) -> Result<StartReply, Fail<ControlError>> {
        Err(Fail::new(ControlError::Unspecified, "this supervisor cannot do that yet"))
    }

    async fn stop(&self, _: &Peer, _: StopRequest) -> Result<StopReply, Fail<ControlError>> {
        Err(Fail::new(ControlError::Unspecified, "this supervisor cannot do that yet"))
    }

    async fn reexec(&self, _: &Peer, _: ReexecRequest) -> Result<ReexecReply, Fail<ControlError>> {
        Err(Fail::new(ControlError::Unspecified, "this supervisor cannot do that yet"))
    }

    async fn links(&self, _: &Peer, _: LinksRequest) -> Result<LinksReply, Fail<ControlError>> {
        Err(Fail::new(ControlError::Unspecified, "this supervisor cannot do that yet"))
    }

    async fn privileges(
        &self,
        _: &Peer,
        _: PrivilegesRequest,
    ) -> Result<PrivilegesReply, Fail<ControlError>> {
        Err(Fail::new(ControlError::Unspecified, "this supervisor cannot do that yet"))
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
