//! Binary logs of real servers, and sets of identifiers, damaged.

use anyhow::{Result, ensure};
use integration_tests::Scratch;
use integration_tests::mysql::{Flavour, Mysql, MysqlSetup};
use pitr_mysql::event::{Feed, Grouper, Header, MAGIC, Reader, Running};
use pitr_mysql::gtid::{Gtid, GtidSet, MysqlSet};
use pitr_mysql::scan::{Scanner, SegmentPlace};
use pitr_mysql::{BinlogPosition, Incarnation, LogFile};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::budget::fuzz;
use crate::mutate::mutate;

/// One event at least of every kind that means something to us.
const WORK: &str = "
    CREATE DATABASE d; USE d; CREATE TABLE t (a INT PRIMARY KEY, b TEXT);
    INSERT INTO t VALUES (1, 'x'), (2, 'y'); DELETE FROM t WHERE a = 1;
    BEGIN; INSERT INTO t VALUES (3, 'z'); INSERT INTO t VALUES (4, 'z'); COMMIT;
    XA START 'a'; INSERT INTO t VALUES (5, 'xa'); XA END 'a'; XA PREPARE 'a'; XA COMMIT 'a';
    SET SESSION binlog_format = 'STATEMENT'; SET @x = 7; INSERT INTO t VALUES (@x, 'v'); DROP TABLE t;
";

/// Only of MySQL 8.3 and later.
const TAGGED: &str = "SET gtid_next = 'AUTOMATIC:tag'; CREATE DATABASE e; SET gtid_next = 'AUTOMATIC';";

#[tokio::test]
async fn binary_log_of_real_servers_may_be_damaged_in_any_way() -> Result<()> {
    let mut files = Vec::new();
    for flavour in [Flavour::Mysql, Flavour::Mariadb] {
        let scratch = Scratch::new("fuzz-binlog")?;
        let mut server = Mysql::create(&scratch, "s", &MysqlSetup::of(flavour))?;
        server.start().await?;
        server.sql(WORK)?;
        if flavour == Flavour::Mysql {
            server.sql(TAGGED)?;
            server.sql("SET SESSION binlog_transaction_compression = ON; CREATE TABLE d.c (a INT); INSERT INTO d.c VALUES (1);")?;
        }
        server.sql("FLUSH BINARY LOGS")?;
        files.push(std::fs::read(&server.binlogs()?[0])?);
    }
    for file in &files {
        ensure!(decode(file, 1 << 20) > 10, "the undamaged file cannot be decoded");
    }
    fuzz("binlog", |rng| {
        let (one, other) = if rng.random_bool(0.5) { (0, 1) } else { (1, 0) };
        let mut events = split(&files[one]);
        let strangers = split(&files[other]);
        for _ in 0..rng.random_range(1..=3) {
            damage(&mut events, &strangers, rng);
        }
        let mut input = MAGIC.to_vec();
        events.iter().for_each(|event| input.extend_from_slice(event));
        if rng.random_bool(0.2) {
            mutate(&mut input, &files[other], rng);
        }
        let whole = decode(&input, rng.random_range(1..5_000));
        scan(&input);
        whole > events.len()
    });
    Ok(())
}

/// The events of a file.
fn split(file: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut events) = (&file[MAGIC.len()..], Vec::new());
    while let Some(header) = Header::parse(rest) {
        let (event, after) = rest.split_at(header.length as usize);
        events.push(event.to_vec());
        rest = after;
    }
    events
}

/// Damages, removes, repeats or exchanges an event; mostly it gets the right length and checksum again.
fn damage(events: &mut Vec<Vec<u8>>, strangers: &[Vec<u8>], rng: &mut StdRng) {
    let at = rng.random_range(0..events.len());
    match rng.random_range(0..10) {
        0 if events.len() > 2 => drop(events.remove(at)),
        1 => events.insert(at, strangers[rng.random_range(0..strangers.len())].clone()),
        2 => events.insert(at, events[rng.random_range(0..events.len())].clone()),
        _ => mutate(&mut events[at], &strangers[rng.random_range(0..strangers.len())], rng),
    }
    if rng.random_bool(0.8) {
        let mut place = MAGIC.len();
        for event in events.iter_mut() {
            place += event.len();
            repair(event, place);
        }
    }
}

