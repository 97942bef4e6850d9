//! `ipc-bench`: what the bus costs between two processes, beside a bare socket, gRPC and D-Bus in the same run.
//!
//! This process is the client; each server is a process of its own, this program started again. All of them run what a
//! component runs: one tokio current_thread runtime. Every round measures each of them for a slice of time, so that
//! whatever else happens on the machine hits all alike; a figure is the median over the rounds, a ratio the median of
//! the rounds' ratios. Sizes are those of the encoded message, the bare socket's that of its whole frame.
//!
//! **What it holds:** nothing. **Which untrusted bytes it touches:** none but its own.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod bare;
mod blocking;
mod bus;
mod dbus;
mod grpc;
mod load;
mod report;
mod rounds;
mod server;

/// The generated interface, as the bus speaks it.
#[allow(missing_docs, unreachable_pub, dead_code, clippy::pedantic, reason = "generated")]
mod bench {
    include!(concat!(env!("OUT_DIR"), "/bus.rs"));
}

/// The same interface as gRPC speaks it.
#[allow(missing_docs, unreachable_pub, dead_code, clippy::pedantic, reason = "generated")]
mod bench_grpc {
    include!(concat!(env!("OUT_DIR"), "/grpc/apiary.bench.v1.rs"));
}

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use server::Kind;

/// Measures the bus and prints one JSON object a line.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// What to measure, all unless some are named
    subjects: Vec<Subject>,
    /// How often each is measured; a figure is the median
    #[arg(long, default_value_t = 15)]
    rounds: usize,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Be a server until standard input ends
    #[command(hide = true)]
    Serve { kind: Kind, socket: PathBuf },
}

/// Something to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// Call and reply, one at a time
    Rtt,
    /// A stream, as fast as it goes
    Oneway,
    /// 64 calls at once
    Inflight,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    if let Some(Role::Serve { kind, socket }) = arguments.role {
        return server::be(kind, &socket);
    }
    let wanted = |subject| arguments.subjects.is_empty() || arguments.subjects.contains(&subject);
    let measured = server::runtime()?.block_on(rounds::measure(arguments.rounds.max(1), wanted))?;
    for figure in report::figures(&measured) {
        println!("{}", figure.json());
    }
    Ok(())
}
