//! The loop with the toy engine, behind a store that fails.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use pitr_archive::{Access, Archive, Retry, Store};
use pitr_core::ports::{LogChunk, SegmentStart, SegmentSummary};
use pitr_core::{ErrorKind, Facts, GapCause, LineageId, PortError};
use pitr_testkit::catalogs::second;
use pitr_testkit::faulty_store::{Faults, FaultyStore, Moment};
use pitr_testkit::toy::{Kind, Record, Server, Shared, Toy, ToyPosition, ToyStream, lineage_id};
use tokio::time::{sleep, timeout};

use super::*;

const SEGMENT: u64 = 64;
const PATIENCE: Duration = Duration::from_secs(60);

const QUICK: Pace =
    Pace { flush_interval: Duration::from_millis(5), segment_bytes: 1 << 20, segment_age: Duration::from_secs(60) };

/// A toy server, and faults of its connections.
struct ToyUpstream {
    server: Shared,
    branch: u32,
    /// Connections that break after so many chunks, one after the other; the last kind of fault that comes.
    faults: Vec<(usize, ErrorKind)>,
}

struct Breaking {
    inner: ToyStream,
    fault: Option<(usize, ErrorKind)>,
}

impl LogStream for Breaking {
    type Engine = Toy;

    fn lineage(&self) -> &LineageId {
        self.inner.lineage()
    }

    fn open(&self) -> &SegmentStart<ToyPosition> {
        self.inner.open()
    }

    async fn next(&mut self) -> Result<Option<LogChunk>, PortError> {
        if let Some((chunks, kind)) = &mut self.fault {
            if *chunks == 0 {
                return Err(PortError::with_kind(*kind, "on purpose"));
            }
            *chunks -= 1;
        }
        self.inner.next().await
    }

    fn so_far(&self) -> SegmentSummary<ToyPosition> {
        self.inner.so_far()
    }

    fn cut(&mut self) -> Result<SegmentSummary<ToyPosition>, PortError> {
        self.inner.cut()
    }
}

impl ToyUpstream {
    /// Where the archive ends, or behind the last gap.
    async fn end(&self, archive: &SourceArchive) -> Result<ToyPosition, Failure> {
        let lineage = lineage_id(self.branch);
        let lost = archive.gaps::<ToyPosition>().await?.into_iter().filter(|gap| gap.lineage == lineage);
        let lost = lost.filter_map(|gap| gap.before).map(|before| before.offset).max();
        let sealed = match archive.last_segment(&lineage).await? {
            Some(last) => archive.segment_span::<ToyPosition>(&lineage, &last).await?.map(|span| span.end.offset),
            None => None,
        };
        let origin = self.server.read(|server| server.branch(self.branch).unwrap().origin);
        Ok(ToyPosition::new(self.branch, lost.max(sealed).unwrap_or(origin)))
    }
}

impl Upstream for ToyUpstream {
    type Engine = Toy;
    type Stream = Breaking;

    async fn connect(&mut self, archive: &SourceArchive, _durable: Durable<ToyPosition>) -> Result<Breaking, Failure> {
        // A history that ended is followed by the one that left it.
        let next = self.server.read(|server| {
            let ended =
                |id| server.branches.iter().find(|b| b.fork.is_some_and(|(parent, _)| parent == id)).map(|b| b.id);
            ended(self.branch)
        });
        let lineage = self.server.read(|server| server.lineage(server.branch(self.branch).unwrap()));
        archive.put_lineage(&lineage.id, lineage.fork.as_ref(), &Facts::new()).await?;
        let mut at = self.end(archive).await?;
        let end = self.server.read(|server| server.branch(self.branch).unwrap().end());
        if let Some(child) = next
            && at.offset / SEGMENT == end / SEGMENT
        {
            self.branch = child;
            let lineage = self.server.read(|server| server.lineage(server.branch(child).unwrap()));
            archive.put_lineage(&lineage.id, lineage.fork.as_ref(), &Facts::new()).await?;
            at = self.end(archive).await?;
        }
        let inner = ToyStream::new(self.server.clone(), at).unwrap();
        let fault = (!self.faults.is_empty()).then(|| self.faults.remove(0));
        Ok(Breaking { inner, fault })
    }

    async fn lost(&mut self, archive: &SourceArchive, removed: &Failure) -> Result<Gap<ToyPosition>, Failure> {
        let after = self.end(archive).await?;
        Ok(Gap {
            lineage: lineage_id(self.branch),
            after,
            before: Some(ToyPosition { offset: after.offset + 2 * SEGMENT, ..after }),
            after_time: None,
            before_time: None,
            cause: GapCause::RemovedByServer(removed.message.clone()),
        })
    }
}

