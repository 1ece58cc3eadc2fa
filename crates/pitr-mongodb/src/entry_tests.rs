#![allow(clippy::unwrap_used)]

use bson::{Bson, DateTime, Document, Timestamp, doc, spec::BinarySubtype};
use proptest::prelude::*;

use super::*;

pub(crate) fn entry(op: &str, ns: &str, o: Document) -> Document {
    doc! {
        "op": op, "ns": ns, "o": o, "ts": Timestamp { time: 1_700_000_000, increment: 3 }, "t": 5_i64, "v": 2_i64,
        "wall": DateTime::from_millis(1_700_000_000_123),
    }
}

fn bytes(documents: &[Document]) -> Vec<u8> {
    documents.iter().flat_map(|document| document.to_vec().unwrap()).collect()
}

fn one(document: Document) -> (Vec<u8>, usize) {
    let bytes = bytes(&[document]);
    let length = bytes.len();
    (bytes, length)
}

fn in_session(mut document: Document, number: i64) -> Document {
    document
        .insert("lsid", doc! { "id": Bson::Binary(bson::Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] }) });
    document.insert("txnNumber", number);
    document
}

fn meaning_of(document: Document, check: impl FnOnce(Meaning<'_>)) {
    let (bytes, _) = one(document);
    check(Entry::decode(&bytes, 0).unwrap().meaning());
}

#[test]
fn an_entry_is_read_without_changing_a_byte() {
    let mut document = entry("u", "shop.orders", doc! { "$v": 2, "diff": { "u": { "a": 1 } } });
    document.insert("o2", doc! { "_id": 7 });
    document.insert("ui", bson::Uuid::from_bytes([9; 16]));
    let (bytes, _) = one(document);
    let entry = Entry::decode(&bytes, 0).unwrap();
    assert_eq!(entry.raw.as_bytes(), bytes);
    assert_eq!(entry.optime.to_string(), "1700000000.3 (term 5)");
    assert_eq!(entry.wall.unwrap().timestamp_millis(), 1_700_000_000_123);
    assert_eq!((entry.op, entry.ns, entry.uuid), (Op::Update, "shop.orders", Some([9; 16])));
    assert_eq!(entry.o2.unwrap().get_i32("_id").unwrap(), 7);
}

#[test]
fn every_shape_of_a_transaction_is_told_apart() {
    let ops = doc! { "applyOps": [] };
    let with = |extra: Document| {
        let mut o = ops.clone();
        o.extend(extra);
        in_session(entry("c", "admin.$cmd", o), 4)
    };
    meaning_of(with(doc! { "partialTxn": true }), |m| assert!(matches!(m, Meaning::Part(s) if s.number == 4)));
    meaning_of(with(doc! { "count": 2_i64 }), |m| assert!(matches!(m, Meaning::LastPart(_))));
    meaning_of(with(doc! {}), |m| assert!(matches!(m, Meaning::LastPart(_))));
    meaning_of(with(doc! { "prepare": true }), |m| assert!(matches!(m, Meaning::Prepared(_))));
    let commit = doc! { "commitTransaction": 1, "commitTimestamp": Timestamp { time: 9, increment: 1 } };
    meaning_of(in_session(entry("c", "admin.$cmd", commit), 4), |m| {
        assert!(matches!(m, Meaning::Commit(_, at) if at == Stamp::new(9, 1)));
    });
    meaning_of(in_session(entry("c", "admin.$cmd", doc! { "abortTransaction": 1 }), 4), |m| {
        assert!(matches!(m, Meaning::Abort(_)));
    });
}

#[test]
fn grouped_writes_are_visible_on_sight() {
    // Batched deletes have no session; vectored inserts of a retryable write have one, and say so.
    meaning_of(entry("c", "admin.$cmd", doc! { "applyOps": [] }), |m| assert_eq!(m, Meaning::Write));
    let mut vectored = in_session(entry("c", "admin.$cmd", doc! { "applyOps": [] }), 4);
    vectored.insert("multiOpType", 1);
    meaning_of(vectored, |m| assert_eq!(m, Meaning::Write));
}

#[test]
fn what_is_new_is_unknown_and_what_is_internal_is_nothing() {
    meaning_of(entry("c", "x.$cmd", doc! { "frobnicate": 1 }), |m| assert_eq!(m, Meaning::Unknown("frobnicate")));
    meaning_of(entry("zz", "x.y", doc! {}), |m| assert_eq!(m, Meaning::Unknown("zz")));
    meaning_of(entry("km", "x.y", doc! {}), |m| assert_eq!(m, Meaning::Nothing));
    meaning_of(entry("n", "", doc! { "msg": "periodic noop" }), |m| assert_eq!(m, Meaning::Nothing));
}

#[test]
fn damage_is_an_error_at_its_place() {
    let good = entry("i", "a.b", doc! { "_id": 1 });
    let (one, length) = one(good.clone());
    let cut = [one.clone(), one[..length - 1].to_vec()].concat();
    let read: Vec<_> = Entries::new(&cut).collect();
    assert!(read[0].is_ok());
    assert_eq!(read[1].as_ref().unwrap_err().offset, length);
    assert_eq!(read.len(), 2);
    for missing in ["ts", "op", "ns", "o"] {
        let mut bad = good.clone();
        bad.remove(missing);
        let error = Entry::decode(&bytes(&[bad]), 40).unwrap_err();
        assert!(error.to_string().contains(missing) && error.offset == 40, "{error}");
    }
    let mut bad = good;
    bad.insert("ts", "yesterday");
    assert!(Entry::decode(&bytes(&[bad]), 0).is_err());
}

#[test]
fn an_entry_may_be_a_little_larger_than_a_document() {
    let large = entry("i", "a.b", doc! { "_id": 1, "x": "y".repeat(16 << 20) });
    let bytes = bytes(&[large]);
    assert!(bytes.len() > 16 << 20);
    assert_eq!(Entries::new(&bytes).filter(Result::is_ok).count(), 1);
    let mut length = bytes;
    length[..4].copy_from_slice(&u32::to_le_bytes(MAX_ENTRY as u32 + 1));
    assert!(Entries::new(&length).next().unwrap().is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for entry in Entries::new(&bytes).flatten() {
            entry.meaning();
        }
    }

    #[test]
    fn no_damage_makes_the_decoder_panic(at in 0usize..200, value in any::<u8>()) {
        let mut o = doc! { "applyOps": [{ "op": "i", "ns": "a.b", "o": { "_id": 1 } }], "partialTxn": true };
        o.insert("x", 1);
        let mut bytes = bytes(&[in_session(entry("c", "admin.$cmd", o), 4)]);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
        for entry in Entries::new(&bytes).flatten() {
            entry.meaning();
            if let Some(operations) = entry.operations() {
                operations.into_iter().for_each(drop);
            }
        }
    }
}
