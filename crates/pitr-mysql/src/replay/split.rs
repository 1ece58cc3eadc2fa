//! Takes the bytes of log files apart into what a replica is sent and what it is not.
//!
//! Sans-I/O: pieces of a file go in, in order; events come out as their length and then their bytes, without a copy.
//! A piece may end anywhere, also within an event. Whole transactions are left out: those that the replica has, and
//! those that it is not to have.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::{Bytes, BytesMut};

use super::ReplayError;
use crate::event::body::{GtidEvent, MariaGtidEvent, Phase};
use crate::event::{Checksum, Event, Header, Kind, MAGIC};
use crate::gtid::{Gtid, GtidSet, MariaGtid, MariaSet, MysqlSet};
use crate::limits::MAX_GTID_EVENT;

/// What comes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Out {
    /// An event of this many bytes begins.
    Event(u32),
    /// The next bytes of it.
    Bytes(Bytes),
}

/// What a replica has of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Has {
    /// Nothing that could be told by its name.
    Nothing,
    /// These, of MySQL.
    Set(MysqlSet),
    /// Of MariaDB: of each of these domains everything up to and with this transaction, which the log has. Numbers alone do not
    /// tell: unless its strict mode is on, a server takes lower ones after higher ones.
    UpTo(BTreeMap<u32, MariaGtid>),
}

impl Has {
    /// What a replica of MariaDB has that says it is at `at`, of the log behind `base`.
    pub fn since(base: &MariaSet, at: &MariaSet) -> Self {
        let moved = at.iter().filter(|last| base.last(last.domain) != Some(*last));
        Self::UpTo(moved.map(|last| (last.domain, *last)).collect())
    }

    /// True if it has this one, which comes next in the log.
    fn passes(&mut self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (Self::Set(set), Gtid::Mysql(gtid)) => set.contains(gtid),
            (Self::UpTo(domains), Gtid::Maria(gtid)) => {
                let last = domains.get(&gtid.domain).copied();
                if last == Some(*gtid) {
                    domains.remove(&gtid.domain);
                }
                last.is_some()
            }
            _ => false,
        }
    }
}

/// What a replica is not sent.
#[derive(Debug, Clone)]
pub struct Filter {
    /// What it has.
    pub has: Has,
    /// What it is not to have.
    pub skip: HashSet<Gtid>,
    /// True if it wants the statements behind MariaDB's row events.
    pub annotations: bool,
}

/// The state between two pieces.
#[derive(Debug)]
pub struct Splitter {
    filter: Filter,
    buffer: Bytes,
    /// Bytes of the current event still to come.
    left: u64,
    /// Whether the current event is sent.
    sending: bool,
    /// Whether the current transaction is left out.
    dropping: bool,
    checksum: Checksum,
    /// Offset in the file of the next byte of the buffer.
    offset: u64,
    /// Offset in the file of the end of the last event that was sent.
    sent_to: u64,
    /// All transactions that came by and are not unwanted, sent or not.
    seen: Option<GtidSet>,
    /// Those that came by and are unwanted.
    skipped: HashSet<Gtid>,
    /// Definitions whose change began and has not ended.
    changing: BTreeSet<MariaGtid>,
    magic: bool,
}

impl Splitter {
    /// Nothing has come by; `seen` is what to collect transactions in.
    pub fn new(filter: Filter, seen: Option<GtidSet>) -> Self {
        Self {
            filter,
            buffer: Bytes::new(),
            left: 0,
            sending: false,
            dropping: false,
            checksum: Checksum::Crc32,
            offset: 0,
            sent_to: 0,
            seen,
            skipped: HashSet::new(),
            changing: BTreeSet::new(),
            magic: false,
        }
    }

    /// A new file begins, at `offset`. The end of the one before must have been a whole event.
    pub fn begin_file(&mut self, offset: u64, checksum: Checksum) -> Result<(), ReplayError> {
        if self.left > 0 || !self.buffer.is_empty() {
            return Err(ReplayError::Torn { offset: self.offset });
        }
        self.offset = offset;
        self.sent_to = offset.max(MAGIC.len() as u64);
        self.magic = offset == 0;
        self.checksum = checksum;
        Ok(())
    }

    /// More bytes of the file.
    pub fn push(&mut self, bytes: Bytes) {
        if self.buffer.is_empty() {
            self.buffer = bytes;
            return;
        }
        let mut joined = BytesMut::with_capacity(self.buffer.len() + bytes.len());
        joined.extend_from_slice(&self.buffer);
        joined.extend_from_slice(&bytes);
        self.buffer = joined.freeze();
    }

    /// True between two events.
    pub fn is_between(&self) -> bool {
        self.left == 0 && self.buffer.is_empty()
    }

    /// Offset in the file of the end of the last event that was sent.
    pub fn sent_to(&self) -> u64 {
        self.sent_to
    }

