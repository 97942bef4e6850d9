//! Short-lived programs, run to their end within a bound.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::interrupt;

/// Longer than any command here needs on a busy two-core machine.
const DEFAULT_LIMIT: Duration = Duration::from_mins(1);

/// A program to run to its end.
#[derive(Debug)]
pub struct Run {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    input: Option<Vec<u8>>,
    limit: Duration,
}

/// What a program that has ended left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output, with invalid UTF-8 replaced.
    pub stdout: String,
    /// What it wrote to standard error, with invalid UTF-8 replaced.
    pub stderr: String,
}

impl Run {
    /// `program`, found in PATH unless it is a path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            input: None,
            limit: DEFAULT_LIMIT,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable in the program's environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Feeds standard input.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// How long it may take before it is killed; 60 s unless set.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it; a failing status is an error that holds what the program wrote to standard error.
    pub fn output(&self) -> Result<String> {
        let finished = self.finish()?;
        if !finished.status.success() {
            let said = if finished.stderr.trim().is_empty() { &finished.stdout } else { &finished.stderr };
            bail!("`{self}` ended with {}: {}", finished.status, said.trim());
        }
        Ok(finished.stdout)
    }

    /// Runs it and returns how it ended, whatever its status.
    pub fn finish(&self) -> Result<Finished> {
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start `{self}`"))?;
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), self.input.clone()) {
            // A program may end without reading all of its input; its status tells.
            std::thread::spawn(move || drop(stdin.write_all(&input)));
        }
        let deadline = Instant::now() + self.limit;
        let outputs = take(&stdout, deadline).and_then(|out| Ok((out, take(&stderr, deadline)?)));
        match outputs {
            Ok((stdout, stderr)) => {
                let status = child.wait().with_context(|| format!("could not wait for `{self}`"))?;
                Ok(Finished { status, stdout, stderr })
            }
            Err(error) => {
                end(&mut child);
                Err(error.context(format!("`{self}` did not end within {} s", self.limit.as_secs())))
            }
        }
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.program.display())?;
        for arg in &self.args {
            write!(f, " {}", arg.display())?;
        }
        Ok(())
    }
}

/// `program` with `args`, to its end, with the default limit: its standard output.
pub fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Result<String> {
    Run::new(program).args(args).output()
}

fn collect(stream: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // A broken pipe ends the output like its end does.
            let _ = stream.read_to_end(&mut bytes);
        }
        // The receiver is gone when the limit was hit.
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

fn take(receiver: &Receiver<String>, deadline: Instant) -> Result<String> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match receiver.recv_timeout(left.min(Duration::from_millis(200))) {
            Ok(text) => return Ok(text),
            Err(RecvTimeoutError::Disconnected) => bail!("its output could not be read"),
            Err(RecvTimeoutError::Timeout) => {
                interrupt::check()?;
                if left.is_zero() {
                    bail!("time is up");
                }
            }
        }
    }
}

fn end(child: &mut Child) {
    // Both fail only when it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_program_is_an_error_with_its_words() {
        let error = run("sh", ["-c", "echo no such luck >&2; exit 3"]).expect_err("status 3");
        assert!(error.to_string().ends_with("exit status: 3: no such luck"), "{error}");
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(Run::new("cat").input("milk").output().expect("cat"), "milk");
    }

    #[test]
    fn program_beyond_its_limit_is_killed() {
        let started = Instant::now();
        let error =
            Run::new("sleep").arg("60").limit(Duration::from_millis(100)).output().expect_err("too slow");
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(format!("{error:#}").contains("time is up"), "{error:#}");
    }
}
