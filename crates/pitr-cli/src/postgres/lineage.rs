//! Which lineage a pushed file belongs to, and registering it before its first segment.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use pitr_archive::SourceArchive;
use pitr_core::{ErrorKind, Facts, Fork, LineageId};
use pitr_postgres::history::{self, TimelineHistory};
use pitr_postgres::limits::LONG_PAGE_HEADER;
use pitr_postgres::wal::{PageHeader, major_version};
use pitr_postgres::{PgPosition, SegmentSize, TimelineId, WalFileName};

use crate::failure::{During, Failure};

/// What identifies a server's current history.
#[derive(Debug, Clone, Copy)]
pub struct Writer {
    /// The cluster.
    pub system_id: u64,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Size of its WAL files.
    pub segment_size: SegmentSize,
    /// Its major version.
    pub version: u32,
}

/// The lineage of a writer; registered if this is its first file. `wal_dir` holds its history files.
pub async fn of_writer(archive: &SourceArchive, writer: Writer, wal_dir: &Path) -> Result<LineageId, Failure> {
    if writer.timeline == TimelineId::FIRST {
        return of_first_timeline(archive, writer).await;
    }
    match read_history(wal_dir, writer.timeline)? {
        Some(bytes) => of_history(archive, writer, &bytes).await,
        None => of_number(&known(archive, writer).await?, writer),
    }
}

/// The lineage of a cluster that has never left its first timeline.
pub async fn of_first_timeline(archive: &SourceArchive, writer: Writer) -> Result<LineageId, Failure> {
    let id = history::lineage_id(writer.system_id, TimelineId::FIRST, None, |bytes| archive.objects().digest(bytes))?;
    if !known(archive, writer).await?.contains(&id) {
        register(archive, &id, None, writer).await?;
    }
    Ok(id)
}

/// The lineages of the source, which must be those of the writer's cluster.
async fn known(archive: &SourceArchive, writer: Writer) -> Result<Vec<LineageId>, Failure> {
    let known: Vec<LineageId> = archive.lineage_keys().await?.into_iter().map(|(_, id)| id).collect();
    refuse_foreign(archive, &known, writer.system_id)?;
    Ok(known)
}

/// The lineage that a history file describes; registered, with the file, if it is new.
pub async fn of_history(archive: &SourceArchive, writer: Writer, bytes: &[u8]) -> Result<LineageId, Failure> {
    let digest = |bytes: &[u8]| archive.objects().digest(bytes);
    let parsed = TimelineHistory::parse(writer.timeline, bytes)?;
    let id = history::lineage_id(writer.system_id, writer.timeline, Some(bytes), digest)?;
    let known = known(archive, writer).await?;
    // Before the lineage: of a registered one the history is always there.
    let name = WalFileName::History(writer.timeline).to_string();
    archive.put_file(id.as_str(), &name, &Facts::new(), Bytes::copy_from_slice(bytes)).await?;
    if !known.contains(&id) {
        let fork = history::fork(writer.system_id, &parsed, digest)?;
        // Archiving may have begun after the fork: then this history starts by itself, as far as we know.
        let fork = known.contains(&fork.parent).then_some(fork);
        register(archive, &id, fork.as_ref(), writer).await?;
    }
    Ok(id)
}

/// The system identifier of the cluster whose `pg_wal` this is: the first eight bytes of `pg_control`.
pub fn system_id(wal_dir: &Path) -> Result<u64, Failure> {
    let path = wal_dir.join("../global/pg_control");
    let bytes = fs::read(&path).map_err(|error| {
        Failure::new(ErrorKind::Usage, format!("cannot read {}: {error}", path.display()))
            .next("give the file as PostgreSQL does: a path inside the data directory's pg_wal")
    })?;
    let first: Option<[u8; 8]> = bytes.get(..8).and_then(|bytes| bytes.try_into().ok());
    first
        .map(u64::from_le_bytes)
        .ok_or_else(|| Failure::new(ErrorKind::Integrity, format!("{} is too short", path.display())))
}

