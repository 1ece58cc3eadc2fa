//! What can be wrong with a base.

use pitr_core::{Classify, ErrorKind};

/// What can be wrong with a base.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// Without a binary log there is no position that a base could belong to.
    #[error("the server writes no binary log (log_bin is off)")]
    NoBinlog,
    /// The position was read twice under the lock, and differed.
    #[error("the server names two positions under one lock: {first} and {second}")]
    PositionMoved {
        /// From the status of the log.
        first: String,
        /// From a second source.
        second: String,
    },
    /// A definition changed between the moment of the base and the moment in which it was read.
    #[error("definitions changed while the base was taken: {0}")]
    DefinitionsChanged(String),
    /// The server could not be brought to a standstill in time.
    #[error("the lock for one consistent moment was not granted within {0} s: a statement has been running for longer")]
    LockTimeout(u64),
    /// The server answered with what no server answers.
    #[error("the server's answer about {0} is not usable")]
    Odd(String),
    /// Neither MySQL 8 or later nor MariaDB 10.5 or later.
    #[error("version {0} is not supported: MySQL 8.0 and later and MariaDB 10.5 and later are")]
    Version(String),
    /// The archive took in less or more than it was given.
    #[error("{path}: {sent} bytes were given to the archive, it counted {stored}")]
    SinkLost {
        /// The file.
        path: String,
        /// Bytes that we wrote.
        sent: u64,
        /// Bytes that the archive says it has.
        stored: u64,
    },
    /// A worker ended without a word.
    #[error("a worker of the dump died: {0}")]
    Worker(String),
}

impl Classify for BaseError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoBinlog | Self::Version(_) => ErrorKind::Refused,
            // Somebody is altering tables: the same dump, begun again, is likely to succeed.
            Self::DefinitionsChanged(_) => ErrorKind::Busy,
            Self::LockTimeout(_) => ErrorKind::Unreachable,
            Self::PositionMoved { .. } | Self::SinkLost { .. } => ErrorKind::Integrity,
            Self::Odd(_) | Self::Worker(_) => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoBinlog => "start the server with --log-bin; see pitr check",
            Self::DefinitionsChanged(_) => "take the backup again when no table is being altered",
            Self::LockTimeout(_) => "look for long statements in SHOW PROCESSLIST, and take the backup again",
            Self::PositionMoved { .. } => "take the backup again; if it fails the same way, report the message",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
