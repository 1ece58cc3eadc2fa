//! The binary log of real servers, without an archive: what is streamed is what stands in the files, byte for byte.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration_tests::Scratch;
use integration_tests::mysql::{Flavour, Mysql, MysqlSetup};
use pitr_core::ports::{Cut, LogStream, SegmentSummary};
use pitr_core::{Engine, Facts};
use pitr_mysql::connect::Settings;
use pitr_mysql::dump::Replica;
use pitr_mysql::scan::{Fed, Scanner, SegmentPlace};
use pitr_mysql::stream::{BinlogStream, find};
use pitr_mysql::{BinlogPosition, Mariadb, Mysql as MysqlEngine};
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(60);

/// A segment as it would be archived.
struct Segment {
    summary: SegmentSummary<BinlogPosition>,
    start: BinlogPosition,
    bytes: Vec<u8>,
}

fn replica() -> Replica {
    Replica { server_id: 4711, uuid: "9f01a2b3-0000-0000-0000-000000004711".to_owned(), confirms: false }
}

/// Streams until the file and offset are reached, and cuts where it may after at least `size` bytes.
async fn collect<E: Engine<Position = BinlogPosition>>(
    mut stream: BinlogStream<E>,
    until: &(String, u64),
    size: usize,
) -> Result<Vec<Segment>> {
    let begun = Instant::now();
    let (mut segments, mut bytes) = (Vec::new(), Vec::new());
    loop {
        ensure!(begun.elapsed() < PATIENCE, "{} bytes of {} after a minute", stream.place().1, until.0);
        let start = stream.open().start;
        let chunk = stream.next().await?.context("the stream ended")?;
        bytes.extend_from_slice(&chunk.bytes);
        let (file, offset) = stream.place();
        let arrived = (file.to_string(), offset) == *until;
        if chunk.cut == Cut::Must || (chunk.cut == Cut::May && (bytes.len() >= size || arrived)) {
            let summary = stream.cut()?;
            segments.push(Segment { summary, start, bytes: std::mem::take(&mut bytes) });
        }
        if arrived {
            ensure!(bytes.is_empty(), "the log ends inside of a transaction");
            return Ok(segments);
        }
    }
}

/// The files that the segments give when they are put together.
fn joined(segments: &[Segment]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for segment in segments {
        let place = place(&segment.summary.facts)?;
        let file = files.entry(place.file.to_string()).or_default();
        ensure!(file.len() as u64 == place.offset, "a hole before {} of {}", place.offset, place.file);
        file.extend_from_slice(&segment.bytes);
    }
    Ok(files)
}

fn place(facts: &Facts) -> Result<SegmentPlace> {
    SegmentPlace::read(facts).with_context(|| format!("odd facts: {facts:?}"))
}

/// Compares with the files on disk. A file in use is marked as such on disk, in one bit.
fn compare(server: &Mysql, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    const FLAGS: usize = 4 + 17;
    for path in server.binlogs()? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(ours) = files.get(&name) else { bail!("{name} was not streamed") };
        let mut theirs = std::fs::read(&path)?;
        theirs[FLAGS] &= !1;
        ensure!(theirs.len() == ours.len(), "{name}: {} bytes on disk, {} streamed", theirs.len(), ours.len());
        if let Some(at) = theirs.iter().zip(ours).position(|(a, b)| a != b) {
            bail!("{name} differs at {at}");
        }
    }
    Ok(())
}

const WORK: &str = "
    CREATE DATABASE d; USE d;
    CREATE TABLE t (id INT PRIMARY KEY, text TEXT, body LONGBLOB);
    INSERT INTO t VALUES (1, 'one', NULL), (2, 'two', NULL);
    UPDATE t SET text = 'three' WHERE id = 2;
    BEGIN; INSERT INTO t VALUES (3, 'x', REPEAT('a', 300000)); INSERT INTO t VALUES (4, 'y', NULL); COMMIT;
    BEGIN; INSERT INTO t VALUES (5, 'z', NULL); ROLLBACK;
    FLUSH BINARY LOGS;
    CREATE TABLE m (id INT PRIMARY KEY) ENGINE = MyISAM;
    BEGIN; INSERT INTO m VALUES (1); INSERT INTO t VALUES (6, 'lost', NULL); ROLLBACK;
    CREATE VIEW v AS SELECT * FROM t;
    SET @x = 5; SET SESSION binlog_format = 'STATEMENT';
    INSERT INTO t VALUES (@x + 100, RAND(), NULL);
    SET SESSION binlog_format = 'ROW';
    DROP TABLE m;
    XA START 'a'; INSERT INTO t VALUES (7, 'xa', NULL); XA END 'a'; XA PREPARE 'a'; XA COMMIT 'a';
    FLUSH BINARY LOGS;
    TRUNCATE t;
    INSERT INTO t SELECT seq, 'many', REPEAT('b', 2000) FROM
      (WITH RECURSIVE s AS (SELECT 1 AS seq UNION ALL SELECT seq + 1 FROM s WHERE seq < 900) SELECT seq FROM s) q;
