//! Tails the oplog of a replica set.
//!
//! Only what a majority has is read, so nothing that is archived can be rolled back by an ordinary election. The
//! first document must be the last entry that the archive has, or the one that was asked for: the same rule by which
//! secondaries find out that they have another history than their source.

use std::collections::VecDeque;

use bson::{Timestamp as BsonTimestamp, doc, rawdoc};
use bytes::Bytes;
use futures::StreamExt;
use mongodb::options::CursorType;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use pitr_core::ports::{Cut, LogChunk, LogStream, SegmentStart, SegmentSummary};
use pitr_core::{Facts, LineageId, PortError, SegmentName};
use tokio::time::timeout;

use crate::connect::{Member, Prefer, Settings, entry_at, first_from, last_of_term, lineage_facts, oplog_bounds};
use crate::engine::Mongo;
use crate::entry::Entry;
use crate::error::{Doing, Error, Result};
use crate::heartbeat::Heartbeat;
use crate::limits::{FIRST_LEAD, GROUP_SECONDS, MAX_CHUNK, TAIL_AWAIT, TAIL_BATCH, TAIL_SILENCE};
use crate::position::{MongoPosition, OpTime, Stamp};
use crate::scan::Tally;
use crate::window::WindowWatch;

/// Where a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// After this cut, whose last entry the source must have.
    After(MongoPosition),
    /// With this entry.
    With(OpTime),
    /// Near the newest entry that a majority has.
    Newest,
}

/// The oplog of one member, from one place on.
pub struct OplogStream {
    member: Member,
    lineage: LineageId,
    cursor: Cursor,
    /// What the first document must be, until it came.
    first: Option<First>,
    /// Where a hole ends that this stream fills.
    until: Option<MongoPosition>,
    /// True once it has come there.
    filled: bool,
    ready: VecDeque<Piece>,
    /// Term of the last entry that was read.
    term: Option<i64>,
    open: SegmentStart<MongoPosition>,
    end: MongoPosition,
    tally: Tally,
    heartbeat: Heartbeat,
    window: WindowWatch,
}

enum Cursor {
    Open(Box<RawBatchCursor>),
    /// The oplog begins behind this entry.
    Gone(OpTime),
}

/// Entries of one election.
#[derive(Debug, Clone)]
struct Piece {
    bytes: Bytes,
    /// True if entries of another election follow.
    last_of_term: bool,
}

#[derive(Debug, Clone, Copy)]
struct First {
    entry: OpTime,
    /// True if it belongs to the stream, false if the archive has it.
    included: bool,
}

/// A member to stream from, before it is known where to begin.
#[derive(Debug, Clone)]
pub struct Upstream {
    member: Member,
    settings: Settings,
    /// The history of the set, as far as its identity tells.
    pub lineage: LineageId,
    /// Facts of the history, for its registration.
    pub facts: Facts,
    /// Its oldest entry.
    pub oldest: OpTime,
    /// Its newest entry that a majority has.
    pub newest: OpTime,
}

impl Upstream {
    /// Connects to the member that suits best.
    pub async fn connect(settings: &Settings) -> Result<Self> {
        let member = Member::connect(settings, Prefer::Secondary).await?;
        let (lineage, facts) = lineage_facts(&member).await?;
        let (oldest, newest) = oplog_bounds(&member).await?;
        Ok(Self { member, settings: settings.clone(), lineage, facts, oldest, newest })
    }

    /// True if the oplog has this very entry.
    pub async fn holds(&self, entry: OpTime) -> Result<bool> {
        Ok(entry_at(&self.member, entry.stamp).await? == Some(entry))
    }

    /// The last entry of the election under which `entry` was written, from there on.
    pub async fn last_of_term(&self, entry: OpTime) -> Result<OpTime> {
        Ok(last_of_term(&self.member, entry).await?.unwrap_or(entry))
    }

    /// Where the first stream of all begins: a little before the end, so that the log reaches back to the begin of a base
    /// that is being taken at the same time.
    async fn lead(&self) -> Result<OpTime> {
        let from = Stamp::new(self.newest.stamp.seconds.saturating_sub(FIRST_LEAD), 0);
        Ok(first_from(&self.member, from).await?.unwrap_or(self.newest))
    }

    /// The error of a member that does not have an entry yet.
    pub fn behind(&self, wanted: OpTime) -> Error {
        Error::Behind { host: self.member.host.clone(), newest: self.newest.to_string(), wanted: wanted.to_string() }
    }

