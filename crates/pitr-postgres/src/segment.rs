//! Names of WAL files, as the server gives them, and of the archived segments made from them.

use std::fmt;
use std::str::FromStr;

use pitr_core::{InvalidName, SegmentName};

use crate::error::Error;
use crate::limits::{SEGMENTS_PER_GROUP, SLICE};
use crate::lsn::{Lsn, SegmentSize, TimelineId};
use crate::position::PgPosition;

/// The number of a WAL segment as its name shows it: two halves whose meaning depends on the segment size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber {
    /// Upper half of the LSN.
    pub high: u32,
    /// Number of the segment within that 4 GiB.
    pub low: u32,
}

impl SegmentNumber {
    /// The segment that holds `lsn`.
    pub fn of(lsn: Lsn, size: SegmentSize) -> Self {
        let number = lsn.segment_number(size);
        // Both halves fit: an LSN has 64 bits, and a 4 GiB stretch at most 4096 segments.
        Self { high: (number / size.per_log_id()) as u32, low: (number % size.per_log_id()) as u32 }
    }

    /// Position of its first byte; `None` if no server with this segment size gives the name.
    pub fn start(self, size: SegmentSize) -> Option<Lsn> {
        (u64::from(self.low) < size.per_log_id())
            .then(|| Lsn((u64::from(self.high) << 32) + u64::from(self.low) * size.bytes()))
    }
}

/// The name of a file that a server archives or asks for, parsed strictly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WalFileName {
    /// `000000010000000000000004`, or with `.partial` the last, unfinished one of a timeline that was left.
    Segment {
        /// Timeline in the name.
        timeline: TimelineId,
        /// Which segment.
        log: SegmentNumber,
        /// Whether it is marked as unfinished.
        partial: bool,
    },
    /// `00000002.history`: how the timeline came to be.
    History(TimelineId),
    /// `000000010000000000000004.00000028.backup`: where a base backup began, for people.
    Backup {
        /// Timeline in the name.
        timeline: TimelineId,
        /// The segment in which the backup began.
        log: SegmentNumber,
        /// Offset in that segment.
        offset: u32,
    },
}

impl WalFileName {
    /// The whole segment that holds `position`.
    pub fn of(position: PgPosition, size: SegmentSize) -> Self {
        Self::Segment { timeline: position.timeline, log: SegmentNumber::of(position.lsn, size), partial: false }
    }

    /// Timeline in the name.
    pub fn timeline(&self) -> TimelineId {
        match self {
            Self::Segment { timeline, .. } | Self::Backup { timeline, .. } | Self::History(timeline) => *timeline,
        }
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment { timeline, log, partial } => {
                write!(f, "{:08X}{:08X}{:08X}", timeline.0, log.high, log.low)?;
                f.write_str(if *partial { ".partial" } else { "" })
            }
            Self::History(timeline) => write!(f, "{:08X}.history", timeline.0),
            Self::Backup { timeline, log, offset } => {
                write!(f, "{:08X}{:08X}{:08X}.{offset:08X}.backup", timeline.0, log.high, log.low)
            }
        }
    }
}

impl FromStr for WalFileName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse_name(text).ok_or_else(|| Error::WalFileName(text.to_owned()))
    }
}

fn parse_name(text: &str) -> Option<WalFileName> {
    let (stem, suffix) = text.split_once('.').map_or((text, None), |(stem, suffix)| (stem, Some(suffix)));
    if suffix == Some("history") {
        return (stem.len() == 8).then(|| timeline(stem).map(WalFileName::History)).flatten();
    }
    if stem.len() != 24 {
        return None;
    }
    let timeline = timeline(stem.get(..8)?)?;
    let log = SegmentNumber { high: hex(stem.get(8..16)?)?, low: hex(stem.get(16..)?)? };
    match suffix {
        None => Some(WalFileName::Segment { timeline, log, partial: false }),
        Some("partial") => Some(WalFileName::Segment { timeline, log, partial: true }),
        Some(suffix) => Some(WalFileName::Backup { timeline, log, offset: hex(suffix.strip_suffix(".backup")?)? }),
    }
}

