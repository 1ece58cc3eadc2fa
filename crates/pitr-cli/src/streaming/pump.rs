//! One connection: chunks in, sealed segments and tails out, the durable position back.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesOrdered, StreamExt};
use pitr_archive::{SourceArchive, Strips, Tail};
use pitr_core::ports::{Cut, LogChunk, LogStream, SegmentStart};
use pitr_core::{Engine, ErrorKind, LineageId, Span};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::flight::{Load, Place, Queue, Room};
use super::{Pace, Pulse, Stop, stopped};
use crate::failure::{During, Failure};
use crate::limits::{BYTES_IN_FLIGHT, DRAIN, MAX_SEGMENT_BYTES, PULSE_INTERVAL, QUIET, SEGMENTS_IN_FLIGHT};

type PositionOf<S> = <<S as LogStream>::Engine as Engine>::Position;

/// How a connection ended, other than by a fault.
#[derive(Debug)]
pub enum End {
    /// The lineage ended; another one follows.
    Lineage,
    /// The source no longer has the log that comes next.
    Removed(Failure),
    /// The service is to end.
    Stopped,
}

/// Moves the log of one connection into the archive.
///
/// Log is stored in its order, so what is published as durable never has a hole before it, and neither has what a kill leaves.
/// Segments are compressed while those before them are stored.
pub struct Pump<'a, S: LogStream> {
    stream: S,
    archive: &'a SourceArchive,
    pace: Pace,
    pulse: &'a Pulse,
    durable: &'a watch::Sender<Option<PositionOf<S>>>,
    open: Open,
    /// Where tails go that somebody waits for, if the archive has such a place.
    strips: Option<Arc<Strips>>,
    uploads: FuturesOrdered<BoxFuture<'static, Result<PositionOf<S>, Failure>>>,
    queue: Queue,
    room: Arc<Room>,
    /// Group of the last sealed segment.
    group: Option<String>,
}

/// The bytes of the open segment.
struct Open {
    bytes: BytesMut,
    /// How many of them are durable, or on their way.
    flushed: usize,
    /// How many there were when that was last tried.
    tried: usize,
    /// When the first of them came.
    since: Instant,
    /// When the last of them came.
    last_chunk: Instant,
    /// When some were last sent on their way.
    last_flush: Option<Instant>,
    /// When the segment before was sealed.
    sealed: Option<Instant>,
    /// Whether the segment may end here.
    may_cut: bool,
}

impl<'a, S: LogStream> Pump<'a, S> {
    /// A pump for a stream that has just begun. What becomes durable is sent into `durable`.
    pub fn new(
        stream: S,
        archive: &'a SourceArchive,
        pace: Pace,
        pulse: &'a Pulse,
        durable: &'a watch::Sender<Option<PositionOf<S>>>,
    ) -> Self {
        let now = Instant::now();
        let (bytes, last_flush, sealed) = (BytesMut::new(), None, None);
        let open =
            Open { bytes, flushed: 0, tried: 0, since: now, last_chunk: now, last_flush, sealed, may_cut: false };
        let strips = pace.flush_interval.is_zero().then(|| archive.strips()).flatten().map(Arc::new);
        let (uploads, queue, room) = (FuturesOrdered::new(), Queue::default(), Room::new(BYTES_IN_FLIGHT));
        Self { stream, archive, pace, pulse, durable, open, strips, uploads, queue, room, group: None }
    }

