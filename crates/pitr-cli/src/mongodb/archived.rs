//! What the archive has of a history's log, and where a stream goes on. Pure: from the catalog alone.

use pitr_core::{Catalog, GapCause, LineageId, Span, Timestamp};
use pitr_mongodb::MongoPosition;
use pitr_mongodb::position::OpTime;
use pitr_mongodb::stream::Begin;

/// The log of one history up to its first hole that is not a recorded gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// Where the first segment begins that is not sealed. What is there of it as tails is read again.
    pub begin: Begin,
    /// End of the log, that of the open segment included; `None` if there is none behind the last gap.
    pub end: Option<MongoPosition>,
    /// The latest moment that this log proves.
    pub reaches: Option<Timestamp>,
    /// Where segments begin, in order.
    starts: Vec<MongoPosition>,
}

impl Archived {
    /// The last entry that is known of this history.
    pub fn last_entry(&self) -> Option<OpTime> {
        self.end.and_then(MongoPosition::last_entry)
    }

    /// Where the log goes on behind the hole that a stream is going to fill, if it does: a writer that was killed may
    /// have stored a segment, and not the one before it.
    pub fn until(&self, begin: Begin) -> Option<MongoPosition> {
        let from = match begin {
            Begin::After(cut) => cut,
            Begin::With(entry) => entry.before(),
            Begin::Newest => return None,
        };
        self.starts.iter().copied().find(|start| from < *start)
    }
}

/// Looks at one history.
pub fn archived(catalog: &Catalog<MongoPosition>, lineage: &LineageId) -> Archived {
    let sealed = in_order(catalog.spans.iter().filter(|span| span.lineage == *lineage));
    let tails = in_order(catalog.tails.iter().filter(|span| span.lineage == *lineage));
    let removed = catalog.gaps.iter().filter(|gap| gap.lineage == *lineage && is_removal(&gap.cause));
    let behind_gap = removed.filter_map(|gap| gap.before).max_by_key(|before| before.stamp);
    let fork = catalog.lineage(lineage).and_then(|lineage| lineage.fork.as_ref()).map(|fork| fork.child_at);
    let bases = catalog.bases.iter().filter(|base| base.lineage == *lineage).map(|base| base.start);
    let newest_base = bases.max_by_key(|start| start.stamp);

    let first = |spans: &[&Span<MongoPosition>]| spans.first().map(|span| span.start);
    let (start, begin) = if let Some(before) = behind_gap {
        (before, with(before))
    } else if let Some(fork) = fork {
        (fork, Begin::After(fork))
    } else if let Some(start) =
        [first(&sealed), first(&tails), newest_base].into_iter().flatten().min_by_key(|s| s.stamp)
    {
        // A base that was begun before the first stream needs what lies between.
        (start, with(start))
    } else {
        return Archived { begin: Begin::Newest, end: None, reaches: None, starts: Vec::new() };
    };

    let whole = Reach::new(start).over(&sealed);
    let all = whole.over(&in_order(sealed.iter().chain(&tails).copied()));
    Archived {
        begin: if whole.end == start { begin } else { Begin::After(whole.end) },
        end: (all.end != start).then_some(all.end),
        reaches: all.time,
        starts: in_order(sealed.iter().chain(&tails).copied()).iter().map(|span| span.start).collect(),
    }
}

fn in_order<'a>(spans: impl Iterator<Item = &'a Span<MongoPosition>>) -> Vec<&'a Span<MongoPosition>> {
    let mut spans: Vec<_> = spans.collect();
    spans.sort_by_key(|span| span.start.stamp);
    spans
}

fn is_removal(cause: &GapCause) -> bool {
    matches!(cause, GapCause::RemovedByServer(_))
}

/// With the entry that stands right behind a cut.
fn with(cut: MongoPosition) -> Begin {
    Begin::With(OpTime { term: cut.term.unwrap_or(-1), stamp: cut.stamp })
}

/// How far log goes without a hole.
#[derive(Debug, Clone, Copy)]
struct Reach {
    end: MongoPosition,
    time: Option<Timestamp>,
}

impl Reach {
    fn new(start: MongoPosition) -> Self {
        Self { end: start, time: None }
    }

