//! Every limit of this crate, with its unit. Nothing that grows with the database is held in memory.

use std::time::Duration;

/// Largest oplog entry, in bytes: a document of 16 MiB, and 16 KiB around it.
pub const MAX_ENTRY: usize = (16 << 20) + (16 << 10);

/// Longest name of a mark, in bytes.
pub const MAX_MARK_NAME: usize = 128;

/// Longest name of an unknown operation that a header repeats, in bytes.
pub const MAX_OPERATION_NAME: usize = 48;

/// Seconds of the logical clock whose segments form one listing group.
pub const GROUP_SECONDS: u32 = 900;

/// Bytes of log that one chunk of a stream holds at most, unless a single entry is larger.
pub const MAX_CHUNK: usize = 1 << 20;

/// Time for a connection with TLS and login.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Time in which a server must be found that fits.
pub const SELECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for the answer to a small question.
pub const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the server holds back the answer to a tailing cursor when nothing is new.
pub const TAIL_AWAIT: Duration = Duration::from_millis(500);

/// Silence of a tailing cursor after which the connection counts as lost.
pub const TAIL_SILENCE: Duration = Duration::from_secs(30);

/// Seconds of log before its end with which the very first stream of a set begins.
pub const FIRST_LEAD: u32 = 60;

/// Idle time of the log after which a note moves its end.
pub const HEARTBEAT: Duration = Duration::from_secs(3);

/// Time for a note to come to the stream; a member that has not shown it by then is left.
pub const NOTE_TIMEOUT: Duration = Duration::from_secs(15);

/// How often it is told that no note can be written while nothing comes.
pub const NOTE_WARNING: Duration = Duration::from_secs(60);

/// A secondary that is further behind than this is not read while another member can be.
pub const MEMBER_LAG: Duration = Duration::from_secs(10);

/// How often a stream looks how much log it is away from the oldest entry.
pub const WINDOW_CHECK: Duration = Duration::from_secs(30);

/// Seconds that a stream may be behind before it is asked whether the oplog will roll over it.
pub const WINDOW_LAG: u32 = 10;

/// An oplog that is full and reaches back less than this is warned about.
pub const WINDOW_WARNING: Duration = Duration::from_secs(24 * 3600);

/// A majority that is further behind than this is warned about.
pub const MAJORITY_WARNING: Duration = Duration::from_secs(10);

/// What the server shows of us.
pub const APPLICATION_NAME: &str = "pitr";

/// Oldest version of the wire protocol that is supported: MongoDB 4.4.
pub const OLDEST_VERSION: (u32, u32) = (4, 4);

/// Connections to one server at most.
pub const MAX_CONNECTIONS: u32 = 32;

/// How often the catalog is listed until it did not change meanwhile.
pub const CATALOG_ATTEMPTS: usize = 50;

/// Time for a majority to get an entry, and how often it is asked for.
pub const COMMIT_TIMEOUT: Duration = Duration::from_secs(60);
/// See [`COMMIT_TIMEOUT`].
pub const COMMIT_POLL: Duration = Duration::from_millis(20);

/// Bytes of documents in one range of a collection, about.
pub const PARTITION: u64 = 64 << 20;

/// Ranges of one collection at most.
pub const MAX_PARTITIONS: u64 = 4096;

/// Values of `_id` that are looked at for each cut.
pub const SAMPLES_PER_PARTITION: u64 = 16;

/// Bytes of one batch of documents, about. Servers send up to 16 MiB at once.
pub const READ_BATCH: u64 = 2 << 20;

/// Bytes of batches that are read at once, about, on all connections together; the driver holds each twice for a moment.
pub const READ_MEMORY: usize = 16 << 20;

/// How often a cursor that the server ended is opened again.
pub const READ_ATTEMPTS: usize = 100;

/// Ranges that are read at once.
pub const DUMP_CONNECTIONS: usize = 4;

/// Bytes of one part of a base's catalog.
pub const CATALOG_PART: usize = 1 << 20;

/// Bytes of undecided transactions, and of documents that came out of order, in memory. The rest waits in a file.
pub const TRANSACTION_MEMORY: usize = 16 << 20;
/// See [`TRANSACTION_MEMORY`].
pub const REORDER_MEMORY: usize = 16 << 20;

/// A document of a base that is larger than this waits for its end with so many bytes of it in memory.
pub const LARGE_DOCUMENT: usize = 3 << 20;
/// See [`LARGE_DOCUMENT`].
pub const LARGE_MEMORY: usize = 1 << 20;

/// Depth to which an `_id` is looked into to choose its lane.
pub const MAX_HASH_DEPTH: usize = 32;

/// Connections that apply log, and that insert documents of a base.
pub const LANES: usize = 4;

/// Writes that are sent to the target at once, at most.
pub const BATCH_WRITES: usize = 1000;

/// Writes that wait on one lane for others on the same document, and their bytes, about.
pub const WINDOW_WRITES: usize = 8000;
/// See [`WINDOW_WRITES`].
pub const WINDOW_BYTES: usize = 2 << 20;

/// Bytes of two segments up to which the second is read while the first is applied.
pub const LOG_MEMORY: u64 = 34 << 20;

/// A segment that is larger than this is read when nothing is on its way to the target.
pub const LARGE_SEGMENT: u64 = 20 << 20;

/// Depth to which the difference between two documents is followed.
pub const MAX_DELTA_DEPTH: usize = 100;

/// Inserts into one collection that are worth a command of their own.
pub const FEWEST_INSERTS: usize = 8;

/// Largest document that a client may insert, in bytes.
pub const MAX_DOCUMENT: usize = 16 << 20;

/// Bytes of writes that are sent at once, about. A command may have 48 MiB, a document 16 MiB.
pub const BATCH_BYTES: usize = 1 << 20;

/// Bytes of batches on their way to the target; each is held about three times while it is sent.
pub const BATCHES_MEMORY: usize = 16 << 20;

/// Batches of a base that wait for a worker.
pub const QUEUED_BATCHES: usize = 1;

/// Writes that are handed to a lane at once, and their bytes, about; and how often before the lane has to take them.
pub const HANDFUL_WRITES: usize = 128;
/// See [`HANDFUL_WRITES`].
pub const HANDFUL_BYTES: usize = 128 << 10;
/// See [`HANDFUL_WRITES`].
pub const QUEUED_HANDFULS: usize = 2;

/// A write of more bytes than this waits for no other, and for room of [`BATCHES_MEMORY`].
pub const LARGE_WRITE: usize = 256 << 10;

/// How often a restore notes how far it is.
pub const CHECKPOINT: Duration = Duration::from_secs(10);

/// Entries in one answer to a tailing cursor, at most.
pub const TAIL_BATCH: i32 = 5000;

/// Time for a server of our own to start (it may have to recover), and to shut down.
pub const SERVER_START: Duration = Duration::from_secs(120);
/// See [`SERVER_START`].
pub const SERVER_STOP: Duration = Duration::from_secs(300);
/// How often it is looked at meanwhile.
pub const SERVER_POLL: Duration = Duration::from_millis(50);

/// Bytes of a server's log that an error shows, from its end.
pub const LOG_TAIL: u64 = 2048;

/// Time for a target to finish what an interrupted restore has left running: the building of indexes, at worst.
pub const OUTLIVE_TIMEOUT: Duration = Duration::from_secs(600);
