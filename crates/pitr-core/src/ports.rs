//! The ports: where engine and archive meet.
//!
//! An engine produces log ([`LogStream`]) and bases ([`BaseBackup`] into a [`PartSink`]), and consumes
//! both again ([`Restorer`] from a [`SegmentReader`] and a [`BaseReader`]). The archive implements the
//! sinks and readers. Neither knows the other's types.

use std::future::Future;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{BaseId, CommitBounds, Engine, Facts, LineageId, PortError, SegmentName, Span, Timestamp};

/// Where a log stream may be cut into segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The next chunk belongs to the same segment.
    Never,
    /// A segment may end here if it is large or old enough.
    May,
    /// The segment ends here.
    Must,
}

/// Bytes of log as they came from the source.
#[derive(Debug, Clone)]
pub struct LogChunk {
    /// The native bytes, at most about [`LogChunk::BYTES`]: whatever was ready. Empty only to say that the open
    /// segment, which has bytes, must end after all.
    pub bytes: Bytes,
    /// Whether the open segment may end after them.
    pub cut: Cut,
}

impl LogChunk {
    /// Bytes that a stream gathers in one chunk while more is ready.
    pub const BYTES: usize = 1 << 20;
}

/// The segment that a stream is in: known before its first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentStart<P> {
    /// Its name, made from its start alone.
    pub name: SegmentName,
    /// Cut before its first byte.
    pub start: P,
}

/// What is known of a segment, or of the bytes of an open one so far, once they have been decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSummary<P> {
    /// Cut after the last byte; where the bytes end in the middle of a transaction or entry, before that one.
    pub end: P,
    /// What is known of commit times inside.
    pub commits: CommitBounds,
    /// Number of named points inside.
    pub marks: u64,
    /// What the engine noted.
    pub facts: Facts,
}

/// The continuous log of one lineage, from the begin of a segment on.
///
/// # Contract
/// Implemented by engines, called by the shared streaming loop. Joined, the chunks between two cuts are a segment,
/// byte for byte, without hole or overlap. The engine says where a cut is legal, the loop when it is made:
/// after a chunk that says [`Cut::Must`] the loop calls [`cut`](Self::cut) before `next`, after [`Cut::May`] it may,
/// after [`Cut::Never`] it must not. The loop holds the open segment in memory, so an engine offers a cut as often
/// as its log has one.
///
/// `next` is cancel-safe: a dropped future loses no bytes. `Ok(None)` means that this lineage ended (a fork
/// follows, or the source was shut down for good); bytes of the open segment then stay a tail. An error ends
/// the stream: of a kind that [may be retried](crate::ErrorKind::is_retryable), the loop connects again; of kind
/// [`Absent`](crate::ErrorKind::Absent), the source no longer has the log that comes next, which makes a gap.
///
/// A stream learns what became durable from a channel given to its constructor, if it cares; it must not
/// depend on being asked for the next chunk while it answers its source.
pub trait LogStream: Send {
    /// The engine whose log it is.
    type Engine: Engine;

    /// The history that is streamed.
    fn lineage(&self) -> &LineageId;

    /// The segment to which the next chunk belongs.
    fn open(&self) -> &SegmentStart<<Self::Engine as Engine>::Position>;

    /// The next bytes; waits while the source is idle.
    fn next(&mut self) -> impl Future<Output = Result<Option<LogChunk>, PortError>> + Send;

    /// What the header of the open segment would say if it ended after the last chunk. Asked for whenever bytes are
    /// made durable, also where a cut is not legal. There has been a chunk since the last cut.
    fn so_far(&self) -> SegmentSummary<<Self::Engine as Engine>::Position>;

    /// Ends the open segment after the last chunk. From here on [`open`](Self::open) names the one that follows.
    ///
    /// # Errors
    /// The bytes are not those of a whole segment: nothing may be stored under its name.
    fn cut(&mut self) -> Result<SegmentSummary<<Self::Engine as Engine>::Position>, PortError>;
}

/// How a part of a base is cut into chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Chunking {
    /// At fixed offsets: for files whose pages stay where they are.
    Fixed,
    /// By content: for dumps, where an insertion shifts all that follows.
    Content,
}

/// One entry of a base: a file with content, or something without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartInfo {
    /// Relative path with `/`, without `.` and `..`; the engine checks it again before it writes.
    pub path: String,
    /// What it is.
    pub kind: PartKind,
    /// Unix permission bits, where the engine keeps them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// The kinds of entry of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// A file, cut into chunks.
    File(Chunking),
    /// A directory.
    Directory,
}

/// Takes the parts of a base while it is being taken.
///
/// # Contract
/// Implemented by the archive. Parts may be open at the same time, from several tasks; each path at most
/// once per base. Memory stays bounded: `write` waits while the store is slower than the source. Nothing
/// of the base is visible before the caller commits it (which is not part of this port).
pub trait PartSink: Sync {
    /// An open part.
    type Part: PartWriter + 'static;

    /// Begins a part; a directory is finished at once.
    fn open(&self, part: PartInfo) -> impl Future<Output = Result<Self::Part, PortError>> + Send;
}

/// One open part of a base.
pub trait PartWriter: Send {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> impl Future<Output = Result<(), PortError>> + Send;
    /// Ends the part; returns its length in bytes.
    fn finish(self) -> impl Future<Output = Result<u64, PortError>> + Send;
}

