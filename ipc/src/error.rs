//! What a caller sees, and what a server answers, when a call does not succeed.

use std::fmt::Debug;

/// A generated error enum: `MetaManagerError`. Code 0 is the variant for codes this build does not know.
pub trait ErrorCode: Copy + Debug + Default + Into<i32> + TryFrom<i32> + Send + Sync + 'static {}

impl<T: Copy + Debug + Default + Into<i32> + TryFrom<i32> + Send + Sync + 'static> ErrorCode for T {}

/// A server's typed refusal of one call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fail<E> {
    /// What the caller acts on.
    pub code: E,
    /// What was attempted, on what; for logs and people. Cut at 4 KiB on its way.
    pub message: String,
}

impl<E> Fail<E> {
    /// `Fail::new(MetaManagerError::NotFound, "pod default/web-0")`
    pub fn new(code: E, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Why a call or a stream did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError<E> {
    /// The server's own answer.
    #[error("{message} ({code:?})")]
    Failed {
        /// The interface's error.
        code: E,
        /// The server's words.
        message: String,
    },
    /// No server could be reached within the deadline, or a stream's server went away.
    #[error("not connected: {0}")]
    Disconnected(String),
    /// The server has the request and did not answer in time; it was told to stop.
    #[error("no answer within the deadline")]
    Deadline,
    /// The call breaks a rule: method not allowed on this link, a message above its bound, another protocol version.
    /// Repeating it does not help.
    #[error("refused: {0}")]
    Refused(String),
    /// The answer is not the message it should be: the two sides were built from different interfaces.
    #[error("answer does not decode: {0}")]
    Malformed(String),
}

impl<E: Copy> CallError<E> {
    /// The interface's error, when the server answered with one.
    pub fn code(&self) -> Option<E> {
        match self {
            Self::Failed { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl<E> CallError<E> {
    /// Whether the server may be back soon: the same call can succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Disconnected(_) | Self::Deadline)
    }
}

impl<E: ErrorCode> CallError<E> {
    pub(crate) fn failed(code: i32, message: String) -> Self {
        Self::Failed { code: E::try_from(code).unwrap_or_default(), message }
    }
}
