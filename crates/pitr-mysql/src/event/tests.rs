#![allow(clippy::unwrap_used)]

use super::*;

/// A format description as a server would write it, then whatever events are given as kind and body.
fn file(checksum: bool, events: &[(Kind, Vec<u8>)]) -> Vec<u8> {
    let mut format = vec![4, 0];
    format.extend_from_slice(b"9.7.0-test");
    format.resize(52, 0);
    format.extend_from_slice(&[0, 0, 0, 0, 19]);
    format.extend_from_slice(&[0; 40]);
    format.push(u8::from(checksum));
    let mut out = MAGIC.to_vec();
    push(&mut out, Kind::FORMAT_DESCRIPTION, &format, true);
    for (kind, body) in events {
        push(&mut out, *kind, body, checksum);
    }
    out
}

fn push(out: &mut Vec<u8>, kind: Kind, body: &[u8], checksum: bool) {
    let length = (Header::LEN + body.len() + if checksum { 4 } else { 0 }) as u32;
    let log_pos = out.len() as u32 + length;
    let header = Header { timestamp: 1_700_000_000, kind, server_id: 7, length, log_pos, flags: 0 };
    let mut event = header.encode().to_vec();
    event.extend_from_slice(body);
    if checksum {
        let crc = super::checksum::of(kind, &event);
        event.extend_from_slice(&crc.to_le_bytes());
    }
    out.extend_from_slice(&event);
}

fn query(statement: &str) -> (Kind, Vec<u8>) {
    let mut body = vec![0; 8];
    body.extend_from_slice(&[1, 0, 0, 0, 0, b'd', 0]);
    body.extend_from_slice(statement.as_bytes());
    (Kind::QUERY, body)
}

fn maria(sequence: u64, flags: u8) -> (Kind, Vec<u8>) {
    let mut body = sequence.to_le_bytes().to_vec();
    body.extend_from_slice(&[0, 0, 0, 0, flags, 0, 0, 0, 0, 0, 0]);
    (Kind::MARIA_GTID, body)
}

/// All events, or the error.
fn read(bytes: &[u8]) -> Result<Vec<(Kind, Mark)>, EventError> {
    let (mut reader, mut grouper, mut rest, mut found) = (Reader::new(0), Grouper::default(), bytes, Vec::new());
    loop {
        match reader.next(rest)? {
            Step::More { .. } => return Ok(found),
            Step::Magic => rest = &rest[MAGIC.len()..],
            Step::Event(event) => {
                found.push((event.header.kind, grouper.next(&event)?));
                rest = &rest[event.header.length as usize..];
            }
        }
    }
}

fn marks(bytes: &[u8]) -> Vec<&'static str> {
    let name = |mark: &Mark| match mark {
        Mark::Outside => "outside",
        Mark::Begin => "begin",
        Mark::Inside => "inside",
        Mark::End(_) => "end",
    };
    read(bytes).unwrap().iter().map(|(_, mark)| name(mark)).collect()
}

#[test]
fn transactions_of_mariadb_end_where_the_server_ends_them() {
    let xid = (Kind::XID, vec![0; 8]);
    let rows = (Kind::WRITE_ROWS_V1, vec![0; 30]);
    let annotate = (Kind::ANNOTATE_ROWS, b"insert".to_vec());
    let events = [maria(1, 1), query("CREATE TABLE t (a INT)"), maria(2, 4), annotate, rows.clone(), xid];
    assert_eq!(marks(&file(true, &events)), ["outside", "begin", "end", "begin", "inside", "inside", "end"]);
    let events = [maria(1, 0), query("UPDATE t SET a = 1"), query("COMMIT"), maria(2, 1), rows, query("x")];
    assert_eq!(marks(&file(true, &events)), ["outside", "begin", "inside", "end", "begin", "inside", "end"]);
}

#[test]
fn a_log_without_identifiers_has_transactions_too() {
    let events = [query("BEGIN"), query("INSERT INTO t VALUES (1)"), query("COMMIT"), query("DROP TABLE t")];
    assert_eq!(marks(&file(false, &events)), ["outside", "begin", "inside", "end", "end"]);
}

#[test]
fn every_changed_byte_is_noticed() {
    let whole = file(true, &[maria(1, 1), query("DROP TABLE t")]);
    assert!(read(&whole).is_ok());
    for at in 0..whole.len() {
        // The flag that tells whether the file is in use is not covered, and a length may reach beyond the end.
        let excused = at == 4 + Header::FLAGS_AT;
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        let found = read(&damaged).map(|events| events.len());
        assert!(excused || found != Ok(3), "byte {at}: {found:?}");
    }
}

