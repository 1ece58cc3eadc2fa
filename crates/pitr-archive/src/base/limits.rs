//! Every bound of the base code, with its unit.
//!
//! Together they keep a backup or a restore of any database under 128 MiB: 40 MiB of known chunks, one
//! pack being filled, one being stored (which encryption holds twice), and a few chunks on their way; or
//! one pack being delivered and two being read.

/// Bytes of a chunk of a physical file. A multiple of every page size in use, so that an unchanged page
/// range is an unchanged chunk. On a pgbench cluster 512 KiB stores 1 % less than 1 MiB, and half as much
/// for every changed page.
pub(crate) const FIXED_CHUNK: usize = 512 * 1024;

/// Smallest chunk cut by content, in bytes, except for the last one of a part.
pub(crate) const CONTENT_CHUNK_MIN: usize = 128 * 1024;

/// Usual size of a chunk cut by content, in bytes.
pub(crate) const CONTENT_CHUNK_AVERAGE: usize = 512 * 1024;

/// Largest chunk cut by content, in bytes; no chunk of any kind is larger, and a reader refuses one.
pub(crate) const CONTENT_CHUNK_MAX: usize = 2 * 1024 * 1024;

/// Compressed bytes at which a pack is sealed; it exceeds this by less than one chunk. Large enough that a
/// terabyte makes some tens of thousands of objects, small enough that several are in memory at once, each
/// of them twice while it is encrypted or decrypted.
pub(crate) const PACK_TARGET: usize = 8 * 1024 * 1024;

/// Chunks at which a pack is sealed, so that its plain header stays small (about 50 bytes for each).
pub(crate) const PACK_CHUNKS: usize = 2_048;

/// Uncompressed bytes at which a pack is sealed: bounds the work of checking one that compresses well.
pub(crate) const PACK_RAW: u64 = 256 * 1024 * 1024;

/// Packs on their way to the store while the next one is filled.
pub(crate) const UPLOADS: usize = 1;

/// Chunks that are read but not yet in a pack. With it a source that is faster than the store waits.
pub(crate) const CHUNKS_IN_FLIGHT: usize = 6;

/// Buffers of the size of a chunk kept for the next use.
pub(crate) const IDLE_BUFFERS: usize = 12;

/// Files open at the same time; each holds up to one chunk in memory. More is an error, since waiting
/// for a free place could wait for ever.
pub(crate) const OPEN_FILES: usize = 16;

/// Threads that digest and compress, unless the options say otherwise.
pub(crate) const WRITE_WORKERS: usize = 2;

/// Known chunk ids kept for deduplication, 20 bytes each: every chunk of 1 TiB. Beyond it chunks are
/// stored again instead of being found.
pub(crate) const KNOWN_CHUNKS: usize = 2 * 1024 * 1024;

/// Chunk ids collected before they are merged into the sorted table.
pub(crate) const RECENT_CHUNKS: usize = 16 * 1024;

/// Newest complete bases whose packs are reused.
pub(crate) const REUSED_BASES: usize = 2;

/// Reads in flight while the headers of known packs or of bases are loaded.
pub(crate) const HEADER_READS: usize = 32;

/// Chunks on one line of the index; a longer part continues on a further line.
pub(crate) const LINE_CHUNKS: usize = 2_048;

/// Bytes of index lines collected before they become an object.
pub(crate) const INDEX_OBJECT: usize = 4 * 1024 * 1024;

/// Chunk references (and parts) a reader works on at a time: 32 GiB of physical files. A pack is fetched
/// at most once for each window.
pub(crate) const WINDOW: usize = 64 * 1024;

/// Packs fetched ahead of the one that is being delivered.
pub(crate) const FETCHES: usize = 2;

/// Threads that decompress, check and deliver, at most; never more than there are processors.
pub(crate) const READ_WORKERS: usize = 8;

/// Largest part that is returned in memory, in bytes.
pub(crate) const SMALL_PART: u64 = 16 * 1024 * 1024;

/// Damaged objects that a verification lists one by one.
pub(crate) const DAMAGES: usize = 1_000;

/// Affected parts that are named for each damaged object.
pub(crate) const DAMAGED_PARTS: usize = 100;
