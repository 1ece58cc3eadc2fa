//! Headers of WAL pages, and which version of the server writes which magic.

use crate::limits::LONG_PAGE_HEADER;
use crate::lsn::{Lsn, TimelineId};

use super::bytes::Fields;

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

    /// True if the flags can stand in a header of `len` bytes: no unknown bit, long exactly if it must be.
    pub(super) fn flags_fit(&self, len: u64) -> bool {
        let known = CONTINUES_RECORD | LONG | REMOVABLE | REPLACES_RECORD;
        self.flags & !known == 0 && (self.flags & LONG != 0) == (len == LONG_PAGE_HEADER)
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
