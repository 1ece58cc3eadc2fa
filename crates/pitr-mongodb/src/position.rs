//! A cut in the log of a replica set, and what an entry is called.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use pitr_core::ParsePositionError;
use serde::{Deserialize, Serialize};

/// The timestamp of an entry: unique within one history, and growing. Text form `1700000000.3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp {
    /// Seconds of the cluster's logical clock. It may run ahead of every wall clock.
    pub seconds: u32,
    /// Counts within the second, from 1.
    pub increment: u32,
}

impl Stamp {
    /// Joins the two parts.
    pub const fn new(seconds: u32, increment: u32) -> Self {
        Self { seconds, increment }
    }

    /// The next one: a cut right after the entry with this one.
    pub const fn next(self) -> Self {
        Self::from_bits(self.bits().saturating_add(1))
    }

    /// The one before: of a cut, the latest stamp that an entry before it can have.
    pub const fn previous(self) -> Self {
        Self::from_bits(self.bits().saturating_sub(1))
    }

    pub(crate) const fn bits(self) -> u64 {
        ((self.seconds as u64) << 32) | self.increment as u64
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self { seconds: (bits >> 32) as u32, increment: bits as u32 }
    }
}

impl From<bson::Timestamp> for Stamp {
    fn from(stamp: bson::Timestamp) -> Self {
        Self::new(stamp.time, stamp.increment)
    }
}

impl From<Stamp> for bson::Timestamp {
    fn from(stamp: Stamp) -> Self {
        Self { time: stamp.seconds, increment: stamp.increment }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.seconds, self.increment)
    }
}

impl FromStr for Stamp {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        let malformed = || ParsePositionError { text: text.to_owned(), expected: MongoPosition::EXPECTED };
        let (seconds, increment) = text.split_once('.').ok_or_else(malformed)?;
        let number = |digits: &str| plain(digits).and_then(|digits| digits.parse().ok()).ok_or_else(malformed);
        Ok(Self::new(number(seconds)?, number(increment)?))
    }
}

/// The text is stored and compared, so there is one spelling: no sign, no leading zero.
fn plain(digits: &str) -> Option<&str> {
    let canonical = digits == "0" || !digits.starts_with('0');
    (canonical && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then_some(digits)
}

/// The identity of an entry: two entries with the same stamp and term are the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OpTime {
    /// The election under which it was written.
    pub term: i64,
    /// Its timestamp.
    pub stamp: Stamp,
}

impl OpTime {
    /// The cut just before this entry.
    pub fn before(self) -> MongoPosition {
        MongoPosition { term: Some(self.term), stamp: self.stamp }
    }

    /// The cut just after this entry.
    pub fn after(self) -> MongoPosition {
        MongoPosition { term: Some(self.term), stamp: self.stamp.next() }
    }
}

impl fmt::Display for OpTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (term {})", self.stamp, self.term)
    }
}

/// A cut in the oplog: everything with an earlier timestamp is in. Text form `5:1700000000.3`.
///
/// Within a history the timestamp alone tells the place, so it alone is compared. The term belongs to the
/// entry that the cut was made at (the one after it or the one before it): a tailer that resumes proves
/// with it that the source still has the entry it knows, and not another one of the same stamp. A cut that
/// a user typed has none.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MongoPosition {
    /// Term of the entry at which the cut was made.
    pub term: Option<i64>,
    /// Everything before this timestamp is in.
    pub stamp: Stamp,
}

impl MongoPosition {
    /// The accepted text form, for error messages.
    pub const EXPECTED: &'static str = "seconds and increment such as 1700000000.3, or with the term 5:1700000000.3";

    /// The earlier of two cuts of one history.
    #[must_use]
    pub fn or_earlier(self, other: Self) -> Self {
        if other < self { other } else { self }
    }

    /// The entry right before a cut that was made after one.
    pub fn last_entry(self) -> Option<OpTime> {
        self.term.map(|term| OpTime { term, stamp: self.stamp.previous() })
    }
}

impl PartialEq for MongoPosition {
    fn eq(&self, other: &Self) -> bool {
        self.stamp == other.stamp
    }
}

impl Eq for MongoPosition {}

impl Hash for MongoPosition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.stamp.hash(state);
    }
}

impl PartialOrd for MongoPosition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.stamp.cmp(&other.stamp))
    }
}

impl fmt::Display for MongoPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.term {
            Some(term) => write!(f, "{term}:{}", self.stamp),
            None => self.stamp.fmt(f),
        }
    }
}

impl FromStr for MongoPosition {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        let malformed = || ParsePositionError { text: text.to_owned(), expected: Self::EXPECTED };
        let (term, stamp) = match text.split_once(':') {
            // A standalone's oplog, and that of the oldest protocol, has term -1.
            Some(("-1", stamp)) => (Some(-1), stamp),
            Some((term, stamp)) => (Some(plain(term).and_then(|term| term.parse().ok()).ok_or_else(malformed)?), stamp),
            None => (None, text),
        };
        Ok(Self { term, stamp: stamp.parse().map_err(|_| malformed())? })
    }
}

impl TryFrom<String> for MongoPosition {
    type Error = ParsePositionError;

    fn try_from(text: String) -> Result<Self, ParsePositionError> {
        text.parse()
    }
}

impl From<MongoPosition> for String {
    fn from(position: MongoPosition) -> Self {
        position.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(text: &str) -> MongoPosition {
        text.parse().unwrap()
    }

    #[test]
    fn the_timestamp_alone_is_the_place() {
        assert!(at("1:1700000000.3") < at("1:1700000000.10"));
        assert!(at("1:1700000000.4294967295") < at("1:1700000001.0"));
        assert_eq!(at("5:1700000000.3"), at("1700000000.3"));
    }

    #[test]
    fn text_and_json_round_trip() {
        for text in ["5:1700000000.3", "1700000000.3", "-1:7.1", "0:0.0"] {
            assert_eq!(at(text).to_string(), text);
            assert_eq!(at(text).term, serde_json::from_str::<MongoPosition>(&format!("\"{text}\"")).unwrap().term);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "1", "1.", ".1", "01.1", "1.01", "+1.1", "1:1", "-2:1.1", "5:", "4294967296.1", "1.1.1", "a:1.1"]
        {
            assert!(text.parse::<MongoPosition>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_cut_after_an_entry_remembers_it() {
        let entry = OpTime { term: 3, stamp: Stamp::new(7, u32::MAX) };
        assert_eq!(entry.after().to_string(), "3:8.0");
        assert_eq!(entry.after().last_entry(), Some(entry));
        assert!(entry.before() < entry.after());
    }
}
