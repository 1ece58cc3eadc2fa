//! The oplog entry decoder: bytes in; entry, or damage at a position out.
//!
//! An archived segment is a run of whole BSON documents, exactly as the server keeps them in `local.oplog.rs`:
//! `bsondump` reads it as it is. Nothing is copied here: an [`Entry`] borrows from the segment's bytes, and only
//! the fields that a tail, a scan or a replay needs are looked at.

use bson::RawDocument;
use bson::spec::ElementType;
use pitr_core::Timestamp;

use crate::limits::MAX_ENTRY;
use crate::position::{OpTime, Stamp};
use crate::raw::{self, Field};

/// What is wrong with bytes that should be oplog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {what}")]
pub struct EntryError {
    /// Offset of the entry in the bytes that were decoded.
    pub offset: usize,
    /// What is wrong there.
    pub what: String,
}

/// The letter of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op<'a> {
    /// `i`: a document came into being.
    Insert,
    /// `u`: a document changed.
    Update,
    /// `d`: a document went away.
    Delete,
    /// `c`: a command, by its first key.
    Command(&'a str),
    /// `n`: nothing happened.
    Noop,
    /// Anything else: index internals of later servers (`xi`, `km`, `ci`…), or something new.
    Other(&'a str),
}

/// A session's transaction, or its retryable write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Session<'a> {
    /// The logical session identifier, as it stands.
    pub lsid: &'a RawDocument,
    /// Number within the session.
    pub number: i64,
}

impl Session<'_> {
    /// A key that tells two transactions apart.
    pub fn key(&self) -> (Vec<u8>, i64) {
        (self.lsid.as_bytes().to_vec(), self.number)
    }
}

/// One entry of the oplog.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The whole document.
    pub raw: &'a RawDocument,
    /// Its identity.
    pub optime: OpTime,
    /// When the primary wrote it, by its wall clock.
    pub wall: Option<Timestamp>,
    /// What it does.
    pub op: Op<'a>,
    /// `database.collection`; empty for a noop.
    pub ns: &'a str,
    /// Identifier of the collection.
    pub uuid: Option<[u8; 16]>,
    /// The operation's object.
    pub o: &'a RawDocument,
    /// The second object: of an update, what it applies to.
    pub o2: Option<&'a RawDocument>,
    /// The session and transaction, where there is one.
    pub session: Option<Session<'a>>,
    /// True for grouped inserts of a retryable write, which look like a transaction and are none.
    pub grouped: bool,
}

