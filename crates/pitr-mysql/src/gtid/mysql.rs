//! Identifiers of MySQL: a source, an optional tag, a number.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{GtidError, Intervals, inclusion};

/// Highest number of a transaction (`GNO_END - 1` in the server).
const MAX_NUMBER: u64 = i64::MAX as u64 - 1;
/// Longest tag, in bytes.
const MAX_TAG: usize = 32;

const EXPECTED: &str = "an identifier such as 3e11fa47-71ca-11e1-9e33-c80aa9429562:77";
const EXPECTED_SET: &str = "a set such as 3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:9";

/// The UUID of a server or of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Uuid {
    type Err = GtidError;

    fn from_str(text: &str) -> Result<Self, GtidError> {
        let wrong = || GtidError::new(text, "a UUID such as 3e11fa47-71ca-11e1-9e33-c80aa9429562");
        let dashes: Vec<usize> = text.match_indices('-').map(|(at, _)| at).collect();
        if text.len() != 36 || dashes != [8, 13, 18, 23] {
            return Err(wrong());
        }
        let mut bytes = [0; 16];
        hex::decode_to_slice(text.replace('-', ""), &mut bytes).map_err(|_| wrong())?;
        Ok(Self(bytes))
    }
}

/// A tag of up to 32 letters, digits and underscores; empty where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

impl Tag {
    /// Checks a tag; the server keeps them in lower case.
    pub fn new(text: &str) -> Option<Self> {
        let first = |c: char| c.is_ascii_alphabetic() || c == '_';
        let rest = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let valid = text.len() <= MAX_TAG && text.chars().all(rest) && text.starts_with(first);
        (text.is_empty() || valid).then(|| Self(text.to_ascii_lowercase()))
    }

    /// The text, empty where there is none.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True where there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MysqlGtid {
    /// The server or group that committed it first.
    pub source: Uuid,
    /// Its tag, mostly empty.
    pub tag: Tag,
    /// Its number, from 1.
    pub number: u64,
}

impl fmt::Display for MysqlGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tag.as_str() {
            "" => write!(f, "{}:{}", self.source, self.number),
            tag => write!(f, "{}:{tag}:{}", self.source, self.number),
        }
    }
}

impl FromStr for MysqlGtid {
    type Err = GtidError;

    fn from_str(text: &str) -> Result<Self, GtidError> {
        let wrong = || GtidError::new(text, EXPECTED);
        let parts: Vec<&str> = text.trim().split(':').collect();
        let (source, tag, number) = match parts.as_slice() {
            [source, number] => (source, "", number),
            [source, tag, number] if !tag.is_empty() => (source, *tag, number),
            _ => return Err(wrong()),
        };
        Ok(Self {
            source: source.parse().map_err(|_| wrong())?,
            tag: Tag::new(tag).ok_or_else(wrong)?,
            number: number_from(number).ok_or_else(wrong)?,
        })
    }
}

fn number_from(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|number| (1..=MAX_NUMBER).contains(number))
}

/// A set of transactions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MysqlSet(pub(super) BTreeMap<(Uuid, Tag), Intervals>);

impl MysqlSet {
    /// True if it holds no transaction.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if the transaction is in.
    pub fn contains(&self, gtid: &MysqlGtid) -> bool {
        self.numbers(gtid.source, &gtid.tag).is_some_and(|numbers| numbers.contains(gtid.number))
    }

    /// Adds a transaction.
    pub fn insert(&mut self, gtid: &MysqlGtid) {
        self.insert_range(gtid.source, &gtid.tag, gtid.number, gtid.number.saturating_add(1));
    }

    /// Adds the transactions of one source and tag with numbers `start..end`.
    pub fn insert_range(&mut self, source: Uuid, tag: &Tag, start: u64, end: u64) {
        if start < end {
            self.0.entry((source, tag.clone())).or_default().insert(start, end);
        }
    }

    /// Adds all of another set.
    pub fn union(&mut self, other: &Self) {
        for ((source, tag), numbers) in &other.0 {
            for (start, end) in numbers.iter() {
                self.insert_range(*source, tag, start, end);
            }
        }
    }

    /// Removes all of another set.
    pub fn subtract(&mut self, other: &Self) {
        for (key, numbers) in &other.0 {
            let Some(mine) = self.0.get_mut(key) else { continue };
            for (start, end) in numbers.iter() {
                mine.remove(start, end);
            }
            if mine.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// True if every transaction of `self` is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.iter().all(|(key, numbers)| other.0.get(key).is_some_and(|theirs| numbers.is_subset(theirs)))
    }

    /// The numbers of one source and tag.
    pub fn numbers(&self, source: Uuid, tag: &Tag) -> Option<&Intervals> {
        self.0.get(&(source, tag.clone()))
    }

    /// All sources and tags, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (Uuid, &Tag, &Intervals)> {
        self.0.iter().map(|((source, tag), numbers)| (*source, tag, numbers))
    }

    /// Count of the transactions.
    pub fn count(&self) -> u64 {
        self.0.values().map(Intervals::count).sum()
    }

    /// True if a transaction with a tag is in: servers before 8.3 do not understand such a set.
    pub fn is_tagged(&self) -> bool {
        self.0.keys().any(|(_, tag)| !tag.is_empty())
    }
}

impl PartialOrd for MysqlSet {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        inclusion(self.is_subset(other), other.is_subset(self))
    }
}

/// As the server writes `@@gtid_executed`, without its line breaks: `UUID:1-5:9:tag:1-2,UUID:1`.
impl fmt::Display for MysqlSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = None;
        for ((source, tag), numbers) in &self.0 {
            match last {
                Some(last) if last == source => {}
                Some(_) => write!(f, ",{source}")?,
                None => write!(f, "{source}")?,
            }
            last = Some(source);
            if !tag.is_empty() {
                write!(f, ":{}", tag.as_str())?;
            }
            write!(f, ":{numbers}")?;
        }
        Ok(())
    }
}

impl FromStr for MysqlSet {
    type Err = GtidError;

    /// Reads what the server writes: with blanks, line breaks, empty members, and any order.
    fn from_str(text: &str) -> Result<Self, GtidError> {
        let mut set = Self::default();
        for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            add_member(&mut set, member).ok_or_else(|| GtidError::new(member, EXPECTED_SET))?;
        }
        Ok(set)
    }
}

/// Adds `UUID:1-5:9:tag:1-2`.
fn add_member(set: &mut MysqlSet, member: &str) -> Option<()> {
    let mut parts = member.split(':').map(str::trim);
    let source: Uuid = parts.next()?.parse().ok()?;
    let mut tag = Tag::default();
    // A tag without numbers after it, and a source without any, say nothing: a slip of the pen.
    let mut complete = false;
    for part in parts {
        if part.starts_with(|c: char| c.is_ascii_digit()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number_from(first)?, number_from(last)?);
            (first <= last).then(|| set.insert_range(source, &tag, first, last + 1))?;
            complete = true;
        } else {
            tag = Tag::new(part).filter(|tag| !tag.is_empty())?;
            complete = false;
        }
    }
    complete.then_some(())
}
