//! Facts of headers: our records of lineages, segments, tails and gaps as they stand in plain JSON.
//!
//! Positions are stored as the engine's own text.

use pitr_core::{CommitBounds, Facts, Fork, Gap, GapCause, Lineage, LineageId, Position, SegmentName, Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Facts of a segment; also one entry of a roll-up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SegmentFacts {
    pub lineage: LineageId,
    pub group: String,
    pub leaf: String,
    pub start: String,
    pub end: String,
    pub commits: CommitBounds,
    #[serde(default)]
    pub marks: u64,
    #[serde(default)]
    pub facts: Facts,
}

impl SegmentFacts {
    /// As a span of one segment; `key` names the object in errors.
    pub fn span<P: Position>(self, key: &str, bytes: u64) -> Result<Span<P>> {
        let name = SegmentName::new(self.group, self.leaf).map_err(|e| Error::corrupt(key, e.to_string()))?;
        let span = Span {
            lineage: self.lineage,
            first: name.clone(),
            last: name,
            count: 1,
            start: position(key, &self.start)?,
            end: position(key, &self.end)?,
            bytes,
            commits: self.commits,
            marks: self.marks,
            facts: self.facts,
        };
        check_order(key, &span)?;
        Ok(span)
    }
}

/// A contiguous run of segments, as the header of a roll-up tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunFacts {
    pub first: String,
    pub last: String,
    pub count: u64,
    pub start: String,
    pub end: String,
    pub bytes: u64,
    pub commits: CommitBounds,
    #[serde(default)]
    pub marks: u64,
    #[serde(default)]
    pub facts: Facts,
    /// Digest over the leaves of the run in order, each followed by a line feed.
    pub names_digest: String,
}

impl RunFacts {
    pub fn span<P: Position>(self, key: &str, lineage: &LineageId, group: &str) -> Result<Span<P>> {
        let name = |leaf: String| SegmentName::new(group, leaf).map_err(|e| Error::corrupt(key, e.to_string()));
        let span = Span {
            lineage: lineage.clone(),
            first: name(self.first)?,
            last: name(self.last)?,
            count: self.count,
            start: position(key, &self.start)?,
            end: position(key, &self.end)?,
            bytes: self.bytes,
            commits: self.commits,
            marks: self.marks,
            facts: self.facts,
        };
        check_order(key, &span)?;
        Ok(span)
    }
}

/// Facts and content of a lineage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LineageFacts {
    pub id: LineageId,
    pub ordinal: u64,
    pub fork: Option<ForkFacts>,
    #[serde(default)]
    pub facts: Facts,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ForkFacts {
    pub parent: LineageId,
    pub parent_at: String,
    pub child_at: String,
}

impl ForkFacts {
    pub fn of<P: Position>(fork: &Fork<P>) -> Self {
        let (parent_at, child_at) = (fork.parent_at.to_string(), fork.child_at.to_string());
        Self { parent: fork.parent.clone(), parent_at, child_at }
    }
}

impl LineageFacts {
    pub fn lineage<P: Position>(self, key: &str) -> Result<Lineage<P>> {
        let fork = match self.fork {
            None => None,
            Some(fork) => Some(Fork {
                parent: fork.parent,
                parent_at: position(key, &fork.parent_at)?,
                child_at: position(key, &fork.child_at)?,
            }),
        };
        Ok(Lineage { id: self.id, ordinal: self.ordinal, fork, facts: self.facts })
    }
}

/// Facts and content of a recorded gap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct GapFacts {
    pub lineage: LineageId,
    pub after: String,
    pub before: Option<String>,
    pub after_time: Option<Timestamp>,
    pub before_time: Option<Timestamp>,
    pub cause: GapCause,
}

impl GapFacts {
    pub fn of<P: Position>(gap: &Gap<P>) -> Self {
        Self {
            lineage: gap.lineage.clone(),
            after: gap.after.to_string(),
            before: gap.before.as_ref().map(ToString::to_string),
            after_time: gap.after_time,
            before_time: gap.before_time,
            cause: gap.cause.clone(),
        }
    }

    pub fn gap<P: Position>(self, key: &str) -> Result<Gap<P>> {
        Ok(Gap {
            lineage: self.lineage,
            after: position(key, &self.after)?,
            before: self.before.map(|text| position(key, &text)).transpose()?,
            after_time: self.after_time,
            before_time: self.before_time,
            cause: self.cause,
        })
    }
}

/// Facts of a tail: bytes `from..to` of an open segment, and what was known of its bytes up to `to`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TailFacts {
    pub from: u64,
    pub to: u64,
    pub segment: SegmentFacts,
}

/// Reads a position of the object `key`.
pub(crate) fn position<P: Position>(key: &str, text: &str) -> Result<P> {
    text.parse().map_err(|e: pitr_core::ParsePositionError| Error::corrupt(key, e.to_string()))
}

/// A segment ends after it begins; asserted when it is written and again when it is read.
pub(crate) fn check_order<P: Position>(key: &str, span: &Span<P>) -> Result<()> {
    if span.start < span.end {
        return Ok(());
    }
    Err(Error::corrupt(key, format!("it ends at {}, which is not after its start {}", span.end, span.start)))
}