fn timeline(digits: &str) -> Option<TimelineId> {
    hex(digits).filter(|timeline| *timeline > 0).map(TimelineId)
}

/// Eight upper-case hexadecimal digits, as servers write them.
fn hex(digits: &str) -> Option<u32> {
    let strict = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    strict.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// One archived segment: a WAL file, or a slice of one that is larger than [`SLICE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Its name in the archive.
    pub name: SegmentName,
    /// Cut before its first byte.
    pub start: PgPosition,
    /// Cut after its last byte.
    pub end: PgPosition,
    /// Offset of its first byte in the WAL file.
    pub offset: u64,
}

impl Slice {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end.lsn.since(self.start.lsn)
    }

    /// Never: a slice has at least a page.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Number of archived segments that a WAL file is stored as.
pub fn slices_per_file(size: SegmentSize) -> u64 {
    size.bytes().div_ceil(SLICE)
}

/// The archived segments of a WAL file, in order. Empty if no server with this segment size gives the name.
///
/// Groups are `<timeline>-<ordinal / 256>`, so that each has 256 segments whatever the segment size; leaves are
/// the file's own name, followed by `.000` and so on where there are several.
///
/// # Errors
/// None for names that a server gives; the type of the name is checked all the same.
pub fn slices(
    timeline: TimelineId,
    log: SegmentNumber,
    partial: bool,
    size: SegmentSize,
) -> Result<Vec<Slice>, InvalidName> {
    let Some(start) = log.start(size) else { return Ok(Vec::new()) };
    let file = WalFileName::Segment { timeline, log, partial };
    let count = slices_per_file(size);
    let len = size.bytes().min(SLICE);
    (0..count)
        .map(|index| {
            let ordinal = start.segment_number(size) * count + index;
            let group = format!("{:08X}-{:010X}", timeline.0, ordinal / SEGMENTS_PER_GROUP);
            let leaf = if count == 1 { file.to_string() } else { format!("{file}.{index:03}") };
            let begin = start.advanced(index * len);
            Ok(Slice {
                name: SegmentName::new(group, leaf)?,
                start: PgPosition::new(timeline, begin),
                end: PgPosition::new(timeline, begin.advanced(len)),
                offset: index * len,
            })
        })
        .collect()
}