    /// Goes on over spans, which are in order.
    fn over(mut self, spans: &[&Span<MongoPosition>]) -> Self {
        for span in spans.iter().filter(|span| span.start.stamp <= span.end.stamp) {
            if span.start <= self.end && self.end < span.end {
                self.end = span.end;
                self.time = self.time.max(span.commits.reaches);
            }
        }
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pitr_core::{CommitBounds, Facts, Fork, Gap, Lineage, SegmentName};

    use super::*;

    fn at(increment: u32) -> MongoPosition {
        format!("1:100.{increment}").parse().unwrap()
    }

    fn id() -> LineageId {
        LineageId::new("set").unwrap()
    }

    fn span(start: u32, end: u32) -> Span<MongoPosition> {
        let name = SegmentName::new("0", format!("{start:04}")).unwrap();
        Span {
            lineage: id(),
            first: name.clone(),
            last: name,
            count: 1,
            start: at(start),
            end: at(end),
            bytes: 1,
            commits: CommitBounds::default(),
            marks: 0,
            facts: Facts::new(),
        }
    }

    fn look(sealed: &[(u32, u32)], tails: &[(u32, u32)], gap: Option<(u32, u32)>) -> Archived {
        let spans = |of: &[(u32, u32)]| of.iter().map(|(start, end)| span(*start, *end)).collect();
        let gap = gap.map(|(after, before)| Gap {
            lineage: id(),
            after: at(after),
            before: Some(at(before)),
            after_time: None,
            before_time: None,
            cause: GapCause::RemovedByServer(String::new()),
        });
        let gaps = gap.into_iter().collect();
        archived(&Catalog { spans: spans(sealed), tails: spans(tails), gaps, ..Catalog::default() }, &id())
    }

    #[test]
    fn a_stream_goes_on_after_what_is_sealed_and_reads_the_open_segment_again() {
        let found = look(&[(1, 5), (5, 9)], &[(9, 12)], None);
        assert_eq!((found.begin, found.end), (Begin::After(at(9)), Some(at(12))));
        assert_eq!(found.until(found.begin), None);
        let found = look(&[], &[(3, 12)], None);
        assert_eq!((found.begin, found.end), (with(at(3)), Some(at(12))));
        assert_eq!(look(&[], &[], None).begin, Begin::Newest);
    }

    #[test]
    fn a_hole_between_stored_segments_is_filled_up_to_where_the_log_goes_on() {
        let found = look(&[(1, 5), (9, 14)], &[(5, 7), (14, 15)], None);
        assert_eq!((found.begin, found.end), (Begin::After(at(5)), Some(at(7))));
        assert_eq!(found.until(found.begin), Some(at(9)));
    }

    #[test]
    fn a_base_that_was_begun_before_the_first_stream_gets_its_log() {
        let base = pitr_core::Base {
            id: pitr_core::BaseId::new("b").unwrap(),
            lineage: id(),
            start: at(2),
            consistent: at(6),
            taken: (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH),
            bytes: 1,
            stored: 1,
            facts: Facts::new(),
        };
        let catalog = Catalog { tails: vec![span(5, 9)], bases: vec![base], ..Catalog::default() };
        let found = archived(&catalog, &id());
        assert_eq!((found.begin, found.end, found.until(found.begin)), (with(at(2)), None, Some(at(5))));
    }

    #[test]
    fn behind_a_gap_the_log_begins_anew() {
        let found = look(&[(1, 5)], &[(5, 7)], Some((7, 20)));
        assert_eq!((found.begin, found.end), (with(at(20)), None));
        let found = look(&[(1, 5), (20, 25)], &[(5, 7), (25, 30)], Some((7, 20)));
        assert_eq!((found.begin, found.end), (Begin::After(at(25)), Some(at(30))));
    }

    #[test]
    fn an_open_segment_that_was_never_sealed_is_followed_by_the_next() {
        let found = look(&[(7, 9)], &[(3, 7)], None);
        assert_eq!((found.begin, found.end), (with(at(3)), Some(at(9))));
        // Where the source still has it; and where it has only what follows.
        assert_eq!(found.until(found.begin), Some(at(7)));
        assert_eq!(found.until(Begin::After(at(9))), None);
        assert_eq!(look(&[(1, 3), (7, 9)], &[(3, 7)], None).begin, Begin::After(at(3)));
    }

    #[test]
    fn a_fork_begins_where_it_left() {
        let fork = Fork { parent: LineageId::new("old").unwrap(), parent_at: at(4), child_at: at(4) };
        let lineage = Lineage { id: id(), ordinal: 1, fork: Some(fork), facts: Facts::new() };
        let catalog = Catalog { lineages: vec![lineage], ..Catalog::default() };
        let found = archived(&catalog, &id());
        assert_eq!((found.begin, found.end), (Begin::After(at(4)), None));
    }
}
