//! The transactions of a stretch of log, for targets and headers.
//!
//! Segments are fed in order, byte for byte; the scan ends with the last transaction that begins in the first
//! of them, wherever that ends.

use pitr_core::{Event as Found, Facts, Scan, Timestamp, What};

use crate::engine::facts;
use crate::event::{Event, EventError, Feed, Format, Grouper, Header, Kind, Mark, Outcome, Reader};
use crate::mark::Marks;
use crate::position::{BinlogPosition, Incarnation, LogFile};

/// The facts of a segment that reading it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentPlace {
    /// Its file.
    pub file: LogFile,
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// The format of its file, once that is known.
    pub format: Option<Format>,
    /// Offset in the file of the first event that begins in it; `None` if none does.
    pub first: Option<u64>,
    /// Where the transaction began that its first byte is inside of.
    pub inside: Option<u64>,
}

impl SegmentPlace {
    /// Reads the facts of a segment; `None` where they are not those of one.
    pub fn read(facts: &Facts) -> Option<Self> {
        // Absent is one thing, unreadable another.
        let number = |key: &str| match facts.get(key) {
            Some(text) => text.parse::<u64>().ok().map(Some),
            None => Some(None),
        };
        let format = match facts.get(facts::FORMAT).filter(|text| !text.is_empty()) {
            Some(text) => Some(read_format(text)?),
            None => None,
        };
        Some(Self {
            file: LogFile::parse(facts.get(facts::FILE)?)?,
            offset: number(facts::OFFSET)??,
            format,
            first: number(facts::FIRST)?,
            inside: number(facts::INSIDE)?,
        })
    }
}

/// The format that a fact holds: the whole event in hexadecimal.
pub fn read_format(text: &str) -> Option<Format> {
    let event = hex::decode(text).ok()?;
    let body = event.get(Header::LEN..event.len().checked_sub(4)?)?;
    Format::parse(0, body).ok()
}

/// What [`Scanner::feed`] wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// The next segment, if there is one.
    More,
    /// Nothing: the scan is complete.
    Done,
}

/// Scans one segment and, for a transaction that goes on there, those that follow.
#[derive(Debug)]
pub struct Scanner {
    incarnation: Incarnation,
    file: LogFile,
    feed: Feed,
    grouper: Grouper,
    marks: Marks,
    /// Events up to the end of a transaction that began in an earlier segment are not ours.
    skipping: bool,
    /// Set behind the event that names the next file.
    rotated: bool,
    /// Offset behind the last byte of the segment itself; known once it has been fed.
    end: Option<u64>,
    scan: Scan<BinlogPosition>,
}

impl Scanner {
    /// A scan of the segment at `place`.
    pub fn new(incarnation: Incarnation, place: &SegmentPlace) -> Self {
        let reader = match (&place.format, place.first) {
            // What lies before its first event belongs to one that began earlier.
            (Some(format), Some(first)) if place.offset > 0 => Reader::with_format(first, format.clone()),
            _ => Reader::new(place.offset),
        };
        Self {
            incarnation,
            file: place.file.clone(),
            feed: Feed::new(reader),
            grouper: Grouper::default(),
            marks: Marks::default(),
            skipping: place.inside.is_some(),
            rotated: false,
            end: None,
            scan: Scan { events: Vec::new(), last_record: None },
        }
    }

