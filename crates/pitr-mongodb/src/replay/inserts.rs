//! Inserts of a batch, sent as what they were.
//!
//! A server takes them sooner in a command that inserts many documents than as entries of a log (`docs/BENCHMARKS.md`). So what
//! a batch does first to a document is taken out of it if it is an insert, and goes ahead of the rest: documents do not depend
//! on each other.

use std::collections::{BTreeMap, HashSet};

use bson::{RawDocument, rawdoc};

use super::lanes::Ready;
use crate::connect::{Member, with_documents};
use crate::error::Result;
use crate::limits::FEWEST_INSERTS;

/// Documents for one collection, none of them twice.
pub struct Inserts<'b> {
    /// All of the batch that they are of.
    pub batch: &'b [Ready],
    db: &'b str,
    name: &'b str,
    documents: Vec<&'b RawDocument>,
}

/// Inserts that can go first, and what has to come after them, in order.
pub fn split(batch: &[Ready]) -> (Vec<Inserts<'_>>, Vec<&Ready>) {
    let mut first = HashSet::with_capacity(batch.len());
    let mut by_place: BTreeMap<&str, Vec<(usize, &RawDocument)>> = BTreeMap::new();
    for (at, ready) in batch.iter().enumerate() {
        if first.insert(ready.hash) && ready.is_plain() {
            by_place.entry(&ready.ns).or_default().push((at, &ready.o));
        }
    }
    by_place.retain(|_, documents| documents.len() >= FEWEST_INSERTS);
    let taken: HashSet<usize> = by_place.values().flatten().map(|(at, _)| *at).collect();
    let rest = batch.iter().enumerate().filter(|(at, _)| !taken.contains(at)).map(|(_, ready)| ready).collect();
    let inserts = by_place.into_iter().filter_map(|(ns, documents)| {
        let (db, name) = ns.split_once('.')?;
        Some(Inserts { batch, db, name, documents: documents.into_iter().map(|(_, document)| document).collect() })
    });
    (inserts.collect(), rest)
}

impl Inserts<'_> {
    /// Inserts them; false if the server refused any of them.
    pub async fn send(&self, target: &Member) -> Result<bool> {
        let options =
            rawdoc! { "ordered": false, "bypassDocumentValidation": true, "writeConcern": { "w": 1, "j": false } };
        let documents = self.documents.iter().map(|document| document.as_bytes());
        let command = with_documents(&rawdoc! { "insert": self.name }, "documents", documents, &options)?;
        let answer = target.run_raw(self.db, command, "applying log").await?;
        if let Some(error) = answer.get_array("writeErrors").into_iter().flatten().next() {
            tracing::debug!(%error, "an insert was refused; the batch is applied as log");
            return Ok(false);
        }
        Ok(true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::operation::Kind::{self, Delete, Insert, Update};
    use super::*;
    use crate::position::{OpTime, Stamp};

    fn ready(kind: Kind, id: i32, open: bool) -> Ready {
        let o = rawdoc! { "_id": id };
        let (hash, at) = (u64::try_from(id).unwrap(), OpTime { term: 1, stamp: Stamp::new(1, 1) });
        Ready { kind, ns: "a.b".into(), o2: Some(o.clone()), o, hash, open, at, tolerant: false, folds: true }
    }

    #[test]
    fn only_what_comes_first_to_a_document_goes_ahead() {
        let mut batch: Vec<Ready> = (0..20).map(|id| ready(Insert, id, true)).collect();
        // Deleted and inserted again: the second insert has to wait.
        batch.extend([ready(Update, 3, false), ready(Delete, 4, false), ready(Insert, 4, true)]);
        batch.extend([ready(Delete, 30, false), ready(Insert, 30, true), ready(Insert, 31, false)]);
        let (inserts, rest) = split(&batch);
        let [inserts] = inserts.as_slice() else { panic!("{}", inserts.len()) };
        let ids: Vec<i32> = inserts.documents.iter().map(|document| document.get_i32("_id").unwrap()).collect();
        assert_eq!((inserts.db, inserts.name, ids), ("a", "b", (0..20).collect()));
        let rest: Vec<_> = rest.iter().map(|ready| (ready.kind, ready.hash)).collect();
        assert_eq!(rest, [(Update, 3), (Delete, 4), (Insert, 4), (Delete, 30), (Insert, 30), (Insert, 31)]);
    }

    #[test]
    fn a_few_inserts_are_not_worth_a_command_of_their_own() {
        let batch = [ready(Insert, 1, true), ready(Insert, 2, true)];
        let (inserts, rest) = split(&batch);
        assert_eq!((inserts.len(), rest.len()), (0, 2));
    }
}
