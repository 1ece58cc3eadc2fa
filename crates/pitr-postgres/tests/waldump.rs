//! Every record of a busy server, compared with what the server's own tools read from the same log.
//!
//! `PITR_PG_BIN` chooses another server: without `pg_waldump` the extension `pg_walinspect` is asked (from 15 on),
//! and before that the commit times alone are compared, with `pg_xact_commit_timestamp`.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/oracle.rs"]
mod oracle;
#[path = "common/workload.rs"]
mod workload;

use std::collections::BTreeMap;

use common::Server;
use oracle::Known;
use pitr_core::{Scan, Timestamp, What};
use pitr_postgres::push::check_file;
use pitr_postgres::scan::{Fed, Scanner};
use pitr_postgres::segment::file_of;
use pitr_postgres::wal::{Decoder, Detail, Origin, Record, Step};
use pitr_postgres::{Lsn, PgPosition, SegmentSize, TimelineId, WalFileName};

type Files = Vec<(String, Vec<u8>)>;

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_the_one_that_the_server_s_tools_see() {
    compare(16, 20 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_of_1_mib_and_records_longer_than_several_of_them() {
    compare(1, 3 << 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_of_64_mib_are_archived_in_slices() {
    compare(64, 20 << 20).await;
}

async fn compare(segment_mib: u64, large_record: usize) {
    let server = Server::start(segment_mib);
    workload::run(&server, large_record).await;
    let files = server.completed_segments().await;
    let size = SegmentSize::new(segment_mib << 20).unwrap();
    assert!(files.len() >= 2, "only {} segments", files.len());

    let records = decode(&files, size);
    assert_coverage(&records);
    compare_with_tools(&server, &files, &records, size).await;
    compare_commit_times(&server, &records).await;
    compare_scans(&files, &records, size);
}

/// The whole log at once, in pieces that have nothing to do with pages.
fn decode(files: &Files, size: SegmentSize) -> Vec<Record> {
    let mut decoder = Decoder::new(Origin::new(TimelineId::FIRST, start_of(&files[0].0, size).lsn, size));
    let mut records = Vec::new();
    for (name, bytes) in files {
        assert_eq!(decoder.position(), start_of(name, size).lsn, "the archive has no hole");
        for mut piece in bytes.chunks(100_003) {
            while let Step::Record(record) = decoder.step(&mut piece).unwrap() {
                records.push(record);
            }
            assert!(piece.is_empty(), "the log ends in {name}");
        }
    }
    records
}

fn start_of(name: &str, size: SegmentSize) -> PgPosition {
    match name.parse() {
        Ok(WalFileName::Segment { timeline, log, partial: false }) => {
            PgPosition::new(timeline, log.start(size).unwrap())
        }
        other => panic!("{name}: {other:?}"),
    }
}

/// The workload left what it promises; a comparison of nothing would succeed.
fn assert_coverage(records: &[Record]) {
    let count = |matches: fn(&Detail) -> bool| records.iter().filter(|record| matches(&record.detail)).count();
    // Six of seven of the clients' 440; more only where the server analyses tables meanwhile.
    assert!(count(|detail| matches!(detail, Detail::Commit(settled) if !settled.prepared)) > 370);
    assert!(count(|detail| matches!(detail, Detail::Commit(settled) if settled.subtransactions > 0)) > 100);
    assert!(count(|detail| matches!(detail, Detail::Abort(_))) > 30);
    assert_eq!(count(|detail| matches!(detail, Detail::Prepare { .. })), 4);
    assert_eq!(count(|detail| matches!(detail, Detail::Commit(settled) if settled.prepared)), 3);
    assert_eq!(count(|detail| matches!(detail, Detail::Abort(settled) if settled.prepared)), 1);
    assert!(count(|detail| matches!(detail, Detail::Switch)) >= 2);
    assert!(count(|detail| matches!(detail, Detail::Checkpoint(checkpoint) if checkpoint.shutdown)) >= 1);
    assert!(count(|detail| matches!(detail, Detail::Checkpoint(checkpoint) if !checkpoint.shutdown)) >= 1);
    assert!(records.iter().any(|record| record.total_len > 1_000_000));
    let names: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.detail {
            Detail::RestorePoint { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(names, ["before_the_large_ones", "Ende gut, alles gut: ü"]);
    // A two-phase end names the transaction that was prepared, not the one that wrote it.
    let xids = |wanted: fn(&Detail) -> Option<u32>| -> Vec<u32> {
        let mut xids: Vec<_> = records.iter().filter_map(|record| wanted(&record.detail)).collect();
        xids.sort_unstable();
        xids
    };
    let prepared = xids(|detail| if let Detail::Prepare { xid, .. } = detail { Some(*xid) } else { None });
    let settled = xids(|detail| match detail {
        Detail::Commit(settled) | Detail::Abort(settled) if settled.prepared => settled.xid,
        _ => None,
    });
    assert_eq!(prepared, settled);
}

async fn compare_with_tools(server: &Server, files: &Files, records: &[Record], size: SegmentSize) {
    let (first, last) = (&files[0].0, &files[files.len() - 1].0);
    let (from, to) = (records[0].lsn, start_of(last, size).lsn.next_segment(size));
    let Some(known) = oracle::all_records(server, first, last, from, to).await else {
        println!("no tool of this server lists records: only commit times are compared");
        return;
    };
    let mine: Vec<Known> = records.iter().map(Known::of).collect();
    for (mine, known) in mine.iter().zip(&known) {
        assert_eq!(mine, known);
    }
    // pg_walinspect stops before the switch that ends the last file, for the log after it is another file's.
    let difference = mine.len().abs_diff(known.len());
    assert!(difference <= usize::from(!server.has("pg_waldump")), "{} records, {} known", mine.len(), known.len());
    println!("{} records in {} segments of {size} compared", known.len(), files.len());
}

async fn compare_commit_times(server: &Server, records: &[Record]) {
    let client = server.connect().await;
    let mine: BTreeMap<u32, Timestamp> = records
        .iter()
        .filter_map(|record| match &record.detail {
            Detail::Commit(settled) => Some((settled.xid.unwrap(), settled.time)),
            _ => None,
        })
        .collect();
    let sql = "SELECT (extract(epoch from pg_xact_commit_timestamp($1::text::xid)) * 1000000)::bigint";
    let query = client.prepare(sql).await.unwrap();
    let mut compared = 0;
    for (xid, time) in mine {
        // `initdb` did not keep track of the first ones.
        let row = client.query_one(&query, &[&xid.to_string()]).await.unwrap();
        if let Some(micros) = row.get::<_, Option<i64>>(0) {
            assert_eq!(time.timestamp_micros(), micros, "transaction {xid}");
            compared += 1;
        }
    }
    assert!(compared > 300, "only {compared} commit times compared");
}

/// Each archived segment taken by itself tells the same as the whole log, and passes the check of a push.
fn compare_scans(files: &Files, records: &[Record], size: SegmentSize) {
    let log: Vec<u8> = files.iter().flat_map(|(_, bytes)| bytes).copied().collect();
    let origin = start_of(&files[0].0, size).lsn;
    let mut commits_seen = 0;
    for (name, bytes) in files {
        let checked = check_file(name, bytes, None).unwrap();
        assert_eq!(checked.end.lsn, start_of(name, size).lsn.next_segment(size));
        for slice in &checked.slices {
            assert_eq!(file_of(&slice.slice.name, size), Some((checked.file, (slice.slice.offset >> 24) as usize)));
            let (start, end) = (slice.slice.start, slice.slice.end);
            let scan = scan(&log[usize::try_from(start.lsn.since(origin)).unwrap()..], start, end, size);
            let inside = |lsn: Lsn| start.lsn <= lsn && lsn < end.lsn;
            let inside: Vec<_> = records.iter().filter(|record| inside(record.lsn)).collect();
            let expected: Vec<_> = inside.iter().filter_map(|record| commit_of(record)).collect();
            let commits: Vec<_> = scan
                .events
                .iter()
                .filter(|event| event.what == What::Commit)
                .map(|event| (event.begin.lsn, event.time))
                .collect();
            assert_eq!(commits, expected, "{name}");
            assert_eq!(scan.last_record.map(|(begin, _)| begin.lsn), inside.last().map(|record| record.lsn));

            let summary = &slice.summary;
            let known = expected.len() as u64;
            assert!(summary.commits.count == known || (summary.commits.open && summary.commits.count + 1 == known));
            if !summary.commits.open {
                assert_eq!(summary.commits.max, expected.iter().filter_map(|(_, time)| *time).max());
                assert_eq!(summary.commits.min, expected.iter().filter_map(|(_, time)| *time).min());
            }
            assert_eq!(summary.first_record, inside.first().map(|record| record.lsn));
            assert_eq!(summary.last_record, inside.last().map(|record| record.lsn));
            commits_seen += known;
        }
    }
    assert_eq!(commits_seen, records.iter().filter(|record| commit_of(record).is_some()).count() as u64);
}

fn commit_of(record: &Record) -> Option<(Lsn, Option<Timestamp>)> {
    match &record.detail {
        Detail::Commit(settled) => Some((record.lsn, Some(settled.time))),
        _ => None,
    }
}

fn scan(log: &[u8], start: PgPosition, end: PgPosition, size: SegmentSize) -> Scan<PgPosition> {
    let mut scanner = Scanner::new(start, end, size);
    for piece in log.chunks(65_536) {
        if scanner.feed(piece).unwrap() == Fed::Done {
            break;
        }
    }
    scanner.finish()
}
