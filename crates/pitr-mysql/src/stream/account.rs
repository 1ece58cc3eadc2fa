//! What is known of the open segment.

use pitr_core::{CommitBounds, Timestamp};

use super::segmenter::is_out_of_order;
use crate::event::Group;
use crate::gtid::{GtidSet, MariaSet, MysqlSet};

/// A transaction and when it was committed first. Identifiers are used again after a reset; with the time they are not.
pub(super) fn witness(group: &Group) -> Option<String> {
    Some(format!("{} {}", group.gtid.as_ref()?, group.originally_at?.timestamp_micros()))
}

/// What the header of the open segment says.
#[derive(Debug)]
pub(super) struct Account {
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// Offset of the first event that begins in it.
    pub first: Option<u64>,
    /// Where the transaction began that its first byte is inside of.
    pub inside: Option<u64>,
    /// Executed set before its first byte, as it is stored.
    pub before: String,
    /// Executed set after the last whole transaction.
    pub executed: GtidSet,
    /// Its whole transactions.
    gtids: GtidSet,
    /// True if identifiers did not come in order, so that `gtids` does not tell which there are.
    unordered: bool,
    /// Commits that begin in it.
    pub commits: CommitBounds,
    /// The same without one that has not ended.
    pub settled: CommitBounds,
    /// Named points in it.
    pub marks: u64,
    /// Offset and checksum of the last whole event, also of one before the segment.
    pub last: Option<(u64, u32)>,
    /// The last whole transaction before the segment that has an identifier, and when it was committed first.
    earlier: Option<String>,
    /// The last one in it. Written out only when asked for: there are many.
    latest: Option<Group>,
}

impl Account {
    pub fn new(offset: u64, executed: GtidSet) -> Self {
        let gtids = match executed {
            GtidSet::Mysql(_) => GtidSet::Mysql(MysqlSet::default()),
            GtidSet::Maria(_) => GtidSet::Maria(MariaSet::default()),
        };
        Self {
            offset,
            first: None,
            inside: None,
            before: executed.to_string(),
            executed,
            gtids,
            unordered: false,
            commits: CommitBounds::default(),
            settled: CommitBounds::default(),
            marks: 0,
            last: None,
            earlier: None,
            latest: None,
        }
    }

    /// The same, with the last transaction before it.
    pub fn after(self, witness: Option<String>) -> Self {
        Self { earlier: witness, ..self }
    }

    /// The last whole transaction that has an identifier, and when it was committed first; also one before the segment.
    pub fn witness(&self) -> Option<String> {
        self.latest.as_ref().map_or_else(|| self.earlier.clone(), witness)
    }

    /// Begins the account of the next segment, whose first byte is at `offset`.
    pub fn restart(&mut self, offset: u64) {
        let (last, earlier) = (self.last, self.witness());
        *self = Self { last, earlier, ..Self::new(offset, self.executed.clone()) };
    }

    /// A transaction begins; its time is known from the begin on.
    pub fn begin(&mut self, time: Option<Timestamp>) {
        let Some(time) = time else { return };
        let one = CommitBounds { count: 1, min: Some(time), max: Some(time), open: false, reaches: Some(time) };
        self.commits.extend(&one);
    }

    /// A transaction ends.
    pub fn end(&mut self, group: &Group) {
        self.settled = self.commits.clone();
        if let Some(gtid) = &group.gtid {
            self.latest = Some(group.clone());
            self.unordered |= is_out_of_order(&self.executed, gtid);
            self.executed.insert(gtid);
            self.gtids.insert(gtid);
        }
    }

    /// An event outside of transactions; its time proves how far the log reaches.
    pub fn pass(&mut self, time: Option<Timestamp>) {
        self.commits.reaches = self.commits.reaches.max(time);
        self.settled = self.commits.clone();
    }

    /// The head of a file says what was executed before it, and knows better: the server was restored or told so, or this
    /// stream began at this file.
    pub fn check_before(&mut self, set: GtidSet) {
        if self.offset == 0 {
            self.before = set.to_string();
            self.executed = set;
        }
    }

    /// The transactions of the segment, as they are stored.
    pub fn gtids(&self) -> String {
        if self.unordered { "unordered".to_owned() } else { self.gtids.to_string() }
    }
}
