//! Identifiers of MariaDB: domain, server, sequence number.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{GtidError, inclusion};

const EXPECTED: &str = "an identifier such as 0-1-77";

/// One transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MariaGtid {
    /// Replication domain: each is a log of its own.
    pub domain: u32,
    /// `server_id` of the server that committed it first.
    pub server: u32,
    /// Number in the domain, ascending, not always without holes.
    pub sequence: u64,
}

impl fmt::Display for MariaGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.sequence)
    }
}

impl FromStr for MariaGtid {
    type Err = GtidError;

    fn from_str(text: &str) -> Result<Self, GtidError> {
        let wrong = || GtidError::new(text, EXPECTED);
        let mut parts = text.trim().split('-');
        let mut number = || parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        let (domain, server, sequence) = (number(), number(), number());
        match (domain, server, sequence, parts.next()) {
            (Some(domain), Some(server), Some(sequence), None) => Ok(Self {
                domain: domain.parse().map_err(|_| wrong())?,
                server: server.parse().map_err(|_| wrong())?,
                sequence: sequence.parse().map_err(|_| wrong())?,
            }),
            _ => Err(wrong()),
        }
    }
}

/// The last transaction of each domain: what MariaDB calls a GTID position.
///
/// Numbers may have holes, so this says "everything of the domain up to here" and not which numbers exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MariaSet(BTreeMap<u32, MariaGtid>);

impl MariaSet {
    /// True if it names no domain.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if the transaction lies at or before the last one of its domain.
    pub fn contains(&self, gtid: &MariaGtid) -> bool {
        self.0.get(&gtid.domain).is_some_and(|last| gtid.sequence <= last.sequence)
    }

    /// Makes this the last one of its domain, also if its number is lower: the log decides on the order.
    pub fn insert(&mut self, gtid: &MariaGtid) {
        self.0.insert(gtid.domain, *gtid);
    }

    /// True if `other` has got at least as far in every domain of `self`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.values().all(|last| other.contains(last))
    }

    /// The last one of each domain, ascending by domain.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &MariaGtid> {
        self.0.values()
    }

    /// The last one of a domain.
    pub fn last(&self, domain: u32) -> Option<&MariaGtid> {
        self.0.get(&domain)
    }
}

impl PartialOrd for MariaSet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match inclusion(self.is_subset(other), other.is_subset(self)) {
            // The same numbers by another server: two histories that went apart.
            Some(Ordering::Equal) if self != other => None,
            order => order,
        }
    }
}

impl fmt::Display for MariaSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, gtid) in self.0.values().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            gtid.fmt(f)?;
        }
        Ok(())
    }
}

impl FromStr for MariaSet {
    type Err = GtidError;

    /// Reads `@@gtid_binlog_pos`, `@@gtid_current_pos`; where a domain comes twice, the later one counts.
    fn from_str(text: &str) -> Result<Self, GtidError> {
        let mut set = Self::default();
        for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            set.insert(&member.parse()?);
        }
        Ok(set)
    }
}
