//! The bytes of the log: records, segments, and the scanner.
//!
//! A record is its length (u16), a kind (u8), a transaction (u32), the change (i64), the name's length (u8) and the
//! name, the time in microseconds (i64), and a checksum of all that (u32), little-endian. A segment is the
//! magic, the offset of the first record that begins in it (u32), and log bytes.

use bytes::Bytes;
use chrono::DateTime;
use pitr_core::ports::SealedSegment;
use pitr_core::{Classify, CommitBounds, ErrorKind, Event, Facts, InvalidName, Scan, SegmentName, Timestamp, What};

use super::{TRANSACTIONS, ToyPosition, lineage_id};

const MAGIC: &[u8; 4] = b"TOY1";
/// Bytes of a segment before its log.
pub(crate) const HEADER: usize = 8;
const FIXED: usize = 2 + 1 + 4 + 8 + 1 + 8 + 4;

/// The bytes are no toy log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ToyError {
    /// A checksum, magic or length is wrong.
    #[error("damaged toy log at {0}")]
    Damaged(ToyPosition),
    /// Bytes end before the header does.
    #[error("toy segment is too short")]
    Short,
    /// A base or a restore did not hold together.
    #[error("{0}")]
    Inconsistent(String),
    /// A name is not usable.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

impl Classify for ToyError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Integrity
    }

    fn hint(&self) -> Option<String> {
        None
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Adds a number to the counter.
    Commit(i64),
    /// Would have added it.
    Abort(i64),
    /// Names a point.
    Mark(String),
    /// Tells the time.
    Clock,
    /// Tells nothing.
    Noop,
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it says.
    pub kind: Kind,
    /// Its transaction; meaningful for commits and aborts.
    pub transaction: u32,
    /// Its time; none for [`Kind::Noop`].
    pub time: Timestamp,
}

impl Record {
    /// The record as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, change, name) = match &self.kind {
            Kind::Commit(change) => (1, *change, ""),
            Kind::Abort(change) => (2, *change, ""),
            Kind::Mark(name) => (3, 0, name.get(..name.len().min(64)).unwrap_or("")),
            Kind::Clock => (4, 0, ""),
            Kind::Noop => (5, 0, ""),
        };
        let mut out = Vec::with_capacity(FIXED + name.len());
        out.extend(((FIXED + name.len()) as u16).to_le_bytes());
        out.push(kind);
        out.extend(self.transaction.to_le_bytes());
        out.extend(change.to_le_bytes());
        out.push(name.len() as u8);
        out.extend(name.as_bytes());
        out.extend(self.time.timestamp_micros().to_le_bytes());
        out.extend(checksum(&out).to_le_bytes());
        out
    }

    /// Reads the record at the begin of `bytes` and its length; `Ok(None)` if more bytes are needed.
    pub fn decode(bytes: &[u8], at: ToyPosition) -> Result<Option<(Self, usize)>, ToyError> {
        let Some(length) = bytes.get(..2) else { return Ok(None) };
        let length = usize::from(u16::from_le_bytes(array(length)));
        let damaged = ToyError::Damaged(at);
        if !(FIXED..=FIXED + 64).contains(&length) {
            return Err(damaged);
        }
        let Some(record) = bytes.get(..length) else { return Ok(None) };
        let (body, sum) = record.split_at(length - 4);
        if checksum(body) != u32::from_le_bytes(array(sum)) {
            return Err(damaged);
        }
        let transaction = u32::from_le_bytes(array(&body[3..7]));
        let change = i64::from_le_bytes(array(&body[7..15]));
        let name = body.get(16..16 + usize::from(body[15])).ok_or_else(|| damaged.clone())?;
        let time = i64::from_le_bytes(array(&body[body.len() - 8..]));
        let kind = match body[2] {
            1 => Kind::Commit(change),
            2 => Kind::Abort(change),
            3 => Kind::Mark(String::from_utf8(name.to_vec()).map_err(|_| damaged.clone())?),
            4 => Kind::Clock,
            5 => Kind::Noop,
            _ => return Err(damaged),
        };
        let time = DateTime::from_timestamp_micros(time).ok_or(damaged)?;
        Ok(Some((Self { kind, transaction, time }, length)))
    }

    /// What a target can stop at; `None` for [`Kind::Noop`].
    pub fn event(&self, begin: ToyPosition, end: ToyPosition) -> Option<Event<ToyPosition>> {
        let (what, transaction) = match &self.kind {
            Kind::Commit(_) => (What::Commit, Some(self.transaction.to_string())),
            Kind::Abort(_) => (What::Abort, Some(self.transaction.to_string())),
            Kind::Mark(name) => (What::Mark(name.clone()), None),
            Kind::Clock => (What::Clock, None),
            Kind::Noop => return None,
        };
        Some(Event { begin, end, time: Some(self.time), transaction, what })
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(bytes);
    out
}

