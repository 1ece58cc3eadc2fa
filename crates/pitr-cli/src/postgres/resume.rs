//! Where a stream goes on: pure, from the server's history and the archive's catalog.

use std::collections::VecDeque;

use pitr_core::{Catalog, GapCause, LineageId, Span, Timestamp};
use pitr_postgres::engine::facts;
use pitr_postgres::history::{self, TimelineHistory};
use pitr_postgres::limits::SLICE;
use pitr_postgres::push::Seam;
use pitr_postgres::{Error, Lsn, PgPosition, SegmentSize, TimelineId};

/// One timeline on the way to the one that the server is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Its number.
    pub timeline: TimelineId,
    /// Its name in the archive.
    pub lineage: LineageId,
    /// Where it left the one before; 0 for the first.
    pub begins: Lsn,
    /// Its history file; none for the first.
    pub history: Option<Vec<u8>>,
}

/// The timelines from the first to `timeline`, whose history file is `history`.
pub fn hops(
    system_id: u64,
    timeline: TimelineId,
    history: Option<&[u8]>,
    digest: impl Fn(&[u8]) -> [u8; 32],
) -> Result<Vec<Hop>, Error> {
    let mut hops = Vec::new();
    let mut next = Some((timeline, history.map(<[u8]>::to_vec)));
    while let Some((timeline, file)) = next.take() {
        let lineage = history::lineage_id(system_id, timeline, file.as_deref(), &digest)?;
        let mut begins = Lsn(0);
        if let Some(file) = file.as_deref().filter(|_| timeline > TimelineId::FIRST) {
            let parsed = TimelineHistory::parse(timeline, file)?;
            let (parent, at) = parsed.parent();
            begins = at;
            next = Some((parent, parsed.parent_file().map(<[u8]>::to_vec)));
        }
        hops.push(Hop { timeline, lineage, begins, history: file.filter(|_| timeline > TimelineId::FIRST) });
    }
    hops.reverse();
    Ok(hops)
}

/// The hop to stream, by index, and from where: the begin of the first archived segment that is missing after the newest
/// base, or, without a base, after the first log. `flushed` is how far the server is; there a stream of a server that the
/// archive knows nothing of begins. `None` only if there are no hops.
pub fn next(hops: &[Hop], catalog: &Catalog<PgPosition>, size: SegmentSize, flushed: Lsn) -> Option<(usize, Lsn)> {
    let last = hops.len().checked_sub(1)?;
    let has_base = |hop: &Hop| catalog.bases.iter().any(|base| base.lineage == hop.lineage);
    let has_log = |hop: &Hop| {
        catalog.spans.iter().chain(&catalog.tails).any(|span| span.lineage == hop.lineage)
            || catalog.gaps.iter().any(|gap| gap.lineage == hop.lineage)
    };
    let Some(mut index) = hops.iter().rposition(has_base).or_else(|| hops.iter().rposition(has_log)) else {
        return Some((last, flushed.segment_start(size)));
    };
    loop {
        let hop = hops.get(index)?;
        let at = missing_from(catalog, &hop.lineage, size).unwrap_or_else(|| hop.begins.segment_start(size));
        match hops.get(index + 1) {
            // The child's first segment begins with a copy of what its parent had in it.
            Some(child) if at >= child.begins.segment_start(size) => index += 1,
            _ => return Some((index, at)),
        }
    }
}

/// What the log from `at` on must continue: the archived log that ends there, and the tails of the segment that begins there.
/// What an older program archived says nothing of its last record.
pub fn seams(catalog: &Catalog<PgPosition>, lineage: &LineageId, at: PgPosition) -> VecDeque<Seam> {
    let sealed = catalog.spans.iter().filter(|span| span.lineage == *lineage && span.end == at);
    let tails = catalog.tails.iter().filter(|tail| tail.lineage == *lineage && tail.start == at);
    let sealed = sealed.filter_map(|span| seam(span, None));
    sealed.chain(tails.filter_map(seam_of_tail)).collect()
}

/// What the log of a segment must be that has tails.
pub fn seam_of_tail(tail: &Span<PgPosition>) -> Option<Seam> {
    seam(tail, tail.commits.max)
}

fn seam(span: &Span<PgPosition>, latest_commit: Option<Timestamp>) -> Option<Seam> {
    let last_record = span.facts.get(facts::LAST_RECORD)?.parse().ok()?;
    Some(Seam { at: span.end.lsn, last_record, latest_commit })
}

