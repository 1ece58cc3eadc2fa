//! Every limit of this crate, with its unit. Nothing that grows with the database is held in memory.

use std::time::Duration;

/// Largest event, in bytes. The server's own limit (`max_log_event_size` of its dump thread) is 1 GiB.
pub const MAX_EVENT: u32 = 1 << 30;

/// Bytes of an event that decoders look at: identifiers, the begin of a statement. Row images are never needed.
pub const MAX_KEPT_EVENT: usize = 1 << 20;

/// Largest format description event, in bytes. Real ones have about 130.
pub const MAX_FORMAT_EVENT: u32 = 64 << 10;

/// Largest set of transactions at the head of a file (`PREVIOUS_GTIDS`, `GTID_LIST`), in bytes.
pub const MAX_SET_EVENT: u32 = 64 << 20;

/// Binary log files whose segments are listed together. A full file of 1 GiB has 64 segments or a few more.
pub const FILES_PER_GROUP: u64 = 16;

/// Bytes of a segment that is cut between two transactions only. Beyond, a transaction is cut too: the open segment
/// is held in memory.
pub const LONGEST_WHOLE: u64 = 24 << 20;

/// How often a server that has nothing to send says so.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// Silence after which a server is given up: several heartbeats.
pub const STREAM_SILENCE: Duration = Duration::from_secs(40);

/// Time for the answer to a small question.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes at the head of a file within which its set of transactions must end.
pub const MAX_FILE_HEAD: u64 = MAX_SET_EVENT as u64 + MAX_FORMAT_EVENT as u64;

/// Archived cuts that are compared with the log of a server that is not the one of before, newest first.
pub const MAX_KNOWN_CUTS: usize = 300;

/// Archived cuts that are looked for in the log of another server.
pub const MAX_LOOKS: usize = 3;

/// A server that keeps its log for less is warned of: a stream may be away over a weekend.
pub const SHORT_EXPIRY: Duration = Duration::from_secs(3 * 86_400);

/// Port of a server when nobody says otherwise.
pub const DEFAULT_PORT: u16 = 3306;

/// Time for a connection with TLS and login.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Largest packet of a login, in bytes.
pub const MAX_LOGIN_PACKET: usize = 64 << 10;

/// What `performance_schema.session_connect_attrs` shows of us.
pub const PROGRAM_NAME: &str = "pitr";

/// Largest packet that is joined in memory, in bytes: the server's own limit (`max_allowed_packet`) is 1 GiB.
pub const MAX_PACKET: usize = (1 << 30) + (1 << 10);

/// Characters of a statement that an error shows.
pub const ERROR_TEXT: usize = 120;

/// Bytes of rows in one statement of a dump, at least; twice as many on average.
pub const STATEMENT_MIN: usize = 256 << 10;

/// Bytes of rows in one statement of a dump, at most, unless a single row has more. Far below the smallest
/// `max_allowed_packet` in use (16 MiB).
pub const STATEMENT_MAX: usize = 2 << 20;

/// Bytes of one file of rows, at least, unless its table has less; twice as many on average. A file is loaded as one
/// transaction.
pub const FILE_MIN: usize = 16 << 20;

/// Bytes of one file of rows, at most, unless a single statement has more.
pub const FILE_MAX: usize = 64 << 20;

/// Bytes of a table that one session reads in one go.
pub const RANGE_BYTES: u64 = 64 << 20;

/// Stretches into which one table is divided, at most.
pub const RANGES_PER_TABLE: i128 = 4_096;

/// Sessions that read rows, unless the options say otherwise.
pub const DUMP_SESSIONS: usize = 4;

/// Age below which a table counts as one that may go as soon as it came.
pub const YOUNG: Duration = Duration::from_secs(3600);

/// Bytes of such tables, all together, that are read while writes wait.
pub const YOUNG_BYTES: u64 = 4 << 20;

/// Time for one attempt to bring the server to a standstill. Writes wait as long.
pub const LOCK_WAIT: Duration = Duration::from_secs(10);

/// The same for a lock that is wanted while others are held: who changes a definition may wait for us, and we for them.
pub const LOCK_WAIT_HELD: Duration = Duration::from_secs(1);

/// Attempts to bring the server to a standstill.
pub const LOCK_ATTEMPTS: u32 = 6;

/// Largest event that names a transaction, in bytes. Real ones have 42 to about 140.
pub const MAX_GTID_EVENT: u32 = 4 << 10;

/// Largest packet that a replica sends us, in bytes: the set of what it has.
pub const MAX_REPLICA_PACKET: usize = 64 << 20;

/// Segments that are read from the archive while one is being sent to the replica. Each may have [`LONGEST_WHOLE`] bytes.
pub const SEGMENTS_AHEAD: usize = 2;

/// How often a replica that is sent nothing gets a sign of life: several times within the 60 s after which it gives us up.
pub const REPLAY_HEARTBEAT: Duration = Duration::from_secs(5);

/// Time between two looks at how far the restored server has come.
pub const REPLAY_POLL: Duration = Duration::from_millis(50);

/// Time after which a restored server that has never reached us is given up.
pub const REPLAY_CONNECT: Duration = Duration::from_secs(60);

/// Time after which it is told that a restored server does nothing.
pub const REPLAY_QUIET: Duration = Duration::from_secs(60);

/// Time after which a restored server that does nothing is given up. One transaction may take long to apply.
pub const REPLAY_STALL: Duration = Duration::from_secs(4 * 3600);

/// Sessions that load rows, unless the options say otherwise.
pub const LOAD_SESSIONS: usize = 4;

/// Attempts to load a file of rows where another session's locks are in the way.
pub const LOAD_ATTEMPTS: u32 = 5;

/// Bytes of rows that lie in the spool at a time, at least (twice as many while one batch is loaded and the next arrives).
pub const BATCH_MIN: u64 = 256 << 20;

/// Bytes of rows that lie in the spool at a time, at most.
pub const BATCH_MAX: u64 = 8 << 30;

/// Batches into which a base is divided, where the sizes above allow it: each reads the index of the base once.
pub const BATCHES: u64 = 32;

/// Bytes of a file of rows that are read at a time.
pub const STATEMENT_READ: usize = 256 << 10;

/// Rounds in which views and accounts that need each other are tried again.
pub const DEFINITION_ROUNDS: usize = 64;

/// Time for a server that a restore starts to answer: it may have to recover after an interruption.
pub const SERVER_START: Duration = Duration::from_secs(1800);

/// Time for it to stop in good order, with everything written.
pub const SERVER_STOP: Duration = Duration::from_secs(1800);

/// Time for a killed server to be gone.
pub const ORPHAN_STOP: Duration = Duration::from_secs(60);

/// Time between two looks at it.
pub const SERVER_POLL: Duration = Duration::from_millis(100);

/// Bytes of its log that an error shows.
pub const LOG_TAIL: usize = 4 << 10;

/// Longest name of a point, in bytes: as PostgreSQL has it. The statement that writes it is then shorter than what MariaDB
/// compresses by default.
pub const MAX_MARK_NAME: usize = 63;
/// Largest compressed transaction that is looked into for a mark, by the length of its events in bytes.
pub const MAX_MARK_TRANSACTION: usize = 4 * 1024;
