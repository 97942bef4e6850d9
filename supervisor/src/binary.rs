//! Which program file a component runs. A file that is replaced is used at the next start by itself, since every start
//! opens it anew; a replacement that does not work is found out here.
//!
//! A package or an operator may keep the previous version beside the installed one, as `<exec>.previous`. When an
//! installed file was never ready and failed to become so [`CHANCES`] times in a row, the previous one is run in its
//! place, and goes on being run until the installed file is replaced again. Should the previous one do no better, the
//! cause is elsewhere: then both get their chances in turn.
//!
//! A file that was never ready and says that its configuration is bad (exit code 78) may be the one that is bad. The
//! installed one then uses up a chance like by any other failure, where there is a previous one; that one is left at
//! once. When both say so, they are believed.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Failures in a row before another file is tried. Fewer, and a slow disk would do; more, and the node is without the
/// component for longer than a minute.
pub const CHANCES: u32 = 3;

/// What tells one version of a file from the next, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Version {
    /// Of the file at `path`; `None` when there is none that can be looked at.
    pub fn of(path: &Path) -> Option<Self> {
        Self::read(path).ok()
    }

    fn read(path: &Path) -> io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

/// Where the previous version of a program is kept.
pub fn previous(exec: &Path) -> PathBuf {
    let mut name = exec.as_os_str().to_owned();
    name.push(".previous");
    name.into()
}

/// One of the two files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    /// The installed one.
    #[default]
    Installed,
    /// The one kept beside it.
    Previous,
}

/// What is known of a component's program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The installed file that all of this is about.
    installed: Option<Version>,
    choice: Choice,
    /// In a row, of the chosen one.
    failures: u32,
    /// The chosen one was ready.
    proven: bool,
    /// The installed one said that its configuration is bad.
    #[serde(default)]
    blames: bool,
}

impl History {
    /// Decides which file the next start runs, from what is there now.
    pub fn choose(&mut self, installed: Option<Version>, has_previous: bool) -> Choice {
        if installed != self.installed {
            *self = Self { installed, ..Self::default() };
        }
        let hopeless = self.is_hopeless();
        let other = match self.choice {
            Choice::Installed if hopeless && has_previous => Some(Choice::Previous),
            Choice::Previous if hopeless || !has_previous => Some(Choice::Installed),
            Choice::Installed | Choice::Previous => None,
        };
        if let Some(choice) = other {
            let blames = self.blames && choice == Choice::Previous;
            *self = Self { installed, choice, blames, ..Self::default() };
        }
        self.choice
    }

    /// Whether the chosen file was never ready and had all its chances.
    pub fn is_hopeless(&self) -> bool {
        self.failures >= CHANCES && !self.proven
    }

    /// Failures in a row of the chosen file.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Which file was chosen last.
    pub fn choice(&self) -> Choice {
        self.choice
    }

    /// Its process became ready.
    pub fn was_ready(&mut self) {
        self.proven = true;
        self.failures = 0;
        self.blames = false;
    }

