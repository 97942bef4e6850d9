//! `completions`: scripts for shells.

use std::io::{self, Write as _};

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::{Cli, Side};

/// Commands that take the name of a component.
const TAKE_A_COMPONENT: [&str; 5] = ["start", "stop", "restart", "logs", "privileges"];

pub(crate) fn completions(side: Side, shell: Shell) -> io::Result<()> {
    io::stdout().lock().write_all(&script(side, shell))
}

fn script(side: Side, shell: Shell) -> Vec<u8> {
    // Gathered first: the generator panics when it cannot write, and a reader may go away.
    let mut script = Vec::new();
    let (program, names) = (side.program(), components(side));
    clap_complete::generate(shell, &mut command(side, &names), program, &mut script);
    if shell == Shell::Fish {
        // The generator knows the values of options there, not those of arguments.
        let (commands, names) = (TAKE_A_COMPONENT.join(" "), names.join(" "));
        let line = format!(
            "complete -c {program} -n \"__fish_seen_subcommand_from {commands}\" -f -a \"{names}\"\n"
        );
        script.extend(line.into_bytes());
    }
    script
}

/// The names of the built-in manifest's components: another manifest may have others, so only the scripts know them.
fn components(side: Side) -> Vec<String> {
    let side = side.core();
    let (manifest, _) = supervisor::manifest::parse(side.manifest_name(), side.manifest());
    manifest.components.into_keys().collect()
}

/// The command line in which a component can only be one of these.
fn command(side: Side, names: &[String]) -> Command {
    // Leaked: clap wants names that last, and this program ends with the script.
    let names = names.iter().map(|name| PossibleValue::new(&*name.clone().leak()));
    let names: Vec<PossibleValue> = names.collect();
    TAKE_A_COMPONENT.into_iter().fold(side.name_command(Cli::command()), |command, name| {
        command.mut_subcommand(name, |command| {
            command.mut_arg("component", |arg| arg.value_parser(PossibleValuesParser::new(names.clone())))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_learn_commands_and_components() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(script(Side::Cloud, shell)).unwrap();
            for word in ["privileges", "cloudhub"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
