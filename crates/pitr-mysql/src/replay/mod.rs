//! The log, served to a restored server as its replication source.

mod answers;
mod login;

use pitr_core::{Classify, ErrorKind};

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
}

impl Classify for ReplayError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Stranger => ErrorKind::Denied,
            Self::Protocol(_) => ErrorKind::Failed,
            Self::Io(_) => ErrorKind::Unreachable,
        }
    }

    fn hint(&self) -> Option<String> {
        None
    }
}
