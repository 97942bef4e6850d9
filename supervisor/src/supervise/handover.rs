//! Handing everything over to another program in this process, and taking it over from one.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc::Fail;
use launch::{CapabilitySet, Confinement, Exit, Launch, Process};
use prost::Message as _;
use proto::control::{ControlError, LinkReport};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::part::{Part, Running};
use super::{Input, Supervisor, report};
use crate::policy::{Machine, Policy};
use crate::reexec::{self, Clock, Handover, Kept, stop_signals};
use crate::wiring;

/// For the check of the new program: it reads files and looks up users.
const CHECK_LIMIT: Duration = Duration::from_secs(30);
/// The most of what it prints that is read.
const CHECK_OUTPUT: u64 = 16 * 1024;
/// For the answer to leave before its connection ends with the program; who does not get it asks once more.
const ANSWER_TIME: Duration = Duration::from_millis(100);
/// For a component that the new manifest does not have.
const FAREWELL: Duration = Duration::from_secs(10);

/// The answer to a request to reexec: the version that takes over.
pub(crate) type Answer = oneshot::Sender<Result<String, Fail<ControlError>>>;

/// How far a reexec is.
#[derive(Debug, Default)]
pub(super) enum Progress {
    #[default]
    None,
    /// The new program is checked.
    Checking(Answer),
    /// The new program takes over now.
    Due(Instant),
}

impl Progress {
    pub(super) fn due(&self) -> Option<Instant> {
        match self {
            Self::Due(at) => Some(*at),
            Self::None | Self::Checking(_) => None,
        }
    }
}

