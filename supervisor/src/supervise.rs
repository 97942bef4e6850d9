//! The event loop: carries out what [`crate::policy`] and [`crate::order`] decide.

mod handover;
mod part;
mod start;
mod status;
mod waiting;
mod words;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use ipc::{Admission, Fail, Identity, Server};
use launch::Exit;
use proto::control::{self, ControlError, ControlServer, LinkReport, StatusReply};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use crate::accounts;
use crate::cgroup::Cgroups;
use crate::cli::Settings;
use crate::control::{Answer, Change, Control, Granted, Request};
use crate::links;
use crate::logs::{Logs, Sink, unix_millis};
use crate::manifest::check::SUPERVISOR;
use crate::manifest::{Manifest, Places};
use crate::notify::Notice;
use crate::order::{self, Member};
use crate::policy::{Action, Event, State};
use crate::reexec::{Handover, Kept, stop_signals};
use crate::setup::{self, RunLock, StartError};
use crate::wiring::{self, Link};
use handover::Progress;
use part::Part;
use start::NotStarted;

/// News waits here for the loop; whoever brings more waits itself.
const QUEUE: usize = 64;

/// An event loop that is later than this was itself held up (stopped, or its machine paused), and perhaps everybody else.
const LATE: Duration = Duration::from_secs(1);

/// Whose members may use the control socket, where there is such a group; else only root.
const CONTROL_GROUP: &str = "apiary";

/// What the loop reacts to, besides signals and the clock.
#[derive(Debug)]
enum Input {
    /// A component wrote to its notify socket.
    Notice { part: usize, pid: u32, notice: Notice },
    /// A process ended.
    Ended { part: usize, pid: u32, exit: Exit },
    /// A program was asked whether it can take over.
    Checked(Result<String, String>),
    /// Somebody asks.
    Control(Request),
}

impl From<Request> for Input {
    fn from(request: Request) -> Self {
        Self::Control(request)
    }
}

struct Supervisor<'a> {
    settings: &'a Settings,
    places: Arc<Places>,
    /// Our own program's file.
    program: PathBuf,
    parts: Vec<Part>,
    cgroups: Cgroups,
    logs: Arc<Logs>,
    inputs: mpsc::Sender<Input>,
    control: Server<ControlServer<Control<Input>>>,
    /// Who may call us; the listeners are among `own_listeners`.
    links: Vec<Link>,
    /// Copies of those that `control` serves, by path.
    own_listeners: Vec<(PathBuf, OwnedFd)>,
    /// Unix milliseconds of our own start, in the upper bits of every generation.
    started_ms: u64,
    /// Programs that took over since.
    reexecs: u64,
    reexec: Progress,
    stopping: bool,
    /// Components ready, as last told to systemd; `None` before everything has had its turn.
    announced: Option<usize>,
    lock: RunLock,
}

/// Starts everything, or takes it over from the program before, keeps it running, and returns after an ordered stop.
///
/// `program` is our own file: what is in it when somebody asks for a reexec takes over.
pub async fn run(
    settings: &Settings,
    manifest: Manifest,
    sink: Sink,
    program: PathBuf,
    left_to_us: Option<(Handover, Kept)>,
) -> Result<(), StartError> {
    // Before anything is started, so that an early signal stops it in order, too.
    let mut terminate = signal(SignalKind::terminate()).map_err(io("watch for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io("watch for SIGINT"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(io("watch for SIGHUP"))?;
    let (sender, mut inputs) = mpsc::channel(QUEUE);
    let mut supervisor = Supervisor::new(settings, &manifest, sink, program, sender, left_to_us)?;
    let mut alive = watchdog();
    loop {
        supervisor.drive();
        if supervisor.is_done() {
            break;
        }
        tokio::select! {
            // Its sender is in `supervisor`, so the queue is never closed.
            Some(input) = inputs.recv() => supervisor.handle(input),
            late = sleep_until(supervisor.deadline()) => {
                // Heartbeats that came in time may wait to be read.
                supervisor.settle(&mut inputs).await;
                if late > LATE {
                    supervisor.excuse(late);
                }
                supervisor.tick();
            }
            () = received(&mut terminate) => supervisor.stop("SIGTERM"),
            () = received(&mut interrupt) => supervisor.stop("SIGINT"),
            () = received(&mut hangup) => tracing::info!("SIGHUP ignored: components restart one by one, with edgectl restart"),
            // From this loop, so that systemd sees when it hangs.
            () = ticked(&mut alive) => drop(sd_notify::notify(&[sd_notify::NotifyState::Watchdog])),
        }
        if supervisor.reexec.due().is_some_and(|due| due <= Instant::now()) {
            // A signal that comes from here on waits for handlers: those of the new program, or ours again.
            report(stop_signals().thread_block().map_err(Into::into), "hold signals back");
            supervisor.settle(&mut inputs).await;
            if has_come(&mut terminate) {
                supervisor.stop("SIGTERM");
            }
            if has_come(&mut interrupt) {
                supervisor.stop("SIGINT");
            }
            if !supervisor.stopping {
                supervisor.hand_over();
            }
            report(stop_signals().thread_unblock().map_err(Into::into), "let signals in again");
        }
    }
    // A supervisor that comes next replaces sockets; one that is gone leaves none to talk to.
    let _ = std::fs::remove_file(wiring::control_path(&settings.run_dir));
    for part in &supervisor.parts {
        part.group.remove();
    }
    supervisor.cgroups.remove();
    tracing::info!("everything stopped");
    Ok(())
}

fn io(what: &str) -> impl FnOnce(std::io::Error) -> StartError {
    let what = what.to_owned();
    move |source| StartError::Io { what, source }
}

/// Ticks at half the time after which systemd takes us for hung; `None` when it does not watch.
fn watchdog() -> Option<Interval> {
    let period = sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|period| !period.is_zero())?;
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(ticks)
}

async fn ticked(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => drop(ticks.tick().await),
        None => std::future::pending().await,
    }
}