";

async fn streamed_files_are_the_server_s(flavour: Flavour, options: &[&str]) -> Result<()> {
    let scratch = Scratch::new("wire")?;
    let mut server = Mysql::create(&scratch, "s", &MysqlSetup::of(flavour).with(options.iter().copied()))?;
    server.start().await?;
    let settings = Settings::parse(&server.url())?;
    let found = find(&settings, &replica(), None).await?;
    let (_durable, watched) = watch::channel(None);
    server.sql(WORK)?;
    let end = server.log_end()?;
    let segments = match flavour {
        Flavour::Mysql => {
            let stream = BinlogStream::<MysqlEngine>::begin(&settings, &replica(), &found, watched).await?;
            collect(stream, &end, 100_000).await?
        }
        Flavour::Mariadb => {
            let stream = BinlogStream::<Mariadb>::begin(&settings, &replica(), &found, watched).await?;
            collect(stream, &end, 100_000).await?
        }
    };
    compare(&server, &joined(&segments)?)?;
    chained(&segments)?;
    let executed = segments.last().context("no segment")?.summary.facts["executed"].clone();
    assert_eq!(executed, server.executed()?);
    scans_agree(&segments)
}

/// The chain rule of all engines.
fn chained(segments: &[Segment]) -> Result<()> {
    for pair in segments.windows(2) {
        let (end, start) = (pair[0].summary.end, pair[1].start);
        ensure!(start <= end, "a hole between {end} and {start}");
        ensure!(start < pair[1].summary.end, "a segment that adds nothing at {start}");
    }
    Ok(())
}

/// A scan of each segment finds as many transactions as its header counts, and they follow each other.
fn scans_agree(segments: &[Segment]) -> Result<()> {
    let mut last_end = None;
    for (index, segment) in segments.iter().enumerate() {
        let mut scanner = Scanner::new(segment.start.incarnation, &place(&segment.summary.facts)?);
        for next in &segments[index..] {
            if scanner.feed(&place(&next.summary.facts)?, &next.bytes)? == Fed::Done {
                break;
            }
        }
        let scan = scanner.finish();
        let commits: Vec<_> = scan.events.iter().filter(|event| event.what == pitr_core::What::Commit).collect();
        assert_eq!(commits.len() as u64, segment.summary.commits.count, "segment {index}");
        assert_eq!(commits.iter().filter_map(|event| event.time).max(), segment.summary.commits.max);
        for event in &scan.events {
            ensure!(last_end.is_none_or(|end| end <= event.begin), "{} overlaps", event.begin);
            last_end = Some(event.end);
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_mysql_streams_is_its_files() -> Result<()> {
    streamed_files_are_the_server_s(Flavour::Mysql, &[]).await
}

#[tokio::test]
async fn what_mysql_streams_is_its_files_without_identifiers() -> Result<()> {
    streamed_files_are_the_server_s(Flavour::Mysql, &["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]).await
}

#[tokio::test]
async fn what_mysql_streams_is_its_files_without_checksums() -> Result<()> {
    streamed_files_are_the_server_s(Flavour::Mysql, &["--binlog-checksum=NONE"]).await
}

#[tokio::test]
async fn what_mysql_streams_is_its_files_with_compressed_transactions() -> Result<()> {
    let options = ["--binlog-transaction-compression=ON", "--binlog-rows-query-log-events=ON"];
    streamed_files_are_the_server_s(Flavour::Mysql, &options).await
}

#[tokio::test]
async fn what_mariadb_streams_is_its_files() -> Result<()> {
    streamed_files_are_the_server_s(Flavour::Mariadb, &[]).await
}

#[tokio::test]
async fn what_mariadb_streams_is_its_files_without_checksums_and_compressed() -> Result<()> {
    streamed_files_are_the_server_s(Flavour::Mariadb, &["--binlog-checksum=NONE", "--log-bin-compress=ON"]).await
}
