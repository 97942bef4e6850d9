//! edgectl and cloudctl: what an operator asks of a running supervisor.
//!
//! **What it holds:** nothing; it runs with the rights of who calls it. One file under two names: `cloudctl` asks
//! cloudcore's supervisor, every other name edgecore's.
//!
//! **Which untrusted bytes it touches:** the supervisor's answers, and in them log lines that components wrote, which may
//! quote pods and the network. **What keeps it safe:** answers are bounded and decoded by `ipc`; control characters in
//! text are shown escaped, so that a log line cannot drive the operator's terminal.
//!
//! Exit codes: 0 done, 1 not done (one line on standard error says why), 2 usage. Output that nobody reads any more, as
//! in `edgectl logs edged | head`, is no error.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod cli;
mod logs;
mod output;
mod restart;
mod status;
mod supervisor;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::cli::{Cli, Command, Side};

fn main() -> ExitCode {
    let side = Side::of_process();
    let matches = side.name_command(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(side, cli) {
        Err(error) if !output::nobody_reads(&error) => {
            eprintln!("{}: {error:#}", side.program());
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn run(side: Side, cli: Cli) -> anyhow::Result<()> {
    let Cli { socket, output, command } = cli;
    if let Command::Completions { shell } = command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut side.name_command(Cli::command()), side.program(), &mut script);
        return Ok(io::Write::write_all(&mut io::stdout().lock(), &script)?);
    }
    let socket = socket.unwrap_or_else(|| side.default_socket().into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let control = supervisor::connect(&socket, side)?;
        match command {
            Command::Status { watch: false } => status::once(&control, output).await,
            Command::Status { watch: true } => status::watch(&control, output).await,
            Command::Restart { component } => restart::restart(&control, component, output).await,
            Command::Logs { component, follow, tail } => {
                logs::logs(&control, component, follow, tail, output).await
            }
            Command::Completions { .. } => Ok(()),
        }
    })
}
