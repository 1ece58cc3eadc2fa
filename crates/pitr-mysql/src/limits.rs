//! Every limit of this crate, with its unit. Nothing that grows with the database is held in memory.

/// Largest event, in bytes. The server's own limit (`max_log_event_size` of its dump thread) is 1 GiB.
pub const MAX_EVENT: u32 = 1 << 30;

/// Bytes of an event that decoders look at: identifiers, the begin of a statement. Row images are never needed.
pub const MAX_KEPT_EVENT: usize = 1 << 20;

/// Largest format description event, in bytes. Real ones have about 130.
pub const MAX_FORMAT_EVENT: u32 = 64 << 10;

/// Largest set of transactions at the head of a file (`PREVIOUS_GTIDS`, `GTID_LIST`), in bytes.
pub const MAX_SET_EVENT: u32 = 64 << 20;
