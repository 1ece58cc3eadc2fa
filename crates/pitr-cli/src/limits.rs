//! Limits of the program.

/// Segments fetched ahead of a replaying server; with 16 MiB segments the spool holds 256 MiB at most.
pub const PREFETCH_SEGMENTS: u32 = 16;

/// A pushed WAL file is read in pieces of this size; up to it, at once. The size of an archived segment at most.
pub const PUSH_PIECE_BYTES: u64 = 16 * 1024 * 1024;

/// A file of the spool is checked in pieces of this size.
pub const CHECK_PIECE_BYTES: usize = 256 * 1024;

/// Files of the spool that are fetched at the same time.
pub const PREFETCH_CONCURRENCY: usize = 2;

/// No file that PostgreSQL archives is larger: the largest segment size there is.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// How often `backup` begins anew because the server altered tables meanwhile, or something else was in the way.
pub const BACKUP_ATTEMPTS: u32 = 6;

/// Pause before the second attempt; before the third twice as long, and so on.
pub const BACKUP_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// How soon `backup` looks again whether the log that its base needs has arrived, at first; each time twice as long.
pub const WAIT_FOR_LOG_POLL: std::time::Duration = std::time::Duration::from_millis(250);

/// How long it waits between two looks at most: each lists a part of the archive.
pub const WAIT_FOR_LOG_MAX_POLL: std::time::Duration = std::time::Duration::from_secs(2);

/// `backup` removes temporary files of a local archive that are older: what a killed writer left.
pub const LEFTOVER_AGE: std::time::Duration = std::time::Duration::from_secs(86_400);

/// Sealed segments and tails of one source that are on their way into the archive at once,
pub const SEGMENTS_IN_FLIGHT: usize = 8;
/// and their bytes, at which no more log is read: native ones while a segment is being compressed, compressed ones after that. Two
/// segments of the largest transactions exceed it, so that there are no three.
pub const BYTES_IN_FLIGHT: usize = 40 << 20;

/// Bytes of an open segment that cannot be cut, at which streaming gives up: it is held in memory.
pub const MAX_SEGMENT_BYTES: usize = 1 << 30;

/// A streamed segment is sealed where its engine allows it, once it has this many bytes,
pub const STREAM_SEGMENT_BYTES: usize = 16 << 20;
/// or is this old.
pub const STREAM_SEGMENT_AGE: std::time::Duration = std::time::Duration::from_secs(300);

/// How soon new log is durable while it is streamed, unless the source says otherwise.
pub const FLUSH_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// Time without log after which a source that sent much of it has no more for the moment.
pub const QUIET: std::time::Duration = std::time::Duration::from_millis(50);

/// How often a stream without work gives a sign of life.
pub const PULSE_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// Pause before the first try to begin a stream again, and the longest one: log that is not archived yet may be lost with
/// its server, so a server that is back must not wait for us.
pub const RECONNECT_FIRST_PAUSE: std::time::Duration = std::time::Duration::from_millis(250);
/// See [`RECONNECT_FIRST_PAUSE`].
pub const RECONNECT_MAX_PAUSE: std::time::Duration = std::time::Duration::from_secs(5);

/// A watched WAL directory is looked at this often, in case that a change was missed,
pub const WATCH_RESCAN: std::time::Duration = std::time::Duration::from_secs(10);
/// and this long after a change, for changes come in groups.
pub const WATCH_SETTLE: std::time::Duration = std::time::Duration::from_millis(100);

/// Time for a streaming service to make durable what it has, once it is told to end.
pub const STREAM_STOP_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Longest time for which a stream that is to end still takes what its source sends; it ends earlier when nothing comes for [`QUIET`].
pub const DRAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Gaps that `status` prints; `list` prints all.
pub const SHOWN_GAPS: usize = 5;

/// `status` warns when the archived log ends longer ago, where an idle server writes none.
pub const LOG_TOO_OLD: chrono::TimeDelta = chrono::TimeDelta::hours(1);

/// `status` warns when the newest base is older.
pub const BASE_TOO_OLD: chrono::TimeDelta = chrono::TimeDelta::days(8);

/// Damaged objects that `verify` prints; its JSON has all.
pub const SHOWN_DAMAGES: usize = 20;

/// Objects that `verify` reads at the same time; each is at most 64 MiB.
pub const VERIFY_CONCURRENCY: usize = 2;
