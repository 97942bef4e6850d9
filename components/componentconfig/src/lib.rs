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
    /// Checks what types alone cannot: each text names its key.
    fn check(&self) -> Vec<String>;
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
    let (loaded, errors) = read_all(path, text);
    match (loaded, errors.into_iter().next()) {
        (_, Some(first)) => Err(first),
        (Some(loaded), None) => Ok(loaded),
        (None, None) => {
            Err(ConfigError::Value { path: path.to_owned(), message: "holds nothing".to_owned() })
        }
    }
}

/// Everything that is wrong with a file, and everything in it that has no effect. For a person who mends it: what runs
/// uses `load`, which stops at the first error.
#[derive(Debug, Default)]
pub struct Examined {
    /// Each alone would keep the file from being used.
    pub errors: Vec<ConfigError>,
    /// As [`Loaded::warnings`].
    pub warnings: Vec<String>,
}

fn examine<T: Document>(path: &Path) -> Examined {
    match read_bounded(path) {
        Err(error) => Examined { errors: vec![error], ..Examined::default() },
        Ok(None) => {
            let warning = format!("no configuration file {}: defaults are used", path.display());
            Examined { warnings: vec![warning], ..Examined::default() }
        }
        Ok(Some(text)) => {
            let (loaded, errors) = read_all::<T>(path, &text);
            Examined { errors, warnings: loaded.map(|loaded| loaded.warnings).unwrap_or_default() }
        }
    }
}

/// The configuration as far as it can be read, and all errors. A value of the wrong type is left out, and the rest read on.
fn read_all<T: Document>(path: &Path, text: &str) -> (Option<Loaded<T>>, Vec<ConfigError>) {
    /// A file with more is none of ours.
    const MOST_ERRORS: usize = 100;
    let yaml = |message: String| ConfigError::Yaml { path: path.to_owned(), message };
    let wrong = |message: String| ConfigError::Value { path: path.to_owned(), message };
    let given: Value = match serde_saphyr::from_str(text) {
        // An empty file parses as null and means "defaults".
        Ok(Value::Null) => Value::Object(serde_json::Map::new()),
        Ok(given) => given,
        Err(error) => return (None, vec![yaml(error.to_string())]),
    };
    let mut errors = Vec::new();
    for (key, expected) in [("kind", T::KIND), ("apiVersion", T::API_VERSION)] {
        if let Some(found) = given.get(key).and_then(Value::as_str).filter(|found| *found != expected) {
            errors.push(ConfigError::Kind { path: path.to_owned(), key, found: found.to_owned(), expected });
        }
    }
    let mut usable = given.clone();
    let config: T = loop {
        let error = match serde_path_to_error::deserialize(&usable) {
            Ok(config) => break config,
            Err(error) => error,
        };
        errors.push(wrong(format!("{}: {}", error.path(), error.inner())));
        if errors.len() >= MOST_ERRORS || !leave_out(&mut usable, error.path()) {
            return (None, errors);
        }
    };
    errors.extend(config.check().into_iter().map(wrong));
    let known = serde_json::to_value(&config);
    let default = serde_saphyr::from_str(T::KUBEEDGE_DEFAULT);
    let (known, default): (Value, Value) = match (known, default) {
        (Ok(known), Ok(default)) => (known, default),
        (Err(error), _) => {
            errors.push(wrong(error.to_string()));
            return (None, errors);
        }
        (_, Err(error)) => {
            errors.push(yaml(format!("built-in default: {error}")));
            return (None, errors);
        }
    };
    let warnings = unknown::keys(&given, &known, &default)
        .into_iter()
        .map(|key| format!("{}: {key} is not supported and has no effect", path.display()))
        .collect();
    (Some(Loaded { config, warnings }), errors)
}

/// Removes what the path leads to; false when there is nothing.
fn leave_out(value: &mut Value, path: &serde_path_to_error::Path) -> bool {
    use serde_path_to_error::Segment;
    let segments: Vec<&Segment> = path.iter().collect();
    let Some((last, way)) = segments.split_last() else { return false };
    let parent = way.iter().try_fold(value, |value, segment| match segment {
        Segment::Map { key } => value.get_mut(key),
        Segment::Seq { index } => value.get_mut(index),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    match (parent, last) {
        (Some(Value::Object(map)), Segment::Map { key }) => map.remove(key).is_some(),
        (Some(Value::Array(items)), Segment::Seq { index }) if *index < items.len() => {
            items.remove(*index);
            true
        }
        _ => false,
    }
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
    fn examining_names_every_error_at_once() {
        let file = std::env::temp_dir().join(format!("componentconfig-{}", std::process::id()));
        let bad = "kind: CloudCore
modules:
  edgeHub: {heartbeat: often, httpServer: 7, websocket: {server: nowhere}, hertbeat: 3}
  edged: {nodeIP: here, taints: [{key: 1}, {key: a}]}
";
        std::fs::write(&file, bad).expect("written");
        let Examined { errors, warnings } = edgecore::examine(&file);
        std::fs::remove_file(&file).expect("removed");
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        for key in ["kind", "heartbeat", "httpServer", "websocket.server", "nodeIP", "taints[0].key"] {
            assert_eq!(text.iter().filter(|text| text.contains(key)).count(), 1, "{key}: {text:#?}");
        }
        assert_eq!(text.len(), 6, "{text:#?}");
        assert!(warnings.iter().any(|warning| warning.contains("hertbeat")), "{warnings:?}");
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
