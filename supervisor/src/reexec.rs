//! `edgectl reexec`: another program takes over this process, and every component lives on.
//!
//! The process stays the same, so its children stay its children, with the parent-death signal that ties them to its main
//! thread. Only what is in memory must change hands: it is written as JSON into a memory file, whose number and those of
//! all other descriptors the new program finds through [`VARIABLE`]. The new program is first run with `--check
//! --accepts-handover N` ([`CheckedBy`]); only one that accepts manifest and hand-over gets the process.
//!
//! What is lost: connections to the control socket, and answers to requests that wait on them. A new program that was
//! checked and fails nevertheless ends the process, and the components with it; whoever started us starts anew.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use nix::time::{ClockId, clock_gettime};
use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use crate::binary::History;
use crate::logs::Line;
use crate::policy::{Cause, State};

/// The form of [`Handover`] this program writes and reads. Raised with every change an older or newer program would
/// misunderstand; a new field with a default is none.
pub const FORM: u32 = 1;

/// Where the new program finds the number of the memory file.
pub const VARIABLE: &str = "APIARY_HANDOVER";

/// What stops us. Only the first thread takes them, so that one which blocks them during a hand-over loses none.
pub fn stop_signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect()
}

/// What the running program asks of the one that shall take over.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct CheckedBy {
    /// With --check: also accept to take over from a program that hands over in this form
    #[arg(long, value_name = "FORM", hide = true, requires = "check")]
    pub accepts_handover: Option<u32>,
}

impl CheckedBy {
    /// The line by which [`accepted_version`] knows that it asked a supervisor; an error when this one cannot take over.
    pub fn answer(self) -> Result<Option<String>, String> {
        match self.accepts_handover {
            None => Ok(None),
            Some(FORM) => Ok(Some(format!("{ACCEPTED}{}", env!("CARGO_PKG_VERSION")))),
            Some(other) => Err(format!(
                "version {} takes over in form {FORM} and not in form {other}: restart the supervisor instead",
                env!("CARGO_PKG_VERSION")
            )),
        }
    }
}

const ACCEPTED: &str = "accepts the hand-over: ";

/// The version of the program whose check wrote this; `None` when it is no supervisor.
pub fn accepted_version(output: &str) -> Option<&str> {
    output.lines().find_map(|line| line.strip_prefix(ACCEPTED)).map(str::trim)
}

/// Descriptors an earlier program of this process left to us, by name: the path of a socket's file, `lock`, and the like.
/// Empty after an ordinary start.
#[derive(Debug, Default)]
pub struct Kept(BTreeMap<String, OwnedFd>);

impl Kept {
    /// The descriptor of that name. Whoever takes it keeps it.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.0.remove(name)
    }

    /// The listener at `path`: the one that was kept, with everybody who waits in its backlog, or a new one.
    pub fn listener(&mut self, path: &Path, mode: u32) -> io::Result<OwnedFd> {
        match self.take(&path.to_string_lossy()) {
            Some(listener) => Ok(listener),
            None => ipc::bind(path, mode),
        }
    }
}

impl FromIterator<(String, OwnedFd)> for Kept {
    fn from_iter<T: IntoIterator<Item = (String, OwnedFd)>>(kept: T) -> Self {
        Self(kept.into_iter().collect())
    }
}

/// Everything that changes hands.
#[derive(Debug, Serialize, Deserialize)]
pub struct Handover {
    form: u32,
    pid: u32,
    /// Unix milliseconds of the supervisor's start.
    pub started_ms: u64,
    /// How often a program took over before.
    pub reexecs: u64,
    /// The components there are.
    pub parts: Vec<Part>,
    /// The last log lines of all components, each one's in order.
    pub lines: Vec<Line>,
    /// Numbers of the descriptors, by name.
    descriptors: BTreeMap<String, RawFd>,
}

/// One component.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Where its machine is; times in nanoseconds of the monotonic clock.
    pub state: State<u64>,
    /// Its failures in a row.
    pub strikes: u32,
    /// Whether its turn is over.
    pub settled: bool,
    /// Its counters and words.
    pub record: Record,
    /// What is known of its program.
    pub program: History,
    /// Its process.
    pub running: Option<Running>,
}

/// What is known of a component's past.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// Processes started.
    pub launches: u64,
    /// Unix milliseconds of the last time it became ready.
    pub ready_since_ms: u64,
    /// From the launch until it was ready, the last time it was.
    pub ready_us: u64,
    /// How often it was killed for being late or silent.
    pub hang_kills: u64,
    /// How often it was killed at its memory ceiling.
    pub memory_kills: u64,
    /// Why its last process ended.
    pub last_exit: String,
    /// What its process last said of itself.
    pub status_text: String,
    /// Who asked for the stop or restart that is going on, or for the rest there is.
    pub asked_by: String,
}

/// A process that lives on.
#[derive(Debug, Serialize, Deserialize)]
pub struct Running {
    /// Its number.
    pub pid: u32,
    /// Its generation.
    pub generation: u64,
    /// Its start, in nanoseconds of the monotonic clock.
    pub since: u64,
    /// The program file it runs.
    pub exec: String,
    /// The manifest's block it was started by, in a form that can be compared.
    pub granted: String,
    /// Why it was killed, when it was and has not ended.
    pub killed_for: Option<Cause>,
    /// Kills at its memory ceiling before it was started.
    pub memory_kills_before: u64,
    /// The beginning of a line it has not finished.
    pub unfinished: Vec<u8>,
    /// What it counted on its links: `control.LinkReport`.
    pub links: Vec<u8>,
}

