//! The state machine from bytes to records.

use std::fmt;

use crate::limits::{MAX_RECORD, PAGE_SIZE, RECORD_HEADER};
use crate::lsn::{Lsn, SegmentSize, TimelineId};

use super::body;
use super::bytes::copy_into;
use super::damage::{Damage, WalError};
use super::page::{Beginning, Entered, Pages};
use super::record::{Detail, Record, RecordHeader, Resource};

/// Where decoding begins, and what is known of the log.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// The timeline that is read. Older ones may come before it, in the segment in which it began.
    pub timeline: TimelineId,
    /// Position of the first byte: the begin of a page.
    pub lsn: Lsn,
    /// Size of the segments.
    pub segment_size: SegmentSize,
    /// The cluster, if it is known; segments of another one are damage.
    pub system_id: Option<u64>,
}

impl Origin {
    /// Log of any cluster. `lsn` is rounded down to the begin of its page.
    pub fn new(timeline: TimelineId, lsn: Lsn, segment_size: SegmentSize) -> Self {
        Self { timeline, lsn: lsn.page_start(), segment_size, system_id: None }
    }

    /// The same, of one cluster alone.
    pub fn of_system(self, system_id: u64) -> Self {
        Self { system_id: Some(system_id), ..self }
    }
}

/// What came of the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A whole record.
    Record(Record),
    /// The input is used up; the bytes that follow it are needed.
    NeedMore,
    /// No more valid log follows. Every further step says the same.
    End(End),
}

/// The end of valid log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Cut after the last whole record, or after what belongs to a record from before the origin.
    pub lsn: Lsn,
    /// How it is known.
    pub reason: EndReason,
}

/// How the end of valid log shows itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Zeros where a record or page header would be.
    Zeros,
    /// A page of an older use of the file.
    StalePage(Lsn),
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zeros => f.write_str("zeros follow"),
            Self::StalePage(at) => write!(f, "a page follows that was written for {at}"),
        }
    }
}

/// Decodes the log of one timeline, fed in order and in pieces of any size.
///
/// # Contract
/// [`step`](Self::step) takes bytes off the front of its input and never looks at one twice. It answers
/// `NeedMore` only with the input empty, and makes progress in every other call. After an error it must not
/// be called again. Records are given out only when their checksum and their link to the record before are
/// right; the rest of a record that began before the origin is skipped unchecked. Memory is bounded by
/// [`MAX_KEPT_BODY`](crate::limits::MAX_KEPT_BODY).
#[derive(Debug)]
pub struct Decoder {
    origin: Origin,
    /// Position of the next input byte.
    lsn: Lsn,
    state: State,
    pages: Pages,
    record: Open,
    /// Begin of the last whole record, once there is one.
    prev: Option<Lsn>,
    /// Cut after the last whole record or skipped rest.
    valid_to: Lsn,
}

/// What the next byte is, page headers aside: they come between any two bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The first page decides: a record, or the rest of one.
    Start,
    /// The rest of a record that began before the origin.
    Skip { left: u64 },
    /// Padding after a record, up to 7 bytes.
    Pad,
    /// A record's header, of which the first `have` bytes are there.
    Header { have: usize },
    /// A record's body.
    Body { left: u64 },
    /// Unused bytes between a switch and the end of its segment.
    Unused,
    /// Nothing follows.
    Ended(End),
}

/// The record that is being collected.
#[derive(Debug, Default)]
struct Open {
    begin: Lsn,
    timeline: Option<TimelineId>,
    bytes: [u8; RECORD_HEADER],
    header: Option<RecordHeader>,
    crc: u32,
    wanted: usize,
    kept: Vec<u8>,
}

impl Decoder {
    /// A decoder that expects the byte at `origin.lsn` first.
    pub fn new(origin: Origin) -> Self {
        let pages = Pages::new(origin.system_id);
        let (lsn, record) = (origin.lsn, Open::default());
        Self { origin, lsn, state: State::Start, pages, record, prev: None, valid_to: lsn }
    }

    /// Position of the next input byte.
    pub fn position(&self) -> Lsn {
        self.lsn
    }

    /// Major version of the server, once a page has been read.
    pub fn version(&self) -> Option<u32> {
        self.pages.magic.map(|_| self.pages.version)
    }

    /// Identifier of the cluster, as given or as the first long header says.
    pub fn system_id(&self) -> Option<u64> {
        self.pages.system_id
    }

    /// Timeline of the last page that was read.
    pub fn timeline(&self) -> TimelineId {
        self.pages.timeline
    }

    /// Cut after the last whole record.
    pub fn valid_to(&self) -> Lsn {
        self.valid_to
    }

    /// Begin of the record that is not whole yet, and its kind if its header is: resource and info.
    pub fn open_record(&self) -> Option<(Lsn, Option<(Resource, u8)>)> {
        match self.state {
            State::Header { have } if have > 0 => Some((self.record.begin, None)),
            State::Body { .. } => {
                Some((self.record.begin, self.record.header.map(|header| (Resource(header.resource), header.info))))
            }
            _ => None,
        }
    }

