//! Lineages: histories without forks, and the tree that forks make of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::check_name;
use crate::{Facts, InvalidName};

/// Name of one unforked history. Part of object keys, so restricted to safe characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LineageId(String);

impl LineageId {
    /// Longest accepted name, in bytes.
    pub const MAX_LEN: usize = 96;

    /// Checks and wraps a name.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        let text = text.into();
        check_name("lineage", &text, Self::MAX_LEN)?;
        Ok(Self(text))
    }

    /// The name as it stands in object keys.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LineageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LineageId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl TryFrom<String> for LineageId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl From<LineageId> for String {
    fn from(id: LineageId) -> Self {
        id.0
    }
}

/// Where a lineage left its parent. The same cut, in the coordinates of both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork<P> {
    /// The history that was left.
    pub parent: LineageId,
    /// The cut as a position of the parent.
    pub parent_at: P,
    /// The cut as a position of the child.
    pub child_at: P,
}

/// One unforked history of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage<P> {
    /// Its name.
    pub id: LineageId,
    /// Order of first appearance in the archive, from 0. Never derived from a clock.
    pub ordinal: u64,
    /// Where it forked off; `None` for a history that starts by itself.
    pub fork: Option<Fork<P>>,
    /// What the engine must know of it (system identifier, timeline, segment size).
    pub facts: Facts,
}