struct Setting {
    server: Shared,
    /// The store behind the faults.
    inner: Arc<dyn ObjectStore>,
    stop: watch::Sender<bool>,
    running: tokio::task::JoinHandle<Result<(), Failure>>,
}

/// Opens the archive, as often as the store makes it necessary.
async fn archive_in(store: Arc<dyn ObjectStore>) -> SourceArchive {
    let quick = Duration::from_millis(1);
    let retry = Retry { first_pause: quick, max_pause: quick, deadline: 3 * quick };
    loop {
        let store = Store::from_object_store(store.clone()).with_retry(retry);
        if let Ok(archive) = Archive::open(store, Access::plain()).await {
            return archive.source("toy").unwrap();
        }
    }
}

/// Streams branch 1 of a new server through a store with these faults.
async fn streaming(store_faults: Faults, faults: Vec<(usize, ErrorKind)>) -> Setting {
    let server = Shared::new(Server::new(SEGMENT));
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    Archive::create(Store::from_object_store(inner.clone()), Access::plain()).await.unwrap();
    let archive = archive_in(Arc::new(FaultyStore::new(inner.clone(), store_faults))).await;
    let upstream = ToyUpstream { server: server.clone(), branch: 1, faults };
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(supervise(upstream, archive, QUICK, Pulse::default(), stopping, false));
    Setting { server, inner, stop, running }
}

const NO_FAULTS: Faults = Faults::Once(u64::MAX, Moment::BeforeEffect);

impl Setting {
    fn write(&self, branch: u32, records: u32) {
        self.server.write(|server| {
            for number in 0..records {
                let time = second(i64::from(number));
                server.append(branch, Record { kind: Kind::Commit(1), transaction: number, time });
            }
        });
    }

    fn end(&self, branch: u32) -> u64 {
        self.server.read(|server| server.branch(branch).unwrap().end())
    }

    /// Asserts that every byte of `from..to` that the archive has is the server's; returns how far it has them.
    async fn archived(&self, branch: u32, from: u64) -> u64 {
        let archive = archive_in(self.inner.clone()).await;
        let mut at = from;
        loop {
            let end = (at + SEGMENT).min(self.end(branch));
            let expected = self.server.read(|server| server.cut(branch, at, end)).unwrap();
            let Some(found) = archive.segment(&expected.lineage, &expected.name).await.unwrap() else { return at };
            assert!(expected.bytes.starts_with(&found), "segment {} holds other bytes", expected.name);
            if found.len() < expected.bytes.len() || end < at + SEGMENT {
                return at + (found.len() as u64).saturating_sub(8);
            }
            at = end;
        }
    }

    /// Waits until everything of a branch is archived.
    async fn catches_up(&self, branch: u32) {
        let origin = self.server.read(|server| server.branch(branch).unwrap().origin);
        let all = async {
            while self.archived(branch, origin).await < self.end(branch) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, all).await.expect("the stream catches up");
    }

