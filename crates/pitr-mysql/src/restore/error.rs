//! What can stop a restore.

use std::io;
use std::path::{Path, PathBuf};

use pitr_core::{Classify, ErrorKind};

/// What can stop a restore.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The server holds something that this restore did not make.
    #[error("the target server is not empty: it has a database {0:?}")]
    NotEmpty(String),
    /// The server holds an unfinished restore to another target, or of another base.
    #[error("the target server holds an unfinished restore with another plan")]
    OtherPlan,
    /// The base is of the other family, or of a server that stores names in another way.
    #[error("the base cannot be loaded into this server: {0}")]
    Unfit(String),
    /// A base lacks a part that every base has.
    #[error("the base has no {0}")]
    Missing(&'static str),
    /// A part of the base is not what it must be.
    #[error("{path} of the base is not usable: {what}")]
    BadPart {
        /// Path of the part.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// A worker ended without a word.
    #[error("a worker of the restore died: {0}")]
    Worker(String),
    /// An option cannot be used.
    #[error("{0}")]
    Option(String),
    /// A directory holds something that this restore did not make.
    #[error("{directory} is not empty: it holds {example:?}")]
    DirectoryNotEmpty {
        /// The directory.
        directory: PathBuf,
        /// One of its entries.
        example: String,
    },
    /// Another restore is at work.
    #[error("another restore is at work on {0}")]
    Busy(String),
    /// The server that was started ended by itself.
    #[error("{program} ended by itself; the end of its log:\n{log}")]
    ServerEnded {
        /// The program.
        program: String,
        /// The end of what it wrote.
        log: String,
    },
    /// The server does not answer.
    #[error("{program} does not answer after {seconds} s; the end of its log:\n{log}")]
    ServerSilent {
        /// The program.
        program: String,
        /// How long it was waited for.
        seconds: u64,
        /// The end of what it wrote.
        log: String,
    },
    /// The system refused.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl RestoreError {
    /// For `map_err`: names what was tried, and on which file.
    pub(crate) fn io<E: Into<io::Error>>(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(E) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { doing, path, source: source.into() }
    }
}

impl Classify for RestoreError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotEmpty(_) | Self::OtherPlan | Self::Unfit(_) | Self::DirectoryNotEmpty { .. } => ErrorKind::Refused,
            Self::Busy(_) => ErrorKind::Busy,
            Self::Missing(_) | Self::BadPart { .. } => ErrorKind::Integrity,
            Self::Option(_) => ErrorKind::Usage,
            Self::Worker(_) | Self::ServerEnded { .. } | Self::ServerSilent { .. } | Self::Io { .. } => {
                ErrorKind::Failed
            }
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotEmpty(_) => "restore into a server without databases of its own; nothing was touched",
            Self::OtherPlan => {
                "repeat the restore with the same base, target and --skip to go on, or DROP DATABASE pitr_restore and all others first"
            }
            Self::DirectoryNotEmpty { .. } => "give a directory that is empty or does not exist; nothing was touched",
            Self::Busy(_) => "wait for it to end",
            Self::Missing(_) | Self::BadPart { .. } => "restore from another base or replica, and run pitr verify",
            Self::ServerEnded { .. } | Self::ServerSilent { .. } => {
                "the restore can be repeated: it goes on where it stopped"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
