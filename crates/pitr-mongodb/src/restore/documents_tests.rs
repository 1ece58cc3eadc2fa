#![allow(clippy::unwrap_used)]

use bson::{Document, RawDocumentBuf, Timestamp, doc};

use super::*;

fn raw(document: Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(&document).unwrap()
}

#[test]
fn documents_that_an_insert_would_change_are_told_apart() {
    let empty = Timestamp { time: 0, increment: 0 };
    assert!(!is_changed_by_insert(&raw(doc! { "_id": 1, "a": Timestamp { time: 1, increment: 0 } })));
    assert!(is_changed_by_insert(&raw(doc! { "_id": 1, "a": empty })));
    assert!(is_changed_by_insert(&raw(doc! { "a": 1, "_id": 1 })));
    assert!(!is_changed_by_insert(&raw(doc! { "_id": empty, "a": { "b": empty } })), "only what is at the top");
}

#[test]
fn batches_are_made_of_whole_documents() {
    let document = raw(doc! { "_id": 1, "x": "y".repeat(1000) }).into_bytes();
    let all = document.repeat(3000);
    let mut part = Part { total: all.len() as u64, ..Part::default() };
    let (mut bytes, mut documents) = (Vec::new(), 0);
    for piece in all.chunks(100_003) {
        let take = |batch: Vec<u8>, count: u64| {
            assert_eq!(batch.len() % document.len(), 0);
            documents += count;
            bytes.extend_from_slice(&batch);
            Ok(())
        };
        part.accept(piece, take).unwrap();
        assert!(part.open.capacity() <= BATCH_BYTES + piece.len());
    }
    assert_eq!((bytes, documents), (all, 3000));
}

#[test]
fn a_length_that_no_document_has_is_damage() {
    let mut part = Part { total: 100, ..Part::default() };
    assert!(part.accept(&[0xFF; 8], |_, _| Ok(())).is_err());
}
