//! A cut in the log of a cluster: timeline and LSN.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use pitr_core::ParsePositionError;
use serde::{Deserialize, Serialize};

use crate::lsn::{Lsn, TimelineId};

/// A cut in the WAL: everything before `lsn` on `timeline` is in. Text form `1:0/5000000`.
///
/// Positions of different timelines are not comparable: two timelines may both have an `0/5000000`, with
/// different transactions before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PgPosition {
    /// The history.
    pub timeline: TimelineId,
    /// The byte position in it.
    pub lsn: Lsn,
}

impl PgPosition {
    /// The accepted text form, for error messages.
    pub const EXPECTED: &'static str = "timeline and LSN such as 1:4A/9C3F1E88";

    /// Joins the two parts.
    pub fn new(timeline: TimelineId, lsn: Lsn) -> Self {
        Self { timeline, lsn }
    }
}

impl PartialOrd for PgPosition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.timeline == other.timeline).then(|| self.lsn.cmp(&other.lsn))
    }
}

impl fmt::Display for PgPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.timeline, self.lsn)
    }
}

impl FromStr for PgPosition {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        let malformed = || ParsePositionError { text: text.to_owned(), expected: Self::EXPECTED };
        let (timeline, lsn) = text.split_once(':').ok_or_else(malformed)?;
        // The text is stored and compared, so there is one spelling: no sign, no leading zero.
        if !timeline.bytes().all(|b| b.is_ascii_digit()) || timeline.starts_with('0') {
            return Err(malformed());
        }
        let timeline = timeline.parse().map(TimelineId).map_err(|_| malformed())?;
        Ok(Self { timeline, lsn: lsn.parse().map_err(|_| malformed())? })
    }
}

impl TryFrom<String> for PgPosition {
    type Error = ParsePositionError;

    fn try_from(text: String) -> Result<Self, ParsePositionError> {
        text.parse()
    }
}

impl From<PgPosition> for String {
    fn from(position: PgPosition) -> Self {
        position.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(text: &str) -> PgPosition {
        text.parse().unwrap()
    }

    #[test]
    fn positions_compare_only_within_a_timeline() {
        assert!(at("1:0/5000000") < at("1:1/0"));
        assert_eq!(at("1:0/5000000").partial_cmp(&at("2:0/5000000")), None);
    }

    #[test]
    fn text_and_json_round_trip() {
        let position = at("17:4A/9C3F1E88");
        assert_eq!(position.to_string(), "17:4A/9C3F1E88");
        assert_eq!(serde_json::to_string(&position).unwrap(), "\"17:4A/9C3F1E88\"");
        assert_eq!(serde_json::from_str::<PgPosition>("\"17:4A/9C3F1E88\"").unwrap(), position);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "1", "0:0/0", "+1:0/0", "01:0/0", "1:0", "1:0/0:1", "4294967296:0/0", ":0/0"] {
            assert!(text.parse::<PgPosition>().is_err(), "{text:?}");
        }
    }
}
