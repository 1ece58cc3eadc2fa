//! The server: branches of history, each with its log, and the truth about every cut.

use pitr_core::ports::SealedSegment;
use pitr_core::{Facts, Fork, Lineage};

use super::record::{Kind, Record, ToyError, seal};
use super::{ToyPosition, lineage_id};

/// A record and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Offset of its first byte.
    pub begin: u64,
    /// Offset after its last byte.
    pub end: u64,
    /// The record.
    pub record: Record,
}

/// One history, without what it inherited.
#[derive(Debug, Clone)]
pub struct Branch {
    /// Its number, which is also its order of appearance plus one.
    pub id: u32,
    /// The branch it left, and where.
    pub fork: Option<(u32, u64)>,
    /// Offset of `log`'s first byte: the begin of the segment in which the fork lies.
    pub origin: u64,
    /// All bytes from `origin` on; those before the fork are a copy of the parent's.
    pub log: Vec<u8>,
    /// The records of its own.
    pub records: Vec<Placed>,
}

impl Branch {
    /// Offset after the last byte.
    pub fn end(&self) -> u64 {
        self.origin + self.log.len() as u64
    }
}

/// A counter, all histories it ever had, and their log.
#[derive(Debug, Clone)]
pub struct Server {
    /// The branches, in order of appearance.
    pub branches: Vec<Branch>,
    /// Log bytes of a full segment.
    pub segment: u64,
}

impl Server {
    /// A new counter at zero.
    pub fn new(segment: u64) -> Self {
        let root = Branch { id: 1, fork: None, origin: 0, log: Vec::new(), records: Vec::new() };
        Self { branches: vec![root], segment }
    }

    /// The branch of that number.
    pub fn branch(&self, id: u32) -> Option<&Branch> {
        self.branches.iter().find(|branch| branch.id == id)
    }

    /// Appends a record to a branch; returns where it ends.
    pub fn append(&mut self, branch: u32, record: Record) -> Option<ToyPosition> {
        let branch = self.branches.iter_mut().find(|b| b.id == branch)?;
        let begin = branch.end();
        branch.log.extend(record.encode());
        let end = branch.end();
        branch.records.push(Placed { begin, end, record });
        Some(ToyPosition::new(branch.id, end))
    }

    /// Forks a branch at a record boundary; returns the child's number.
    pub fn fork(&mut self, parent: u32, at: u64) -> Option<u32> {
        let from = self.branch(parent)?;
        let origin = (at / self.segment * self.segment).max(from.origin);
        let copied = from.log.get((origin - from.origin) as usize..(at.checked_sub(from.origin)?) as usize)?.to_vec();
        let id = self.branches.len() as u32 + 1;
        self.branches.push(Branch { id, fork: Some((parent, at)), origin, log: copied, records: Vec::new() });
        Some(id)
    }

    /// The branches from the root to `leaf`, each with the offset at which the path leaves it.
    pub fn path(&self, leaf: u32) -> Vec<(&Branch, u64)> {
        let mut path = Vec::new();
        let mut next = self.branch(leaf).map(|branch| (branch, u64::MAX));
        while let Some((branch, until)) = next {
            path.push((branch, until));
            next = branch.fork.and_then(|(parent, at)| Some((self.branch(parent)?, at)));
        }
        path.reverse();
        path
    }

    /// All records of the path to `leaf`, in log order.
    pub fn records(&self, leaf: u32) -> Vec<Placed> {
        let of = |(branch, until): (&Branch, u64)| {
            branch.records.iter().filter(move |r| r.end <= until).cloned().collect::<Vec<_>>()
        };
        // A branch that was left before it wrote anything inherits no bound from its own child.
        let mut bound = u64::MAX;
        let mut parts: Vec<Vec<Placed>> = Vec::new();
        for (branch, until) in self.path(leaf).into_iter().rev() {
            bound = bound.min(until);
            parts.push(of((branch, bound)));
        }
        parts.into_iter().rev().flatten().collect()
    }

    /// The counter's value at a cut: the sum of all commits before it.
    pub fn value(&self, at: ToyPosition) -> i64 {
        let before = self.records(at.branch).into_iter().filter(|placed| placed.end <= at.offset);
        before.map(|placed| if let Kind::Commit(change) = placed.record.kind { change } else { 0 }).sum()
    }

    /// Offset at which the first record begins, at or after `offset`, counted from there.
    fn first_record(&self, branch: &Branch, offset: u64) -> u64 {
        let begins = self.records(branch.id).into_iter().map(|placed| placed.begin);
        begins.filter(|begin| *begin >= offset).min().unwrap_or(branch.end()) - offset
    }

    /// The bytes of a branch between two offsets, as a segment.
    pub fn cut(&self, branch: u32, from: u64, to: u64) -> Result<SealedSegment<ToyPosition>, ToyError> {
        let missing = || ToyError::Inconsistent(format!("branch {branch} has no bytes {from}..{to}"));
        let branch = self.branch(branch).ok_or_else(missing)?;
        let range = from.checked_sub(branch.origin).zip(to.checked_sub(branch.origin)).ok_or_else(missing)?;
        let log = branch.log.get(range.0 as usize..range.1 as usize).ok_or_else(missing)?;
        // The same for every end: the first bytes of a segment do not change while it grows.
        let first = self.first_record(branch, from).min(self.segment.max(to - from));
        seal(ToyPosition::new(branch.id, from), first as usize, log)
    }

    /// A branch as a lineage.
    pub fn lineage(&self, branch: &Branch) -> Lineage<ToyPosition> {
        let fork = branch.fork.map(|(parent, at)| Fork {
            parent: lineage_id(parent),
            parent_at: ToyPosition::new(parent, at),
            child_at: ToyPosition::new(branch.id, at),
        });
        Lineage { id: lineage_id(branch.id), ordinal: u64::from(branch.id) - 1, fork, facts: Facts::new() }
    }
}
