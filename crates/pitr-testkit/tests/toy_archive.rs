//! Archive, planner and an engine end to end, with the toy engine: through a store that fails at each call, and
//! through a crash at each call. Whatever is restored equals the truth at the planned cut.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures::FutureExt;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use pitr_archive::base::{BaseOptions, BaseWriter};
use pitr_archive::store::Store;
use pitr_archive::{Access, Archive, Retry, SourceArchive};
use pitr_core::ports::{BaseBackup, Cut, LogStream, Restorer};
use pitr_core::{Bound, Classify, ErrorKind, Facts, PortError, Target};
use pitr_plan::{Answer, Need, Plan, Planned, Request, drive_async};
use pitr_testkit::catalogs::second;
use pitr_testkit::faulty_store::{Faults, FaultyStore, Moment};
use pitr_testkit::toy::{
    Kind, Record, Server, Shared, Toy, ToyBackup, ToyError, ToyPosition, ToyRestorer, ToyStream, scan,
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Gives up soon: the store of these tests does not recover by waiting.
const IMPATIENT: Retry = Retry {
    first_pause: Duration::from_millis(1),
    max_pause: Duration::from_millis(1),
    deadline: Duration::from_millis(4),
};

/// Repeats a call at once.
const PATIENT: Retry = Retry {
    first_pause: Duration::from_millis(1),
    max_pause: Duration::from_millis(1),
    deadline: Duration::from_secs(30),
};

/// Clients bring a branch to this many records; what they write depends on nothing but its number.
fn write_up_to(server: &mut Server, branch: u32, records: usize) {
    loop {
        let number = server.branch(branch).map_or(records, |branch| branch.records.len());
        if number >= records {
            return;
        }
        let seed = u64::from(branch) * 1_000 + number as u64;
        let kind = match seed % 7 {
            3 => Kind::Abort(1),
            5 => Kind::Clock,
            _ => Kind::Commit(1 << (seed % 50)),
        };
        let time = second((seed * 3 - seed % 4 * 2) as i64);
        server.append(branch, Record { kind, transaction: seed as u32, time });
    }
}

async fn open(store: Arc<dyn ObjectStore>, retry: Retry) -> Outcome<SourceArchive> {
    let store = Store::from_object_store(store).with_retry(retry);
    // Whether an archive is there is an authoritative answer; a fault is neither yes nor no.
    let archive = match store.has_archive().await? {
        true => Archive::open(store, Access::plain()).await?,
        false => Archive::create(store, Access::plain()).await?,
    };
    Ok(archive.source("toy")?)
}

/// Archives all full segments of a branch, as its stream yields them.
async fn archive(server: &Shared, branch: u32, into: &SourceArchive) -> Outcome<()> {
    let (lineage, origin) = server.read(|server| {
        let branch = server.branch(branch).unwrap();
        (server.lineage(branch), branch.origin)
    });
    into.put_lineage(&lineage.id, lineage.fork.as_ref(), &Facts::new()).await?;
    let mut start = ToyPosition::new(branch, origin);
    let mut stream = ToyStream::new(server.clone(), start)?;
    let mut bytes = Vec::new();
    // A stream that has nothing to say waits: what is not sealed by then stays for the next run.
    while let Some(chunk) = stream.next().now_or_never() {
        let Some(chunk) = chunk? else { break };
        bytes.extend_from_slice(&chunk.bytes);
        if chunk.cut == Cut::Must {
            let end = stream.cut()?.end;
            let segment = server.read(|server| server.cut(branch, start.offset, end.offset))?;
            assert_eq!(segment.bytes, bytes, "the stream's bytes are the segment's");
            into.put_segment(&segment).await?;
            start = end;
            bytes.clear();
        }
    }
    Ok(())
}

/// A day in the life: log, a base during writes, more log, a fork, more log. Safe to repeat at any point.
async fn work(server: &Shared, store: Arc<dyn ObjectStore>, retry: Retry) -> Outcome<SourceArchive> {
    let source = open(store, retry).await?;
    server.write(|server| write_up_to(server, 1, 20));
    archive(server, 1, &source).await?;
    if source.catalog::<Toy>().await?.bases.is_empty() {
        let ballast = (0..40_000_u32).map(|n| (n / 7) as u8).collect();
        let more = |server: &Shared| server.write(|server| write_up_to(server, 1, 24));
        let writer = BaseWriter::begin(source.objects(), "toy", &BaseOptions::default()).await?;
        let record = ToyBackup::new(server.clone(), 1, ballast, more).take(&writer).await?;
        writer.commit(record).await?;
    }
    server.write(|server| write_up_to(server, 1, 45));
    archive(server, 1, &source).await?;
    server.write(|server| {
        if server.branches.len() == 1 {
            let at = server.branch(1).unwrap().records[38].end;
            server.fork(1, at).unwrap();
        }
        write_up_to(server, 2, 20);
    });
    archive(server, 2, &source).await?;
    Ok(source)
}

async fn plan(source: &SourceArchive, target: Target, bound: Bound) -> Outcome<Planned<ToyPosition>> {
    let catalog = source.catalog::<Toy>().await?;
    let read = async |need: Need<ToyPosition>| -> Outcome<Answer<ToyPosition>> {
        match need {
            Need::Expand(span) => Ok(Answer::Segments(source.expand::<Toy>(&span).await?)),
            Need::Scan { segment, then } => {
                let mut bytes = Vec::new();
                for span in [&segment].into_iter().chain(&then) {
                    for single in source.expand::<Toy>(span).await? {
                        bytes.push(source.segment(&single.lineage, &single.first).await?.expect("listed"));
                    }
                }
                let mut bytes = bytes.into_iter();
                let own = bytes.next().expect("the segment itself");
                Ok(Answer::Scan(scan(&own, segment.start, bytes.map(Ok::<_, ToyError>))?))
            }
        }
    };
    drive_async::<Toy, _>(&catalog, &Request::new(target, bound), read).await
}

/// Restores a plan and compares the counter with the truth at its cut.
async fn restores_exactly(server: &Shared, source: &SourceArchive, plan: &Plan<ToyPosition>) -> Outcome<()> {
    let mut recovery = plan.recovery();
    let mut singles = Vec::new();
    for span in &recovery.log {
        singles.extend(source.expand::<Toy>(span).await?);
    }
    recovery.log = singles;
    let restorer = ToyRestorer::default();
    let value = restorer.value();
    let reached = restorer.restore(&recovery, source).await?;
    assert_eq!(reached, Some(recovery.cut), "{plan:?}");
    let value = value.lock().unwrap().expect("the restore is done");
    assert_eq!(value, server.read(|server| server.value(plan.end.cut)), "{plan:?}");
    Ok(())
}

fn fresh() -> (Shared, Arc<dyn ObjectStore>) {
    (Shared::new(Server::new(64)), Arc::new(InMemory::new()))
}

/// Calls of one undisturbed run, and a check that it does what it should.
async fn undisturbed() -> Outcome<u64> {
    let (server, inner) = fresh();
    let counting = Arc::new(FaultyStore::new(inner.clone(), Faults::Random { rate: -1.0, seed: 0 }));
    work(&server, counting.clone(), IMPATIENT).await?;
    check_everything(&server, inner).await?;
    Ok(counting.calls())
}

/// Every kind of target around every record restores exactly, or is refused because of the base or the end.
async fn check_everything(server: &Shared, store: Arc<dyn ObjectStore>) -> Outcome<()> {
    let source = open(store, IMPATIENT).await?;
    let latest = plan(&source, Target::Latest, Bound::To).await?.expect("latest can be restored");
    assert_eq!(latest.end.cut.branch, 2);
    restores_exactly(server, &source, &latest).await?;
    let mut restored = 0;
    for record in server.read(|server| server.records(2)) {
        for (target, bound) in [
            (Target::Time(record.record.time), Bound::To),
            (Target::Time(record.record.time - TimeDelta::microseconds(1)), Bound::Before),
            (Target::Coordinate { scheme: "at".to_owned(), value: record.begin.to_string() }, Bound::To),
            (
                Target::Coordinate { scheme: "tx".to_owned(), value: record.record.transaction.to_string() },
                Bound::Before,
            ),
        ] {
            match plan(&source, target, bound).await? {
                Ok(plan) => {
                    restores_exactly(server, &source, &plan).await?;
                    restored += 1;
                }
                Err(refusal) => {
                    let code = refusal.reason.code();
                    assert!(["before_base", "after_end", "unknown_transaction"].contains(&code), "{refusal:?}");
                }
            }
        }
    }
    assert!(restored > 60, "only {restored} targets could be restored");
    Ok(())
}

/// What a crash left behind: nothing to restore yet, or something that is exactly true.
async fn is_true_so_far(server: &Shared, store: Arc<dyn ObjectStore>) -> Outcome<bool> {
    if !Store::from_object_store(store.clone()).has_archive().await? {
        return Ok(false);
    }
    let source = open(store, IMPATIENT).await?;
    match plan(&source, Target::Latest, Bound::To).await? {
        Ok(plan) => restores_exactly(server, &source, &plan).await.map(|()| true),
        Err(refusal) => {
            assert!(["no_lineage", "no_base", "no_log"].contains(&refusal.reason.code()), "{refusal:?}");
            Ok(false)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_target_of_an_undisturbed_archive_restores_exactly() {
    assert!(undisturbed().await.unwrap() > 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_each_call_leaves_nothing_untrue_and_the_next_run_completes() {
    let calls = undisturbed().await.unwrap();
    let mut restorable = 0;
    for moment in [Moment::BeforeEffect, Moment::AfterEffect] {
        for call in 1..=calls {
            let (server, inner) = fresh();
            let gone = Arc::new(FaultyStore::new(inner.clone(), Faults::From(call, moment)));
            if let Err(error) = work(&server, gone, IMPATIENT).await {
                assert_eq!(kind_of(&*error), Some(ErrorKind::Unreachable), "call {call} {moment:?}: {error}");
            }
            let at = format!("call {call} {moment:?}");
            restorable += u64::from(is_true_so_far(&server, inner.clone()).await.expect(&at));
            work(&server, inner.clone(), IMPATIENT).await.expect(&at);
            assert!(is_true_so_far(&server, inner).await.expect(&at), "{at}");
        }
    }
    assert!(restorable > calls / 4, "only {restorable} of {} crashes left something to restore", 2 * calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passing_fault_at_each_call_is_not_even_noticed() {
    let calls = undisturbed().await.unwrap();
    for moment in [Moment::BeforeEffect, Moment::AfterEffect] {
        for call in 1..=calls {
            let (server, inner) = fresh();
            let shaky = Arc::new(FaultyStore::new(inner.clone(), Faults::Once(call, moment)));
            let at = format!("call {call} {moment:?}");
            work(&server, shaky, PATIENT).await.expect(&at);
            assert!(is_true_so_far(&server, inner).await.expect(&at), "{at}");
        }
    }
}

/// The kind of an error that came through any of the crates.
fn kind_of(error: &(dyn Error + Send + Sync + 'static)) -> Option<ErrorKind> {
    let archive = error.downcast_ref::<pitr_archive::Error>().map(Classify::kind);
    archive.or_else(|| error.downcast_ref::<PortError>().map(Classify::kind))
}
