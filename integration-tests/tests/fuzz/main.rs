//! Damaged input for every decoder: whatever the bytes, it returns soon, without a panic and without much memory, and
//! keeps its promises about what it accepts.
//!
//! The inputs begin as what PostgreSQL, `tar` and the archive itself write. Where a checksum would stop the damage at
//! the door, half of the inputs get the right one again, so that it reaches what is behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod binlog;
mod budget;
mod mutate;
mod oplog;

use anyhow::{Result, ensure};
use bytes::Bytes;
use integration_tests::{Postgres, Scratch, Setup};
use pitr_archive::envelope::{self, Parsed, Subject};
use pitr_archive::{ArchiveId, DigestKey, Encryption, Identities, Kind, Payload};
use pitr_core::Target;
use pitr_postgres::base::manifest::ManifestReader;
use pitr_postgres::base::tar::{TarError, TarEvent, TarReader};
use pitr_postgres::base::{BackupLabel, TablespaceMap};
use pitr_postgres::history::TimelineHistory;
use pitr_postgres::wal::fuzz::fuzz_wal;
use pitr_postgres::{Lsn, TimelineId, WalFileName};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::budget::fuzz;
use crate::mutate::mutate;

/// Bytes of a page of log.
const PAGE: usize = 8192;
/// Pages of log in one input.
const PAGES: usize = 3;
/// Bytes of the header of a segment's first page.
const LONG_HEADER: usize = 40;
/// Bytes of a record's header, and what is where in it.
const RECORD_HEADER: usize = 24;
const PREVIOUS: std::ops::Range<usize> = 8..16;
const RESOURCE: usize = 17;
const CHECKSUM: std::ops::Range<usize> = 20..24;

/// One record at least of every kind that means something to us.
const TRANSACTIONS: [&str; 8] = [
    "CREATE TABLE t (a int PRIMARY KEY)",
    "BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO t VALUES (2); RELEASE s; COMMIT",
    "BEGIN; INSERT INTO t VALUES (3); ROLLBACK",
    "BEGIN; INSERT INTO t VALUES (4); PREPARE TRANSACTION 'first'",
    "BEGIN; INSERT INTO t VALUES (5); PREPARE TRANSACTION 'second'",
    "COMMIT PREPARED 'first'",
    "ROLLBACK PREPARED 'second'",
    "SELECT pg_create_restore_point('here')",
];

#[tokio::test]
async fn wal_of_a_real_server_may_be_damaged_in_any_way() -> Result<()> {
    let scratch = Scratch::new("fuzz-wal")?;
    let mut server = Postgres::create(&scratch, "primary", &Setup::default())?;
    server.start().await?;
    for sql in TRANSACTIONS {
        server.execute(sql).await?;
    }
    server.stop().await?;
    let segment = std::fs::read(server.data().join("pg_wal/000000010000000000000001"))?;
    let all: Vec<Vec<u8>> = segment.chunks_exact(PAGE).flat_map(records).collect();
    let kinds = |resource: u8| all.iter().filter(|record| record[RESOURCE] == resource).count();
    ensure!(kinds(0) > 3 && kinds(1) > 10, "of {} records, only {} and {} have meaning", all.len(), kinds(0), kinds(1));
    let (meaning, other): (Vec<_>, Vec<_>) = all.into_iter().partition(|record| record[RESOURCE] <= 1);
    // The first page of the segment, and the second: the two origins that the decoder's entry point knows.
    let inputs = [0, PAGE].map(|start| segment[start..start + PAGES * PAGE].to_vec());
    fuzz("wal", |rng| {
        let origin = rng.random_range(0..2);
        let mut input = inputs[origin].clone();
        if origin == 0 && rng.random_bool(0.8) {
            input = page_of(&inputs[0][..LONG_HEADER], &meaning, &other, rng);
        } else {
            mutate(&mut input, &inputs[1 - origin], rng);
        }
        // Mostly what fits the input: timeline 1 and its own origin; the size of the pieces is free.
        let control = rng.random::<u8>();
        let control = if rng.random_bool(0.9) { control & !7 | (origin as u8) << 2 } else { control };
        input.insert(0, control);
        fuzz_wal(&input);
        false
    });
    Ok(())
}

