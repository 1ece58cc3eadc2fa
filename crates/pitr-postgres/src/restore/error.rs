//! What can stop a restore.

use std::io;
use std::path::{Path, PathBuf};

use pitr_core::{Classify, ErrorKind};

/// What can stop a restore.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The directory holds something that this restore did not make.
    #[error("{directory} is not empty: it holds {example:?}")]
    NotEmpty {
        /// The directory.
        directory: PathBuf,
        /// One of its entries.
        example: String,
    },
    /// The directory holds an unfinished restore to another target, or of another base.
    #[error("{0} holds an unfinished restore with another plan")]
    OtherPlan(PathBuf),
    /// A server runs in the directory, or did since.
    #[error("{directory} is in use: {why}")]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// How that is known.
        why: &'static str,
    },
    /// Another restore is at work in the directory.
    #[error("another restore is at work in {0}")]
    Busy(PathBuf),
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
    /// Something stands where the restore would write, and is not ours.
    #[error("{path} would be written outside of the restored directory, or over something else: {what}")]
    Unsafe {
        /// Path of the part.
        path: String,
        /// What stands there.
        what: String,
    },
    /// An option cannot be used.
    #[error("{0}")]
    Option(String),
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
            Self::NotEmpty { .. } | Self::OtherPlan(_) | Self::InUse { .. } | Self::Unsafe { .. } => ErrorKind::Refused,
            Self::Busy(_) => ErrorKind::Busy,
            Self::Missing(_) | Self::BadPart { .. } => ErrorKind::Integrity,
            Self::Option(_) => ErrorKind::Usage,
            Self::Io { .. } => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotEmpty { .. } => "give a directory that is empty or does not exist; nothing was touched",
            Self::OtherPlan(_) => {
                "repeat the restore with the same base and target to go on, or remove that directory first"
            }
            Self::InUse { .. } => "restore into another directory; nothing was touched",
            Self::Busy(_) => "wait for it to end",
            Self::Missing(_) | Self::BadPart { .. } => "restore from another base or replica, and run pitr verify",
            Self::Unsafe { .. } => "nobody else may write to the directory during a restore; begin again in a new one",
            Self::Option(_) | Self::Io { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
