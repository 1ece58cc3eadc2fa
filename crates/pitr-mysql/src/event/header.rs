//! The 19 bytes before every event.

use super::Kind;
use super::bytes::Bytes;

/// Flags of a header.
pub mod flag {
    /// On the format description of a file: the server has it open, or crashed with it open.
    pub const IN_USE: u16 = 0x01;
    /// Made up by the sender; in no file.
    pub const ARTIFICIAL: u16 = 0x20;
    /// To be ignored by whoever does not know the kind.
    pub const IGNORABLE: u16 = 0x80;
}

/// The header of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Seconds since 1970 at which the statement began. Out of order, and 0 on what the sender made up.
    pub timestamp: u32,
    /// What it is.
    pub kind: Kind,
    /// `server_id` of the server that wrote it first.
    pub server_id: u32,
    /// Bytes with header and checksum.
    pub length: u32,
    /// Where it ends in its file, modulo 2^32; 0 where the writer did not know.
    pub log_pos: u32,
    /// See [`flag`].
    pub flags: u16,
}

impl Header {
    /// Bytes of a header.
    pub const LEN: usize = 19;
    /// Offset of the flags in a header.
    pub(crate) const FLAGS_AT: usize = 17;

    /// Reads the header at the front of `bytes`; `None` if they are too few.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(bytes);
        Some(Self {
            timestamp: bytes.u32()?,
            kind: Kind(bytes.u8()?),
            server_id: bytes.u32()?,
            length: bytes.u32()?,
            log_pos: bytes.u32()?,
            flags: bytes.u16()?,
        })
    }

    /// The bytes of this header.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let parts: [&[u8]; 6] = [
            &self.timestamp.to_le_bytes(),
            &[self.kind.0],
            &self.server_id.to_le_bytes(),
            &self.length.to_le_bytes(),
            &self.log_pos.to_le_bytes(),
            &self.flags.to_le_bytes(),
        ];
        for (place, byte) in out.iter_mut().zip(parts.into_iter().flatten()) {
            *place = *byte;
        }
        out
    }

    /// True for what the sender made up: it stands in no file.
    ///
    /// A rotation without a place is artificial too: some servers do not set the flag on it.
    pub fn is_artificial(&self) -> bool {
        self.flags & flag::ARTIFICIAL != 0
            || matches!(self.kind, Kind::HEARTBEAT | Kind::HEARTBEAT_V2)
            || (self.kind == Kind::ROTATE && self.log_pos == 0 && self.timestamp == 0)
    }

    /// True if whoever does not know the kind may pass over it.
    pub fn is_ignorable(&self) -> bool {
        self.flags & flag::IGNORABLE != 0
    }
}
