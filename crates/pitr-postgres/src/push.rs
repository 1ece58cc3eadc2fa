//! What a WAL file must fulfil before it is archived.
//!
//! `archive_command` hands over files that nobody will look at until the day they are needed. So each is
//! decoded once on its way in: a file that could not be replayed is refused while the server still has the
//! good copy, and what the planner needs to know later is noted in its header.

use std::collections::VecDeque;

use bytes::Bytes;
use pitr_core::ports::SealedSegment;
use pitr_core::{LineageId, Span, Timestamp};

use crate::engine::facts;
use crate::error::Error;
use crate::limits::{LONG_PAGE_HEADER, MAX_BACKUP_HISTORY_FILE, PAGE_SIZE};
use crate::lsn::{Lsn, SegmentSize, TimelineId};
use crate::position::PgPosition;
use crate::scan::Summary;
use crate::segment::{SegmentNumber, Slice, WalFileName, slices};
use crate::wal::{Damage, Decoder, Detail, Origin, PageHeader, Record, Step, WalError, major_version};

/// An end of archived log that other log is to continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seam {
    /// Where it ends.
    pub at: Lsn,
    /// Where the last record begins that begins before that.
    pub last_record: Lsn,
    /// Time of the latest commit since the begin of its segment, where the log is read from there on and has one: what
    /// happened once more after a server was set back may have records of the same lengths, but not at the same time.
    pub latest_commit: Option<Timestamp>,
}

/// Checks one WAL file, fed in order and in pieces of any size; memory does not grow with the file.
#[derive(Debug)]
pub struct FileCheck {
    file: String,
    log: SegmentNumber,
    partial: bool,
    size: SegmentSize,
    timeline: TimelineId,
    decoder: Decoder,
    slices: Vec<CheckedSlice>,
    /// The slice that the next byte belongs to.
    open: usize,
    fed: u64,
    /// Seams that are still to come, in order.
    seams: VecDeque<Seam>,
    /// Where the log of an unfinished file ends before its bytes do.
    ended: Option<String>,
}

/// A WAL file that passed.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Its name.
    pub file: WalFileName,
    /// The cluster that wrote it.
    pub system_id: u64,
    /// Timeline in the name: the history it belongs to.
    pub timeline: TimelineId,
    /// Major version of the server.
    pub version: u32,
    /// Size of the file.
    pub segment_size: SegmentSize,
    /// Cut after its last byte; for an unfinished file, after its last whole record.
    pub end: PgPosition,
    /// The archived segments to make of it, in order. Empty for an unfinished file without a whole record.
    pub slices: Vec<CheckedSlice>,
}

/// One archived segment to be.
#[derive(Debug, Clone)]
pub struct CheckedSlice {
    /// Name, positions, and where in the file.
    pub slice: Slice,
    /// What its header will say.
    pub summary: Summary,
    /// Bytes in the file, also where the log ends before them.
    pub bytes: u64,
    crc: u32,
    partial: bool,
}

impl FileCheck {
    /// Begins with the file's name, length and first bytes (at least 40; they are fed again).
    ///
    /// # Errors
    /// [`Error::Rejected`] if name, length and header do not belong together, or the file is of another cluster
    /// than `system_id`; [`Error::WalFileName`] if it is no segment.
    pub fn begin(file: &str, len: u64, first: &[u8], system_id: Option<u64>) -> Result<Self, Error> {
        let WalFileName::Segment { timeline, log, partial } = file.parse()? else {
            return Err(Error::WalFileName(file.to_owned()));
        };
        let size = segment_size(file, len, first)?;
        let slices = slices(timeline, log, partial, size)?;
        let Some(start) = slices.first().map(|slice| slice.start) else {
            let what = format!("no server with segments of {size} gives this name");
            return Err(rejected(file, what, "check which server calls this archive_command"));
        };
        let mut origin = Origin::new(timeline, start.lsn, size);
        if let Some(system_id) = system_id {
            origin = origin.of_system(system_id);
        }
        let slices = slices.into_iter().map(|slice| CheckedSlice::new(slice, partial)).collect();
        let decoder = Decoder::new(origin);
        let (file, seams) = (file.to_owned(), VecDeque::new());
        Ok(Self { file, log, partial, size, timeline, decoder, slices, open: 0, fed: 0, seams, ended: None })
    }

