//! Global transaction identifiers, and sets of them.
//!
//! Two families that share a name and nothing else. MySQL counts per source (a UUID, since 8.3 with an optional
//! tag), and a set is a union of intervals. MariaDB counts per replication domain, and a set is the last
//! identifier of each domain. [`Gtid`] and [`GtidSet`] hold either, for code that only passes them on.
//!
//! ```
//! use pitr_mysql::gtid::{Gtid, GtidSet};
//!
//! let set: GtidSet = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-77".parse().unwrap();
//! let gtid: Gtid = "3e11fa47-71ca-11e1-9e33-c80aa9429562:77".parse().unwrap();
//! assert!(set.contains(&gtid));
//! let domains: GtidSet = "0-1-42,7-2-3".parse().unwrap();
//! assert!(domains.contains(&"7-1-2".parse().unwrap()));
//! ```

mod encoding;
mod interval;
mod mariadb;
mod mysql;

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

pub use interval::Intervals;
pub use mariadb::{MariaGtid, MariaSet};
pub use mysql::{MysqlGtid, MysqlSet, Tag, Uuid};

/// Text or bytes that are no identifier or no set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct GtidError {
    /// What was given; bytes in hexadecimal, shortened.
    pub text: String,
    /// What was expected, with an example.
    pub expected: &'static str,
}

impl GtidError {
    fn new(text: impl Into<String>, expected: &'static str) -> Self {
        Self { text: text.into(), expected }
    }
}

/// One transaction of either family.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Gtid {
    /// `UUID:77`, `UUID:tag:77`.
    Mysql(MysqlGtid),
    /// `0-1-77`.
    Maria(MariaGtid),
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mysql(gtid) => gtid.fmt(f),
            Self::Maria(gtid) => gtid.fmt(f),
        }
    }
}

impl FromStr for Gtid {
    type Err = GtidError;

    fn from_str(text: &str) -> Result<Self, GtidError> {
        // A UUID has dashes too, but only the identifiers of MySQL have colons.
        if text.contains(':') { text.parse().map(Self::Mysql) } else { text.parse().map(Self::Maria) }
    }
}

/// A set of transactions of either family: what a server has executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GtidSet {
    /// Intervals per source.
    Mysql(MysqlSet),
    /// The last one per domain.
    Maria(MariaSet),
}

impl GtidSet {
    /// True if the transaction is in the set.
    pub fn contains(&self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (Self::Mysql(set), Gtid::Mysql(gtid)) => set.contains(gtid),
            (Self::Maria(set), Gtid::Maria(gtid)) => set.contains(gtid),
            _ => false,
        }
    }

    /// Adds a transaction. One of the other family is left out: no server writes both.
    pub fn insert(&mut self, gtid: &Gtid) {
        match (self, gtid) {
            (Self::Mysql(set), Gtid::Mysql(gtid)) => set.insert(gtid),
            (Self::Maria(set), Gtid::Maria(gtid)) => set.insert(gtid),
            _ => {}
        }
    }

    /// True if every transaction of `self` is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Mysql(a), Self::Mysql(b)) => a.is_subset(b),
            (Self::Maria(a), Self::Maria(b)) => a.is_subset(b),
            // The text of an empty set does not tell its family.
            (empty, _) => empty.is_empty(),
        }
    }

    /// True if it holds no transaction.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Mysql(set) => set.is_empty(),
            Self::Maria(set) => set.is_empty(),
        }
    }
}

/// By inclusion.
impl PartialOrd for GtidSet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        inclusion(self.is_subset(other), other.is_subset(self))
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mysql(set) => set.fmt(f),
            Self::Maria(set) => set.fmt(f),
        }
    }
}

impl FromStr for GtidSet {
    type Err = GtidError;

    /// The empty text is the empty set of MySQL.
    fn from_str(text: &str) -> Result<Self, GtidError> {
        if text.contains(':') || text.trim().is_empty() {
            text.parse().map(Self::Mysql)
        } else {
            text.parse().map(Self::Maria)
        }
    }
}

/// The order of two sets from what includes what.
fn inclusion(forth: bool, back: bool) -> Option<Ordering> {
    match (forth, back) {
        (true, true) => Some(Ordering::Equal),
        (true, false) => Some(Ordering::Less),
        (false, true) => Some(Ordering::Greater),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests;