impl Supervisor<'_> {
    /// Begins to check the program that is now in our file.
    pub(super) fn begin_reexec(&mut self, answer: Answer) {
        let refuse = |answer: Answer, why: &str| {
            let _ = answer.send(Err(Fail::new(ControlError::Unsuitable, why)));
        };
        if self.stopping {
            return refuse(answer, "the supervisor is stopping");
        }
        if !matches!(self.reexec, Progress::None) {
            return refuse(answer, "another program is about to take over already");
        }
        let checked = match start_check(&self.program) {
            Ok(checked) => checked,
            Err(error) => return refuse(answer, &error.to_string()),
        };
        self.reexec = Progress::Checking(answer);
        let (inputs, program) = (self.inputs.clone(), self.program.clone());
        tokio::spawn(async move {
            let result = checked.result(&program).await;
            let _ = inputs.send(Input::Checked(result)).await;
        });
    }

    /// Goes on, or not, when the check has ended.
    pub(super) fn checked(&mut self, result: Result<String, String>) {
        let Progress::Checking(answer) = std::mem::take(&mut self.reexec) else { return };
        match &result {
            Ok(version) => {
                tracing::info!(version, program = %self.program.display(), "another program takes over");
                self.reexec = Progress::Due(Instant::now() + ANSWER_TIME);
            }
            Err(why) => tracing::error!(program = %self.program.display(), why, "program cannot take over"),
        }
        let _ = answer.send(result.map_err(|why| Fail::new(ControlError::Unsuitable, why)));
    }

    /// The program that was told to stop does so itself: the next one would not know of it.
    pub(super) fn cancel_reexec(&mut self) {
        match std::mem::take(&mut self.reexec) {
            Progress::None => {}
            Progress::Checking(answer) => {
                let _ = answer.send(Err(Fail::new(ControlError::Unsuitable, "the supervisor is stopping")));
            }
            Progress::Due(_) => tracing::warn!("no other program takes over: this one stops"),
        }
    }

    /// Becomes the new program; with the stop signals blocked, as it has no handlers at first: one must not end it, and
    /// everything with it. Returns only when the kernel refuses it, with nothing changed.
    pub(super) fn hand_over(&mut self) {
        self.reexec = Progress::None;
        let error = match self.exec() {
            Ok(never) => match never {},
            Err(error) => error,
        };
        tracing::error!(%error, program = %self.program.display(), "could not hand over; this program goes on");
    }

    fn exec(&self) -> io::Result<std::convert::Infallible> {
        let parts = self.parts.iter().map(|part| part.save(&self.logs, Clock::now())).collect();
        let handover = Handover::new(self.started_ms, self.reexecs, parts, self.logs.all());
        let descriptors = self.descriptors();
        let file = handover.write(&descriptors)?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&file).to_string();
        let env = std::env::vars_os()
            .filter(|(name, _)| name != reexec::VARIABLE)
            .chain([(reexec::VARIABLE.into(), number.into())])
            .collect::<Vec<_>>();
        let args: Vec<OsString> = std::env::args_os().collect();
        let keep: Vec<BorrowedFd<'_>> = descriptors.iter().map(|(_, fd)| *fd).chain([file.as_fd()]).collect();
        self.logs.flush(Duration::from_millis(100));
        Err(launch::exec_self(&self.program, &args, &env, &keep))
    }

    fn descriptors(&self) -> Vec<(String, BorrowedFd<'_>)> {
        let run_dir = &self.settings.run_dir;
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut all: Vec<_> =
            self.own_listeners.iter().map(|(path, fd)| (text(path.clone()), fd.as_fd())).collect();
        all.push(("lock".to_owned(), self.lock.as_fd()));
        for part in &self.parts {
            let (name, prepared) = (part.name(), &part.prepared);
            all.push((text(wiring::notify_path(run_dir, name)), part.notify.as_fd()));
            for link in &prepared.links {
                all.push((text(wiring::path(run_dir, name, &link.client)), link.listener.as_fd()));
            }
            // Both in order of name.
            for (listener, address) in prepared.listeners.iter().zip(prepared.component.listen.values()) {
                if let Ok(address) = self.places.fill(address) {
                    all.push((address, listener.listener.as_fd()));
                }
            }
            if let Some(running) = &part.running {
                all.push((reexec::pidfd(name), running.process.as_ref().as_fd()));
                all.push((reexec::output(name), running.output.as_fd()));
            }
        }
        all
    }

    /// Takes over what the program before has left.
    pub(super) fn resume(&mut self, handover: Handover, kept: &mut Kept) {
        self.started_ms = handover.started_ms;
        self.reexecs = handover.reexecs + 1;
        self.logs.restore(handover.lines);
        let clock = Clock::now();
        for saved in handover.parts {
            let name = saved.name.clone();
            let Some(index) = self.parts.iter().position(|part| part.name() == name) else {
                dismiss(saved, kept);
                continue;
            };
            let pid = saved.running.as_ref().map(|running| running.pid);
            match self.parts[index].resume(saved, clock, kept) {
                Ok(None) => {}
                Ok(Some((output, unfinished))) => self.watch(index, output, unfinished),
                Err(error) => {
                    tracing::error!(component = name, %error, "could not take over a component: it is started anew");
                    // Ours, and not reaped: the number still names it.
                    if let Some(pid) = pid {
                        launch::give_up(pid);
                    }
                    self.parts[index].group.sweep();
                }
            }
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            reexecs = self.reexecs,
            "took over from another program"
        );
        // Blocked by the program before; there are handlers now.
        report(stop_signals().thread_unblock().map_err(io::Error::from), "let signals in again");
    }
}

impl Part {
    fn save(&self, logs: &crate::logs::Logs, clock: Clock) -> reexec::Part {
        let running = self.running.as_ref().map(|running| reexec::Running {
            pid: running.process.pid(),
            generation: running.generation,
            since: clock.number(running.since),
            exec: self.exec.to_string_lossy().into_owned(),
            granted: running.granted.clone(),
            killed_for: self.killed_for,
            memory_kills_before: self.memory_kills_before,
            unfinished: logs.unfinished(running.process.pid()),
            links: self.links.encode_to_vec(),
        });
        reexec::Part {
            name: self.name().to_owned(),
            state: self.machine.state().map(|instant| clock.number(instant)),
            strikes: self.machine.strikes(),
            settled: self.machine.settled(),
            record: self.record.clone(),
            program: self.program.clone(),
            running,
        }
    }

