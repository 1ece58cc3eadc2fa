//! Errors that keep their kind, so that "absent" is never concluded from a fault.

use std::error::Error as StdError;
use std::fmt;

/// What kind of failure it was. Decides the exit code, whether to retry, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Failed for a reason of its own; retrying the same call gives the same answer. Exit code 1.
    Failed,
    /// The command line or the configuration is wrong. Exit code 2.
    Usage,
    /// The target cannot be restored from what the archive holds. Exit code 4.
    NotRecoverable,
    /// Bytes differ from what their digest, header or format says. Exit code 5.
    Integrity,
    /// Refused because going on could do harm (a second writer, a directory in use). Exit code 6.
    Refused,
    /// Server or store could not be reached, or answered with a passing fault. Retryable. Exit code 7.
    Unreachable,
    /// An authoritative answer said that the object does not exist. Exit code 10 when it is the archive.
    Absent,
    /// Another process holds what this one needs. Retryable. Exit code 11.
    Busy,
    /// A key or a login was refused. Exit code 12.
    Denied,
}

impl ErrorKind {
    /// True where the same call may succeed later without anybody changing anything.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unreachable | Self::Busy)
    }

    /// The exit code of the `pitr` program for this kind (`wal push` and `wal fetch` have their own).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotRecoverable => 4,
            Self::Integrity => 5,
            Self::Refused => 6,
            Self::Unreachable => 7,
            Self::Absent => 10,
            Self::Busy => 11,
            Self::Denied => 12,
        }
    }

    /// A stable word for scripts, the `code` of a JSON error.
    pub fn code(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotRecoverable => "not_recoverable",
            Self::Integrity => "integrity",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Absent => "absent",
            Self::Busy => "busy",
            Self::Denied => "denied",
        }
    }
}

/// Implemented by the error type of every crate.
///
/// # Contract
/// `kind` is decided where the failure happens, from an authoritative answer; a wrapper passes on the
/// kind of its source unless it knows better. `hint` is the next thing to do, in words a person can
/// act on, and never repeats the message.
pub trait Classify: StdError {
    /// The kind of this failure.
    fn kind(&self) -> ErrorKind;
    /// What to do now, as one sentence or command; `None` where the message says it all.
    fn hint(&self) -> Option<String>;
}

/// A failure that crosses a port between engine and archive, with its kind and hint preserved.
pub struct PortError {
    kind: ErrorKind,
    hint: Option<String>,
    source: Box<dyn StdError + Send + Sync>,
}

impl PortError {
    /// Wraps a crate's own error for the way through a port.
    pub fn new(error: impl Classify + Send + Sync + 'static) -> Self {
        Self { kind: error.kind(), hint: error.hint(), source: Box::new(error) }
    }

    /// Wraps a foreign error under a kind that the caller knows.
    pub fn with_kind(kind: ErrorKind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind, hint: None, source: source.into() }
    }
}

impl fmt::Debug for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortError({:?}: {:?})", self.kind, self.source)
    }
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl StdError for PortError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.source()
    }
}

impl Classify for PortError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }

    fn hint(&self) -> Option<String> {
        self.hint.clone()
    }
}

/// A position could not be read from its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a position: expected {expected}")]
pub struct ParsePositionError {
    /// The text as given.
    pub text: String,
    /// The accepted form, with an example.
    pub expected: &'static str,
}

/// A name that would not be safe inside an object key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a usable {what}: use 1 to {max} characters of A-Z a-z 0-9 . _ -, not starting with a dot")]
pub struct InvalidName {
    /// What the name was for ("lineage", "segment", "base").
    pub what: &'static str,
    /// The text as given.
    pub text: String,
    /// Longest accepted length in bytes.
    pub max: usize,
}

/// Checks the one rule for every name that becomes part of an object key.
pub(crate) fn check_name(what: &'static str, text: &str, max: usize) -> Result<(), InvalidName> {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > max || text.starts_with('.') || !text.chars().all(safe) {
        return Err(InvalidName { what, text: text.to_owned(), max });
    }
    Ok(())
}

impl Classify for InvalidName {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }

    fn hint(&self) -> Option<String> {
        None
    }
}
