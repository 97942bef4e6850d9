//! Starts, confines, wires and restarts components; knows nothing of Kubernetes.
//!
//! **What it holds:** root, the process table, the listeners of every link, the last log lines of each component. No key,
//! no credential, no Kubernetes object.
//!
//! **Which untrusted bytes it touches:** the manifest and the command line of whoever may start it; what components
//! write to their output and their notify sockets; calls on its control socket, which only root and its group reach.
//!
//! **What keeps it safe:** it talks to no network and links no TLS, HTTP or JSON model. The manifest is checked whole
//! before anything is started ([`manifest::check`]). Every component has its own notify socket and its own pipe, each
//! with a bound, and none can make the supervisor wait: it calls no component. What starts, ends and starts again is
//! decided by a pure function ([`policy`]); [`supervise`] only carries it out. Launching is the `launch` crate's.
//!
//! In `ps` it is `edgecore` or `cloudcore`, the parent of everything else; when it ends, its children are killed.

pub mod accounts;
pub mod binary;
pub mod cgroup;
pub mod cli;
pub mod confine;
pub mod control;
pub mod dirs;
pub mod exposure;
pub mod links;
pub mod logs;
pub mod manifest;
pub mod notify;
pub mod order;
pub mod policy;
pub mod reexec;
pub mod setup;
pub mod supervise;
pub mod usage;
pub mod wiring;

use std::process::ExitCode;

use clap::{Args as _, FromArgMatches as _};

use crate::cli::{Options, Settings, Side};
use crate::reexec::{CheckedBy, Handover};
use crate::setup::StartError;

/// The program: reads the command line, and supervises until it is told to end.
pub fn main() -> ExitCode {
    let side = Side::of_program(std::env::args_os().next().as_ref());
    // The options last: the help is theirs.
    let command = CheckedBy::augment_args(clap::Command::new(side.program()));
    let matches = Options::augment_args(command).get_matches();
    let parsed = Options::from_arg_matches(&matches)
        .and_then(|options| Ok((options, CheckedBy::from_arg_matches(&matches)?)));
    let (options, checked_by) = parsed.unwrap_or_else(|error| error.exit());
    let settings = Settings::new(side, options).map_err(StartError::Usage);
    match settings.and_then(|settings| run(&settings, checked_by)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", side.program());
            error.exit_code()
        }
    }
}

fn run(settings: &Settings, checked_by: CheckedBy) -> Result<(), StartError> {
    let manifest = setup::checked_manifest(settings)?;
    if settings.check {
        setup::check_programs(settings, &manifest)?;
        println!("{}: {} components, no findings", settings.manifest_name, manifest.components.len());
        if let Some(line) = checked_by.answer().map_err(StartError::Usage)? {
            println!("{line}");
        }
        return Ok(());
    }
    let io = |what: &str| {
        let what = what.to_owned();
        move |source| StartError::Io { what, source }
    };
    // All of it before there is another thread.
    let left_to_us = Handover::take().map_err(io("take over from the program before"))?;
    let program = std::env::current_exe().map_err(io("find this program's file"))?;
    let rights = setup::drop_rights(&manifest)?;
    // One thread: the parent-death signal of every component is tied to the thread that started it. Beside it a few that
    // read /proc for those who ask.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_stack_size(256 * 1024)
        // Of those few.
        .on_thread_start(|| {
            let _ = reexec::stop_signals().thread_block();
        })
        .build()
        .map_err(io("start the event loop"))?;
    let sink = logs::Sink::to(std::io::stderr()).map_err(io("start the log thread"))?;
    logs::install(sink.clone());
    tracing::debug!(%rights, "other rights given up");
    let result = runtime.block_on(supervise::run(settings, manifest, sink.clone(), program, left_to_us));
    sink.flush(std::time::Duration::from_secs(1));
    result
}
