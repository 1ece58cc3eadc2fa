//! The self-describing encoding of the tagged GTID event (`mysql::serialization`).
//!
//! A message is: version, size, highest field that may not be ignored; then fields, each with its number before it, in
//! ascending order, those with a default value left out. All numbers have a variable length: as many one bits at the
//! low end of the first byte as bytes follow it.

use super::bytes::Bytes;
use crate::gtid::{MysqlGtid, Tag, Uuid};

/// The fields of a tagged GTID event that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TaggedGtid {
    pub gtid: MysqlGtid,
    pub last_committed: i64,
    pub sequence_number: i64,
    pub immediate: u64,
    pub original: Option<u64>,
    pub length: u64,
}

/// Highest field that this decoder understands: the ticket of a commit group.
const LAST_FIELD: u64 = 11;

pub(super) fn parse(body: &[u8]) -> Option<TaggedGtid> {
    let mut rest = Bytes(body);
    let _version = number(&mut rest)?;
    let size = usize::try_from(number(&mut rest)?).ok()?;
    let needed = number(&mut rest)?;
    // The size counts from the begin of the message. What is beyond is not ours.
    let read = body.len() - rest.0.len();
    let mut rest = Bytes(rest.0.get(..size.checked_sub(read)?)?);
    (needed <= LAST_FIELD + 1).then_some(())?;
    let mut found = Fields::default();
    while !rest.0.is_empty() {
        match number(&mut rest)? {
            0 => drop(number(&mut rest)?),
            1 => found.source = Some(uuid(&mut rest)?),
            2 => found.number = Some(signed(&mut rest)?),
            3 => found.tag = Some(tag(&mut rest)?),
            4 => found.last_committed = signed(&mut rest)?,
            5 => found.sequence_number = signed(&mut rest)?,
            6 => found.immediate = Some(number(&mut rest)?),
            7 => found.original = Some(number(&mut rest)?),
            8 => found.length = Some(number(&mut rest)?),
            9 | 10 | 11 => drop(number(&mut rest)?),
            // A newer field, which may be ignored: those behind it may be too.
            _ => break,
        }
    }
    found.complete()
}

#[derive(Default)]
struct Fields {
    source: Option<Uuid>,
    number: Option<i64>,
    tag: Option<Tag>,
    last_committed: i64,
    sequence_number: i64,
    immediate: Option<u64>,
    original: Option<u64>,
    length: Option<u64>,
}

impl Fields {
    fn complete(self) -> Option<TaggedGtid> {
        let number = u64::try_from(self.number?).ok().filter(|number| *number > 0)?;
        Some(TaggedGtid {
            gtid: MysqlGtid { source: self.source?, tag: self.tag.unwrap_or_default(), number },
            last_committed: self.last_committed,
            sequence_number: self.sequence_number,
            immediate: self.immediate?,
            original: self.original,
            length: self.length?,
        })
    }
}

fn uuid(rest: &mut Bytes<'_>) -> Option<Uuid> {
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        *byte = number(rest)?.try_into().ok()?;
    }
    Some(Uuid(bytes))
}

fn tag(rest: &mut Bytes<'_>) -> Option<Tag> {
    let length = usize::try_from(number(rest)?).ok()?;
    Tag::new(std::str::from_utf8(rest.take(length)?).ok()?)
}

/// An unsigned number of variable length.
fn number(rest: &mut Bytes<'_>) -> Option<u64> {
    let first = rest.u8()?;
    let more = first.trailing_ones();
    // Bits of the first byte above the ones and the zero that ends them; none if the ones fill seven or eight.
    let low = u64::from(first).checked_shr(more + 1).unwrap_or(0);
    let high = rest.uint(more as usize)?;
    // With eight bytes more nothing is left in the first; with seven as well.
    Some(if more >= 7 { high } else { high << (7 - more) | low })
}

/// A signed one: the sign is the lowest bit, and a negative number is stored as its complement.
fn signed(rest: &mut Bytes<'_>) -> Option<i64> {
    let number = number(rest)?;
    let magnitude = (number >> 1) as i64;
    Some(if number & 1 == 0 { magnitude } else { !magnitude })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_are_read() {
        let read = |bytes: &[u8]| number(&mut Bytes(bytes));
        assert_eq!(read(&[0]), Some(0));
        assert_eq!(read(&[0xFE]), Some(127));
        assert_eq!(read(&[0x01, 0x02]), Some(128));
        assert_eq!(read(&[0x7F, 1, 0, 0, 0, 0, 0, 1]), Some(1 << 48 | 1));
        assert_eq!(read(&[0xFF, 1, 0, 0, 0, 0, 0, 0, 0x80]), Some(1 << 63 | 1));
        assert_eq!(read(&[0x01]), None);
        assert_eq!(signed(&mut Bytes(&[4])), Some(1));
        assert_eq!(signed(&mut Bytes(&[2])), Some(-1));
    }
}