/// The begin of the first archived segment of a lineage that is missing; `None` if it has no log, base or gap at all.
fn missing_from(catalog: &Catalog<PgPosition>, lineage: &LineageId, size: SegmentSize) -> Option<Lsn> {
    let bases = catalog.bases.iter().filter(|base| base.lineage == *lineage).map(|base| base.start.lsn);
    // What the server has removed will not come back.
    let lost = catalog.gaps.iter().filter(|gap| gap.lineage == *lineage);
    let lost = lost.filter(|gap| matches!(gap.cause, GapCause::RemovedByServer(_))).filter_map(|gap| gap.before);
    let spans = || catalog.spans.iter().filter(|span| span.lineage == *lineage);
    let floor = bases.chain(lost.map(|before| before.lsn)).max().map(|lsn| lsn.segment_start(size));
    let tail = || catalog.tails.iter().find(|tail| tail.lineage == *lineage).map(|tail| tail.start.lsn);
    let mut at = floor.or_else(|| spans().next().map(|span| span.start.lsn)).or_else(tail)?;
    for span in spans() {
        if span.start.lsn <= at && at < span.end.lsn {
            at = span.end.lsn;
        }
    }
    // An unfinished file ends anywhere.
    Some(Lsn(at.0 - at.0 % size.bytes().min(SLICE)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pitr_core::{Base, BaseId, CommitBounds, Facts, Gap, SegmentName};

    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;
    const THIRD: &[u8] = b"1\t0/4002098\tat restore point \"rp1\"\n\n3\t0/5000158\tno recovery target specified\n";

    fn hops_to_five() -> Vec<Hop> {
        hops(7, TimelineId(5), Some(THIRD), |bytes| [u8::try_from(bytes.len()).unwrap(); 32]).unwrap()
    }

    fn first() -> Vec<Hop> {
        hops(7, TimelineId::FIRST, None, |_| [0; 32]).unwrap()
    }

    fn at(hop: &Hop, segment: u64) -> PgPosition {
        PgPosition::new(hop.timeline, Lsn(segment << 24))
    }

    fn span(hop: &Hop, from: u64, to: u64) -> Span<PgPosition> {
        let name = SegmentName::new("g", format!("{from:04}")).unwrap();
        Span {
            lineage: hop.lineage.clone(),
            first: name.clone(),
            last: name,
            count: to - from,
            start: at(hop, from),
            end: at(hop, to),
            bytes: (to - from) << 24,
            commits: CommitBounds::default(),
            marks: 0,
            facts: Facts::new(),
        }
    }

    fn base(hop: &Hop, segment: u64) -> Base<PgPosition> {
        Base {
            id: BaseId::new("b").unwrap(),
            lineage: hop.lineage.clone(),
            start: PgPosition::new(hop.timeline, Lsn((segment << 24) + 40)),
            consistent: at(hop, segment + 1),
            taken: (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH),
            bytes: 0,
            stored: 0,
            facts: Facts::new(),
        }
    }

    fn goes_on(hops: &[Hop], catalog: &Catalog<PgPosition>) -> (usize, u64) {
        let (hop, lsn) = next(hops, catalog, SIZE, Lsn((9 << 24) + 500)).unwrap();
        assert_eq!(lsn.segment_offset(SIZE), 0);
        (hop, lsn.segment_number(SIZE))
    }

    #[test]
    fn a_history_names_every_timeline_on_the_way_and_skips_none_that_counts() {
        let hops = hops_to_five();
        assert_eq!(hops.iter().map(|hop| hop.timeline.0).collect::<Vec<_>>(), [1, 3, 5]);
        assert_eq!(
            hops.iter().map(|hop| hop.begins.to_string()).collect::<Vec<_>>(),
            ["0/0", "0/4002098", "0/5000158"]
        );
        assert_eq!(hops[2].history.as_deref(), Some(THIRD));
        assert!(hops[0].history.is_none());
    }

    #[test]
    fn an_unknown_server_is_streamed_from_where_it_is() {
        assert_eq!(goes_on(&hops_to_five(), &Catalog::default()), (2, 9));
    }

    #[test]
    fn a_stream_goes_on_at_the_first_segment_that_is_missing_after_the_newest_base() {
        let hops = first();
        let mut catalog = Catalog { spans: vec![span(&hops[0], 2, 4), span(&hops[0], 6, 8)], ..Catalog::default() };
        assert_eq!(goes_on(&hops, &catalog), (0, 4), "the hole can still be filled");
        catalog.bases.push(base(&hops[0], 6));
        assert_eq!(goes_on(&hops, &catalog), (0, 8), "nothing needs what is older than the base");
        catalog.bases.push(base(&hops[0], 8));
        assert_eq!(goes_on(&hops, &catalog), (0, 8), "a base whose log is not there yet");
    }

    #[test]
    fn what_the_server_has_removed_is_not_asked_for_again() {
        let hops = first();
        let gap = Gap {
            lineage: hops[0].lineage.clone(),
            after: at(&hops[0], 4),
            before: Some(at(&hops[0], 7)),
            after_time: None,
            before_time: None,
            cause: GapCause::RemovedByServer("gone".into()),
        };
        let catalog = Catalog { spans: vec![span(&hops[0], 2, 4)], gaps: vec![gap], ..Catalog::default() };
        assert_eq!(goes_on(&hops, &catalog), (0, 7));
    }

    #[test]
    fn a_parent_is_left_once_its_child_repeats_the_rest_of_it() {
        let hops = hops_to_five();
        let parent = |to| Catalog { spans: vec![span(&hops[0], 2, to)], ..Catalog::default() };
        assert_eq!(goes_on(&hops, &parent(3)), (0, 3), "segment 3 is on the first timeline alone");
        assert_eq!(goes_on(&hops, &parent(4)), (1, 4), "segment 4 begins with a copy of it");
        let mut both = parent(4);
        both.spans.push(span(&hops[1], 4, 5));
        assert_eq!(goes_on(&hops, &both), (2, 5));
        // The old server wrote on after the fork: that is no part of this history.
        assert_eq!(goes_on(&hops, &parent(9)), (1, 4));
    }

    #[test]
    fn an_unfinished_file_of_the_server_does_not_move_the_begin_of_a_segment() {
        let hops = first();
        let mut partial = span(&hops[0], 4, 5);
        partial.end.lsn = Lsn((4 << 24) + 4711);
        let catalog = Catalog { spans: vec![span(&hops[0], 2, 4), partial], ..Catalog::default() };
        assert_eq!(goes_on(&hops, &catalog), (0, 4));
    }
}
