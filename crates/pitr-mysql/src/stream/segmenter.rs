//! Cuts the log into segments and keeps account of what is in them. Sans-I/O: bytes of files in, summaries out.

use pitr_core::ports::{SegmentStart, SegmentSummary};
use pitr_core::{CommitBounds, Facts, InvalidName, SegmentName};

use super::account::Account;
use crate::engine::facts;
use crate::event::{Event, Feed, Flavour, Format, Grouper, Header, Kind, MAGIC, Mark, Reader};
use crate::gtid::{Gtid, GtidSet};
use crate::limits::{FILES_PER_GROUP, LONGEST_WHOLE};
use crate::mark::Marks;
use crate::position::{BinlogPosition, Incarnation, LogFile};
use crate::scan::{clock, next_file};
use crate::{Error, event::body};

/// Where a stream goes on, at the begin of a segment.
#[derive(Debug, Clone)]
pub struct Begin {
    /// The history.
    pub incarnation: Incarnation,
    /// The family.
    pub flavour: Flavour,
    /// The file.
    pub file: LogFile,
    /// Offset of the first byte that is wanted: 0, or the begin of an event outside of a transaction.
    pub offset: u64,
    /// Cut before that byte. Not always at the same place: the end of a file that was not closed is the begin of the
    /// next one.
    pub start: BinlogPosition,
    /// The format of the file as its first bytes have it, if `offset` is not 0.
    pub format: Vec<u8>,
    /// Executed set before the first byte.
    pub executed: GtidSet,
    /// The last transaction before the first byte that has an identifier: fact `witness`.
    pub witness: Option<String>,
}

/// Follows the bytes of the log, file after file.
#[derive(Debug)]
pub struct Segmenter {
    incarnation: Incarnation,
    file: LogFile,
    feed: Feed,
    grouper: Grouper,
    marks: Marks,
    /// The format description of the file, whole.
    format: Vec<u8>,
    open: SegmentStart<BinlogPosition>,
    account: Account,
    /// The file that comes next, once the log says so: the open segment must end.
    next: Option<LogFile>,
}

impl Segmenter {
    /// Begins at `begin`.
    pub fn new(begin: &Begin) -> Result<Self, Error> {
        let reader = match parse_format(&begin.format) {
            Some(format) if begin.offset > 0 => Reader::with_format(begin.offset, format),
            _ => Reader::new(begin.offset),
        };
        let name = name_of(&begin.file, begin.offset)?;
        Ok(Self {
            incarnation: begin.incarnation,
            file: begin.file.clone(),
            feed: Feed::new(reader),
            grouper: Grouper::default(),
            marks: Marks::default(),
            format: begin.format.clone(),
            open: SegmentStart { name, start: begin.start },
            account: Account::new(begin.offset, begin.executed.clone()).after(begin.witness.clone()),
            next: None,
        })
    }

    /// The segment to which the next byte belongs.
    pub fn open(&self) -> &SegmentStart<BinlogPosition> {
        &self.open
    }

    /// The file that is being read.
    pub fn file(&self) -> &LogFile {
        &self.file
    }

    /// Offset in it behind the last byte taken.
    pub fn offset(&self) -> u64 {
        self.feed.offset()
    }

    /// True if the log says that the open segment ends here.
    pub fn must_cut(&self) -> bool {
        self.next.is_some()
    }

    /// True if a segment may end here: between two transactions, or anywhere in one that is too large to be held.
    pub fn may_cut(&self) -> bool {
        // Inside of a transaction, never inside of an event that may begin one: who goes on here must know what came before.
        match self.grouper.open_since() {
            Some(_) => self.bytes() >= LONGEST_WHOLE,
            None => !self.feed.is_inside(),
        }
    }

    /// Bytes of the open segment.
    pub fn bytes(&self) -> u64 {
        self.feed.offset() - self.account.offset
    }

    /// Executed set after the last whole transaction.
    pub fn executed(&self) -> &GtidSet {
        &self.account.executed
    }

