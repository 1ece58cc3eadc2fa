//! What can go wrong while the log is replayed.

use pitr_core::{Classify, ErrorKind, PortError};

use crate::event::EventError;

/// What can go wrong while the log is replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// Somebody connected who does not know the password of this restore.
    #[error("a client was refused: it does not know the password of this restore")]
    Stranger,
    /// The replica spoke in a way that no replica does.
    #[error("the replica sent {0}")]
    Protocol(&'static str),
    /// The connection of the replica broke.
    #[error("the connection of the replica: {0}")]
    Io(#[from] std::io::Error),
    /// A segment does not say what must be known of it.
    #[error("segment {name}: {what}")]
    Segment {
        /// Its name.
        name: String,
        /// What is missing.
        what: &'static str,
    },
    /// A segment of the plan is no longer there.
    #[error("segment {0} is not in the archive any more")]
    Gone(String),
    /// The log ends where it cannot end.
    #[error("the log is torn at offset {offset} of a file")]
    Torn {
        /// Where.
        offset: u64,
    },
    /// Log bytes are damaged.
    #[error("binary log is damaged: {0}")]
    Event(#[from] EventError),
    /// The archive failed; its own error.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The restored server gave up.
    #[error("the restored server cannot apply the log: {0}")]
    Replica(String),
    /// The restored server does not reach us.
    #[error("the restored server cannot reach this machine for the log: {0}")]
    Unreachable(String),
    /// The restored server does nothing.
    #[error("the restored server has applied nothing for {0} s")]
    Stalled(u64),
    /// The restored server is at a place of which the wanted log has nothing.
    #[error("the restored server is at offset {offset} of {file}, and the log that is replayed does not hold that")]
    Elsewhere {
        /// Where it is.
        file: String,
        /// And at which offset.
        offset: u64,
    },
    /// The restored server has what the wanted log does not have.
    #[error("the restored server has executed {0}, and the log that is replayed does not hold that")]
    Unknown(String),
    /// A transaction that was to be left out is not there.
    #[error("transaction {0}, which was to be left out, is not in the log between the base and the target")]
    NotSkipped(String),
    /// The restored server no longer knows how far it is.
    #[error(
        "the restored server does not know any more what it has applied: it was somewhere after offset {offset} of {file}, and lost its own note in a crash"
    )]
    Lost {
        /// The file of log where it began.
        file: String,
        /// The offset in it.
        offset: u64,
    },
    /// The restored server ended up somewhere else.
    #[error("the restored server has executed {executed}, expected was {expected}")]
    Reached {
        /// What it says.
        executed: String,
        /// What the base and the log add up to.
        expected: String,
    },
}

impl Classify for ReplayError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Stranger => ErrorKind::Denied,
            Self::Io(_) | Self::Unreachable(_) => ErrorKind::Unreachable,
            Self::Segment { .. } | Self::Torn { .. } | Self::Event(_) | Self::Reached { .. } => ErrorKind::Integrity,
            Self::Gone(_) => ErrorKind::Absent,
            Self::Port(error) => error.kind(),
            Self::Protocol(_) | Self::Replica(_) | Self::Stalled(_) => ErrorKind::Failed,
            Self::Lost { .. } | Self::Elsewhere { .. } | Self::Unknown(_) | Self::NotSkipped(_) => ErrorKind::Refused,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Replica(_) => Some(
                "look at the error log of the restored server; a single bad transaction can be left out with --skip gtid:…"
                    .to_owned(),
            ),
            Self::Unreachable(_) => Some("say with --listen under which address it reaches this machine".to_owned()),
            Self::Stalled(_) => Some("look at SHOW PROCESSLIST and the error log of the restored server".to_owned()),
            Self::NotSkipped(_) => Some("begin again with an empty server, and without that --skip".to_owned()),
            Self::Lost { .. } | Self::Elsewhere { .. } | Self::Unknown(_) => Some("begin again with an empty server: DROP DATABASE pitr_restore and all others".to_owned()),
            Self::Gone(_) | Self::Torn { .. } => Some("run pitr verify".to_owned()),
            Self::Port(error) => error.hint(),
            _ => None,
        }
    }
}
