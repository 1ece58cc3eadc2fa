//! `pitr wal push PATH`: `archive_command`. Returns only once the file is stored durably.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pitr_archive::{Press, Pressed, Put, SourceArchive};
use pitr_core::{ErrorKind, Facts, LineageId};
use pitr_postgres::limits::LONG_PAGE_HEADER;
use pitr_postgres::push::{self, Checked, FileCheck};
use pitr_postgres::{PgPosition, Postgres, TimelineId, WalFileName};
use serde_json::json;

use crate::cli::WalPush;
use crate::config::EngineKind;
use crate::context::{Context, Purpose};
use crate::failure::{During, Failure};
use crate::limits::{MAX_FILE_BYTES, PUSH_PIECE_BYTES};
use crate::postgres::lineage::{self, Writer};
use crate::postgres::resume;
use crate::report::Report;

/// Pushes one file.
pub async fn run(context: &Context, args: &WalPush) -> Result<Report, Failure> {
    let (name, _) = context.config.source_of(EngineKind::Postgres, args.source.as_deref())?;
    let file = file_name(&args.path)?;
    let archive = context.source(name, Purpose::Write).await?;
    let stored = push(&archive, &args.path).await.during(format!("wal push {file} of {name}"))?;
    tracing::info!(%file, source = name, stored_bytes = stored, "stored");
    Ok(Report::new(
        "pitr.wal_push/1",
        json!({ "file": file.to_string(), "source": name, "stored_bytes": stored }),
        // Text would end up in the server's log, once per segment.
        "",
    ))
}

/// Checks a file of a server's WAL directory and stores it. `None` if all of it was stored before.
pub async fn push(archive: &SourceArchive, path: &Path) -> Result<Option<u64>, Failure> {
    let file = file_name(path)?;
    match file {
        WalFileName::Segment { .. } => push_segment(archive, path, &file.to_string()).await,
        WalFileName::History(timeline) => push_history(archive, path, timeline).await,
        WalFileName::Backup { .. } => push_backup_history(archive, path, &file.to_string()).await,
    }
}

/// Checks a segment and stores it, in slices if it is large. `None` if all of it was stored before.
async fn push_segment(archive: &SourceArchive, path: &Path, file: &str) -> Result<Option<u64>, Failure> {
    let source = Source::open(path)?;
    match source.len <= PUSH_PIECE_BYTES {
        true => push_at_once(archive, source, path, file).await,
        false => push_in_slices(archive, source, path, file).await,
    }
}

/// Most files are one slice: each piece is read once, and checked, compressed and digested while it is in the cache.
async fn push_at_once(
    archive: &SourceArchive,
    mut source: Source,
    path: &Path,
    file: &str,
) -> Result<Option<u64>, Failure> {
    let press = archive.press()?;
    let name = file.to_owned();
    let work = move || press_and_check(&mut source, &name, press);
    let (checked, pressed) = tokio::task::spawn_blocking(work).await.map_err(died)??;
    let lineage = lineage::of_writer(archive, writer(&checked), wal_dir(path)).await?;
    // An unfinished file without a whole record holds no log.
    let Some(slice) = checked.slices.first() else { return Ok(None) };
    compare_with_tails(archive, &lineage, &checked, path, file).await?;
    let put = archive.put_pressed(&slice.span(lineage.clone()), pressed).await?;
    roll_up_if_group_begins(archive, &lineage, &checked).await;
    Ok(stored_bytes(put))
}

fn press_and_check(source: &mut Source, file: &str, mut press: Press) -> Result<(Checked, Pressed), Failure> {
    let pressing = |error: io::Error| Failure::new(ErrorKind::Failed, format!("compressing {file}: {error}"));
    let mut check: Option<FileCheck> = None;
    let mut offset = 0;
    while offset < source.len {
        let mut buffer = press.spare().map_err(pressing)?;
        buffer.truncate(usize::try_from(source.len - offset).unwrap_or(usize::MAX));
        source.fill(&mut buffer)?;
        offset += buffer.len() as u64;
        let piece = buffer.freeze();
        press.feed(piece.clone()).map_err(pressing)?;
        check = Some(feed(check, file, source.len, &piece)?);
    }
    Ok((finish(check, file)?, press.finish().map_err(pressing)?))
}