    /// The same, for log that is to continue archived log at each of these seams, in order.
    #[must_use]
    pub fn continuing(self, seams: VecDeque<Seam>) -> Self {
        Self { seams, ..self }
    }

    /// The seams that are not compared yet.
    pub fn seams(&self) -> &VecDeque<Seam> {
        &self.seams
    }

    /// Takes the next bytes of the file.
    ///
    /// # Errors
    /// [`Error::Rejected`] with page, position and reason at the first damage, or where the log ends before the
    /// file does. In an unfinished (`.partial`) file both only mark the end of its log. [`Error::OtherLog`] at a seam
    /// that it does not fit.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        let len = self.slice_len();
        while !bytes.is_empty() {
            // Slice by slice: what the header of one says does not depend on the bytes of the next.
            let room = usize::try_from(len - self.fed % len).unwrap_or(usize::MAX);
            let at = self.decoder.position();
            let seam = self.seams.iter().find(|seam| seam.at > at).map(|seam| seam.at.since(at));
            let seam = seam.and_then(|distance| usize::try_from(distance).ok()).unwrap_or(room);
            let (piece, rest) = bytes.split_at(room.min(seam).min(bytes.len()));
            self.digest(piece);
            self.decode(piece)?;
            self.compare_at_seam()?;
            if self.fed.is_multiple_of(len) {
                self.end_slice();
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Name and start of the slice that the next byte belongs to, and what its header would say if it ended
    /// here; `None` after the last.
    pub fn open_slice(&self) -> Option<(&Slice, Summary)> {
        let open = self.slices.get(self.open)?;
        Some((&open.slice, self.with_cut_off_record(open)))
    }

    /// The slices that are complete, in order.
    pub fn complete_slices(&self) -> &[CheckedSlice] {
        self.slices.get(..self.open).unwrap_or_default()
    }

    fn decode(&mut self, mut piece: &[u8]) -> Result<(), Error> {
        while self.ended.is_none() {
            match self.decoder.step(&mut piece) {
                Ok(Step::Record(record)) => {
                    self.compare_behind_seam(&record)?;
                    // One that began in an earlier slice was counted there, as one that is cut off.
                    if let Some(open) = self.slices.get_mut(self.open).filter(|open| open.slice.start.lsn <= record.lsn)
                    {
                        open.summary.add(&record);
                    }
                }
                Ok(Step::NeedMore) => break,
                Ok(Step::End(end)) if self.partial => self.ended = Some(end.reason.to_string()),
                Ok(Step::End(end)) => return Err(self.unfinished(&end.reason.to_string())),
                Err(error) if self.partial && self.decoder.version().is_some() => {
                    self.ended = Some(error.to_string());
                }
                Err(error) => return Err(self.damaged(error)),
            }
        }
        Ok(())
    }

    /// Compares where a seam is reached, if a record has begun before it that was read from its begin.
    fn compare_at_seam(&mut self) -> Result<(), Error> {
        let (at, last) = (self.decoder.position(), self.decoder.last_begin());
        match (self.seams.front().copied(), last) {
            (Some(seam), Some(last)) if seam.at == at => {
                self.compare_commit(seam).and_then(|()| self.compare(seam, last))
            }
            _ => Ok(()),
        }
    }

    fn compare_commit(&self, seam: Seam) -> Result<(), Error> {
        let Some(archived) = seam.latest_commit else { return Ok(()) };
        let found = self.slices.get(self.open).and_then(|open| open.summary.commits.max);
        if found == Some(archived) {
            return Ok(());
        }
        let found = found.map_or_else(|| "there is none".to_owned(), |time| format!("it is of {}", exact(time)));
        let what = format!("its latest commit is of {} in the archive, on the server {found}", exact(archived));
        Err(Error::OtherLog { at: seam.at, what })
    }

    /// Compares what a record behind a seam says of the one before it.
    fn compare_behind_seam(&mut self, record: &Record) -> Result<(), Error> {
        let last = match record.detail {
            // It names the record before the one that a crash cut off.
            Detail::OverwriteContrecord { lost, .. } => lost,
            _ => record.prev,
        };
        match self.seams.front().copied() {
            Some(seam) if seam.at <= record.lsn => self.compare(seam, last),
            _ => Ok(()),
        }
    }

    fn compare(&mut self, seam: Seam, found: Lsn) -> Result<(), Error> {
        if found != seam.last_record {
            let archived = seam.last_record;
            let what = format!("its last record begins at {archived} in the archive, on the server at {found}");
            return Err(Error::OtherLog { at: seam.at, what });
        }
        self.seams.pop_front();
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`Error::Rejected`] if fewer or more bytes came than a segment has.
    pub fn finish(mut self) -> Result<Checked, Error> {
        if self.fed != self.size.bytes() {
            let what = format!("{} bytes were read, a segment has {}", self.fed, self.size.bytes());
            return Err(rejected(
                &self.file,
                what,
                "the file changed while it was read; the server will hand it over again",
            ));
        }
        let (Some(system_id), Some(version)) = (self.decoder.system_id(), self.decoder.version()) else {
            return Err(self.unfinished("the first page is empty"));
        };
        let end = if self.partial { self.cut_to_valid_log() } else { self.decoder.position() };
        Ok(Checked {
            file: WalFileName::Segment { timeline: self.timeline, log: self.log, partial: self.partial },
            system_id,
            timeline: self.timeline,
            version,
            segment_size: self.size,
            end: PgPosition::new(self.timeline, end),
            slices: self.slices,
        })
    }

    fn slice_len(&self) -> u64 {
        self.slices.first().map_or(self.size.bytes(), |slice| slice.bytes)
    }

    /// Remembers what the slice's bytes were, so that the same bytes are sealed that were checked.
    fn digest(&mut self, piece: &[u8]) {
        if let Some(open) = self.slices.get_mut(self.open) {
            open.crc = crc32c::crc32c_append(open.crc, piece);
        }
        self.fed += piece.len() as u64;
    }

    /// An unfinished file's log ends with its last whole record; slices after that hold nothing.
    fn cut_to_valid_log(&mut self) -> Lsn {
        let end = self.decoder.valid_to();
        self.slices.retain(|slice| slice.slice.start.lsn < end);
        if let Some(last) = self.slices.last_mut() {
            last.slice.end.lsn = last.slice.end.lsn.min(end);
        }
        end
    }

    fn end_slice(&mut self) {
        if let Some(open) = self.slices.get(self.open) {
            let summary = self.with_cut_off_record(open);
            if let Some(open) = self.slices.get_mut(self.open) {
                open.summary = summary;
            }
        }
        self.open += 1;
    }

    /// The summary of a slice, with the record that goes on behind it: it belongs to the slice in which it begins.
    fn with_cut_off_record(&self, slice: &CheckedSlice) -> Summary {
        let mut summary = slice.summary.clone();
        match self.decoder.open_record() {
            Some((begin, kind)) if slice.slice.start.lsn <= begin && self.ended.is_none() => {
                summary.add_cut_off(begin, kind);
            }
            _ => {}
        }
        summary
    }

    fn unfinished(&self, reason: &str) -> Error {
        let at = self.decoder.valid_to();
        let what = format!("the log ends at {at}, before the end of the segment: {reason}");
        rejected(
            &self.file,
            what,
            "a segment is archived when it is complete: let archive_command pass it, and do not copy from pg_wal by hand",
        )
    }

    fn damaged(&self, error: WalError) -> Error {
        let offset = error.lsn.segment_offset(self.size);
        let hint = match &error.what {
            Damage::SystemId { .. } => {
                "another cluster archives under this source: give it a source of its own, and check where this archive_command came from"
            }
            Damage::UnknownMagic(_) => "this version of pitr reads the log of PostgreSQL 13 to 18",
            Damage::PageTimeline { .. } => "compare the history files in pg_wal with the file's name",
            _ => {
                "compare with pg_waldump on the server; if it fails too the file is damaged there: find out why, and take a new base, for no restore can go past it"
            }
        };
        Error::Rejected {
            file: self.file.clone(),
            what: format!("page {} (offset {offset}) is not valid log", offset / PAGE_SIZE),
            hint: hint.to_owned(),
            source: Some(Box::new(error)),
        }
    }
}

impl CheckedSlice {
    fn new(slice: Slice, partial: bool) -> Self {
        Self { bytes: slice.len(), slice, summary: Summary::default(), crc: 0, partial }
    }

    /// Makes the segment, from the same bytes that were checked.
    ///
    /// # Errors
    /// [`Error::Rejected`] if they are others.
    pub fn seal(&self, lineage: LineageId, bytes: Bytes) -> Result<SealedSegment<PgPosition>, Error> {
        if bytes.len() as u64 != self.bytes || crc32c::crc32c(&bytes) != self.crc {
            let what = "changed between its check and its upload".to_owned();
            return Err(rejected(
                self.slice.name.leaf(),
                what,
                "a complete segment never changes: find out who writes to pg_wal",
            ));
        }
        let Span { lineage, first: name, start, end, commits, marks, facts, .. } = self.span(lineage);
        Ok(SealedSegment { lineage, name, start, end, commits, marks, facts, bytes })
    }

    /// The segment without its bytes, as a span of one.
    pub fn span(&self, lineage: LineageId) -> Span<PgPosition> {
        let mut facts = self.summary.facts(self.slice.start.lsn);
        if self.partial {
            facts.insert(facts::PARTIAL.to_owned(), "true".to_owned());
        }
        Span {
            lineage,
            first: self.slice.name.clone(),
            last: self.slice.name.clone(),
            count: 1,
            start: self.slice.start,
            end: self.slice.end,
            bytes: self.bytes,
            commits: self.summary.commits.clone(),
            marks: self.summary.marks,
            facts,
        }
    }
}

impl Checked {
    /// Makes all segments of a file that is in memory as a whole.
    ///
    /// # Errors
    /// As [`CheckedSlice::seal`].
    pub fn seal(&self, lineage: &LineageId, file: &Bytes) -> Result<Vec<SealedSegment<PgPosition>>, Error> {
        self.slices
            .iter()
            .map(|slice| {
                let (from, to) = (slice.slice.offset as usize, (slice.slice.offset + slice.bytes) as usize);
                let bytes = if to <= file.len() { file.slice(from..to) } else { Bytes::new() };
                slice.seal(lineage.clone(), bytes)
            })
            .collect()
    }
}

/// Checks a WAL file that is in memory as a whole.
///
/// # Errors
/// As [`FileCheck`].
pub fn check_file(file: &str, bytes: &[u8], system_id: Option<u64>) -> Result<Checked, Error> {
    let mut check = FileCheck::begin(file, bytes.len() as u64, bytes, system_id)?;
    check.feed(bytes)?;
    check.finish()
}

/// Checks a backup history file (`.backup`): text of the server that names the segment in its own name.
///
/// # Errors
/// [`Error::Rejected`] if it is something else, [`Error::WalFileName`] if it is not named so.
pub fn check_backup_history(file: &str, bytes: &[u8]) -> Result<(), Error> {
    let WalFileName::Backup { timeline, log, .. } = file.parse()? else {
        return Err(Error::WalFileName(file.to_owned()));
    };
    let segment = format!("(file {})", WalFileName::Segment { timeline, log, partial: false });
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    if bytes.len() > MAX_BACKUP_HISTORY_FILE || !first.starts_with("START WAL LOCATION: ") || !first.ends_with(&segment)
    {
        let what = format!("is no backup history file: it must begin with a START WAL LOCATION in {segment}");
        return Err(rejected(file, what, "compare with the file in pg_wal of the server"));
    }
    Ok(())
}

/// The segment size that length and header agree on.
fn segment_size(file: &str, len: u64, first: &[u8]) -> Result<SegmentSize, Error> {
    let Some(size) = SegmentSize::new(len) else {
        let what = format!("{len} bytes is no size of a WAL segment (a power of two from 1 MiB to 1 GiB)");
        return Err(rejected(file, what, "the file is cut off, or is no WAL segment"));
    };
    let header = first.get(..LONG_PAGE_HEADER as usize).and_then(PageHeader::parse);
    let Some(header) = header else {
        return Err(rejected(file, "has no page header".to_owned(), "the file is no WAL segment"));
    };
    match header.long {
        // The other fields of the header, and those of all pages, are the decoder's to check.
        Some(long) if major_version(header.magic).is_some() && u64::from(long.segment_size) != len => {
            let what = format!("is {len} bytes long, but its header says {}", long.segment_size);
            Err(rejected(file, what, "the file is cut off or padded: let the server hand it over again"))
        }
        _ => Ok(size),
    }
}

/// To the microsecond, in UTC.
fn exact(time: Timestamp) -> impl std::fmt::Display {
    time.format("%F %T%.6fZ")
}

fn rejected(file: &str, what: String, hint: &str) -> Error {
    Error::Rejected { file: file.to_owned(), what, hint: hint.to_owned(), source: None }
}