    /// Its process could not run the file, ended by itself before it was ready, or was late for no fault of another's.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// It [failed](Self::failed), saying that its configuration is bad. Whether that is to be believed: not while another
    /// file may understand what this one does not.
    pub fn blames_configuration(&mut self, has_previous: bool) -> bool {
        match self.choice {
            _ if self.proven => true,
            Choice::Installed => {
                self.blames = true;
                !has_previous
            }
            Choice::Previous => {
                self.failures = CHANCES;
                self.blames
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "as `choose` takes it")]
    fn version(inode: u64) -> Option<Version> {
        Some(Version { device: 1, inode, size: 7, modified: (0, 0) })
    }

    /// So many starts that do not become ready; the choices made.
    fn failing(
        history: &mut History,
        installed: Option<Version>,
        previous: bool,
        starts: u32,
    ) -> Vec<Choice> {
        (0..starts)
            .map(|_| {
                let choice = history.choose(installed, previous);
                history.failed();
                choice
            })
            .collect()
    }

    #[test]
    fn file_that_never_worked_is_rolled_back_after_its_chances() {
        let mut history = History::default();
        let choices = failing(&mut history, version(1), true, CHANCES);
        assert!(choices.iter().all(|choice| *choice == Choice::Installed));
        assert_eq!(history.choose(version(1), true), Choice::Previous);
        // And stays so once the previous one works, however often that one ends later.
        history.was_ready();
        assert!(failing(&mut history, version(1), true, 9).iter().all(|choice| *choice == Choice::Previous));
    }

    #[test]
    fn file_that_worked_once_is_kept() {
        let mut history = History::default();
        history.choose(version(1), true);
        history.was_ready();
        assert!(failing(&mut history, version(1), true, 9).iter().all(|choice| *choice == Choice::Installed));
    }

    #[test]
    fn replaced_file_is_tried_again() {
        let mut history = History::default();
        failing(&mut history, version(1), true, CHANCES);
        assert_eq!(history.choose(version(1), true), Choice::Previous);
        history.was_ready();
        assert_eq!(history.choose(version(2), true), Choice::Installed);
        // With all its chances.
        assert_eq!(failing(&mut history, version(2), true, CHANCES), [Choice::Installed; 3]);
        assert_eq!(history.choose(version(2), true), Choice::Previous);
    }

    #[test]
    fn without_a_previous_version_the_installed_one_is_all_there_is() {
        let mut history = History::default();
        assert!(
            failing(&mut history, version(1), false, 9).iter().all(|choice| *choice == Choice::Installed)
        );
        // It appears.
        assert_eq!(history.choose(version(1), true), Choice::Previous);
        // And goes.
        assert_eq!(history.choose(version(1), false), Choice::Installed);
    }

    #[test]
    fn both_get_their_chances_in_turn_when_neither_works() {
        let choices = failing(&mut History::default(), version(1), true, 4 * CHANCES);
        let turns: Vec<Choice> = choices.chunks(3).map(|turn| turn[0]).collect();
        assert_eq!(turns, [Choice::Installed, Choice::Previous, Choice::Installed, Choice::Previous]);
    }

    #[test]
    fn bad_configuration_is_believed_when_nobody_else_can_be_asked() {
        let mut alone = History::default();
        failing(&mut alone, version(1), false, 1);
        assert!(alone.blames_configuration(false));
        let mut proven = History::default();
        proven.choose(version(1), true);
        proven.was_ready();
        assert!(proven.blames_configuration(true));

        let mut both = History::default();
        for _ in 0..CHANCES {
            assert_eq!(failing(&mut both, version(1), true, 1), [Choice::Installed]);
            assert!(!both.blames_configuration(true));
        }
        assert_eq!(failing(&mut both, version(1), true, 1), [Choice::Previous]);
        assert!(both.blames_configuration(true));
        assert_eq!(both.choose(version(1), true), Choice::Installed);
    }

    #[test]
    fn previous_version_that_alone_finds_the_configuration_bad_is_left_at_once() {
        let mut history = History::default();
        failing(&mut history, version(1), true, CHANCES);
        assert_eq!(failing(&mut history, version(1), true, 1), [Choice::Previous]);
        assert!(!history.blames_configuration(true));
        assert_eq!(failing(&mut history, version(1), true, CHANCES), [Choice::Installed; 3]);
    }

    #[test]
    fn version_changes_with_the_file() {
        let temp = tempfile::tempdir().expect("tempdir");
        let path = temp.path().join("program");
        assert_eq!(Version::of(&path), None);
        std::fs::write(&path, "one").expect("written");
        let first = Version::of(&path);
        assert_eq!(Version::of(&path), first);
        std::fs::write(temp.path().join("new"), "two").expect("written");
        std::fs::rename(temp.path().join("new"), &path).expect("replaced");
        assert!(first.is_some() && Version::of(&path) != first);
    }

    #[test]
    fn previous_version_is_kept_beside() {
        assert_eq!(previous(Path::new("/usr/lib/apiary/edged")), Path::new("/usr/lib/apiary/edged.previous"));
    }

    proptest! {
        /// Whatever happens: a file that is not there is never chosen, and one that was ready is never left for another.
        #[test]
        fn what_works_is_kept(events in prop::collection::vec((1..3_u64, any::<bool>(), any::<bool>()), 1..200)) {
            let mut history = History::default();
            let mut proven: Option<(u64, Choice)> = None;
            for (inode, has_previous, ready) in events {
                let choice = history.choose(version(inode), has_previous);
                prop_assert!(has_previous || choice == Choice::Installed);
                if let Some((of, kept)) = proven && of == inode && (has_previous || kept == Choice::Installed) {
                    prop_assert_eq!(choice, kept);
                } else {
                    proven = None;
                }
                if ready {
                    history.was_ready();
                    proven = Some((inode, choice));
                } else {
                    history.failed();
                }
            }
        }
    }
}
