//! Segments of a made-up log: segment `n` covers the offsets 10n to 10n+10, sixteen of them make a group.

use bytes::Bytes;
use pitr_archive::Tail;
use pitr_core::ports::{SealedSegment, SegmentStart, SegmentSummary};
use pitr_core::{CommitBounds, Facts, LineageId, SegmentName, Timestamp};
use pitr_testkit::toy::{ToyPosition, lineage_id};

pub const PER_GROUP: u64 = 16;

pub fn lineage() -> LineageId {
    lineage_id(1)
}

pub fn name(n: u64) -> SegmentName {
    SegmentName::new(format!("{:06x}", n / PER_GROUP), format!("{n:010x}")).unwrap()
}

/// A commit happened in every segment, one second after the one before.
pub fn time(n: u64) -> Timestamp {
    let begin: Timestamp = "2026-09-07T00:00:00Z".parse().unwrap();
    begin + chrono::TimeDelta::seconds(n as i64)
}

pub fn segment(n: u64) -> SealedSegment<ToyPosition> {
    let bytes = format!("segment {n}, and the same again: segment {n}");
    SealedSegment {
        lineage: lineage(),
        name: name(n),
        start: ToyPosition::new(1, 10 * n),
        end: ToyPosition::new(1, 10 * n + 10),
        commits: CommitBounds { count: 1, min: Some(time(n)), max: Some(time(n)), reaches: Some(time(n)), open: false },
        marks: 0,
        facts: Facts::new(),
        bytes: Bytes::from(bytes),
    }
}

/// Bytes of a segment while it is open, up to `end` offsets behind its start.
#[allow(dead_code, reason = "not every test has open segments")]
pub fn tail_of(segment: &SealedSegment<ToyPosition>, from: u64, bytes: &str, end: u64) -> Tail<ToyPosition> {
    Tail {
        lineage: segment.lineage.clone(),
        segment: SegmentStart { name: segment.name.clone(), start: segment.start },
        from,
        bytes: Bytes::copy_from_slice(bytes.as_bytes()),
        so_far: SegmentSummary {
            end: ToyPosition { offset: segment.start.offset + end, ..segment.start },
            commits: segment.commits.clone(),
            marks: 0,
            facts: Facts::new(),
        },
    }
}
