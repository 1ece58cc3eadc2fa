//! Every limit of the archive, with its unit and the reason for its size.

use std::time::Duration;

/// Version of the object format written by this program.
pub const FORMAT: u32 = 1;

/// First read of a header, in bytes; nearly every header fits.
pub const HEADER_PROBE_BYTES: u64 = 4 * 1024;
/// Longest accepted plain header, in bytes.
pub const MAX_HEADER_BYTES: usize = 1024 * 1024;
/// Longest accepted native content of one object, in bytes: the largest PostgreSQL segment.
pub const MAX_RAW_BYTES: u64 = 1024 * 1024 * 1024;
/// Longest accepted object, in bytes: incompressible content, framing, encryption, header.
pub const MAX_OBJECT_BYTES: u64 = MAX_RAW_BYTES + MAX_RAW_BYTES / 64;
/// Most memory that is reserved because a header says so, in bytes; beyond it memory grows with real content.
pub const MAX_TRUSTED_BYTES: u64 = 32 * 1024 * 1024;
/// Longest accepted identity or digest key file, in bytes.
pub const MAX_KEY_FILE_BYTES: u64 = 1024 * 1024;

/// zstd level of chunks of bases that consist of files of pages.
pub const ZSTD_LEVEL_OF_PAGES: i32 = 3;
/// zstd level of chunks of bases that consist of rows or documents, one after the other. Chunks are short, and level 3 takes
/// twice as long to store no less: statements with orders shrink 2.56 times at level 1 and 2.63 times at level 3, those of
/// sysbench 2.22 and 2.03 times.
pub const ZSTD_LEVEL_OF_ROWS: i32 = 1;
/// zstd level of everything else, which is log nearly all. Level 3 takes about twice as long and stores hardly less: pgbench
/// 11.7 times smaller against 12.2, or 5.7 against 5.1; binary log of sysbench 3.32 against 3.38.
pub const ZSTD_LEVEL_OF_LOG: i32 = 1;
/// Largest zstd window that a decoder allocates, as a power of two; level 3 writes at most 21.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 24;
/// Content of one zstd frame, in bytes; frames of one object are compressed in parallel.
///
/// Larger ones compress hardly better (16 MiB of pgbench log: 4 MiB saves 0.6 %, 1 MiB 0.4 %, bulk updates lose as much), and in
/// this size a piece, its frame and its decoded copy stay in the cache of one core.
pub const FRAME_BYTES: usize = 512 * 1024;
/// Pieces of [`FRAME_BYTES`] under way in one press.
pub const PRESS_PIECES: usize = 4;
/// Content that is sealed and written where it is, in bytes: handing it to another thread and back takes longer.
pub const SMALL_PAYLOAD_BYTES: usize = 64 * 1024;
/// Largest piece of an encrypted object in memory, in bytes.
pub const PIECE_BYTES: usize = 256 * 1024;
/// Threads that compress one object.
pub const CODEC_THREADS: usize = 4;
/// Buffer between decryption and decompression, and below the digest, in bytes.
pub const DECODE_BUFFER_BYTES: usize = 128 * 1024;
/// Idle compression contexts that one process keeps.
pub const IDLE_CODECS: usize = 16;

/// First pause before a repeated call.
pub const RETRY_FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before a repeated call.
pub const RETRY_MAX_PAUSE: Duration = Duration::from_secs(10);
/// Time after which a call to the store is given up, all its repetitions included.
pub const RETRY_DEADLINE: Duration = Duration::from_secs(120);
/// Time for one request, its body included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Time to open a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one process trusts that the archive is still there before it concludes "absent" again.
pub const PRESENCE_TTL: Duration = Duration::from_secs(5);
/// Requests in flight at once when many small objects are read.
pub const READ_CONCURRENCY: usize = 64;
/// Directories that one process remembers to be durable, so as to sync them once only.
pub const MAX_KNOWN_DIRECTORIES: usize = 16 * 1024;
/// Times that a create is repeated when the store says "exists" and then "absent".
pub const MAX_CREATE_RACES: u32 = 5;

/// Length of a strip of tails in bytes: written as zeros once, then filled.
pub const STRIP_BYTES: u64 = 4 * 1024 * 1024;
/// Between two readings of a strip in which a frame is not whole: its writer may be in the middle of it.
pub const STRIP_PAUSE: Duration = Duration::from_millis(50);

/// Newest groups of every lineage that a catalog compares with a real listing, roll-up or not.
pub const FRESH_GROUPS: usize = 2;
/// Segments that may be stored before one that comes before them, and some more.
pub const MAX_OUT_OF_ORDER: u64 = 4;
/// Readings of a lineage in which each shows another hole, before the last is believed.
pub const CATALOG_READINGS: usize = 4;
/// Between two of them: a repeated call of a writer may take that long.
pub const CATALOG_PAUSE: Duration = Duration::from_millis(500);
/// Generations of one roll-up; a further one is not written.
pub const MAX_ROLLUP_GENERATIONS: u32 = 100;
