//! A strip as bytes: tails of one open segment, one after the other in a file that is there before they are. Pure, no I/O.
//!
//! ```text
//! frame   magic (8)  from (8)  to (8)  length (8)  check (16)  digest (16)  object (length)   zeros up to the next sector
//! frame   …
//! zeros up to the end of the file
//! ```
//! The object of a frame is a whole object of the archive, as it would lie under a key of its own. A writer appends a frame
//! only once the one before it is durable. So what a crash leaves is a strip of whole frames, and behind them at most one of
//! which some sectors were written and others still are zero. That one was never acknowledged and does not exist; anything else
//! that is no frame is damage.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

/// What a frame begins with.
const MAGIC: &[u8; 8] = b"pitr1fr\n";
/// Length of a frame before its object, in bytes.
const HEAD: usize = 64;
/// Length of what the check of a head covers, in bytes.
const FIELDS: usize = 32;
/// Length of the check of a head, and of the digest of its object, in bytes.
const DIGEST: usize = 16;
/// Frames begin at multiples of this many bytes, which a disk writes as a whole or not at all.
pub(crate) const SECTOR: usize = 512;

/// A tail in a strip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Offset of its first byte within the segment.
    pub from: u64,
    /// Offset behind its last byte.
    pub to: u64,
    /// Where the object lies in the strip.
    pub object: Range<u64>,
}

/// What a strip holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Frames {
    /// The frames, in the order in which they were written.
    pub whole: Vec<Frame>,
    /// Where damage begins.
    pub damaged: Vec<u64>,
}

/// The bytes of a frame, a whole number of sectors.
pub(crate) fn frame(from: u64, to: u64, object: &[Bytes]) -> Bytes {
    let length = object.iter().map(Bytes::len).sum::<usize>();
    let mut bytes = BytesMut::with_capacity((HEAD + length).next_multiple_of(SECTOR));
    bytes.extend_from_slice(MAGIC);
    bytes.put_u64(from);
    bytes.put_u64(to);
    bytes.put_u64(length as u64);
    let check = digest(&[&bytes]);
    let parts: Vec<&[u8]> = [&check[..]].into_iter().chain(object.iter().map(|part| &part[..])).collect();
    let digest = digest(&parts);
    bytes.extend_from_slice(&check);
    bytes.extend_from_slice(&digest);
    object.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    bytes.freeze()
}

/// Reads a strip. Never panics, whatever the bytes.
pub(crate) fn frames(strip: &[u8]) -> Frames {
    let mut frames = Frames::default();
    let mut at = 0;
    while let Some(rest) = strip.get(at..).filter(|rest| rest.iter().any(|byte| *byte != 0)) {
        if let Some(frame) = whole_frame(rest, at) {
            at = usize::try_from(frame.object.end).unwrap_or(usize::MAX).next_multiple_of(SECTOR);
            frames.whole.push(frame);
            continue;
        }
        let next = (at + SECTOR..strip.len()).step_by(SECTOR);
        let next =
            next.into_iter().find(|next| strip.get(*next..).is_some_and(|rest| whole_frame(rest, *next).is_some()));
        if next.is_some() || !is_torn(rest) {
            frames.damaged.push(at as u64);
        }
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    frames
}

/// The frame that begins here as its head says, and its length with the padding; `None` if it has no head, or does not fit.
fn head(rest: &[u8], at: usize) -> Option<(Frame, usize)> {
    let fields = rest.get(..FIELDS)?.strip_prefix(MAGIC)?;
    if digest(&[rest.get(..FIELDS)?])[..] != *rest.get(FIELDS..FIELDS + DIGEST)? {
        return None;
    }
    let (from, to, length) = (number(fields, 0)?, number(fields, 8)?, number(fields, 16)?);
    let whole = HEAD.checked_add(usize::try_from(length).ok()?)?.checked_next_multiple_of(SECTOR)?;
    let begin = (at + HEAD) as u64;
    (whole <= rest.len() && from < to).then_some((Frame { from, to, object: begin..begin + length }, whole))
}

fn whole_frame(rest: &[u8], at: usize) -> Option<Frame> {
    let (frame, _) = head(rest, at)?;
    let length = usize::try_from(frame.object.end - frame.object.start).ok()?;
    let digest = digest(&[rest.get(FIELDS..FIELDS + DIGEST)?, rest.get(HEAD..HEAD + length)?]);
    (digest[..] == *rest.get(FIELDS + DIGEST..HEAD)?).then_some(frame)
}

/// The first half of BLAKE3, not keyed: it finds faults of disks. The object has digests of its own against everything else.
fn digest(parts: &[&[u8]]) -> [u8; DIGEST] {
    let mut hasher = blake3::Hasher::new();
    parts.iter().for_each(|part| {
        hasher.update(part);
    });
    let mut digest = [0; DIGEST];
    hasher.finalize_xof().fill(&mut digest);
    digest
}

fn number(fields: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(fields.get(at..at + 8)?.try_into().ok()?))
}

