//! Reads `edgecore.yaml` (`edgecore.config.kubeedge.io/v1alpha2`) and `cloudcore.yaml` (`cloudcore.config.kubeedge.io/v1alpha1`)
//! as KubeEdge writes them, so that a KubeEdge node's file works unchanged. Our own settings live in the same files under an
//! extra top-level `apiary:` key.
//!
//! Every field has KubeEdge's default (`staging/src/github.com/kubeedge/api/apis/componentconfig/*/default.go`), a missing
//! file is a file with defaults only. A key that we do not act on becomes one [`Loaded::warnings`] line each, unless it
//! says what KubeEdge does by default: nothing that somebody asked for is ignored silently. A value of the wrong type is
//! an error naming file and key.
//!
//! The files are written by root and read once at start; they are bounded to [`MAX_FILE_BYTES`] all the same.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub mod cloudcore;
mod duration;
pub mod edgecore;
mod unknown;

/// 1 MiB: KubeEdge's full default file is 6 KiB.
pub const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A configuration and what in its file has no effect.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The values, defaults filled in.
    pub config: T,
    /// One line per key of the file that we do not act on.
    pub warnings: Vec<String>,
}

/// Why a configuration file cannot be used. All of them are the operator's to mend: exit code 78.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there and cannot be read.
    #[error("could not read configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// More than [`MAX_FILE_BYTES`].
    #[error("configuration {path} is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not YAML.
    #[error("configuration {path} is not YAML: {message}")]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The parser's words, with line and column.
        message: String,
    },
    /// Another kind of document, or a newer version of it.
    #[error("configuration {path}: {key} is {found:?}, expected {expected:?}")]
    Kind {
        /// The file.
        path: PathBuf,
        /// `kind` or `apiVersion`.
        key: &'static str,
        /// What the file says.
        found: String,
        /// What it must say.
        expected: &'static str,
    },
    /// A value of the wrong type or range.
    #[error("configuration {path}: {message}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Key and what is wrong with it.
        message: String,
    },
}

/// What the two configuration kinds have in common.
trait Document: DeserializeOwned + Serialize + Default {
    const KIND: &'static str;
    const API_VERSION: &'static str;
    /// KubeEdge's own default file.
    const KUBEEDGE_DEFAULT: &'static str;
    /// Checks what types alone cannot: the text names the key.
    fn check(&self) -> Result<(), String>;
}

fn load<T: Document>(path: Option<&Path>) -> Result<Loaded<T>, ConfigError> {
    let Some(path) = path else {
        return Ok(Loaded { config: T::default(), warnings: Vec::new() });
    };
    let Some(text) = read_bounded(path)? else {
        let warning = format!("no configuration file {}: defaults are used", path.display());
        return Ok(Loaded { config: T::default(), warnings: vec![warning] });
    };
    parse(path, &text)
}

fn parse<T: Document>(path: &Path, text: &str) -> Result<Loaded<T>, ConfigError> {
    let path = path.to_owned();
    let given: Value = serde_saphyr::from_str(text)
        .map_err(|e| ConfigError::Yaml { path: path.clone(), message: e.to_string() })?;
    // An empty file parses as null and means "defaults".
    let given = if given.is_null() { Value::Object(serde_json::Map::new()) } else { given };
    for (key, expected) in [("kind", T::KIND), ("apiVersion", T::API_VERSION)] {
        if let Some(found) = given.get(key).and_then(Value::as_str).filter(|found| *found != expected) {
            return Err(ConfigError::Kind { path, key, found: found.to_owned(), expected });
        }
    }
    let config: T = serde_path_to_error::deserialize(&given).map_err(|e| {
        let message = format!("{}: {}", e.path(), e.inner());
        ConfigError::Value { path: path.clone(), message }
    })?;
    config.check().map_err(|message| ConfigError::Value { path: path.clone(), message })?;
    let known = serde_json::to_value(&config)
        .map_err(|e| ConfigError::Value { path: path.clone(), message: e.to_string() })?;
    let default: Value = serde_saphyr::from_str(T::KUBEEDGE_DEFAULT)
        .map_err(|e| ConfigError::Yaml { path: path.clone(), message: format!("built-in default: {e}") })?;
    let warnings = unknown::keys(&given, &known, &default)
        .into_iter()
        .map(|key| format!("{}: {key} is not supported and has no effect", path.display()))
        .collect();
    Ok(Loaded { config, warnings })
}

