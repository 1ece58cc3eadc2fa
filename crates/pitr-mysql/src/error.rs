//! The one error type of this crate.

use pitr_core::{Classify, ErrorKind, InvalidName, ParsePositionError, PortError};

use crate::base::BaseError;
use crate::connect::ConnectError;
use crate::event::EventError;
use crate::gtid::GtidError;
use crate::replay::ReplayError;
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
    /// An identifier, or a set of them, could not be read.
    #[error(transparent)]
    Gtid(#[from] GtidError),
    /// A statement failed.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// A base is not usable.
    #[error(transparent)]
    Base(#[from] BaseError),
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
            Self::Sql(error) => error.kind(),
            Self::Base(error) => error.kind(),
            Self::Replay(error) => error.kind(),
            Self::Port(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Event(error) => error.hint(),
            Self::Connect(error) => error.hint(),
            Self::Sql(error) => error.hint(),
            Self::Base(error) => error.hint(),
            Self::Replay(error) => error.hint(),
            Self::Port(error) => error.hint(),
            Self::Gtid(_) | Self::Position(_) | Self::Name(_) => None,
        }
    }
}
