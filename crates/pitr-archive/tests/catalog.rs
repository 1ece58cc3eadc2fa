//! The catalog says what the listing says, with roll-ups and without, and never hides a hole.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use object_store::memory::InMemory;
use pitr_archive::{Access, Archive, Put, SourceArchive, Store};
use pitr_core::{Catalog, Facts, Fork, GapCause, Span};
use pitr_testkit::faulty_store::{Faults, FaultyStore};
use pitr_testkit::toy::{Toy, ToyPosition};

mod segments;

use segments::{PER_GROUP, lineage, name, segment, tail_of, time};

/// Six groups of segments, but for the named ones.
async fn archive(without: &[u64]) -> SourceArchive {
    let orders = Archive::create(Store::memory(), Access::plain()).await.unwrap().source("orders").unwrap();
    let none: Option<&Fork<ToyPosition>> = None;
    orders.put_lineage(&lineage(), none, &Facts::new()).await.unwrap();
    for n in (0..6 * PER_GROUP).filter(|n| !without.contains(n)) {
        orders.put_segment(&segment(n)).await.unwrap();
    }
    orders
}

async fn delete(orders: &SourceArchive, n: u64) {
    orders.objects().store().delete(&orders.layout().segment(&lineage(), &name(n))).await.unwrap();
}

/// Offsets of every contiguous stretch.
fn stretches(catalog: &Catalog<ToyPosition>) -> Vec<(u64, u64)> {
    let mut stretches: Vec<(u64, u64)> = Vec::new();
    for span in &catalog.spans {
        match stretches.last_mut() {
            Some(last) if last.1 == span.start.offset => last.1 = span.end.offset,
            _ => stretches.push((span.start.offset, span.end.offset)),
        }
    }
    stretches
}

async fn expanded(orders: &SourceArchive, catalog: &Catalog<ToyPosition>) -> Vec<Span<ToyPosition>> {
    let mut all = Vec::new();
    for span in &catalog.spans {
        all.extend(orders.expand::<Toy>(span).await.unwrap());
    }
    all
}

/// A daemon spawns what a command line awaits in place: the compiler refuses this one if a future could not move.
#[tokio::test]
async fn a_catalog_can_be_read_on_any_thread() {
    let orders = archive(&[]).await;
    let read = tokio::spawn(async move {
        let catalog = orders.catalog::<Toy>().await?;
        orders.confirm::<Toy>(&catalog.spans).await
    });
    assert_eq!(read.await.unwrap().unwrap(), []);
}

#[tokio::test]
async fn roll_ups_change_what_is_read_and_not_what_is_known() {
    for hole in [vec![], vec![20], vec![0], vec![15, 16], vec![95], (16..32).collect()] {
        let orders = archive(&hole).await;
        let plain = orders.catalog::<Toy>().await.unwrap();
        let written = orders.roll_up_complete::<Toy>(&lineage()).await.unwrap();
        assert!(written >= 4, "{written} roll-ups");
        assert_eq!(orders.roll_up_complete::<Toy>(&lineage()).await.unwrap(), 0, "written again");
        let rolled = orders.catalog::<Toy>().await.unwrap();
        assert!(rolled.spans.len() < plain.spans.len());
        assert_eq!(stretches(&rolled), stretches(&plain), "without {hole:?}");
        assert_eq!(expanded(&orders, &rolled).await, plain.spans, "without {hole:?}");
        assert_eq!(orders.confirm::<Toy>(&rolled.spans).await.unwrap(), []);
        for span in rolled.spans.iter().filter(|span| !span.is_single()) {
            assert_eq!(span.commits.count, span.count);
            assert_eq!(
                span.commits.max.unwrap() - span.commits.min.unwrap(),
                chrono::TimeDelta::seconds(span.count as i64 - 1)
            );
        }
    }
}

