//! Headers of WAL pages, and which version of the server writes which magic.

use crate::limits::{LONG_PAGE_HEADER, PAGE_SIZE};
use crate::lsn::{Lsn, TimelineId};

use super::bytes::{Fields, copy_into};
use super::damage::Damage;
use super::decoder::{EndReason, Origin};

/// `xlp_info`: the page begins with the rest of a record of the page before.
const CONTINUES_RECORD: u16 = 1;
/// `xlp_info`: the header is the long one.
const LONG: u16 = 2;
/// `xlp_info`: set and cleared by the server for its own compression of full-page images; of no meaning here.
const REMOVABLE: u16 = 4;
/// `xlp_info`: the rest of the record of the page before was lost in a crash; a fresh record begins here.
const REPLACES_RECORD: u16 = 8;

/// Major version of the server that writes pages with this magic; `None` if it is not supported.
pub fn major_version(magic: u16) -> Option<u32> {
    match magic {
        0xD106 => Some(13),
        0xD10D => Some(14),
        0xD110 => Some(15),
        0xD113 => Some(16),
        0xD116 => Some(17),
        0xD118 => Some(18),
        _ => None,
    }
}

/// The header of one WAL page, as it stands there: nothing is checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// Stands for the version of the format.
    pub magic: u16,
    /// Flag bits.
    pub flags: u16,
    /// Timeline of the first record of the page.
    pub timeline: TimelineId,
    /// Where the page says that it belongs.
    pub address: Lsn,
    /// Bytes that a record of the pages before still has, from this page on.
    pub left: u32,
    /// The rest of a long header.
    pub long: Option<LongHeader>,
}

/// What only the header of the first page of a segment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongHeader {
    /// Identifier of the cluster.
    pub system_id: u64,
    /// Bytes of a segment.
    pub segment_size: u32,
    /// Bytes of a page.
    pub page_size: u32,
}

impl PageHeader {
    /// Reads a header from the first 24 bytes of a page, or the first 40 where the flags say that it is long.
    /// `None` if there are fewer.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let mut header = Self {
            magic: fields.u16()?,
            flags: fields.u16()?,
            timeline: TimelineId(fields.u32()?),
            address: Lsn(fields.u64()?),
            left: fields.u32()?,
            long: None,
        };
        fields.skip(4)?;
        if header.flags & LONG != 0 {
            header.long =
                Some(LongHeader { system_id: fields.u64()?, segment_size: fields.u32()?, page_size: fields.u32()? });
        }
        Some(header)
    }

    /// True if the flags can stand in a header of `len` bytes: no unknown bit, not both ways to begin, and long
    /// exactly if it must be.
    pub(super) fn flags_fit(&self, len: u64) -> bool {
        let known = CONTINUES_RECORD | LONG | REMOVABLE | REPLACES_RECORD;
        let both = CONTINUES_RECORD | REPLACES_RECORD;
        self.flags & !known == 0 && self.flags & both != both && (self.flags & LONG != 0) == (len == LONG_PAGE_HEADER)
    }

    /// How the page begins.
    pub(super) fn beginning(&self) -> Beginning {
        match (self.flags & CONTINUES_RECORD != 0, self.flags & REPLACES_RECORD != 0) {
            (false, false) => Beginning::Fresh,
            (false, true) => Beginning::Replaces,
            (true, _) => Beginning::Continues(self.left),
        }
    }
}

/// What the first bytes after a page header are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    /// The first byte of a record, or nothing.
    Fresh,
    /// The first byte of a record, in place of the rest of one that a crash cut off.
    Replaces,
    /// The rest of a record of the page before, with so many bytes left in all.
    Continues(u32),
}

/// The page header that is being collected, and what the ones before it said.
#[derive(Debug)]
pub(super) struct Pages {
    bytes: [u8; LONG_PAGE_HEADER as usize],
    pub(super) magic: Option<u16>,
    pub(super) version: u32,
    pub(super) timeline: TimelineId,
    pub(super) system_id: Option<u64>,
}

/// What a page header, taken by itself, turned out to be.
pub(super) enum Entered {
    /// It is part of the log.
    Valid(Beginning),
    /// The log ends before it.
    End(EndReason),
}

impl Pages {
    pub(super) fn new(system_id: Option<u64>) -> Self {
        let bytes = [0; LONG_PAGE_HEADER as usize];
        Self { bytes, magic: None, version: 0, timeline: TimelineId(0), system_id }
    }

    /// Puts `piece` at offset `at` of the header.
    pub(super) fn collect(&mut self, at: u64, piece: &[u8]) {
        copy_into(&mut self.bytes, at as usize, piece);
    }

    /// Checks the header that was collected for the page at `page`, `len` bytes long.
    pub(super) fn enter(&mut self, page: Lsn, len: u64, origin: &Origin) -> Result<Entered, Damage> {
        let bytes = self.bytes.get(..len as usize).unwrap_or_default();
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Entered::End(EndReason::Zeros));
        }
        let Some(header) = PageHeader::parse(&self.bytes) else {
            return Ok(Entered::End(EndReason::Zeros));
        };
        let version = major_version(header.magic).ok_or(Damage::UnknownMagic(header.magic))?;
        match self.magic {
            Some(before) if before != header.magic => {
                return Err(Damage::MagicChanges { before, found: header.magic });
            }
            _ => {}
        }
        if !header.flags_fit(len) {
            return Err(Damage::PageFlags(header.flags));
        }
        if header.address < page && page.since(header.address).is_multiple_of(PAGE_SIZE) {
            return Ok(Entered::End(EndReason::StalePage(header.address)));
        }
        if header.address != page {
            return Err(Damage::PageAddress(header.address));
        }
        let beginning = header.beginning();
        if header.left > 0 && !matches!(beginning, Beginning::Continues(_)) {
            return Err(Damage::Continuation { expected: 0, found: header.left.into() });
        }
        self.check_history(&header, origin)?;
        (self.magic, self.version, self.timeline) = (Some(header.magic), version, header.timeline);
        Ok(Entered::Valid(beginning))
    }

    /// Timelines only go up, to the one that is read; cluster and sizes never change.
    fn check_history(&mut self, header: &PageHeader, origin: &Origin) -> Result<(), Damage> {
        if header.timeline < self.timeline.max(TimelineId::FIRST) || header.timeline > origin.timeline {
            return Err(Damage::PageTimeline { before: self.timeline, found: header.timeline, last: origin.timeline });
        }
        let Some(long) = header.long else { return Ok(()) };
        if u64::from(long.page_size) != PAGE_SIZE {
            return Err(Damage::PageSize(long.page_size));
        }
        let expected = origin.segment_size.bytes();
        if u64::from(long.segment_size) != expected {
            return Err(Damage::SegmentSize { expected, found: long.segment_size });
        }
        match self.system_id {
            Some(expected) if expected != long.system_id => Err(Damage::SystemId { expected, found: long.system_id }),
            _ => {
                self.system_id = Some(long.system_id);
                Ok(())
            }
        }
    }
}