/// What an entry means for whoever reads the log in order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Meaning<'a> {
    /// Nothing a user sees.
    Nothing,
    /// A write that is visible on its own: a document, a command, or a group of operations.
    Write,
    /// Operations of a transaction that is not decided yet.
    Part(Session<'a>),
    /// Operations of a transaction, and its commit.
    LastPart(Session<'a>),
    /// The last operations of a transaction that waits for its decision.
    Prepared(Session<'a>),
    /// The commit of a prepared transaction, visible as of a timestamp.
    Commit(Session<'a>, Stamp),
    /// The end of a transaction that never happened.
    Abort(Session<'a>),
    /// Something that this version does not know.
    Unknown(&'a str),
}

impl<'a> Entry<'a> {
    /// Reads one document, which stands at `offset` of something larger, for errors.
    pub fn decode(bytes: &'a [u8], offset: usize) -> Result<Self, EntryError> {
        let raw = RawDocument::from_bytes(bytes).map_err(|error| damage(offset, error))?;
        let mut fields = Fields::default();
        for field in raw::fields(raw) {
            let field = field.map_err(|error| damage(offset, error))?;
            fields.take(field).ok_or_else(|| malformed(offset, &String::from_utf8_lossy(field.key)))?;
        }
        let missing = |key: &str| EntryError { offset, what: format!("no field {key:?}: not an oplog entry") };
        let o = fields.o.ok_or_else(|| missing("o"))?;
        let op = match fields.op.ok_or_else(|| missing("op"))? {
            "i" => Op::Insert,
            "u" => Op::Update,
            "d" => Op::Delete,
            "n" => Op::Noop,
            "c" => Op::Command(first_key(o).ok_or_else(|| malformed(offset, "o"))?),
            other => Op::Other(other),
        };
        let session = fields.lsid.zip(fields.number).map(|(lsid, number)| Session { lsid, number });
        Ok(Self {
            raw,
            optime: OpTime { term: fields.term.unwrap_or(-1), stamp: fields.ts.ok_or_else(|| missing("ts"))? },
            wall: fields.wall,
            op,
            ns: fields.ns.ok_or_else(|| missing("ns"))?,
            uuid: fields.uuid,
            o,
            o2: fields.o2,
            session,
            grouped: fields.grouped,
        })
    }

    /// What it means.
    pub fn meaning(&self) -> Meaning<'a> {
        let name = match self.op {
            Op::Insert | Op::Update | Op::Delete => return Meaning::Write,
            Op::Noop => return Meaning::Nothing,
            // Record identifiers and index internals: the target makes its own.
            Op::Other("xi" | "xd" | "ci" | "cu" | "cd" | "km") => return Meaning::Nothing,
            Op::Other(other) => return Meaning::Unknown(other),
            Op::Command(name) => name,
        };
        match (name, self.session) {
            ("applyOps", Some(session)) if !self.grouped => {
                if self.is_set("partialTxn") {
                    Meaning::Part(session)
                } else if self.is_set("prepare") {
                    Meaning::Prepared(session)
                } else {
                    Meaning::LastPart(session)
                }
            }
            ("commitTransaction", Some(session)) => {
                let stamp = self.o.get_timestamp("commitTimestamp").ok().map(Stamp::from);
                Meaning::Commit(session, stamp.unwrap_or(self.optime.stamp))
            }
            ("abortTransaction", Some(session)) => Meaning::Abort(session),
            (name, _) if crate::commands::policy(name) == crate::commands::Policy::Unknown => Meaning::Unknown(name),
            _ => Meaning::Write,
        }
    }

    /// The operations of an `applyOps` entry.
    pub fn operations(&self) -> Option<&'a bson::RawArray> {
        self.o.get_array("applyOps").ok()
    }

    fn is_set(&self, flag: &str) -> bool {
        self.o.get_bool(flag).unwrap_or(false)
    }
}

/// The first key of a document: of a command, its name.
pub fn first_key(document: &RawDocument) -> Option<&str> {
    document.iter_elements().next()?.ok().map(|element| element.key().as_str())
}

#[derive(Default)]
struct Fields<'a> {
    ts: Option<Stamp>,
    term: Option<i64>,
    wall: Option<Timestamp>,
    op: Option<&'a str>,
    ns: Option<&'a str>,
    uuid: Option<[u8; 16]>,
    o: Option<&'a RawDocument>,
    o2: Option<&'a RawDocument>,
    lsid: Option<&'a RawDocument>,
    number: Option<i64>,
    grouped: bool,
}

impl<'a> Fields<'a> {
    /// Keeps a field if it is one that is needed; `None` if it has a type that no server gives it.
    ///
    /// Only what is asked for is looked at: a user's document may hold anything.
    fn take(&mut self, field: Field<'a>) -> Option<()> {
        match field.key {
            b"ts" => self.ts = Some(field.as_timestamp()?.into()),
            b"t" => self.term = Some(field.as_integer()?),
            b"wall" => self.wall = Timestamp::from_timestamp_millis(field.as_millis()?),
            b"op" => self.op = Some(field.as_str()?),
            b"ns" => self.ns = Some(field.as_str()?),
            b"ui" => self.uuid = field.as_uuid(),
            b"o" => self.o = Some(field.as_document().filter(|_| field.kind == ElementType::EmbeddedDocument)?),
            b"o2" => self.o2 = field.as_document(),
            b"lsid" => self.lsid = field.as_document(),
            b"txnNumber" => self.number = field.as_integer(),
            b"multiOpType" => self.grouped = field.as_integer() == Some(1),
            _ => {}
        }
        Some(())
    }
}

fn damage(offset: usize, error: impl std::fmt::Display) -> EntryError {
    EntryError { offset, what: error.to_string() }
}

fn malformed(offset: usize, key: &str) -> EntryError {
    EntryError { offset, what: format!("field {key:?} has a type that no server gives it") }
}

/// The entries of a run of bytes, in order, each with its offset. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    bytes: &'a [u8],
    at: usize,
    broken: bool,
}

impl<'a> Entries<'a> {
    /// Reads whole entries from the begin of `bytes` to their end.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, broken: false }
    }

    /// How far it has read, in bytes.
    pub fn offset(&self) -> usize {
        self.at
    }

    fn read(&mut self) -> Result<Option<Entry<'a>>, EntryError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let offset = self.at;
        let length = rest.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
        if !(5..=MAX_ENTRY).contains(&length) {
            return Err(EntryError { offset, what: format!("an entry of {length} bytes") });
        }
        let Some(document) = rest.get(..length) else {
            return Err(EntryError { offset, what: format!("an entry of {length} bytes is cut off") });
        };
        let entry = Entry::decode(document, offset)?;
        self.at += length;
        Ok(Some(entry))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, EntryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.broken {
            return None;
        }
        let next = self.read().transpose();
        self.broken = matches!(next, Some(Err(_)));
        next
    }
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