#[tokio::test]
async fn a_catalog_reads_a_roll_up_instead_of_its_segments() {
    let inner = Arc::new(InMemory::new());
    let counting = Arc::new(FaultyStore::new(inner, Faults::Random { rate: -1.0, seed: 0 }));
    let archive = Archive::create(Store::from_object_store(counting.clone()), Access::plain()).await.unwrap();
    let orders = archive.source("orders").unwrap();
    let none: Option<&Fork<ToyPosition>> = None;
    orders.put_lineage(&lineage(), none, &Facts::new()).await.unwrap();
    for n in 0..40 * PER_GROUP {
        orders.put_segment(&segment(n)).await.unwrap();
    }
    orders.roll_up_complete::<Toy>(&lineage()).await.unwrap();
    let before = counting.calls();
    orders.catalog::<Toy>().await.unwrap();
    let calls = counting.calls() - before;
    // One for each old group, one for each segment of the newest group, and a few listings.
    assert!(calls < 40 + PER_GROUP + 20, "{calls} calls for {} segments", 40 * PER_GROUP);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_that_arrives_while_a_catalog_is_read_is_no_hole() {
    let orders = archive(&[]).await;
    let writer = tokio::spawn({
        let orders = orders.clone();
        async move {
            for n in 6 * PER_GROUP..40 * PER_GROUP {
                orders.put_tail(&tail_of(&segment(n), 0, "a", 1)).await.unwrap();
                orders.put_segment(&segment(n)).await.unwrap();
            }
        }
    });
    let mut readings = 0;
    while !writer.is_finished() {
        let catalog = orders.catalog::<Toy>().await.unwrap();
        let mut log: Vec<&Span<ToyPosition>> = catalog.spans.iter().chain(&catalog.tails).collect();
        log.sort_by(|a, b| a.first.cmp(&b.first));
        let holes = log.windows(2).filter(|pair| !pair[0].continued_by(pair[1])).count();
        assert_eq!(holes, 0, "reading {readings}: {:?}", &log[log.len() - 3..]);
        readings += 1;
    }
    writer.await.unwrap();
    assert!(readings > 2, "{readings} readings");
}

#[tokio::test]
async fn a_deleted_segment_becomes_a_gap_or_is_found_by_the_plan() {
    let orders = archive(&[]).await;
    orders.roll_up_complete::<Toy>(&lineage()).await.unwrap();
    // In one of the newest groups: the catalog sees it by itself.
    for n in [70, 71] {
        delete(&orders, n).await;
    }
    let catalog = orders.catalog::<Toy>().await.unwrap();
    assert_eq!(stretches(&catalog), [(0, 700), (720, 960)]);
    let [gap] = catalog.gaps.as_slice() else { panic!("{:?}", catalog.gaps) };
    assert_eq!(gap.cause, GapCause::Disappeared);
    assert_eq!((gap.after.offset, gap.before.map(|at| at.offset)), (700, Some(720)));
    assert_eq!((gap.after_time, gap.before_time), (Some(time(69)), Some(time(72))));

    // In an old one: the roll-up hides it, until the plan compares its chain with a listing.
    delete(&orders, 5).await;
    let catalog = orders.catalog::<Toy>().await.unwrap();
    assert_eq!(catalog.gaps.len(), 1);
    let missing = orders.confirm::<Toy>(&catalog.spans).await.unwrap();
    assert_eq!(missing, [(lineage(), name(5))]);
}

#[tokio::test]
async fn a_deleted_group_is_a_gap() {
    let orders = archive(&[]).await;
    orders.roll_up_complete::<Toy>(&lineage()).await.unwrap();
    for n in PER_GROUP..2 * PER_GROUP {
        delete(&orders, n).await;
    }
    let catalog = orders.catalog::<Toy>().await.unwrap();
    assert_eq!(stretches(&catalog), [(0, 160), (320, 960)]);
    let gap = &catalog.gaps[0];
    assert_eq!((gap.after.offset, gap.before.map(|at| at.offset)), (160, Some(320)));
}

#[tokio::test]
async fn a_segment_that_came_late_is_found_and_a_new_generation_says_so() {
    let orders = archive(&[70]).await;
    orders.roll_up_complete::<Toy>(&lineage()).await.unwrap();
    orders.put_segment(&segment(70)).await.unwrap();
    let catalog = orders.catalog::<Toy>().await.unwrap();
    assert_eq!(stretches(&catalog), [(0, 960)]);
    assert_eq!(catalog.gaps, []);

    let group = name(70).group().to_owned();
    assert!(matches!(orders.roll_up::<Toy>(&lineage(), &group).await.unwrap(), Some(Put::Stored { .. })));
    assert_eq!(orders.roll_up::<Toy>(&lineage(), &group).await.unwrap(), Some(Put::Identical));
    assert_eq!(stretches(&orders.catalog::<Toy>().await.unwrap()), [(0, 960)]);
    let key = orders.layout().rollup(&lineage(), &group, 1);
    assert!(orders.objects().header(&key).await.unwrap().is_some(), "no second generation");
}

#[tokio::test]
async fn a_damaged_roll_up_is_as_good_as_none() {
    let inner = Arc::new(InMemory::new());
    let archive = Archive::create(Store::from_object_store(inner.clone()), Access::plain()).await.unwrap();
    let orders = archive.source("orders").unwrap();
    let none: Option<&Fork<ToyPosition>> = None;
    orders.put_lineage(&lineage(), none, &Facts::new()).await.unwrap();
    for n in 0..6 * PER_GROUP {
        orders.put_segment(&segment(n)).await.unwrap();
    }
    let plain = orders.catalog::<Toy>().await.unwrap();
    orders.roll_up_complete::<Toy>(&lineage()).await.unwrap();
    for (group, damage) in [(0, "junk"), (1, ""), (4, "junk")] {
        let key = orders.layout().rollup(&lineage(), name(group * PER_GROUP).group(), 0);
        let path = object_store::path::Path::from(key);
        object_store::ObjectStoreExt::put(inner.as_ref(), &path, damage.into()).await.unwrap();
    }
    let catalog = orders.catalog::<Toy>().await.unwrap();
    assert_eq!(stretches(&catalog), stretches(&plain));
    assert_eq!(expanded(&orders, &catalog).await, plain.spans);
}

#[tokio::test]
async fn a_tail_is_shown_until_a_segment_covers_it() {
    let orders = archive(&[]).await;
    let end = 6 * PER_GROUP;
    let sealed = segment(end);
    let tail = tail_of(&sealed, 0, "part", 4);
    orders.put_tail(&tail).await.unwrap();
    let tails = orders.catalog::<Toy>().await.unwrap().tails;
    assert_eq!(tails.len(), 1);
    assert_eq!(orders.confirm::<Toy>(&tails).await.unwrap(), []);
    let mut longer = tails.clone();
    longer[0].end.offset += 1;
    assert_eq!(orders.confirm::<Toy>(&longer).await.unwrap(), [(lineage(), sealed.name.clone())]);
    orders.put_segment(&sealed).await.unwrap();
    assert_eq!(orders.catalog::<Toy>().await.unwrap().tails, []);
}