/// A large file is checked as a whole before its first slice is stored, and read again for that.
async fn push_in_slices(
    archive: &SourceArchive,
    mut source: Source,
    path: &Path,
    file: &str,
) -> Result<Option<u64>, Failure> {
    let mut check: Option<FileCheck> = None;
    let mut offset = 0;
    while offset < source.len {
        let piece = source.read(offset, PUSH_PIECE_BYTES.min(source.len - offset))?;
        check = Some(feed(check, file, source.len, &piece)?);
        offset += piece.len() as u64;
    }
    let checked = finish(check, file)?;
    let lineage = lineage::of_writer(archive, writer(&checked), wal_dir(path)).await?;
    compare_with_tails(archive, &lineage, &checked, path, file).await?;
    let mut stored = None;
    for slice in &checked.slices {
        let bytes = source.read(slice.slice.offset, slice.bytes)?;
        if let Some(bytes) = stored_bytes(archive.put_segment(&slice.seal(lineage.clone(), bytes)?).await?) {
            *stored.get_or_insert(0) += bytes;
        }
    }
    roll_up_if_group_begins(archive, &lineage, &checked).await;
    Ok(stored)
}

/// What a stream has archived of the file must be what is in it. Else the server was set back, and to store its log would
/// hide commits that are archived.
async fn compare_with_tails(
    archive: &SourceArchive,
    lineage: &LineageId,
    checked: &Checked,
    path: &Path,
    file: &str,
) -> Result<(), Failure> {
    let mut seams = VecDeque::new();
    for slice in &checked.slices {
        match archive.tail_span::<PgPosition>(lineage, &slice.slice.name).await {
            Ok(tail) => seams.extend(tail.as_ref().and_then(resume::seam_of_tail)),
            // The server's log is the better copy, and must not pile up.
            Err(error) => tracing::warn!(%error, file, "could not compare with the tails of this segment"),
        }
    }
    if seams.is_empty() {
        return Ok(());
    }
    let mut source = Source::open(path)?;
    let head = source.read(0, LONG_PAGE_HEADER)?;
    let mut check = FileCheck::begin(file, source.len, &head, None)?.continuing(seams);
    let mut offset = 0;
    while offset < source.len {
        let piece = source.read(offset, PUSH_PIECE_BYTES.min(source.len - offset))?;
        check.feed(&piece)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

fn stored_bytes(put: Put) -> Option<u64> {
    match put {
        Put::Stored { stored_bytes } => Some(stored_bytes),
        Put::Identical => None,
    }
}

fn feed(check: Option<FileCheck>, file: &str, len: u64, piece: &[u8]) -> Result<FileCheck, Failure> {
    let mut check = match check {
        Some(check) => check,
        None => FileCheck::begin(file, len, piece, None)?,
    };
    check.feed(piece)?;
    Ok(check)
}

fn finish(check: Option<FileCheck>, file: &str) -> Result<Checked, Failure> {
    match check {
        Some(check) => Ok(check.finish()?),
        None => Err(Failure::new(ErrorKind::Integrity, format!("{file} is empty"))),
    }
}

fn died(error: tokio::task::JoinError) -> Failure {
    Failure::new(ErrorKind::Failed, format!("the check died: {error}"))
}

/// The first segment of a group means that the one before is complete. A roll-up only saves reads, so that
/// failing to write one is no failure of the push.
async fn roll_up_if_group_begins(archive: &SourceArchive, lineage: &LineageId, checked: &Checked) {
    let Some(first) = checked.slices.first() else { return };
    let group_bytes = pitr_postgres::limits::SEGMENTS_PER_GROUP * first.bytes;
    if first.slice.start.lsn.0 % group_bytes != 0 {
        return;
    }
    if let Err(error) = archive.roll_up_complete::<Postgres>(lineage).await {
        tracing::warn!(%error, %lineage, "could not write a roll-up; status will be slower until one is written");
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
    Ok(stored_bytes(archive.put_file(&namespace, file, &Facts::new(), bytes).await?))
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
        self.file.seek(SeekFrom::Start(offset)).map_err(|error| unreadable(&self.path, &error))?;
        self.fill(&mut bytes)?;
        Ok(bytes.into())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Failure> {
        self.file.read_exact(buffer).map_err(|error| unreadable(&self.path, &error))
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(ErrorKind::Failed, format!("cannot read {}: {error}", path.display()))
}
