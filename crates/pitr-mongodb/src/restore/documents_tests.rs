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

/// What comes of content that arrives in pieces of this size: bytes and number of the documents of each batch.
fn batches(content: &[u8], piece: usize) -> Vec<(Vec<u8>, u64)> {
    let mut part = Part { total: content.len() as u64, ..Part::default() };
    let budget = Arc::new(Budget::new(BATCHES_MEMORY));
    let batches = Mutex::new(Vec::new());
    for piece in content.chunks(piece) {
        let take = |batch, count, _| {
            batches.lock().unwrap().push((batch, count));
            Ok(())
        };
        part.accept(piece, |bytes| Budget::share(&budget, bytes), take).unwrap();
        assert!(part.open.capacity() <= BATCH_BYTES.max(LARGE_DOCUMENT) + piece.len());
    }
    assert!(part.open.is_empty() && part.large.is_none());
    batches.into_inner().unwrap()
}

#[test]
fn batches_are_made_of_whole_documents() {
    let document = raw(doc! { "_id": 1, "x": "y".repeat(1000) }).into_bytes();
    let all = document.repeat(3000);
    let batches = batches(&all, 100_003);
    assert!(batches.iter().all(|(bytes, _)| bytes.len() % document.len() == 0));
    let whole: Vec<u8> = batches.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
    assert_eq!((whole, batches.iter().map(|(_, count)| count).sum::<u64>()), (all, 3000));
}

#[test]
fn large_documents_go_alone_and_wait_outside_of_the_memory() {
    let document = |bytes: usize| raw(doc! { "_id": 1, "x": "y".repeat(bytes) }).into_bytes();
    let sizes = [1000, LARGE_DOCUMENT - 100, 16 << 20, 10, 10, LARGE_DOCUMENT, 5 << 20, 7];
    let all: Vec<u8> = sizes.into_iter().flat_map(document).collect();
    for piece in [1 << 20, 2 << 20, (1 << 20) + 7, 20 << 20] {
        let batches = batches(&all, piece);
        let counts: Vec<u64> = batches.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [1, 1, 1, 2, 1, 1, 1], "{piece}");
        assert!(batches.iter().flat_map(|(bytes, _)| bytes.iter()).eq(&all), "{piece}");
    }
    let mut part = Part { total: all.len() as u64, ..Part::default() };
    let budget = Arc::new(Budget::new(BATCHES_MEMORY));
    part.accept(&document(16 << 20)[..8 << 20], |bytes| Budget::share(&budget, bytes), |_, _, _| Ok(())).unwrap();
    let large = part.large.unwrap();
    assert_eq!((large.held, part.open.capacity()), (8 << 20, 0));
    assert!(large.pieces.iter().all(|piece| matches!(piece, Piece::File(..))));
}

#[test]
fn a_length_that_no_document_has_is_damage() {
    let mut part = Part { total: 100, ..Part::default() };
    let budget = Arc::new(Budget::new(BATCHES_MEMORY));
    assert!(part.accept(&[0xFF; 8], |bytes| Budget::share(&budget, bytes), |_, _, _| Ok(())).is_err());
}
