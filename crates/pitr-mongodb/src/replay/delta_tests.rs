#![allow(clippy::unwrap_used)]

use bson::{Bson, Document, RawDocumentBuf, Timestamp, doc};
use proptest::prelude::*;

use super::*;

fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).unwrap()
}

fn apply(document: &Document, delta: &Document) -> Option<Document> {
    applied(&raw(document), &raw(delta)).map(|after| Document::try_from(after).unwrap())
}

#[test]
fn fields_are_removed_changed_in_their_place_and_put_at_the_end() {
    let before = doc! { "_id": 1, "a": 1, "b": { "x": 1, "y": [1, { "z": 2 }, 3] }, "c": "text", "d": Bson::Null };
    let delta = doc! {
        "d": { "a": false }, "u": { "c": 7_i64 }, "i": { "new": true, "d": 4.5 },
        "sb": { "i": { "w": Timestamp { time: 1, increment: 2 } }, "sy": { "a": true, "l": 2, "s1": { "u": { "z": 9 } } } },
    };
    let after = doc! {
        "_id": 1, "b": { "x": 1, "y": [1, { "z": 9 }], "w": Timestamp { time: 1, increment: 2 } }, "c": 7_i64, "new": true,
        "d": 4.5,
    };
    let applied = apply(&before, &delta).unwrap();
    // Two documents are also equal if their fields stand in another order.
    assert_eq!(raw(&applied).as_bytes(), raw(&after).as_bytes());
    let longer = apply(&doc! { "a": [1] }, &doc! { "sa": { "a": true, "u1": 2, "u3": 4 } });
    assert_eq!(longer.unwrap(), doc! { "a": [1, 2, Bson::Null, 4] });
}

#[test]
fn what_does_not_fit_a_document_is_left_to_the_server() {
    let document = doc! { "_id": 1, "a": { "x": 1 }, "b": [1, 2] };
    for delta in [
        doc! { "u": { "gone": 1 } },
        doc! { "sgone": { "u": { "x": 1 } } },
        doc! { "sb": { "u": { "x": 1 } } },
        doc! { "sa": { "a": true, "u0": 1 } },
        doc! { "sb": { "a": true, "s7": { "u": { "x": 1 } } } },
        doc! { "b": { "a": { "o": 1, "d": "binary" } } },
        doc! { "u": { "a": 1 }, "sa": { "u": { "x": 1 } } },
        doc! { "sb": { "a": true, "l": -1 } },
        doc! { "sb": { "a": true, "l": 2_000_000_000 } },
        doc! { "sb": { "a": true, "x1": 1 } },
        doc! { "sb": { "a": true, "u-1": 1 } },
        doc! { "u": 1 },
    ] {
        assert_eq!(apply(&document, &delta), None, "{delta}");
    }
    let mut deep = (doc! { "a": 1 }, doc! { "u": { "a": 2 } });
    for _ in 0..MAX_DELTA_DEPTH + 1 {
        deep = (doc! { "a": deep.0 }, doc! { "sa": deep.1 });
    }
    assert_eq!(apply(&deep.0, &deep.1), None);
}

#[test]
fn what_does_not_follow_the_first_difference_is_not_merged() {
    let merge = |first: Document, second: Document| merged(&raw(&first), &raw(&second));
    assert!(merge(doc! { "d": { "a": false } }, doc! { "u": { "a": 1 } }).is_none());
    assert!(merge(doc! { "d": { "a": false } }, doc! { "sa": { "u": { "x": 1 } } }).is_none());
    assert!(merge(doc! { "u": { "a": 1 } }, doc! { "sa": { "u": { "x": 1 } } }).is_none());
    let cut = doc! { "sa": { "a": true, "l": 3 } };
    assert!(merge(cut.clone(), cut.clone()).is_none());
    assert!(merge(doc! { "sa": { "u": { "x": 1 } } }, cut).is_none());
    let both = merge(doc! { "u": { "n": 1 } }, doc! { "u": { "n": 2 } }).unwrap();
    assert_eq!(both.as_bytes(), raw(&doc! { "u": { "n": 2 } }).as_bytes());
}

#[test]
fn an_update_is_told_by_its_first_field() {
    let delta = raw(&doc! { "x": 1 });
    for (object, expected) in [
        (doc! { "_id": 1, "a": 2 }, Update::Whole(&raw(&doc! { "_id": 1, "a": 2 }))),
        (doc! { "$v": 2, "diff": { "x": 1 } }, Update::Delta(&delta)),
        (doc! { "$v": 1, "$set": { "x": 1 } }, Update::Other),
        (doc! { "$v": 3, "diff": { "x": 1 } }, Update::Other),
        (doc! { "$v": 2, "diff": { "x": 1 }, "more": 1 }, Update::Other),
        (doc! { "$set": { "x": 1 } }, Update::Other),
        (doc! {}, Update::Other),
    ] {
        assert_eq!(Update::of(&raw(&object)), expected, "{object}");
    }
}

