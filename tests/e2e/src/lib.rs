//! Runs cases that share a cluster one after the other, prints them as the standard test harness does, and removes the
//! cluster whatever happens. A case that fails is followed by what the cluster looks like.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use harness::{Cluster, Options, interrupt};

pub mod chaos;
pub mod pods;

/// One behaviour, named for its outcome.
pub type Case = (&'static str, fn(&mut Cluster) -> Result<()>);

/// Cases on one cluster, in order.
#[derive(Debug)]
pub struct Group {
    /// Stands before `::` in the names of its cases.
    pub name: &'static str,
    /// Makes the cluster.
    pub start: fn(&Options) -> Result<Cluster>,
    /// The cases.
    pub cases: &'static [Case],
}

/// A case without a cluster.
pub type LoneCase = (&'static str, fn(&Options) -> Result<()>);

/// Everything one test binary runs.
#[derive(Debug)]
pub struct Suite {
    /// Cases that make what they need.
    pub lone: &'static [LoneCase],
    /// Cases that share clusters.
    pub groups: &'static [Group],
}

/// The variable that names the folder of the built programs.
const BUILT: &str = "APIARY_BIN_DIR";

/// Options that are followed by a value, with the variables that stand for them.
const WITH_VALUE: [(&str, &str); 2] =
    [("--minutes", "APIARY_CHAOS_MINUTES"), ("--seed", "APIARY_CHAOS_SEED")];

/// The value of an option of the command line (`--seed 7`, `--seed=7`), or of the variable that stands for it.
pub fn option(name: &str) -> Option<String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let variable = WITH_VALUE.iter().find(|(option, _)| *option == name).map(|(_, variable)| variable);
    value_of(name, &words).or_else(|| std::env::var(variable?).ok())
}

fn value_of(name: &str, words: &[String]) -> Option<String> {
    let mut words = words.iter();
    words
        .find_map(|word| match word.strip_prefix(name)? {
            "" => Some(None),
            rest => rest.strip_prefix('=').map(|value| Some(value.to_owned())),
        })?
        .or_else(|| words.next().cloned())
}

/// What neither is an option nor belongs to one.
fn filters(words: &[String]) -> Vec<&str> {
    let mut filters = Vec::new();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if WITH_VALUE.iter().any(|(option, _)| *option == word) {
            words.next();
        } else if !word.starts_with("--") {
            filters.push(word);
        }
    }
    filters
}

/// Runs the suite as the command line says: words filter by name, `--list` only lists.
pub fn run(suite: &Suite) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let filters = filters(&words);
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter));
    if words.iter().any(|word| word == "--list") {
        let lone = suite.lone.iter().map(|case| case.0.to_owned());
        let shared =
            suite.groups.iter().flat_map(|group| group.cases.iter().map(|case| full_name(group, case)));
        for name in lone.chain(shared).filter(|name| wanted(name)) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let Some(built) = std::env::var_os(BUILT) else {
        eprintln!("{BUILT} is not set: run `cargo xtask test`, which builds the programs and sets it");
        return ExitCode::FAILURE;
    };
    if let Err(error) = interrupt::install() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let options = Options::new(built);
    let mut tally = Tally::default();
    for (name, case) in suite.lone.iter().filter(|case| wanted(case.0)) {
        tally.run(name, || case(&options));
    }
    for group in suite.groups {
        run_group(group, &options, wanted, &mut tally);
    }
    tally.report()
}

fn full_name(group: &Group, case: &Case) -> String {
    format!("{}::{}", group.name, case.0)
}

fn run_group(group: &Group, options: &Options, wanted: impl Fn(&str) -> bool, tally: &mut Tally) {
    let cases: Vec<&Case> = group.cases.iter().filter(|case| wanted(&full_name(group, case))).collect();
    if cases.is_empty() {
        return;
    }
    let mut started = None;
    tally.run(&format!("{}::starts", group.name), || {
        started = Some((group.start)(options)?);
        Ok(())
    });
    let Some(mut cluster) = started else { return };
    for case in cases {
        let passed = tally.run(&full_name(group, case), || (case.1)(&mut cluster));
        if !passed {
            eprintln!("{}", cluster.describe());
            let logs = logs_of(group.name, case.0);
            match cluster.save_logs(&logs) {
                Ok(()) => eprintln!("--- whole logs: {}", logs.display()),
                Err(error) => eprintln!("--- the logs could not be kept: {error:#}"),
            }
        }
    }
    tally.run(&format!("{}::ends_and_leaves_nothing_behind", group.name), || cluster.end());
}

fn logs_of(group: &str, case: &str) -> PathBuf {
    // The folder of this program is `<target>/<profile>/deps`.
    let program = std::env::current_exe().unwrap_or_default();
    program.parent().unwrap_or(Path::new("/tmp")).join("../../e2e-logs").join(group).join(case)
}

#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
}

impl Tally {
    fn run(&mut self, name: &str, case: impl FnOnce() -> Result<()>) -> bool {
        print!("test {name} ... ");
        // A lost line is no reason to stop testing.
        let _ = std::io::stdout().flush();
        let began = Instant::now();
        let result = interrupt::check().and_then(|()| {
            catch_unwind(AssertUnwindSafe(case))
                .unwrap_or_else(|_| Err(anyhow!("it panicked")))
                .with_context(|| name.to_owned())
        });
        let seconds = began.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                println!("ok ({seconds:.1} s)");
                self.passed += 1;
                true
            }
            Err(error) => {
                println!("FAILED ({seconds:.1} s)");
                eprintln!("{error:#}");
                self.failed.push(name.to_owned());
                false
            }
        }
    }

    fn report(self) -> ExitCode {
        let verdict = if self.failed.is_empty() { "ok" } else { "FAILED" };
        for name in &self.failed {
            println!("failed: {name}");
        }
        println!("\ntest result: {verdict}. {} passed; {} failed; 0 ignored", self.passed, self.failed.len());
        if self.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn value_of_an_option_is_no_filter() {
        assert_eq!(filters(&words("load --minutes 60 kill --list --seed=7")), ["load", "kill"]);
    }

    #[test]
    fn option_is_given_in_either_way() {
        assert_eq!(value_of("--seed", &words("--minutes 60 --seed 7")), Some("7".to_owned()));
        assert_eq!(value_of("--minutes", &words("--minutes=0.5 --seed 7")), Some("0.5".to_owned()));
        assert_eq!(value_of("--minutes", &words("--seed 7 --minutes")), None);
    }
}