/// The name of the descriptor that names a component's process.
pub fn pidfd(component: &str) -> String {
    format!("pidfd of {component}")
}

/// The name of the descriptor with a component's output.
pub fn output(component: &str) -> String {
    format!("output of {component}")
}

impl Handover {
    /// Of this process, as it is now.
    pub fn new(started_ms: u64, reexecs: u64, parts: Vec<Part>, lines: Vec<Line>) -> Self {
        let (form, pid) = (FORM, std::process::id());
        Self { form, pid, started_ms, reexecs, parts, lines, descriptors: BTreeMap::new() }
    }

    /// Writes it into a memory file, which is kept open with the descriptors it names.
    pub fn write(mut self, descriptors: &[(String, BorrowedFd<'_>)]) -> io::Result<OwnedFd> {
        self.descriptors = descriptors.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect();
        let mut file = File::from(memfd_create("handover", MemfdFlags::CLOEXEC)?);
        file.write_all(&serde_json::to_vec(&self)?)?;
        Ok(file.into())
    }

    /// What an earlier program of this process left to us; `None` after an ordinary start. Before other threads start.
    pub fn take() -> io::Result<Option<(Self, Kept)>> {
        let Some(number) = std::env::var_os(VARIABLE) else { return Ok(None) };
        let number = number.to_str().and_then(|number| number.parse().ok());
        let number: RawFd = number.ok_or_else(|| invalid("no number"))?;
        let mut file = File::from(launch::take_inherited(number)?);
        file.rewind()?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let handover: Self = serde_json::from_slice(&text)?;
        if handover.form != FORM || handover.pid != std::process::id() {
            return Err(invalid("of another form or process"));
        }
        let taken = |(name, number): (&String, &RawFd)| {
            let named = |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
            Ok((name.clone(), launch::take_inherited(*number).map_err(named)?))
        };
        let kept = handover.descriptors.iter().map(taken).collect::<io::Result<Kept>>()?;
        Ok(Some((handover, kept)))
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Turns instants into numbers that mean the same to another program on this machine, and back.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    instant: Instant,
    since_boot: Duration,
}

impl Clock {
    /// Both clocks, read now.
    pub fn now() -> Self {
        // It cannot fail: every kernel has this clock. It is the one behind `Instant`.
        let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        Self { instant: Instant::now(), since_boot }
    }

    /// Nanoseconds of the monotonic clock.
    pub fn number(&self, instant: Instant) -> u64 {
        let time = match instant.checked_duration_since(self.instant) {
            Some(ahead) => self.since_boot + ahead,
            None => self.since_boot.saturating_sub(self.instant.saturating_duration_since(instant)),
        };
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The instant again. One out of reach is now.
    pub fn instant(&self, number: u64) -> Instant {
        let time = Duration::from_nanos(number);
        let instant = match time.checked_sub(self.since_boot) {
            Some(ahead) => self.instant.checked_add(ahead),
            None => self.instant.checked_sub(self.since_boot.saturating_sub(time)),
        };
        instant.unwrap_or(self.instant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_survive_as_numbers() {
        let clock = Clock::now();
        let later = Clock::now();
        for offset in [0, 1, 1_000_000, 40_000_000_000] {
            let offset = Duration::from_nanos(offset);
            for instant in [clock.instant + offset, clock.instant.checked_sub(offset).expect("after boot")] {
                let back = later.instant(clock.number(instant));
                let error = back.max(instant) - back.min(instant);
                // The two clocks of one reading are read one after the other.
                assert!(error < Duration::from_millis(50), "{error:?}");
                assert_eq!(clock.instant(clock.number(instant)), instant);
            }
        }
    }

    #[test]
    fn number_out_of_reach_is_now() {
        let clock = Clock::now();
        assert_eq!(clock.instant(clock.number(clock.instant)), clock.instant);
        let _ = clock.instant(u64::MAX);
        let _ = clock.instant(0);
    }

    #[test]
    fn check_answers_for_its_own_form_only() {
        let asked = |accepts_handover| CheckedBy { accepts_handover }.answer();
        assert_eq!(asked(None), Ok(None));
        let line = asked(Some(FORM)).expect("accepted").expect("said");
        assert_eq!(accepted_version(&format!("x\n{line}\n")), Some(env!("CARGO_PKG_VERSION")));
        assert!(asked(Some(FORM + 1)).is_err_and(|why| why.contains("restart the supervisor instead")));
        assert_eq!(accepted_version("edge.toml: 7 components, no findings\n"), None);
    }

    #[test]
    fn state_survives_the_memory_file() {
        let record = Record { launches: 3, last_exit: "exit code 1".to_owned(), ..Record::default() };
        let part = Part {
            name: "a".to_owned(),
            state: State::Backoff { until: 7 },
            strikes: 2,
            settled: true,
            record,
            program: History::default(),
            running: None,
        };
        let null = File::open("/dev/null").expect("null");
        let named = [("lock".to_owned(), std::os::fd::AsFd::as_fd(&null))];
        let mut file: File =
            Handover::new(5, 1, vec![part], Vec::new()).write(&named).expect("written").into();
        file.rewind().expect("rewound");
        let read: Handover = serde_json::from_reader(file).expect("read");
        assert_eq!((read.form, read.pid, read.started_ms, read.reexecs), (FORM, std::process::id(), 5, 1));
        assert_eq!(read.descriptors["lock"], null.as_raw_fd());
        assert_eq!((read.parts[0].state, read.parts[0].strikes), (State::Backoff { until: 7 }, 2));
        assert_eq!(read.parts[0].record.last_exit, "exit code 1");
    }
}
