//! edgectl and cloudctl: what an operator asks of a running supervisor, and of a machine that is to run one.
//!
//! **What it holds:** nothing; it runs with the rights of who calls it. One file under two names: `cloudctl` asks
//! cloudcore's supervisor, every other name edgecore's.
//!
//! **Which untrusted bytes it touches:** the supervisor's answers, and in them log lines that components wrote, which may
//! quote pods and the network; for `check` also files of this machine and the answers of the container runtime.
//! **What keeps it safe:** answers are bounded and decoded by `ipc`, files are read up to a bound; control characters in
//! text are shown escaped, so that a log line cannot drive the operator's terminal. It runs no other program, and changes
//! nothing but through the supervisor.
//!
//! Exit codes: 0 done, 1 not done (one line on standard error says why), 2 usage. `check` has its own, see [`check`].
//! Output that nobody reads any more, as in `edgectl logs edged | head`, is no error.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod check;
mod cli;
mod completions;
mod config;
mod control;
mod links;
mod logs;
mod output;
mod places;
mod privileges;
mod reexec;
mod restart;
mod start;
mod status;
mod stop;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::cli::{Cli, Command, ConfigCommand, Format, Side};

fn main() -> ExitCode {
    let side = Side::of_process();
    let command = side.name_command(Cli::command());
    let parsed = command.clone().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return cli::exit_code_of(&error, command, std::env::args_os());
        }
    };
    let in_check = matches!(cli.command, Command::Check(_));
    match run(side, cli) {
        Ok(code) => code,
        Err(error) if output::nobody_reads(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error:#}", side.program());
            if in_check { ExitCode::from(check::FAILED) } else { ExitCode::FAILURE }
        }
    }
}

fn run(side: Side, cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { socket, output, command } = cli;
    let format = Format::or_table(output);
    match command {
        Command::Completions { shell } => {
            completions::completions(side, shell)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Config(ConfigCommand::Check { file, places }) => {
            return config::check(side, file, &places, format);
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        if let Command::Check(options) = command {
            return check::check(side, socket, &options, format).await;
        }
        steer(side, socket, output, command).await?;
        Ok(ExitCode::SUCCESS)
    });
    // A look-up of a name that hangs is not waited for.
    runtime.shutdown_background();
    outcome
}

/// What needs a running supervisor.
async fn steer(
    side: Side,
    socket: Option<PathBuf>,
    output: Option<Format>,
    command: Command,
) -> anyhow::Result<()> {
    let socket = socket.unwrap_or_else(|| side.default_socket().into());
    let control = control::connect(&socket, side)?;
    let format = Format::or_table(output);
    match command {
        Command::Status { watch: false } => status::once(&control, format).await,
        Command::Status { watch: true } => status::watch(&control, Format::of_watch(output)).await,
        Command::Start { component } => start::start(&control, component, format).await,
        Command::Stop { component } => stop::stop(&control, side, component, format).await,
        Command::Restart { component } => restart::restart(&control, component, format).await,
        Command::Reexec => reexec::reexec(&control, format).await,
        Command::Links { watch: false, verbose } => links::once(&control, verbose, format).await,
        Command::Links { watch: true, verbose } => {
            links::watch(&control, verbose, Format::of_watch(output)).await
        }
        Command::Privileges { component, verbose } => {
            privileges::privileges(&control, component, verbose, format).await
        }
        Command::Top => top::top(&control, format).await,
        Command::Logs { component, follow, tail } => {
            logs::logs(&control, component, follow, tail, format).await
        }
        // Done without one.
        Command::Check(_) | Command::Config(_) | Command::Completions { .. } => Ok(()),
    }
}
