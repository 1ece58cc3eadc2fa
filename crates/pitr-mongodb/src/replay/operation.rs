//! One write on a document, on its way to the target.

use std::hash::{Hash, Hasher};

use bson::spec::ElementType;
use bson::{RawBsonRef, RawDocument};

use crate::connect::Piece;
use crate::entry::{Entry, Op};
use crate::limits::MAX_HASH_DEPTH;
use crate::raw::{Field, close, field, fields, open, put_key};

/// A write, as an entry or a part of a transaction holds it.
#[derive(Debug, Clone, Copy)]
pub struct Write<'a> {
    /// Insert, update, delete; a command within a transaction.
    pub op: Op<'a>,
    /// The namespace at that time.
    pub ns: &'a str,
    /// Identifier of the collection.
    pub uuid: Option<[u8; 16]>,
    /// The object.
    pub o: &'a RawDocument,
    /// Of an update, what it applies to.
    pub o2: Option<&'a RawDocument>,
}

impl<'a> Write<'a> {
    /// The write of an entry.
    pub fn of_entry(entry: &Entry<'a>) -> Self {
        Self { op: entry.op, ns: entry.ns, uuid: entry.uuid, o: entry.o, o2: entry.o2 }
    }

    /// A write inside of an `applyOps`; `None` if it is none.
    pub fn of_operation(operation: &'a RawDocument) -> Option<Self> {
        let o = operation.get_document("o").ok()?;
        let op = match operation.get_str("op").ok()? {
            "i" => Op::Insert,
            "u" => Op::Update,
            "d" => Op::Delete,
            "n" => Op::Noop,
            "c" => Op::Command(crate::entry::first_key(o)?),
            other => Op::Other(other),
        };
        Some(Self {
            op,
            ns: operation.get_str("ns").ok()?,
            uuid: field(operation, b"ui").and_then(|id| id.as_uuid()),
            o,
            o2: operation.get_document("o2").ok(),
        })
    }

    /// The value of `_id` of the document that is written.
    pub fn id(&self) -> Option<RawBsonRef<'a>> {
        let holder = if self.op == Op::Update { self.o2? } else { self.o };
        holder.get("_id").ok().flatten()
    }

    /// True for an update that is a whole document with an empty timestamp at its top: a pipeline can leave one, and servers before
    /// 5.0 would put the time there instead, unless it is inserted.
    pub fn must_be_inserted(&self) -> bool {
        self.op == Op::Update && fields(self.o).flatten().any(|field| is_empty_timestamp(&field))
    }

    /// True for an insert into a collection that clients may write.
    pub fn is_open_insert(&self) -> bool {
        let (db, name) = self.ns.split_once('.').unwrap_or((self.ns, ""));
        self.op == Op::Insert && !matches!(db, "admin" | "config" | "local") && !name.starts_with("system.")
    }
}

/// What is done to a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It comes into being.
    Insert,
    /// It changes.
    Update,
    /// It goes away.
    Delete,
}

/// A write as an operation of `applyOps`. Without the identifier of its collection: the target's is another.
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    /// What it does.
    pub kind: Kind,
    /// To a document in which collection.
    pub ns: &'a str,
    /// The object.
    pub o: &'a RawDocument,
    /// `{_id: …}` of an update.
    pub o2: Option<&'a RawDocument>,
}

impl Piece for Operation<'_> {
    fn size(&self) -> usize {
        let text = |key: &str, value: &str| key.len() + value.len() + 7;
        let object = |key: &str, value: &RawDocument| key.len() + value.as_bytes().len() + 2;
        5 + text("op", "i") + text("ns", self.ns) + object("o", self.o) + self.o2.map_or(0, |o2| object("o2", o2))
    }

    fn put(&self, out: &mut Vec<u8>) {
        let op = match self.kind {
            Kind::Insert => "i",
            Kind::Update => "u",
            Kind::Delete => "d",
        };
        let begin = open(out);
        for (key, value) in [("op", op), ("ns", self.ns)] {
            put_key(out, key.as_bytes(), ElementType::String);
            // A name of a collection has 255 bytes at most.
            out.extend_from_slice(&u32::try_from(value.len() + 1).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(value.as_bytes());
            out.push(0);
        }
        for (key, value) in [("o", Some(self.o)), ("o2", self.o2)] {
            if let Some(value) = value {
                put_key(out, key.as_bytes(), ElementType::EmbeddedDocument);
                out.extend_from_slice(value.as_bytes());
            }
        }
        close(out, begin);
    }
}