    /// Runs until the lineage ends, the service is to end, or something fails. Whatever was received by then is made
    /// durable first, unless it is the archive that fails.
    pub async fn run(mut self, stop: &mut Stop) -> Result<End, Failure> {
        let mut ending: Option<Result<End, Failure>> = None;
        let mut stopping: Option<Instant> = None;
        let mut ticks = interval(PULSE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if ending.is_some() && self.uploads.is_empty() && !self.flush()? {
                return ending.unwrap_or(Ok(End::Stopped));
            }
            let (flush_at, cut_at) = (self.flush_at(), self.cut_at());
            // Not by a timer, which has steps of a millisecond: a commit may be waiting.
            if ending.is_none() && flush_at.is_some_and(|at| at <= Instant::now()) {
                self.flush()?;
                continue;
            }
            // What the source has sent, and what it sends meanwhile: nobody may ask for it again.
            let (stop_at, quiet_at) =
                (stopping.map(|since| since + DRAIN), stopping.map(|since| self.open.last_chunk.max(since) + QUIET));
            let room = self.has_room();
            let reading = ending.is_none() && room;
            // An upload that hangs is the one thing that the watchdog is to see.
            if self.uploads.is_empty() {
                self.pulse.beat();
            }
            tokio::select! {
                biased;
                () = stopped(stop), if ending.is_none() && stopping.is_none() => stopping = Some(Instant::now()),
                () = at(stop_at), if ending.is_none() && stopping.is_some() => ending = Some(Ok(End::Stopped)),
                Some(stored) = self.uploads.next(), if !self.uploads.is_empty() => {
                    self.durable.send_replace(Some(stored?));
                    self.pulse.beat();
                    // It is reported before the next upload begins.
                    yield_now().await;
                }
                () = self.room.grown(), if !room => {}
                () = at(flush_at), if ending.is_none() && flush_at.is_some() => { self.flush()?; }
                () = at(cut_at), if ending.is_none() && cut_at.is_some() => self.seal()?,
                chunk = self.stream.next(), if reading => match chunk {
                    Ok(Some(chunk)) => self.take(chunk)?,
                    // The end, whatever it is, does not matter any more.
                    Ok(None) | Err(_) if stopping.is_some() => ending = Some(Ok(End::Stopped)),
                    Ok(None) => ending = Some(Ok(End::Lineage)),
                    Err(error) if pitr_core::Classify::kind(&error) == ErrorKind::Absent => {
                        ending = Some(Ok(End::Removed(error.into())));
                    }
                    Err(error) => ending = Some(Err(error.into())),
                },
                // After reading: while there was no room nothing could come.
                () = at(quiet_at), if reading && stopping.is_some() => ending = Some(Ok(End::Stopped)),
                _ = ticks.tick() => {}
            }
        }
    }

    /// Whether more log may be read now.
    fn has_room(&self) -> bool {
        self.uploads.len() < SEGMENTS_IN_FLIGHT && self.room.is_left()
    }

    fn take(&mut self, chunk: LogChunk) -> Result<(), Failure> {
        self.open.last_chunk = Instant::now();
        if self.open.bytes.is_empty() {
            self.open.since = self.open.last_chunk;
            // Once: a buffer that grows step by step leaves its smaller ones behind, and as much memory again in use.
            self.open.bytes.reserve(self.pace.segment_bytes + self.pace.segment_bytes / 2);
        }
        self.open.bytes.extend_from_slice(&chunk.bytes);
        self.open.may_cut = chunk.cut == Cut::May;
        let large = self.open.bytes.len() >= self.pace.segment_bytes;
        if chunk.cut == Cut::Must || (self.open.may_cut && large) {
            return self.seal();
        }
        if self.open.bytes.len() > MAX_SEGMENT_BYTES {
            let name = &self.stream.open().name;
            let what = format!("segment {} has {} bytes, and cannot be cut", name.leaf(), self.open.bytes.len());
            return Err(Failure::new(ErrorKind::Failed, what));
        }
        Ok(())
    }

    /// When the next tail is due. While sealed segments are on their way none is: it could not become durable before them.
    fn flush_at(&self) -> Option<Instant> {
        let interval = self.pace.flush_interval;
        let waiting = self.open.tried < self.open.bytes.len() && self.uploads.is_empty();
        let due = self.open.last_flush.map_or_else(Instant::now, |last| last + interval);
        // Where a segment is full in less time than a tail may take, one would be stored for nothing, unless no more comes.
        let fast = self.open.sealed.is_some_and(|sealed| self.open.since < sealed + interval);
        let quiet = (self.open.last_chunk + QUIET).min(self.open.since + interval);
        // Then its first tail keeps no distance to one of a segment before: whoever has caught up is not made to wait.
        let first = self.open.last_flush.is_none_or(|last| last < self.open.since);
        waiting.then(|| {
            if !fast {
                due
            } else if first {
                quiet
            } else {
                due.max(quiet)
            }
        })
    }

