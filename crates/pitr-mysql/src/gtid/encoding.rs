//! Sets of MySQL as bytes: the body of a `PREVIOUS_GTIDS` event and the argument of `COM_BINLOG_DUMP_GTID`.
//!
//! Plain form: u64 count of sources; each is 16 bytes UUID, u64 count of intervals, and pairs of i64 first and
//! one past the last. Tagged form (8.3 and later, only where a tag is in the set): byte 0 and byte 7 of the count are 1
//! and the six between them count pairs of source and tag; after the UUID comes the tag, its length doubled as one
//! byte before it. All little-endian.

use super::{GtidError, MysqlSet, Tag, Uuid};

const EXPECTED: &str = "an encoded set of transactions";
const TAGGED: u8 = 1;

impl MysqlSet {
    /// Reads an encoded set, which must fill `bytes` whole.
    pub fn decode(bytes: &[u8]) -> Result<Self, GtidError> {
        let mut rest = bytes;
        match decode(&mut rest) {
            Some(set) if rest.is_empty() => Ok(set),
            _ => {
                let shown = bytes.get(..bytes.len().min(64)).unwrap_or(bytes);
                Err(GtidError::new(hex::encode(shown), EXPECTED))
            }
        }
    }

    /// Encodes the set; in the tagged form only if it must be, for older servers do not know that.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let count = self.0.len() as u64;
        let tagged = self.is_tagged();
        let head = if tagged { u64::from(TAGGED) | count << 8 | u64::from(TAGGED) << 56 } else { count };
        out.extend_from_slice(&head.to_le_bytes());
        for ((source, tag), numbers) in &self.0 {
            out.extend_from_slice(&source.0);
            if tagged {
                // At most 32 bytes, so its doubled length is one byte of a variable-length integer.
                out.push((tag.as_str().len() as u8) << 1);
                out.extend_from_slice(tag.as_str().as_bytes());
            }
            out.extend_from_slice(&(numbers.iter().len() as u64).to_le_bytes());
            for (start, end) in numbers.iter() {
                out.extend_from_slice(&start.to_le_bytes());
                out.extend_from_slice(&end.to_le_bytes());
            }
        }
        out
    }
}

fn decode(rest: &mut &[u8]) -> Option<MysqlSet> {
    let head = u64_le(rest)?;
    let [first, .., last] = head.to_le_bytes();
    let tagged = first == TAGGED && last == TAGGED;
    let count = if tagged { (head >> 8) & 0xFFFF_FFFF_FFFF } else { head };
    let mut set = MysqlSet::default();
    // Counts are believed one entry at a time: a wrong one ends at the end of the bytes.
    for _ in 0..count {
        let source = Uuid(*take(rest, 16)?.first_chunk()?);
        let tag = if tagged { tag(rest)? } else { Tag::default() };
        for _ in 0..u64_le(rest)? {
            let (start, end) = (u64_le(rest)?, u64_le(rest)?);
            (1..end).contains(&start).then_some(())?;
            (end <= i64::MAX as u64).then(|| set.insert_range(source, &tag, start, end))?;
        }
    }
    Some(set)
}

fn tag(rest: &mut &[u8]) -> Option<Tag> {
    let length = *take(rest, 1)?.first()?;
    // A longer one would set the lowest bit, which says that the length goes on in a second byte.
    (length & 1 == 0).then_some(())?;
    Tag::new(std::str::from_utf8(take(rest, usize::from(length >> 1))?).ok()?)
}

fn u64_le(rest: &mut &[u8]) -> Option<u64> {
    take(rest, 8)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(count)?;
    *rest = after;
    Some(taken)
}