/// The records that lie within one page and have the right checksum.
fn records(page: &[u8]) -> Vec<Vec<u8>> {
    let word = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap()) as usize;
    // A long header is marked in the page; what is left of an earlier record follows.
    let header = if page[2] & 2 == 0 { 24 } else { LONG_HEADER };
    let mut at = (header + word(16)).next_multiple_of(8);
    let mut found = Vec::new();
    while at + RECORD_HEADER <= PAGE && word(at) >= RECORD_HEADER && at + word(at) <= PAGE {
        let record = &page[at..at + word(at)];
        if checksum(record) != record[CHECKSUM] {
            break;
        }
        at = (at + record.len()).next_multiple_of(8);
        found.push(record.to_vec());
    }
    found
}

/// Of the body first, then of the header up to the checksum itself.
fn checksum(record: &[u8]) -> [u8; 4] {
    let body = crc32c::crc32c(&record[RECORD_HEADER..]);
    crc32c::crc32c_append(body, &record[..CHECKSUM.start]).to_le_bytes()
}

/// A page of real records in a new order, each with the position of the one before; some are damaged, and have the
/// right checksum all the same.
fn page_of(header: &[u8], meaning: &[Vec<u8>], other: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let mut page = header.to_vec();
    let mut before = 0_u64;
    loop {
        let from = if rng.random_bool(0.8) { meaning } else { other };
        let mut record = from[rng.random_range(0..from.len())].clone();
        if page.len() + record.len() > PAGE {
            page.resize(PAGE, 0);
            return page;
        }
        record[PREVIOUS].copy_from_slice(&before.to_le_bytes());
        if rng.random_bool(0.06) {
            for _ in 0..rng.random_range(1..=4) {
                let at = rng.random_range(PREVIOUS.end..record.len());
                record[at] = if rng.random_bool(0.5) { record[at] ^ 1 << rng.random_range(0..8) } else { rng.random() };
            }
        }
        let right = checksum(&record);
        record[CHECKSUM].copy_from_slice(&right);
        before = 0x0100_0000 + page.len() as u64;
        page.append(&mut record);
        page.resize(page.len().next_multiple_of(8), 0);
    }
}

/// An object and what it holds.
struct Sealed {
    facts: Vec<u8>,
    payload: Vec<u8>,
    whole: Vec<u8>,
}

#[test]
fn envelope_that_opens_holds_what_was_sealed() -> Result<()> {
    let key = "s/main/log/0001/0000/0001";
    let archive = ArchiveId::generate();
    let digests = DigestKey::generate();
    let identity = age::x25519::Identity::generate();
    let recipient = Encryption::recipients([identity.to_public().to_string()])?;
    let identities = Identities::from(identity);
    let raw = Bytes::from([&b"native bytes of a log, "[..]; 200].concat());
    let facts = serde_json::json!({ "start": "0/1000000", "end": "0/2000000", "commits": { "first": 1 } });
    let seal = |encryption: &Encryption| -> Result<Sealed> {
        let subject = Subject { kind: Kind::Segment, archive: archive.clone(), key: key.into(), facts: facts.clone() };
        let sealed = envelope::seal(subject, Payload::Raw(raw.clone()), encryption, &digests)?;
        let (whole, header) = (sealed.to_bytes().to_vec(), sealed.header.header_bytes as usize);
        let facts = whole[..header].split(|byte| *byte == b'\n').nth(1).unwrap().to_vec();
        let payload = whole[header..].to_vec();
        ensure!(with_digests(&facts, &payload) == whole, "the test seals in another way than the archive does");
        Ok(Sealed { facts, payload, whole })
    };
    let objects = [seal(&Encryption::Disabled)?, seal(&recipient)?];
    fuzz("envelope", |rng| {
        let chosen = rng.random_range(0..2);
        let (object, other) = (&objects[chosen], &objects[1 - chosen]);
        let bytes = Bytes::from(damage_an_object(object, other, rng));
        if let Ok(Parsed::More(wanted)) = envelope::parse_header(&bytes) {
            assert!(wanted > bytes.len() && wanted <= 1 << 20, "{wanted} bytes wanted of {}", bytes.len());
        }
        let Ok(opened) = envelope::open(key, Some(&archive), &bytes, &identities, &digests) else { return false };
        assert_eq!(opened.raw, raw, "other content was accepted");
        assert_eq!(opened.header.facts, facts, "other facts were accepted");
        true
    });
    Ok(())
}

