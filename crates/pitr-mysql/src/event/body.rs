//! The inside of the few kinds of event that say where transactions are.

use chrono::DateTime;
use pitr_core::Timestamp;

use super::bytes::Bytes;
use super::{Event, EventError, Kind, tagged};
use crate::gtid::{MariaGtid, MariaSet, MysqlGtid, MysqlSet, Tag, Uuid};
use crate::limits::MAX_SET_EVENT;

/// `ROTATE`: where the log goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotate {
    /// Offset in that file; the end of its magic bytes, unless the sender was asked for another place.
    pub offset: u64,
    /// Name of the file, without directory.
    pub file: String,
}

impl Rotate {
    /// Reads the event.
    pub fn parse(event: &Event<'_>) -> Result<Self, EventError> {
        let mut body = Bytes(event.body);
        let offset = body.u64().ok_or_else(|| event.malformed("it names no offset"))?;
        let file = std::str::from_utf8(body.0).map_err(|_| event.malformed("the file name is no text"))?;
        Ok(Self { offset, file: file.to_owned() })
    }
}

/// `GTID`, `ANONYMOUS_GTID` and `GTID_TAGGED`: a transaction of MySQL begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GtidEvent {
    /// Its identifier; `None` for an anonymous one.
    pub gtid: Option<MysqlGtid>,
    /// Commit on the server whose log this is. `None` from servers before 8.0.
    pub committed_at: Option<Timestamp>,
    /// Commit on the server where it was first committed, if that was another one.
    pub originally_at: Option<Timestamp>,
    /// Bytes of the whole transaction with this event. `None` from servers before 8.0.
    pub length: Option<u64>,
    /// Logical clock: the latest transaction that must be committed before this one may start.
    pub last_committed: i64,
    /// Logical clock: its own number in the file.
    pub sequence_number: i64,
}

/// Marks the two numbers of the logical clock.
const LOGICAL_CLOCK: u8 = 2;
/// Set in the immediate commit time where the original one follows.
const ORIGINAL_FOLLOWS: u64 = 1 << 55;

impl GtidEvent {
    /// Reads the event.
    pub fn parse(event: &Event<'_>) -> Result<Self, EventError> {
        let parsed = match event.header.kind {
            Kind::GTID => Self::parse_plain(event.body, true),
            Kind::ANONYMOUS_GTID => Self::parse_plain(event.body, false),
            Kind::GTID_TAGGED => Self::parse_tagged(event.body),
            _ => None,
        };
        parsed.ok_or_else(|| event.malformed("it does not say which transaction begins"))
    }

    fn parse_plain(body: &[u8], named: bool) -> Option<Self> {
        let mut body = Bytes(body);
        let _flags = body.u8()?;
        let source = Uuid(*body.take(16)?.first_chunk()?);
        let number = body.i64()?;
        let gtid = match named {
            true => {
                Some(MysqlGtid { source, tag: Tag::default(), number: u64::try_from(number).ok().filter(|n| *n > 0)? })
            }
            false => None,
        };
        let mut parsed =
            Self { gtid, committed_at: None, originally_at: None, length: None, last_committed: 0, sequence_number: 0 };
        if body.0.first() != Some(&LOGICAL_CLOCK) {
            return Some(parsed);
        }
        body.u8()?;
        (parsed.last_committed, parsed.sequence_number) = (body.i64()?, body.i64()?);
        if body.0.is_empty() {
            return Some(parsed);
        }
        let immediate = body.uint(7)?;
        if immediate & ORIGINAL_FOLLOWS != 0 {
            parsed.originally_at = moment(body.uint(7)?);
        }
        parsed.committed_at = moment(immediate & !ORIGINAL_FOLLOWS);
        parsed.length = Some(body.packed()?).filter(|length| *length > 0);
        Some(parsed)
    }

    fn parse_tagged(body: &[u8]) -> Option<Self> {
        let tagged = tagged::parse(body)?;
        Some(Self {
            gtid: Some(tagged.gtid),
            committed_at: moment(tagged.immediate),
            originally_at: tagged.original.filter(|at| *at != tagged.immediate).and_then(moment),
            length: Some(tagged.length).filter(|length| *length > 0),
            last_committed: tagged.last_committed,
            sequence_number: tagged.sequence_number,
        })
    }
}

/// Microseconds since 1970; 0 stands for "not known".
fn moment(micros: u64) -> Option<Timestamp> {
    i64::try_from(micros).ok().filter(|micros| *micros > 0).and_then(DateTime::from_timestamp_micros)
}

/// MariaDB's `GTID`: a transaction begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MariaGtidEvent {
    /// Its identifier.
    pub gtid: MariaGtid,
    /// See the constants.
    pub flags: u8,
    /// What it does with a definition that is changed in two phases.
    pub phase: Option<Phase>,
}

/// A part of a definition that is changed in two phases (`binlog_alter_two_phase`): a transaction each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The change begins; nothing of it is visible.
    Begin,
    /// The change that began in this transaction, of the same domain and server, is committed or rolled back.
    End(u64),
}

