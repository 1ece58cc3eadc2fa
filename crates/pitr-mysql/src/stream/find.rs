//! Where a stream goes on: the archive's log and the server's, compared.
//!
//! A file of the same name proves nothing: after a switchover, a reset or a restore, another log may hide behind it. So
//! the last event that the archive has is looked for at its place, by its checksum. If it is there, the history goes
//! on. If it is not, the executed sets say where the server's log continues the archive's, if it does.

use pitr_core::{Gap, GapCause, LineageId};

use super::probe;
use super::segmenter::{Begin, empty_set};
use super::{Archived, Cut};
use crate::Error;
use crate::connect::Settings;
use crate::dump::Replica;
use crate::engine::facts;
use crate::event::Flavour;
use crate::gtid::GtidSet;
use crate::limits::MAX_LOOKS;
use crate::lineage::{FileHead, History, may_be_of};
use crate::position::{BinlogPosition, LogFile};
use crate::server::Server;

/// What to stream, and what is to be registered and recorded before that.
#[derive(Debug)]
pub struct Found {
    /// The history.
    pub lineage: LineageId,
    /// The same, if it is to be registered.
    pub new: Option<History>,
    /// Log that is missing between what the archive has and what comes.
    pub gap: Option<Gap<BinlogPosition>>,
    /// The begin.
    pub begin: Begin,
    /// Where the server is asked to begin: before `begin` if that lies inside of a transaction.
    pub from: u64,
    /// What a person must know and act on, as whole sentences.
    pub alarms: Vec<String>,
    /// What a person should know; nothing is wrong.
    pub notices: Vec<String>,
}

/// Compares the log of a server with what is archived, and says where to go on.
pub async fn find(settings: &Settings, replica: &Replica, archived: Option<&Archived>) -> Result<Found, Error> {
    let search = Search { settings, replica, server: Server::ask(settings).await? };
    let mut found = search.find(archived).await?;
    found.alarms.extend(search.server.unlogged.alarms());
    Ok(found)
}

struct Search<'a> {
    settings: &'a Settings,
    replica: &'a Replica,
    server: Server,
}