/// FNV-1a: enough to notice damage, and short.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The log bytes of a segment, and the offset in them of the first record that begins there.
pub(crate) fn open(segment: &[u8]) -> Result<(usize, &[u8]), ToyError> {
    let (header, log) = segment.split_at_checked(HEADER).ok_or(ToyError::Short)?;
    if &header[..4] != MAGIC {
        return Err(ToyError::Short);
    }
    Ok((u32::from_le_bytes(array(&header[4..])) as usize, log))
}

/// Finds the events of a segment whose first log byte lies at `start`.
///
/// `then` gives the segments that follow, and is asked for one only if a record crosses into it.
pub fn scan(
    segment: &[u8],
    start: ToyPosition,
    mut then: impl Iterator<Item = Result<Bytes, ToyError>>,
) -> Result<Scan<ToyPosition>, ToyError> {
    let (first, log) = open(segment)?;
    let own = log.len();
    let mut log = log.to_vec();
    let mut found = Scan { events: Vec::new(), last_record: None };
    let mut at = first;
    while at < own {
        let begin = ToyPosition { offset: start.offset + at as u64, ..start };
        match Record::decode(&log[at..], begin)? {
            Some((record, length)) => {
                at += length;
                let end = ToyPosition { offset: start.offset + at as u64, ..start };
                found.events.extend(record.event(begin, end));
                found.last_record = Some((begin, end));
            }
            None => match then.next() {
                Some(next) => log.extend_from_slice(open(&next?)?.1),
                None => break,
            },
        }
    }
    Ok(found)
}

/// The name of the segment whose first log byte lies at `offset`.
pub(crate) fn segment_name(offset: u64) -> Result<SegmentName, ToyError> {
    Ok(SegmentName::new(format!("{:010x}", offset >> 10), format!("{offset:010x}"))?)
}

/// Wraps log bytes that begin at `start` as a segment; `first` is the offset in them at which the first record
/// begins.
///
/// Bounds hold what lies whole inside. A record that crosses the end makes them open.
pub fn seal(start: ToyPosition, first: usize, log: &[u8]) -> Result<SealedSegment<ToyPosition>, ToyError> {
    let mut bytes = Vec::with_capacity(HEADER + log.len());
    bytes.extend(MAGIC);
    bytes.extend((first as u32).to_le_bytes());
    bytes.extend(log);
    let found = scan(&bytes, start, std::iter::empty())?;
    let mut commits = CommitBounds::default();
    let (mut marks, mut ids) = (0, Vec::new());
    for event in &found.events {
        commits.reaches = commits.reaches.max(event.time);
        if event.what == What::Commit {
            commits.count += 1;
            commits.min = commits.min.into_iter().chain(event.time).min();
            commits.max = commits.max.max(event.time);
        }
        marks += u64::from(matches!(event.what, What::Mark(_)));
        ids.extend(event.transaction.as_ref().and_then(|id| id.parse::<u32>().ok()));
    }
    let whole = found.last_record.map_or(first as u64, |(_, end)| end.offset - start.offset);
    if whole < log.len() as u64 {
        // Its kind, time and transaction are not known before the rest is there.
        commits.open = true;
        marks += 1;
        ids.extend([0, u32::MAX]);
    }
    let mut facts = Facts::new();
    if let (Some(low), Some(high)) = (ids.iter().min(), ids.iter().max()) {
        facts.insert(TRANSACTIONS.to_owned(), format!("{low}-{high}"));
    }
    Ok(SealedSegment {
        lineage: lineage_id(start.branch),
        name: segment_name(start.offset)?,
        start,
        end: ToyPosition { offset: start.offset + log.len() as u64, ..start },
        commits,
        marks,
        facts,
        bytes: bytes.into(),
    })
}
