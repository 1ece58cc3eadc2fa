//! The one error type of this crate.

use pitr_core::{Classify, ErrorKind, InvalidName, ParsePositionError, PortError};

use crate::base::BaseError;
use crate::connect::ConnectError;
use crate::lsn::Lsn;
use crate::position::PgPosition;
use crate::restore::RestoreError;
use crate::server::ServerError;
use crate::wal::WalError;

/// Everything that can go wrong between `pitr` and PostgreSQL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file in the WAL directory has a name that no server gives.
    #[error("{0:?} is not the name of a WAL, history or backup history file")]
    WalFileName(String),
    /// Log bytes are damaged, or are not log.
    #[error("WAL is damaged: {0}")]
    Wal(#[from] WalError),
    /// A file of the WAL directory cannot be archived as it is.
    #[error("{file}: {what}")]
    Rejected {
        /// Name of the file.
        file: String,
        /// What is wrong with it, and where.
        what: String,
        /// What to do about it.
        hint: String,
        /// The damage, where it is in the log itself.
        #[source]
        source: Option<Box<WalError>>,
    },
    /// A timeline history file does not follow the format.
    #[error("history file of timeline {timeline}, line {line}: {what}")]
    History {
        /// The timeline whose history it is.
        timeline: u32,
        /// Line number, from 1; 0 for the file as a whole.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// A server could not be reached, or refused.
    #[error(transparent)]
    Connect(Box<ConnectError>),
    /// A base backup is not usable.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// A directory cannot be restored into, or a base cannot be restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The server of a restored directory failed.
    #[error(transparent)]
    Server(Box<ServerError>),
    /// The archive failed; its own error.
    #[error(transparent)]
    Port(PortError),
    /// A server of a version that is not supported.
    #[error("PostgreSQL {0} is not supported: 13 to 18 are")]
    UnsupportedServer(u32),
    /// The server no longer has the log that was asked for.
    #[error("the server no longer has the log from {at} on: {message}")]
    LogRemoved {
        /// Where the log was to go on.
        at: PgPosition,
        /// What the server says.
        message: String,
    },
    /// A server writes other log than it did before, at the same positions.
    #[error("the log of the server is not the one that is archived up to {at}: {what}")]
    OtherLog {
        /// Where the archived log ends.
        at: Lsn,
        /// What differs.
        what: String,
    },
    /// A position could not be read.
    #[error(transparent)]
    Position(#[from] ParsePositionError),
    /// A name made from what the server said is not usable in the archive.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

// By hand, for they are boxed: the largest of them would make every result of this crate as large.
impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        Self::Connect(Box::new(error))
    }
}

impl From<ServerError> for Error {
    fn from(error: ServerError) -> Self {
        Self::Server(Box::new(error))
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::WalFileName(_) | Self::Position(_) => ErrorKind::Usage,
            Self::Wal(_) | Self::Rejected { .. } | Self::History { .. } => ErrorKind::Integrity,
            Self::Name(_) => ErrorKind::Failed,
            Self::Connect(error) => error.kind(),
            Self::Base(error) => error.kind(),
            Self::Restore(error) => error.kind(),
            Self::Server(error) => error.kind(),
            Self::Port(error) => error.kind(),
            Self::UnsupportedServer(_) | Self::OtherLog { .. } => ErrorKind::Refused,
            Self::LogRemoved { .. } => ErrorKind::Absent,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::WalFileName(_) => Some("archive_command must pass the file that the server names with %p".to_owned()),
            Self::Rejected { hint, .. } => Some(hint.clone()),
            Self::Wal(_) => Some(
                "compare with pg_waldump on the file of the server; if it is whole there, the copy is damaged"
                    .to_owned(),
            ),
            Self::History { .. } => Some(
                "compare with the file in pg_wal of the server; the archive refuses a history that it cannot follow"
                    .to_owned(),
            ),
            Self::Connect(error) => error.hint(),
            Self::Base(error) => error.hint(),
            Self::Restore(error) => error.hint(),
            Self::Server(error) => error.hint(),
            Self::Port(error) => error.hint(),
            Self::LogRemoved { .. } => Some(
                "a replication slot (slot = \"pitr\" in the source) keeps log for a stream that is away; wal_keep_size does so up to a limit"
                    .to_owned(),
            ),
            Self::OtherLog { .. } => Some(
                "the server was set back to an earlier state, by a snapshot for instance, and has gone on from there: what is archived stays restorable; give the server a [sources.NAME] of its own, and take a base of it"
                    .to_owned(),
            ),
            Self::Position(_) | Self::Name(_) | Self::UnsupportedServer(_) => None,
        }
    }
}
