//! The command line.

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Shows and steers the components of a running edgecore or cloudcore.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// The supervisor's control socket
    #[arg(long, global = true, value_name = "PATH", env = "APIARY_CONTROL", hide_env_values = true)]
    pub(crate) socket: Option<PathBuf>,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Every component: state, process, user, memory, and why its last process ended
    Status {
        /// Go on: once a second, until interrupted
        #[arg(short, long)]
        watch: bool,
    },
    /// End one component and start it again; returns when it is ready
    Restart {
        /// As `status` names it
        component: String,
    },
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
    /// Print a completion script, for example to /etc/bash_completion.d/edgectl
    Completions {
        /// Whose
        shell: Shell,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs: one object, or one a line where there are many
    Json,
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

    pub(crate) fn name_command(self, command: clap::Command) -> clap::Command {
        command.name(self.program()).bin_name(self.program())
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
        assert_eq!(cli.output, Format::Json);
        assert!(matches!(cli.command, Command::Logs { follow: true, tail: Some(5), .. }));
    }
}
