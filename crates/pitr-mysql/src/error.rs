//! The one error type of this crate.

use pitr_core::{Classify, ErrorKind, InvalidName, ParsePositionError, PortError};

use crate::base::BaseError;
use crate::connect::ConnectError;
use crate::dump::DumpError;
use crate::event::EventError;
use crate::gtid::GtidError;
use crate::replay::ReplayError;
use crate::restore::RestoreError;
use crate::sql::SqlError;

/// Everything that can go wrong between `pitr` and MySQL or MariaDB.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Log bytes are damaged, or are not log.
    #[error("binary log is damaged: {0}")]
    Event(#[from] EventError),
    /// A server could not be reached, or refused.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The stream of the log ended.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The server's log is not what it must be.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// An identifier, or a set of them, could not be read.
    #[error(transparent)]
    Gtid(#[from] GtidError),
    /// A statement failed.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// A base is not usable.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// A base cannot be loaded.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The log could not be replayed.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The archive failed; its own error.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A position could not be read.
    #[error(transparent)]
    Position(#[from] ParsePositionError),
    /// A name made from what the server said is not usable in the archive.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Event(error) => error.kind(),
            Self::Gtid(_) | Self::Position(_) => ErrorKind::Usage,
            Self::Name(_) => ErrorKind::Failed,
            Self::Connect(error) => error.kind(),
            Self::Dump(error) => error.kind(),
            Self::Server(error) => error.kind(),
            Self::Sql(error) => error.kind(),
            Self::Base(error) => error.kind(),
            Self::Restore(error) => error.kind(),
            Self::Replay(error) => error.kind(),
            Self::Port(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Event(error) => error.hint(),
            Self::Connect(error) => error.hint(),
            Self::Dump(error) => error.hint(),
            Self::Server(error) => error.hint(),
            Self::Sql(error) => error.hint(),
            Self::Base(error) => error.hint(),
            Self::Restore(error) => error.hint(),
            Self::Replay(error) => error.hint(),
            Self::Port(error) => error.hint(),
            Self::Gtid(_) | Self::Position(_) | Self::Name(_) => None,
        }
    }
}

/// What is wrong with the log of a server, as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// There is none.
    #[error("the server keeps no binary log")]
    NoBinaryLog,
    /// A name of a file that no server gives.
    #[error("the server names a log file in a way that is not understood")]
    OddLogName,
    /// A file that begins with something else.
    #[error("log file {0} does not begin with its format")]
    NoFormat(String),
    /// A named point would not be found in the log.
    #[error("a mark would not be found in the log: {0}")]
    MarkHidden(String),
    /// The server went on with a file that does not follow.
    #[error("the log went on with {found} after {expected}: it was reset, or its name was changed")]
    AnotherLog {
        /// The file that was being read.
        expected: String,
        /// The file that came.
        found: String,
    },
}

impl Classify for ServerError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoBinaryLog | Self::OddLogName | Self::MarkHidden(_) => ErrorKind::Refused,
            Self::NoFormat(_) => ErrorKind::Integrity,
            // Connecting again compares the log with the archive, and finds out what happened.
            Self::AnotherLog { .. } => ErrorKind::Unreachable,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoBinaryLog => {
                Some("set log_bin and start the server again: pitr check names all settings".to_owned())
            }
            Self::MarkHidden(_) => Some(
                "restore by position instead: SHOW BINARY LOG STATUS (SHOW MASTER STATUS) prints what file:NAME:OFFSET takes"
                    .to_owned(),
            ),
            Self::OddLogName | Self::NoFormat(_) | Self::AnotherLog { .. } => None,
        }
    }
}
