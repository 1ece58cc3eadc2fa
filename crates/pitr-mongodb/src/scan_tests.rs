#![allow(clippy::unwrap_used)]

use bson::{DateTime, Document, Timestamp, doc};

use super::*;
use crate::note;

fn entry(increment: u32, op: &str, o: Document) -> Document {
    doc! {
        "op": op, "ns": "a.b", "o": o, "ts": Timestamp { time: 100, increment }, "t": 5_i64,
        "wall": DateTime::from_millis(100_000 + i64::from(increment)),
    }
}

fn bytes(documents: &[Document]) -> Vec<u8> {
    documents.iter().flat_map(|document| document.to_vec().unwrap()).collect()
}

#[test]
fn writes_are_commits_and_notes_are_marks_and_clocks() {
    let log = bytes(&[
        entry(1, "i", doc! { "_id": 1 }),
        entry(2, "n", note::heartbeat()),
        entry(3, "n", note::mark_data("before_deploy")),
        entry(4, "d", doc! { "_id": 1 }),
    ]);
    let scan = scan(&log).unwrap();
    let what: Vec<_> = scan.events.iter().map(|event| event.what.clone()).collect();
    assert_eq!(what, [What::Commit, What::Clock, What::Mark("before_deploy".into()), What::Commit]);
    assert_eq!(scan.events[0].begin.to_string(), "5:100.1");
    assert_eq!(scan.events[0].end.to_string(), "5:100.2");
    assert_eq!(scan.events[0].transaction.as_deref(), Some("100.1"));
    assert_eq!(scan.last_record.unwrap().1.to_string(), "5:100.5");
}

#[test]
fn the_header_agrees_with_the_scan() {
    let log = bytes(&[
        entry(1, "i", doc! { "_id": 1 }),
        entry(2, "c", doc! { "frobnicate": 1 }),
        entry(3, "c", doc! { "to some. person": 1 }),
        entry(9, "n", note::mark_data("x")),
    ]);
    let mut tally = Tally::default();
    let warned: Vec<_> = Entries::new(&log).filter_map(|entry| tally.add(&entry.unwrap())).collect();
    assert_eq!(warned, ["frobnicate", "to some. person"]);
    assert_eq!((tally.commits().count, tally.marks(), tally.entries()), (3, 1, 4));
    assert_eq!(tally.commits().max.unwrap().timestamp_millis(), 100_003);
    assert_eq!(tally.commits().reaches.unwrap().timestamp_millis(), 100_009);
    assert_eq!(tally.facts()[facts::UNKNOWN], "frobnicate unreadable", "a key that a user made is not repeated");
}
