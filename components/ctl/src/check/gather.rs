//! Looks at the machine. Nothing here judges: what cannot be seen, is absent or is damaged is a fact like others. Every
//! outside text is bounded where it is read.

mod machine;
mod network;
mod owned;
mod runtime;
mod settings;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use supervisor::cli::Options;

use super::Facts;
use super::finding::Seen;
use crate::cli::{Places, Side};
use crate::places;

/// 1 MiB: no file read here is as long, but for the table of a busy machine's connections, whose listeners come first.
const LONGEST_FILE: u64 = 1 << 20;

pub(super) async fn facts(side: Side, socket: Option<PathBuf>, given: &Places) -> anyhow::Result<Facts> {
    // A socket that is named lies in the run directory of the supervisor that is meant.
    let mut places = given.clone();
    if places.run_dir.is_none() {
        places.run_dir = socket.as_deref().and_then(Path::parent).map(Path::to_owned);
    }
    let socket = socket.unwrap_or_else(|| match &places.run_dir {
        Some(run_dir) => run_dir.join("control.sock"),
        None => side.default_socket().into(),
    });
    let (running, single_uid) = settings::running(side, &socket).await;
    let started = match &running {
        super::running::Running::Yes { pid, .. } => started(*pid),
        _ => None,
    };
    let settings = places::settings(side, &places, started).map_err(|error| anyhow!(error))?;
    let (manifest, _) = supervisor::manifest::parse(&settings.manifest_name, &settings.manifest);
    let manifest = manifest.in_mode(settings.standalone);
    let yaml = settings::Yaml::read(side, &settings.config);

    let single_uid = single_uid.or_else(|| owned::ordinary_owner(&settings.state_dir));
    let edge = yaml.edge();
    let runtime = match edge {
        Some(edge) => Some(runtime::reached(edge).await),
        None => None,
    };
    let hub = match edge {
        Some(edge) => Some(network::hub(edge, &settings, single_uid.is_some()).await),
        None => None,
    };
    let cluster = match yaml.cloud() {
        Some(cloud) if !settings.standalone => network::cluster(cloud).await,
        _ => None,
    };
    Ok(Facts {
        running,
        configuration: settings::configuration(side, &settings, &yaml, &manifest, single_uid.is_some()),
        kernel: machine::kernel(),
        cgroup: machine::cgroup(),
        cni: runtime.as_ref().map(runtime::cni),
        runtime,
        clock: machine::clock(side, &settings.state_dir),
        hub,
        cluster,
        ports: yaml.cloud().map(|cloud| network::ports(cloud, settings.standalone)).unwrap_or_default(),
        disk: machine::disk(&settings, edge),
        accounts: owned::accounts(&manifest, single_uid.is_some()),
        files: owned::files(&settings, &manifest, &yaml, single_uid),
        agents: machine::agents(side, &manifest),
        host: (side == Side::Edge).then(machine::host),
    })
}

/// How a supervisor was started, as far as that can be seen.
fn started(pid: u32) -> Option<Options> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let link = |name: &str| std::fs::read_link(proc.join(name)).ok();
    match read(&proc.join("cmdline")) {
        Seen::Yes(cmdline) => {
            places::options_of(cmdline.as_bytes(), link("cwd").as_deref(), link("exe").as_deref())
        }
        Seen::Absent | Seen::Hidden | Seen::Damaged(_) => None,
    }
}

