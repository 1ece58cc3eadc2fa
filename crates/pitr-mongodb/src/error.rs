//! The one error type of this crate.

use std::fmt;

use mongodb::error::ErrorKind as DriverKind;
use pitr_core::{Classify, ErrorKind, InvalidName, ParsePositionError, PortError};

use crate::entry::EntryError;

/// Everything that can go wrong between `pitr` and MongoDB.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server could not be reached, or answered with an error.
    #[error("{doing}: {source}")]
    Server {
        /// What was tried.
        doing: String,
        /// The driver's error.
        source: Box<Said>,
    },
    /// The server took longer than it may.
    #[error("{doing}: no answer within {seconds} s")]
    Silent {
        /// What was tried.
        doing: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The server's answer is not what its version documents.
    #[error("{doing}: unexpected answer: {what}")]
    Answer {
        /// What was tried.
        doing: String,
        /// What is wrong with it.
        what: String,
    },
    /// Bytes that should be oplog are not.
    #[error("oplog is damaged {0}")]
    Entry(#[from] EntryError),
    /// The connection string cannot be used.
    #[error("connection string: {0}")]
    Url(String),
    /// This server or set cannot be protected, or restored into.
    #[error("{what}")]
    Unsuitable {
        /// What is wrong with it.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// The oplog no longer holds the position from which it is needed.
    #[error("the oplog of {host} begins at {oldest}, after {wanted}: what lies between is lost to the archive")]
    RolledOver {
        /// The member that was asked.
        host: String,
        /// The cut from which log was wanted.
        wanted: String,
        /// Its first entry.
        oldest: String,
    },
    /// The source has another history than the archive.
    #[error("the oplog of {host} does not hold the entry {wanted}: it has another history")]
    Diverged {
        /// The member that was asked.
        host: String,
        /// The entry that the archive has.
        wanted: String,
    },
    /// This member has not yet got what the archive has.
    #[error("{host} is behind: its last entry is {newest}, the archive ends at {wanted}")]
    Behind {
        /// The member that was asked.
        host: String,
        /// Its last majority-committed entry.
        newest: String,
        /// The cut from which log was wanted.
        wanted: String,
    },
    /// A member shows nothing new, though the set goes on.
    #[error(
        "{host} shows nothing after {at}, though {note} was written: it stands still, or a majority of the set does not have it"
    )]
    StandsStill {
        /// The member that is tailed.
        host: String,
        /// The last entry that it gave.
        at: String,
        /// A note that the primary has.
        note: String,
    },
    /// The log holds something that this version cannot replay exactly.
    #[error("cannot replay {operation} at optime {at}: {why}")]
    Unreplayable {
        /// Name of the operation.
        operation: String,
        /// Where it is.
        at: String,
        /// Why.
        why: String,
    },
    /// An operation failed on the target.
    #[error("replay of {operation} at optime {at} failed: {why}")]
    Replay {
        /// The operation and its namespace.
        operation: String,
        /// Where it is.
        at: String,
        /// The server's words.
        why: String,
    },
    /// A base does not hold what it should.
    #[error("base: {0}")]
    Base(String),
    /// The place to restore to cannot be used.
    #[error("{what}")]
    Target {
        /// What is wrong with it.
        what: String,
        /// What to do about it.
        hint: String,
    },
    /// The archive failed; its own error.
    #[error(transparent)]
    Port(PortError),
    /// A file or a program failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A position could not be read.
    #[error(transparent)]
    Position(#[from] ParsePositionError),
    /// A name made from what the server said is not usable in the archive.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

/// An error of the driver, told as an administrator needs it. The driver's own text repeats the whole answer of the server
/// as bytes.
#[derive(Debug)]
pub struct Said(pub(crate) mongodb::error::Error);

impl std::error::Error for Said {}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use mongodb::error::WriteFailure;
        match self.0.kind.as_ref() {
            DriverKind::Command(error) => write!(f, "{} ({}): {}", error.code_name, error.code, error.message),
            DriverKind::Write(WriteFailure::WriteError(error)) => write!(f, "error {}: {}", error.code, error.message),
            DriverKind::Write(WriteFailure::WriteConcernError(error)) => {
                write!(f, "{} ({}): {}", error.code_name, error.code, error.message)
            }
            DriverKind::Io(error) => error.fmt(f),
            DriverKind::Authentication { message, .. } => f.write_str(message),
            DriverKind::ServerSelection { message, .. } => f.write_str(selection(message)),
            kind => kind.fmt(f),
        }
    }
}

