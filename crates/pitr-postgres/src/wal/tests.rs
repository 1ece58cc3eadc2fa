//! Log made by hand, for what a real server does only in accidents. Real log is compared in `tests/waldump.rs`.

use proptest::prelude::*;

use super::*;
use crate::lsn::{Lsn, SegmentSize, TimelineId};

const PAGE: usize = 8192;
const START: Lsn = Lsn(0x0100_0000);
const SYSTEM: u64 = 7_123_456_789;

/// Writes records one after the other into pages.
struct Log {
    bytes: Vec<u8>,
    prev: u64,
    timeline: u32,
    /// What the next page says that it is, instead of what it is.
    address: Option<u64>,
}

impl Log {
    fn new() -> Self {
        Self { bytes: Vec::new(), prev: 0, timeline: 1, address: None }
    }

    fn lsn(&self) -> u64 {
        START.0 + self.bytes.len() as u64
    }

    fn page(&mut self, flags: u16, left: u32) {
        assert_eq!(self.bytes.len() % PAGE, 0);
        let long = self.bytes.is_empty();
        let address = self.address.take().unwrap_or(self.lsn());
        self.bytes.extend(0xD110_u16.to_le_bytes());
        self.bytes.extend((flags | if long { 2 } else { 0 }).to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(address.to_le_bytes());
        self.bytes.extend(left.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(SYSTEM.to_le_bytes());
            self.bytes.extend((16_u32 << 20).to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }

    /// A record with the body given; returns where it begins.
    fn record(&mut self, resource: u8, info: u8, body: &[u8]) -> Lsn {
        let record = self.encode(resource, info, body);
        if self.bytes.len().is_multiple_of(PAGE) {
            self.page(0, 0);
        }
        let begin = Lsn(self.lsn());
        self.prev = begin.0;
        self.put(&record);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        begin
    }

    fn encode(&self, resource: u8, info: u8, body: &[u8]) -> Vec<u8> {
        let mut record = Vec::new();
        record.extend(((body.len() + 24) as u32).to_le_bytes());
        record.extend(77_u32.to_le_bytes());
        record.extend(self.prev.to_le_bytes());
        record.extend([info, resource, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(body), &record);
        record.extend(crc.to_le_bytes());
        record.extend(body);
        record
    }

    fn put(&mut self, mut record: &[u8]) {
        while !record.is_empty() {
            if self.bytes.len().is_multiple_of(PAGE) {
                self.page(1, record.len() as u32);
            }
            let room = PAGE - self.bytes.len() % PAGE;
            let (now, later) = record.split_at(room.min(record.len()));
            self.bytes.extend(now);
            record = later;
        }
    }

    /// A record of another resource manager, so long that `left` bytes of the page are free after it.
    fn fill_page_up_to(&mut self, left: usize) {
        let free = PAGE - self.bytes.len() % PAGE;
        self.record(10, 0, &vec![5; free - 24 - left]);
        assert_eq!((PAGE - self.bytes.len() % PAGE) % PAGE, left);
    }
}

fn commit(micros: i64) -> Vec<u8> {
    [&[255, 8][..], &micros.to_le_bytes()].concat()
}

fn decode(bytes: &[u8], piece: usize, timeline: u32) -> (Vec<Record>, Result<Step, WalError>) {
    let mut decoder = Decoder::new(Origin::new(TimelineId(timeline), START, SegmentSize::DEFAULT));
    let mut records = Vec::new();
    let mut last = Ok(Step::NeedMore);
    for mut piece in bytes.chunks(piece) {
        loop {
            last = decoder.step(&mut piece);
            match &last {
                Ok(Step::Record(record)) => records.push(record.clone()),
                Ok(Step::NeedMore) => break,
                _ => return (records, last),
            }
        }
    }
    (records, last)
}

fn begins(records: &[Record]) -> Vec<Lsn> {
    records.iter().map(|record| record.lsn).collect()
}

#[test]
fn a_header_cut_by_a_page_is_joined_wherever_it_is_cut() {
    for left in [8, 16] {
        let mut log = Log::new();
        log.record(0, 0x80, &[255, 1, 1]);
        log.fill_page_up_to(left);
        let expected = log.record(1, 0, &commit(1_000_000));
        for piece in [1, 7, 24, 8191, 1 << 20] {
            let (records, last) = decode(&log.bytes, piece, 1);
            assert_eq!(last, Ok(Step::NeedMore));
            assert_eq!(records.last().map(|record| record.lsn), Some(expected));
            let Some(Detail::Commit(settled)) = records.last().map(|record| &record.detail) else { panic!() };
            assert_eq!(settled.time.to_rfc3339(), "2000-01-01T00:00:01+00:00");
        }
    }
}

#[test]
fn decoding_starts_after_the_rest_of_a_record_from_before() {
    let mut log = Log::new();
    log.page(1, 9001);
    log.put(&vec![3; 9001]);
    log.bytes.resize(log.bytes.len().next_multiple_of(8), 0);
    log.prev = START.0 - 64;
    let first = log.record(1, 0x20, &commit(5));
    let (records, last) = decode(&log.bytes, 999, 1);
    assert_eq!((begins(&records), last), (vec![first], Ok(Step::NeedMore)));
}

#[test]
fn a_record_that_a_crash_cut_off_is_dropped_and_the_log_goes_on() {
    let mut log = Log::new();
    let before = log.record(0, 0x80, &[255, 1, 1]);
    let lost = log.lsn();
    let cut = log.encode(10, 0, &vec![9; 3 * PAGE]);
    log.bytes.extend(&cut[..PAGE - log.bytes.len()]);
    log.page(8, 0);
    let body = [&[255, 16][..], &lost.to_le_bytes(), &7_i64.to_le_bytes()].concat();
    let after = log.record(0, 0xD0, &body);
    let (records, last) = decode(&log.bytes, 4096, 1);
    assert_eq!((begins(&records), last), (vec![before, after], Ok(Step::NeedMore)));
    assert!(matches!(records[1].detail, Detail::OverwriteContrecord { lost: at, .. } if at.0 == lost));
}

#[test]
fn zeros_and_pages_of_an_older_use_end_the_log_at_the_last_whole_record() {
    let mut log = Log::new();
    log.record(0, 0x80, &[255, 1, 1]);
    let end = Lsn(log.lsn());
    let mut zeros = log.bytes.clone();
    zeros.resize(2 * PAGE, 0);
    let (_, last) = decode(&zeros, 1000, 1);
    assert_eq!(last, Ok(Step::End(End { lsn: end, reason: EndReason::Zeros })));

    log.fill_page_up_to(0);
    let end = Lsn(log.lsn());
    log.address = Some(START.0 - (16 << 20) + PAGE as u64);
    log.record(10, 0, &[1; 100]);
    let (_, last) = decode(&log.bytes, 1000, 1);
    assert!(matches!(last, Ok(Step::End(End { lsn, reason: EndReason::StalePage(_) })) if lsn == end), "{last:?}");
}

#[test]
fn an_older_timeline_may_come_before_and_never_after() {
    let mut log = Log::new();
    log.record(10, 0, &[1; 100]);
    log.fill_page_up_to(0);
    log.timeline = 2;
    let second = log.record(10, 0, &[1; 100]);
    let (records, last) = decode(&log.bytes, 1000, 2);
    assert_eq!(last, Ok(Step::NeedMore));
    assert_eq!(records.last().map(|record| (record.lsn, record.timeline)), Some((second, TimelineId(2))));
    // Read as timeline 1, the second page is of the future.
    let (_, last) = decode(&log.bytes, 1000, 1);
    assert!(matches!(last, Err(WalError { what: Damage::PageTimeline { .. }, .. })), "{last:?}");

    log.fill_page_up_to(0);
    log.timeline = 1;
    log.record(10, 0, &[1; 100]);
    let (_, last) = decode(&log.bytes, 1000, 2);
    assert!(matches!(last, Err(WalError { what: Damage::PageTimeline { .. }, .. })), "{last:?}");
}

#[test]
fn after_a_switch_the_next_segment_follows() {
    let mut log = Log::new();
    let switch = log.record(0, 0x40, &[]);
    log.bytes.resize(16 << 20, 0);
    let (records, last) = decode(&log.bytes, 1 << 20, 1);
    assert_eq!((begins(&records), last), (vec![switch], Ok(Step::NeedMore)));
    assert_eq!(records[0].end, Lsn(0x0200_0000));
}

#[test]
fn damage_is_told_with_its_place() {
    let whole = {
        let mut log = Log::new();
        log.record(10, 0, &[1; 100]);
        log.record(10, 0, &[2; 9000]);
        log
    };
    let second = Lsn(START.0 + 40 + 128);
    let damaged = |at: usize, value: u8| {
        let mut bytes = whole.bytes.clone();
        bytes[at] ^= value;
        decode(&bytes, 4096, 1).1.unwrap_err()
    };
    assert!(matches!(damaged(0, 1).what, Damage::UnknownMagic(0xD111)));
    assert!(matches!(damaged(2, 0x20).what, Damage::PageFlags(_)));
    assert!(matches!(damaged(2, 2).what, Damage::PageFlags(_)), "a long header without the flag");
    assert!(matches!(damaged(12, 0x80).what, Damage::PageAddress(_)));
    assert!(matches!(damaged(33, 1).what, Damage::SegmentSize { .. }));
    assert!(matches!(damaged(37, 1).what, Damage::PageSize(_)));
    assert_eq!(damaged(40 + 60, 1).lsn, Lsn(START.0 + 40));
    assert!(matches!(damaged(40 + 60, 1).what, Damage::Checksum { .. }));
    let previous = damaged(40 + 128 + 8, 8);
    assert!(previous.lsn == second && matches!(previous.what, Damage::PreviousLink { .. }), "{previous:?}");
    let continuation = damaged(PAGE + 16, 1);
    assert!(continuation.lsn == Lsn(START.0 + PAGE as u64), "{continuation}");
    assert!(matches!(continuation.what, Damage::Continuation { .. }));
    let mut long = whole.bytes.clone();
    long[40 + 3] = 0x80;
    assert!(matches!(decode(&long, 4096, 1).1, Err(WalError { what: Damage::RecordLength(_), .. })));
}

proptest! {
    #[test]
    fn arbitrary_bytes_neither_panic_nor_loop(data in proptest::collection::vec(any::<u8>(), 0..20_000)) {
        fuzz::fuzz_wal(&data);
    }

    #[test]
    fn damaged_log_neither_panics_nor_loops(
        bodies in proptest::collection::vec((0_u8..3, any::<u8>(), 0_usize..12_000), 1..12),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        control: u8,
    ) {
        let mut log = Log::new();
        for (resource, info, len) in bodies {
            log.record(resource, info, &vec![255; len]);
        }
        for (at, value) in edits {
            let at = at.index(log.bytes.len());
            log.bytes[at] = value;
        }
        log.bytes.insert(0, control & !4);
        fuzz::fuzz_wal(&log.bytes);
    }
}
