//! Sealed segments, and runs of them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::check_name;
use crate::{InvalidName, LineageId, Timestamp};

/// Small facts that only the engine understands, stored as text in plain headers.
///
/// Never names of tables, statements or row data: whoever can list the archive can read them.
pub type Facts = BTreeMap<String, String>;

/// Name of a segment within its lineage: a group and a leaf.
///
/// The engine makes it from the segment's start alone, so that two writers of the same bytes arrive at
/// the same name. Groups sort bytewise in log order within a lineage, and so do leaves within a group. A
/// group holds a few hundred segments: it is the unit of listing and of roll-ups.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentName {
    group: String,
    leaf: String,
}

impl SegmentName {
    /// Longest accepted group or leaf, in bytes.
    pub const MAX_LEN: usize = 96;

    /// Checks and joins the two parts.
    pub fn new(group: impl Into<String>, leaf: impl Into<String>) -> Result<Self, InvalidName> {
        let (group, leaf) = (group.into(), leaf.into());
        check_name("segment group", &group, Self::MAX_LEN)?;
        check_name("segment", &leaf, Self::MAX_LEN)?;
        Ok(Self { group, leaf })
    }

    /// The unit of listing.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The name inside the group.
    pub fn leaf(&self) -> &str {
        &self.leaf
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.leaf)
    }
}

/// What a writer could see of commit times in a stretch of log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitBounds {
    /// Number of commits that begin in the stretch and whose time was readable.
    pub count: u64,
    /// Earliest of their commit times.
    pub min: Option<Timestamp>,
    /// Latest of their commit times.
    pub max: Option<Timestamp>,
    /// True if a commit begins in the stretch whose time lies beyond its end: only a scan can tell it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// Latest moment that anything in the stretch proves the log to reach (commit, abort, checkpoint, mark).
    pub reaches: Option<Timestamp>,
}

impl CommitBounds {
    /// True unless it is certain that no commit of the stretch is later than `time`.
    pub fn may_exceed(&self, time: Timestamp) -> bool {
        self.open || self.max.is_some_and(|max| max > time)
    }

    /// Adds what is known of the stretch that follows.
    pub fn extend(&mut self, next: &Self) {
        self.count += next.count;
        self.min = self.min.into_iter().chain(next.min).min();
        self.max = self.max.max(next.max);
        self.reaches = self.reaches.max(next.reaches);
        self.open |= next.open;
    }
}

/// One or many contiguous sealed segments of one lineage.
///
/// A span of one segment is the segment's own description. A wider one is a roll-up: the planner asks for
/// it to be expanded before it looks inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span<P> {
    /// The history it belongs to.
    pub lineage: LineageId,
    /// Name of the first segment.
    pub first: SegmentName,
    /// Name of the last segment; equal to `first` for a single one.
    pub last: SegmentName,
    /// Number of segments.
    pub count: u64,
    /// Cut before the first byte.
    pub start: P,
    /// Cut after the last byte.
    pub end: P,
    /// Native bytes, before compression.
    pub bytes: u64,
    /// What is known of commit times inside.
    pub commits: CommitBounds,
    /// Number of named points inside.
    pub marks: u64,
    /// What the engine noted.
    pub facts: Facts,
}

impl<P: PartialOrd> Span<P> {
    /// The one chain rule of all engines: `next` continues `self` if nothing is missing between them and
    /// it adds something.
    // Not `next.end > self.end`: positions that cannot be compared do add something.
    pub fn continued_by(&self, next: &Self) -> bool {
        next.start <= self.end && !(next.end <= self.end)
    }

    /// True for a span that describes exactly one segment.
    pub fn is_single(&self) -> bool {
        self.count == 1
    }
}
