//! Windows and gaps: what a catalog says by itself.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use pitr_core::{Base, BaseId, Bound, Catalog, CommitBounds, Facts, Gap, GapCause, SegmentName, Span, Target};
use pitr_plan::{Answer, Known, Need, Outcome, Request, gaps, plan, windows};
use pitr_testkit::catalogs::{Case, second};
use pitr_testkit::toy::{Server, Toy, ToyPosition, lineage_id};

fn at(offset: u64) -> ToyPosition {
    ToyPosition::new(1, offset)
}

/// `count` segments of 100 bytes, a commit a second.
fn span(start: u64, count: u64) -> Span<ToyPosition> {
    let name = |offset: u64| SegmentName::new("g", format!("{offset:012x}")).unwrap();
    let end = start + count * 100;
    let time = |offset: u64| second((offset / 100) as i64);
    Span {
        lineage: lineage_id(1),
        first: name(start),
        last: name(end - 100),
        count,
        start: at(start),
        end: at(end),
        bytes: count * 100,
        commits: CommitBounds {
            count,
            min: Some(time(start)),
            max: Some(time(end - 100)),
            open: false,
            reaches: Some(time(end - 100)),
        },
        marks: 0,
        facts: Facts::new(),
    }
}

fn base(name: &str, start: u64, consistent: u64) -> Base<ToyPosition> {
    Base {
        id: BaseId::new(name).unwrap(),
        lineage: lineage_id(1),
        start: at(start),
        consistent: at(consistent),
        taken: (second(0), second(1)),
        bytes: 1,
        stored: 1,
        facts: Facts::new(),
    }
}

fn catalog(spans: Vec<Span<ToyPosition>>, bases: Vec<Base<ToyPosition>>) -> Catalog<ToyPosition> {
    let server = Server::new(100);
    let lineages = vec![server.lineage(server.branch(1).unwrap())];
    Catalog { lineages, spans, bases, ..Catalog::default() }
}

#[test]
fn each_unbroken_stretch_with_a_base_is_a_window() {
    let spans = vec![span(0, 3), span(300, 2), span(700, 4), span(1_200, 1)];
    let bases =
        vec![base("late", 850, 900), base("early", 20, 50), base("second", 310, 320), base("unfinished", 1_250, 1_400)];
    let catalog = catalog(spans, bases);
    let windows = windows::<Toy>(&catalog);
    let edges: Vec<_> =
        windows.iter().map(|w| (w.start.offset, w.end.offset, w.base.as_str(), w.newest_base.as_str())).collect();
    assert_eq!(edges, [(50, 500, "early", "second"), (900, 1_100, "late", "late")]);
    assert_eq!(windows[0].end_time, Some(second(4)));
    assert!(windows.iter().all(|window| !window.newest), "the newest log has no base that is consistent in it");
}

#[test]
fn gaps_have_edges_times_and_the_cause_that_was_recorded() {
    let mut catalog = catalog(vec![span(0, 3), span(500, 2), span(900, 1)], Vec::new());
    let recorded = |after: u64, before: Option<u64>, cause| Gap {
        lineage: lineage_id(1),
        after: at(after),
        before: before.map(at),
        after_time: None,
        before_time: None,
        cause,
    };
    catalog.gaps = vec![
        recorded(350, Some(400), GapCause::RemovedByServer("wal_keep_size".to_owned())),
        // Filled since.
        recorded(520, Some(600), GapCause::RemovedByServer("x".to_owned())),
        // Nothing archived behind it yet.
        recorded(1_000, None, GapCause::RemovedByServer("y".to_owned())),
    ];
    let gaps = gaps::<Toy>(&catalog);
    let edges: Vec<_> = gaps.iter().map(|gap| (gap.after.offset, gap.before.map(|before| before.offset))).collect();
    assert_eq!(edges, [(300, Some(500)), (700, Some(900)), (1_000, None)]);
    assert_eq!(gaps[0].cause, GapCause::RemovedByServer("wal_keep_size".to_owned()));
    assert_eq!((gaps[0].after_time, gaps[0].before_time), (Some(second(2)), Some(second(5))));
    assert_eq!(gaps[1].cause, GapCause::NeverArchived);
}

#[test]
fn a_damaged_segment_is_a_gap_although_it_is_listed() {
    let mut catalog = catalog(vec![span(0, 1), span(100, 1), span(200, 1)], vec![base("b", 10, 20)]);
    catalog.gaps = vec![Gap {
        lineage: lineage_id(1),
        after: at(100),
        before: Some(at(200)),
        after_time: None,
        before_time: None,
        cause: GapCause::Damaged("digest".to_owned()),
    }];
    assert_eq!(gaps::<Toy>(&catalog).len(), 1);
    let windows = windows::<Toy>(&catalog);
    assert_eq!(windows.iter().map(|w| (w.start.offset, w.end.offset)).collect::<Vec<_>>(), [(20, 100)]);
}

#[test]
fn a_million_segments_are_no_trouble() {
    let spans = (0..1_000_000 / 256).map(|group| span(group * 25_600, 256)).collect();
    let bases = (0..100).map(|n| base(&format!("b{n}"), n * 900_000, n * 900_000 + 50)).collect();
    let catalog = catalog(spans, bases);
    let begin = Instant::now();
    assert_eq!(windows::<Toy>(&catalog).len(), 1);
    assert!(gaps::<Toy>(&catalog).is_empty());
    // One roll-up is opened, and then one segment is asked for: that is where the target lies.
    let request = Request::new(Target::Time(second(500_000)), Bound::To);
    let mut known = Known::default();
    let Outcome::Need(need) = plan::<Toy>(&catalog, &request, &known) else { panic!("nothing was asked for") };
    let Need::Expand(rolled) = &need else { panic!("{need:?}") };
    let singles = (0..rolled.count).map(|n| span(rolled.start.offset + n * 100, 1)).collect();
    assert!(known.add(&need, Answer::Segments(singles)));
    let Outcome::Need(Need::Scan { segment, .. }) = plan::<Toy>(&catalog, &request, &known) else { panic!("no scan") };
    assert_eq!(segment.start, at(50_000_100));
    assert!(begin.elapsed() < Duration::from_secs(2), "took {:?}", begin.elapsed());
}

#[test]
fn windows_and_gaps_of_random_catalogs_never_overlap() {
    for seed in 1..2_000 {
        let case = Case::random(seed).unwrap();
        let holes = gaps::<Toy>(&case.catalog);
        for window in windows::<Toy>(&case.catalog) {
            assert!(window.start.offset <= window.end.offset, "seed {seed}: {window:?}");
            let inside = |gap: &&Gap<ToyPosition>| {
                gap.after >= window.start && gap.before.is_some_and(|before| before <= window.end)
            };
            assert_eq!(holes.iter().find(inside), None, "seed {seed}: {window:?}");
        }
    }
}