impl MariaGtidEvent {
    /// The transaction is the single statement that follows, without `BEGIN` and end.
    pub const STANDALONE: u8 = 1;
    /// Eight bytes that name a group of commits follow.
    const GROUP_COMMIT: u8 = 2;
    /// It holds a definition (DDL).
    pub const DDL: u8 = 32;
    /// It prepares an XA transaction.
    pub const PREPARED_XA: u8 = 64;
    /// It completes an XA transaction.
    pub const COMPLETED_XA: u8 = 128;

    /// Reads the event.
    pub fn parse(event: &Event<'_>) -> Result<Self, EventError> {
        let mut body = Bytes(event.body);
        let parsed = (|| Some((body.u64()?, body.u32()?, body.u8()?)))();
        let (sequence, domain, flags) = parsed.ok_or_else(|| event.malformed("it is too short for an identifier"))?;
        let phase = Self::phase(&mut body, flags);
        Ok(Self { gtid: MariaGtid { domain, server: event.header.server_id, sequence }, flags, phase })
    }

    /// Reads what follows the flags; older servers fill it with zeroes.
    fn phase(body: &mut Bytes<'_>, flags: u8) -> Option<Phase> {
        const SEVERAL_ENGINES: u8 = 1;
        const BEGIN: u8 = 2;
        const COMMIT_OR_ROLLBACK: u8 = 4 | 8;
        if flags & Self::GROUP_COMMIT != 0 {
            body.u64()?;
        }
        if flags & (Self::PREPARED_XA | Self::COMPLETED_XA) != 0 {
            body.u32()?;
            let (global, branch) = (body.u8()?, body.u8()?);
            body.take(usize::from(global) + usize::from(branch))?;
        }
        let more = body.u8()?;
        if more & SEVERAL_ENGINES != 0 {
            body.u8()?;
        }
        match more {
            more if more & BEGIN != 0 => Some(Phase::Begin),
            more if more & COMMIT_OR_ROLLBACK != 0 => Some(Phase::End(body.u64()?)),
            _ => None,
        }
    }

    /// True if a single statement follows.
    pub fn is_standalone(&self) -> bool {
        self.flags & Self::STANDALONE != 0
    }
}

/// `QUERY`: a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// Identifier of the session, for temporary tables.
    pub thread_id: u32,
    /// The default database, as bytes of the server's identifier character set (UTF-8).
    pub database: &'a [u8],
    /// The statement, in the character set of the session; for a compressed one the compressed bytes.
    pub statement: &'a [u8],
}

impl<'a> Query<'a> {
    /// Reads the event.
    pub fn parse(event: &Event<'a>) -> Result<Self, EventError> {
        Self::read(event.body).ok_or_else(|| event.malformed("it is too short for a statement"))
    }

    fn read(body: &'a [u8]) -> Option<Self> {
        let mut body = Bytes(body);
        let thread_id = body.u32()?;
        let _seconds = body.u32()?;
        let database = usize::from(body.u8()?);
        let _error = body.u16()?;
        let variables = usize::from(body.u16()?);
        body.take(variables)?;
        let name = body.take(database)?;
        body.take(1)?;
        Some(Self { thread_id, database: name, statement: body.0 })
    }

    /// True for `BEGIN`, and for what begins an XA transaction.
    pub fn is_begin(&self) -> bool {
        self.statement == b"BEGIN" || self.starts_with(b"XA START")
    }

    /// True for what ends a transaction that was begun.
    pub fn is_end(&self) -> bool {
        self.statement == b"COMMIT" || self.statement == b"ROLLBACK"
    }

    /// True if the statement begins with this, in capitals.
    pub fn starts_with(&self, words: &[u8]) -> bool {
        self.statement.get(..words.len()).is_some_and(|head| head.eq_ignore_ascii_case(words))
    }
}

/// `PREVIOUS_GTIDS`: the transactions in all files before this one, also in those that were purged.
pub fn previous_gtids(event: &Event<'_>) -> Result<MysqlSet, EventError> {
    let whole = event.header.length <= MAX_SET_EVENT;
    let set = whole.then(|| MysqlSet::decode(event.body).ok()).flatten();
    set.ok_or_else(|| event.malformed("its set of transactions cannot be read"))
}

/// MariaDB's `GTID_LIST`: the last transaction of each domain before this file.
///
/// A domain may be there several times, once for each server that wrote into it; its last one comes last.
pub fn gtid_list(event: &Event<'_>) -> Result<MariaSet, EventError> {
    let mut body = Bytes(event.body);
    let mut read = || {
        let mut set = MariaSet::default();
        // The upper four bits are flags.
        for _ in 0..body.u32()? & 0x0FFF_FFFF {
            let (domain, server, sequence) = (body.u32()?, body.u32()?, body.u64()?);
            set.insert(&MariaGtid { domain, server, sequence });
        }
        Some(set)
    };
    read().ok_or_else(|| event.malformed("its list of transactions cannot be read"))
}

/// `INCIDENT`: what the server says that it lost.
pub fn incident(event: &Event<'_>) -> Result<String, EventError> {
    let mut body = Bytes(event.body);
    let mut read = || {
        let number = body.u16()?;
        let length = usize::from(body.u8()?);
        let text = String::from_utf8_lossy(body.take(length)?).into_owned();
        Some(if text.is_empty() { format!("incident {number}") } else { text })
    };
    let text: Option<String> = read();
    let text = text.ok_or_else(|| event.malformed("it does not say what was lost"))?;
    Ok(text.chars().filter(|c| !c.is_control()).collect())
}
