//! Where a supervisor has its things: as the command line says, else as the running one was started, else by default.

use std::ffi::OsString;
use std::path::Path;

use clap::Parser as _;
use supervisor::cli::{Options, Settings};

use crate::cli::{Places, Side};

/// The supervisor's settings for these places. Errors are one line.
pub(crate) fn settings(side: Side, places: &Places) -> Result<Settings, String> {
    let mut arguments: Vec<OsString> = vec![side.supervisor().into()];
    let manifest = &places.manifest;
    let given = [
        ("--config", &places.config),
        ("--state-dir", &places.state_dir),
        ("--run-dir", &places.run_dir),
        ("--manifest", &manifest.manifest),
        ("--exec-dir", &manifest.exec_dir),
    ];
    for (option, path) in given {
        if let Some(path) = path {
            arguments.extend([option.into(), path.into()]);
        }
    }
    if manifest.standalone {
        arguments.push("--standalone".into());
    }
    // Through its command line: options it learns later keep their defaults.
    let options = Options::try_parse_from(arguments).map_err(|error| error.to_string())?;
    Settings::new(side.core(), options)
}

/// Fills in what the running supervisor was started with. `cmdline` is the `/proc/PID/cmdline` of a process that may be
/// of another release: what is not understood is left as it is.
pub(crate) fn as_started(places: Places, cmdline: &[u8], cwd: Option<&Path>) -> Places {
    use std::os::unix::ffi::OsStringExt as _;
    let arguments = cmdline.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    let mut arguments: Vec<OsString> = arguments.collect();
    arguments.pop_if(|last| last.is_empty());
    let Ok(options) = Options::try_parse_from(arguments) else { return places };
    let absolute = |path: std::path::PathBuf| cwd.map_or(path.clone(), |cwd| cwd.join(path));
    let mut filled = places;
    let set = |mine: &mut Option<std::path::PathBuf>, theirs: Option<std::path::PathBuf>| {
        *mine = mine.take().or(theirs.map(absolute));
    };
    set(&mut filled.config, options.config);
    set(&mut filled.state_dir, options.state_dir);
    set(&mut filled.run_dir, options.run_dir);
    set(&mut filled.manifest.manifest, options.manifest);
    set(&mut filled.manifest.exec_dir, options.exec_dir);
    filled.manifest.standalone |= options.standalone;
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_become_the_supervisors_settings() {
        let mut places = Places { state_dir: Some("/s".into()), ..Places::default() };
        places.manifest.standalone = true;
        let settings = settings(Side::Cloud, &places).unwrap();
        assert_eq!(settings.state_dir, Path::new("/s"));
        assert_eq!(settings.run_dir, Path::new("/run/apiary/cloud"));
        assert!(settings.standalone);
    }

    #[test]
    fn running_supervisor_tells_what_was_not_given() {
        let places = Places { config: Some("/mine".into()), ..Places::default() };
        let cmdline = b"/usr/lib/apiary/edgecore\0--config\0/theirs\0--state-dir\0s\0";
        let places = as_started(places, cmdline, Some(Path::new("/cwd")));
        assert_eq!(places.config.unwrap(), Path::new("/mine"));
        assert_eq!(places.state_dir.unwrap(), Path::new("/cwd/s"));
    }

    #[test]
    fn command_line_of_another_release_changes_nothing() {
        let places = as_started(Places::default(), b"edgecore\0--later-option\0x\0", None);
        assert!(places.config.is_none());
    }
}
