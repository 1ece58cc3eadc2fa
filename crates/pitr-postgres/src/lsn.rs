//! Log sequence numbers, timelines and segment sizes: the integers of the WAL, with their arithmetic.

use std::fmt;
use std::str::FromStr;

use pitr_core::ParsePositionError;
use serde::{Deserialize, Serialize};

use crate::limits::{LONG_PAGE_HEADER, PAGE_SIZE, SHORT_PAGE_HEADER};

/// A byte position in the WAL, counted from the very first byte of the cluster. Text form `4A/9C3F1E88`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

impl Lsn {
    /// The accepted text form, for error messages.
    pub const EXPECTED: &'static str = "an LSN such as 4A/9C3F1E88";

    /// The position `bytes` further on; stops at the last representable one.
    pub fn advanced(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// Bytes from `earlier` to here; 0 if `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The next multiple of 8, where records begin.
    pub fn aligned(self) -> Self {
        self.advanced(7).rounded_down(8)
    }

    /// Offset within the page.
    pub fn page_offset(self) -> u64 {
        self.0 % PAGE_SIZE
    }

    /// First byte of the page.
    pub fn page_start(self) -> Self {
        self.rounded_down(PAGE_SIZE)
    }

    /// Number of the segment that holds this byte.
    pub fn segment_number(self, size: SegmentSize) -> u64 {
        self.0 / size.bytes()
    }

    /// Offset within the segment.
    pub fn segment_offset(self, size: SegmentSize) -> u64 {
        self.0 % size.bytes()
    }

    /// First byte of the segment.
    pub fn segment_start(self, size: SegmentSize) -> Self {
        self.rounded_down(size.bytes())
    }

    /// First byte of the next segment.
    pub fn next_segment(self, size: SegmentSize) -> Self {
        self.segment_start(size).advanced(size.bytes())
    }

    /// Length of the header of the page that holds this byte: the first page of a segment has the long one.
    pub fn page_header_len(self, size: SegmentSize) -> u64 {
        if self.segment_offset(size) < PAGE_SIZE { LONG_PAGE_HEADER } else { SHORT_PAGE_HEADER }
    }

    /// The same cut, where a record can begin: a position inside a page header moves to its end.
    ///
    /// `0/5000000`, as functions of the server report the end of a record that fills its page, is the same
    /// cut as `0/5000028`, where `pg_waldump` shows the next record.
    pub fn normalized(self, size: SegmentSize) -> Self {
        let header = self.page_header_len(size);
        if self.page_offset() < header { self.page_start().advanced(header) } else { self }
    }

    fn rounded_down(self, unit: u64) -> Self {
        Self(self.0 - self.0 % unit)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        let malformed = || ParsePositionError { text: text.to_owned(), expected: Self::EXPECTED };
        let half = |digits: &str| -> Option<u32> {
            let hex = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
        };
        let (high, low) = text.split_once('/').ok_or_else(malformed)?;
        let (high, low) = (half(high).ok_or_else(malformed)?, half(low).ok_or_else(malformed)?);
        Ok(Self(u64::from(high) << 32 | u64::from(low)))
    }
}

impl TryFrom<String> for Lsn {
    type Error = ParsePositionError;

    fn try_from(text: String) -> Result<Self, ParsePositionError> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> Self {
        lsn.to_string()
    }
}

/// Number of a history of one cluster, from 1. Text form: decimal; `{:08X}` in file names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl TimelineId {
    /// The timeline that `initdb` begins; it has no history file.
    pub const FIRST: Self = Self(1);
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Size of a WAL segment file: a power of two from 1 MiB to 1 GiB, fixed by `initdb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSize(u64);

impl SegmentSize {
    /// What `initdb` takes when nobody says otherwise: 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);

    /// Checks a size in bytes; `None` if no server can have it.
    pub fn new(bytes: u64) -> Option<Self> {
        (bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)).then_some(Self(bytes))
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Segments whose names share the middle eight digits.
    pub fn per_log_id(self) -> u64 {
        (1 << 32) / self.0
    }
}

impl fmt::Display for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0 >> 20)
    }
}

impl TryFrom<u64> for SegmentSize {
    type Error = String;

    fn try_from(bytes: u64) -> Result<Self, String> {
        Self::new(bytes).ok_or_else(|| format!("{bytes} bytes is not a WAL segment size"))
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> Self {
        size.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_as_the_server_writes_it() {
        for text in ["0/0", "0/5000028", "4A/9C3F1E88", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        assert_eq!("4a/9c3f1e88".parse::<Lsn>().unwrap().to_string(), "4A/9C3F1E88");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "/", "0/", "/0", "0", "0/123456789", "0/+1", "-1/0", "0/0/0", " 0/0", "0x1/0", "G/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_cut_inside_a_page_header_is_the_cut_after_it() {
        let size = SegmentSize::DEFAULT;
        let normalized = |text: &str| text.parse::<Lsn>().unwrap().normalized(size).to_string();
        assert_eq!(normalized("0/5000000"), "0/5000028");
        assert_eq!(normalized("0/5002000"), "0/5002018");
        assert_eq!(normalized("0/5002010"), "0/5002018");
        assert_eq!(normalized("0/5002018"), "0/5002018");
        assert_eq!(normalized("0/5001FF8"), "0/5001FF8");
    }

    #[test]
    fn segment_sizes_are_powers_of_two_within_the_servers_limits() {
        for bytes in [0, 1, 8192, 512 << 10, 3 << 20, 2 << 30] {
            assert_eq!(SegmentSize::new(bytes), None, "{bytes}");
        }
        assert_eq!(SegmentSize::new(1 << 20).unwrap().per_log_id(), 4096);
        assert_eq!(SegmentSize::new(1 << 30).unwrap().per_log_id(), 4);
    }
}
