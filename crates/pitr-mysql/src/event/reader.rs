//! Walking over the bytes of a file, event by event.

use super::body::Rotate;
use super::{Checksum, Damage, EventError, Format, Header, Kind, MAGIC, MAGIC_ENCRYPTED, checksum};
use crate::limits::{MAX_EVENT, MAX_FORMAT_EVENT};

/// One event.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// Where it begins in its file.
    pub offset: u64,
    /// Its header.
    pub header: Header,
    /// What lies between header and checksum. Where an event came in pieces, at least its first
    /// [`crate::limits::MAX_KEPT_EVENT`] bytes.
    pub body: &'a [u8],
}

impl Event<'_> {
    /// Where it ends in its file.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.header.length)
    }

    /// An error about the inside of this event.
    pub(crate) fn malformed(&self, what: &'static str) -> EventError {
        EventError::new(self.offset, Damage::Body { kind: self.header.kind.0, what })
    }
}

/// What [`Reader::next`] found at the front of the bytes.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// The four bytes at the begin of a file.
    Magic,
    /// A whole event; it takes `header.length` bytes.
    Event(Event<'a>),
    /// The bytes end inside of what comes next, which needs at least this many.
    More {
        /// Count of bytes from the front.
        at_least: usize,
    },
}

/// Walks over the events of one file.
///
/// The caller keeps the bytes, and drops from their front what a step consumed: [`MAGIC`]'s length, or the length of
/// the event. A reader that begins in the middle of a file must be told its [`Format`].
#[derive(Debug, Clone)]
pub struct Reader {
    offset: u64,
    format: Option<Format>,
    last: Option<(u64, u32)>,
}

impl Reader {
    /// A reader at the begin of a file (`offset` 0), or at an event in it, for files that say themselves how to
    /// read them further on.
    pub fn new(offset: u64) -> Self {
        Self { offset, format: None, last: None }
    }

    /// A reader in the middle of a file whose format is known.
    pub fn with_format(offset: u64, format: Format) -> Self {
        Self { offset, format: Some(format), last: None }
    }

    /// Where the next event begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the last event began, and the CRC-32 of its bytes without the checksum: enough to find it again.
    pub fn last(&self) -> Option<(u64, u32)> {
        self.last
    }

    /// The format in force, once it is known.
    pub fn format(&self) -> Option<&Format> {
        self.format.as_ref()
    }

    /// What stands at the front of `bytes`, which begin at [`Self::offset`].
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, EventError> {
        if self.offset == 0 {
            return self.magic(bytes);
        }
        let Some(header) = Header::parse(bytes) else { return Ok(Step::More { at_least: Header::LEN }) };
        let checked = self.check_header(&header)?;
        let length = header.length as usize;
        let Some(whole) = bytes.get(..length) else { return Ok(Step::More { at_least: length }) };
        let event = self.open(header, whole, checked)?;
        self.offset = event.end();
        Ok(Step::Event(event))
    }

    /// Checks what a header says of its event, and tells how its bytes end. Also for events that come in pieces.
    pub fn check_header(&self, header: &Header) -> Result<Checksum, EventError> {
        let damaged = |damage| EventError::new(self.offset, damage);
        let is_format = header.kind == Kind::FORMAT_DESCRIPTION;
        let checksum = match &self.format {
            Some(format) => format.checksum,
            None if is_format => Checksum::Crc32,
            None => return Err(damaged(Damage::NoFormat(header.kind.0))),
        };
        let least = Header::LEN + checksum.bytes_of(header.kind);
        let most = if is_format { MAX_FORMAT_EVENT } else { MAX_EVENT };
        if (header.length as usize) < least || header.length > most {
            return Err(damaged(Damage::Length { kind: header.kind.0, length: header.length }));
        }
        let actual = (self.offset + u64::from(header.length)) as u32;
        if header.log_pos != 0 && !header.is_artificial() && header.log_pos != actual {
            let damage = Damage::Place { kind: header.kind.0, claimed: header.log_pos, actual };
            return Err(damaged(damage));
        }
        if !header.kind.is_known() && !header.is_ignorable() {
            return Err(damaged(Damage::Unknown(header.kind.0)));
        }
        Ok(checksum)
    }

    /// Verifies a whole event and takes over a format that it describes.
    fn open<'a>(&mut self, header: Header, whole: &'a [u8], checksum: Checksum) -> Result<Event<'a>, EventError> {
        let damaged = |damage| EventError::new(self.offset, damage);
        let tail = checksum.bytes_of(header.kind);
        let (covered, stored) = whole.split_at(whole.len() - tail);
        let computed = checksum::of(header.kind, covered);
        if let Some(stored) = stored.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
            && stored != computed
        {
            return Err(damaged(Damage::Checksum { kind: header.kind.0, stored, computed }));
        }
        self.last = Some((self.offset, computed));
        let event = Event { offset: self.offset, header, body: covered.get(Header::LEN..).unwrap_or_default() };
        if header.kind == Kind::FORMAT_DESCRIPTION {
            self.format = Some(Format::parse(self.offset, event.body)?);
        }
        Ok(event)
    }

    /// Goes on behind an event that came in pieces, whose checksum was compared by the caller, and takes over a format
    /// that it describes.
    pub(crate) fn pass(&mut self, event: &Event<'_>, computed: u32) -> Result<(), EventError> {
        if event.header.kind == Kind::FORMAT_DESCRIPTION {
            self.format = Some(Format::parse(event.offset, event.body)?);
        }
        self.last = Some((event.offset, computed));
        self.offset = event.end();
        Ok(())
    }

    /// Goes on at the begin of another file.
    pub fn restart(&mut self) {
        *self = Self::new(0);
    }

    /// The name of the file that follows, if the event is a rotation.
    pub fn rotation(event: &Event<'_>) -> Result<Option<Rotate>, EventError> {
        if event.header.kind == Kind::ROTATE { Rotate::parse(event).map(Some) } else { Ok(None) }
    }

    fn magic<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, EventError> {
        let Some(magic) = bytes.get(..MAGIC.len()) else { return Ok(Step::More { at_least: MAGIC.len() }) };
        match magic {
            MAGIC => {
                self.offset = MAGIC.len() as u64;
                Ok(Step::Magic)
            }
            MAGIC_ENCRYPTED => Err(EventError::new(0, Damage::Encrypted)),
            _ => Err(EventError::new(0, Damage::Magic)),
        }
    }
}