    /// Begin of the last record of which anything has been read, whole or not; `None` while there is only the rest of one
    /// from before the origin.
    pub fn last_begin(&self) -> Option<Lsn> {
        self.open_record().map(|(begin, _)| begin).or(self.prev)
    }

    /// True after a switch, until its segment ends.
    pub fn is_switched(&self) -> bool {
        self.state == State::Unused
    }

    /// True while the rest of a record from before the origin is being skipped.
    pub fn is_skipping(&self) -> bool {
        matches!(self.state, State::Skip { .. })
    }

    /// Takes bytes off `input` until there is something to say.
    ///
    /// # Errors
    /// Damage, with the position of the page or record.
    pub fn step(&mut self, input: &mut &[u8]) -> Result<Step, WalError> {
        loop {
            if let State::Ended(end) = self.state {
                return Ok(Step::End(end));
            }
            if input.is_empty() {
                return Ok(Step::NeedMore);
            }
            if self.state != State::Unused && self.in_page_header() {
                self.page_header(input)?;
                continue;
            }
            match self.state {
                State::Header { have } => {
                    if let Some(record) = self.record_header(input, have)? {
                        return Ok(Step::Record(record));
                    }
                }
                State::Body { left } => {
                    if let Some(record) = self.record_body(input, left)? {
                        return Ok(Step::Record(record));
                    }
                }
                State::Skip { left } => self.skip_rest(input, left),
                State::Pad => self.pad(input),
                State::Unused => self.skip_unused(input),
                // A page header always comes first, and it leaves this state.
                State::Start | State::Ended(_) => self.state = State::Header { have: 0 },
            }
        }
    }

    fn in_page_header(&self) -> bool {
        self.lsn.page_offset() < self.lsn.page_header_len(self.origin.segment_size)
    }