/// An insert by a client puts `_id` first, and the time into an empty timestamp.
pub fn is_changed_by_insert(document: &RawDocument) -> bool {
    let mut fields = fields(document).flatten();
    let first = fields.next().is_some_and(|field| field.key == b"_id");
    !first || fields.any(|field| is_empty_timestamp(&field))
}

fn is_empty_timestamp(field: &Field<'_>) -> bool {
    field.kind == ElementType::Timestamp && field.value.iter().all(|byte| *byte == 0)
}

/// Hashes a value such that values which the server takes for the same `_id` have the same hash.
///
/// Numbers of different types are the same if they are equal, also inside of documents.
pub fn hash_id<H: Hasher>(value: RawBsonRef<'_>, state: &mut H) {
    hash_value(value, state, 0);
}

fn hash_value<H: Hasher>(value: RawBsonRef<'_>, state: &mut H, depth: usize) {
    match value {
        RawBsonRef::Int32(n) => hash_number(f64::from(n), state),
        RawBsonRef::Int64(n) => hash_number(n as f64, state),
        RawBsonRef::Double(n) => hash_number(n, state),
        RawBsonRef::Decimal128(n) => hash_number(n.to_string().parse().unwrap_or(f64::NAN), state),
        RawBsonRef::String(text) | RawBsonRef::Symbol(text) => text.hash(state),
        RawBsonRef::ObjectId(id) => id.bytes().hash(state),
        RawBsonRef::Boolean(flag) => flag.hash(state),
        RawBsonRef::DateTime(time) => time.timestamp_millis().hash(state),
        RawBsonRef::Timestamp(stamp) => (stamp.time, stamp.increment).hash(state),
        RawBsonRef::Binary(binary) => binary.bytes.hash(state),
        RawBsonRef::Document(document) if depth < MAX_HASH_DEPTH => {
            document.iter().flatten().for_each(|(key, value)| {
                key.as_str().hash(state);
                hash_value(value, state, depth + 1);
            });
        }
        RawBsonRef::Array(array) if depth < MAX_HASH_DEPTH => {
            array.into_iter().flatten().for_each(|value| hash_value(value, state, depth + 1));
        }
        // The rest is rare, or too deep: one hash for all is slower and still right.
        _ => 0_u8.hash(state),
    }
}

fn hash_number<H: Hasher>(number: f64, state: &mut H) {
    let canonical = if number.is_nan() {
        f64::NAN
    } else if number == 0.0 {
        0.0
    } else {
        number
    };
    canonical.to_bits().hash(state);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::hash::DefaultHasher;

    use bson::{Bson, Decimal128, doc};

    use super::*;

    fn hash(value: impl Into<Bson>) -> u64 {
        let bytes = doc! { "_id": value.into() }.to_vec().unwrap();
        let document = RawDocument::from_bytes(&bytes).unwrap();
        let mut state = DefaultHasher::new();
        hash_id(document.get("_id").unwrap().unwrap(), &mut state);
        state.finish()
    }

    #[test]
    fn equal_numbers_of_different_types_stay_on_one_lane() {
        let decimal: Decimal128 = "1.00".parse().unwrap();
        for same in [Bson::from(1_i64), Bson::from(1.0), Bson::from(decimal)] {
            assert_eq!(hash(1_i32), hash(same));
        }
        assert_eq!(hash(0.0), hash(-0.0));
        assert_eq!(hash(f64::NAN), hash(-f64::NAN));
        assert_eq!(hash(doc! { "a": [1] }), hash(doc! { "a": [1_i64] }));
        assert_ne!(hash(1), hash(2));
        assert_ne!(hash("a"), hash("b"));
    }

    #[test]
    fn an_operation_goes_without_the_identifiers_of_the_source() {
        let operation = doc! {
            "op": "u", "ns": "a.b", "ui": bson::Uuid::from_bytes([1; 16]), "o": { "$v": 2 },
            "o2": { "shard": 7, "_id": 3 }, "stmtId": 1,
        };
        let bytes = operation.to_vec().unwrap();
        let write = Write::of_operation(RawDocument::from_bytes(&bytes).unwrap()).unwrap();
        assert_eq!((write.uuid, write.id()), (Some([1; 16]), Some(RawBsonRef::Int32(3))));
        let o2 = bson::rawdoc! { "_id": 3 };
        let sent = Operation { kind: Kind::Update, ns: "a.c", o: write.o, o2: Some(&o2) };
        let mut out = Vec::new();
        sent.put(&mut out);
        let expected = doc! { "op": "u", "ns": "a.c", "o": { "$v": 2 }, "o2": { "_id": 3 } };
        assert_eq!((sent.size(), out), (expected.to_vec().unwrap().len(), expected.to_vec().unwrap()));
    }
}
