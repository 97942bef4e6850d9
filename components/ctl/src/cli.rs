//! The command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::check;
use crate::output::on_terminal;

/// Shows and steers the components of a running edgecore or cloudcore.
///
/// `edgectl` asks edgecore, `cloudctl` asks cloudcore; it is the same program.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_long_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// The supervisor's control socket
    #[arg(long, global = true, value_name = "PATH", env = "APIARY_CONTROL", hide_env_values = true)]
    pub(crate) socket: Option<PathBuf>,
    /// How to print [default: table; json for a --watch into a pipe]
    #[arg(short, long, global = true, value_enum)]
    pub(crate) output: Option<Format>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 not done, one line on standard error says why; 2 wrong usage.
`check` differs: 0 all well, 1 warnings, 2 errors, 64 wrong usage, 70 the check itself failed.

Colours are used on a terminal only, and not where NO_COLOR is set.";

const CHECK_EXIT_CODES: &str = "\
Exit codes: 0 all is well; 1 there are warnings; 2 there are errors; 64 wrong usage (2 elsewhere, which would look like \
an error found); 70 the check itself could not be carried out.

Needs neither a running supervisor nor root. What it could not see without root it says: run it with sudo to see all.
The findings are made from what is there now: nothing is changed. It connects to the runtime's socket and to the hub.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Every component: state, process, user, memory, and why its last process ended
    Status {
        /// Go on until Ctrl-C: redrawn on a terminal; in a pipe one JSON object whenever something happened
        #[arg(short, long)]
        watch: bool,
    },
    /// Start a component that is stopped, failed or waiting; returns when it is ready
    Start {
        /// As `status` names it
        component: String,
    },
    /// End a component and leave it so; returns when its process is gone
    Stop {
        /// As `status` names it
        component: String,
    },
    /// End one component and start it again; returns when it is ready
    Restart {
        /// As `status` names it
        component: String,
    },
    /// Replace the supervisor by the program now in its file while every component lives on
    Reexec,
    /// Who calls whom: calls, bytes, latency and refusals of every link
    Links {
        /// Go on until Ctrl-C, with rates: redrawn on a terminal; in a pipe one JSON object a second
        #[arg(short, long)]
        watch: bool,
        /// Each method, too
        #[arg(short, long)]
        verbose: bool,
    },
    /// What each process was granted against what it used, why, and what holds it to that
    Privileges {
        /// One component in full, as `status` names it
        component: Option<String>,
        /// Also what its score is made of
        #[arg(short, long)]
        verbose: bool,
    },
    /// Processor, memory, threads and restarts: live on a terminal until q or Ctrl-C, once in a pipe
    Top,
    /// What a component wrote; the supervisor keeps the last 256 KiB of each
    Logs {
        /// As `status` names it
        component: String,
        /// Go on with what it writes from now on
        #[arg(short, long)]
        follow: bool,
        /// Only the last N lines
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        tail: Option<u32>,
    },
    /// Is this machine fit? Each finding: what was found, why it matters, the command that mends it
    #[command(after_help = CHECK_EXIT_CODES)]
    Check(CheckOptions),
    /// The configuration file and the manifest
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script, for example to /etc/bash_completion.d/edgectl
    Completions {
        /// Whose
        shell: Shell,
    },
}

/// What `check` looks at. What is not given is taken from the running supervisor's command line, else its default.
#[derive(Debug, Default, Args)]
pub(crate) struct CheckOptions {
    /// Only what is not well
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) places: Places,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the configuration and the manifest; prints all findings at once
    #[command(
        after_help = "Exit codes: 0 nothing is wrong (a key without effect is only noted); 1 findings; 2 wrong usage."
    )]
    Check {
        /// edgecore.yaml or cloudcore.yaml [default: the supervisor's]
        file: Option<PathBuf>,
        #[command(flatten)]
        places: ManifestPlaces,
    },
}

/// The options of the supervisor that say where things are.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct Places {
    /// edgecore.yaml or cloudcore.yaml
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where components keep what must survive
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Sockets and other things of the running system
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) manifest: ManifestPlaces,
}

/// The options of the supervisor that concern its manifest.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct ManifestPlaces {
    /// Another manifest than the built-in one
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
    /// The components' programs [default: the folder of this program]
    #[arg(long, value_name = "DIR")]
    pub(crate) exec_dir: Option<PathBuf>,
    /// Cloud side: with the built-in API server
    #[arg(long)]
    pub(crate) standalone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs: one object, or one a line where there are many
    Json,
}

impl Format {
    pub(crate) fn or_table(given: Option<Self>) -> Self {
        given.unwrap_or(Self::Table)
    }

    /// A program reads what goes on in a pipe, unless it says that a person does.
    pub(crate) fn of_watch(given: Option<Self>) -> Self {
        given.unwrap_or_else(|| if on_terminal() { Self::Table } else { Self::Json })
    }
}

/// Which supervisor is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Edge,
    Cloud,
}

impl Side {
    /// From the name the program was called by.
    pub(crate) fn of_process() -> Self {
        let name = std::env::args_os().next().unwrap_or_default();
        Self::of_name(Path::new(&name).file_name().and_then(|name| name.to_str()).unwrap_or_default())
    }

    fn of_name(name: &str) -> Self {
        if name.starts_with("cloudctl") { Self::Cloud } else { Self::Edge }
    }

    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Edge => "edgectl",
            Self::Cloud => "cloudctl",
        }
    }

    /// The supervisor's name, which is also its unit's.
    pub(crate) fn supervisor(self) -> &'static str {
        match self {
            Self::Edge => "edgecore",
            Self::Cloud => "cloudcore",
        }
    }

    pub(crate) fn default_socket(self) -> &'static str {
        match self {
            Self::Edge => "/run/apiary/edge/control.sock",
            Self::Cloud => "/run/apiary/cloud/control.sock",
        }
    }

    /// This side in the words of the supervisor's own command line.
    pub(crate) fn core(self) -> supervisor::cli::Side {
        match self {
            Self::Edge => supervisor::cli::Side::Edge,
            Self::Cloud => supervisor::cli::Side::Cloud,
        }
    }

    pub(crate) fn name_command(self, command: clap::Command) -> clap::Command {
        command.name(self.program()).bin_name(self.program())
    }
}

/// What to exit with for a command line that was not understood, or that only asked for help. For `check` 2 means that
/// errors were found, so wrong usage is something else there.
pub(crate) fn exit_code_of(
    error: &clap::Error,
    command: clap::Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> ExitCode {
    if error.exit_code() == 0 {
        return ExitCode::SUCCESS;
    }
    let meant = command.ignore_errors(true).try_get_matches_from(arguments);
    match meant.as_ref().map(clap::ArgMatches::subcommand_name) {
        Ok(Some("check")) => ExitCode::from(check::USAGE),
        _ => ExitCode::from(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn name_decides_the_side() {
        assert_eq!(Side::of_name("cloudctl"), Side::Cloud);
        assert_eq!(Side::of_name("edgectl"), Side::Edge);
        assert_eq!(Side::of_name("apiaryctl"), Side::Edge);
    }

    #[test]
    fn options_may_follow_the_command() {
        let cli =
            Cli::try_parse_from(["edgectl", "logs", "edged", "-f", "--tail", "5", "-o", "json"]).unwrap();
        assert_eq!(cli.output, Some(Format::Json));
        assert!(matches!(cli.command, Command::Logs { follow: true, tail: Some(5), .. }));
    }
}