    /// All transactions that came by.
    pub fn seen(&self) -> Option<&GtidSet> {
        self.seen.as_ref()
    }

    /// A transaction that the replica says it has, and that did not come by.
    pub fn missed(&self) -> Option<MariaGtid> {
        match &self.filter.has {
            Has::UpTo(domains) => domains.values().next().copied(),
            Has::Nothing | Has::Set(_) => None,
        }
    }

    /// A transaction that was to be left out, and did not come by.
    pub fn not_skipped(&self) -> Option<&Gtid> {
        self.filter.skip.iter().find(|gtid| !self.skipped.contains(gtid))
    }

    /// Changes of definitions that began and did not end.
    pub fn changing(&self) -> impl Iterator<Item = &MariaGtid> {
        self.changing.iter()
    }

    /// The next thing to send; `None` until more is pushed.
    pub fn next(&mut self) -> Result<Option<Out>, ReplayError> {
        loop {
            if self.left > 0 {
                let now = self.buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                if now == 0 {
                    return Ok(None);
                }
                let bytes = self.take(now);
                self.left -= now as u64;
                if self.sending {
                    self.sent_to = self.offset;
                    return Ok(Some(Out::Bytes(bytes)));
                }
                continue;
            }
            if self.magic {
                if self.buffer.len() < MAGIC.len() {
                    return Ok(None);
                }
                self.take(MAGIC.len());
                self.magic = false;
            }
            let Some(header) = Header::parse(&self.buffer) else { return Ok(None) };
            if (header.length as usize) < Header::LEN {
                return Err(ReplayError::Torn { offset: self.offset });
            }
            if !self.decide(&header)? {
                return Ok(None);
            }
            self.left = u64::from(header.length);
            if self.sending {
                return Ok(Some(Out::Event(header.length)));
            }
        }
    }

    fn take(&mut self, count: usize) -> Bytes {
        self.offset += count as u64;
        let bytes = self.buffer.split_to(count);
        if self.buffer.is_empty() {
            // Lets go of the piece.
            self.buffer = Bytes::new();
        }
        bytes
    }

    /// Decides about the event at the front; false if more of it must be there first.
    fn decide(&mut self, header: &Header) -> Result<bool, ReplayError> {
        self.sending = match header.kind {
            // The replica's own log has a first event of its own, and ends in its own way.
            Kind::STOP | Kind::START_ENCRYPTION => false,
            Kind::ANNOTATE_ROWS if !self.filter.annotations => false,
            kind if kind.is_administrative() => true,
            Kind::GTID | Kind::GTID_TAGGED | Kind::ANONYMOUS_GTID | Kind::MARIA_GTID => {
                if header.length > MAX_GTID_EVENT {
                    return Err(ReplayError::Torn { offset: self.offset });
                }
                let Some(event) = self.buffer.get(..header.length as usize) else { return Ok(false) };
                let (gtid, phase) = identifier(event, header, self.offset, self.checksum)?;
                self.follow(gtid.as_ref(), phase);
                self.dropping = gtid.as_ref().is_some_and(|gtid| self.leaves_out(gtid));
                match (&mut self.seen, gtid) {
                    (_, Some(gtid)) if self.filter.skip.contains(&gtid) => drop(self.skipped.insert(gtid)),
                    (Some(seen), Some(gtid)) => seen.insert(&gtid),
                    _ => {}
                }
                !self.dropping
            }
            _ => !self.dropping,
        };
        Ok(true)
    }

    fn follow(&mut self, gtid: Option<&Gtid>, phase: Option<Phase>) {
        match (gtid, phase) {
            (Some(Gtid::Maria(gtid)), Some(Phase::Begin)) => drop(self.changing.insert(*gtid)),
            (Some(Gtid::Maria(gtid)), Some(Phase::End(sequence))) => {
                self.changing.remove(&MariaGtid { sequence, ..*gtid });
            }
            _ => {}
        }
    }

    fn leaves_out(&mut self, gtid: &Gtid) -> bool {
        self.filter.has.passes(gtid) || self.filter.skip.contains(gtid)
    }
}

