//! The ports of the toy engine: its log stream, its base backup, its restore.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::DateTime;
use pitr_core::ports::{
    BackupRecord, BaseBackup, BaseReader, Chunking, Cut, LogChunk, LogStream, PartInfo, PartKind, PartSink, PartTarget,
    PartWriter, Recovery, Restorer, SealedSegment, SegmentReader, SegmentStart, SegmentSummary, Stop,
};
use pitr_core::{Facts, LineageId, PortError};
use tokio::sync::Notify;

use super::record::{HEADER, Kind, Record, ToyError, open, segment_name};
use super::{Server, Toy, ToyPosition, lineage_id};

/// A server that streams, backups and its clients share.
#[derive(Debug, Clone)]
pub struct Shared(Arc<State>);

#[derive(Debug)]
struct State {
    server: Mutex<Server>,
    ended: Mutex<HashSet<u32>>,
    changed: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere fails the test anyway; the state itself is never left half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Shares a server.
    pub fn new(server: Server) -> Self {
        Self(Arc::new(State { server: Mutex::new(server), ended: Mutex::default(), changed: Notify::new() }))
    }

    /// Looks at the server.
    pub fn read<T>(&self, look: impl FnOnce(&Server) -> T) -> T {
        look(&lock(&self.0.server))
    }

    /// Changes the server and wakes its streams.
    pub fn write<T>(&self, change: impl FnOnce(&mut Server) -> T) -> T {
        let result = change(&mut lock(&self.0.server));
        self.0.changed.notify_waiters();
        result
    }

    /// Ends a branch: its streams end too, once they have yielded everything.
    pub fn end(&self, branch: u32) {
        lock(&self.0.ended).insert(branch);
        self.0.changed.notify_waiters();
    }
}

/// The log of one branch, from the begin of a segment on.
#[derive(Debug)]
pub struct ToyStream {
    server: Shared,
    lineage: LineageId,
    open: SegmentStart<ToyPosition>,
    at: ToyPosition,
}

impl ToyStream {
    /// Streams from `at` on, which must be the begin of a segment.
    pub fn new(server: Shared, at: ToyPosition) -> Result<Self, ToyError> {
        let open = SegmentStart { name: segment_name(at.offset)?, start: at };
        Ok(Self { server, lineage: lineage_id(at.branch), open, at })
    }

    /// The bytes up to the end of the next record, or of the segment if that comes first. A segment's own header
    /// comes with its first byte of log.
    fn ready(&self) -> Result<Option<(LogChunk, ToyPosition)>, ToyError> {
        self.server.read(|server| {
            let Some(branch) = server.branch(self.at.branch) else { return Ok(None) };
            let ends = branch.records.iter().filter(|placed| placed.end > self.at.offset);
            let next = ends.map(|placed| placed.end).min().unwrap_or(branch.end());
            let boundary = (self.at.offset / server.segment + 1) * server.segment;
            let end = next.min(boundary);
            if end <= self.at.offset {
                return Ok(None);
            }
            let segment = server.cut(branch.id, self.open.start.offset, end)?.bytes;
            let known = match self.at.offset - self.open.start.offset {
                0 => 0,
                log => HEADER + log as usize,
            };
            let cut = if end == boundary { Cut::Must } else { Cut::Never };
            Ok(Some((LogChunk { bytes: segment.slice(known..), cut }, ToyPosition { offset: end, ..self.at })))
        })
    }

    fn summary(&self) -> Result<SegmentSummary<ToyPosition>, ToyError> {
        let (from, to) = (self.open.start.offset, self.at.offset);
        let segment = self.server.read(|server| server.cut(self.at.branch, from, to))?;
        let SealedSegment { end, commits, marks, facts, .. } = segment;
        Ok(SegmentSummary { end, commits, marks, facts })
    }
}

impl LogStream for ToyStream {
    type Engine = Toy;

    fn lineage(&self) -> &LineageId {
        &self.lineage
    }