    /// When a segment that may end is too old to stay open.
    fn cut_at(&self) -> Option<Instant> {
        let waiting = self.open.may_cut && !self.open.bytes.is_empty() && self.has_room();
        waiting.then(|| self.open.since + self.pace.segment_age)
    }

    /// Sends the open segment's new bytes on their way. False if there is nothing that could be made durable.
    fn flush(&mut self) -> Result<bool, Failure> {
        if self.open.flushed == self.open.bytes.len() {
            return Ok(false);
        }
        self.open.last_flush = Some(Instant::now());
        self.open.tried = self.open.bytes.len();
        let so_far = self.stream.so_far();
        let segment = self.stream.open().clone();
        // Of a transaction that is not whole yet there is nothing to restore.
        if so_far.end <= segment.start {
            return Ok(false);
        }
        let bytes = Bytes::copy_from_slice(self.open.bytes.get(self.open.flushed..).unwrap_or_default());
        let from = self.open.flushed as u64;
        self.open.flushed = self.open.bytes.len();
        let (archive, lineage) = (self.archive.clone(), self.stream.lineage().clone());
        let (strips, end) = (self.strips.clone(), so_far.end.clone());
        let (mut place, load) = (self.queue.join(), self.room.load(bytes.len()));
        self.uploads.push_back(
            async move {
                place.turn().await?;
                let tail = Tail { lineage, segment, from, bytes, so_far };
                let stored = match strips {
                    Some(strips) => strips.put(&tail).await,
                    None => archive.put_tail(&tail).await,
                };
                stored.during(format!("storing a tail of segment {}", tail.segment.name.leaf()))?;
                place.done();
                drop(load);
                Ok(end)
            }
            .boxed(),
        );
        Ok(true)
    }

    /// Ends the open segment, and sends it on its way.
    fn seal(&mut self) -> Result<(), Failure> {
        if self.open.bytes.is_empty() {
            return Ok(());
        }
        let SegmentStart { name, start } = self.stream.open().clone();
        let summary = self.stream.cut()?;
        let bytes = self.open.bytes.split().freeze();
        let sealed = Some(Instant::now());
        self.open = Open { bytes: BytesMut::new(), flushed: 0, tried: 0, may_cut: false, sealed, ..self.open };
        let segment = Span {
            lineage: self.stream.lineage().clone(),
            first: name.clone(),
            last: name,
            count: 1,
            start,
            end: summary.end,
            bytes: bytes.len() as u64,
            commits: summary.commits,
            marks: summary.marks,
            facts: summary.facts,
        };
        let new_group = self.group.replace(segment.first.group().to_owned());
        let roll_up = new_group.is_some_and(|before| before != segment.first.group());
        let (place, load) = (self.queue.join(), self.room.load(bytes.len()));
        self.uploads.push_back(store::<S::Engine>(self.archive.clone(), segment, bytes, place, load, roll_up).boxed());
        Ok(())
    }
}

/// Stores a sealed segment once all log before it is stored; the first one of a group means that the group before is complete.
async fn store<E: Engine>(
    archive: SourceArchive,
    segment: Span<E::Position>,
    bytes: Bytes,
    mut place: Place,
    mut load: Load,
    roll_up: bool,
) -> Result<E::Position, Failure> {
    let leaf = segment.first.leaf();
    let payload = archive.compress_segment(&segment.lineage, &segment.first, bytes).await;
    let payload = payload.during(format!("compressing segment {leaf}"))?;
    load.becomes(payload.memory());
    place.turn().await?;
    archive.put_span(&segment, payload).await.during(format!("storing segment {leaf}"))?;
    place.done();
    tracing::info!(segment = leaf, end = %segment.end, "sealed");
    if roll_up {
        // A roll-up only saves reads: nobody waits for it, and a kill in the middle leaves nothing.
        tokio::spawn(write_roll_up::<E>(archive, segment.lineage));
    }
    Ok(segment.end)
}

async fn write_roll_up<E: Engine>(archive: SourceArchive, lineage: LineageId) {
    if let Err(error) = archive.roll_up_complete::<E>(&lineage).await {
        tracing::warn!(%error, %lineage, "could not write a roll-up; status will be slower until one is written");
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
