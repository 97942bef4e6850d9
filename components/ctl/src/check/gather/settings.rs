//! Configuration, manifest, and the supervisor if it runs.

use std::path::Path;
use std::time::Duration;

use componentconfig::Examined;
use componentconfig::cloudcore::CloudCore;
use componentconfig::edgecore::EdgeCore;
use proto::control::StatusRequest;
use supervisor::cli::Settings;
use supervisor::manifest::Manifest;
use supervisor::setup::{self, StartError};

use super::{owned, read, seen};
use crate::check::configuration::Configuration;
use crate::check::finding::Seen;
use crate::check::running::{Component, Running};
use crate::cli::Side;
use crate::config;
use crate::control::{connect, explain};

/// A supervisor that works answers in milliseconds.
const ANSWER: Duration = Duration::from_secs(3);

/// What the configuration says; defaults where it cannot be used.
pub(super) enum Yaml {
    Edge(Box<EdgeCore>),
    Cloud(Box<CloudCore>),
}

impl Yaml {
    pub(super) fn read(side: Side, path: &Path) -> Self {
        match side {
            Side::Edge => Self::Edge(Box::new(
                componentconfig::edgecore::load(Some(path)).map(|loaded| loaded.config).unwrap_or_default(),
            )),
            Side::Cloud => Self::Cloud(Box::new(
                componentconfig::cloudcore::load(Some(path)).map(|loaded| loaded.config).unwrap_or_default(),
            )),
        }
    }

    pub(super) fn edge(&self) -> Option<&EdgeCore> {
        match self {
            Self::Edge(edge) => Some(edge),
            Self::Cloud(_) => None,
        }
    }

    pub(super) fn cloud(&self) -> Option<&CloudCore> {
        match self {
            Self::Edge(_) => None,
            Self::Cloud(cloud) => Some(cloud),
        }
    }
}

/// The supervisor, and the uid everything runs as where that is one for all.
pub(super) async fn running(side: Side, socket: &Path) -> (Running, Option<u32>) {
    use std::io::ErrorKind;
    match std::os::unix::net::UnixStream::connect(socket) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return (Running::Hidden(socket.display().to_string()), None);
        }
        Err(_) => return (Running::No, None),
        Ok(_) => {}
    }
    let answer = match connect(socket, side) {
        Ok(control) => control.status_with_deadline(StatusRequest {}, ANSWER).await.map_err(explain),
        Err(error) => Err(error),
    };
    let reply = match answer {
        Ok(reply) => reply,
        Err(error) => return (Running::Silent(format!("{error:#}")), None),
    };
    let single_uid = reply.components.first().filter(|_| reply.single_uid).map(|component| component.uid);
    let component = |component: proto::control::Component| Component {
        name: component.name,
        state: component.state,
        last_exit: component.last_exit,
        degraded: component.degraded,
        rolled_back: component.rolled_back,
    };
    let components = reply.components.into_iter().map(component).collect();
    (Running::Yes { version: reply.version, pid: reply.pid, components }, single_uid)
}

pub(super) fn configuration(
    side: Side,
    settings: &Settings,
    yaml: &Yaml,
    manifest: &Manifest,
    single: bool,
) -> Configuration {
    let there = read(&settings.config).map(|_| ());
    let Examined { errors, warnings } = match there {
        Seen::Yes(()) => config::examine(side, settings),
        Seen::Absent | Seen::Hidden | Seen::Damaged(_) => Examined::default(),
    };
    let programs_missing = match setup::check_programs(settings, manifest) {
        Err(StartError::Manifest(findings)) => {
            findings.iter().map(|finding| format!("{}: {}", finding.value, finding.problem)).collect()
        }
        Ok(()) => Vec::new(),
        Err(other) => vec![other.to_string()],
    };
    let kubeconfig = yaml.cloud().filter(|_| !settings.standalone).map(|cloud| {
        let file = cloud.kube_api_config.kube_config.clone();
        // `metadata` and not `open`: it is the controllers' to read.
        let there = if file.is_empty() { Seen::Absent } else { seen(std::fs::metadata(&file)).map(|_| ()) };
        (file, there)
    });
    Configuration {
        file: settings.config.display().to_string(),
        there,
        errors: errors.iter().map(|error| config::chain(error)).collect(),
        ignored: warnings.len(),
        unreadable_by: if single { Vec::new() } else { owned::not_reading(&settings.config, manifest) },
        manifest: settings.manifest_name.clone(),
        manifest_errors: config::manifest_errors(settings).iter().map(ToString::to_string).collect(),
        programs_missing,
        programs: settings.exec_dir.display().to_string(),
        node: yaml.edge().map(|edge| {
            let name = edge.modules.edged.node_name();
            match pki::NodeName::parse(&name) {
                Ok(_) => Ok(name),
                Err(problem) => Err(format!("{name:?} is no name for a node: {problem}")),
            }
        }),
        kubeconfig,
    }
}
