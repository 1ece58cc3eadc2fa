//! What a stretch of log holds that a target can stop at, and its summary for plain headers.

use pitr_core::{CommitBounds, Event, Facts, Scan, Timestamp, What};

use crate::engine::facts;
use crate::lsn::{Lsn, SegmentSize, TimelineId};
use crate::position::PgPosition;
use crate::wal::{Decoder, Detail, Origin, Record, Resource, Settled, Step, WalError};

/// Finds the events of one archived segment.
///
/// The last record of a segment often ends in the next one. So the scanner is fed the segment's own bytes
/// and then those of the segments after it, until it says that it is [`Fed::Done`]; where the archive ends
/// before that, [`finish`](Self::finish) leaves the record that was cut off out.
///
/// ```
/// # use pitr_postgres::{PgPosition, SegmentSize, scan::{Fed, Scanner}};
/// # fn find(mut segments: impl Iterator<Item = Vec<u8>>, start: PgPosition, end: PgPosition)
/// #     -> Result<pitr_core::Scan<PgPosition>, pitr_postgres::wal::WalError> {
/// let mut scanner = Scanner::new(start, end, SegmentSize::DEFAULT);
/// while let Some(bytes) = segments.next() {
///     if scanner.feed(&bytes)? == Fed::Done {
///         break;
///     }
/// }
/// Ok(scanner.finish())
/// # }
/// ```
#[derive(Debug)]
pub struct Scanner {
    decoder: Decoder,
    timeline: TimelineId,
    end: Lsn,
    scan: Scan<PgPosition>,
}

/// Whether a scanner needs what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// The last record that begins in the segment is not whole yet, or the segment's own bytes are not all there.
    NeedMore,
    /// All is found; more bytes would be ignored.
    Done,
}

impl Scanner {
    /// A scanner of the segment from `start`, the begin of a page, up to `end`.
    pub fn new(start: PgPosition, end: PgPosition, segment_size: SegmentSize) -> Self {
        let decoder = Decoder::new(Origin::new(start.timeline, start.lsn, segment_size));
        let scan = Scan { events: Vec::new(), last_record: None };
        Self { decoder, timeline: start.timeline, end: end.lsn, scan }
    }

    /// Takes the next bytes of the log, in pieces of any size.
    ///
    /// # Errors
    /// Damage in the segment, or in the rest of its last record.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<Fed, WalError> {
        loop {
            match self.decoder.step(&mut bytes) {
                Ok(Step::Record(record)) if record.lsn < self.end => self.add(&record),
                Ok(Step::Record(_) | Step::End(_)) => return Ok(Fed::Done),
                Ok(Step::NeedMore) if self.decoder.position() >= self.end && !self.is_cut_off() => {
                    return Ok(Fed::Done);
                }
                Ok(Step::NeedMore) => return Ok(Fed::NeedMore),
                // An unfinished file may hold anything behind the end of its log.
                Err(error) if error.lsn >= self.end && !self.is_cut_off() => return Ok(Fed::Done),
                Err(error) => return Err(error),
            }
        }
    }

    /// What was found.
    pub fn finish(self) -> Scan<PgPosition> {
        self.scan
    }

    fn is_cut_off(&self) -> bool {
        self.decoder.open_record().is_some_and(|(begin, _)| begin < self.end)
    }

    fn add(&mut self, record: &Record) {
        let begin = PgPosition::new(self.timeline, record.lsn);
        let end = PgPosition::new(self.timeline, record.end);
        self.scan.last_record = Some((begin, end));
        if let Some((what, time, transaction)) = meaning(&record.detail) {
            let transaction = transaction.map(|xid| xid.to_string());
            self.scan.events.push(Event { begin, end, time: Some(time), transaction, what });
        }
    }
}

