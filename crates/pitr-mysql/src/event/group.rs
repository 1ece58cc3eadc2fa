//! Where transactions begin and end in the sequence of events.

use chrono::DateTime;
use pitr_core::Timestamp;

use super::body::{GtidEvent, MariaGtidEvent, Query};
use super::{Damage, Event, EventError, Kind};
use crate::gtid::Gtid;

/// What an event means for the transaction around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// It belongs to no transaction.
    Outside,
    /// A transaction begins with it.
    Begin,
    /// It is part of the transaction that began before.
    Inside,
    /// The transaction ends with it.
    End(Group),
}

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its changes are visible: a commit, a definition, a rollback of what could not be rolled back.
    Visible,
    /// The first half of an XA transaction: nothing is visible until the second half.
    Prepared,
    /// The server lost events here.
    Incident,
}

/// A whole transaction of the log: what MySQL calls a group of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Offset of its first event.
    pub begin: u64,
    /// Offset behind its last event.
    pub end: u64,
    /// Its identifier; `None` for an anonymous one.
    pub gtid: Option<Gtid>,
    /// Commit time: to the microsecond from MySQL 8, to the second from MariaDB and older servers.
    pub committed_at: Option<Timestamp>,
    /// How it ends.
    pub outcome: Outcome,
}

/// The transaction that is open.
#[derive(Debug, Clone)]
struct Open {
    begin: u64,
    gtid: Option<Gtid>,
    committed_at: Option<Timestamp>,
    /// Where it ends, if its first event says so.
    end: Option<u64>,
    rule: Rule,
    outcome: Outcome,
}

/// What ends a transaction that does not say how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// The next event that is not mere preparation, unless it is a `BEGIN`.
    Statement,
    /// A commit, a rollback, or the end of the first half of an XA transaction.
    Commit,
}

/// Follows the events of a log, in order and from a place outside of a transaction.
#[derive(Debug, Clone, Default)]
pub struct Grouper {
    open: Option<Open>,
}

