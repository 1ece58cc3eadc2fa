//! Records: their header, and what the few of them say that matter to recovery.

use pitr_core::Timestamp;

use crate::lsn::{Lsn, TimelineId};

use super::bytes::Fields;

/// Resource manager of transaction ends.
pub(super) const RM_XACT: u8 = 1;
/// Resource manager of the log's own records.
pub(super) const RM_XLOG: u8 = 0;

/// The resource manager that owns a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Resource(pub u8);

impl Resource {
    /// Its name as `pg_waldump` prints it; `custom` for those of extensions.
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 22] = [
            "XLOG",
            "Transaction",
            "Storage",
            "CLOG",
            "Database",
            "Tablespace",
            "MultiXact",
            "RelMap",
            "Standby",
            "Heap2",
            "Heap",
            "Btree",
            "Hash",
            "Gin",
            "Gist",
            "Sequence",
            "SPGist",
            "BRIN",
            "CommitTs",
            "ReplicationOrigin",
            "Generic",
            "LogicalMessage",
        ];
        NAMES.get(usize::from(self.0)).copied().unwrap_or("custom")
    }
}

/// One whole record whose checksum is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it begins.
    pub lsn: Lsn,
    /// Cut after it, as the server counts: rounded up to 8, and after a switch the end of the segment. May lie at
    /// a page boundary, where the next record begins after the page header.
    pub end: Lsn,
    /// Where the record before it begins; 0 for the first of a cluster.
    pub prev: Lsn,
    /// Bytes without padding and page headers.
    pub total_len: u32,
    /// Transaction that wrote it; 0 for none.
    pub xid: u32,
    /// Who owns it.
    pub resource: Resource,
    /// Kind of record within its resource manager.
    pub info: u8,
    /// Timeline of the page on which it begins.
    pub timeline: TimelineId,
    /// What it says.
    pub detail: Detail,
}

/// What a record says, as far as recovery cares.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Detail {
    /// Anything else; not looked into.
    Other,
    /// A transaction became visible.
    Commit(Settled),
    /// A transaction was rolled back.
    Abort(Settled),
    /// A transaction was prepared for commit in two phases; it is not visible yet.
    Prepare {
        /// The transaction.
        xid: u32,
        /// When it was prepared.
        time: Timestamp,
    },
    /// A checkpoint.
    Checkpoint(Checkpoint),
    /// The rest of the segment is unused.
    Switch,
    /// A named point.
    RestorePoint {
        /// When it was made.
        time: Timestamp,
        /// Its name; not unique.
        name: String,
    },
    /// A base backup ended: from here on a restore of it is consistent.
    BackupEnd {
        /// Where the backup began.
        start: Lsn,
    },
    /// Settings that a standby or restored server must match.
    ParameterChange(Parameters),
    /// A recovery ended, and a new timeline began.
    EndOfRecovery {
        /// When.
        time: Timestamp,
        /// The new timeline.
        timeline: TimelineId,
        /// The timeline that was left.
        previous: TimelineId,
    },
    /// `full_page_writes` was switched.
    FullPageWrites(bool),
    /// The record that began at `lost` was cut off by a crash and never finished.
    OverwriteContrecord {
        /// Where the lost record began.
        lost: Lsn,
        /// When the server came up again.
        time: Timestamp,
    },
}

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The top-level transaction; for a prepared one the one that was prepared. `None` only for a prepared
    /// transaction whose record is larger than what the decoder keeps.
    pub xid: Option<u32>,
    /// When it committed or aborted, by the clock of the server.
    pub time: Timestamp,
    /// Number of its subtransactions.
    pub subtransactions: u32,
    /// True if it was prepared before.
    pub prepared: bool,
}

/// A checkpoint record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// True if the server was shutting down, or ended a recovery.
    pub shutdown: bool,
    /// Where replay would begin.
    pub redo: Lsn,
    /// Timeline of the server.
    pub timeline: TimelineId,
    /// Timeline before, where this is the first record of a new one; else the same.
    pub previous: TimelineId,
    /// Next transaction: epoch in the upper half, identifier in the lower.
    pub next_xid: u64,
    /// When it began, in whole seconds.
    pub time: Timestamp,
}

/// Settings that the log announces when they change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
    /// `wal_level`: 0 minimal, 1 replica, 2 logical.
    pub wal_level: u32,
}

/// The fixed header in front of every record.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordHeader {
    pub(super) total_len: u32,
    pub(super) xid: u32,
    pub(super) prev: Lsn,
    pub(super) info: u8,
    pub(super) resource: u8,
    pub(super) crc: u32,
}

impl RecordHeader {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (total_len, xid, prev) = (fields.u32()?, fields.u32()?, Lsn(fields.u64()?));
        let (info, resource) = (fields.u8()?, fields.u8()?);
        fields.skip(2)?;
        Some(Self { total_len, xid, prev, info, resource, crc: fields.u32()? })
    }
}
