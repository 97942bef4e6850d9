//! One start of one component: which file, with which confinement and in which groups.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use launch::{Child, Error, Exit, Process, Step};
use tokio::net::unix::pipe;

use super::part::{Part, Running};
use super::{Input, Supervisor};
use crate::binary::{self, CHANCES, Choice, Version};
use crate::cli::Settings;

/// Why nothing was started.
pub(super) enum NotStarted {
    /// It insists on what it cannot have here; trying again is of no use.
    Refused(String),
    /// Perhaps the next time.
    Failed(String),
}

impl Supervisor<'_> {
    pub(super) fn launch(&mut self, index: usize) -> Result<(), NotStarted> {
        let part = &mut self.parts[index];
        if part.prepared.component.strict && !part.degraded.is_empty() {
            return Err(NotStarted::Refused(format!(
                "strict, and this machine does not give it: {}",
                part.degraded.join("; ")
            )));
        }
        let generation = (self.started_ms << 16) + part.count_launch();
        let program = part.choose_program(self.settings);
        part.memory_kills_before = part.group.memory_kills();
        let since = Instant::now();
        let child = launch::launch(&part.prepared.launch(program, generation, part.group.join().collect()))
            .map_err(|error| {
            // The file is not there, or is no program. What else a view lacks is not the program's doing.
            let of_program = match &error {
                Error::Step { step: Step::Exec, .. } => true,
                Error::Step { step: Step::View, subject, exec, .. } => subject.as_ref() == Some(exec),
                _ => false,
            };
            if of_program {
                part.program.failed();
            }
            NotStarted::Failed(error.to_string())
        })?;
        let (process, output, receiver) = watched(child).map_err(|error| {
            // Nothing of it may be there during the next start.
            part.group.sweep();
            NotStarted::Failed(format!("could not watch it: {error}"))
        })?;
        tracing::info!(component = part.name(), child_pid = process.pid(), generation, "component started");
        let granted = part.granted();
        part.running = Some(Running { process: Arc::new(process), output, generation, since, granted });
        self.watch(index, receiver, Vec::new());
        Ok(())
    }

    /// Reads what a running component writes, after the beginning of a line from before, and waits for its end.
    pub(super) fn watch(&self, index: usize, output: pipe::Receiver, begun: Vec<u8>) {
        let part = &self.parts[index];
        let Some(running) = &part.running else { return };
        let (process, generation) = (Arc::clone(&running.process), running.generation);
        let pid = process.pid();
        let (logs, name) = (Arc::clone(&self.logs), part.name().to_owned());
        tokio::spawn(async move { logs.drain(&name, pid, generation, output, &begun).await });

        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            let exit = process.ended().await.unwrap_or_else(|error| {
                // Impossible for a child of ours that nobody else reaps; treated as a crash.
                tracing::error!(%error, pid, "could not learn how a component ended");
                Exit::Signal(0)
            });
            let _ = inputs.send(Input::Ended { part: index, pid, exit }).await;
        });
    }
}

/// Takes a child under watch; one for which something is lacking is given up.
fn watched(child: Child) -> io::Result<(Process, OwnedFd, pipe::Receiver)> {
    let (process, output) = Process::watch(child)?;
    match output.try_clone().and_then(pipe::Receiver::from_owned_fd) {
        Ok(receiver) => Ok((process, output, receiver)),
        Err(error) => {
            process.give_up();
            Err(error)
        }
    }
}

impl Part {
    /// The file to run, as things are now.
    fn choose_program(&mut self, settings: &Settings) -> PathBuf {
        let installed = settings.exec_dir.join(&self.prepared.component.exec);
        let previous = binary::previous(&installed);
        let before = self.program.choice();
        let choice = self.program.choose(Version::of(&installed), previous.exists());
        match (before, choice) {
            (Choice::Installed, Choice::Previous) => {
                tracing::error!(
                    component = self.name(),
                    program = %installed.display(),
                    previous = %previous.display(),
                    "installed program did not become ready: the previous one is run until it is replaced",
                );
            }
            (Choice::Previous, Choice::Installed) => {
                tracing::warn!(component = self.name(), program = %installed.display(), "installed program is tried again");
            }
            // Once, not at every start from now on.
            (Choice::Installed, Choice::Installed)
                if self.program.failures() == CHANCES && self.program.is_hopeless() =>
            {
                tracing::error!(
                    component = self.name(),
                    program = %installed.display(),
                    "program never became ready in {CHANCES} starts, and no previous one is kept at {}",
                    previous.display(),
                );
            }
            _ => {}
        }
        self.exec = match choice {
            Choice::Installed => installed,
            Choice::Previous => previous,
        };
        self.exec.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[expect(clippy::zombie_processes, reason = "reaped by what is tested")]
    async fn child_whose_output_cannot_be_read_is_given_up() {
        let sleep = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        let pid = sleep.id();
        let number = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("pid");
        let pidfd = rustix::process::pidfd_open(number, rustix::process::PidfdFlags::empty()).expect("pidfd");
        // No pipe.
        let output = std::fs::File::open("/dev/null").expect("opened").into();
        watched(Child { pid, pidfd, output }).expect_err("not watched");
        assert!(!std::fs::exists(format!("/proc/{pid}")).expect("looked up"));
    }
}