/// What an engine says of a base once it has been taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupRecord<P> {
    /// The history it was taken from.
    pub lineage: LineageId,
    /// Log is needed from here on.
    pub start: P,
    /// The earliest cut that can be reached from it.
    pub consistent: P,
    /// Clock of the source at begin and end.
    pub taken: (Timestamp, Timestamp),
    /// Plain facts, visible to whoever can list the archive.
    pub facts: Facts,
}

/// Takes a base over the engine's own protocol.
///
/// # Contract
/// Implemented by engines. Pushes every part into the sink and returns once the source has confirmed the
/// end; an error leaves nothing behind on the source. Does not wait for log to be archived: the caller does.
pub trait BaseBackup: Send {
    /// The engine whose base it is.
    type Engine: Engine;

    /// Takes the base.
    fn take<S: PartSink>(
        self,
        into: &S,
    ) -> impl Future<Output = Result<BackupRecord<<Self::Engine as Engine>::Position>, PortError>> + Send;
}

/// Gives log back, byte for byte.
///
/// # Contract
/// Implemented by the archive. The digest is checked before anything is returned. `Ok(None)` is an
/// authoritative "absent"; every fault is an error and never "absent". A segment that is not sealed yet
/// is given as far as its tails go: whoever needs more than what its span says reads on elsewhere.
pub trait SegmentReader: Sync {
    /// The native bytes of one segment, sealed or not.
    fn segment(
        &self,
        lineage: &LineageId,
        name: &SegmentName,
    ) -> impl Future<Output = Result<Option<Bytes>, PortError>> + Send;
}

/// Receives the content of a base, in any order.
///
/// # Contract
/// Implemented by engines. `begin` comes before any other call for the part, `end` after all of them; calls
/// for different parts, and `write_at` of one part, may come from several threads at once and may block.
/// A resumed restore delivers only what `read_at` shows to differ.
pub trait PartTarget: Send + Sync {
    /// Announces a part and its length in bytes.
    fn begin(&self, part: &PartInfo, bytes: u64) -> Result<(), PortError>;
    /// What an interrupted restore left at this range; `None` if the part is new or shorter than that.
    fn read_at(&self, part: &PartInfo, offset: u64, len: usize) -> Result<Option<Vec<u8>>, PortError>;
    /// Content of a part at a byte offset.
    fn write_at(&self, part: &PartInfo, offset: u64, bytes: &[u8]) -> Result<(), PortError>;
    /// All content of the part has been delivered.
    fn end(&self, part: &PartInfo) -> Result<(), PortError>;
}

/// Gives a base back.
///
/// # Contract
/// Implemented by the archive. Every chunk is checked against its keyed digest before it is delivered.
pub trait BaseReader: Sync {
    /// Delivers all parts for which `wanted` is true, in parallel.
    fn pour<T: PartTarget>(
        &self,
        base: &BaseId,
        wanted: &(dyn Fn(&PartInfo) -> bool + Sync),
        into: &T,
    ) -> impl Future<Output = Result<(), PortError>> + Send;

    /// The whole content of one small part (at most a few MiB), in memory.
    fn small_part(&self, base: &BaseId, path: &str) -> impl Future<Output = Result<Option<Bytes>, PortError>> + Send;
}

/// Where a restore stops, in both ways an engine may want to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop<P> {
    /// Stop before the record that begins here. The record is known to be in the archive.
    Before(P),
    /// Stop after the record that begins here, the last one to be applied.
    After(P),
}

/// What a restore does with the log: the part of a plan that an engine needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery<P> {
    /// The base to lay down.
    pub base: BaseId,
    /// The history in which the stop lies.
    pub lineage: LineageId,
    /// The histories to go through, oldest first; the last one is `lineage`.
    pub path: Vec<LineageId>,
    /// The log to apply, in order.
    pub log: Vec<Span<P>>,
    /// The cut to arrive at: everything before it is in.
    pub cut: P,
    /// How to stop there.
    pub stop: Stop<P>,
}

/// Lays a base down and prepares or performs the replay.
///
/// # Contract
/// Implemented by engines. Never touches anything that exists and was not made by the same restore. After
/// an interruption the same call goes on. Returns the position reached, which the caller compares with
/// the plan; an engine that leaves the replay to the server's next start returns `None`.
pub trait Restorer: Send {
    /// The engine that is restored.
    type Engine: Engine;

    /// Performs the restore.
    fn restore<R: SegmentReader + BaseReader>(
        self,
        recovery: &Recovery<<Self::Engine as Engine>::Position>,
        from: &R,
    ) -> impl Future<Output = Result<Option<<Self::Engine as Engine>::Position>, PortError>> + Send;
}

/// A sealed segment on its way into the archive.
#[derive(Debug, Clone)]
pub struct SealedSegment<P> {
    /// The history it belongs to.
    pub lineage: LineageId,
    /// Its name, made from its start alone.
    pub name: SegmentName,
    /// Cut before the first byte.
    pub start: P,
    /// Cut after the last byte.
    pub end: P,
    /// What is known of commit times inside.
    pub commits: CommitBounds,
    /// Number of named points inside.
    pub marks: u64,
    /// What the engine noted.
    pub facts: Facts,
    /// The native bytes.
    pub bytes: Bytes,
}