impl Search<'_> {
    async fn find(&self, archived: Option<&Archived>) -> Result<Found, Error> {
        let Some(archived) = archived else { return self.first_contact().await };
        if may_be_of(&archived.facts, &self.server)
            && let Some(found) = self.same_server(archived).await?
        {
            return Ok(found);
        }
        self.other_log(archived).await
    }

    async fn head(&self, file: &LogFile) -> Result<FileHead, Error> {
        probe::head(self.settings, self.replica, file).await
    }

    /// Nothing is archived: begin with the file that the server is writing.
    async fn first_contact(&self) -> Result<Found, Error> {
        let head = self.head(&self.server.current).await?;
        let history = History::of(&self.server, &head)?;
        Ok(self.begin_new(history, &head, Vec::new()))
    }

    /// The history goes on, lost its end, or lost its begin; `None` if it is another one.
    async fn same_server(&self, archived: &Archived) -> Result<Option<Found>, Error> {
        let Some(newest) = archived.cuts.first() else { return self.after_base(archived).await };
        // One look at the head of a file, and not one for each of its segments.
        let mut looked_at: Option<(&LogFile, bool)> = None;
        for (index, cut) in archived.cuts.iter().enumerate() {
            let same = match looked_at {
                Some((file, same)) if *file == cut.file => same,
                _ => self.same_file(cut).await?,
            };
            looked_at = Some((&cut.file, same));
            if same && self.still_there(cut).await? {
                return match index {
                    0 => {
                        let found = self.resume(archived).await?;
                        let alarms = self.expiry_is_near(newest).into_iter().collect();
                        Ok(Some(Found { alarms, ..found }))
                    }
                    _ => self.lost_end(archived, newest, cut).await.map(Some),
                };
            }
            // Where files are gone there is nothing to compare, and older ones are gone too.
            if self.server.length(&cut.file).is_none() {
                break;
            }
        }
        self.purged(archived, newest).await
    }

    /// A base registered the history, and no log of it is archived yet.
    async fn after_base(&self, archived: &Archived) -> Result<Option<Found>, Error> {
        let Some(start) = archived.base else { return Ok(None) };
        let file = self.server.current.with_number(start.file);
        // Purged, or the log was reset: whatever comes does not continue this history.
        if self.server.length(&file).is_none_or(|length| length < start.offset) || !self.begins_alike(archived).await? {
            return Ok(None);
        }
        let head = self.head(&file).await?;
        let begin = self.begin_at(archived, &head);
        Ok(Some(self.go_on(archived, begin, 0)))
    }

    /// True unless the server's file with which the history began begins in another way now. Where that file is gone, the
    /// names of the files and the server's identity must do.
    async fn begins_alike(&self, archived: &Archived) -> Result<bool, Error> {
        let first = archived.facts.get(facts::FILE).and_then(|name| LogFile::parse(name));
        let (Some(file), Some(format)) = (first, archived.facts.get(facts::FORMAT)) else { return Ok(true) };
        if self.server.length(&file).is_none() {
            return Ok(self.server.oldest().is_some_and(|oldest| oldest.number > file.number));
        }
        Ok(hex::encode(self.head(&file).await?.format) == *format)
    }

    /// Warns if the server may remove what is not archived yet before it is.
    fn expiry_is_near(&self, newest: &Cut) -> Option<String> {
        let behind = (newest.end.file, newest.end.offset) < (self.server.current.number, self.server.end);
        let expiry = self.server.expiry.filter(|_| behind)?;
        let lag = chrono::Utc::now().signed_duration_since(newest.reaches?).to_std().ok()?;
        (lag >= expiry / 2).then(|| {
            let hours = |time: std::time::Duration| time.as_secs_f64() / 3600.0;
            format!(
                "the archive is {:.1} hours behind, and the server removes its log after {:.1} hours (binlog_expire_logs_seconds)",
                hours(lag),
                hours(expiry)
            )
        })
    }

    /// True unless the server's file of that name begins in another way.
    async fn same_file(&self, cut: &Cut) -> Result<bool, Error> {
        if self.server.length(&cut.file).is_none() || cut.format.is_empty() {
            return Ok(true);
        }
        Ok(self.head(&cut.file).await?.format == cut.format)
    }

    /// True if the server's log has the last event before a cut at its place.
    async fn still_there(&self, cut: &Cut) -> Result<bool, Error> {
        let Some((offset, crc)) = cut.last else { return Ok(false) };
        let Some(length) = self.server.length(&cut.file) else { return Ok(false) };
        if length <= offset {
            return Ok(false);
        }
        probe::has_event(self.settings, self.replica, &cut.file, offset, crc).await
    }

    /// Goes on where the sealed log ends.
    async fn resume(&self, archived: &Archived) -> Result<Found, Error> {
        let Some(end) = &archived.sealed else {
            // Only tails: the segment that they are of begins where the history does.
            let Some(first) = archived.cuts.first() else { return self.first_contact().await };
            let head = self.head(&first.file).await?;
            let start = archived.open_start.unwrap_or_else(|| self.at_begin(archived, &head.file));
            let begin = Begin { start, ..self.begin_at(archived, &head) };
            return Ok(self.go_on(archived, begin, 0));
        };
        let file = end.file.with_number(end.end.file);
        let mut begin = Begin {
            incarnation: archived.incarnation,
            flavour: self.server.flavour,
            file,
            offset: end.end.offset,
            start: end.end,
            format: end.format.clone(),
            executed: self.of_family(&end.executed),
            witness: end.witness.clone(),
        };
        if begin.offset == 0 {
            begin.format.clear();
        }
        let from = if begin.offset == 0 { 0 } else { end.open.unwrap_or(begin.offset) };
        Ok(self.go_on(archived, begin, from))
    }

    /// The server's log ends before the archive's, or went another way: it lost what it had not yet made durable.
    async fn lost_end(&self, archived: &Archived, newest: &Cut, good: &Cut) -> Result<Found, Error> {
        let head = self.head(&self.server.current).await?;
        let place = good.end;
        let history = History::forked(&self.server, &head, &archived.lineage, place, |incarnation| BinlogPosition {
            incarnation,
            ..place
        })?;
        let begin = Begin {
            incarnation: history.incarnation,
            flavour: self.server.flavour,
            file: good.file.with_number(place.file),
            offset: place.offset,
            start: BinlogPosition { incarnation: history.incarnation, ..place },
            format: if place.offset == 0 { Vec::new() } else { good.format.clone() },
            executed: self.of_family(&good.executed),
            witness: good.witness.clone(),
        };
        let from = if place.offset == 0 { 0 } else { good.open.unwrap_or(place.offset) };
        let alarm = format!(
            "the server lost the end of its log: the archive has it up to {} and offset {}, the server's own goes another way from {} and offset {} on. Both are kept; the server's is the new history {}",
            newest.file, newest.end.offset, good.file, place.offset, history.id
        );
        Ok(Found {
            lineage: history.id.clone(),
            new: Some(history),
            gap: None,
            begin,
            from,
            alarms: vec![alarm],
            notices: Vec::new(),
        })
    }

    /// The server removed files that the archive does not have; `None` if its log is another one.
    async fn purged(&self, archived: &Archived, newest: &Cut) -> Result<Option<Found>, Error> {
        let Some(oldest) = self.server.oldest() else { return Ok(None) };
        // The archive may end with a file that the server has just removed: then nothing is missing.
        let seamless = oldest.number == newest.end.file && newest.end.offset == 0;
        if oldest.number <= newest.end.file && !seamless {
            return Ok(None);
        }
        let head = self.head(oldest).await?;
        if seamless {
            let same = head.executed == self.of_family(&newest.executed);
            return if same { self.resume(archived).await.map(Some) } else { Ok(None) };
        }
        // A log that was reset has executed less than the archive has seen.
        if !newest.executed.is_subset(&head.executed) {
            return Ok(None);
        }
        let begin = self.begin_at(archived, &head);
        let cause = format!("{} is the oldest file that the server still has", head.file);
        let gap = Gap {
            lineage: archived.lineage.clone(),
            after: newest.end,
            before: Some(begin.start),
            after_time: newest.reaches,
            before_time: None,
            cause: GapCause::RemovedByServer(cause),
        };
        let alarm = format!(
            "the server removed log before it was archived, from {} on: {} is its oldest file. Take a new base",
            newest.file, head.file
        );
        let found = self.go_on(archived, begin, 0);
        Ok(Some(Found { gap: Some(gap), alarms: vec![alarm], ..found }))
    }

    /// Another server, or another log of the same one: found by what is executed.
    async fn other_log(&self, archived: &Archived) -> Result<Found, Error> {
        // MariaDB stamps to the second, and a log that was reset uses its identifiers again: within that second the same one
        // on the same server proves nothing.
        let was_reset = self.server.flavour == Flavour::Mariadb && may_be_of(&archived.facts, &self.server);
        // Each look reads up to a whole file of the server.
        let comparable = |(_, cut): &(usize, &Cut)| {
            !was_reset
                && !cut.executed.is_empty()
                && cut.executed.is_subset(&self.server.executed)
                && cut.open.is_none()
        };
        for (index, cut) in archived.cuts.iter().enumerate().filter(comparable).take(MAX_LOOKS) {
            let Some(place) = probe::locate(self.settings, self.replica, &self.server, cut).await? else {
                continue;
            };
            return self.continued_by(archived, cut, index, &place).map_err(Error::from);
        }
        let head = self.head(&self.server.current).await?;
        let mut history = History::of(&self.server, &head)?;
        if history.id == archived.lineage && !archived.cuts.is_empty() {
            // Reset within the second in which the old log began: nothing in the head tells them apart.
            history = History::after(&self.server, &head, &archived.lineage)?;
        }
        let alarm = format!(
            "the log of this server does not continue the archive's history {}: it was reset, it is another server's, or what lies between is gone. It is archived as the new history {} from {} on. Take a new base",
            archived.lineage, history.id, head.file
        );
        Ok(self.begin_new(history, &head, vec![alarm]))
    }

    fn continued_by(
        &self,
        archived: &Archived,
        cut: &Cut,
        index: usize,
        place: &probe::Place,
    ) -> Result<Found, pitr_core::InvalidName> {
        let (file, offset) = (place.head.file.number, place.offset);
        let history = History::forked(&self.server, &place.head, &archived.lineage, cut.end, |incarnation| {
            BinlogPosition::new(incarnation, file, offset)
        })?;
        let notices = vec![format!(
            "the log goes on at server {}: its {} continues the archive at offset {offset}, as history {}",
            self.server.identity(),
            place.head.file,
            history.id
        )];
        let mut alarms = Vec::new();
        if index > 0 {
            alarms.push(format!(
                "the archive has transactions of history {} that this server does not have: {} counts from before them",
                archived.lineage, history.id
            ));
        }
        Ok(Found { notices, ..self.begin_new(history, &place.head, alarms) })
    }

    /// A stored set that is empty does not tell its family.
    fn of_family(&self, set: &GtidSet) -> GtidSet {
        if set.is_empty() { empty_set(self.server.flavour) } else { set.clone() }
    }

    fn at_begin(&self, archived: &Archived, file: &LogFile) -> BinlogPosition {
        BinlogPosition::new(archived.incarnation, file.number, 0)
    }

    /// The begin of a file in the archived history.
    fn begin_at(&self, archived: &Archived, head: &FileHead) -> Begin {
        Begin {
            incarnation: archived.incarnation,
            flavour: self.server.flavour,
            file: head.file.clone(),
            offset: 0,
            start: self.at_begin(archived, &head.file),
            format: Vec::new(),
            executed: head.executed.clone(),
            witness: None,
        }
    }

    fn go_on(&self, archived: &Archived, begin: Begin, from: u64) -> Found {
        Found {
            lineage: archived.lineage.clone(),
            new: None,
            gap: None,
            begin,
            from,
            alarms: Vec::new(),
            notices: Vec::new(),
        }
    }

    fn begin_new(&self, history: History, head: &FileHead, alarms: Vec<String>) -> Found {
        let begin = Begin {
            incarnation: history.incarnation,
            flavour: self.server.flavour,
            file: head.file.clone(),
            offset: 0,
            start: BinlogPosition::new(history.incarnation, head.file.number, 0),
            format: Vec::new(),
            executed: head.executed.clone(),
            witness: None,
        };
        Found {
            lineage: history.id.clone(),
            new: Some(history),
            gap: None,
            begin,
            from: 0,
            alarms,
            notices: Vec::new(),
        }
    }
}

impl Cut {
    /// Reads the end of a stretch of log from its facts; `None` where they are not those of a binary log.
    pub fn read(end: BinlogPosition, facts: &pitr_core::Facts) -> Option<Self> {
        let executed: GtidSet = facts.get(facts::EXECUTED)?.parse().ok()?;
        let last = facts.get(facts::LAST).and_then(|text| {
            let (offset, crc) = text.split_once(':')?;
            Some((offset.parse().ok()?, u32::from_str_radix(crc, 16).ok()?))
        });
        Some(Self {
            end,
            file: LogFile::parse(facts.get(facts::FILE)?)?,
            format: hex::decode(facts.get(facts::FORMAT)?).ok()?,
            executed,
            last,
            open: facts.get(facts::OPEN).and_then(|text| text.parse().ok()),
            reaches: None,
            witness: facts.get(facts::WITNESS).cloned(),
        })
    }
}
