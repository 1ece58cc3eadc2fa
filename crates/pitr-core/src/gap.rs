//! Gaps: holes in the log, as values.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{LineageId, Timestamp};

/// A hole in the log of one lineage. Never inferred away: it blocks exactly the targets that cross it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap<P> {
    /// The history it is in.
    pub lineage: LineageId,
    /// Last position before the hole.
    pub after: P,
    /// First position after the hole; `None` if nothing later is archived yet.
    pub before: Option<P>,
    /// Latest moment that the log before the hole proves.
    pub after_time: Option<Timestamp>,
    /// Earliest commit time after the hole.
    pub before_time: Option<Timestamp>,
    /// Why it is there.
    pub cause: GapCause,
}

/// Why log is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "cause", content = "detail")]
pub enum GapCause {
    /// Segments on both sides are there, those between were never stored.
    NeverArchived,
    /// A roll-up knows the segment, the listing no longer has it: somebody deleted it.
    Disappeared,
    /// The server had already removed the log when it was asked for it.
    RemovedByServer(String),
    /// The object is there but damaged.
    Damaged(String),
}

impl fmt::Display for GapCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverArchived => f.write_str("never archived"),
            Self::Disappeared => f.write_str("was archived, and is no longer in the listing"),
            Self::RemovedByServer(detail) => write!(f, "removed by the server before it was archived: {detail}"),
            Self::Damaged(detail) => write!(f, "damaged in the archive: {detail}"),
        }
    }
}
