//! The command line, and what the program's name decides.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Parser;

/// Starts the components of this side, each as its own process with its own user, wires them together and starts again
/// exactly the one that fails.
///
/// Ends on SIGTERM or SIGINT after stopping the components in reverse order. `edgectl` (`cloudctl`) shows and steers a
/// running supervisor. Without root, everything runs under the caller's user.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Options {
    /// Cloud side: also run the built-in Kubernetes-style API server
    #[arg(long)]
    pub standalone: bool,

    /// edgecore.yaml or cloudcore.yaml [default: the one in /etc/apiary, else the one in /etc/kubeedge/config]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Where components keep what must survive [default: /var/lib/apiary/edge or …/cloud]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Sockets and other things of the running system [default: /run/apiary/edge or …/cloud]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,

    /// The components' programs [default: the folder of this program]
    #[arg(long, value_name = "DIR")]
    pub exec_dir: Option<PathBuf>,

    /// Another manifest than the built-in one
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,

    /// Where a place that the manifest names is on this machine, such as kubelet=/data/kubelet; may be repeated
    #[arg(long, value_name = "NAME=DIR", value_parser = parse_path)]
    pub path: Vec<(String, PathBuf)>,

    /// A further listener of a component: a Unix path in the run directory, or an address such as
    /// metrics.tcp=127.0.0.1:10260; may be repeated
    #[arg(long, value_name = "COMPONENT.NAME=ADDRESS", value_parser = parse_listen)]
    pub listen: Vec<Listen>,

    /// Check manifest, users and programs, print every finding, and end: 0 if there is none, else 78
    #[arg(long)]
    pub check: bool,
}

/// A listener from the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Who inherits it.
    pub component: String,
    /// Under which name.
    pub name: String,
    /// Where it is bound.
    pub address: String,
}

fn parse_path(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, place)) if !name.is_empty() && place.starts_with('/') => {
            Ok((name.to_owned(), place.into()))
        }
        _ => Err("must be NAME=/absolute/path".to_owned()),
    }
}

fn parse_listen(text: &str) -> Result<Listen, String> {
    text.split_once('=')
        .and_then(|(listener, address)| {
            let (component, name) = listener.split_once('.')?;
            (!address.is_empty()).then(|| Listen {
                component: component.to_owned(),
                name: name.to_owned(),
                address: address.to_owned(),
            })
        })
        .ok_or_else(|| "must be COMPONENT.NAME=ADDRESS".to_owned())
}

/// Which half of Apiary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `edgecore`.
    Edge,
    /// `cloudcore`.
    Cloud,
}

impl Side {
    /// `cloudcore` and `cloudcore-…` are the cloud; every other name is the edge.
    pub fn of_program(argv0: Option<&OsString>) -> Self {
        let name =
            argv0.map(Path::new).and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        match name {
            Some(name) if name.starts_with("cloudcore") => Self::Cloud,
            _ => Self::Edge,
        }
    }

    /// The program's name.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Edge => "edgecore",
            Self::Cloud => "cloudcore",
        }
    }

    const fn folder(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Cloud => "cloud",
        }
    }

    /// The built-in manifest.
    pub const fn manifest(self) -> &'static str {
        match self {
            Self::Edge => include_str!("../manifest/edge.toml"),
            Self::Cloud => include_str!("../manifest/cloud.toml"),
        }
    }

    /// Its name in findings.
    pub const fn manifest_name(self) -> &'static str {
        match self {
            Self::Edge => "edge.toml",
            Self::Cloud => "cloud.toml",
        }
    }
}

/// The command line with every default filled in. All paths are absolute.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which half.
    pub side: Side,
    /// With the built-in API server.
    pub standalone: bool,
    /// May not exist.
    pub config: PathBuf,
    /// Root of the state directories.
    pub state_dir: PathBuf,
    /// Root of sockets and runtime directories.
    pub run_dir: PathBuf,
    /// Folder of the programs.
    pub exec_dir: PathBuf,
    /// Name of the manifest in findings.
    pub manifest_name: String,
    /// Its text.
    pub manifest: String,
    /// Where places of the manifest are instead.
    pub paths: BTreeMap<String, PathBuf>,
    /// Listeners besides the manifest's.
    pub listen: Vec<Listen>,
    /// Check and end.
    pub check: bool,
}