    /// Opens a stream of a lineage, which is [`Upstream::lineage`] or one that forked off it. It ends at `until`, if that
    /// is given: from there on the archive has the log.
    pub async fn stream(self, begin: Begin, until: Option<MongoPosition>, lineage: LineageId) -> Result<OplogStream> {
        let newest = match begin {
            Begin::Newest => self.lead().await?,
            _ => self.newest,
        };
        let (first, start) = match begin {
            Begin::After(cut) => {
                let unknown = || Error::answer("resuming", format!("{cut} does not tell its last entry"));
                (First { entry: cut.last_entry().ok_or_else(unknown)?, included: false }, cut)
            }
            Begin::With(entry) => (First { entry, included: true }, entry.before()),
            Begin::Newest => (First { entry: newest, included: true }, newest.before()),
        };
        let cursor = match tail(&self.member, first.entry).await {
            // That log is lost is told by the first read, like everything else about the log.
            Err(error) if error.code() == Some(CAPPED_POSITION_LOST) => Cursor::Gone(first.entry),
            opened => Cursor::Open(Box::new(opened?)),
        };
        let window = WindowWatch::start(self.member.clone(), start.stamp);
        Ok(OplogStream {
            lineage,
            member: self.member,
            cursor,
            first: Some(first),
            until,
            filled: false,
            ready: VecDeque::new(),
            term: None,
            open: SegmentStart { name: segment_name(start)?, start },
            end: start,
            tally: Tally::default(),
            heartbeat: Heartbeat::new(self.settings),
            window,
        })
    }
}

impl OplogStream {
    /// The member that is read.
    pub fn host(&self) -> &str {
        &self.member.host
    }

    /// Takes the documents of one batch.
    async fn take(&mut self, batch: &RawBatch) -> Result<()> {
        let doing = "reading the oplog";
        let mut chunk = Vec::new();
        let mut any = false;
        for document in batch.doc_slices().doing(doing)? {
            let document = document.map_err(|error| Error::answer(doing, error))?;
            let document = document.as_document().ok_or_else(|| Error::answer(doing, "an entry is no document"))?;
            let entry = Entry::decode(document.as_bytes(), 0)?;
            any = true;
            if let Some(first) = self.first {
                if entry.optime != first.entry {
                    return Err(not_the_first(&self.member, first.entry).await);
                }
                self.first = None;
                if !first.included {
                    continue;
                }
            }
            if self.until.is_some_and(|until| until <= entry.optime.before()) {
                self.filled = true;
                break;
            }
            let elected = self.term.replace(entry.optime.term).is_some_and(|term| term != entry.optime.term);
            if elected || chunk.len() + document.as_bytes().len() > MAX_CHUNK {
                self.push(std::mem::take(&mut chunk), elected);
            }
            chunk.extend_from_slice(document.as_bytes());
        }
        self.push(chunk, false);
        match self.first {
            // The cursor found nothing at or after what the archive has.
            Some(first) if !any => Err(behind(&self.member, first.entry).await),
            _ => Ok(()),
        }
    }

    /// Puts entries by, to be handed out. That an election ends them may show only after they were.
    fn push(&mut self, chunk: Vec<u8>, last_of_term: bool) {
        if !chunk.is_empty() || last_of_term {
            self.ready.push_back(Piece { bytes: Bytes::from(chunk), last_of_term });
        }
    }

    /// The next bytes of the log, at once if there are any; `None` where the archive has what follows.
    async fn read(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                if piece.bytes.is_empty() && self.tally.entries() == 0 {
                    // The segment was cut there already.
                    continue;
                }
                self.count(&piece.bytes)?;
                self.heartbeat.moved();
                self.window.at(self.end.stamp);
                return Ok(Some(piece));
            }
            if self.filled {
                return Ok(None);
            }
            let doing = "tailing the oplog";
            let cursor = match &mut self.cursor {
                Cursor::Open(cursor) => cursor,
                Cursor::Gone(wanted) => return Err(not_the_first(&self.member, *wanted).await),
            };
            let batch = timeout(TAIL_SILENCE, cursor.next()).await;
            let silent = |_| Error::Silent { doing: doing.to_owned(), seconds: TAIL_SILENCE.as_secs() };
            match batch.map_err(silent)? {
                Some(Ok(batch)) => self.take(&batch).await?,
                Some(Err(error)) => {
                    let wanted = self.last_wanted();
                    return Err(lost(&self.member, wanted, error).await);
                }
                // The server closes a cursor on an empty or shrunken collection.
                None => {
                    let wanted = self.last_wanted();
                    return Err(behind(&self.member, wanted).await);
                }
            }
            self.heartbeat.beat_if_idle().await;
            if let Some(note) = self.heartbeat.overdue(self.end.stamp) {
                return Err(self.stands_still(note));
            }
        }
    }

    fn stands_still(&self, note: Stamp) -> Error {
        let at = self.end.last_entry().map_or_else(|| self.end.to_string(), |last| last.to_string());
        Error::StandsStill { host: self.member.host.clone(), at, note: note.to_string() }
    }

    fn last_wanted(&self) -> OpTime {
        self.first
            .map(|first| first.entry)
            .or(self.end.last_entry())
            .unwrap_or(OpTime { term: -1, stamp: self.end.stamp })
    }

    fn count(&mut self, bytes: &[u8]) -> Result<()> {
        for entry in crate::entry::Entries::new(bytes) {
            let entry = entry?;
            if let Some(name) = self.tally.add(&entry) {
                tracing::warn!(
                    "the oplog holds an operation {name:?} at {}: a restore over it is refused",
                    entry.optime
                );
            }
            self.end = entry.optime.after();
        }
        Ok(())
    }
}