/// Anywhere; or in the facts or the payload, with digests that fit the damage.
fn damage_an_object(object: &Sealed, other: &Sealed, rng: &mut StdRng) -> Vec<u8> {
    let (mut facts, mut payload, mut whole) = (object.facts.clone(), object.payload.clone(), object.whole.clone());
    match rng.random_range(0..4) {
        0 => mutate(&mut facts, &other.facts, rng),
        1 | 2 => mutate(&mut payload, &other.payload, rng),
        _ => {
            mutate(&mut whole, &other.whole, rng);
            return whole;
        }
    }
    with_digests(&facts, &payload)
}

/// The bytes of an object as `docs/FORMAT.md` has them.
fn with_digests(facts: &[u8], payload: &[u8]) -> Vec<u8> {
    let check = format!(
        "{{\"header_digest\":\"{}\",\"stored_bytes\":{},\"stored_digest\":\"{}\"}}\n",
        blake3::hash(facts).to_hex(),
        payload.len(),
        blake3::hash(payload).to_hex()
    );
    let first = "pitr1 00000000\n".len();
    let length = first + facts.len() + 1 + check.len();
    [format!("pitr1 {length:08}\n").as_bytes(), facts, b"\n", check.as_bytes(), payload].concat()
}

#[test]
fn tar_never_gives_more_than_it_got() -> Result<()> {
    let scratch = Scratch::new("fuzz-tar")?;
    let server = Postgres::create(&scratch, "primary", &Setup::default())?;
    let mut tar = std::process::Command::new("tar");
    tar.args(["--format=ustar", "-cf", "-", "-C"]).arg(server.data());
    let archive = tar.args(["PG_VERSION", "pg_logical", "pg_xact", "postgresql.auto.conf"]).output()?.stdout;
    let (entries, _) = read_tar(&archive, 1000)?;
    ensure!(entries > 4, "only {entries} entries in the corpus");
    fuzz("tar", |rng| {
        let mut input = archive.clone();
        if rng.random_bool(0.5) {
            damage_a_tar_header(&mut input, rng);
        } else {
            mutate(&mut input, &archive, rng);
        }
        let piece = rng.random_range(1..2000);
        read_tar(&input, piece).is_ok()
    });
    Ok(())
}

/// Entries and bytes of content; panics if the reader gives more than it got.
fn read_tar(archive: &[u8], piece: usize) -> Result<(usize, usize), TarError> {
    let mut reader = TarReader::default();
    let (mut entries, mut content, mut events) = (0, 0, 0);
    for bytes in archive.chunks(piece) {
        reader.push(Bytes::copy_from_slice(bytes));
        while let Some(event) = reader.next()? {
            events += 1;
            match event {
                TarEvent::Entry(_) => entries += 1,
                TarEvent::Data(data) => content += data.len(),
                TarEvent::End => {}
            }
            // An entry and its end for each block, a piece of data for each push and each entry.
            assert!(events <= archive.len() / 512 * 3 + archive.len() / piece + 1, "{events} events");
            assert!(content <= archive.len(), "{content} bytes of content in {}", archive.len());
        }
    }
    reader.finish()?;
    Ok((entries, content))
}

/// Damages one header and makes its checksum right: the sum of its bytes, with the field itself as blanks.
fn damage_a_tar_header(archive: &mut [u8], rng: &mut StdRng) {
    let headers: Vec<usize> = (0..archive.len() / 512)
        .map(|block| block * 512)
        .filter(|at| &archive[at + 257..at + 262] == b"ustar")
        .collect();
    let at = headers[rng.random_range(0..headers.len())];
    let header = &mut archive[at..at + 512];
    let mut damaged = header.to_vec();
    mutate(&mut damaged, header, rng);
    damaged.resize(512, 0);
    damaged[148..156].fill(b' ');
    let sum: u32 = damaged.iter().copied().map(u32::from).sum();
    damaged[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header.copy_from_slice(&damaged);
}

/// Texts as servers write them, one after the other; `one` tells whether the damaged one is accepted.
fn fuzz_texts(decoder: &str, texts: &[&str], one: impl Fn(&str, &[u8], &mut StdRng) -> bool) {
    fuzz(decoder, |rng| {
        let mut bytes = texts[rng.random_range(0..texts.len())].as_bytes().to_vec();
        mutate(&mut bytes, texts[rng.random_range(0..texts.len())].as_bytes(), rng);
        one(&String::from_utf8_lossy(&bytes), &bytes, rng)
    });
}

#[test]
fn manifest_in_whatever_pieces_is_read_or_refused() {
    const MANIFEST: &str = r#"{ "PostgreSQL-Backup-Manifest-Version": 1,
"Files": [
{ "Path": "backup_label", "Size": 227, "Last-Modified": "2026-09-07 00:57:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "3f0e5d1c" },
{ "Encoded-Path": "62617365ff", "Size": 8192, "Last-Modified": "2026-09-07 00:57:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "00000000" }
],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }
],
"Manifest-Checksum": "7d3e7f5d1b9a7f2cbb5d2c1b0e1b6b61a5f4e6b2b8a4c6d0e2f4a6b8c0d2e4f6"}
"#;
    fuzz_texts("manifest", &[MANIFEST], |_, bytes, rng| {
        let mut reader = ManifestReader::default();
        let read = bytes.chunks(rng.random_range(1..400)).try_for_each(|piece| reader.push(piece));
        // Its own checksum never fits: nothing is accepted to the end.
        assert!(reader.finish().is_err(), "a manifest with a wrong checksum was accepted");
        read.is_ok()
    });
}

