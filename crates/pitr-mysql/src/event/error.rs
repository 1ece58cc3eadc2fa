//! What is wrong with log bytes, and where.

use pitr_core::{Classify, ErrorKind};

/// Damage at an offset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at offset {offset}: {damage}")]
pub struct EventError {
    /// Offset in the file at which the event begins.
    pub offset: u64,
    /// What is wrong with it.
    pub damage: Damage,
}

/// The kinds of damage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The file does not begin as a binary log does.
    #[error("the file does not begin with the mark of a binary log")]
    Magic,
    /// The file is encrypted on disk; the server sends it in clear.
    #[error("the file is encrypted")]
    Encrypted,
    /// A length that cannot be.
    #[error("an event of kind {kind} claims {length} bytes")]
    Length {
        /// Its kind.
        kind: u8,
        /// The length it claims, header and checksum included.
        length: u32,
    },
    /// The checksum differs.
    #[error("the checksum of an event of kind {kind} is {stored:08x} and should be {computed:08x}")]
    Checksum {
        /// Its kind.
        kind: u8,
        /// What stands there.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// The end that the event names is not where it ends.
    #[error("an event of kind {kind} says that it ends at {claimed}, and it ends at {actual}")]
    Place {
        /// Its kind.
        kind: u8,
        /// Its `log_pos`.
        claimed: u32,
        /// Where it ends, modulo 2^32.
        actual: u32,
    },
    /// An event before the one that says how to read them.
    #[error("an event of kind {0} comes before the format description")]
    NoFormat(u8),
    /// A format that is not supported.
    #[error("format description: {0}")]
    Format(String),
    /// The inside of an event cannot be read.
    #[error("an event of kind {kind} is malformed: {what}")]
    Body {
        /// Its kind.
        kind: u8,
        /// What cannot be read.
        what: &'static str,
    },
    /// An event of a kind that is not known, and that may not be ignored.
    #[error("an event of the unknown kind {0}, which is not marked as one to ignore")]
    Unknown(u8),
    /// A transaction that does not follow the rules.
    #[error("a transaction that began at offset {begin} {what}")]
    Group {
        /// Where it began.
        begin: u64,
        /// What is wrong.
        what: &'static str,
    },
}

impl EventError {
    pub(crate) fn new(offset: u64, damage: Damage) -> Self {
        Self { offset, damage }
    }
}

impl Classify for EventError {
    fn kind(&self) -> ErrorKind {
        match self.damage {
            // Not damage: something newer than this program.
            Damage::Unknown(_) | Damage::Format(_) => ErrorKind::Refused,
            _ => ErrorKind::Integrity,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self.damage {
            Damage::Unknown(_) | Damage::Format(_) => {
                "the server is newer than this version of pitr understands; a newer pitr may know it"
            }
            Damage::Encrypted => "stream from the server, which decrypts, instead of reading its files",
            _ => {
                "compare with mysqlbinlog --verify-binlog-checksum on the file of the server; if it is whole there, the copy is damaged"
            }
        };
        Some(hint.to_owned())
    }
}
