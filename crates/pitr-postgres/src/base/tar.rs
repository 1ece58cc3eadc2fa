//! A strict reader for the tar archives of a base backup, without I/O.
//!
//! Bytes go in with [`TarReader::push`], events come out of [`TarReader::next`], and content is never copied. Only
//! what a server writes is accepted: ustar headers with a right checksum, plain files and directories with a
//! relative path. Links, devices, extensions, absolute paths and `..` are errors, since nothing good sends them.
//! A path that comes twice is not noticed here but by the comparison with the backup manifest, which needs no list.

use bytes::{Bytes, BytesMut};

/// Bytes of a header, and the unit to which content is padded.
const BLOCK: usize = 512;

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative path: no empty, `.` or `..` component, no NUL, no trailing slash.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
}

/// The kinds of entry that a server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file with this many bytes of content.
    File(u64),
    /// A directory.
    Directory,
}

/// What comes out of an archive, in order. `Data` and `End` only follow an entry that is a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarEvent {
    /// An entry begins.
    Entry(Entry),
    /// Content of the file.
    Data(Bytes),
    /// The file is complete.
    End,
}

/// The archive is not what a server writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tar archive, byte {at}: {what}")]
pub struct TarError {
    /// Offset of the header in the archive.
    pub at: u64,
    /// What is wrong.
    pub what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A header comes next.
    Header,
    /// Content of a file, and the padding behind it.
    Content { left: u64, padding: u64 },
    /// Padding after content.
    Padding(u64),
    /// A block of zeros was seen: only zeros may follow.
    Trailer,
}

/// Reads one archive.
#[derive(Debug)]
pub struct TarReader {
    state: State,
    /// Bytes that were pushed and not yet consumed; a single slice unless a header is split.
    pending: Bytes,
    /// Offset of the next byte in the archive.
    at: u64,
}

impl Default for TarReader {
    fn default() -> Self {
        Self { state: State::Header, pending: Bytes::new(), at: 0 }
    }
}

impl TarReader {
    /// Adds bytes. To be called when `next` has returned `None`.
    pub fn push(&mut self, bytes: Bytes) {
        if self.pending.is_empty() {
            self.pending = bytes;
            return;
        }
        // Only the part of a header that the last bytes ended in.
        let mut joined = BytesMut::with_capacity(self.pending.len() + bytes.len());
        joined.extend_from_slice(&self.pending);
        joined.extend_from_slice(&bytes);
        self.pending = joined.freeze();
    }

    /// The next event; `None` asks for more bytes.
    // Not an iterator: `None` is not the end.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<TarEvent>, TarError> {
        loop {
            match self.state {
                State::Header => match self.header()? {
                    Some(event) => return Ok(Some(event)),
                    None if self.state == State::Header => return Ok(None),
                    None => {}
                },
                State::Content { left: 0, padding } => {
                    self.state = State::Padding(padding);
                    return Ok(Some(TarEvent::End));
                }
                State::Content { .. } if self.pending.is_empty() => return Ok(None),
                State::Content { left, padding } => {
                    let data = self.take(left);
                    self.state = State::Content { left: left - data.len() as u64, padding };
                    return Ok(Some(TarEvent::Data(data)));
                }
                State::Padding(0) => self.state = State::Header,
                State::Padding(_) if self.pending.is_empty() => return Ok(None),
                State::Padding(left) => {
                    let skipped = self.take(left).len() as u64;
                    self.state = State::Padding(left - skipped);
                }
                State::Trailer if self.pending.is_empty() => return Ok(None),
                State::Trailer => {
                    let rest = self.take(u64::MAX);
                    if rest.iter().any(|byte| *byte != 0) {
                        return Err(self.error("something follows the end of the archive"));
                    }
                }
            }
        }
    }

    /// To be called at the end of the bytes: an archive may only end between entries.
    ///
    /// Servers up to version 14 leave out the blocks of zeros that end an archive, so these are not required.
    pub fn finish(self) -> Result<(), TarError> {
        match self.state {
            State::Header if self.pending.is_empty() => Ok(()),
            State::Trailer | State::Padding(0) => Ok(()),
            _ => Err(self.error("the archive ends in the middle of an entry")),
        }
    }

    fn take(&mut self, most: u64) -> Bytes {
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(self.pending.len());
        self.at += length as u64;
        self.pending.split_to(length)
    }

    fn header(&mut self) -> Result<Option<TarEvent>, TarError> {
        if self.pending.len() < BLOCK {
            return Ok(None);
        }
        let block = self.take(BLOCK as u64);
        if block.iter().all(|byte| *byte == 0) {
            self.state = State::Trailer;
            return Ok(None);
        }
        let entry = parse_header(&block).map_err(|what| self.error_before(BLOCK as u64, what))?;
        self.state = match entry.kind {
            EntryKind::Directory => State::Header,
            EntryKind::File(size) => {
                let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
                State::Content { left: size, padding }
            }
        };
        Ok(Some(TarEvent::Entry(entry)))
    }

    fn error(&self, what: &str) -> TarError {
        TarError { at: self.at, what: what.to_owned() }
    }

    fn error_before(&self, bytes: u64, what: String) -> TarError {
        TarError { at: self.at.saturating_sub(bytes), what }
    }
}