async fn received(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Whether it came and was not taken note of.
fn has_come(signal: &mut Signal) -> bool {
    matches!(signal.poll_recv(&mut Context::from_waker(Waker::noop())), Poll::Ready(Some(())))
}

/// By how much it is past.
async fn sleep_until(deadline: Option<Instant>) -> Duration {
    match deadline {
        Some(deadline) => {
            tokio::time::sleep_until(deadline.into()).await;
            deadline.elapsed()
        }
        None => std::future::pending().await,
    }
}

impl<'a> Supervisor<'a> {
    fn new(
        settings: &'a Settings,
        manifest: &Manifest,
        sink: Sink,
        program: PathBuf,
        inputs: mpsc::Sender<Input>,
        left_to_us: Option<(Handover, Kept)>,
    ) -> Result<Self, StartError> {
        let (handover, mut kept) =
            left_to_us.map_or_else(Default::default, |(handover, kept)| (Some(handover), kept));
        let lock = setup::take_directories(settings, &mut kept)?;
        let prepared = setup::prepare(settings, manifest, &mut kept)?;
        let links = setup::own_links(settings, manifest, &mut kept)?;
        let places = Arc::new(setup::places(settings, manifest));
        let logs = Arc::new(Logs::new(sink));
        let cgroups = Cgroups::open(&settings.run_dir);
        let parts: Vec<Part> = prepared.into_iter().map(|part| Part::new(part, &cgroups)).collect();
        cgroups.remove_others(&parts.iter().map(Part::name).collect::<Vec<_>>());
        let groups = parts.iter().map(|part| (part.name().to_owned(), Arc::clone(&part.group))).collect();
        let (started_ms, reexecs) = match &handover {
            Some(handover) => (handover.started_ms, handover.reexecs + 1),
            None => (unix_millis(SystemTime::now()), 0),
        };
        let control = Control::new(inputs.clone(), Arc::clone(&logs), groups, Arc::clone(&places));
        let us = Identity::new(settings.side.program(), (started_ms << 16) + reexecs);
        let mut supervisor = Self {
            settings,
            places,
            program,
            parts,
            cgroups,
            logs,
            inputs,
            control: Server::new(us, ControlServer::new(control)),
            links,
            own_listeners: Vec::new(),
            started_ms,
            reexecs,
            reexec: Progress::None,
            stopping: false,
            announced: None,
            lock,
        };
        supervisor.serve(&mut kept).map_err(io("serve the control socket"))?;
        supervisor.listen();
        match handover {
            None => supervisor.say_hello(),
            Some(handover) => supervisor.resume(handover, &mut kept),
        }
        Ok(supervisor)
    }

    /// Serves the control socket, for root and a group of people, and the link of each component that may call us.
    fn serve(&mut self, kept: &mut Kept) -> std::io::Result<()> {
        let path = wiring::control_path(&self.settings.run_dir);
        let listener = kept.listener(&path, 0o660)?;
        if let Some(gid) = accounts::group_id(CONTROL_GROUP).filter(|_| accounts::own_uid() == 0) {
            std::os::unix::fs::chown(&path, None, Some(gid))?;
        }
        self.own_listeners.push((path, listener.try_clone()?));
        self.control.serve(listener, Admission::AnyUser).map_err(std::io::Error::other)?;
        for link in &self.links {
            let path = wiring::path(&self.settings.run_dir, SUPERVISOR, &link.client);
            self.own_listeners.push((path, link.listener.try_clone()?));
            let admission = Admission::Link {
                client: link.client.clone(),
                uid: link.client_uid,
                methods: link.methods.clone(),
            };
            self.control.serve(link.listener.try_clone()?, admission).map_err(std::io::Error::other)?;
        }
        Ok(())
    }

    /// Takes in what has arrived, until nothing more comes, so that the program that takes over finds it done. What comes
    /// later waits in the kernel.
    async fn settle(&mut self, inputs: &mut mpsc::Receiver<Input>) {
        /// Somebody may write without a pause.
        const ROUNDS: usize = 100;
        /// The first asks the kernel, the second runs the tasks that wait for what it has.
        const QUIET: usize = 3;
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            tokio::task::yield_now().await;
            quiet += 1;
            while let Ok(input) = inputs.try_recv() {
                self.handle(input);
                quiet = 0;
            }
            if quiet == QUIET {
                return;
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.parts.iter().filter_map(|part| part.machine.deadline()).chain(self.reexec.due()).min()
    }

    /// One task per notify socket, for as long as we run.
    fn listen(&self) {
        for (part, component) in self.parts.iter().enumerate() {
            let socket = Arc::clone(&component.notify);
            let (inputs, name) = (self.inputs.clone(), component.name().to_owned());
            tokio::spawn(async move {
                loop {
                    match socket.receive().await {
                        Ok((pid, notice)) => {
                            if inputs.send(Input::Notice { part, pid, notice }).await.is_err() {
                                return;
                            }
                        }
                        Err(error) => {
                            tracing::error!(component = name, %error, "could not read the notify socket");
                            // Should it last, once a second is enough to say so.
                            tokio::time::sleep(Duration::from_secs(1)).await;
                        }
                    }
                }
            });
        }
    }

    fn say_hello(&self) {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            side = self.settings.side.program(),
            manifest = self.settings.manifest_name,
            run_dir = %self.settings.run_dir.display(),
            state_dir = %self.settings.state_dir.display(),
            "supervisor started",
        );
        if accounts::own_uid() != 0 {
            tracing::warn!(
                uid = accounts::own_uid(),
                "not root: every component runs under this uid, and they are not protected from each other",
            );
        }
        for part in &self.parts {
            for missing in &part.degraded {
                tracing::warn!(component = part.name(), "component is degraded: it runs without {missing}");
            }
        }
    }

    /// Starts or stops whatever has its turn.
    fn drive(&mut self) {
        loop {
            let members: Vec<Member> = self.parts.iter().map(Part::member).collect();
            let rank = if self.stopping { order::may_stop(&members) } else { order::may_start(&members) };
            let Some(rank) = rank else { break };
            let due: Vec<usize> = (0..self.parts.len())
                .filter(|index| match (self.stopping, members[*index]) {
                    (true, member) => member.rank == rank && !self.parts[*index].told_to_stop,
                    (false, member) => member.rank <= rank && member.at_rest && !member.settled,
                })
                .collect();
            if due.is_empty() {
                break;
            }
            // A start may fail on the spot, and a stop find nothing to do: then it is the next rank's turn.
            for index in due {
                if self.stopping {
                    self.parts[index].told_to_stop = true;
                    // Nobody in particular.
                    self.parts[index].record.asked_by.clear();
                }
                self.apply(index, if self.stopping { Event::Stop } else { Event::Turn });
            }
        }
        self.announce();
    }

    fn is_done(&self) -> bool {
        self.stopping && self.parts.iter().all(|part| part.machine.at_rest())
    }

    /// Tells systemd, once everything has had its turn: a component that fails must not make systemd end the others.
    fn announce(&mut self) {
        if self.stopping || !self.parts.iter().all(|part| part.machine.settled()) {
            return;
        }
        let ready = self.parts.iter().filter(|part| part.is_ready()).count();
        if self.announced == Some(ready) {
            return;
        }
        let first = self.announced.replace(ready).is_none();
        let status = format!("{ready} of {} components ready", self.parts.len());
        let status = sd_notify::NotifyState::Status(&status);
        // Does nothing outside systemd.
        let _ = if first {
            sd_notify::notify(&[sd_notify::NotifyState::Ready, status])
        } else {
            sd_notify::notify(&[status])
        };
    }

    fn stop(&mut self, signal: &str) {
        if self.stopping {
            tracing::warn!(signal, "told to stop again: killing what is left");
            for running in self.parts.iter().filter_map(|part| part.running.as_ref()) {
                report(running.process.kill(), "kill a component");
            }
            return;
        }
        tracing::info!(signal, "stopping");
        self.stopping = true;
        self.cancel_reexec();
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    }

    /// Nobody is judged by time in which we did not look.
    fn excuse(&mut self, late: Duration) {
        tracing::warn!(?late, "event loop was held up: every component gets its time anew");
        let now = Instant::now();
        for part in &mut self.parts {
            part.machine.excuse(now);
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        for index in 0..self.parts.len() {
            if self.parts[index].machine.deadline().is_some_and(|deadline| deadline <= now) {
                self.apply(index, Event::Tick);
            }
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Notice { part: index, pid, notice } => {
                let part = &mut self.parts[index];
                // News of an earlier process, or of a child of this one.
                if part.running.as_ref().is_none_or(|running| running.process.pid() != pid) {
                    return;
                }
                if let Some(status) = notice.status {
                    part.record.status_text = status;
                }
                if let Some(report) = notice.links {
                    part.links = report;
                }
                if notice.ready {
                    self.apply(index, Event::Ready);
                }
                if notice.alive {
                    self.apply(index, Event::Alive);
                }
            }
            Input::Ended { part: index, pid, exit } => {
                let served = self.is_served(index);
                let part = &mut self.parts[index];
                if part.running.as_ref().is_some_and(|running| running.process.pid() == pid) {
                    let code = part.ended(exit, served);
                    self.apply(index, Event::Ended { code });
                }
            }
            // Whoever asked may have left.
            Input::Control(Request::Status(answer)) => drop(answer.send(self.status())),
            Input::Control(Request::Links(answer)) => drop(answer.send(self.links())),
            Input::Control(Request::Privileges(answer)) => drop(answer.send(self.privileges())),
            Input::Control(Request::Reexec(answer)) => self.begin_reexec(answer),
            Input::Checked(result) => self.checked(result),
            Input::Control(Request::Change { component, change, by, answer }) => {
                self.change(&component, change, &by, answer);
            }
        }
    }

    /// Whether all that it calls were ready for as long as its process runs.
    fn is_served(&self, index: usize) -> bool {
        let part = &self.parts[index];
        let Some(begin) = part.running.as_ref().map(|running| running.since) else { return false };
        let calls = &part.prepared.component.calls;
        self.parts
            .iter()
            .filter(|server| calls.contains_key(server.name()))
            .all(|server| matches!(server.machine.state(), State::Ready { since, .. } if since <= begin))
    }

    fn change(&mut self, name: &str, change: Change, by: &str, answer: Answer) {
        let Some(index) = self.parts.iter().position(|part| part.name() == name) else { return };
        if self.stopping {
            let _ = answer.send(Err(Fail::new(ControlError::NotReady, "the supervisor is stopping")));
            return;
        }
        self.parts[index].ask(change, by, answer);
        let event = match change {
            Change::Start => Event::Start,
            Change::Stop => Event::Stop,
            Change::Restart => Event::Restart,
        };
        self.apply(index, event);
    }

    /// Lets the policy decide about one event, carries the decision out, and says what came of it.
    fn apply(&mut self, index: usize, mut event: Event) {
        loop {
            let part = &mut self.parts[index];
            let before = part.machine.state();
            let action = part.machine.step(event, Instant::now(), fastrand::f64());
            match action {
                None => {}
                Some(Action::Terminate) => part.terminate(),
                Some(Action::Kill(cause)) => part.kill(cause),
                Some(Action::Launch) => {
                    if let Err(not_started) = self.launch(index) {
                        let (next, reason) = match not_started {
                            NotStarted::Refused(reason) => (Event::Refused, reason),
                            NotStarted::Failed(reason) => (Event::Ended { code: None }, reason),
                        };
                        self.parts[index].record.last_exit = reason;
                        event = next;
                        continue;
                    }
                }
            }
            let part = &mut self.parts[index];
            part.note_change(before);
            part.answer_waiting();
            return;
        }
    }

    fn links(&self) -> Vec<control::Link> {
        let run_dir = &self.settings.run_dir;
        let counted = self.control.links();
        let own = LinkReport { links: counted.iter().map(control::Link::from).collect() };
        self.parts
            .iter()
            .flat_map(|part| links::merged(run_dir, part.name(), &part.prepared.links, &part.links))
            .chain(links::merged(run_dir, SUPERVISOR, &self.links, &own))
            .collect()
    }

    fn privileges(&self) -> (Vec<Granted>, Vec<control::Link>) {
        let granted = |part: &Part| {
            let pid = part.running.as_ref().map(|running| running.process.pid());
            (Arc::clone(&part.prepared), pid)
        };
        (self.parts.iter().map(granted).collect(), self.links())
    }

    fn status(&self) -> StatusReply {
        StatusReply {
            components: self.parts.iter().map(Part::status).collect(),
            supervisor: self.settings.side.program().to_owned(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            single_uid: accounts::own_uid() != 0,
            started_ms: self.started_ms,
            cgroup: self.cgroups.mode().to_owned(),
            reexecs: self.reexecs,
        }
    }
}

fn report(result: std::io::Result<()>, what: &str) {
    if let Err(error) = result {
        tracing::error!(%error, "could not {what}");
    }
}