    /// Takes up to `want` bytes off the input, never beyond the page.
    fn take<'a>(&mut self, input: &mut &'a [u8], want: u64) -> &'a [u8] {
        let want = want.min(PAGE_SIZE - self.lsn.page_offset());
        let len = usize::try_from(want).map_or(input.len(), |want| want.min(input.len()));
        let (piece, rest) = input.split_at_checked(len).unwrap_or((input, &[]));
        *input = rest;
        self.lsn = self.lsn.advanced(piece.len() as u64);
        piece
    }

    fn page_header(&mut self, input: &mut &[u8]) -> Result<(), WalError> {
        let len = self.lsn.page_header_len(self.origin.segment_size);
        let have = self.lsn.page_offset();
        let piece = self.take(input, len - have);
        self.pages.collect(have, piece);
        if have + (piece.len() as u64) < len {
            return Ok(());
        }
        let page = self.lsn.page_start();
        let entered = self.pages.enter(page, len, &self.origin).map_err(|what| WalError { lsn: page, what })?;
        match entered {
            Entered::Valid(beginning) => {
                self.state = self.after_page_header(beginning).map_err(|what| WalError { lsn: page, what })?;
            }
            Entered::End(reason) => self.end(reason),
        }
        Ok(())
    }

    /// How a page begins must fit what the page before left open.
    fn after_page_header(&mut self, beginning: Beginning) -> Result<State, Damage> {
        let open = match self.state {
            State::Skip { left } => Some(left),
            State::Header { have: 0 } => None,
            State::Header { have } => {
                let total = self.record.announced_len();
                if (total as usize) < RECORD_HEADER || total > MAX_RECORD {
                    return Err(Damage::RecordLength(total));
                }
                Some(u64::from(total) - have as u64)
            }
            State::Body { left } => Some(left),
            State::Start | State::Pad | State::Unused | State::Ended(_) => None,
        };
        match (beginning, open) {
            (Beginning::Continues(left), None) if self.state == State::Start && left > 0 => {
                Ok(State::Skip { left: left.into() })
            }
            (Beginning::Continues(left), Some(open)) if u64::from(left) == open => Ok(self.state),
            (Beginning::Fresh, None) | (Beginning::Replaces, Some(_)) => Ok(State::Header { have: 0 }),
            // What the origin cuts off may have been lost in a crash; a record that is whole cannot be replaced.
            (Beginning::Replaces, None) if self.state == State::Start => Ok(State::Header { have: 0 }),
            (Beginning::Replaces, None) => Err(Damage::ReplacesNothing),
            (Beginning::Continues(left), open) => {
                Err(Damage::Continuation { expected: open.unwrap_or(0), found: left.into() })
            }
            (Beginning::Fresh, Some(expected)) => Err(Damage::Continuation { expected, found: 0 }),
        }
    }

    fn record_header(&mut self, input: &mut &[u8], have: usize) -> Result<Option<Record>, WalError> {
        if have == 0 {
            self.record.begin = self.lsn;
            self.record.timeline = Some(self.pages.timeline);
        }
        let piece = self.take(input, (RECORD_HEADER - have) as u64);
        copy_into(&mut self.record.bytes, have, piece);
        let have = have + piece.len();
        self.state = State::Header { have };
        let zeros = self.record.bytes.get(..have).is_some_and(|seen| seen.iter().all(|byte| *byte == 0));
        // Records begin at multiples of 8: a header that the page cuts has its first 8 or 16 bytes here.
        if zeros && (have == RECORD_HEADER || self.lsn.page_offset() == 0) {
            self.end(EndReason::Zeros);
            return Ok(None);
        }
        if have < RECORD_HEADER {
            return Ok(None);
        }
        self.begin_body().map_err(|what| WalError { lsn: self.record.begin, what })
    }

    fn begin_body(&mut self) -> Result<Option<Record>, Damage> {
        let Some(header) = RecordHeader::parse(&self.record.bytes) else {
            return Ok(None);
        };
        if (header.total_len as usize) < RECORD_HEADER || header.total_len > MAX_RECORD {
            return Err(Damage::RecordLength(header.total_len));
        }
        match self.prev {
            Some(expected) if expected != header.prev => {
                return Err(Damage::PreviousLink { expected, found: header.prev });
            }
            None if header.prev >= self.record.begin => {
                return Err(Damage::PreviousLink { expected: Lsn(0), found: header.prev });
            }
            _ => {}
        }
        self.record.crc = 0;
        self.record.wanted = body::wanted(&header);
        self.record.kept.clear();
        self.record.header = Some(header);
        let left = u64::from(header.total_len) - RECORD_HEADER as u64;
        self.state = State::Body { left };
        if left == 0 { self.finish(header) } else { Ok(None) }
    }

    fn record_body(&mut self, input: &mut &[u8], left: u64) -> Result<Option<Record>, WalError> {
        let piece = self.take(input, left);
        let left = left - piece.len() as u64;
        let record = &mut self.record;
        record.crc = crc32c::crc32c_append(record.crc, piece);
        let room = record.wanted.saturating_sub(record.kept.len()).min(piece.len());
        record.kept.extend_from_slice(piece.get(..room).unwrap_or_default());
        self.state = State::Body { left };
        match record.header {
            Some(header) if left == 0 => {
                let lsn = record.begin;
                self.finish(header).map_err(|what| WalError { lsn, what })
            }
            _ => Ok(None),
        }
    }

    /// All bytes of the record are there: is it right, and what does it say?
    fn finish(&mut self, header: RecordHeader) -> Result<Option<Record>, Damage> {
        let record = &self.record;
        // The checksum covers the body first, then the header up to the checksum itself.
        let covered = record.bytes.get(..RECORD_HEADER - 4).unwrap_or_default();
        let computed = crc32c::crc32c_append(record.crc, covered);
        if computed != header.crc {
            return Err(Damage::Checksum { found: header.crc, computed });
        }
        let detail = body::read(&header, &record.kept, self.pages.version).map_err(Damage::Content)?;
        let (end, state) = match detail {
            Detail::Switch => self.after_switch(),
            _ => (self.lsn.aligned(), State::Pad),
        };
        let done = Record {
            lsn: record.begin,
            end,
            prev: header.prev,
            total_len: header.total_len,
            xid: header.xid,
            resource: Resource(header.resource),
            info: header.info,
            timeline: record.timeline.unwrap_or(self.origin.timeline),
            detail,
        };
        (self.prev, self.valid_to, self.state) = (Some(done.lsn), end, state);
        Ok(Some(done))
    }

    fn after_switch(&self) -> (Lsn, State) {
        let size = self.origin.segment_size;
        let after = self.lsn.aligned();
        if after.segment_offset(size) == 0 { (after, State::Pad) } else { (after.next_segment(size), State::Unused) }
    }

    fn skip_rest(&mut self, input: &mut &[u8], left: u64) {
        let left = left - self.take(input, left).len() as u64;
        self.state = if left > 0 { State::Skip { left } } else { State::Pad };
        if left == 0 {
            self.valid_to = self.lsn.aligned();
        }
    }

    fn pad(&mut self, input: &mut &[u8]) {
        let padding = self.lsn.aligned().since(self.lsn);
        self.take(input, padding);
        if self.lsn == self.lsn.aligned() {
            self.state = State::Header { have: 0 };
        }
    }

    fn skip_unused(&mut self, input: &mut &[u8]) {
        let unused = self.lsn.next_segment(self.origin.segment_size).since(self.lsn);
        self.take(input, unused);
        if self.lsn.segment_offset(self.origin.segment_size) == 0 {
            self.state = State::Header { have: 0 };
        }
    }

    fn end(&mut self, reason: EndReason) {
        self.state = State::Ended(End { lsn: self.valid_to, reason });
    }
}

impl Open {
    /// The length as the first four bytes of the header say.
    fn announced_len(&self) -> u32 {
        self.bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}