    /// Takes bytes of the file.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while let Some(event) = self.feed.next(&mut bytes)? {
            self.marks.see(&event);
            self.next = note(&event, &mut self.grouper, &mut self.account)?;
            if self.grouper.open_since().is_none() && self.marks.take().is_some() {
                self.account.marks += 1;
            }
            if event.header.kind == Kind::FORMAT_DESCRIPTION && event.offset == MAGIC.len() as u64 {
                self.format = whole_format(&event);
            }
        }
        self.account.last = self.feed.reader().last().or(self.account.last);
        Ok(())
    }

    /// Goes on in `file`, because the server does. The old file may have ended without saying so: then what it began and
    /// did not end never happened. True if the open segment has bytes, and so must be ended before the next byte.
    pub fn enter(&mut self, file: LogFile) -> Result<bool, Error> {
        if self.bytes() > 0 {
            self.next = Some(file);
            return Ok(true);
        }
        self.feed.restart();
        self.grouper.abandon();
        self.format.clear();
        self.account.restart(0);
        self.open = SegmentStart { name: name_of(&file, 0)?, start: self.open.start };
        self.file = file;
        self.next = None;
        Ok(false)
    }

    /// What the header would say if the open segment ended in front of what is not whole.
    pub fn so_far(&self) -> SegmentSummary<BinlogPosition> {
        let end = match (&self.next, self.grouper.open_since()) {
            (Some(next), None) => self.begin_of(next),
            (_, Some(begin)) => self.at(begin.max(self.account.offset)),
            (None, None) => self.at(self.feed.reader().offset().max(self.account.offset)),
        };
        self.summary(end, self.account.settled.clone())
    }

    /// Ends the open segment after the last byte.
    pub fn cut(&mut self) -> Result<SegmentSummary<BinlogPosition>, Error> {
        let end = match &self.next {
            Some(next) => self.begin_of(next),
            None => self.at(self.feed.offset()),
        };
        let summary = self.summary(end, self.account.commits.clone());
        let (file, offset) = match self.next.take() {
            Some(next) => {
                self.feed.restart();
                self.grouper.abandon();
                self.format.clear();
                (next, 0)
            }
            None => (self.file.clone(), self.feed.offset()),
        };
        self.open = SegmentStart { name: name_of(&file, offset)?, start: end };
        self.file = file;
        self.account.restart(offset);
        self.account.inside = self.grouper.open_since();
        Ok(summary)
    }

    fn at(&self, offset: u64) -> BinlogPosition {
        BinlogPosition::new(self.incarnation, self.file.number, offset)
    }

    fn begin_of(&self, file: &LogFile) -> BinlogPosition {
        BinlogPosition::new(self.incarnation, file.number, 0)
    }

    fn summary(&self, end: BinlogPosition, commits: CommitBounds) -> SegmentSummary<BinlogPosition> {
        let mut facts = Facts::from([
            (facts::FILE.to_owned(), self.file.to_string()),
            (facts::OFFSET.to_owned(), self.account.offset.to_string()),
            (facts::FORMAT.to_owned(), hex::encode(&self.format)),
            (facts::BEFORE.to_owned(), self.account.before.clone()),
            (facts::EXECUTED.to_owned(), self.account.executed.to_string()),
            (facts::GTIDS.to_owned(), self.account.gtids()),
        ]);
        let last = self.account.last.map(|(offset, crc)| format!("{offset}:{crc:08x}"));
        let number = |offset: Option<u64>| offset.map(|offset| offset.to_string());
        let open = self.grouper.open_since();
        let optional = [
            (facts::FIRST, number(self.account.first)),
            (facts::INSIDE, number(self.account.inside)),
            (facts::OPEN, number(open)),
            (facts::LAST, last),
            (facts::WITNESS, self.account.witness()),
        ];
        facts.extend(optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        SegmentSummary { end, commits, marks: self.account.marks, facts }
    }
}

/// The name of the segment that begins at this place. Files are grouped, for a directory of the archive should hold a
/// few hundred segments.
pub fn name_of(file: &LogFile, offset: u64) -> Result<SegmentName, InvalidName> {
    let group = format!("{:08x}", file.number / FILES_PER_GROUP);
    SegmentName::new(group, format!("{:010}-{offset:012x}", file.number))
}

/// Reads a whole format description event.
fn parse_format(event: &[u8]) -> Option<Format> {
    let body = event.get(Header::LEN..event.len().checked_sub(4)?)?;
    Format::parse(0, body).ok()
}

/// The event as it stands in a closed file.
pub(super) fn whole_format(event: &Event<'_>) -> Vec<u8> {
    let header = Header { flags: event.header.flags & !crate::event::flag::IN_USE, ..event.header };
    let mut whole = header.encode().to_vec();
    whole.extend_from_slice(event.body);
    let mut running = crate::event::Running::new(header.kind);
    running.update(&whole);
    whole.extend_from_slice(&running.finish().to_le_bytes());
    whole
}

/// Takes an event into account. Gives the file that comes next, if the event says so.
fn note(event: &Event<'_>, grouper: &mut Grouper, account: &mut Account) -> Result<Option<LogFile>, Error> {
    // One that ends here may have begun in the segment before.
    if event.offset >= account.offset {
        account.first.get_or_insert(event.offset);
    }
    match event.header.kind {
        Kind::PREVIOUS_GTIDS => account.check_before(GtidSet::Mysql(body::previous_gtids(event)?)),
        Kind::GTID_LIST => account.check_before(GtidSet::Maria(body::gtid_list(event)?)),
        _ => {}
    }
    match grouper.next(event)? {
        Mark::Begin => account.begin(grouper.open_commit().and_then(|(time, _)| time)),
        Mark::Inside => {}
        Mark::Outside => account.pass(clock(event)),
        Mark::End(group) => {
            if group.begin == event.offset {
                account.begin(group.committed_at);
            }
            account.end(&group);
        }
    }
    let rotates = next_file(event).is_some();
    Ok(if rotates { Reader::rotation(event)?.and_then(|to| LogFile::parse(&to.file)) } else { None })
}

/// The family of a transaction's identifier, as an empty set.
pub fn empty_set(flavour: Flavour) -> GtidSet {
    match flavour {
        Flavour::Mysql => GtidSet::Mysql(Default::default()),
        Flavour::Mariadb => GtidSet::Maria(Default::default()),
    }
}

/// True if the identifier does not continue its domain, so that "the last one" does not tell which came before.
pub(super) fn is_out_of_order(set: &GtidSet, gtid: &Gtid) -> bool {
    matches!((set, gtid), (GtidSet::Maria(_), Gtid::Maria(_))) && set.contains(gtid)
}