/// Why the first document is not the one that was asked for.
async fn not_the_first(member: &Member, wanted: OpTime) -> Error {
    match oplog_bounds(member).await {
        Ok((oldest, _)) if oldest.stamp > wanted.stamp => rolled_over(member, wanted, oldest),
        Ok(_) => Error::Diverged { host: member.host.clone(), wanted: wanted.to_string() },
        Err(error) => error,
    }
}

/// Why there is no document at all.
async fn behind(member: &Member, wanted: OpTime) -> Error {
    match oplog_bounds(member).await {
        Ok((_, newest)) => {
            Error::Behind { host: member.host.clone(), newest: newest.to_string(), wanted: wanted.to_string() }
        }
        Err(error) => error,
    }
}

/// A cursor that fell behind the oldest entry is a gap; any other failure is of the connection.
async fn lost(member: &Member, wanted: OpTime, error: mongodb::error::Error) -> Error {
    if crate::error::code(&error) == Some(CAPPED_POSITION_LOST)
        && let Ok((oldest, _)) = oplog_bounds(member).await
    {
        return rolled_over(member, wanted, oldest);
    }
    Error::Server {
        doing: format!("tailing the oplog of {}", member.host),
        source: Box::new(crate::error::Said(error)),
    }
}

fn rolled_over(member: &Member, wanted: OpTime, oldest: OpTime) -> Error {
    Error::RolledOver { host: member.host.clone(), wanted: wanted.to_string(), oldest: oldest.to_string() }
}

const CAPPED_POSITION_LOST: i32 = 136;

async fn tail(member: &Member, first: OpTime) -> Result<RawBatchCursor> {
    let at = BsonTimestamp::from(first.stamp);
    let command = rawdoc! {
        "find": "oplog.rs", "filter": { "ts": { "$gte": at } }, "batchSize": TAIL_BATCH,
        "tailable": true, "awaitData": true, "noCursorTimeout": true, "readConcern": { "level": "majority" },
    };
    let doing = format!("opening a cursor on the oplog of {}", member.host);
    let local = member.database("local");
    let cursor = local.run_raw_cursor_command(command).cursor_type(CursorType::TailableAwait);
    cursor.batch_size(TAIL_BATCH.unsigned_abs()).max_time(TAIL_AWAIT).batch().await.doing(doing)
}

/// The name of the segment that starts with a cut.
pub fn segment_name(start: MongoPosition) -> Result<SegmentName> {
    let group = start.stamp.seconds - start.stamp.seconds % GROUP_SECONDS;
    let leaf = format!("{:010}-{:010}", start.stamp.seconds, start.stamp.increment);
    Ok(SegmentName::new(format!("{group:010}"), leaf)?)
}

impl LogStream for OplogStream {
    type Engine = Mongo;

    fn lineage(&self) -> &LineageId {
        &self.lineage
    }

    fn open(&self) -> &SegmentStart<MongoPosition> {
        &self.open
    }

    async fn next(&mut self) -> Result<Option<LogChunk>, PortError> {
        let Piece { bytes, last_of_term } = match self.read().await.map_err(PortError::from)? {
            Some(piece) => piece,
            // Whatever is open ends here, and the loop looks where to go on.
            None if self.tally.entries() > 0 => return Ok(Some(LogChunk { bytes: Bytes::new(), cut: Cut::Must })),
            None => return Ok(None),
        };
        // Entries are whole, and a replay puts transactions together over segments. A history can only fork where
        // somebody was elected: where that is known from the headers, it is known where two histories part.
        Ok(Some(LogChunk { bytes, cut: if last_of_term { Cut::Must } else { Cut::May } }))
    }

    fn so_far(&self) -> SegmentSummary<MongoPosition> {
        SegmentSummary {
            end: self.end,
            commits: self.tally.commits().clone(),
            marks: self.tally.marks(),
            facts: self.tally.facts(),
        }
    }

    fn cut(&mut self) -> Result<SegmentSummary<MongoPosition>, PortError> {
        let summary = self.so_far();
        self.tally = Tally::default();
        let name = segment_name(self.end).map_err(PortError::from)?;
        self.open = SegmentStart { name, start: self.end };
        Ok(summary)
    }
}

/// Writes a note into the log of the set. Returns its timestamp, or a later one.
pub async fn write_note(settings: &Settings, data: bson::Document) -> Result<Stamp> {
    let primary = Member::connect(settings, Prefer::Primary).await?;
    let doing = "writing a note into the oplog";
    let answer = primary.admin(doc! { "appendOplogNote": 1, "data": data }, doing).await?;
    let stamp = answer.get_timestamp("operationTime").map_err(|error| Error::answer(doing, error))?;
    Ok(stamp.into())
}