/// `None` when there is no such file.
fn read_bounded(path: &Path) -> Result<Option<String>, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let mut text = String::new();
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeedge_default_edgecore_file_is_read_as_it_is() {
        let loaded =
            edgecore::load(Some(&fixture("edgecore-default.yaml"))).expect("KubeEdge's own default file");
        assert_eq!(loaded.config.modules.edge_hub.heartbeat, 15);
        assert_eq!(loaded.config.modules.edged.tailored_kubelet_config.max_pods, 110);
        let unsupported = ["deviceTwin", "edgeStream", "eventBus", "metaServer", "serviceBus"];
        let others: Vec<_> = loaded
            .warnings
            .iter()
            .filter(|line| !unsupported.iter().any(|part| line.contains(part)))
            .collect();
        assert!(others.is_empty(), "its default values are no reason to warn: {others:?}");
    }

    #[test]
    fn kubeedge_default_cloudcore_file_is_read_as_it_is() {
        let loaded =
            cloudcore::load(Some(&fixture("cloudcore-default.yaml"))).expect("KubeEdge's own default file");
        assert_eq!(loaded.config.modules.cloud_hub.https.port, 10002);
        assert_eq!(loaded.config.modules.cloud_hub.keepalive_interval, 30);
        assert_eq!(loaded.config.apiary.standalone.port, 6443);
    }

    #[test]
    fn missing_file_gives_defaults_and_says_so() {
        let loaded = edgecore::load(Some(Path::new("/nonexistent/edgecore.yaml"))).expect("defaults");
        assert_eq!(loaded.warnings.len(), 1);
    }

    #[test]
    fn wrong_type_is_refused_with_file_and_key() {
        let bad = "modules: {edgeHub: {heartbeat: often}}";
        let error =
            parse::<edgecore::EdgeCore>(Path::new("/etc/x.yaml"), bad).expect_err("heartbeat is a number");
        let text = error.to_string();
        assert!(
            text.contains("/etc/x.yaml")
                && text.contains("modules.edgeHub.heartbeat")
                && text.contains("often"),
            "{text}"
        );
    }

    #[test]
    fn another_kind_of_document_is_refused() {
        let error =
            parse::<edgecore::EdgeCore>(Path::new("x"), "kind: CloudCore").expect_err("not an EdgeCore");
        assert!(matches!(error, ConfigError::Kind { key: "kind", .. }), "{error}");
    }

    #[test]
    fn unknown_key_is_one_warning() {
        let loaded =
            parse::<edgecore::EdgeCore>(Path::new("x"), "modules: {edgeHub: {hertbeat: 3}}").expect("parses");
        assert_eq!(loaded.warnings, ["x: modules.edgeHub.hertbeat is not supported and has no effect"]);
    }

    #[test]
    fn a_port_alone_keeps_the_default_address() {
        let text = "modules: {cloudHub: {websocket: {port: 21000}, https: {address: 127.0.0.1}}}";
        let hub =
            parse::<cloudcore::CloudCore>(Path::new("x"), text).expect("parses").config.modules.cloud_hub;
        assert_eq!((hub.websocket.address.as_str(), hub.websocket.port), ("0.0.0.0", 21000));
        assert_eq!((hub.https.address.as_str(), hub.https.port), ("127.0.0.1", 10002));
    }

    #[test]
    fn zero_heartbeat_is_refused() {
        let error = parse::<edgecore::EdgeCore>(Path::new("x"), "modules: {edgeHub: {heartbeat: 0}}");
        assert!(error.expect_err("zero").to_string().contains("modules.edgeHub.heartbeat"));
    }

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/kubeedge-1.23/config").join(name)
    }
}