    /// Goes on as the program before left it; gives back what its process writes, and the beginning of a line.
    fn resume(
        &mut self,
        saved: reexec::Part,
        clock: Clock,
        kept: &mut Kept,
    ) -> io::Result<Option<(pipe::Receiver, Vec<u8>)>> {
        let name = saved.name;
        self.record = saved.record;
        self.program = saved.program;
        let machine = Machine::resumed(
            Policy::from(&self.prepared.component),
            saved.state.map(|number| clock.instant(number)),
            saved.strikes,
            saved.settled,
        );
        let Some(running) = saved.running else {
            self.machine = machine;
            return Ok(None);
        };
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let pidfd = kept.take(&reexec::pidfd(&name)).ok_or_else(missing)?;
        let output = kept.take(&reexec::output(&name)).ok_or_else(missing)?;
        let receiver = pipe::Receiver::from_owned_fd(output.try_clone()?)?;
        let process = Arc::new(Process::adopt(running.pid, pidfd)?);
        self.machine = machine;
        self.exec = running.exec.into();
        self.killed_for = running.killed_for;
        self.memory_kills_before = running.memory_kills_before;
        self.links = LinkReport::decode(running.links.as_slice()).unwrap_or_default();
        self.running = Some(Running {
            process,
            output,
            generation: running.generation,
            since: clock.instant(running.since),
            granted: running.granted,
        });
        Ok(Some((receiver, running.unfinished)))
    }
}

/// Ends the process of a component that is not in the manifest any more.
fn dismiss(saved: reexec::Part, kept: &mut Kept) {
    let name = saved.name;
    let Some((running, pidfd)) = saved.running.zip(kept.take(&reexec::pidfd(&name))) else { return };
    tracing::warn!(component = name, pid = running.pid, "component is in the manifest no more: ending it");
    let process = match Process::adopt(running.pid, pidfd) {
        Ok(process) => process,
        Err(error) => return report(Err(error), "watch a component"),
    };
    report(process.terminate(), "end a component");
    tokio::spawn(async move {
        if tokio::time::timeout(FAREWELL, process.ended()).await.is_err() {
            report(process.kill(), "kill a component");
            let _ = process.ended().await;
        }
    });
}

/// A program that is asked whether it can take over.
struct Check {
    process: Process,
    output: pipe::Receiver,
}

/// Runs `program --check --accepts-handover N` with our own options and environment, and no capability.
fn start_check(program: &Path) -> io::Result<Check> {
    let mut args = std::env::args_os();
    let argv0 = args.next().unwrap_or_default().to_string_lossy().into_owned();
    let asked = ["--check".into(), "--accepts-handover".into(), reexec::FORM.to_string().into()];
    let variables: Vec<(String, OsString)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name != reexec::VARIABLE && name != "NOTIFY_SOCKET")
        .collect();
    let plan = Launch {
        component: "supervisor",
        exec: program.to_owned(),
        argv0: &argv0,
        args: args.chain(asked).collect(),
        env: variables.iter().map(|(name, value)| (name.as_str(), value.clone())).collect(),
        inherited: Vec::new(),
        identity: None,
        capabilities: CapabilitySet::EMPTY,
        limits: Vec::new(),
        confinement: Confinement::default(),
    };
    let (process, output) = Process::watch(launch::launch(&plan).map_err(io::Error::other)?)?;
    match pipe::Receiver::from_owned_fd(output) {
        Ok(output) => Ok(Check { process, output }),
        Err(error) => {
            process.give_up();
            Err(error)
        }
    }
}

impl Check {
    /// The version that would take over, or why it cannot.
    async fn result(self, program: &Path) -> Result<String, String> {
        let Self { process, output } = self;
        let mut printed = Vec::new();
        let mut output = output.take(CHECK_OUTPUT);
        let ending = async {
            let _ = output.read_to_end(&mut printed).await;
            // More than is read must not hold it up.
            drop(output);
            process.ended().await
        };
        let Ok(ended) = tokio::time::timeout(CHECK_LIMIT, ending).await else {
            report(process.kill(), "kill a program that is checked");
            let _ = process.ended().await;
            return Err(format!("{} did not end its check in {CHECK_LIMIT:?}", program.display()));
        };
        let printed = String::from_utf8_lossy(&printed);
        match (ended, reexec::accepted_version(&printed)) {
            (Ok(Exit::Code(0)), Some(version)) => Ok(version.to_owned()),
            (Ok(Exit::Code(0)), None) => {
                Err(format!("{} is no supervisor that can take over", program.display()))
            }
            (Ok(exit), _) => Err(format!("{}: {exit}: {}", program.display(), printed.trim())),
            (Err(error), _) => Err(format!("could not check {}: {error}", program.display())),
        }
    }
}
