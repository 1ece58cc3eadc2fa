//! Bases: restorable copies.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::check_name;
use crate::{Facts, InvalidName, LineageId, Timestamp};

/// Name of a base: a label for people, unique within its source. Carries no order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BaseId(String);

impl BaseId {
    /// Longest accepted name, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Checks and wraps a name.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        let text = text.into();
        check_name("base", &text, Self::MAX_LEN)?;
        Ok(Self(text))
    }

    /// The name as it stands in object keys.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BaseId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl TryFrom<String> for BaseId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl From<BaseId> for String {
    fn from(id: BaseId) -> Self {
        id.0
    }
}

/// A restorable copy of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base<P> {
    /// Its name.
    pub id: BaseId,
    /// The history it was taken from.
    pub lineage: LineageId,
    /// Log is needed from here on.
    pub start: P,
    /// The earliest cut that can be reached from it.
    pub consistent: P,
    /// Clock of the source when it began and when it was complete, for screens; never used for order.
    pub taken: (Timestamp, Timestamp),
    /// Size once restored, in bytes.
    pub bytes: u64,
    /// Bytes that storing it added to the archive.
    pub stored: u64,
    /// What the engine noted (version, size of a page, page checksums).
    pub facts: Facts,
}
