//! The container runtime over CRI, and the CNI directories it uses. CRI does not tell those: they are read from the
//! configuration of the containerd that listens on the socket, where there is one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use componentconfig::edgecore::EdgeCore;
use cri::runtime as v1;
use cri::runtime::runtime_service_client::RuntimeServiceClient;
use serde_json::Value;
use tonic::Code;
use tonic::transport::Endpoint;

use super::machine::processes;
use super::{read, seen};
use crate::check::cni::{Cni, Configuration, plugins_of};
use crate::check::finding::Seen;
use crate::check::runtime::{Condition, Failure, Runtime, Socket, Version};

/// A runtime that works answers in milliseconds; one that is pulling on a slow card, in seconds.
const ANSWER: Duration = Duration::from_secs(5);
/// Largest answer that is read: these are short.
const LONGEST_ANSWER: usize = 1 << 20;
/// Files of a CNI directory that are looked at.
const MOST_FILES: usize = 64;

pub(super) async fn reached(edge: &EdgeCore) -> Runtime {
    let endpoint = edge.modules.edged.tailored_kubelet_config.container_runtime_endpoint.clone();
    let path = endpoint.strip_prefix("unix://").unwrap_or(&endpoint);
    let socket = socket(Path::new(path));
    let mut runtime = Runtime { endpoint: endpoint.clone(), socket, version: None, conditions: Vec::new() };
    if runtime.socket == Socket::Open {
        (runtime.version, runtime.conditions) = ask(endpoint).await;
    }
    runtime
}

fn socket(path: &Path) -> Socket {
    use std::io::ErrorKind;
    use std::os::unix::fs::FileTypeExt as _;
    match std::fs::metadata(path).and_then(|metadata| {
        if !metadata.file_type().is_socket() {
            return Ok(Socket::OtherFile);
        }
        std::os::unix::net::UnixStream::connect(path).map(|_| Socket::Open)
    }) {
        Ok(socket) => socket,
        Err(error) => match error.kind() {
            ErrorKind::NotFound => Socket::Absent,
            ErrorKind::PermissionDenied => Socket::Hidden,
            ErrorKind::ConnectionRefused => Socket::Dead,
            _ => Socket::Odd(error.to_string()),
        },
    }
}

async fn ask(endpoint: String) -> (Option<Result<Version, Failure>>, Vec<Condition>) {
    let channel = match Endpoint::try_from(endpoint) {
        Ok(endpoint) => endpoint.timeout(ANSWER).connect_timeout(ANSWER).connect_lazy(),
        Err(error) => return (Some(Err(Failure::Other(error.to_string()))), Vec::new()),
    };
    let mut runtime = RuntimeServiceClient::new(channel).max_decoding_message_size(LONGEST_ANSWER);
    let version = match runtime.version(v1::VersionRequest { version: "v1".to_owned() }).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            Ok(Version {
                name: answer.runtime_name,
                release: answer.runtime_version,
                api: answer.runtime_api_version,
            })
        }
        Err(status) if status.code() == Code::Unimplemented => Err(Failure::NoCri),
        Err(status) => Err(Failure::Other(format!("{:?}: {}", status.code(), status.message()))),
    };
    // One that does not answer is not waited for twice.
    if version.is_err() {
        return (Some(version), Vec::new());
    }
    let status = runtime.status(v1::StatusRequest::default()).await;
    let status = status.ok().and_then(|status| status.into_inner().status).unwrap_or_default();
    let condition = |condition: v1::RuntimeCondition| Condition {
        name: condition.r#type,
        holds: condition.status,
        because: format!("{}: {}", condition.reason, condition.message),
    };
    (Some(version), status.conditions.into_iter().map(condition).collect())
}

/// Where CNI is looked for by the containerd behind the endpoint, else by default.
pub(super) fn cni(runtime: &Runtime) -> Cni {
    let socket = runtime.endpoint.strip_prefix("unix://").unwrap_or_default();
    let (conf_dir, bin_dirs) =
        containerd_configs().iter().find_map(|config| cni_dirs(config, socket)).unwrap_or_default();
    let conf_dir = conf_dir.unwrap_or_else(|| "/etc/cni/net.d".into());
    // Where runtimes look, and where distributions put plugins.
    let bin_dirs =
        if bin_dirs.is_empty() { vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()] } else { bin_dirs };
    let mut plugins = BTreeSet::new();
    for dir in &bin_dirs {
        let names = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
        plugins.extend(names.filter_map(|entry| entry.file_name().into_string().ok()));
    }
    let ready = runtime.conditions.iter().find(|condition| condition.name == "NetworkReady");
    Cni {
        configurations: configurations(&conf_dir),
        conf_dir,
        bin_dirs,
        plugins,
        ready: ready.map(|condition| condition.holds),
    }
}

