//! A cut in the binary log of a server: history, file, offset.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use pitr_core::ParsePositionError;
use serde::{Deserialize, Serialize};

/// Tells the histories of a source apart: a digest of where the history begins, see [`crate::lineage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Incarnation(pub u32);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for Incarnation {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let plain = text.len() == 8 && text.bytes().all(lower);
        let number = plain.then(|| u32::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or_else(|| ParsePositionError {
            text: text.to_owned(),
            expected: "eight hexadecimal digits in lower case",
        })
    }
}

/// A cut in the binary log: everything before `offset` of file number `file`, and all earlier files, is in.
///
/// Within one history the log is one sequence of bytes, so file and offset order cuts exactly by inclusion, with
/// GTIDs or without. Cuts of different histories are not comparable by themselves: there the executed sets,
/// which segments and bases carry as facts, say where one left the other. Text form `9f01a2b3:12:4711`.
///
/// The end of a file and the begin of the next one are the same cut. It is written as the begin of the next file, as
/// soon as the log says that there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BinlogPosition {
    /// The history.
    pub incarnation: Incarnation,
    /// The number in the name of the file: 12 for `binlog.000012`.
    pub file: u64,
    /// Bytes of the file before the cut, counted by us in 64 bits: the log's own offsets wrap at 4 GiB.
    pub offset: u64,
}

impl BinlogPosition {
    /// The accepted text form, for error messages.
    pub const EXPECTED: &'static str = "history, file number and offset such as 9f01a2b3:12:4711";

    /// Joins the three parts.
    pub fn new(incarnation: Incarnation, file: u64, offset: u64) -> Self {
        Self { incarnation, file, offset }
    }
}

impl PartialOrd for BinlogPosition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.incarnation == other.incarnation).then(|| (self.file, self.offset).cmp(&(other.file, other.offset)))
    }
}

impl fmt::Display for BinlogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.incarnation, self.file, self.offset)
    }
}

impl FromStr for BinlogPosition {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        let mut parts = text.split(':');
        let parsed = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(incarnation), Some(file), Some(offset), None) => incarnation
                .parse()
                .ok()
                .and_then(|incarnation| Some(Self { incarnation, file: number(file)?, offset: number(offset)? })),
            _ => None,
        };
        parsed.ok_or_else(|| ParsePositionError { text: text.to_owned(), expected: Self::EXPECTED })
    }
}

/// The text is stored and compared, so there is one spelling: no sign, no leading zero.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

impl TryFrom<String> for BinlogPosition {
    type Error = ParsePositionError;

    fn try_from(text: String) -> Result<Self, ParsePositionError> {
        text.parse()
    }
}

impl From<BinlogPosition> for String {
    fn from(position: BinlogPosition) -> Self {
        position.to_string()
    }
}

/// The name of a binary log file: everything before the last dot, and the number after it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogFile {
    /// `binlog` for `binlog.000012`; without the directory.
    pub base: String,
    /// 12 for `binlog.000012`.
    pub number: u64,
}

impl LogFile {
    /// The accepted form, for error messages.
    pub const EXPECTED: &'static str = "a binary log file such as binlog.000012";

    /// Reads the name of a file, with or without a directory.
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.rsplit('/').next().unwrap_or(name);
        let (base, digits) = name.rsplit_once('.')?;
        let sane = !base.is_empty() && digits.len() >= 6 && digits.bytes().all(|byte| byte.is_ascii_digit());
        let control = base.chars().any(char::is_control);
        let number = (sane && !control).then(|| digits.parse().ok()).flatten()?;
        Some(Self { base: base.to_owned(), number })
    }

    /// The file with another number.
    #[must_use]
    pub fn with_number(&self, number: u64) -> Self {
        Self { base: self.base.clone(), number }
    }
}

/// As the server writes it: at least six digits.
impl fmt::Display for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.base, self.number)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(text: &str) -> BinlogPosition {
        text.parse().unwrap()
    }

    #[test]
    fn positions_compare_only_within_a_history() {
        assert!(at("9f01a2b3:9:4711") < at("9f01a2b3:10:4"));
        assert!(at("9f01a2b3:10:4") < at("9f01a2b3:10:5000000000"));
        assert_eq!(at("9f01a2b3:9:4711").partial_cmp(&at("00000001:9:4711")), None);
    }

    #[test]
    fn text_and_json_round_trip() {
        let position = at("0000000a:1000000:4294967296");
        assert_eq!(position.to_string(), "0000000a:1000000:4294967296");
        assert_eq!(serde_json::to_string(&position).unwrap(), "\"0000000a:1000000:4294967296\"");
        assert_eq!(serde_json::from_str::<BinlogPosition>("\"0000000a:1000000:4294967296\"").unwrap(), position);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "1:1:1", "9F01A2B3:1:1", "9f01a2b3:01:1", "9f01a2b3:1:+1", "9f01a2b3:1", "9f01a2b3:1:1:1"] {
            assert!(text.parse::<BinlogPosition>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn file_names_are_read_as_the_server_writes_them() {
        let file = LogFile::parse("/var/lib/mysql/my.host-bin.000012").unwrap();
        assert_eq!((file.base.as_str(), file.number), ("my.host-bin", 12));
        assert_eq!(file.to_string(), "my.host-bin.000012");
        assert_eq!(file.with_number(1_000_000).to_string(), "my.host-bin.1000000");
        for name in ["binlog.index", "binlog", ".000001", "binlog.12", "binlog.00001x", "b\nl.000001"] {
            assert_eq!(LogFile::parse(name), None, "{name:?}");
        }
    }
}