impl Grouper {
    /// Offset at which the open transaction begins; `None` outside of one.
    pub fn open_since(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.begin)
    }

    /// Commit time and identifier of the open transaction, known from its first event.
    pub fn open_commit(&self) -> Option<(Option<Timestamp>, Option<&Gtid>)> {
        self.open.as_ref().map(|open| (open.committed_at, open.gtid.as_ref()))
    }

    /// Forgets an open transaction: the file ended in the middle of it, so the server never committed it.
    pub fn abandon(&mut self) -> bool {
        self.open.take().is_some()
    }

    /// Takes the next event.
    pub fn next(&mut self, event: &Event<'_>) -> Result<Mark, EventError> {
        let kind = event.header.kind;
        let mark = match kind {
            Kind::GTID | Kind::ANONYMOUS_GTID | Kind::GTID_TAGGED => self.begin_mysql(event)?,
            Kind::MARIA_GTID => self.begin_maria(event)?,
            _ if self.open.is_some() => self.inside(event)?,
            _ if kind.is_administrative() || !kind.is_known() => Mark::Outside,
            Kind::IGNORABLE => Mark::Outside,
            _ => self.bare(event)?,
        };
        Ok(mark)
    }

    fn begin_mysql(&mut self, event: &Event<'_>) -> Result<Mark, EventError> {
        let parsed = GtidEvent::parse(event)?;
        let end = parsed.length.map(|length| event.offset.saturating_add(length));
        if end.is_some_and(|end| end <= event.end()) {
            return Err(event.malformed("its transaction is shorter than itself"));
        }
        self.begin(
            event,
            Open {
                begin: event.offset,
                gtid: parsed.gtid.map(Gtid::Mysql),
                committed_at: parsed.committed_at.or_else(|| seconds(event)),
                end,
                rule: Rule::Statement,
                outcome: Outcome::Visible,
            },
        )
    }

    fn begin_maria(&mut self, event: &Event<'_>) -> Result<Mark, EventError> {
        let parsed = MariaGtidEvent::parse(event)?;
        self.begin(
            event,
            Open {
                begin: event.offset,
                gtid: Some(Gtid::Maria(parsed.gtid)),
                committed_at: seconds(event),
                end: None,
                rule: if parsed.is_standalone() { Rule::Statement } else { Rule::Commit },
                outcome: Outcome::Visible,
            },
        )
    }

    fn begin(&mut self, event: &Event<'_>, open: Open) -> Result<Mark, EventError> {
        if let Some(before) = &self.open {
            let damage = Damage::Group { begin: before.begin, what: "has no end: another one begins" };
            return Err(EventError::new(event.offset, damage));
        }
        self.open = Some(open);
        Ok(Mark::Begin)
    }

    /// An event of a log without identifiers at all, as servers before 5.7 write it.
    fn bare(&mut self, event: &Event<'_>) -> Result<Mark, EventError> {
        let begins =
            event.header.kind.is_preparation() || (event.header.kind == Kind::QUERY && Query::parse(event)?.is_begin());
        let open = Open {
            begin: event.offset,
            gtid: None,
            committed_at: seconds(event),
            end: None,
            rule: if begins { Rule::Commit } else { Rule::Statement },
            outcome: Outcome::Visible,
        };
        self.open = Some(open);
        if begins { Ok(Mark::Begin) } else { self.inside(event) }
    }

    fn inside(&mut self, event: &Event<'_>) -> Result<Mark, EventError> {
        let Some(open) = &mut self.open else { return Ok(Mark::Outside) };
        let begin = open.begin;
        let broken = |what| EventError::new(event.offset, Damage::Group { begin, what });
        if matches!(event.header.kind, Kind::ROTATE | Kind::FORMAT_DESCRIPTION | Kind::PREVIOUS_GTIDS | Kind::GTID_LIST)
        {
            return Err(broken("has no end: the file goes on without it"));
        }
        let ends = ends(event, open)?;
        let ended = match open.end {
            // The length is authoritative; what the events say must agree with it where they say "not yet".
            Some(end) if event.end() > end => return Err(broken("is longer than it says")),
            Some(end) => event.end() == end,
            None => ends,
        };
        if !ended {
            return Ok(Mark::Inside);
        }
        match self.open.take() {
            None => Ok(Mark::Outside),
            Some(open) => Ok(Mark::End(Group {
                begin: open.begin,
                end: event.end(),
                gtid: open.gtid,
                committed_at: open.committed_at,
                outcome: open.outcome,
            })),
        }
    }
}

/// Whether the event ends the open transaction by its own meaning; notes what it tells of the outcome.
fn ends(event: &Event<'_>, open: &mut Open) -> Result<bool, EventError> {
    let kind = event.header.kind;
    Ok(match kind {
        Kind::XID | Kind::TRANSACTION_PAYLOAD => true,
        Kind::XA_PREPARE => {
            open.outcome = Outcome::Prepared;
            true
        }
        Kind::INCIDENT => {
            open.outcome = Outcome::Incident;
            true
        }
        Kind::QUERY => {
            let query = Query::parse(event)?;
            let begins = open.rule == Rule::Statement && query.is_begin();
            let ends = if open.rule == Rule::Statement { !begins } else { query.is_end() };
            if begins {
                open.rule = Rule::Commit;
            }
            ends
        }
        Kind::QUERY_COMPRESSED | Kind::EXECUTE_LOAD_QUERY => open.rule == Rule::Statement,
        _ => open.rule == Rule::Statement && !kind.is_preparation() && kind.is_known() && kind != Kind::ROWS_QUERY,
    })
}

/// The time of the header: when the statement began, to the second.
fn seconds(event: &Event<'_>) -> Option<Timestamp> {
    let at = event.header.timestamp;
    (at > 0).then(|| DateTime::from_timestamp(i64::from(at), 0)).flatten()
}