impl Settings {
    /// Reads what the options name. Errors are one line for the operator.
    pub fn new(side: Side, options: Options) -> Result<Self, String> {
        let absolute = |path: PathBuf| {
            // They become parts of text: environment, templates, findings.
            if path.to_str().is_none() {
                return Err(format!("{} is not UTF-8", path.display()));
            }
            std::path::absolute(&path)
                .map_err(|error| format!("could not resolve {}: {error}", path.display()))
        };
        let (manifest_name, manifest) = match &options.manifest {
            None => (side.manifest_name().to_owned(), side.manifest().to_owned()),
            Some(path) => {
                let text = read_manifest(path)
                    .map_err(|error| format!("could not read manifest {}: {error}", path.display()))?;
                (path.display().to_string(), text)
            }
        };
        let exec_dir = match options.exec_dir {
            Some(path) => path,
            None => own_folder()?,
        };
        let named = |given: Option<PathBuf>, parent: &str| {
            given.unwrap_or_else(|| Path::new(parent).join(side.folder()))
        };
        Ok(Self {
            side,
            standalone: options.standalone,
            config: absolute(options.config.unwrap_or_else(|| default_config(side)))?,
            state_dir: absolute(named(options.state_dir, "/var/lib/apiary"))?,
            run_dir: absolute(named(options.run_dir, "/run/apiary"))?,
            exec_dir: absolute(exec_dir)?,
            manifest_name,
            manifest,
            paths: options.path.into_iter().collect(),
            listen: options.listen,
            check: options.check,
        })
    }
}

/// 1 MiB: a manifest of all components has a hundredth of that, and a wrong file may be endless.
const LONGEST_MANIFEST: u64 = 1 << 20;

fn read_manifest(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(LONGEST_MANIFEST + 1).read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read > LONGEST_MANIFEST) {
        return Err(io::Error::other(format!("it has more than {LONGEST_MANIFEST} bytes")));
    }
    Ok(text)
}

fn own_folder() -> Result<PathBuf, String> {
    let program =
        std::env::current_exe().map_err(|error| format!("could not find this program's file: {error}"))?;
    Ok(program.parent().map(Path::to_path_buf).unwrap_or_default())
}

/// KubeEdge's file serves where there is none of ours. Without either, components work with their defaults.
fn default_config(side: Side) -> PathBuf {
    let file = format!("{}.yaml", side.program());
    let ours = Path::new("/etc/apiary").join(&file);
    let theirs = Path::new("/etc/kubeedge/config").join(&file);
    if !ours.exists() && theirs.exists() { theirs } else { ours }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_decides_the_side() {
        for (name, side) in [
            ("edgecore", Side::Edge),
            ("/usr/bin/cloudcore", Side::Cloud),
            ("./cloudcore", Side::Cloud),
            ("supervisor-0123", Side::Edge),
        ] {
            assert_eq!(Side::of_program(Some(&name.into())), side, "{name}");
        }
        assert_eq!(Side::of_program(None), Side::Edge);
    }

    #[test]
    fn endless_manifest_is_refused() {
        let error = read_manifest(Path::new("/dev/zero")).expect_err("endless");
        assert!(error.to_string().contains("more than 1048576 bytes"), "{error}");
    }

    #[test]
    fn places_and_listeners_are_named() {
        let options = Options::try_parse_from([
            "edgecore",
            "--path",
            "kubelet=/data/k",
            "--listen",
            "metrics.tcp=127.0.0.1:1",
        ]);
        let settings = Settings::new(Side::Edge, options.expect("valid")).expect("settings");
        assert_eq!(settings.paths["kubelet"], Path::new("/data/k"));
        let Listen { component, name, address } = &settings.listen[0];
        assert_eq!((component.as_str(), name.as_str(), address.as_str()), ("metrics", "tcp", "127.0.0.1:1"));
        for wrong in ["--path=x", "--path==/x", "--path=x=y", "--listen=a=b", "--listen=a.b", "--listen=a.b="]
        {
            assert!(Options::try_parse_from(["edgecore", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_become_absolute_and_have_defaults_by_side() {
        let options =
            Options::try_parse_from(["cloudcore", "--run-dir", "x/run", "--standalone"]).expect("valid");
        let settings = Settings::new(Side::Cloud, options).expect("settings");
        assert!(settings.run_dir.is_absolute() && settings.run_dir.ends_with("x/run"));
        assert_eq!(settings.state_dir, Path::new("/var/lib/apiary/cloud"));
        assert!(settings.standalone);
    }
}