#[test]
fn an_unknown_kind_is_kept_only_if_it_may_be_ignored() {
    let mut bytes = file(false, &[(Kind(99), vec![1, 2, 3])]);
    assert!(matches!(read(&bytes), Err(EventError { damage: Damage::Unknown(99), .. })));
    let at = bytes.len() - 3 - Header::LEN + Header::FLAGS_AT;
    bytes[at] = flag::IGNORABLE as u8;
    assert_eq!(read(&bytes).unwrap().last(), Some(&(Kind(99), Mark::Outside)));
}

#[test]
fn offsets_wrap_at_four_gibibytes_and_nothing_else_does() {
    let whole = file(false, &[query("DROP TABLE t")]);
    let at = whole.len() - (Header::LEN + query("DROP TABLE t").1.len());
    let format =
        Format { server_version: String::new(), created: 0, checksum: Checksum::None, flavour: Flavour::Mysql };
    for (offset, good) in [(at as u64, true), (at as u64 + (1 << 32), true), (at as u64 + 1, false)] {
        let mut reader = Reader::with_format(offset, format.clone());
        assert_eq!(reader.next(&whole[at..]).is_ok(), good, "{offset}");
    }
}

#[test]
fn encrypted_files_and_other_files_are_told_apart() {
    assert!(matches!(read(b"\xfdbinxxxx"), Err(EventError { damage: Damage::Encrypted, .. })));
    assert!(matches!(read(b"PK\x03\x04"), Err(EventError { damage: Damage::Magic, .. })));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(tail in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), kind in 0u8..=200) {
        let _ = read(&tail);
        let _ = read(&file(true, &[(Kind(kind), tail)]));
    }
}

/// The events of bytes that come in pieces of a given size.
fn feed(bytes: &[u8], size: usize) -> Result<Vec<(Kind, u64, Vec<u8>)>, EventError> {
    let (mut feed, mut found) = (Feed::new(Reader::new(0)), Vec::new());
    for mut piece in bytes.chunks(size) {
        while let Some(event) = feed.next(&mut piece)? {
            found.push((event.header.kind, event.offset, event.body.to_vec()));
        }
    }
    assert_eq!(feed.offset(), bytes.len() as u64);
    Ok(found)
}

#[test]
fn the_size_of_pieces_changes_nothing() {
    let large = (Kind::WRITE_ROWS_V1, (0..70_000u32).map(|n| n as u8).collect());
    for checksum in [true, false] {
        let whole = file(checksum, &[maria(1, 1), query("DROP TABLE t"), maria(2, 4), large.clone(), query("COMMIT")]);
        let expected = feed(&whole, whole.len()).unwrap();
        assert_eq!(expected.len(), 6);
        for size in [1, 2, 3, 7, 18, 19, 20, 64, 4_096, 65_536] {
            assert_eq!(feed(&whole, size).unwrap(), expected, "pieces of {size}");
        }
        let mut damaged = whole.clone();
        let at = damaged.len() - 300;
        damaged[at] ^= 1;
        assert_eq!(feed(&damaged, 1_000).is_err(), checksum);
    }
}

/// Bodies of MariaDB 10.11.18 with `binlog_alter_two_phase = ON`, of one `ALTER TABLE … ALGORITHM = COPY`.
#[test]
fn a_definition_that_changes_in_two_phases_is_seen_to_begin_and_to_end() {
    use super::body::{MariaGtidEvent, Phase};
    let phase = |digits: &str| {
        let body = hex::decode(digits).unwrap();
        let kind = Kind::MARIA_GTID;
        let header = Header { timestamp: 1, kind, server_id: 1, length: 19 + body.len() as u32, log_pos: 0, flags: 8 };
        MariaGtidEvent::parse(&Event { offset: 4, header, body: &body }).unwrap().phase
    };
    assert_eq!(phase("52000000000000000000000029020000000000"), Some(Phase::Begin));
    assert_eq!(phase("53000000000000000000000029045200000000000000"), Some(Phase::End(0x52)));
    assert_eq!(phase("34000000000000000000000029000000000000"), None, "a plain one");
    assert_eq!(phase("34000000000000000000000029"), None, "of an older server");
}