    fn open(&self) -> &SegmentStart<ToyPosition> {
        &self.open
    }

    async fn next(&mut self) -> Result<Option<LogChunk>, PortError> {
        loop {
            let server = self.server.clone();
            // Registered before looking, so that a change in between is not missed.
            let changed = server.0.changed.notified();
            if let Some((chunk, end)) = self.ready().map_err(PortError::new)? {
                self.at = end;
                return Ok(Some(chunk));
            }
            if lock(&self.server.0.ended).contains(&self.at.branch) {
                return Ok(None);
            }
            changed.await;
        }
    }

    fn so_far(&self) -> SegmentSummary<ToyPosition> {
        self.summary().unwrap_or_else(|error| unreachable!("the server never forgets: {error}"))
    }

    fn cut(&mut self) -> Result<SegmentSummary<ToyPosition>, PortError> {
        let summary = self.summary().map_err(PortError::new)?;
        let name = segment_name(self.at.offset).map_err(PortError::new)?;
        self.open = SegmentStart { name, start: self.at };
        Ok(summary)
    }
}

const COUNTER: &str = "data/counter";

/// Takes a base: the counter as it is at the begin, and ballast that is worth chunking.
///
/// Clients go on while it is taken: `between` is called half way, and the base is consistent only after it.
pub struct ToyBackup<F> {
    server: Shared,
    branch: u32,
    ballast: Vec<u8>,
    between: F,
}

impl<F: FnOnce(&Shared) + Send> ToyBackup<F> {
    /// A backup of `branch`.
    pub fn new(server: Shared, branch: u32, ballast: Vec<u8>, between: F) -> Self {
        Self { server, branch, ballast, between }
    }
}

impl<F: FnOnce(&Shared) + Send> BaseBackup for ToyBackup<F> {
    type Engine = Toy;

    async fn take<S: PartSink>(self, into: &S) -> Result<BackupRecord<ToyPosition>, PortError> {
        let here = |server: &Server| {
            let end = server.branch(self.branch).map_or(0, super::Branch::end);
            ToyPosition::new(self.branch, end)
        };
        let (start, value) = self.server.read(|server| (here(server), server.value(here(server))));
        into.open(PartInfo { path: "data".to_owned(), kind: PartKind::Directory, mode: Some(0o700) })
            .await?
            .finish()
            .await?;
        let file =
            |path: &str, chunking| PartInfo { path: path.to_owned(), kind: PartKind::File(chunking), mode: None };
        let mut part = into.open(file(COUNTER, Chunking::Fixed)).await?;
        part.write(format!("{value} {}", start.offset).as_bytes()).await?;
        part.finish().await?;
        (self.between)(&self.server);
        let mut part = into.open(file("data/ballast", Chunking::Content)).await?;
        for piece in self.ballast.chunks(1_000) {
            part.write(piece).await?;
        }
        part.finish().await?;
        let consistent = self.server.read(here);
        let now = DateTime::UNIX_EPOCH;
        Ok(BackupRecord { lineage: lineage_id(self.branch), start, consistent, taken: (now, now), facts: Facts::new() })
    }
}

/// Restores a counter in memory.
#[derive(Debug, Default)]
pub struct ToyRestorer {
    parts: Mutex<Vec<(String, Vec<u8>)>>,
    value: Arc<Mutex<Option<i64>>>,
}

impl ToyRestorer {
    /// Where the counter's value appears once the restore is done.
    pub fn value(&self) -> Arc<Mutex<Option<i64>>> {
        Arc::clone(&self.value)
    }
}

impl PartTarget for ToyRestorer {
    fn begin(&self, part: &PartInfo, bytes: u64) -> Result<(), PortError> {
        lock(&self.parts).push((part.path.clone(), vec![0; bytes as usize]));
        Ok(())
    }

    fn read_at(&self, _part: &PartInfo, _offset: u64, _len: usize) -> Result<Option<Vec<u8>>, PortError> {
        Ok(None)
    }