#[test]
fn history_that_is_accepted_names_an_older_parent() {
    let texts = [
        "1\t0/3000000\tno recovery target specified\n",
        "1\t0/3000000\tbefore 2026-09-07 02:57:00+02\n\n2\t0/5000060\tat restore point \"x\"\n",
        "# a comment\n1\t4A/9C3F1E88\tafter LSN 4A/9C3F1E88\n3\tFF/0\tbefore transaction 99\n",
    ];
    fuzz_texts("history", &texts, |_, bytes, rng| {
        let timeline = TimelineId(rng.random_range(2..6));
        let Ok(history) = TimelineHistory::parse(timeline, bytes) else { return false };
        assert!(history.parent().0 < timeline, "a timeline is its own ancestor");
        assert_eq!(history.bytes(), bytes, "the file was changed");
        assert!(history.parent_file().is_none_or(|parent| bytes.starts_with(parent)), "the parent's file is a prefix");
        true
    });
}

#[test]
fn names_that_are_accepted_are_written_as_they_were() {
    let texts = [
        "00000001000000000000000A",
        "0000000200000001000000FF.partial",
        "00000001000000000000000A.00000028.backup",
        "00000003.history",
        "4A/9C3F1E88",
    ];
    fuzz_texts("names", &texts, |text, _, _| {
        let name = text.parse::<WalFileName>().inspect(|name| assert_eq!(name.to_string(), text));
        let lsn = text.parse::<Lsn>().inspect(|lsn| assert_eq!(lsn.to_string().parse::<Lsn>().unwrap(), *lsn));
        name.is_ok() || lsn.is_ok()
    });
}

#[test]
fn target_that_is_a_coordinate_is_written_as_it_was() {
    let texts = [
        "latest",
        "15m ago",
        "1h30m ago",
        "2w3d ago",
        "2026-09-07T02:57:00+02:00",
        "2026-09-07 02:57:00.123456 Europe/Berlin",
        "2026-02-29T24:00:00Z",
        "lsn:4A/9C3F1E88",
        "xid:88120412",
        "name:before_deploy",
        "name:a_year_ago",
    ];
    let now = "2026-09-07T00:57:00Z".parse().unwrap();
    fuzz_texts("target", &texts, |text, _, _| {
        let target = Target::parse(text, now);
        if let Ok(target @ (Target::Latest | Target::Coordinate { .. })) = &target {
            assert_eq!(target.to_string(), text.trim());
        }
        if let Some(name) = text.trim().strip_prefix("name:").filter(|name| !name.is_empty()) {
            let named = Target::Coordinate { scheme: "name".to_owned(), value: name.to_owned() };
            assert_eq!(target, Ok(named), "a point of any name can be named");
        }
        target.is_ok()
    });
}

#[test]
fn label_and_tablespace_map_are_read_or_refused() {
    let texts = [
        "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n\
         BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-09-07 00:57:00 UTC\nLABEL: pitr\n\
         START TIMELINE: 1\n",
        "16385 /srv/fast\n16386 /srv/with\\\nline\\\\end\n",
    ];
    fuzz_texts("label", &texts, |text, _, _| {
        let map = TablespaceMap::parse(text);
        if let Some(map) = &map {
            assert_eq!(TablespaceMap::parse(&map.to_text()).as_ref(), Some(map), "the map does not survive writing");
        }
        map.is_some() || BackupLabel::parse(text).is_some()
    });
}