/// Which transaction an event begins, and which phase of a change it is.
fn identifier(
    bytes: &[u8],
    header: &Header,
    offset: u64,
    checksum: Checksum,
) -> Result<(Option<Gtid>, Option<Phase>), ReplayError> {
    let end = bytes.len().saturating_sub(checksum.bytes_of(header.kind));
    let body = bytes.get(Header::LEN..end).unwrap_or_default();
    let event = Event { offset, header: *header, body };
    Ok(match header.kind {
        Kind::MARIA_GTID => {
            let parsed = MariaGtidEvent::parse(&event)?;
            (Some(Gtid::Maria(parsed.gtid)), parsed.phase)
        }
        _ => (GtidEvent::parse(&event)?.gtid.map(Gtid::Mysql), None),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn event(kind: Kind, body: &[u8]) -> Vec<u8> {
        let length = (Header::LEN + body.len() + Checksum::LEN) as u32;
        let header = Header { timestamp: 1, kind, server_id: 1, length, log_pos: 0, flags: 0 };
        [&header.encode()[..], body, &[0; 4]].concat()
    }

    fn gtid(number: u8) -> Vec<u8> {
        let mut body = vec![0];
        body.extend_from_slice(&[0xaa; 16]);
        body.extend_from_slice(&u64::from(number).to_le_bytes());
        event(Kind::GTID, &body)
    }

    fn transaction(number: u8) -> Vec<u8> {
        [gtid(number), event(Kind::QUERY, b"BEGIN"), event(Kind::XID, &[number; 8])].concat()
    }

    fn set(text: &str) -> MysqlSet {
        format!("aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:{text}").parse().unwrap()
    }

    /// What comes out of a file that is pushed in pieces of `size` bytes.
    fn split(file: &[u8], size: usize, has: &str, skip: &str) -> (Vec<u8>, GtidSet) {
        let skip = format!("aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa:{skip}").parse().unwrap();
        let filter = Filter { has: Has::Set(set(has)), skip: [skip].into(), annotations: false };
        let mut splitter = Splitter::new(filter, Some(GtidSet::Mysql(Default::default())));
        splitter.begin_file(0, Checksum::Crc32).unwrap();
        let mut out = Vec::new();
        let mut expected = 0;
        for piece in file.chunks(size) {
            splitter.push(Bytes::copy_from_slice(piece));
            while let Some(next) = splitter.next().unwrap() {
                match next {
                    Out::Event(length) => {
                        assert_eq!(expected, 0);
                        expected = length as usize;
                    }
                    Out::Bytes(bytes) => {
                        expected -= bytes.len();
                        out.extend_from_slice(&bytes);
                    }
                }
            }
        }
        assert_eq!(expected, 0);
        (out, splitter.seen().unwrap().clone())
    }

    #[test]
    fn whole_transactions_are_left_out_wherever_the_pieces_end() {
        let head = event(Kind::FORMAT_DESCRIPTION, &[0; 90]);
        let tail = event(Kind::ROTATE, b"12345678binlog.000002");
        let stop = event(Kind::STOP, b"");
        let file =
            [MAGIC, &head, &transaction(1), &transaction(2), &transaction(3), &transaction(4), &stop, &tail].concat();
        let expected = [&head[..], &transaction(2), &transaction(4), &tail].concat();
        for size in [1, 7, 19, 64, 1000] {
            let (out, seen) = split(&file, size, "1", "3");
            assert_eq!(out, expected, "pieces of {size}");
            assert_eq!(seen, GtidSet::Mysql(set("1-2:4")));
        }
    }

    /// A server of MariaDB that is not strict takes numbers in any order, so only their place in the log tells what a replica has.
    #[test]
    fn numbers_that_came_out_of_order_are_told_apart_by_their_place() {
        let at = |text: &str| text.parse::<MariaSet>().unwrap();
        let passed = |base: &str, replica: &str| {
            let mut has = Has::since(&at(base), &at(replica));
            let log = ["0-2-5", "0-1-101", "7-1-1", "0-2-6", "0-1-102"];
            log.into_iter().filter(|gtid| has.passes(&gtid.parse().unwrap())).collect::<Vec<_>>()
        };
        assert!(passed("0-1-100", "0-1-100").is_empty(), "5 comes after 100");
        assert_eq!(passed("0-1-100", "0-1-101"), ["0-2-5", "0-1-101"]);
        assert_eq!(passed("0-1-100", "0-2-6,7-1-1"), ["0-2-5", "0-1-101", "7-1-1", "0-2-6"]);
        assert_eq!(passed("", "7-1-1"), ["7-1-1"]);
    }

    #[test]
    fn a_file_that_ends_within_an_event_is_an_error() {
        let mut splitter = Splitter::new(Filter { has: Has::Nothing, skip: HashSet::new(), annotations: false }, None);
        splitter.begin_file(500, Checksum::Crc32).unwrap();
        splitter.push(Bytes::from(gtid(1)).slice(..30));
        while splitter.next().unwrap().is_some() {}
        assert!(matches!(splitter.begin_file(0, Checksum::Crc32), Err(ReplayError::Torn { .. })));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut splitter = Splitter::new(Filter { has: Has::Nothing, skip: HashSet::new(), annotations: true }, None);
            splitter.begin_file(4, Checksum::None).unwrap();
            splitter.push(Bytes::from(bytes));
            while let Ok(Some(_)) = splitter.next() {}
        }
    }
}
