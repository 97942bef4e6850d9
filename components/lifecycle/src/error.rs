//! Errors that change how a process ends.

use std::path::PathBuf;

/// The configuration is wrong: an error that contains this exits with 78, and the supervisor does not restart the
/// component until asked.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ConfigError(anyhow::Error);

impl ConfigError {
    /// Marks an error as one of configuration.
    pub fn new(cause: impl Into<anyhow::Error>) -> Self {
        Self(cause.into())
    }

    /// A configuration error in words: what is wrong, and where.
    pub fn message(message: impl Into<String>) -> Self {
        Self(anyhow::Error::msg(message.into()))
    }
}

/// Context for an error the operator can do something about: the hint becomes a field of the one line that is logged.
///
/// `open(path).context(WithHint::new("could not open meta store /x", "free some disk space"))`
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct WithHint {
    message: String,
    hint: String,
}

impl WithHint {
    /// What was attempted, on what; and what to do.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

/// A link the component needs and does not have.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The manifest does not allow this call.
    #[error("no link to {server}: APIARY_CALLS names {known}")]
    NoLink {
        /// The server asked for.
        server: String,
        /// Those there are.
        known: String,
    },
    /// [`crate::Context::serve`] was called before: the listeners are in use.
    #[error("the inherited listeners are already served")]
    AlreadyServed,
    /// The listener or its allow-list is wrong.
    #[error(transparent)]
    Serve(#[from] ipc::ServeError),
}

/// What `APIARY_*`, `LISTEN_*` or `*_DIRECTORY` say cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvironmentError {
    #[error("{variable} is not set: the supervisor or systemd sets it")]
    Missing { variable: &'static str },
    #[error("{variable} {value:?}: {problem}")]
    Value { variable: &'static str, value: String, problem: String },
    #[error("descriptor {descriptor} for {client}: {source}")]
    Listener { client: String, descriptor: usize, source: std::io::Error },
    #[error("{} does not exist: the supervisor or systemd creates it", .0.display())]
    Directory(PathBuf),
}

/// Whether the error contains a [`ConfigError`], as itself, as context or as a cause.
pub(crate) fn is_config(error: &anyhow::Error) -> bool {
    find::<ConfigError>(error).is_some()
}

/// The first hint in the error.
pub(crate) fn hint(error: &anyhow::Error) -> Option<&str> {
    if let Some(found) = find::<WithHint>(error) {
        return Some(&found.hint);
    }
    find::<ConfigError>(error).and_then(|config| hint(&config.0))
}

fn find<T: std::error::Error + Send + Sync + 'static>(error: &anyhow::Error) -> Option<&T> {
    error.downcast_ref::<T>().or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<T>()))
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn config_error_is_found_under_context() {
        let error = anyhow::Error::new(ConfigError::message("token is empty")).context("could not start");
        assert!(is_config(&error));
        assert!(!is_config(&anyhow::anyhow!("disk is full")));
    }

    #[test]
    fn config_error_shows_the_whole_chain_once() {
        let cause = anyhow::anyhow!("line 3").context("could not read x.yaml");
        let error = anyhow::Error::new(ConfigError::new(cause)).context("could not start");
        assert_eq!(format!("{error:#}"), "could not start: could not read x.yaml: line 3");
    }

    #[test]
    fn hint_is_found_and_not_part_of_the_message() {
        let error = Err::<(), _>(anyhow::anyhow!("no space"))
            .context(WithHint::new("could not open store", "free some space"))
            .context("could not start")
            .unwrap_err();
        assert_eq!(hint(&error), Some("free some space"));
        assert_eq!(format!("{error:#}"), "could not start: could not open store: no space");
        let config = anyhow::Error::new(ConfigError::new(error));
        assert_eq!(hint(&config), Some("free some space"));
    }
}
