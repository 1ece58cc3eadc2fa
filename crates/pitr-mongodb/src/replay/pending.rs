//! Writes that wait to be sent, and what those on one document come to.
//!
//! Documents are often written again soon after: inserted, changed, deleted. What a server would do one by one is done here
//! where that is exact, so that it does less, and more of it as inserts. Only writes of which each stands on the one
//! before are taken together: while a document may be newer than the log, nothing is known of it.

use std::collections::{HashMap, VecDeque};

use bson::{RawBsonRef, RawDocumentBuf, rawdoc};

use super::delta::{Update, applied, merged};
use super::lanes::Ready;
use super::operation::Kind;
use crate::limits::{BATCH_BYTES, BATCH_WRITES, WINDOW_BYTES, WINDOW_WRITES};

/// The writes that wait on one lane, in order.
#[derive(Debug, Default)]
pub struct Pending {
    /// `None` where nothing is left to do.
    writes: VecDeque<Option<Ready>>,
    /// How many were taken out of it so far.
    taken: usize,
    /// The last write on each document, counted from the first that ever waited.
    last: HashMap<u64, usize>,
    bytes: usize,
}

/// What two writes come to.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// The document was not there before, and is not there after.
    Nothing,
    /// The later one alone.
    Later,
    /// The earlier one, with this object.
    Earlier(RawDocumentBuf),
}

impl Pending {
    /// True if a write of so many bytes should wait until a batch has left.
    pub fn is_full_for(&self, bytes: usize) -> bool {
        !self.writes.is_empty() && (self.bytes + bytes > WINDOW_BYTES || self.writes.len() >= WINDOW_WRITES)
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Adds a write.
    pub fn push(&mut self, later: Ready) {
        let at = self.last.get(&later.hash).and_then(|at| at.checked_sub(self.taken));
        if let Some(place) = at.and_then(|at| self.writes.get_mut(at))
            && let Some(earlier) = place
            && let Some(outcome) = together(earlier, &later)
        {
            self.bytes -= earlier.bytes();
            match outcome {
                Outcome::Nothing => {
                    *place = None;
                    self.last.remove(&later.hash);
                }
                Outcome::Later => *earlier = later,
                Outcome::Earlier(object) => (earlier.o, earlier.at) = (object, later.at),
            }
            self.bytes += place.as_ref().map_or(0, Ready::bytes);
            return;
        }
        self.last.insert(later.hash, self.taken + self.writes.len());
        self.bytes += later.bytes();
        self.writes.push_back(Some(later));
    }

    /// Takes out what one command may hold, oldest first.
    pub fn batch(&mut self) -> Vec<Ready> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(front) = self.writes.front() {
            let more = front.as_ref().map_or(0, Ready::bytes);
            // A document of the largest size fills a command by itself.
            if batch.len() >= BATCH_WRITES || (!batch.is_empty() && bytes + more > BATCH_BYTES) {
                break;
            }
            if let Some(ready) = self.writes.pop_front().flatten() {
                if self.last.get(&ready.hash) == Some(&self.taken) {
                    self.last.remove(&ready.hash);
                }
                bytes += more;
                batch.push(ready);
            }
            self.taken += 1;
        }
        self.bytes -= bytes;
        batch
    }
}

/// What two writes on one document come to; `None` if they have to be sent one after the other.
fn together(earlier: &Ready, later: &Ready) -> Option<Outcome> {
    // The same hash does not mean the same document, and numbers of two types may be one `_id`.
    if !(earlier.folds && later.folds && earlier.ns == later.ns && id(earlier)? == id(later)?) {
        return None;
    }
    let object = match (earlier.kind, later.kind, Update::of(&later.o)) {
        (Kind::Insert, Kind::Delete, _) => return Some(Outcome::Nothing),
        (Kind::Update, Kind::Delete, _) => return Some(Outcome::Later),
        (Kind::Update, Kind::Update, Update::Whole(_)) => return Some(Outcome::Later),
        (Kind::Insert, Kind::Update, Update::Whole(document)) => document.to_owned(),
        (Kind::Insert, Kind::Update, Update::Delta(delta)) => applied(&earlier.o, delta)?,
        (Kind::Update, Kind::Update, Update::Delta(delta)) => match Update::of(&earlier.o) {
            Update::Whole(document) => applied(document, delta)?,
            Update::Delta(before) => rawdoc! { "$v": 2, "diff": merged(before, delta)? },
            Update::Other => return None,
        },
        _ => return None,
    };
    Some(Outcome::Earlier(object))
}

fn id(ready: &Ready) -> Option<RawBsonRef<'_>> {
    let holder = if ready.kind == Kind::Update { ready.o2.as_ref()? } else { &ready.o };
    holder.get("_id").ok()?
}

#[cfg(test)]
#[path = "pending_tests.rs"]
mod tests;
