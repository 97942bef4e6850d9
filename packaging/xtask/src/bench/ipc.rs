//! What `tests/bench` measures of the bus.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use harness::Figure;

use super::Printer;
use crate::cargo::{self, Profile};
use crate::progress::Progress;

pub(super) fn measure(progress: &Progress, print: Printer) -> Result<()> {
    let built = cargo::build_packages(progress, "the benchmark", &["bench"], Profile::Release)?;
    let figures = progress.step("measuring calls and streams", || {
        let mut child = Command::new(built.join("ipc-bench"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start the benchmark")?;
        let output = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        let figures = output.lines().map(|line| figure(&line?)).collect::<Result<Vec<_>>>();
        let status = child.wait().context("could not wait for the benchmark")?;
        if !status.success() {
            bail!("the benchmark ended with {status}");
        }
        figures
    })?;
    for figure in &figures {
        print.figure(figure);
    }
    Ok(())
}

fn figure(line: &str) -> Result<Figure> {
    serde_json::from_str(line).with_context(|| format!("the benchmark printed no figure: {line}"))
}