    async fn stop(self) -> Result<(), Failure> {
        self.stop.send(true).unwrap();
        timeout(PATIENCE, self.running).await.expect("the stream ends").unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_writes_is_archived_without_waiting_for_a_full_segment() {
    let setting = streaming(NO_FAULTS, vec![]).await;
    for records in [1, 2, 1, 9, 30] {
        setting.write(1, records);
        setting.catches_up(1).await;
    }
    let archive = archive_in(setting.inner.clone()).await;
    let catalog = archive.catalog::<Toy>().await.unwrap();
    assert_eq!(catalog.tails.len(), 1, "one span of the open segment, whatever the number of its tails");
    assert_eq!(catalog.tails[0].end.offset, setting.end(1));
    assert_eq!(catalog.spans.last().unwrap().end, catalog.tails[0].start);
    assert_eq!(catalog.gaps, []);
    setting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_every_fifth_call_costs_time_and_nothing_else() {
    for seed in 0..4 {
        let setting = streaming(Faults::Random { rate: 0.2, seed }, vec![]).await;
        for _ in 0..6 {
            setting.write(1, 5);
            sleep(Duration::from_millis(3)).await;
        }
        setting.catches_up(1).await;
        let catalog = archive_in(setting.inner.clone()).await.catalog::<Toy>().await.unwrap();
        assert!(catalog.spans.windows(2).all(|pair| pair[0].end == pair[1].start), "seed {seed}: a hole");
        assert_eq!(catalog.gaps, [], "seed {seed}");
        setting.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_is_begun_again_where_the_archive_ends() {
    let faults = vec![(0, ErrorKind::Unreachable), (1, ErrorKind::Failed), (7, ErrorKind::Unreachable)];
    let setting = streaming(NO_FAULTS, faults).await;
    setting.write(1, 40);
    setting.catches_up(1).await;
    setting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_ends_is_followed_by_its_child() {
    let setting = streaming(NO_FAULTS, vec![]).await;
    setting.write(1, 20);
    let fork = setting.end(1);
    setting.server.write(|server| server.fork(1, fork).unwrap());
    setting.server.end(1);
    setting.write(2, 20);
    setting.catches_up(2).await;
    // All of the parent that its child does not repeat.
    assert!(setting.archived(1, 0).await >= fork - fork % SEGMENT);
    let catalog = archive_in(setting.inner.clone()).await.catalog::<Toy>().await.unwrap();
    assert_eq!(catalog.lineages.len(), 2);
    setting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_that_the_server_has_removed_is_a_gap_with_its_cause_and_the_stream_goes_on_behind_it() {
    let setting = streaming(NO_FAULTS, vec![(0, ErrorKind::Absent)]).await;
    setting.write(1, 40);
    let caught_up = async {
        while setting.archived(1, 2 * SEGMENT).await < setting.end(1) {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, caught_up).await.unwrap();
    let catalog = archive_in(setting.inner.clone()).await.catalog::<Toy>().await.unwrap();
    let [gap] = catalog.gaps.as_slice() else { panic!("{:?}", catalog.gaps) };
    assert_eq!((gap.after.offset, gap.before.unwrap().offset), (0, 2 * SEGMENT));
    assert!(matches!(&gap.cause, GapCause::RemovedByServer(detail) if detail.contains("on purpose")));
    setting.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_arrived_is_durable_before_the_service_ends() {
    let server = Shared::new(Server::new(SEGMENT));
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    Archive::create(Store::from_object_store(inner.clone()), Access::plain()).await.unwrap();
    let archive = archive_in(inner.clone()).await;
    let upstream = ToyUpstream { server: server.clone(), branch: 1, faults: vec![] };
    let (stop, stopping) = watch::channel(false);
    // Nothing would be flushed by itself during the test.
    let lazy = Pace { flush_interval: Duration::from_secs(3_600), ..QUICK };
    let running = tokio::spawn(supervise(upstream, archive, lazy, Pulse::default(), stopping, false));
    let setting = Setting { server, inner: inner.clone(), stop, running };
    setting.write(1, 1);
    setting.catches_up(1).await;
    setting.write(1, 1);
    let (server, end) = (setting.server.clone(), setting.end(1));
    assert!(end < SEGMENT, "the segment is open");
    setting.stop().await.unwrap();
    let expected = server.read(|server| server.cut(1, 0, end)).unwrap();
    let found = archive_in(inner).await.segment(&expected.lineage, &expected.name).await.unwrap();
    assert_eq!(found, Some(expected.bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_before_the_first_connection_ends_the_service_and_later_it_does_not() {
    struct Refusing;
    impl Upstream for Refusing {
        type Engine = Toy;
        type Stream = Breaking;
        async fn connect(&mut self, _: &SourceArchive, _: Durable<ToyPosition>) -> Result<Breaking, Failure> {
            Err(Failure::new(ErrorKind::Refused, "another cluster"))
        }
        async fn lost(&mut self, _: &SourceArchive, removed: &Failure) -> Result<Gap<ToyPosition>, Failure> {
            Err(Failure::new(ErrorKind::Failed, removed.message.clone()))
        }
    }
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    Archive::create(Store::from_object_store(inner.clone()), Access::plain()).await.unwrap();
    let (stop, stopping) = watch::channel(false);
    let archive = archive_in(inner).await;
    let refused = supervise(Refusing, archive.clone(), QUICK, Pulse::default(), stopping.clone(), false).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Refused);

    let pulse = Pulse::default();
    let beside_others = tokio::spawn(supervise(Refusing, archive, QUICK, pulse.clone(), stopping, true));
    while !pulse.has_tried() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!beside_others.is_finished());
    stop.send_replace(true);
    beside_others.await.unwrap().unwrap();

    let setting = streaming(NO_FAULTS, vec![(0, ErrorKind::Refused)]).await;
    setting.write(1, 9);
    setting.catches_up(1).await;
    setting.stop().await.unwrap();
}