/// Fields of a ustar header: offset and length.
mod field {
    pub(super) type Field = (usize, usize);
    pub(super) const NAME: Field = (0, 100);
    pub(super) const MODE: Field = (100, 8);
    pub(super) const SIZE: Field = (124, 12);
    pub(super) const CHECKSUM: Field = (148, 8);
    pub(super) const TYPE: Field = (156, 1);
    pub(super) const MAGIC: Field = (257, 6);
    pub(super) const PREFIX: Field = (345, 155);
}

fn parse_header(block: &[u8]) -> Result<Entry, String> {
    let get = |(offset, length): field::Field| block.get(offset..offset + length).unwrap_or_default();
    if get(field::MAGIC) != b"ustar\0" {
        return Err("not a ustar header".to_owned());
    }
    let stored = number(get(field::CHECKSUM))?;
    if stored != checksum(block) {
        return Err(format!("the header's checksum is {}, it says {stored}", checksum(block)));
    }
    let size = number(get(field::SIZE))?;
    let kind = match get(field::TYPE) {
        b"0" | b"\0" => EntryKind::File(size),
        b"5" if size == 0 => EntryKind::Directory,
        b"5" => return Err("a directory with content".to_owned()),
        b"1" | b"2" => return Err(format!("{:?} is a link", raw_path(&get)?)),
        other => return Err(format!("{:?} is of type {other:?}", raw_path(&get)?)),
    };
    let path = raw_path(&get)?;
    // The server writes one directory with a leading dot: "./pg_wal/archive_status".
    let path = path.strip_prefix("./").map(str::to_owned).unwrap_or(path);
    let path = if kind == EntryKind::Directory { path.strip_suffix('/').unwrap_or(&path).to_owned() } else { path };
    if !is_safe_path(&path) {
        return Err(format!("{path:?} is no relative path below the data directory"));
    }
    // Twelve bits: what chmod can set.
    Ok(Entry { path, kind, mode: (number(get(field::MODE))? & 0o7777) as u32 })
}

fn raw_path<'a>(get: &impl Fn(field::Field) -> &'a [u8]) -> Result<String, String> {
    let text = |bytes: &'a [u8]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let bytes = bytes.get(..end).unwrap_or_default();
        std::str::from_utf8(bytes).map_err(|_| {
            format!("the file name {:?} is not UTF-8; rename or remove that file", String::from_utf8_lossy(bytes))
        })
    };
    let (prefix, name) = (text(get(field::PREFIX))?, text(get(field::NAME))?);
    Ok(if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") })
}

/// True for `a/b/c`: relative, and no component that means something else than itself.
pub fn is_safe_path(path: &str) -> bool {
    !path.contains('\0') && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Sum of the header's bytes, with the checksum's own field taken as blanks.
fn checksum(block: &[u8]) -> u64 {
    let (offset, length) = field::CHECKSUM;
    let own = offset..offset + length;
    block.iter().enumerate().map(|(at, byte)| if own.contains(&at) { 32 } else { u64::from(*byte) }).sum()
}

/// A number in octal text or, where the first bit is set, big-endian binary (sizes from 8 GiB on).
fn number(field: &[u8]) -> Result<u64, String> {
    let overflow = || "a number of the header is too large".to_owned();
    match field.split_first() {
        Some((first, rest)) if first & 0x80 != 0 => rest
            .iter()
            .try_fold(u64::from(first & 0x7f), |sum, byte| sum.checked_mul(256)?.checked_add(u64::from(*byte)))
            .filter(|sum| i64::try_from(*sum).is_ok())
            .ok_or_else(overflow),
        _ => {
            let text = std::str::from_utf8(field).map_err(|_| "a number of the header is no text".to_owned())?;
            let text = text.trim_matches(['\0', ' ']);
            if !text.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
                return Err(format!("{text:?} is no octal number"));
            }
            if text.is_empty() { Ok(0) } else { u64::from_str_radix(text, 8).map_err(|_| overflow()) }
        }
    }
}

#[cfg(test)]
mod tests;
