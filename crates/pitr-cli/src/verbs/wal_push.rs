//! `pitr wal push PATH`: `archive_command`. Returns only once the file is stored durably.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pitr_archive::{Put, SourceArchive};
use pitr_core::{ErrorKind, Facts};
use pitr_postgres::push::{self, Checked, FileCheck};
use pitr_postgres::{Postgres, TimelineId, WalFileName};
use serde_json::json;

use crate::cli::WalPush;
use crate::config::EngineKind;
use crate::context::{Context, Purpose};
use crate::failure::{During, Failure};
use crate::limits::{MAX_FILE_BYTES, PUSH_PIECE_BYTES};
use crate::postgres::lineage::{self, Writer};
use crate::report::Report;

/// Pushes one file.
pub async fn run(context: &Context, args: &WalPush) -> Result<Report, Failure> {
    let (name, _) = context.config.source_of(EngineKind::Postgres, args.source.as_deref())?;
    let file = file_name(&args.path)?;
    let archive = context.source(name, Purpose::Write).await?;
    let pushed = match file {
        WalFileName::Segment { .. } => push_segment(&archive, &args.path, &file.to_string()).await,
        WalFileName::History(timeline) => push_history(&archive, &args.path, timeline).await,
        WalFileName::Backup { .. } => push_backup_history(&archive, &args.path, &file.to_string()).await,
    };
    let stored = pushed.during(format!("wal push {file} of {name}"))?;
    tracing::info!(%file, source = name, stored_bytes = stored, "stored");
    Ok(Report::new(
        "pitr.wal_push/1",
        json!({ "file": file.to_string(), "source": name, "stored_bytes": stored }),
        // Text would end up in the server's log, once per segment.
        "",
    ))
}

/// Checks a segment and stores it, in slices if it is large. `None` if all of it was stored before.
async fn push_segment(archive: &SourceArchive, path: &Path, file: &str) -> Result<Option<u64>, Failure> {
    let mut source = Source::open(path)?;
    // Most files are one slice: read once, checked and sealed from the same memory.
    let whole = if source.len <= PUSH_PIECE_BYTES { Some(source.read(0, source.len)?) } else { None };
    let checked = match &whole {
        Some(bytes) => push::check_file(file, bytes, None)?,
        None => check_in_pieces(&mut source, file)?,
    };
    let lineage = lineage::of_writer(archive, writer(&checked), wal_dir(path)).await?;
    let mut stored = None;
    for slice in &checked.slices {
        let bytes = match &whole {
            Some(bytes) => bytes.slice(slice.slice.offset as usize..(slice.slice.offset + slice.bytes) as usize),
            None => source.read(slice.slice.offset, slice.bytes)?,
        };
        let segment = slice.seal(lineage.clone(), bytes)?;
        if let Put::Stored { stored_bytes } = archive.put_segment(&segment).await? {
            *stored.get_or_insert(0) += stored_bytes;
        }
    }
    roll_up_if_group_begins(archive, &lineage, &checked).await;
    Ok(stored)
}

/// The first segment of a group means that the one before is complete. A roll-up only saves reads, so that
/// failing to write one is no failure of the push.
async fn roll_up_if_group_begins(archive: &SourceArchive, lineage: &pitr_core::LineageId, checked: &Checked) {
    let Some(first) = checked.slices.first() else { return };
    let group_bytes = pitr_postgres::limits::SEGMENTS_PER_GROUP * first.bytes;
    if first.slice.start.lsn.0 % group_bytes != 0 {
        return;
    }
    if let Err(error) = archive.roll_up_complete::<Postgres>(lineage).await {
        tracing::warn!(%error, %lineage, "could not write a roll-up; status will be slower until one is written");
    }
}

fn check_in_pieces(source: &mut Source, file: &str) -> Result<Checked, Failure> {
    let mut offset = 0;
    let mut check: Option<FileCheck> = None;
    while offset < source.len {
        let piece = source.read(offset, PUSH_PIECE_BYTES.min(source.len - offset))?;
        let mut begun = match check.take() {
            Some(check) => check,
            None => FileCheck::begin(file, source.len, &piece, None)?,
        };
        begun.feed(&piece)?;
        check = Some(begun);
        offset += piece.len() as u64;
    }
    match check {
        Some(check) => Ok(check.finish()?),
        None => Err(Failure::new(ErrorKind::Integrity, format!("{file} is empty"))),
    }
}

async fn push_history(archive: &SourceArchive, path: &Path, timeline: TimelineId) -> Result<Option<u64>, Failure> {
    let mut source = Source::open(path)?;
    let bytes = source.read(0, source.len)?;
    let system_id = lineage::system_id(wal_dir(path))?;
    // A history file does not say how large segments are; those beside it do.
    let (segment_size, version) = lineage::shape_of_segments(wal_dir(path))?;
    lineage::of_history(archive, Writer { system_id, timeline, segment_size, version }, &bytes).await?;
    Ok(Some(bytes.len() as u64))
}

async fn push_backup_history(archive: &SourceArchive, path: &Path, file: &str) -> Result<Option<u64>, Failure> {
    let mut source = Source::open(path)?;
    let bytes = source.read(0, source.len)?;
    push::check_backup_history(file, &bytes)?;
    let system_id = lineage::system_id(wal_dir(path))?;
    let namespace = format!("backup-history-{system_id}");
    match archive.put_file(&namespace, file, &Facts::new(), bytes).await? {
        Put::Stored { stored_bytes } => Ok(Some(stored_bytes)),
        Put::Identical => Ok(None),
    }
}

fn writer(checked: &Checked) -> Writer {
    Writer {
        system_id: checked.system_id,
        timeline: checked.timeline,
        segment_size: checked.segment_size,
        version: checked.version,
    }
}

fn wal_dir(path: &Path) -> &Path {
    path.parent().filter(|dir| *dir != Path::new("")).unwrap_or_else(|| Path::new("."))
}

fn file_name(path: &Path) -> Result<WalFileName, Failure> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.parse::<WalFileName>()
        .map_err(|error| Failure::from(error).next("archive_command = 'pitr wal push --source NAME %p'"))
}

/// A file that is read in pieces, its length as it was when it was opened.
struct Source {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Source {
    fn open(path: &Path) -> Result<Self, Failure> {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (len, file) = opened.map_err(|error| unreadable(path, &error))?;
        if len > MAX_FILE_BYTES {
            let what = format!("{} is {len} bytes long: no WAL file is", path.display());
            return Err(Failure::new(ErrorKind::Integrity, what));
        }
        Ok(Self { path: path.to_owned(), file, len })
    }

    fn read(&mut self, offset: u64, len: u64) -> Result<Bytes, Failure> {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = self.file.seek(SeekFrom::Start(offset)).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|error| unreadable(&self.path, &error))?;
        Ok(bytes.into())
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(ErrorKind::Failed, format!("cannot read {}: {error}", path.display()))
}
