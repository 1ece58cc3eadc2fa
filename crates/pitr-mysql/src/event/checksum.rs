//! Checksums of events: CRC-32 as in zlib, in the last four bytes.

use super::{Header, Kind, flag};

/// What a file says of the checksums of its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// Events have none (`binlog_checksum = NONE`). The format description has one nevertheless.
    None,
    /// CRC-32 in the last four bytes.
    Crc32,
}

impl Checksum {
    /// Bytes of a checksum.
    pub const LEN: usize = 4;

    /// Bytes at the end of an event of this kind that are checksum.
    pub fn bytes_of(self, kind: Kind) -> usize {
        if self == Self::Crc32 || kind == Kind::FORMAT_DESCRIPTION { Self::LEN } else { 0 }
    }
}

/// The checksum of an event whose bytes come in pieces.
#[derive(Debug, Clone)]
pub struct Running {
    hasher: crc32fast::Hasher,
    seen: usize,
    format: bool,
}

impl Running {
    /// Begins with no bytes of an event of this kind.
    pub fn new(kind: Kind) -> Self {
        Self { hasher: crc32fast::Hasher::new(), seen: 0, format: kind == Kind::FORMAT_DESCRIPTION }
    }

    /// Adds bytes, from the header on and without the checksum.
    ///
    /// The format description of a file in use counts as if it were closed: its flag is changed in place later.
    pub fn update(&mut self, bytes: &[u8]) {
        let at = Header::FLAGS_AT.checked_sub(self.seen).filter(|at| self.format && *at < bytes.len());
        match at.and_then(|at| Some((bytes.get(..at)?, bytes.get(at)?, bytes.get(at + 1..)?))) {
            Some((before, flags, after)) => {
                self.hasher.update(before);
                self.hasher.update(&[flags & !(flag::IN_USE as u8)]);
                self.hasher.update(after);
            }
            None => self.hasher.update(bytes),
        }
        self.seen += bytes.len();
    }

    /// The checksum.
    pub fn finish(self) -> u32 {
        self.hasher.finalize()
    }
}

/// The checksum of `event`, given without its last four bytes.
pub(crate) fn of(kind: Kind, event: &[u8]) -> u32 {
    let mut running = Running::new(kind);
    running.update(event);
    running.finish()
}