/// Whether this is what a crash leaves of the last frame. No sector of a whole one is all zeros: text, compressed and
/// encrypted bytes have no such runs.
fn is_torn(rest: &[u8]) -> bool {
    let blank = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    match head(rest, 0) {
        Some((_, length)) => {
            let (frame, behind) = rest.split_at(length);
            frame.chunks(SECTOR).any(blank) && blank(behind)
        }
        None => rest.get(..SECTOR).is_some_and(blank),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Frames of some objects, and zeros behind them.
    fn strip(objects: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (n, object) in (0..).zip(objects) {
            bytes.extend_from_slice(&frame(n * 10, n * 10 + 10, &[Bytes::copy_from_slice(object)]));
        }
        bytes.resize(bytes.len() + 4 * SECTOR, 0);
        bytes
    }

    fn contents(strip: &[u8]) -> Vec<(u64, &[u8])> {
        let range = |object: &Range<u64>| usize::try_from(object.start).unwrap()..usize::try_from(object.end).unwrap();
        frames(strip).whole.iter().map(|frame| (frame.from, &strip[range(&frame.object)])).collect()
    }

    #[test]
    fn frames_are_read_in_order_up_to_the_zeros() {
        let long = [7; 3 * SECTOR];
        let strip = strip(&[b"first", &long, b"third"]);
        assert_eq!(contents(&strip), [(0, &b"first"[..]), (10, &long[..]), (20, &b"third"[..])]);
        assert!(frames(&strip).damaged.is_empty());
        assert_eq!(frames(&[]), Frames::default());
        assert_eq!(frames(&[0; 5 * SECTOR]), Frames::default());
    }

    #[test]
    fn of_the_last_frame_any_sectors_may_be_missing_and_then_it_is_not_there() {
        let last = [9; 3 * SECTOR];
        let whole = strip(&[b"acknowledged", &last]);
        let sectors = 4;
        for written in 0..(1 << sectors) - 1 {
            let mut torn = whole.clone();
            for sector in (0..sectors).filter(|sector| written & (1 << sector) == 0) {
                torn[SECTOR * (1 + sector)..][..SECTOR].fill(0);
            }
            assert_eq!(contents(&torn), [(0, &b"acknowledged"[..])], "sectors {written:b}");
            assert!(frames(&torn).damaged.is_empty(), "sectors {written:b}");
        }
    }

    #[test]
    fn every_flipped_bit_is_damage_with_its_place_and_hides_no_other_frame() {
        let whole = strip(&[b"first", b"second", b"third"]);
        for (byte, bit) in (0..3 * SECTOR).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let mut flipped = whole.clone();
            flipped[byte] ^= 1 << bit;
            let (read, frame) = (frames(&flipped), byte / SECTOR);
            // The padding belongs to nobody.
            let padding = byte % SECTOR >= HEAD + ["first", "second", "third"][frame].len();
            assert_eq!(read.whole.len(), if padding { 3 } else { 2 }, "bit {bit} of byte {byte}");
            let damaged: &[u64] = if padding { &[] } else { &[(frame * SECTOR) as u64] };
            assert_eq!(read.damaged, damaged, "bit {bit} of byte {byte}");
        }
    }

    #[test]
    fn a_hole_before_another_frame_is_damage() {
        let mut holed = strip(&[b"first", b"second", b"third"]);
        holed[SECTOR..2 * SECTOR].fill(0);
        assert_eq!(frames(&holed).damaged, [SECTOR as u64]);
        assert_eq!(contents(&holed), [(0, &b"first"[..]), (20, &b"third"[..])]);
    }
}