/// Numbers from a seed; proptest reports the seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn value(&mut self, depth: u64) -> Bson {
        match self.below(if depth < 4 { 8 } else { 5 }) {
            0 => Bson::Int32(i32::try_from(self.below(1000)).unwrap()),
            1 => Bson::String("é".repeat(usize::try_from(self.below(5)).unwrap())),
            2 => Bson::Null,
            3 => Bson::Boolean(self.below(2) == 0),
            4 => Bson::Int64(i64::try_from(self.below(1000)).unwrap()),
            5 | 6 => Bson::Document(self.document(depth + 1)),
            _ => Bson::Array((0..self.below(5)).map(|_| self.value(depth + 1)).collect()),
        }
    }

    fn document(&mut self, depth: u64) -> Document {
        (0..self.below(6)).map(|_| (self.name(), self.value(depth))).collect()
    }

    /// Few names, so that changes meet: some that look like parts of a difference, and the empty one.
    fn name(&mut self) -> String {
        let names = ["a", "d", "u", "i", "s", "sa", "b", "0", "1", ""];
        names[usize::try_from(self.below(names.len() as u64)).unwrap()].to_owned()
    }

    /// A difference that fits a document, and what is to come of it, worked out with the values themselves.
    fn difference(&mut self, before: &Document) -> (Document, Document) {
        let (mut d, mut u, mut i, mut within) = (doc! {}, doc! {}, doc! {}, Vec::new());
        let (mut after, mut end) = (doc! {}, doc! {});
        for (key, value) in before {
            match (self.below(6), value) {
                (0, _) => drop(d.insert(key, false)),
                (1, _) => {
                    let value = self.value(0);
                    u.insert(key, value.clone());
                    after.insert(key, value);
                }
                (2, _) => drop(end.insert(key, self.value(0))),
                (3 | 4, Bson::Document(inner)) => {
                    let (delta, inner) = self.difference(inner);
                    within.push((key, delta));
                    after.insert(key, inner);
                }
                (3 | 4, Bson::Array(inner)) => {
                    let (delta, inner) = self.difference_of_array(inner);
                    within.push((key, delta));
                    after.insert(key, inner);
                }
                _ => drop(after.insert(key, value.clone())),
            }
        }
        for _ in 0..self.below(3) {
            let key = self.name();
            if !before.contains_key(&key) {
                end.insert(key, self.value(0));
            }
        }
        i.extend(end.clone());
        after.extend(end);
        let mut delta = doc! {};
        for (name, section) in [("d", d), ("u", u), ("i", i)] {
            if !section.is_empty() {
                delta.insert(name, section);
            }
        }
        delta.extend(within.into_iter().map(|(key, inner)| (format!("s{key}"), Bson::Document(inner))));
        (delta, after)
    }

    fn difference_of_array(&mut self, before: &[Bson]) -> (Document, Vec<Bson>) {
        let (mut delta, mut after) = (doc! { "a": true }, before.to_vec());
        if self.below(4) == 0 {
            let length = self.below(before.len() as u64 + 1);
            delta.insert("l", i32::try_from(length).unwrap());
            after.truncate(usize::try_from(length).unwrap());
        }
        for (at, value) in after.iter_mut().enumerate() {
            match (self.below(4), &value) {
                (0, _) => {
                    *value = self.value(0);
                    delta.insert(format!("u{at}"), value.clone());
                }
                (1, Bson::Document(inner)) => {
                    let (inner, new) = self.difference(inner);
                    delta.insert(format!("s{at}"), inner);
                    *value = Bson::Document(new);
                }
                _ => {}
            }
        }
        if self.below(2) == 0 && !delta.contains_key("l") {
            let value = self.value(0);
            delta.insert(format!("u{}", after.len()), value.clone());
            after.push(value);
        }
        (delta, after)
    }
}

proptest! {
    #[test]
    fn differences_are_applied_and_merged_exactly(seed in any::<u64>()) {
        let mut numbers = Numbers(seed);
        let before = numbers.document(0);
        let (first, middle) = numbers.difference(&before);
        let (second, after) = numbers.difference(&middle);
        prop_assert_eq!(applied(&raw(&before), &raw(&first)).unwrap(), raw(&middle), "{} with {}", before, first);
        prop_assert_eq!(applied(&raw(&middle), &raw(&second)).unwrap(), raw(&after), "{} with {}", middle, second);
        if let Some(merged) = merged(&raw(&first), &raw(&second)) {
            prop_assert_eq!(applied(&raw(&before), &merged).unwrap(), raw(&after), "{} with {:?}", before, merged);
        }
    }

    #[test]
    fn damaged_bytes_are_no_difference(bytes in prop::collection::vec(any::<u8>(), 0..64), at in 0..64_usize) {
        let document = raw(&doc! { "a": 1, "b": { "c": [1, 2] } });
        let mut delta = raw(&doc! { "u": { "a": 2 }, "sb": { "sc": { "a": true, "u0": 3 } } }).into_bytes();
        let begin = (4 + at).min(delta.len() - 1);
        let end = (begin + bytes.len()).min(delta.len() - 1);
        delta[begin..end].copy_from_slice(&bytes[..end - begin]);
        let delta = RawDocument::from_bytes(&delta).unwrap();
        if let Some(after) = applied(&document, delta) {
            // Whatever it is, it is a document.
            prop_assert!(fields(&after).all(|field| field.is_ok()));
        }
        drop(merged(delta, delta));
    }
}