/// What a record means to a target: kind, time, transaction.
fn meaning(detail: &Detail) -> Option<(What, Timestamp, Option<u32>)> {
    match detail {
        Detail::Commit(settled) => Some((What::Commit, settled.time, settled.xid)),
        Detail::Abort(settled) => Some((What::Abort, settled.time, settled.xid)),
        Detail::RestorePoint { time, name } => Some((What::Mark(name.clone()), *time, None)),
        Detail::Checkpoint(checkpoint) => Some((What::Clock, checkpoint.time, None)),
        Detail::EndOfRecovery { time, .. } | Detail::OverwriteContrecord { time, .. } => {
            Some((What::Clock, *time, None))
        }
        _ => None,
    }
}

/// What the plain header of an archived segment says of it. Constant size, whatever the segment holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// What is known of commit times.
    pub commits: CommitBounds,
    /// Number of restore points.
    pub marks: u64,
    /// Position of the first record that begins in it.
    pub first_record: Option<Lsn>,
    /// Position of the last record that begins in it, whole or not.
    pub last_record: Option<Lsn>,
    /// Smallest and largest identifier of a transaction that ends in it, as numbers: after a wraparound the
    /// range is wider than need be, and never too narrow.
    pub xids: Option<(u32, u32)>,
    /// A transaction ends in it whose identifier could not be read.
    pub xid_unknown: bool,
    /// The server was set to `wal_level = minimal`: log is missing that no backup can replace.
    pub wal_minimal: bool,
}

impl Summary {
    /// Counts a record that begins in the segment.
    pub fn add(&mut self, record: &Record) {
        self.first_record.get_or_insert(record.lsn);
        self.last_record = Some(record.lsn);
        match &record.detail {
            Detail::Commit(settled) => {
                self.commits.count += 1;
                self.commits.min = self.commits.min.into_iter().chain([settled.time]).min();
                self.commits.max = self.commits.max.max(Some(settled.time));
                self.add_xid(settled);
            }
            Detail::Abort(settled) => self.add_xid(settled),
            Detail::RestorePoint { .. } => self.marks += 1,
            Detail::ParameterChange(parameters) => self.wal_minimal |= parameters.wal_level == 0,
            _ => {}
        }
        if let Some((_, time, _)) = meaning(&record.detail) {
            self.commits.reaches = self.commits.reaches.max(Some(time));
        }
    }

    /// Counts the record that begins in the segment and ends beyond it, of which only the header (resource and
    /// info) or not even that is there. Where in doubt, only a scan can tell.
    pub fn add_cut_off(&mut self, begin: Lsn, kind: Option<(Resource, u8)>) {
        self.first_record.get_or_insert(begin);
        self.last_record = Some(begin);
        match kind {
            None => (self.commits.open, self.xid_unknown, self.marks) = (true, true, self.marks + 1),
            Some((Resource(1), info)) => match info & 0x70 {
                0x00 | 0x30 => (self.commits.open, self.xid_unknown) = (true, true),
                0x20 | 0x40 => self.xid_unknown = true,
                _ => {}
            },
            Some((Resource(0), info)) if info & 0xF0 == 0x70 => self.marks += 1,
            _ => {}
        }
    }

    fn add_xid(&mut self, settled: &Settled) {
        match settled.xid {
            Some(xid) => {
                let (min, max) = self.xids.unwrap_or((xid, xid));
                self.xids = Some((min.min(xid), max.max(xid)));
            }
            None => self.xid_unknown = true,
        }
    }

    /// The part that only this engine understands.
    pub fn facts(&self, start: Lsn) -> Facts {
        let mut facts = Facts::new();
        if let Some((min, max)) = self.xids {
            facts.insert(facts::XID_MIN.to_owned(), min.to_string());
            facts.insert(facts::XID_MAX.to_owned(), max.to_string());
        }
        if let Some(first) = self.first_record {
            facts.insert(facts::FIRST_RECORD.to_owned(), first.since(start).to_string());
        }
        if let Some(last) = self.last_record {
            facts.insert(facts::LAST_RECORD.to_owned(), last.to_string());
        }
        for (key, is_set) in [(facts::XID_UNKNOWN, self.xid_unknown), (facts::WAL_MINIMAL, self.wal_minimal)] {
            if is_set {
                facts.insert(key.to_owned(), "true".to_owned());
            }
        }
        facts
    }
}
