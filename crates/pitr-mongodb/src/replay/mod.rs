//! Applies log to a target, in parallel and exactly.
//!
//! Writes on documents go to [`lanes`]; commands run alone; transactions wait until they commit and are then applied
//! as a whole. A [`model`] knows which collection has which name at each moment, and collects the indexes, which are
//! built when the log has been applied.

mod ddl;
pub mod delta;
mod inserts;
mod lanes;
pub mod model;
pub mod operation;
mod pending;
pub mod progress;
mod transactions;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bson::rawdoc;

pub(crate) use self::lanes::send;

use self::ddl::Command;
use self::lanes::{Lanes, Ready};
use self::model::Model;
use self::operation::{Kind, Write, hash_id};
use self::progress::{Progress, Reached};
use self::transactions::Transactions;
use crate::base::inventory::is_kept;
use crate::commands::{Policy, policy};
use crate::connect::Member;
use crate::entry::{Entries, Entry, Meaning, Op};
use crate::error::{Error, Result};
use crate::position::{MongoPosition, OpTime, Stamp};

/// What a replay did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries read, also those that change nothing.
    pub entries: u64,
    /// Writes on documents that were applied.
    pub writes: u64,
    /// Transactions of several entries or with a session that were applied.
    pub transactions: u64,
    /// Commands that were applied.
    pub commands: u64,
}

/// Where a replay begins and ends.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// Every write up to here is in the base.
    pub base: Stamp,
    /// What is on the target already. Commands between the base and there are only noted, to know which collections
    /// there are.
    pub before: Reached,
    /// The cut to arrive at: everything before it is applied, and nothing else.
    pub cut: MongoPosition,
}

/// Applies log, segment by segment.
pub struct Replay {
    target: Member,
    lanes: Lanes,
    model: Model,
    transactions: Transactions,
    range: Range,
    progress: Progress,
    /// True if the entry that is being applied held a command.
    commanded: bool,
    /// The last entry that was read.
    last: Option<OpTime>,
    counts: Counts,
}

impl Replay {
    /// A replay onto a target that holds what `model` says.
    pub fn new(target: Member, model: Model, range: Range, progress: Progress) -> Self {
        let lanes = Lanes::new(&target);
        Self {
            target,
            lanes,
            model,
            transactions: Transactions::default(),
            range,
            progress,
            commanded: false,
            last: None,
            counts: Counts::default(),
        }
    }

    /// Applies the entries of one segment that lie before `end`; false once one lies behind the cut.
    pub async fn feed(&mut self, bytes: &[u8], end: Stamp) -> Result<bool> {
        let part = end;
        let end = end.min(self.range.cut.stamp).previous();
        for entry in Entries::new(bytes) {
            let entry = entry?;
            if !(entry.optime.before() < self.range.cut) {
                return Ok(false);
            }
            if entry.optime.stamp >= part {
                break;
            }
            // Two writers cut the log at different places: what was read already is passed over.
            if self.last.is_some_and(|last| entry.optime.stamp <= last.stamp) {
                continue;
            }
            self.last = Some(entry.optime);
            self.counts.entries += 1;
            self.noted(&entry, end.max(entry.optime.stamp)).await?;
        }
        Ok(true)
    }

    /// Applies an entry so that an interruption leaves no doubt about its commands. Nothing behind `end` is sent before
    /// the next note.
    async fn noted(&mut self, entry: &Entry<'_>, end: Stamp) -> Result<()> {
        let at = entry.optime.stamp;
        let known = self.progress.reached();
        if !self.is_done(entry.optime) && at > known.sent {
            self.progress.note(Reached { sent: end, ..known }).await?;
        }
        self.entry(entry).await?;
        if std::mem::take(&mut self.commanded) {
            // What follows the command within a transaction belongs to it.
            self.lanes.barrier().await?;
            self.progress.note(Reached { done: at, sent: end }).await?;
        }
        Ok(())
    }

