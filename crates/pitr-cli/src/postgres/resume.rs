//! Where a stream goes on: pure, from the server's history and the archive's catalog.

use pitr_core::{Catalog, GapCause, LineageId};
use pitr_postgres::history::{self, TimelineHistory};
use pitr_postgres::limits::SLICE;
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
pub fn next(
    hops: &[Hop],
    catalog: &Catalog<PgPosition>,
    size: SegmentSize,
    flushed: Lsn,
) -> Option<(usize, Lsn)> {
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
