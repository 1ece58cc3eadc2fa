//! How far a replay has come, noted on the target itself, so that an interrupted one goes on from there.
//!
//! Writes on documents may be repeated: in order, they end in the same documents. Commands may not: the collection that
//! is renamed once is another one the second time. So each command runs between two notes, and after an interruption there is
//! at most one command of which nobody knows whether it was done.

use std::time::Instant;

use bson::{Document, Timestamp, doc};

use crate::connect::Member;
use crate::error::Result;
use crate::limits::CHECKPOINT;
use crate::position::Stamp;

/// Where a restore keeps what it needs to go on after an interruption. Gone when it is complete.
pub(crate) const DB: &str = "pitr_restore";
pub(crate) const STATE: &str = "state";

/// What the restore is of: another one must not go on where this one stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The base.
    pub base: String,
    /// The history.
    pub lineage: String,
    /// The cut.
    pub cut: String,
}

/// How much of the log a target holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Everything up to here is applied.
    pub done: Stamp,
    /// Nothing behind this was sent. What lies between the two may be applied or not: writes on documents, or the entry
    /// right after `done` with the commands in it.
    pub sent: Stamp,
}

impl Reached {
    /// Everything up to here, and nothing behind it.
    pub fn exactly(at: Stamp) -> Self {
        Self { done: at, sent: at }
    }

    /// True if the entry may have been applied already, in part or as a whole.
    pub fn is_in_doubt(self, at: Stamp) -> bool {
        self.done < at && at <= self.sent
    }

    /// From the note; `None` if the log had not been begun.
    pub(crate) fn from_document(state: &Document) -> Option<Self> {
        let done = Stamp::from(state.get_timestamp("done").ok()?);
        Some(Self { done, sent: state.get_timestamp("sent").map_or(done, Stamp::from) })
    }
}

/// Notes how far a replay has come.
#[derive(Debug)]
pub struct Progress {
    target: Member,
    identity: Identity,
    reached: Reached,
    noted: Instant,
}

impl Progress {
    /// For a target of which this much is known.
    pub fn new(target: Member, identity: Identity, reached: Reached) -> Self {
        Self { target, identity, reached, noted: Instant::now() }
    }

    /// What was noted last.
    pub fn reached(&self) -> Reached {
        self.reached
    }

    /// True if the last note is so old that much would be repeated after an interruption.
    pub fn is_due(&self) -> bool {
        self.noted.elapsed() >= CHECKPOINT
    }

    /// Notes it, if it is something new.
    ///
    /// Not forced to disk: the server keeps its writes in order, so after a crash the note is as old as the rest.
    pub async fn note(&mut self, reached: Reached) -> Result<()> {
        if self.reached != reached {
            save(&self.target, &self.identity, Some(reached), false).await?;
            self.reached = reached;
            self.noted = Instant::now();
        }
        Ok(())
    }
}

/// Writes the note; without anything reached for a restore that still lays its base down.
pub(crate) async fn save(target: &Member, identity: &Identity, reached: Option<Reached>, on_disk: bool) -> Result<()> {
    let mut state = doc! {
        "_id": "restore", "base": &identity.base, "lineage": &identity.lineage, "cut": &identity.cut,
    };
    if let Some(reached) = reached {
        state.insert("done", Timestamp::from(reached.done));
        state.insert("sent", Timestamp::from(reached.sent));
    }
    let update: Document = doc! { "q": { "_id": "restore" }, "u": state, "upsert": true };
    let command = doc! { "update": STATE, "updates": [update], "writeConcern": { "w": 1, "j": on_disk } };
    target.run(DB, command, "noting how far the restore is").await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_and_not_confirmed_is_in_doubt() {
        let reached = Reached { done: Stamp::new(7, 2), sent: Stamp::new(7, 4) };
        let in_doubt = [1, 2, 3, 4, 5].map(|increment| reached.is_in_doubt(Stamp::new(7, increment)));
        assert_eq!(in_doubt, [false, false, true, true, false]);
        assert!(!Reached::exactly(Stamp::new(7, 2)).is_in_doubt(Stamp::new(7, 3)));
    }

    #[test]
    fn a_note_without_log_is_of_a_base() {
        assert_eq!(Reached::from_document(&doc! { "_id": "restore" }), None);
        let at = Timestamp { time: 7, increment: 2 };
        let noted = Reached::from_document(&doc! { "done": at, "sent": Timestamp { time: 8, increment: 1 } });
        assert_eq!(noted, Some(Reached { done: Stamp::new(7, 2), sent: Stamp::new(8, 1) }));
    }
}
