//! Where a supervisor has its things: as the command line says, else as the running one was started, else by default.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use supervisor::cli::{Options, Settings};

use crate::cli::{Places, Side};

/// The supervisor's settings for these places; what they leave open is as in `started`. Errors are one line.
pub(crate) fn settings(side: Side, places: &Places, started: Option<Options>) -> Result<Settings, String> {
    let options = match started {
        Some(options) => options,
        // Through its command line: options it learns later have their defaults.
        None => Options::try_parse_from([side.supervisor()]).map_err(|error| error.to_string())?,
    };
    let Places { config, state_dir, run_dir, manifest } = places.clone();
    let options = Options {
        config: config.or(options.config),
        state_dir: state_dir.or(options.state_dir),
        run_dir: run_dir.or(options.run_dir),
        manifest: manifest.manifest.or(options.manifest),
        exec_dir: manifest.exec_dir.or(options.exec_dir),
        standalone: manifest.standalone || options.standalone,
        ..options
    };
    Settings::new(side.core(), options)
}

/// The options of a running supervisor. `cmdline` is that of `/proc/PID`; nothing when it is of another release and not
/// understood. Paths are made absolute by its working directory, programs are sought beside its own.
pub(crate) fn options_of(cmdline: &[u8], cwd: Option<&Path>, exe: Option<&Path>) -> Option<Options> {
    let words = cmdline.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    let mut words: Vec<OsString> = words.collect();
    words.pop_if(|last| last.is_empty());
    let options = Options::try_parse_from(&words).ok()?;
    let absolute = |path: PathBuf| match cwd {
        Some(cwd) => cwd.join(path),
        None => path,
    };
    let beside = exe.or(words.first().map(Path::new)).filter(|exe| exe.is_absolute()).and_then(Path::parent);
    Some(Options {
        config: options.config.map(absolute),
        state_dir: options.state_dir.map(absolute),
        run_dir: options.run_dir.map(absolute),
        manifest: options.manifest.map(absolute),
        exec_dir: options.exec_dir.map(absolute).or(beside.map(Path::to_owned)),
        ..options
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_become_the_supervisors_settings() {
        let mut places = Places { state_dir: Some("/s".into()), ..Places::default() };
        places.manifest.standalone = true;
        let settings = settings(Side::Cloud, &places, None).unwrap();
        assert_eq!(settings.state_dir, Path::new("/s"));
        assert_eq!(settings.run_dir, Path::new("/run/apiary/cloud"));
        assert!(settings.standalone);
    }

    #[test]
    fn running_supervisor_tells_what_was_not_given() {
        let places = Places { config: Some("/mine".into()), ..Places::default() };
        let cmdline = b"edgecore\0--config\0/theirs\0--state-dir\0s\0--path\0kubelet=/data/k\0";
        let exe = Path::new("/usr/lib/apiary/edgecore");
        let started = options_of(cmdline, Some(Path::new("/cwd")), Some(exe));
        let settings = settings(Side::Edge, &places, started).unwrap();
        assert_eq!(settings.config, Path::new("/mine"));
        assert_eq!(settings.state_dir, Path::new("/cwd/s"));
        assert_eq!(settings.exec_dir, Path::new("/usr/lib/apiary"));
        assert_eq!(settings.paths["kubelet"], Path::new("/data/k"));
    }

    #[test]
    fn command_line_of_another_release_is_not_understood() {
        assert!(options_of(b"edgecore\0--later-option\0x\0", None, None).is_none());
    }
}