fn repair(event: &mut [u8], end: usize) {
    const CHECKSUM: usize = 4;
    if event.len() < Header::LEN + CHECKSUM {
        return;
    }
    let len = event.len() as u32;
    event[9..13].copy_from_slice(&len.to_le_bytes());
    event[13..17].copy_from_slice(&(end as u32).to_le_bytes());
    let (covered, stored) = event.split_at_mut(event.len() - CHECKSUM);
    let mut running = Running::new(Header::parse(covered).expect("long enough").kind);
    running.update(covered);
    stored.copy_from_slice(&running.finish().to_le_bytes());
}

/// Events that come out when the bytes come in pieces; the pieces change nothing.
fn decode(input: &[u8], piece: usize) -> usize {
    let run = |piece: usize| {
        let (mut feed, mut grouper, mut count, mut last) = (Feed::new(Reader::new(0)), Grouper::default(), 0, 0);
        for mut bytes in input.chunks(piece) {
            loop {
                let event = match feed.next(&mut bytes) {
                    Ok(Some(event)) => event,
                    Ok(None) => break,
                    Err(_) => return (count, last),
                };
                assert!(event.offset >= last && event.end() <= input.len() as u64);
                last = event.end();
                count += 1;
                if grouper.next(&event).is_err() {
                    return (count, last);
                }
            }
        }
        (count, last)
    };
    let (whole, pieces) = (run(input.len().max(1)), run(piece));
    assert_eq!(whole, pieces, "in pieces of {piece}");
    whole.0
}

fn scan(input: &[u8]) {
    let file = LogFile { base: "binlog".to_owned(), number: 1 };
    let place = SegmentPlace { file, offset: 0, format: None, first: Some(4), inside: None };
    let mut scanner = Scanner::new(Incarnation(1), &place);
    // An error is an answer too.
    let _ = scanner.feed(&place, input);
    let mut end: Option<BinlogPosition> = None;
    for event in scanner.finish().events {
        assert!(event.begin < event.end && end.is_none_or(|end| end <= event.begin), "{event:?} after {end:?}");
        end = Some(event.end);
    }
}

const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

#[test]
fn identifiers_and_sets_round_trip_or_are_refused() {
    let texts = [
        format!("{UUID}:1-5:9:tag:1-3,\n{UUID}:77"),
        format!("{UUID}:9223372036854775806"),
        "0-1-42,1-2-18446744073709551615".to_owned(),
    ];
    let sets: Vec<Vec<u8>> =
        texts.iter().filter_map(|text| text.parse::<MysqlSet>().ok()).map(|set| set.encode()).collect();
    fuzz("gtid", |rng| {
        let mut text = texts[rng.random_range(0..texts.len())].clone().into_bytes();
        mutate(&mut text, texts[0].as_bytes(), rng);
        let text = String::from_utf8_lossy(&text).into_owned();
        if let Ok(gtid) = text.parse::<Gtid>() {
            assert_eq!(gtid.to_string().parse(), Ok(gtid));
        }
        let mut bytes = sets[rng.random_range(0..sets.len())].clone();
        mutate(&mut bytes, &sets[0], rng);
        if let Ok(set) = MysqlSet::decode(&bytes) {
            assert_eq!(MysqlSet::decode(&set.encode()), Ok(set));
        }
        match text.parse::<GtidSet>() {
            Ok(set) => {
                let again: GtidSet = set.to_string().parse().expect("what was written is read");
                assert!(again == set || set.is_empty(), "{text:?}");
                true
            }
            Err(_) => false,
        }
    });
}