    fn write_at(&self, part: &PartInfo, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        let outside = || PortError::new(ToyError::Inconsistent(format!("write outside of {}", part.path)));
        let mut parts = lock(&self.parts);
        let (_, content) = parts.iter_mut().find(|(path, _)| *path == part.path).ok_or_else(outside)?;
        let place = content.get_mut(offset as usize..offset as usize + bytes.len()).ok_or_else(outside)?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn end(&self, _part: &PartInfo) -> Result<(), PortError> {
        Ok(())
    }
}

impl Restorer for ToyRestorer {
    type Engine = Toy;

    async fn restore<R: SegmentReader + BaseReader>(
        self,
        recovery: &Recovery<ToyPosition>,
        from: &R,
    ) -> Result<Option<ToyPosition>, PortError> {
        let broken = |what: &str| PortError::new(ToyError::Inconsistent(what.to_owned()));
        from.pour(&recovery.base, &|part| part.path.starts_with("data"), &self).await?;
        let parts = std::mem::take(&mut *lock(&self.parts));
        let (_, counter) = parts.into_iter().find(|(path, _)| path == COUNTER).ok_or_else(|| broken("no counter"))?;
        let counter = String::from_utf8(counter).map_err(|_| broken("the counter is no text"))?;
        let (value, start) = counter.split_once(' ').ok_or_else(|| broken("the counter is no counter"))?;
        let value = value.parse().map_err(|_| broken("the counter is no number"))?;
        let start = start.parse().map_err(|_| broken("the start is no number"))?;
        let mut log = Vec::new();
        for span in &recovery.log {
            let segment = from.segment(&span.lineage, &span.first).await?;
            log.push((span.start, segment.ok_or_else(|| broken("a planned segment is absent"))?));
        }
        let (value, reached) = replay(value, start, &log, &recovery.stop).map_err(PortError::new)?;
        *lock(&self.value) = Some(value);
        Ok(Some(ToyPosition { branch: recovery.cut.branch, offset: reached }))
    }
}

/// Applies segments, each with the position of its first log byte, to the counter of a base that was taken at
/// offset `start`. Returns the value and the offset reached.
pub fn replay(
    mut value: i64,
    start: u64,
    segments: &[(ToyPosition, Bytes)],
    stop: &Stop<ToyPosition>,
) -> Result<(i64, u64), ToyError> {
    let mut origin = None;
    let mut log: Vec<u8> = Vec::new();
    for (position, segment) in segments {
        let base = *origin.get_or_insert(position.offset);
        // A child repeats its parent's bytes and supersedes them.
        let begin = position.offset.saturating_sub(base) as usize;
        if begin > log.len() {
            return Err(ToyError::Inconsistent(format!("hole before {position}")));
        }
        log.truncate(begin);
        let superfluous = base.saturating_sub(position.offset) as usize;
        log.extend_from_slice(open(segment)?.1.get(superfluous..).unwrap_or(&[]));
    }
    let origin = origin.unwrap_or(start);
    let (last, before) = match stop {
        Stop::Before(at) => (at.offset, true),
        Stop::After(at) => (at.offset, false),
    };
    let mut at = start;
    loop {
        if before && at >= last {
            // Like a real server, which compares the begin of a record that it has read.
            let bytes = log.get((at - origin) as usize..).unwrap_or(&[]);
            let seen = Record::decode(bytes, ToyPosition::new(0, at))?;
            return seen
                .map(|_| (value, at))
                .ok_or_else(|| ToyError::Inconsistent(format!("no record to stop before at {at}")));
        }
        let bytes = log.get((at - origin) as usize..).unwrap_or(&[]);
        let Some((record, length)) = Record::decode(bytes, ToyPosition::new(0, at))? else {
            return Err(ToyError::Inconsistent(format!("the log ended at {at}, before the stop at {last}")));
        };
        if let Kind::Commit(change) = record.kind {
            value += change;
        }
        let begin = at;
        at += length as u64;
        if !before && begin == last {
            return Ok((value, at));
        }
    }
}
