//! Events out of bytes that come in pieces of any size. What it holds does not grow with the events.

use super::reader::{Event, Reader, Step};
use super::{Damage, EventError, Header, MAGIC, Running};
use crate::limits::MAX_KEPT_EVENT;

/// A [`Reader`] that keeps what it must between two pieces.
#[derive(Debug)]
pub struct Feed {
    reader: Reader,
    /// The begin of a header, or of the magic bytes, whose end has not come.
    carry: Vec<u8>,
    pending: Option<Pending>,
    /// The body of the last event that came in pieces.
    body: Vec<u8>,
}

/// An event whose end has not come.
#[derive(Debug)]
struct Pending {
    header: Header,
    /// Bytes of it that came.
    seen: usize,
    /// Bytes of it that the checksum covers.
    covered: usize,
    running: Running,
    /// Its first bytes, header included.
    kept: Vec<u8>,
    stored: Vec<u8>,
}

impl Feed {
    /// Goes on where the reader stands.
    pub fn new(reader: Reader) -> Self {
        Self { reader, carry: Vec::new(), pending: None, body: Vec::new() }
    }

    /// The reader: offset, format and last event.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Offset behind the last byte that was taken.
    pub fn offset(&self) -> u64 {
        let seen = self.pending.as_ref().map_or(0, |pending| pending.seen) + self.carry.len();
        self.reader.offset() + seen as u64
    }

    /// True in the middle of an event.
    pub fn is_inside(&self) -> bool {
        self.pending.is_some() || !self.carry.is_empty()
    }

    /// Goes on at the begin of another file. True if the last event was cut off.
    pub fn restart(&mut self) -> bool {
        let cut_off = self.is_inside();
        self.reader.restart();
        self.carry.clear();
        self.pending = None;
        cut_off
    }

    /// Takes bytes from the front of `bytes` up to the end of the next event, and gives that; `None` once all are
    /// taken. Of an event that came in pieces the body is cut at [`MAX_KEPT_EVENT`].
    pub fn next<'s, 'b: 's>(&'s mut self, bytes: &mut &'b [u8]) -> Result<Option<Event<'s>>, EventError> {
        while self.pending.is_none() {
            if self.carry.is_empty() {
                match self.reader.next(bytes)? {
                    Step::Magic => *bytes = bytes.get(MAGIC.len()..).unwrap_or_default(),
                    Step::Event(event) => {
                        *bytes = bytes.get(event.header.length as usize..).unwrap_or_default();
                        return Ok(Some(event));
                    }
                    Step::More { .. } if bytes.is_empty() => return Ok(None),
                    Step::More { .. } => self.begin(bytes)?,
                }
            } else {
                self.begin(bytes)?;
            }
            if self.pending.is_none() && bytes.is_empty() {
                return Ok(None);
            }
        }
        self.go_on(bytes)
    }

    /// Collects a header, or the magic bytes, and begins the event behind it.
    fn begin(&mut self, bytes: &mut &[u8]) -> Result<(), EventError> {
        let wanted = if self.reader.offset() == 0 { MAGIC.len() } else { Header::LEN };
        let (taken, rest) = bytes.split_at(bytes.len().min(wanted - self.carry.len().min(wanted)));
        self.carry.extend_from_slice(taken);
        *bytes = rest;
        if self.carry.len() < wanted {
            return Ok(());
        }
        let carry = std::mem::take(&mut self.carry);
        if self.reader.offset() == 0 {
            // Whole: it is either the magic or an error.
            return self.reader.next(&carry).map(drop);
        }
        let Some(header) = Header::parse(&carry) else { return Ok(()) };
        let checksum = self.reader.check_header(&header)?;
        let covered = header.length as usize - checksum.bytes_of(header.kind);
        let mut running = Running::new(header.kind);
        running.update(&carry);
        let stored = Vec::new();
        self.pending = Some(Pending { header, seen: carry.len(), covered, running, kept: carry, stored });
        Ok(())
    }

    /// Takes more of the event that has begun.
    fn go_on<'s>(&'s mut self, bytes: &mut &[u8]) -> Result<Option<Event<'s>>, EventError> {
        let Some(pending) = &mut self.pending else { return Ok(None) };
        let (taken, rest) = bytes.split_at(bytes.len().min(pending.header.length as usize - pending.seen));
        *bytes = rest;
        pending.take(taken);
        if pending.seen < pending.header.length as usize {
            return Ok(None);
        }
        let Some(pending) = self.pending.take() else { return Ok(None) };
        let (header, offset, computed) = (pending.header, self.reader.offset(), pending.running.finish());
        let stored = pending.stored.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        if let Some(stored) = stored.filter(|stored| *stored != computed) {
            return Err(EventError::new(offset, Damage::Checksum { kind: header.kind.0, stored, computed }));
        }
        self.body = pending.kept;
        let event = Event { offset, header, body: self.body.get(Header::LEN..).unwrap_or_default() };
        self.reader.pass(&event, computed)?;
        Ok(Some(event))
    }
}

impl Pending {
    fn take(&mut self, bytes: &[u8]) {
        let covered = bytes.len().min(self.covered.saturating_sub(self.seen));
        let (covered, stored) = bytes.split_at(covered);
        self.running.update(covered);
        let room = (Header::LEN + MAX_KEPT_EVENT).saturating_sub(self.kept.len());
        self.kept.extend_from_slice(covered.get(..covered.len().min(room)).unwrap_or_default());
        self.stored.extend_from_slice(stored);
        self.seen += bytes.len();
    }
}
