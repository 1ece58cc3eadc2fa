//! What `wal push` accepts and refuses, on files that a real server handed to its `archive_command`.

#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::Server;
use pitr_core::{Classify, ErrorKind, LineageId};
use pitr_postgres::history::{TimelineHistory, fork, lineage_id};
use pitr_postgres::push::{check_backup_history, check_file};
use pitr_postgres::wal::fuzz::fuzz_wal;
use pitr_postgres::wal::{Decoder, Origin, PageHeader, Record, Step};
use pitr_postgres::{Error, Lsn, SegmentSize, TimelineId, WalFileName};
use proptest::prelude::{any, prop_assert, prop_assert_eq};
use proptest::test_runner::{Config, TestRunner};

const PAGE: usize = 8192;

/// A server with small segments, and the segments that it completed. The second is full; the last begins after a
/// switch, and ends with one.
async fn worked_server() -> (Server, Vec<(String, Vec<u8>)>) {
    let server = Server::start(1);
    let client = server.connect().await;
    client.batch_execute("CREATE TABLE t(id serial PRIMARY KEY, body text)").await.unwrap();
    for round in 0..400 {
        if round == 350 {
            client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
        }
        let sql = format!("INSERT INTO t(body) SELECT repeat('{round}', 20) FROM generate_series(1, 60)");
        client.batch_execute(&sql).await.unwrap();
    }
    let files = server.completed_segments().await;
    assert!(files.len() >= 4, "{} segments", files.len());
    (server, files)
}

fn system_id(file: &[u8]) -> u64 {
    PageHeader::parse(file).unwrap().long.unwrap().system_id
}

