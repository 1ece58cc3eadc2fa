//! The log to be replayed: which pieces of which files, and where it ends.

use std::collections::BTreeSet;

use bytes::Bytes;
use pitr_core::ports::Recovery;
use pitr_core::{LineageId, SegmentName, Span};

use super::ReplayError;
use crate::event::{Checksum, Format, Header, MAGIC};
use crate::gtid::MariaSet;
use crate::{BinlogPosition, Incarnation, LogFile};

/// An archived piece of one log file.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Where it is in the archive.
    pub lineage: LineageId,
    /// Its name there.
    pub name: SegmentName,
    /// The history it is of.
    pub incarnation: Incarnation,
    /// The file that it is of.
    pub file: LogFile,
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// The file's first event; empty where only the piece itself has it.
    pub first_event: Bytes,
}

impl Piece {
    /// The file's first event; `bytes` are those of the piece.
    pub fn format(&self, bytes: &Bytes) -> Option<Bytes> {
        if !self.first_event.is_empty() {
            return Some(self.first_event.clone());
        }
        let event = (self.offset == 0).then(|| bytes.get(MAGIC.len()..)).flatten()?;
        let length = Header::parse(event)?.length as usize;
        bytes.get(MAGIC.len()..MAGIC.len() + length).map(Bytes::copy_from_slice)
    }
}

/// What is replayed.
#[derive(Debug, Clone)]
pub struct Log {
    /// In order.
    pub pieces: Vec<Piece>,
    /// Everything before this is in the base.
    pub start: BinlogPosition,
    /// Everything from here on is left out.
    pub cut: BinlogPosition,
    /// MariaDB: its transactions are of several domains.
    pub has_domains: bool,
}

/// Keys of the facts of a segment that are used here.
const FILE: &str = "file";
const OFFSET: &str = "offset";
const FORMAT: &str = "format";
const BEFORE: &str = "before";
const EXECUTED: &str = "executed";

impl Log {
    /// The log of a recovery, whose spans are single segments. `start` is where its base lies.
    pub fn new(recovery: &Recovery<BinlogPosition>, start: BinlogPosition) -> Result<Self, ReplayError> {
        let piece = |span: &Span<BinlogPosition>| {
            let bad = |what| ReplayError::Segment { name: span.first.to_string(), what };
            if !span.is_single() {
                return Err(bad("it is a roll-up of segments"));
            }
            let fact = |key| span.facts.get(key).map(String::as_str);
            Ok(Piece {
                lineage: span.lineage.clone(),
                name: span.first.clone(),
                incarnation: span.end.incarnation,
                file: fact(FILE).and_then(LogFile::parse).ok_or_else(|| bad("it does not say of which file it is"))?,
                offset: fact(OFFSET).and_then(|text| text.parse().ok()).ok_or_else(|| bad("it has no offset"))?,
                first_event: hex::decode(fact(FORMAT).unwrap_or_default())
                    .map_err(|_| bad("its format is unreadable"))?
                    .into(),
            })
        };
        let pieces = recovery.log.iter().map(piece).collect::<Result<_, _>>()?;
        let has_domains = recovery.log.iter().flat_map(domains).collect::<BTreeSet<_>>().len() > 1;
        Ok(Self { pieces, start, cut: recovery.cut, has_domains })
    }

    /// Bytes at the front of a piece of `length` bytes that are not replayed, and where it ends; both as offsets in
    /// the piece. `None` if nothing of it is.
    pub fn window(&self, piece: &Piece, length: u64) -> Option<(u64, u64)> {
        let mut from = 0;
        if piece.incarnation == self.start.incarnation {
            if piece.file.number < self.start.file {
                return None;
            }
            if piece.file.number == self.start.file {
                from = self.start.offset.saturating_sub(piece.offset);
            }
        }
        let to = self.end_of(piece, length);
        (from < to).then_some((from, to))
    }

    fn end_of(&self, piece: &Piece, length: u64) -> u64 {
        if piece.incarnation != self.cut.incarnation || piece.file.number < self.cut.file {
            return length;
        }
        if piece.file.number > self.cut.file {
            return 0;
        }
        self.cut.offset.saturating_sub(piece.offset).min(length)
    }
}

/// The domains of the transactions of a segment of MariaDB.
fn domains(span: &Span<BinlogPosition>) -> Vec<u32> {
    let set = |key| span.facts.get(key).and_then(|text| text.parse::<MariaSet>().ok()).unwrap_or_default();
    let (before, executed) = (set(BEFORE), set(EXECUTED));
    executed.iter().filter(|last| before.last(last.domain) != Some(*last)).map(|last| last.domain).collect()
}

/// Reads the first event of a file, given whole.
pub fn format(event: &[u8]) -> Result<Format, ReplayError> {
    let end = event.len().saturating_sub(Checksum::LEN);
    Ok(Format::parse(4, event.get(Header::LEN..end).unwrap_or_default())?)
}

/// The first event of a file for a replica that begins in the middle of it: it says how to read events, and neither
/// that a server was started nor where anything ends.
pub fn format_for_the_middle(event: &[u8]) -> Vec<u8> {
    const LOG_POS: std::ops::Range<usize> = 13..17;
    const CREATED: std::ops::Range<usize> = Header::LEN + 52..Header::LEN + 56;
    let mut event = event.to_vec();
    for range in [LOG_POS, CREATED] {
        if let Some(bytes) = event.get_mut(range) {
            bytes.fill(0);
        }
    }
    seal(&mut event);
    event
}

/// A rotation that is in no file: it tells the replica where it is.
pub fn rotation(file: &str, offset: u64, server_id: u32, checksum: Checksum) -> Vec<u8> {
    let tail = checksum.bytes_of(crate::event::Kind::ROTATE);
    let header = Header {
        timestamp: 0,
        kind: crate::event::Kind::ROTATE,
        server_id,
        length: (Header::LEN + 8 + file.len() + tail) as u32,
        log_pos: 0,
        flags: crate::event::flag::ARTIFICIAL,
    };
    let mut event = header.encode().to_vec();
    event.extend_from_slice(&offset.to_le_bytes());
    event.extend_from_slice(file.as_bytes());
    if tail > 0 {
        event.extend_from_slice(&[0; Checksum::LEN]);
        seal(&mut event);
    }
    event
}

/// A sign of life for a replica that has the file up to `offset`; `None` where its 32 bits cannot say that.
pub fn heartbeat(file: &str, offset: u64, server_id: u32, checksum: Checksum) -> Option<Vec<u8>> {
    let tail = checksum.bytes_of(crate::event::Kind::HEARTBEAT);
    let header = Header {
        timestamp: 0,
        kind: crate::event::Kind::HEARTBEAT,
        server_id,
        length: (Header::LEN + file.len() + tail) as u32,
        log_pos: u32::try_from(offset).ok()?,
        flags: 0,
    };
    let mut event = header.encode().to_vec();
    event.extend_from_slice(file.as_bytes());
    if tail > 0 {
        event.extend_from_slice(&[0; Checksum::LEN]);
        seal(&mut event);
    }
    Some(event)
}

/// Writes the checksum into the last four bytes.
fn seal(event: &mut [u8]) {
    let Some((content, checksum)) = event.split_last_chunk_mut::<{ Checksum::LEN }>() else { return };
    *checksum = crc32fast::hash(content).to_le_bytes();
}
