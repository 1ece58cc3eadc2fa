//! Entry points for fuzzing: plain functions that must return for every input.

use crate::lsn::{Lsn, SegmentSize, TimelineId};

use super::decoder::{Decoder, Origin, Step};

/// Decodes arbitrary bytes, in pieces whose sizes the data choose, and checks what the decoder promises.
///
/// # Panics
/// If a promise of [`Decoder::step`] is broken: that is what the fuzzer looks for.
pub fn fuzz_wal(data: &[u8]) {
    let Some((control, mut rest)) = data.split_first() else { return };
    let timeline = TimelineId(u32::from(control & 3) + 1);
    // A page in the middle of a segment, or the first of one, whose header is the long one.
    let lsn = if control & 4 == 0 { Lsn(0x0100_0000) } else { Lsn(0x0100_2000) };
    let mut decoder = Decoder::new(Origin::new(timeline, lsn, SegmentSize::DEFAULT));
    let piece = if control & 8 == 0 { usize::from(control >> 4) + 1 } else { 1 << (control >> 4) };
    let mut before = lsn;
    while !rest.is_empty() {
        let (mut now, later) = rest.split_at(piece.min(rest.len()));
        rest = later;
        loop {
            match decoder.step(&mut now) {
                Ok(Step::Record(record)) => {
                    assert!(record.lsn >= before && record.end > record.lsn, "records go forward");
                    before = record.lsn.advanced(1);
                }
                Ok(Step::NeedMore) => {
                    assert!(now.is_empty(), "input was left over");
                    break;
                }
                Ok(Step::End(end)) => {
                    assert!(end.lsn <= decoder.position().aligned(), "the end is behind what was read");
                    return;
                }
                Err(error) => {
                    assert!(error.lsn <= decoder.position(), "damage is in what was read");
                    return;
                }
            }
        }
    }
}