fn refusal(file: &str, bytes: &[u8]) -> String {
    let error = check_file(file, bytes, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
    assert!(error.hint().is_some(), "{error}");
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_could_not_be_replayed_is_refused_with_the_reason() {
    let (_server, files) = worked_server().await;
    let (name, whole) = &files[1];
    let (last_name, last) = &files[files.len() - 1];
    check_file(name, whole, Some(system_id(whole))).unwrap();
    check_file(last_name, last, None).unwrap();

    let cut = refusal(name, &whole[..whole.len() / 2]);
    assert!(cut.contains("524288 bytes is no size of a WAL segment"), "{cut}");
    let padded = refusal(name, &[&whole[..], &whole[..]].concat());
    assert!(padded.contains("its header says 1048576"), "{padded}");
    let mut zeros = whole.clone();
    zeros[40 * PAGE..].fill(0);
    assert!(refusal(name, &zeros).contains("before the end of the segment: zeros follow"), "{}", refusal(name, &zeros));
    let mut stale = whole.clone();
    stale[40 * PAGE..].copy_from_slice(&files[0].1[40 * PAGE..]);
    assert!(refusal(name, &stale).contains("was written for"), "{}", refusal(name, &stale));
    let renamed = refusal("0000000100000000000000AA", whole);
    assert!(renamed.contains("was written for") || renamed.contains("belongs at"), "{renamed}");
    assert!(refusal(name, &vec![0; 1 << 20]).contains("zeros follow"));
    assert!(refusal(name, &vec![0xA5; 1 << 20]).contains("page magic A5A5"));

    let foreign = check_file(name, whole, Some(4711)).unwrap_err();
    assert!(foreign.hint().unwrap().contains("another cluster"), "{foreign}");
    let misnamed = check_file("000000010000000000000001.bak", whole, None).unwrap_err();
    assert!(matches!(misnamed, Error::WalFileName(_)), "{misnamed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_is_what_was_checked() {
    let (_server, files) = worked_server().await;
    let lineage = LineageId::new("7.00000001").unwrap();
    let (name, bytes) = &files[1];
    let checked = check_file(name, bytes, None).unwrap();
    let sealed = checked.seal(&lineage, &Bytes::from(bytes.clone())).unwrap();
    let [segment] = &sealed[..] else { panic!("{} segments", sealed.len()) };
    assert_eq!(segment.name.leaf(), name);
    assert_eq!(segment.bytes, bytes);
    assert!(segment.commits.count > 0 && segment.facts.contains_key("xid_min"), "{segment:?}");
    let mut changed = bytes.clone();
    changed[700_000] ^= 1;
    assert!(checked.seal(&lineage, &Bytes::from(changed)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_bit_is_found_or_stands_where_nothing_does() {
    let (_server, files) = worked_server().await;
    // After a switch a segment begins with a record, not with the rest of one that cannot be checked.
    let bytes = &files[files.len() - 1].1[..5 * PAGE];
    let system = system_id(bytes);
    let start = PageHeader::parse(bytes).unwrap().address;
    let (records, stopped) = decode(bytes, system, start);
    assert!(!stopped && records.len() > 50, "{} records", records.len());
    // A length that is too large shows itself on the next page, so the last page is left as it is.
    let checked = 4 * PAGE;
    let mut padding = vec![false; bytes.len()];
    for record in &records {
        let end = usize::try_from(record.end.since(start)).unwrap();
        let pad = (8 - record.total_len as usize % 8) % 8;
        padding[end - pad..end].fill(true);
    }
    let (mut found, mut harmless, mut flipped) = (0, 0, bytes.to_vec());
    for at in 16..checked {
        for bit in 0..8 {
            flipped[at] ^= 1 << bit;
            let (now, stopped) = decode(&flipped, system, start);
            flipped[at] ^= 1 << bit;
            if stopped {
                found += 1;
                continue;
            }
            let in_page = at % PAGE;
            // Padding of records and page headers, and a flag for tools that remove full-page images.
            let unused = padding[at] || (20..24).contains(&in_page) || (in_page, bit) == (2, 2);
            assert!(unused, "bit {bit} of byte {at} was not noticed");
            assert_eq!(now, records);
            harmless += 1;
        }
    }
    println!("{found} flipped bits found, {harmless} in padding");
    assert!(found > 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_damage_to_a_real_file_makes_the_check_panic_or_pass_it_as_another() {
    let (_server, files) = worked_server().await;
    let (name, whole) = &files[1];
    let partial = format!("{name}.partial");
    let good = check_file(name, whole, None).unwrap();
    let edits = proptest::collection::vec((0..whole.len(), 1..5000_usize, any::<u8>(), 0..whole.len()), 1..4);
    TestRunner::new(Config { failure_persistence: None, ..Config::default() })
        .run(&edits, |edits| {
            let mut damaged = whole.clone();
            for (at, len, kind, from) in edits {
                let len = len.min(damaged.len() - at.max(from));
                match kind % 3 {
                    0 => damaged[at..at + len].fill(kind),
                    1 => damaged.copy_within(from..from + len, at),
                    _ => damaged[at] ^= kind,
                }
            }
            if let Ok(checked) = check_file(name, &damaged, None) {
                prop_assert_eq!(&checked.slices[0].summary, &good.slices[0].summary);
            }
            if let Ok(checked) = check_file(&partial, &damaged, None) {
                prop_assert!(checked.end <= good.end);
            }
            let mut control = vec![0x90];
            control.append(&mut damaged);
            fuzz_wal(&control);
            Ok(())
        })
        .unwrap();
}

/// The records of these bytes, and whether something stopped the decoder before their end.
fn decode(bytes: &[u8], system: u64, start: Lsn) -> (Vec<Record>, bool) {
    let size = SegmentSize::new(1 << 20).unwrap();
    let mut decoder = Decoder::new(Origin::new(TimelineId::FIRST, start, size).of_system(system));
    let (mut input, mut records) = (bytes, Vec::new());
    loop {
        match decoder.step(&mut input) {
            Ok(Step::Record(record)) => records.push(record),
            Ok(Step::NeedMore) => return (records, false),
            Ok(Step::End(_)) | Err(_) => return (records, true),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_leaves_files_that_all_fit_together() {
    let (server, _) = worked_server().await;
    let client = server.connect().await;
    let (begin, end) = match client.batch_execute("SELECT pg_backup_start('test', true)").await {
        Ok(()) => ("", "SELECT pg_backup_stop(false)"),
        Err(_) => ("SELECT pg_start_backup('test', true, false)", "SELECT pg_stop_backup(false, false)"),
    };
    client.batch_execute(begin).await.unwrap();
    client.batch_execute(end).await.unwrap();
    client.batch_execute("INSERT INTO t(body) VALUES ('the last of timeline 1')").await.unwrap();
    drop(client);

    server.down("fast");
    std::fs::write(server.data().join("standby.signal"), "").unwrap();
    server.up();
    server.program("pg_ctl", &["-D", server.data().to_str().unwrap(), "-w", "promote"]);
    let client = server.connect().await;
    client.batch_execute("INSERT INTO t(body) VALUES ('the first of timeline 2')").await.unwrap();
    let files = server.completed_segments().await;

    let history = std::fs::read(server.archive().join("00000002.history")).unwrap();
    let history = TimelineHistory::parse(TimelineId(2), &history).unwrap();
    let (parent, at) = history.parent();
    assert_eq!(parent, TimelineId::FIRST);
    let digest = |bytes: &[u8]| [u8::try_from(bytes.len()).unwrap(); 32];
    let system = system_id(&files[0].1);
    let fork = fork(system, &history, digest).unwrap();
    assert_eq!(fork.parent, lineage_id(system, TimelineId::FIRST, None, digest).unwrap());

    let size = SegmentSize::new(1 << 20).unwrap();
    let of = |timeline| WalFileName::of(pitr_postgres::PgPosition::new(timeline, at), size).to_string();
    // The first segment of timeline 2 begins with a copy of timeline 1, whose pages keep their number.
    let (name, bytes) = files.iter().find(|(name, _)| *name == of(TimelineId(2))).unwrap();
    let second = check_file(name, bytes, Some(system)).unwrap();
    assert_eq!(second.timeline, TimelineId(2));
    assert_eq!(PageHeader::parse(bytes).unwrap().timeline, TimelineId::FIRST);

    let mut seen = 0;
    for entry in std::fs::read_dir(server.archive()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        match name.parse::<WalFileName>().unwrap() {
            WalFileName::Segment { partial: true, .. } => {
                let checked = check_file(name, &bytes, Some(system)).unwrap();
                assert_eq!(checked.end.lsn, at, "the unfinished segment ends at the fork");
                assert_eq!(checked.slices[0].slice.name.leaf(), name);
                seen |= 1;
            }
            WalFileName::Segment { .. } => drop(check_file(name, &bytes, Some(system)).unwrap()),
            WalFileName::Backup { .. } => {
                check_backup_history(name, &bytes).unwrap();
                assert!(check_backup_history(name, b"no such thing").is_err());
                seen |= 2;
            }
            WalFileName::History(_) => seen |= 4,
        }
    }
    assert_eq!(seen, 7, "partial, backup history and timeline history");
}