    /// Notes how far it is, from time to time: less is repeated after an interruption.
    pub async fn note_if_due(&mut self) -> Result<()> {
        match self.last {
            Some(last) if self.progress.is_due() && !self.is_done(last) => {
                self.lanes.barrier().await?;
                self.progress.note(Reached::exactly(last.stamp)).await
            }
            _ => Ok(()),
        }
    }

    /// Waits until all that was fed is applied.
    pub async fn settle(&mut self) -> Result<()> {
        self.lanes.barrier().await
    }

    /// The last entry that was read.
    pub fn last(&self) -> Option<OpTime> {
        self.last
    }

    /// What exists now.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Transactions that were still open at the cut: nothing of them is on the target.
    pub fn undecided(&self) -> usize {
        self.transactions.len()
    }

    async fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        let in_base = entry.optime.stamp <= self.range.base;
        match entry.meaning() {
            Meaning::Nothing => Ok(()),
            Meaning::Part(session) | Meaning::Prepared(session) => self.transactions.add(session, entry),
            Meaning::Abort(session) => {
                self.transactions.forget(session);
                Ok(())
            }
            Meaning::LastPart(session) | Meaning::Commit(session, _) if in_base => {
                self.transactions.forget(session);
                Ok(())
            }
            Meaning::Write if in_base => Ok(()),
            Meaning::LastPart(session) => {
                self.commit(session, entry.optime).await?;
                self.group(entry, entry.optime).await
            }
            Meaning::Commit(session, _) => self.commit(session, entry.optime).await,
            Meaning::Unknown(name) => Err(Error::Unreplayable {
                operation: name.to_owned(),
                at: entry.optime.to_string(),
                why: "this version of pitr does not know it".to_owned(),
            }),
            Meaning::Write => match entry.op {
                Op::Command("applyOps") => self.group(entry, entry.optime).await,
                _ => self.write(&Write::of_entry(entry), entry.optime).await,
            },
        }
    }

    /// Applies what was kept of a transaction that commits.
    async fn commit(&mut self, session: crate::entry::Session<'_>, at: OpTime) -> Result<()> {
        self.counts.transactions += 1;
        for piece in self.transactions.take(session).into_iter().flatten() {
            let bytes = self.transactions.read(piece)?;
            self.group(&Entry::decode(&bytes, 0)?, at).await?;
        }
        Ok(())
    }

    /// Applies the operations of an `applyOps`, as of the moment at which they became visible.
    async fn group(&mut self, entry: &Entry<'_>, at: OpTime) -> Result<()> {
        let malformed = |why: &str| Error::Unreplayable {
            operation: "applyOps".to_owned(),
            at: entry.optime.to_string(),
            why: why.to_owned(),
        };
        for operation in entry.operations().into_iter().flatten() {
            let operation = operation.map_err(|error| malformed(&error.to_string()))?;
            let operation = operation.as_document().ok_or_else(|| malformed("an operation is no document"))?;
            let write = Write::of_operation(operation).ok_or_else(|| malformed("an operation has no o, op or ns"))?;
            self.write(&write, at).await?;
        }
        Ok(())
    }

    async fn write(&mut self, write: &Write<'_>, at: OpTime) -> Result<()> {
        match write.op {
            Op::Command(name) => self.command(name, write, at).await,
            Op::Insert | Op::Update | Op::Delete => self.document(write, at).await,
            Op::Noop | Op::Other(_) => Ok(()),
        }
    }

    async fn document(&mut self, write: &Write<'_>, at: OpTime) -> Result<()> {
        // Before it is copied.
        let room = self.lanes.room(write.o.as_bytes().len()).await?;
        let Some(ready) = self.ready(write, at)? else { return Ok(()) };
        self.counts.writes += 1;
        if let (Op::Update, Kind::Insert, Some(o2)) = (write.op, ready.kind, write.o2) {
            let ns = Arc::clone(&ready.ns);
            self.lanes.write(Ready { kind: Kind::Delete, ns, o: o2.to_owned(), o2: None, ..ready }, None).await?;
        }
        self.lanes.write(ready, room).await
    }

    /// A write as the target takes it; `None` for one that it is not to have.
    fn ready(&self, write: &Write<'_>, at: OpTime) -> Result<Option<Ready>> {
        let (db, name) = write.ns.split_once('.').unwrap_or((write.ns, ""));
        let id = write.id();
        if !is_kept(db, name) || self.is_done(at) || self.target.is_own_user(write.ns, id) {
            return Ok(None);
        }
        let collection = write.uuid.or_else(|| self.model.id_of(db, name));
        let Some(known) = collection.and_then(|id| self.model.get(id)) else {
            return Err(Error::Unreplayable {
                operation: format!("a write on {}", write.ns),
                at: at.to_string(),
                why: "neither the base nor the log before it has that collection".to_owned(),
            });
        };
        let version = self.target.version;
        let kind = match write.op {
            // Servers of 5.0 log what a capped collection loses, accept no such write, and remove the same documents by themselves.
            Op::Delete if known.capped && version < (6, 0, 0) => return Ok(None),
            Op::Delete => Kind::Delete,
            Op::Insert => Kind::Insert,
            // What is there is deleted first. From a capped collection nothing could be, in servers as old as that.
            _ if version < (5, 0, 0) && !known.capped && write.must_be_inserted() => Kind::Insert,
            _ => Kind::Update,
        };
        // Newer than the log: what an interrupted restore had sent, and what was read late.
        let tolerant = self.range.before.is_in_doubt(at.stamp) || known.until.is_some_and(|until| at.stamp <= until);
        let known_whole = !tolerant && !known.in_order;
        let mut hasher = DefaultHasher::new();
        collection.hash(&mut hasher);
        if let Some(id) = id.filter(|_| !known.in_order) {
            hash_id(id, &mut hasher);
        }
        Ok(Some(Ready {
            kind,
            ns: Arc::clone(&known.ns),
            o: write.o.to_owned(),
            // A shard key beside `_id` is not needed to find the document.
            o2: id.filter(|_| kind == Kind::Update).map(|id| rawdoc! { "_id": id }),
            hash: hasher.finish(),
            // What may be there already is replaced, which only the way of the log does.
            open: known_whole && write.is_open_insert(),
            at,
            tolerant,
            // Users and roles are not documents like others.
            folds: known_whole && db != "admin",
        }))
    }

    async fn command(&mut self, name: &str, write: &Write<'_>, at: OpTime) -> Result<()> {
        let refuse =
            |why: &str| Error::Unreplayable { operation: name.to_owned(), at: at.to_string(), why: why.to_owned() };
        match policy(name) {
            Policy::Ignore | Policy::Unpack => return Ok(()),
            Policy::Refuse(why) => return Err(refuse(why)),
            Policy::Unknown => return Err(refuse("this version of pitr does not know it")),
            Policy::Apply | Policy::Index => {}
        }
        let db = write.ns.split_once('.').map_or(write.ns, |(db, _)| db);
        if matches!(db, "local" | "config") {
            return Ok(());
        }
        let command = Command::new(name, write.ns, write.uuid, write.o, at)?;
        if command.is_of_index() {
            command.note_index(&mut self.model);
            return Ok(());
        }
        self.counts.commands += 1;
        if self.is_done(at) {
            return command.run(None, &mut self.model).await;
        }
        self.lanes.barrier().await?;
        self.commanded = true;
        let before = at.stamp.previous();
        self.progress.note(Reached { done: before, sent: at.stamp }).await?;
        let repeated = self.range.before.done == before && self.range.before.is_in_doubt(at.stamp);
        command.run(Some((&self.target, repeated)), &mut self.model).await
    }

    fn is_done(&self, at: OpTime) -> bool {
        at.stamp <= self.range.before.done
    }
}
