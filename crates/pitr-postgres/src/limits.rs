//! Every limit of this crate, with its unit. Nothing that grows with the database is held in memory.

use std::time::Duration;

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

/// Port of a server when nobody says otherwise.
pub const DEFAULT_PORT: u16 = 5432;

/// Time for a connection with TLS and login.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Time for the answer to a small question (`SHOW`, `IDENTIFY_SYSTEM`, a query of `pitr check`).
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest message of the replication protocol that is accepted, in bytes. Servers send up to 128 KiB of log or
/// 32 KiB of a base at once; a timeline history file comes whole.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Bytes asked from the socket at once during a base backup.
pub const READ_BUFFER: usize = 256 << 10;

/// What `pg_stat_activity` shows of us.
pub const APPLICATION_NAME: &str = "pitr";

/// Warnings of the server that are kept during one operation.
pub const MAX_NOTICES: usize = 1000;

/// Major versions of PostgreSQL that are supported: from this one,
pub const OLDEST_MAJOR: u32 = 13;
/// to this one.
pub const NEWEST_MAJOR: u32 = 18;

/// Longest silence in the middle of a base backup. A spread checkpoint comes before it and is not counted.
pub const STREAM_SILENCE: Duration = Duration::from_secs(300);

/// Messages of streamed log that wait to be archived; a server sends up to 128 KiB in each. While they are full, the
/// server waits.
pub const STREAM_MESSAGES: usize = 64;

/// Longest time between two reports of what is durable; shorter where the server's `wal_sender_timeout` asks for it.
pub const FEEDBACK_INTERVAL: Duration = Duration::from_secs(10);

/// Shortest time between two reports that nothing has prompted.
pub const MIN_FEEDBACK_INTERVAL: Duration = Duration::from_millis(100);

/// Silence of a server that has been asked to answer, after which the stream's connection counts as lost.
pub const REPLY_SILENCE: Duration = Duration::from_secs(60);

/// Bytes of a page of a relation. A server built with another size has its pages checked by itself alone.
pub const RELATION_PAGE: usize = 8192;

/// Damaged pages that a backup lists one by one.
pub const MAX_DAMAGED_PAGES: usize = 1000;

/// Longest line of a backup manifest, in bytes: a file path of 1024 bytes in its longest encoding, and more.
pub const MAX_MANIFEST_LINE: usize = 64 << 10;

/// Largest `backup_label` or `tablespace_map`, in bytes.
pub const MAX_LABEL: usize = 4 << 20;

/// Directories that a restore keeps open at most.
pub const MAX_OPEN_DIRECTORIES: usize = 128;

/// Longest name of a Unix socket, in bytes.
pub const MAX_SOCKET_PATH: usize = 107;

/// Age from which the directory of a private server may be taken for one that a dead server left behind.
pub const STALE_RUN_DIRECTORY: Duration = Duration::from_secs(86_400);

/// How often a recovering server is asked how far it is.
pub const RECOVERY_POLL: Duration = Duration::from_millis(200);

/// Time for a server to shut down when told to.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(300);

/// Bytes of a server's log that an error shows, from its end.
pub const LOG_TAIL: u64 = 4096;