/// A text file, up to a bound. What is not UTF-8 in it is replaced.
fn read(path: &Path) -> Seen<String> {
    let bytes = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(LONGEST_FILE).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    seen(bytes()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// A text file that need not be there.
fn read_or_empty(path: &str) -> String {
    match read(Path::new(path)) {
        Seen::Yes(text) => text,
        Seen::Absent | Seen::Hidden | Seen::Damaged(_) => String::new(),
    }
}

fn seen<T>(result: io::Result<T>) -> Seen<T> {
    match result {
        Ok(value) => Seen::Yes(value),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Seen::Absent,
            io::ErrorKind::PermissionDenied => Seen::Hidden,
            _ => Seen::Damaged(error.to_string()),
        },
    }
}

impl<T> Seen<T> {
    fn map<R>(self, with: impl FnOnce(T) -> R) -> Seen<R> {
        match self {
            Self::Yes(value) => Seen::Yes(with(value)),
            Self::Absent => Seen::Absent,
            Self::Hidden => Seen::Hidden,
            Self::Damaged(error) => Seen::Damaged(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a supervisor and a runtime, in directories that are not there: everything is gathered and judged.
    fn findings(side: Side) -> Vec<super::super::Finding> {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Some(dir.path().join(name));
        let mut places =
            Places { config: at("c.yaml"), state_dir: at("s"), run_dir: at("r"), ..Places::default() };
        places.manifest.exec_dir = at("x");
        let config = match side {
            Side::Edge => format!(
                "modules: {{edgeHub: {{httpServer: 'https://127.0.0.1:1', websocket: {{server: '127.0.0.1:1'}}}}, edged: \
                 {{hostnameOverride: edge-1, tailoredKubeletConfig: {{containerRuntimeEndpoint: 'unix://{}/c.sock'}}}}}}",
                dir.path().display()
            ),
            Side::Cloud => "modules: {cloudHub: {nodeLimit: 5}}".to_owned(),
        };
        std::fs::write(places.config.as_ref().unwrap(), config).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let facts = runtime.block_on(facts(side, None, &places)).unwrap();
        super::super::judge(side, &facts)
    }

    /// Whoever reads a finding knows what to do.
    fn assert_complete(findings: &[super::super::Finding]) {
        for finding in findings.iter().filter(|finding| finding.severity > super::super::Severity::Unseen) {
            assert!(!finding.why.is_empty() && !finding.fix.is_empty(), "{finding:?}");
            assert!(!finding.why.ends_with('…') && !finding.fix.ends_with('…'), "{finding:?}");
        }
    }

    fn severities(findings: &[super::super::Finding], id: &str) -> Vec<super::super::Severity> {
        findings.iter().filter(|finding| finding.id == id).map(|finding| finding.severity).collect()
    }

    #[test]
    fn edge_is_checked_before_its_first_start() {
        use super::super::Severity::{Error, Ok};
        let findings = findings(Side::Edge);
        assert_complete(&findings);
        for (id, severity) in [
            ("config.file", Ok),
            ("supervisor.running", Ok),
            ("runtime.socket", Error),
            ("dns.hub", Ok),
            ("hub.websocket", Error),
            ("hub.token", Error),
            ("ports.free", Ok),
            ("clock.node-certificate", Ok),
        ] {
            assert_eq!(severities(&findings, id), [severity], "{id}");
        }
        assert!(!severities(&findings, "disk.containers").is_empty());
    }

    #[test]
    fn cloud_is_checked_before_its_first_start() {
        use super::super::Severity::{Error, Ok};
        let findings = findings(Side::Cloud);
        assert_complete(&findings);
        assert_eq!(severities(&findings, "config.kubeconfig"), [Error]);
        assert!(severities(&findings, "cluster.api").is_empty(), "which cluster is not known");
        assert_eq!(severities(&findings, "clock.ca-certificate"), [Ok]);
        assert_eq!(severities(&findings, "ports.free").len(), 2);
        assert!(severities(&findings, "runtime.socket").is_empty(), "the cloud runs no pods");
    }

    #[test]
    fn files_are_read_up_to_a_bound() {
        let Seen::Yes(text) = read(Path::new("/dev/zero")) else { panic!("readable by all") };
        assert_eq!(text.len() as u64, LONGEST_FILE);
        assert_eq!(read(Path::new("/nonexistent/x")), Seen::Absent);
    }
}