/// The WAL file of which an archived segment is a part, and which part; `None` if the name is none of ours.
pub fn file_of(name: &SegmentName, size: SegmentSize) -> Option<(WalFileName, usize)> {
    let (file, index) = match name.leaf().parse() {
        Ok(file) => (file, 0),
        Err(_) => {
            let (file, index) = name.leaf().rsplit_once('.')?;
            (file.parse().ok()?, index.parse::<usize>().ok()?)
        }
    };
    let WalFileName::Segment { timeline, log, partial } = file else { return None };
    let slices = slices(timeline, log, partial, size).ok()?;
    // The name is made again and compared: no second spelling of a segment is ever accepted.
    (slices.get(index)?.name == *name).then_some((file, index))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ONE: TimelineId = TimelineId(1);

    fn size(mib: u64) -> SegmentSize {
        SegmentSize::new(mib << 20).unwrap()
    }

    fn slices_of(file: &str, size: SegmentSize) -> Vec<Slice> {
        let WalFileName::Segment { timeline, log, partial } = file.parse().unwrap() else { panic!("{file}") };
        slices(timeline, log, partial, size).unwrap()
    }

    #[test]
    fn names_of_servers_round_trip() {
        for text in [
            "000000010000000000000004",
            "0000001A000000FF000000FE.partial",
            "00000002.history",
            "000000010000000000000004.00000028.backup",
        ] {
            assert_eq!(text.parse::<WalFileName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn any_other_name_is_refused() {
        for text in [
            "",
            "00000001000000000000000",
            "0000000100000000000000041",
            "00000001000000000000000g",
            "00000001000000000000000a",
            "000000000000000000000004",
            "00000000.history",
            "000000002.history",
            "00000002.History",
            "000000010000000000000004.partial.gz",
            "000000010000000000000004.28.backup",
            "000000010000000000000004.",
            "../00000001000000000000000",
            "+0000001000000000000000 4",
            "00000001000000000000000é",
        ] {
            assert!(text.parse::<WalFileName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn positions_and_names_agree_for_every_segment_size() {
        for mib in [1, 2, 16, 64, 1024] {
            let size = size(mib);
            for lsn in [0, 1, size.bytes() - 1, size.bytes(), 0xFFFF_FFFF, 1 << 32, 0x4A_9C3F_1E88, u64::MAX] {
                let number = SegmentNumber::of(Lsn(lsn), size);
                assert_eq!(number.start(size), Some(Lsn(lsn).segment_start(size)), "{lsn:X} at {size}");
            }
        }
        assert_eq!(SegmentNumber { high: 0, low: 256 }.start(SegmentSize::DEFAULT), None);
    }

    #[test]
    fn a_file_up_to_the_limit_is_one_segment_under_its_own_name() {
        let slices = slices_of("000000010000000200000003", SegmentSize::DEFAULT);
        assert_eq!(slices.len(), 1);
        assert_eq!(slices[0].name.to_string(), "00000001-0000000002/000000010000000200000003");
        assert_eq!(slices[0].start, "1:2/3000000".parse().unwrap());
        assert_eq!(slices[0].end, "1:2/4000000".parse().unwrap());
    }

    #[test]
    fn a_larger_file_is_cut_into_slices_without_hole() {
        let slices = slices_of("000000010000000000000003", size(64));
        let names: Vec<_> = slices.iter().map(|slice| slice.name.leaf()).collect();
        assert_eq!(names[0], "000000010000000000000003.000");
        assert_eq!(names.len(), 4);
        assert!(slices.windows(2).all(|pair| pair[0].end == pair[1].start && pair[1].offset == pair[0].offset + SLICE));
        assert_eq!(slices[3].end.lsn, Lsn(4 * (64 << 20)));
    }

    #[test]
    fn a_group_has_256_segments_and_names_sort_in_log_order() {
        for mib in [1, 16, 64, 1024] {
            let size = size(mib);
            let files = 3 * SEGMENTS_PER_GROUP / slices_per_file(size);
            let names: Vec<SegmentName> = (0..files)
                .map(|number| SegmentNumber::of(Lsn(number * size.bytes()), size))
                .flat_map(|log| slices(ONE, log, false, size).unwrap())
                .map(|slice| slice.name)
                .collect();
            assert!(names.is_sorted(), "{size}");
            let first: Vec<_> = names.iter().filter(|name| name.group() == "00000001-0000000001").collect();
            assert_eq!(first.len(), 256, "{size}");
        }
    }

    #[test]
    fn archived_names_lead_back_to_the_file() {
        for (file, mib) in [("000000010000000000000003", 16), ("000000010000000000000003.partial", 1024)] {
            for (index, slice) in slices_of(file, size(mib)).iter().enumerate() {
                assert_eq!(file_of(&slice.name, size(mib)), Some((file.parse().unwrap(), index)));
            }
        }
        let foreign = SegmentName::new("00000001-0000000001", "000000010000000000000003").unwrap();
        assert_eq!(file_of(&foreign, SegmentSize::DEFAULT), None, "the group is that of another segment");
        let padded = SegmentName::new("00000001-0000000000", "000000010000000000000003.0001").unwrap();
        assert_eq!(file_of(&padded, size(64)), None, "no second spelling");
    }
}