/// Segment size and version of the cluster, from any segment in its `pg_wal`.
pub fn shape_of_segments(wal_dir: &Path) -> Result<(SegmentSize, u32), Failure> {
    let unreadable =
        |error: io::Error| Failure::new(ErrorKind::Failed, format!("cannot read {}: {error}", wal_dir.display()));
    for entry in fs::read_dir(wal_dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(WalFileName::Segment { .. }) = name else { continue };
        if let Some(shape) = shape_of_segment(&entry.path()).map_err(unreadable)? {
            return Ok(shape);
        }
    }
    Err(Failure::new(
        ErrorKind::Failed,
        format!("{} holds no WAL segment to learn the segment size from", wal_dir.display()),
    ))
}

fn shape_of_segment(path: &Path) -> io::Result<Option<(SegmentSize, u32)>> {
    let mut file = fs::File::open(path)?;
    let mut header = [0; LONG_PAGE_HEADER as usize];
    // A segment that the server has just created or is about to recycle tells nothing.
    if file.read_exact(&mut header).is_err() {
        return Ok(None);
    }
    let shape = PageHeader::parse(&header).and_then(|header| {
        Some((SegmentSize::new(u64::from(header.long?.segment_size))?, major_version(header.magic)?))
    });
    Ok(shape)
}

async fn register(
    archive: &SourceArchive,
    id: &LineageId,
    fork: Option<&Fork<PgPosition>>,
    writer: Writer,
) -> Result<(), Failure> {
    let facts = history::lineage_facts(writer.system_id, writer.timeline, writer.segment_size, writer.version);
    archive.put_lineage(id, fork, &facts).await.during(format!("registering lineage {id}"))?;
    Ok(())
}

/// A source is one cluster: a push from another one is a copied configuration, and mixing them would ruin both.
fn refuse_foreign(archive: &SourceArchive, known: &[LineageId], system_id: u64) -> Result<(), Failure> {
    let ours = format!("{system_id}.");
    if known.is_empty() || known.iter().any(|id| id.as_str().starts_with(&ours)) {
        return Ok(());
    }
    let theirs = known.first().and_then(|id| id.as_str().split('.').next()).unwrap_or_default();
    let source = archive.name().as_str();
    Err(Failure::new(
        ErrorKind::Refused,
        format!("source {source} is the cluster with system identifier {theirs}; this server is {system_id}"),
    )
    .next(format!("give this server a [sources.NAME] of its own and change --source {source} in its archive_command"))
    .next("after pg_upgrade or a new initdb, too: the old log cannot be replayed by the new cluster"))
}

fn read_history(wal_dir: &Path, timeline: TimelineId) -> Result<Option<Vec<u8>>, Failure> {
    let path = wal_dir.join(WalFileName::History(timeline).to_string());
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(ErrorKind::Failed, format!("cannot read {}: {error}", path.display()))),
    }
}

/// Without a history file, only if no two histories have this number.
fn of_number(known: &[LineageId], writer: Writer) -> Result<LineageId, Failure> {
    let stem = format!("{}.{:08X}.", writer.system_id, writer.timeline.0);
    let mut fitting = known.iter().filter(|id| id.as_str().starts_with(&stem));
    let file = WalFileName::History(writer.timeline);
    match (fitting.next(), fitting.next()) {
        (Some(id), None) => Ok(id.clone()),
        (None, _) => Err(Failure::new(
            ErrorKind::Refused,
            format!("{file} is neither beside the segment nor in the archive, so its history is unknown"),
        )
        .next(format!("push {file} first, from the server's pg_wal"))),
        _ => Err(Failure::new(
            ErrorKind::Refused,
            format!("several histories have timeline {}, and {file} is missing", writer.timeline),
        )
        .next(format!("put {file} beside the segment, so that it can be told which one it belongs to"))),
    }
}
