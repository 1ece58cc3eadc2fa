//! The events of a stretch of oplog: for targets, and for the headers of segments.

use std::collections::BTreeSet;

use pitr_core::{CommitBounds, Event, Facts, Scan, Timestamp, What};

use crate::commands::{Policy, policy};
use crate::engine::facts;
use crate::entry::{Entries, Entry, EntryError, Meaning, Op, first_key};
use crate::error::Error;
use crate::note;
use crate::position::{MongoPosition, Stamp};

/// Everything that a target can stop at in one segment.
///
/// A write is a commit at its own optime; the operations of a transaction are one at the entry that commits it.
pub fn scan(bytes: &[u8]) -> Result<Scan<MongoPosition>, EntryError> {
    let mut found = Scan { events: Vec::new(), last_record: None };
    for entry in Entries::new(bytes) {
        let entry = entry?;
        found.last_record = Some((entry.optime.before(), entry.optime.after()));
        if let Some(what) = what(&entry) {
            let transaction = (what == What::Commit).then(|| entry.optime.stamp.to_string());
            let (begin, end) = (entry.optime.before(), entry.optime.after());
            found.events.push(Event { begin, end, time: entry.wall, transaction, what });
        }
    }
    Ok(found)
}

fn what(entry: &Entry<'_>) -> Option<What> {
    match entry.meaning() {
        Meaning::Write | Meaning::LastPart(_) | Meaning::Commit(..) | Meaning::Unknown(_) => Some(What::Commit),
        Meaning::Abort(_) => Some(What::Abort),
        Meaning::Part(_) | Meaning::Prepared(_) => None,
        Meaning::Nothing => Some(note::mark(entry).map_or(What::Clock, |name| What::Mark(name.to_owned()))),
    }
}

/// The first entry after `from` and before `cut` that cannot be replayed, as the refusal of it.
pub fn unreplayable(bytes: &[u8], from: Stamp, cut: MongoPosition) -> Result<Option<Error>, EntryError> {
    for entry in Entries::new(bytes) {
        let entry = entry?;
        if !(entry.optime.before() < cut) {
            break;
        }
        if entry.optime.stamp <= from {
            continue;
        }
        if let Some((name, why)) = obstacle(&entry) {
            let at = entry.optime.to_string();
            return Ok(Some(Error::Unreplayable { operation: safe_name(name), at, why: why.to_owned() }));
        }
    }
    Ok(None)
}

/// Name of an operation that cannot be replayed, and why.
fn obstacle<'a>(entry: &Entry<'a>) -> Option<(&'a str, &'static str)> {
    let of_command = |name| match policy(name) {
        Policy::Refuse(why) => Some((name, why)),
        Policy::Unknown => Some((name, NEVER_HEARD_OF)),
        _ => None,
    };
    match (entry.meaning(), entry.op) {
        (Meaning::Unknown(name), _) => Some((name, NEVER_HEARD_OF)),
        // Within a transaction, or a group.
        (_, Op::Command("applyOps")) => entry.operations().into_iter().flatten().flatten().find_map(|operation| {
            let operation = operation.as_document()?;
            match operation.get_str("op").ok()? {
                "c" => of_command(first_key(operation.get_document("o").ok()?)?),
                _ => None,
            }
        }),
        (_, Op::Command(name)) => of_command(name),
        _ => None,
    }
}

const NEVER_HEARD_OF: &str = "this version of pitr does not know it";

/// What the header of the open segment says, entry by entry.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    commits: CommitBounds,
    marks: u64,
    entries: u64,
    first: Option<MongoPosition>,
    unknown: BTreeSet<String>,
}

impl Tally {
    /// Counts one entry. Returns the name of an operation that cannot be replayed, if it is new here.
    pub fn add<'a>(&mut self, entry: &Entry<'a>) -> Option<&'a str> {
        self.entries += 1;
        self.first.get_or_insert_with(|| entry.optime.before());
        self.commits.reaches = self.commits.reaches.max(entry.wall);
        match what(entry) {
            Some(What::Commit) => {
                self.commits.count += 1;
                self.commits.min = self.commits.min.into_iter().chain(entry.wall).min();
                self.commits.max = self.commits.max.max(entry.wall);
            }
            Some(What::Mark(_)) => self.marks += 1,
            _ => {}
        }
        let (name, _) = obstacle(entry)?;
        self.unknown.insert(safe_name(name)).then_some(name)
    }

    /// Commit times.
    pub fn commits(&self) -> &CommitBounds {
        &self.commits
    }

    /// Number of named points.
    pub fn marks(&self) -> u64 {
        self.marks
    }

    /// Latest wall clock time of a commit.
    pub fn committed_at(&self) -> Option<Timestamp> {
        self.commits.max
    }

    /// Number of entries.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Facts for the segment's header.
    pub fn facts(&self) -> Facts {
        let mut known = Facts::from([(facts::ENTRIES.to_owned(), self.entries.to_string())]);
        known.extend(self.first.map(|first| (facts::FIRST.to_owned(), first.to_string())));
        if !self.unknown.is_empty() {
            known.insert(facts::UNKNOWN.to_owned(), join_names(self.unknown.iter().map(String::as_str)));
        }
        known
    }
}

/// Names in order, each once, separated by spaces.
pub(crate) fn join_names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let unique: BTreeSet<&str> = names.filter(|name| !name.is_empty()).collect();
    unique.into_iter().collect::<Vec<_>>().join(" ")
}

/// A plain header holds names of operations only: nothing that a user could have typed into a document's key.
fn safe_name(name: &str) -> String {
    let short = name.len() <= crate::limits::MAX_OPERATION_NAME;
    let plain = short && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if plain { name.to_owned() } else { "unreadable".to_owned() }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
