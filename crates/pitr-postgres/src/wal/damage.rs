//! What can be wrong with log bytes, always with the position.

use crate::lsn::{Lsn, TimelineId};

/// Bytes that no correct server leaves inside valid log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at {lsn}: {what}")]
pub struct WalError {
    /// The page or record that is wrong: where it begins.
    pub lsn: Lsn,
    /// What is wrong with it.
    pub what: Damage,
}

/// The kinds of damage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The first bytes of the page are not those of any supported version.
    #[error("page magic {0:04X} belongs to no supported version (13 to 18)")]
    UnknownMagic(u16),
    /// The page was written by another version than those before it.
    #[error("page magic changes from {before:04X} to {found:04X}")]
    MagicChanges {
        /// Magic of the pages before.
        before: u16,
        /// Magic of this page.
        found: u16,
    },
    /// Flag bits of the page header that do not exist, or do not fit its place in the segment.
    #[error("page flags {0:04X} are impossible here")]
    PageFlags(u16),
    /// The page says that it belongs somewhere else.
    #[error("page says that it belongs at {0}")]
    PageAddress(Lsn),
    /// The page belongs to a timeline that cannot occur here.
    #[error("page is of timeline {found}, which cannot follow timeline {before} on the way to {last}")]
    PageTimeline {
        /// Timeline of the page before.
        before: TimelineId,
        /// Timeline of this page.
        found: TimelineId,
        /// The timeline that is read.
        last: TimelineId,
    },
    /// The segment belongs to another cluster.
    #[error("segment is of system {found}, expected {expected}")]
    SystemId {
        /// The identifier that was expected.
        expected: u64,
        /// The identifier in the segment.
        found: u64,
    },
    /// The long header names another segment size.
    #[error("segment header says {found} bytes a segment, expected {expected}")]
    SegmentSize {
        /// The size that was expected.
        expected: u64,
        /// The size in the header.
        found: u32,
    },
    /// The long header names a page size that is not supported.
    #[error("segment header says {0} bytes a page, only 8192 is supported")]
    PageSize(u32),
    /// A record goes on in this page, and the page does not say so, or disagrees about how much is left.
    #[error("page continues a record with {found} bytes left, expected {expected}")]
    Continuation {
        /// Bytes that the record still needs.
        expected: u64,
        /// Bytes that the page announces.
        found: u64,
    },
    /// A page says that it replaces the rest of a record, and no record was open.
    #[error("page replaces the rest of a lost record, but no record was left open")]
    ReplacesNothing,
    /// A record length that cannot be.
    #[error("record length {0} is impossible")]
    RecordLength(u32),
    /// The record does not follow the one before it.
    #[error("record says that it follows {found}, but the record before begins at {expected}")]
    PreviousLink {
        /// Where the record before begins.
        expected: Lsn,
        /// Where the record says that it begins.
        found: Lsn,
    },
    /// The record's bytes are not those that its checksum was made from.
    #[error("record checksum is {found:08X}, computed {computed:08X}")]
    Checksum {
        /// The checksum in the record.
        found: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// The record's checksum is right, and its content makes no sense.
    #[error("record content is malformed: {0}")]
    Content(&'static str),
}
