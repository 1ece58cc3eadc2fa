//! The toy engine: a counter whose every change is a record in a log.
//!
//! Small enough that the truth can be computed by adding numbers, and as awkward as a real engine: records
//! cross segments, clocks run backwards, transaction identifiers wrap around, histories fork, and a child
//! begins with a copy of its parent's last bytes.

mod io;
mod record;
mod server;

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use pitr_core::{Engine, Facts, Fork, Lineage, LineageId, Locator, ParsePositionError, Span, TargetError};

pub use io::{Shared, ToyBackup, ToyRestorer, ToyStream, replay};
pub(crate) use record::HEADER;
pub use record::{Kind, Record, ToyError, scan, seal};
pub use server::{Branch, Placed, Server};

/// A counter with a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Toy;

/// A byte offset in the log of a branch. Text form `b1:42`.
///
/// As for PostgreSQL, offsets of different branches are not comparable although they count on at a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ToyPosition {
    /// The branch.
    pub branch: u32,
    /// Bytes of log before it, on the whole path.
    pub offset: u64,
}

impl ToyPosition {
    /// Joins the two parts.
    pub fn new(branch: u32, offset: u64) -> Self {
        Self { branch, offset }
    }
}

impl PartialOrd for ToyPosition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.branch == other.branch).then(|| self.offset.cmp(&other.offset))
    }
}

impl fmt::Display for ToyPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}:{}", self.branch, self.offset)
    }
}

impl FromStr for ToyPosition {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        let parse = || {
            let (branch, offset) = text.strip_prefix('b')?.split_once(':')?;
            Some(Self { branch: branch.parse().ok()?, offset: offset.parse().ok()? })
        };
        parse().ok_or_else(|| ParsePositionError { text: text.to_owned(), expected: "branch and offset such as b1:42" })
    }
}

/// The name of a branch as a lineage: `b1`.
pub fn lineage_id(branch: u32) -> LineageId {
    match LineageId::new(format!("b{branch}")) {
        Ok(id) => id,
        Err(error) => unreachable!("letters and digits are safe: {error}"),
    }
}

fn branch_of(lineage: &LineageId) -> Option<u32> {
    lineage.as_str().strip_prefix('b')?.parse().ok()
}

/// Fact with the lowest and the highest transaction identifier of a span: `3-17`.
pub(crate) const TRANSACTIONS: &str = "transactions";

fn range(facts: &Facts) -> Option<(u32, u32)> {
    let (low, high) = facts.get(TRANSACTIONS)?.split_once('-')?;
    Some((low.parse().ok()?, high.parse().ok()?))
}

impl Engine for Toy {
    const NAME: &'static str = "toy";
    const TARGETS: &'static [(&'static str, &'static str)] = &[("at", "at:42"), ("tx", "tx:7"), ("name", "name:x")];
    type Position = ToyPosition;

    fn locate(lineage: &Lineage<ToyPosition>, scheme: &str, value: &str) -> Result<Locator<ToyPosition>, TargetError> {
        let malformed = |expected| TargetError::Malformed { scheme: scheme.into(), value: value.into(), expected };
        match scheme {
            "at" | "record" => {
                let offset = value.parse().map_err(|_| malformed("a number of bytes"))?;
                let branch = branch_of(&lineage.id).ok_or_else(|| malformed("a lineage such as b1"))?;
                let position = ToyPosition { branch, offset };
                Ok(if scheme == "at" { Locator::Position(position) } else { Locator::Record(position) })
            }
            "tx" => {
                value.parse::<u32>().map_err(|_| malformed("a number"))?;
                Ok(Locator::Transaction(value.to_owned()))
            }
            "name" => Ok(Locator::Named(value.to_owned())),
            _ => Err(TargetError::UnknownScheme {
                engine: Self::NAME,
                scheme: scheme.to_owned(),
                accepted: "at:42, tx:7, name:x".to_owned(),
            }),
        }
    }

    fn may_hold_transaction(span: &Span<ToyPosition>, id: &str) -> bool {
        match (range(&span.facts), id.parse::<u32>()) {
            (Some((low, high)), Ok(id)) => (low..=high).contains(&id),
            _ => false,
        }
    }

    fn merge_facts(into: &mut Facts, next: &Facts) {
        let merged = match (range(into), range(next)) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (one, other) => one.or(other),
        };
        if let Some((low, high)) = merged {
            into.insert(TRANSACTIONS.to_owned(), format!("{low}-{high}"));
        }
    }

    fn in_child(position: &ToyPosition, fork: &Fork<ToyPosition>) -> Option<ToyPosition> {
        (*position <= fork.parent_at).then_some(ToyPosition { branch: fork.child_at.branch, ..*position })
    }

    fn target(position: &ToyPosition) -> String {
        format!("at:{}", position.offset)
    }

    fn describe(position: &ToyPosition) -> String {
        format!("branch {}, offset {}", position.branch, position.offset)
    }
}
