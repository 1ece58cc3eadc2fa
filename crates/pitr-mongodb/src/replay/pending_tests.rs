#![allow(clippy::unwrap_used)]

use bson::{Document, RawDocument, doc};

use super::*;
use crate::position::{OpTime, Stamp};
use Kind::{Delete, Insert, Update as Change};

fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).unwrap()
}

/// A write on the document of this `_id`; updates and deletes do not carry it in `o`.
fn write(kind: Kind, id: i32, o: &Document) -> Ready {
    let o2 = (kind == Change).then(|| rawdoc! { "_id": id });
    let at = OpTime { term: 1, stamp: Stamp::new(1, 1) };
    let (hash, open) = (u64::try_from(id).unwrap(), kind == Insert);
    Ready { kind, ns: "a.b".into(), o: raw(o), o2, hash, open, at, tolerant: false, folds: true }
}

fn set(field: &str, value: i32) -> Document {
    doc! { "$v": 2, "diff": { "u": { field: value } } }
}

fn sent(writes: Vec<Ready>) -> Vec<(Kind, Document, bool)> {
    let mut pending = Pending::default();
    writes.into_iter().for_each(|write| pending.push(write));
    let batch = pending.batch();
    assert!(pending.is_empty() && pending.bytes == 0 && pending.last.is_empty());
    let document = |o: &RawDocument| Document::try_from(o).unwrap();
    batch.iter().map(|ready| (ready.kind, document(&ready.o), ready.is_plain())).collect()
}

#[test]
fn writes_that_stand_on_each_other_become_one() {
    let new = doc! { "_id": 1, "n": 1, "m": 1 };
    let whole = doc! { "_id": 1, "n": 5 };
    let writes = vec![write(Insert, 1, &new), write(Change, 1, &set("n", 2)), write(Change, 1, &set("m", 3))];
    assert_eq!(sent(writes), [(Insert, doc! { "_id": 1, "n": 2, "m": 3 }, true)]);
    let writes = vec![write(Insert, 1, &new), write(Change, 1, &whole), write(Change, 1, &set("n", 6))];
    assert_eq!(sent(writes), [(Insert, doc! { "_id": 1, "n": 6 }, true)]);
    let writes = vec![write(Change, 1, &set("n", 2)), write(Change, 1, &set("m", 3)), write(Change, 1, &set("n", 4))];
    assert_eq!(sent(writes), [(Change, doc! { "$v": 2, "diff": { "u": { "n": 4, "m": 3 } } }, false)]);
    let writes = vec![write(Change, 1, &set("m", 2)), write(Change, 1, &whole), write(Change, 1, &set("n", 2))];
    assert_eq!(sent(writes), [(Change, doc! { "_id": 1, "n": 2 }, false)]);
    let gone = doc! { "_id": 1 };
    assert_eq!(sent(vec![write(Change, 1, &set("n", 2)), write(Delete, 1, &gone)]), [(Delete, gone.clone(), false)]);
    let writes = vec![write(Insert, 1, &new), write(Change, 1, &set("n", 2)), write(Delete, 1, &gone)];
    assert_eq!(sent(writes), []);
    // What was there before is still to be deleted, and what is new comes after.
    let writes =
        vec![write(Delete, 1, &gone), write(Insert, 1, &new), write(Delete, 1, &gone), write(Insert, 1, &whole)];
    assert_eq!(sent(writes), [(Delete, gone, false), (Insert, whole, true)]);
}

#[test]
fn what_is_not_known_to_stand_on_the_last_write_comes_after_it() {
    let new = doc! { "_id": 1, "n": 1 };
    let update = || write(Change, 1, &set("n", 2));
    let kept = |first: Ready, second: Ready| assert_eq!(sent(vec![first, second]).len(), 2);
    kept(Ready { folds: false, ..write(Insert, 1, &new) }, update());
    kept(write(Insert, 1, &new), Ready { folds: false, ..update() });
    kept(write(Insert, 1, &new), Ready { ns: "a.c".into(), ..update() });
    // One hash, two documents; or one document, whose `_id` is written in two ways.
    kept(write(Insert, 1, &new), Ready { hash: 1, ..write(Change, 2, &set("n", 2)) });
    kept(write(Insert, 1, &new), Ready { o2: Some(rawdoc! { "_id": 1.0 }), ..update() });
    kept(write(Insert, 1, &new), write(Change, 1, &doc! { "$v": 1, "$set": { "n": 2 } }));
    kept(write(Insert, 1, &new), write(Change, 1, &set("gone", 2)));
    // Behind such a write nothing becomes one with what was before it.
    let writes = vec![write(Insert, 1, &new), Ready { folds: false, ..update() }, write(Delete, 1, &doc! { "_id": 1 })];
    assert_eq!(sent(writes).len(), 3);
    // A client's insert would put the time there.
    let empty = bson::Timestamp { time: 0, increment: 0 };
    let writes = vec![write(Insert, 1, &new), write(Change, 1, &doc! { "$v": 2, "diff": { "u": { "n": empty } } })];
    assert_eq!(sent(writes), [(Insert, doc! { "_id": 1, "n": empty }, false)]);
}

#[test]
fn the_oldest_leave_first_and_few_at_once() {
    let mut pending = Pending::default();
    for id in 0..i32::try_from(WINDOW_WRITES).unwrap() {
        assert!(!pending.is_full_for(100));
        pending.push(write(Insert, id, &doc! { "_id": id, "n": 1 }));
    }
    assert!(pending.is_full_for(100));
    let batch = pending.batch();
    assert_eq!((batch.len(), batch[0].hash), (BATCH_WRITES, 0));
    assert!(!pending.is_full_for(100));
    // The first has left, the second batch has not.
    let second = i32::try_from(BATCH_WRITES).unwrap();
    pending.push(write(Change, 0, &set("n", 2)));
    pending.push(write(Change, second, &set("n", 2)));
    assert_eq!(pending.batch()[0].o.get_i32("n").unwrap(), 2);
    while pending.writes.len() > 1 {
        pending.batch();
    }
    let last = pending.batch();
    assert_eq!((last.len(), last[0].kind, pending.last.len()), (1, Change, 0));
    // Large ones go alone.
    let large = doc! { "_id": 1, "text": "x".repeat(BATCH_BYTES) };
    pending.push(write(Insert, 1, &large));
    pending.push(write(Insert, 2, &doc! { "_id": 2 }));
    assert!(pending.is_full_for(WINDOW_BYTES));
    assert_eq!((pending.batch().len(), pending.batch().len()), (1, 1));
}