/// The configurations of the containerds that run, and the usual one.
fn containerd_configs() -> Vec<Value> {
    let mut files: Vec<PathBuf> = Vec::new();
    for process in processes().iter().filter(|process| process.name == "containerd") {
        if let Seen::Yes(cmdline) = read(Path::new(&format!("/proc/{}/cmdline", process.pid))) {
            files.extend(config_option(&cmdline).map(PathBuf::from));
        }
    }
    files.push("/etc/containerd/config.toml".into());
    let parsed = |file: PathBuf| match read(&file) {
        Seen::Yes(text) => toml::from_str(&text).ok(),
        Seen::Absent | Seen::Hidden | Seen::Damaged(_) => None,
    };
    files.into_iter().filter_map(parsed).collect()
}

/// The value of `--config` or `-c` in a command line whose words end with NUL.
fn config_option(cmdline: &str) -> Option<&str> {
    let mut words = cmdline.split('\0');
    while let Some(word) = words.next() {
        match word {
            "-c" | "--config" => return words.next(),
            _ => {
                if let Some(("-c" | "--config", file)) = word.split_once('=') {
                    return Some(file);
                }
            }
        }
    }
    None
}

/// `conf_dir` and `bin_dir` (since 2.1 `bin_dirs`) of a containerd's configuration, of version 2 or 3; nothing when it
/// is that of another socket.
fn cni_dirs(config: &Value, socket: &str) -> Option<(Option<PathBuf>, Vec<PathBuf>)> {
    let path = |value: &Value| value.as_str().filter(|path| !path.is_empty()).map(PathBuf::from);
    let address = config["grpc"]["address"].as_str().unwrap_or("/run/containerd/containerd.sock");
    if address != socket {
        return None;
    }
    let plugin = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"]
        .into_iter()
        .find_map(|name| config["plugins"].get(name))?;
    let cni = &plugin["cni"];
    let mut bin_dirs: Vec<PathBuf> =
        cni["bin_dirs"].as_array().into_iter().flatten().filter_map(path).collect();
    bin_dirs.extend(path(&cni["bin_dir"]));
    Some((path(&cni["conf_dir"]), bin_dirs))
}

fn configurations(dir: &Path) -> Seen<Vec<Configuration>> {
    seen(std::fs::read_dir(dir)).map(|entries| {
        let mut files: Vec<String> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| {
                matches!(
                    Path::new(name).extension().and_then(|extension| extension.to_str()),
                    Some("conf" | "conflist" | "json")
                )
            })
            .collect();
        files.sort();
        files.truncate(MOST_FILES);
        let one = |file: String| {
            let plugins = match read(&dir.join(&file)) {
                Seen::Yes(text) => plugins_of(&text),
                Seen::Hidden => Err("is not ours to read".to_owned()),
                Seen::Absent => Err("is gone".to_owned()),
                Seen::Damaged(error) => Err(error),
            };
            Configuration { file, plugins }
        };
        files.into_iter().map(one).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.sock");
        assert_eq!(socket(&path), Socket::Absent);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(socket(&path), Socket::Open);
        drop(listener);
        assert_eq!(socket(&path), Socket::Dead);
        assert_eq!(socket(dir.path()), Socket::OtherFile);
    }

    #[test]
    fn containerd_is_known_by_its_socket() {
        let config: Value = toml::from_str(
            "[grpc]\naddress = '/x/c.sock'\n[plugins.'io.containerd.grpc.v1.cri'.cni]\nbin_dir = '/usr/lib/cni'\nconf_dir = \
             '/x/net.d'",
        )
        .unwrap();
        assert_eq!(
            cni_dirs(&config, "/x/c.sock"),
            Some((Some("/x/net.d".into()), vec!["/usr/lib/cni".into()]))
        );
        assert_eq!(cni_dirs(&config, "/run/containerd/containerd.sock"), None);
        assert_eq!(cni_dirs(&Value::Null, "/run/containerd/containerd.sock"), None);
    }

    #[test]
    fn configuration_of_a_process_is_found() {
        assert_eq!(config_option("containerd\0--config\0/x\0"), Some("/x"));
        assert_eq!(config_option("containerd\0-l\0debug\0--config=/y\0"), Some("/y"));
        assert_eq!(config_option("containerd\0"), None);
    }

    #[test]
    fn configurations_are_read_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("20-b.conf", r#"{"type":"ptp"}"#), ("10-a.conflist", "{"), ("README", "x")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let Seen::Yes(found) = configurations(dir.path()) else { panic!("there") };
        let names: Vec<_> = found.iter().map(|one| one.file.as_str()).collect();
        assert_eq!(names, ["10-a.conflist", "20-b.conf"]);
        assert!(found[0].plugins.is_err());
    }
}
