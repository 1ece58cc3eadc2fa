//! What the sender made up, told from what is in the file.

use super::probe::LEAST;
use crate::Error;
use crate::dump::{DumpError, Fragment};
use crate::event::{Event, Format, Header, Kind, body::Rotate, flag};
use crate::position::LogFile;

/// A packet that begins an event.
#[derive(Debug)]
pub(super) enum Sort {
    /// It is in the file.
    Real,
    /// It is not.
    Artificial(Artificial),
}

/// What a sender makes up.
#[derive(Debug)]
pub(super) enum Artificial {
    /// The file from which the events that follow come.
    Rotate(LogFile),
    /// The format of a file that is not sent from its begin.
    Format(Format),
    /// Nothing has happened for a while.
    Heartbeat,
    /// Anything else: MariaDB repeats a list of identifiers.
    Other,
}

/// Tells what the packet begins. Of a real one, the mark of a file in use is taken away: it is not there once the file
/// is closed, and not in the checksum.
pub(super) fn sort(fragment: &mut Fragment) -> Result<Sort, Error> {
    let header = Header::parse(&fragment.bytes).filter(|_| fragment.bytes.len() >= LEAST);
    let header = header.ok_or(DumpError::Protocol("an event without a header"))?;
    // What stands at the head of a file, and how MariaDB encrypts it, is sent without a place where the stream does not begin
    // with it.
    let head_alone = matches!(header.kind, Kind::FORMAT_DESCRIPTION | Kind::START_ENCRYPTION) && header.log_pos == 0;
    if !header.is_artificial() && !head_alone {
        if header.kind == Kind::FORMAT_DESCRIPTION
            && let Some(flags) = fragment.bytes.get_mut(Header::FLAGS_AT)
        {
            *flags &= !(flag::IN_USE as u8);
        }
        return Ok(Sort::Real);
    }
    if !fragment.ends {
        return Err(DumpError::Protocol("an event of many packets that is in no file").into());
    }
    artificial(header, &fragment.bytes).map(Sort::Artificial)
}

fn artificial(header: Header, bytes: &[u8]) -> Result<Artificial, Error> {
    let body = bytes.get(Header::LEN..).unwrap_or_default();
    match header.kind {
        Kind::ROTATE => {
            let event = Event { offset: 0, header, body: without_checksum(bytes, body) };
            let name = Rotate::parse(&event)?.file;
            let file = LogFile::parse(&name).ok_or(DumpError::Protocol("the name of a log file is odd"))?;
            Ok(Artificial::Rotate(file))
        }
        Kind::FORMAT_DESCRIPTION => {
            let body = body.get(..body.len().saturating_sub(4)).unwrap_or_default();
            Ok(Artificial::Format(Format::parse(0, body)?))
        }
        Kind::HEARTBEAT | Kind::HEARTBEAT_V2 => Ok(Artificial::Heartbeat),
        _ => Ok(Artificial::Other),
    }
}

/// What the sender makes up has a checksum if the file has, which is not known yet. A checksum that fits is one.
fn without_checksum<'a>(bytes: &[u8], body: &'a [u8]) -> &'a [u8] {
    let fits = bytes.split_last_chunk::<4>().is_some_and(|(covered, stored)| {
        crc32fast::hash(covered) == u32::from_le_bytes(*stored) && covered.len() >= Header::LEN
    });
    if fits { body.get(..body.len().saturating_sub(4)).unwrap_or_default() } else { body }
}
