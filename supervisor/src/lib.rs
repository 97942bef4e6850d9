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

use clap::Parser;

use crate::cli::{Options, Settings, Side};
use crate::setup::StartError;

/// The program: reads the command line, and supervises until it is told to end.
pub fn main() -> ExitCode {
    let side = Side::of_program(std::env::args_os().next().as_ref());
    let options = Options::parse();
    match Settings::new(side, options).map_err(StartError::Usage).and_then(|settings| run(&settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", side.program());
            error.exit_code()
        }
    }
}

fn run(settings: &Settings) -> Result<(), StartError> {
    let manifest = setup::checked_manifest(settings)?;
    if settings.check {
        setup::check_programs(settings, &manifest)?;
        println!("{}: {} components, no findings", settings.manifest_name, manifest.components.len());
        return Ok(());
    }
    // One thread: the parent-death signal of every component is tied to the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| StartError::Io { what: "start the event loop".to_owned(), source })?;
    let sink = logs::Sink::to(std::io::stderr())
        .map_err(|source| StartError::Io { what: "start the log thread".to_owned(), source })?;
    logs::install(sink.clone());
    let result = runtime.block_on(supervise::run(settings, manifest, sink.clone()));
    sink.flush(std::time::Duration::from_secs(1));
    result
}
