//! Every limit of this crate, with its unit. Nothing that grows with the database is held in memory.

/// Bytes of a WAL page. A server built with another size is refused with a clear error.
pub const PAGE_SIZE: u64 = 8192;

/// Bytes of the header of an ordinary WAL page.
pub const SHORT_PAGE_HEADER: u64 = 24;

/// Bytes of the header of the first page of a WAL segment.
pub const LONG_PAGE_HEADER: u64 = 40;

/// Bytes of the header of a WAL record.
pub const RECORD_HEADER: usize = 24;

/// Longest WAL record that any supported server writes or accepts, in bytes.
///
/// Servers from 16 on limit a record to 1020 MiB; older ones could write up to 1 GiB (`MaxAllocSize`).
pub const MAX_RECORD: u32 = 1 << 30;

/// Bytes of a transaction or XLOG record that the decoder keeps; longer ones are checked but not kept.
///
/// A commit has its time and its subtransaction count within the first 64 bytes. Only the transaction id of a
/// prepared transaction comes after its lists of subtransactions, relations and invalidations.
pub const MAX_KEPT_BODY: usize = 4 << 20;

/// Bytes of native log in one archived segment: WAL files larger than this are stored in slices.
pub const SLICE: u64 = 16 << 20;

/// Archived segments in one listing group.
pub const SEGMENTS_PER_GROUP: u64 = 256;

/// Largest timeline history file that is read, in bytes. A line is about 40 bytes: thousands of promotions.
pub const MAX_HISTORY_FILE: usize = 1 << 20;

/// Largest backup history file (`.backup`) that is read, in bytes.
pub const MAX_BACKUP_HISTORY_FILE: usize = 64 << 10;

/// Longest name of a restore point, in bytes.
pub const MAX_RESTORE_POINT_NAME: usize = 63;
