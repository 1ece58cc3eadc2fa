//! What can go wrong in the archive, with its kind decided where it happens.

use std::path::PathBuf;
use std::time::Duration;

use pitr_core::{Classify, ErrorKind, InvalidName, PortError};

use crate::limits;

/// Failures of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store answered with an error.
    #[error("cannot {action} {key:?} in {store}")]
    Store {
        /// Decided from the store's answer.
        kind: ErrorKind,
        /// What was tried.
        action: &'static str,
        /// Object or prefix.
        key: String,
        /// URL of the archive.
        store: String,
        /// The store's own words.
        source: Box<object_store::Error>,
    },
    /// The store did not answer before the deadline; whether the call took effect is unknown.
    #[error("cannot {action} {key:?} in {store}: no answer within {waited:?}")]
    Timeout {
        /// What was tried.
        action: &'static str,
        /// Object or prefix.
        key: String,
        /// URL of the archive.
        store: String,
        /// Time spent.
        waited: Duration,
    },
    /// There is no archive (no bucket, no directory, or nothing in it).
    #[error("no archive at {store}")]
    NoArchive {
        /// URL of the archive.
        store: String,
    },
    /// Bytes of an object differ from what their header or digest says.
    #[error("object {key:?} is damaged: {what}")]
    Corrupt {
        /// The object.
        key: String,
        /// What differs.
        what: String,
    },
    /// The name exists with other content.
    #[error(
        "{key:?} already exists with other content (stored digest {stored}, new digest {ours}): two writers use this name"
    )]
    Conflict {
        /// The object.
        key: String,
        /// Digest of what is stored, in hex.
        stored: String,
        /// Digest of what was to be stored, in hex.
        ours: String,
    },
    /// The sealed object did not decode to what went in; nothing was stored.
    #[error("sealing {key:?} failed its own check before upload: {what}")]
    Unfaithful {
        /// The object.
        key: String,
        /// What differs.
        what: String,
    },
    /// The object was written by a later version.
    #[error("object {key:?} has format {found}, this program reads up to {}", limits::FORMAT)]
    Newer {
        /// The object.
        key: String,
        /// Its format.
        found: u32,
    },
    /// The content is larger than this program accepts.
    #[error("{key:?} is too large: {bytes} bytes, limit {limit}")]
    TooLarge {
        /// The object.
        key: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// An encrypted object, and no identity to open it.
    #[error("object {key:?} is encrypted and no identity was given")]
    NoIdentity {
        /// The object.
        key: String,
    },
    /// None of the identities opens the object.
    #[error("none of the given identities opens object {key:?}")]
    WrongIdentity {
        /// The object.
        key: String,
    },
    /// The digest key is that of another archive.
    #[error("the digest key does not belong to the archive at {store}")]
    WrongDigestKey {
        /// URL of the archive.
        store: String,
    },
    /// Neither a digest key nor an identity to unwrap it with.
    #[error("the archive at {store} needs a digest key to write, or an identity to read")]
    NoDigestKey {
        /// URL of the archive.
        store: String,
    },
    /// The archive is encrypted and the configuration is not, or the other way round.
    #[error("the archive at {store} was created with encryption {archive}, the configuration says {configured}")]
    EncryptionDiffers {
        /// URL of the archive.
        store: String,
        /// "on" or "off".
        archive: &'static str,
        /// "on" or "off".
        configured: &'static str,
    },
    /// A recipient, identity or digest key could not be read.
    #[error("{what} is not usable: {why}")]
    BadKey {
        /// Which key or file; never the secret itself.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// URL or option of the store.
    #[error("archive {what} is not usable: {why}")]
    Config {
        /// The URL or the option.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A name that would not be safe inside a key.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A local file (key file) could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// A base could not be taken in; nothing of it is visible.
    #[error("base {base} cannot be stored: {what}")]
    BaseNotTaken {
        /// The base.
        base: String,
        /// What stands against it.
        what: String,
    },
    /// There is no complete base of that name.
    #[error("source {of:?} has no complete base {base}")]
    NoBase {
        /// The base.
        base: String,
        /// The source.
        of: String,
    },
    /// An object is not in the store, though a complete base refers to it.
    #[error("object {key:?} is missing, and base {base} needs it")]
    Missing {
        /// The object.
        key: String,
        /// The base.
        base: String,
    },
    /// Whoever receives the content of a base failed.
    #[error(transparent)]
    Target(PortError),
    /// A value of the program itself could not be put into an object, or a worker thread died.
    #[error("internal failure while working on {key:?}: {what}")]
    Internal {
        /// The object.
        key: String,
        /// What happened.
        what: String,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Damage found in an object.
    pub fn corrupt(key: &str, what: impl Into<String>) -> Self {
        Self::Corrupt { key: key.to_owned(), what: what.into() }
    }

    /// A failure of the program itself.
    pub(crate) fn internal(key: &str, what: impl std::fmt::Display) -> Self {
        Self::Internal { key: key.to_owned(), what: what.to_string() }
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Store { kind, .. } => *kind,
            Self::Timeout { .. } => ErrorKind::Unreachable,
            Self::NoArchive { .. } => ErrorKind::Absent,
            Self::Corrupt { .. } | Self::Unfaithful { .. } | Self::Missing { .. } => ErrorKind::Integrity,
            Self::NoBase { .. } => ErrorKind::Absent,
            Self::BaseNotTaken { .. } => ErrorKind::Failed,
            Self::Target(error) => error.kind(),
            Self::Conflict { .. } | Self::EncryptionDiffers { .. } => ErrorKind::Refused,
            Self::NoIdentity { .. }
            | Self::WrongIdentity { .. }
            | Self::WrongDigestKey { .. }
            | Self::NoDigestKey { .. } => ErrorKind::Denied,
            Self::BadKey { .. } | Self::Config { .. } | Self::Name(_) => ErrorKind::Usage,
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            Self::Newer { .. } | Self::TooLarge { .. } | Self::File { .. } | Self::Internal { .. } => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Store { kind: ErrorKind::Denied, .. } => {
                "check the store's credentials and the rights on the archive"
            }
            Self::Store { kind: ErrorKind::Unreachable, .. } | Self::Timeout { .. } => {
                "the store may come back: repeat the command; nothing half-written is ever visible"
            }
            Self::NoArchive { .. } => "check archive.url, or create the archive with: pitr init",
            Self::Target(error) => return error.hint(),
            Self::NoBase { .. } => "see the complete bases with: pitr list",
            Self::Corrupt { .. } | Self::Missing { .. } => {
                "run pitr verify to see the extent, and restore from a replica of the archive"
            }
            Self::Conflict { .. } => {
                "find the second server that archives under this source name and give it a source of its own"
            }
            Self::Unfaithful { .. } => "nothing was stored; repeat the command and test this machine's memory",
            Self::Newer { .. } => "use a newer pitr to read this archive",
            Self::NoIdentity { .. } | Self::WrongIdentity { .. } => {
                "set encryption.identity_file to an identity of one of the archive's recipients"
            }
            Self::WrongDigestKey { .. } | Self::NoDigestKey { .. } => {
                "copy the digest key file from a writer of this archive, or give an identity and run: pitr init"
            }
            Self::EncryptionDiffers { .. } => "set [encryption] as it was when the archive was created",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl From<Error> for PortError {
    fn from(error: Error) -> Self {
        match error {
            // It came through a port: it goes back as it was.
            Error::Target(error) => error,
            other => Self::new(other),
        }
    }
}