/// What the one server said, out of the driver's picture of a set of them.
fn selection(message: &str) -> &str {
    let said = message.split_once("Error: Kind: ").map(|(_, rest)| rest);
    said.and_then(|rest| rest.split_once(", labels:")).map_or(message, |(said, _)| said)
}

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An answer that does not fit.
    pub(crate) fn answer(doing: impl Into<String>, what: impl std::fmt::Display) -> Self {
        Self::Answer { doing: doing.into(), what: what.to_string() }
    }

    /// The server's error code, if it answered with one.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Server { source, .. } => code(&source.0),
            _ => None,
        }
    }
}

/// The code of a command that the server refused.
pub(crate) fn code(error: &mongodb::error::Error) -> Option<i32> {
    match error.kind.as_ref() {
        DriverKind::Command(command) => Some(command.code),
        _ => None,
    }
}

/// Adds what was being done to an error of the driver.
pub(crate) trait Doing<T> {
    /// Names what was tried, for the message.
    fn doing(self, what: impl Into<String>) -> Result<T>;
}

impl<T> Doing<T> for mongodb::error::Result<T> {
    fn doing(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Server { doing: what.into(), source: Box::new(Said(source)) })
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Io { doing: what.into(), source })
    }
}

/// Codes of the server that only time heals: elections, shutdowns, interruptions, timeouts.
const PASSING: [i32; 18] = [6, 7, 24, 43, 50, 89, 91, 112, 134, 175, 189, 262, 290, 9001, 10107, 11600, 11602, 13435];
/// Codes that speak of rights or logins.
const DENIED: [i32; 3] = [13, 18, 8000];

fn kind_of(error: &mongodb::error::Error) -> ErrorKind {
    match error.kind.as_ref() {
        DriverKind::Authentication { .. } => ErrorKind::Denied,
        DriverKind::Io(_) | DriverKind::ServerSelection { .. } | DriverKind::ConnectionPoolCleared { .. } => {
            ErrorKind::Unreachable
        }
        DriverKind::DnsResolve { .. } => ErrorKind::Unreachable,
        DriverKind::InvalidArgument { .. } | DriverKind::InvalidTlsConfig { .. } => ErrorKind::Usage,
        DriverKind::Command(command) if DENIED.contains(&command.code) => ErrorKind::Denied,
        DriverKind::Command(command) if PASSING.contains(&command.code) || command.code == 13436 => {
            ErrorKind::Unreachable
        }
        _ => ErrorKind::Failed,
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Server { source, .. } => kind_of(&source.0),
            Self::Silent { .. } | Self::Behind { .. } | Self::StandsStill { .. } => ErrorKind::Unreachable,
            Self::Answer { .. } | Self::Io { .. } | Self::Name(_) | Self::Replay { .. } => ErrorKind::Failed,
            Self::Entry(_) | Self::Base(_) => ErrorKind::Integrity,
            Self::Url(_) | Self::Position(_) => ErrorKind::Usage,
            Self::Unsuitable { .. } | Self::Diverged { .. } | Self::Target { .. } => ErrorKind::Refused,
            Self::RolledOver { .. } => ErrorKind::Absent,
            Self::Unreplayable { .. } => ErrorKind::NotRecoverable,
            Self::Port(error) => error.kind(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Server { .. } if self.kind() == ErrorKind::Denied => {
                Some("compare the user's roles with those of pitr grants mongodb".to_owned())
            }
            Self::Unsuitable { hint, .. } | Self::Target { hint, .. } => Some(hint.clone()),
            Self::RolledOver { .. } => Some(
                "take a new base with pitr backup; a larger oplog (replSetResizeOplog) bridges longer interruptions"
                    .to_owned(),
            ),
            Self::StandsStill { .. } => Some("rs.status() shows which members are down, or lag".to_owned()),
            Self::Diverged { .. } => Some("a member was rolled back by force or restored: see its log".to_owned()),
            Self::Unreplayable { .. } => {
                Some("choose a target before it, or a base that was taken after it".to_owned())
            }
            Self::Url(_) => Some("as in mongodb://pitr@db1:27017,db2:27017/?replicaSet=rs0&tls=true".to_owned()),
            Self::Port(error) => error.hint(),
            _ => None,
        }
    }
}

impl From<Error> for PortError {
    fn from(error: Error) -> Self {
        match error {
            Error::Port(error) => error,
            other => Self::new(other),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_not_there_is_told_in_a_line() {
        let message = "Server selection timeout: No available servers. Topology: { Type: Single, Servers: [ { Address: \
                       127.0.0.1:1, Type: Unknown, Error: Kind: I/O error: Connection refused (os error 111), labels: \
                       {\"RetryableWriteError\"}, source: None } ] }";
        assert_eq!(selection(message), "I/O error: Connection refused (os error 111)");
        assert_eq!(selection("something else"), "something else");
    }
}