    /// Takes the bytes of the segment, then those of the ones that follow, each with its place.
    pub fn feed(&mut self, place: &SegmentPlace, mut bytes: &[u8]) -> Result<Fed, EventError> {
        let first = self.end.is_none();
        if first && place.first.is_none() && place.offset > 0 {
            return Ok(Fed::Done);
        }
        if place.file != self.file || (!first && !self.goes_on()) {
            return Ok(Fed::Done);
        }
        let end = *self.end.get_or_insert(place.offset + bytes.len() as u64);
        let skip = self.feed.offset().saturating_sub(place.offset);
        bytes = usize::try_from(skip).ok().and_then(|skip| bytes.get(skip..)).unwrap_or_default();
        while let Some(event) = self.feed.next(&mut bytes)? {
            if self.rotated {
                return Err(event.malformed("it follows the event that ended its file"));
            }
            if event.offset >= end && self.grouper.open_since().is_none() {
                return Ok(Fed::Done);
            }
            if self.skipping && !begins_transaction(event.header.kind) {
                continue;
            }
            self.skipping = false;
            self.marks.see(&event);
            let mark = self.grouper.next(&event)?;
            if mark == Mark::Outside
                && let Some(next) = next_file(&event)
            {
                if next <= self.file.number {
                    return Err(event.malformed("it names a file that is no later one"));
                }
                self.rotated = true;
            }
            let places = Places { incarnation: self.incarnation, file: self.file.number };
            let ended = matches!(mark, Mark::End(_));
            places.note(&event, mark, &mut self.scan);
            if ended && let (Some(name), Some(commit)) = (self.marks.take(), self.scan.events.last()) {
                // The transaction that marks the point, once more under its name.
                self.scan.events.push(Found { what: What::Mark(name), transaction: None, ..commit.clone() });
            }
        }
        Ok(if self.goes_on() { Fed::More } else { Fed::Done })
    }

    /// True while a transaction that began in the segment has no end yet.
    fn goes_on(&self) -> bool {
        let open = self.grouper.open_since();
        let inside = self.feed.is_inside().then(|| self.feed.reader().offset());
        open.or(inside).is_some_and(|begin| self.end.is_none_or(|end| begin < end))
    }

    /// What was found.
    pub fn finish(self) -> Scan<BinlogPosition> {
        self.scan
    }
}

/// True for what only ever stands at the begin of a transaction.
fn begins_transaction(kind: Kind) -> bool {
    matches!(kind, Kind::GTID | Kind::ANONYMOUS_GTID | Kind::GTID_TAGGED | Kind::MARIA_GTID) || kind.is_administrative()
}

struct Places {
    incarnation: Incarnation,
    file: u64,
}

impl Places {
    fn at(&self, offset: u64) -> BinlogPosition {
        BinlogPosition::new(self.incarnation, self.file, offset)
    }

    fn note(&self, event: &Event<'_>, mark: Mark, scan: &mut Scan<BinlogPosition>) {
        match mark {
            Mark::Begin | Mark::Inside => {}
            Mark::Outside => {
                // What follows a rotation is the next file: its begin is the cut behind this event.
                let after = next_file(event)
                    .map_or(self.at(event.end()), |file| BinlogPosition::new(self.incarnation, file, 0));
                let (begin, time) = (self.at(event.offset), clock(event));
                scan.last_record = Some((begin, after));
                if let Some(time) = time {
                    let (transaction, what) = (None, What::Clock);
                    scan.events.push(Found { begin, end: after, time: Some(time), transaction, what });
                }
            }
            Mark::End(group) => {
                let (begin, end) = (self.at(group.begin), self.at(group.end));
                scan.last_record = Some((begin, end));
                let transaction = group.gtid.as_ref().map(ToString::to_string);
                let what = match group.outcome {
                    Outcome::Visible | Outcome::Prepared => What::Commit,
                    // Nothing that a restore could apply: a replay stops there, loudly.
                    Outcome::Incident => What::Clock,
                };
                scan.events.push(Found { begin, end, time: group.committed_at, transaction, what });
            }
        }
    }
}

/// The number of the file that follows, if the event says it.
pub(crate) fn next_file(event: &Event<'_>) -> Option<u64> {
    let rotation = Reader::rotation(event).ok().flatten()?;
    LogFile::parse(&rotation.file).map(|file| file.number)
}

/// The time of what the server writes at the begin and at the end of a file: all commits before it are in the log.
pub(crate) fn clock(event: &Event<'_>) -> Option<Timestamp> {
    let at = event.header.timestamp;
    let tells = matches!(event.header.kind, Kind::FORMAT_DESCRIPTION | Kind::ROTATE | Kind::STOP);
    (tells && at > 0).then(|| chrono::DateTime::from_timestamp(i64::from(at), 0)).flatten()
}
