//! Where the bytes of a WAL file are: which lineage, which slices, and whether a missing one is proved absent.

use bytes::{Bytes, BytesMut};
use pitr_archive::SourceArchive;
use pitr_core::{Catalog, ErrorKind, Lineage, LineageId, SegmentName};
use pitr_postgres::engine::facts;
use pitr_postgres::segment::{Slice, slices};
use pitr_postgres::{Lsn, PgPosition, Postgres, SegmentNumber, SegmentSize, TimelineId, WalFileName};

use crate::engine::Product;
use crate::failure::Failure;

/// What the archive says about a file that the server asks for.
#[derive(Debug)]
pub enum Answer {
    /// The whole file.
    File(Bytes),
    /// It certainly does not exist, and nothing after it does.
    Absent,
}

/// The histories that one recovery goes through.
#[derive(Debug)]
pub struct Histories {
    path: Vec<Lineage<PgPosition>>,
    /// True if the recovery is meant to end in the last of them.
    chosen: bool,
}

impl Histories {
    /// The ancestors of `leaf`; without one, those of the newest lineage.
    pub async fn load(archive: &SourceArchive, leaf: Option<&str>) -> Result<Self, Failure> {
        let catalog = Catalog { lineages: archive.lineages().await?, ..Catalog::default() };
        let leaf_id = match leaf {
            Some(leaf) => Some(LineageId::new(leaf)?),
            None => catalog.lineages.iter().max_by_key(|lineage| lineage.ordinal).map(|lineage| lineage.id.clone()),
        };
        // An archive that knows nothing of the source proves nothing about its log. A standby waits until it does.
        let Some(leaf_id) = leaf_id else {
            let source = archive.name().as_str();
            return Err(Failure::new(ErrorKind::Unreachable, format!("source {source} has no lineage in the archive"))
                .next(format!("pitr status {source}")));
        };
        let path = catalog.path(&leaf_id).ok_or_else(|| {
            let source = archive.name().as_str();
            Failure::new(ErrorKind::Usage, format!("source {source} has no lineage {leaf_id}"))
                .next(format!("pitr list {source}"))
        })?;
        Ok(Self { path: path.into_iter().cloned().collect(), chosen: leaf.is_some() })
    }

    /// The answer to a request for `file`.
    pub async fn fetch(&self, archive: &SourceArchive, file: &WalFileName) -> Result<Answer, Failure> {
        let Some(lineage) = self.of_timeline(file.timeline()) else { return Ok(Answer::Absent) };
        match *file {
            WalFileName::Segment { timeline, log, partial } => {
                let size = segment_size(lineage)?;
                self.segment(archive, lineage, timeline, log, partial, size).await
            }
            WalFileName::History(_) => match side_file(archive, lineage.id.as_str(), file).await? {
                // Stored before its lineage was registered, so it existed. The first timeline alone has none.
                Answer::Absent if Postgres::side_file(lineage).is_some() => Err(lost(archive, file)),
                found => Ok(found),
            },
            WalFileName::Backup { .. } => {
                let system_id = lineage.facts.get(facts::SYSTEM_ID).map(String::as_str).unwrap_or_default();
                side_file(archive, &format!("backup-history-{system_id}"), file).await
            }
        }
    }

    /// Segments that follow `file` on its timeline, by name, for prefetching.
    pub fn following(&self, file: &WalFileName, count: u32) -> Result<Vec<WalFileName>, Failure> {
        let (WalFileName::Segment { timeline, log, partial: false }, Some(lineage)) =
            (file, self.of_timeline(file.timeline()))
        else {
            return Ok(Vec::new());
        };
        let size = segment_size(lineage)?;
        let Some(start) = log.start(size) else { return Ok(Vec::new()) };
        let name = |index: u32| {
            let lsn = start.advanced(u64::from(index) * size.bytes());
            WalFileName::of(PgPosition::new(*timeline, lsn), size)
        };
        Ok((0..count).map(name).collect())
    }

    /// A timeline that is not on the path is not part of this recovery, whatever else the archive holds.
    fn of_timeline(&self, timeline: TimelineId) -> Option<&Lineage<PgPosition>> {
        let text = timeline.0.to_string();
        self.path.iter().rev().find(|lineage| lineage.facts.get(facts::TIMELINE) == Some(&text))
    }

    async fn segment(
        &self,
        archive: &SourceArchive,
        lineage: &Lineage<PgPosition>,
        timeline: TimelineId,
        log: SegmentNumber,
        partial: bool,
        size: SegmentSize,
    ) -> Result<Answer, Failure> {
        let pieces = slices(timeline, log, partial, size)?;
        let Some(first) = pieces.first() else { return Ok(Answer::Absent) };
        let found = read_slices(archive, &lineage.id, &pieces).await?;
        let is_leaf = self.path.last().is_some_and(|leaf| leaf.id == lineage.id);
        let found = match found {
            Some(file) if file.len() as u64 == size.bytes() => Some(file),
            // The timeline was left in the middle of this segment: its log up to there is in the unfinished file.
            open if self.chosen && is_leaf && !partial => {
                let unfinished = slices(timeline, log, true, size)?;
                longer(archive, &lineage.id, &unfinished, open).await?
            }
            open => open,
        };
        let Some(file) = found else { return prove_absent(archive, lineage, first).await };
        // Of an open segment a standby must not believe that it is the end, where later log proves a gap.
        if (file.len() as u64) < size.bytes() && !self.chosen {
            prove_absent(archive, lineage, first).await?;
        }
        Ok(Answer::File(pad(self.up_to_fork(lineage, first, file), size)))
    }

    /// What lies behind the fork at which the path leaves this lineage is no part of the recovery: a server that finds no
    /// segment of the child would replay it all the same.
    fn up_to_fork(&self, lineage: &Lineage<PgPosition>, first: &Slice, file: Bytes) -> Bytes {
        let child = self.path.iter().skip_while(|hop| hop.id != lineage.id).nth(1);
        let Some(fork) = child.and_then(|child| child.fork.as_ref()) else { return file };
        let before = usize::try_from(fork.parent_at.lsn.since(first.start.lsn)).unwrap_or(usize::MAX);
        if before == 0 { file } else { file.slice(..file.len().min(before)) }
    }
}

/// All slices of a file as far as they go, joined: of an open file only its last one is short. `None` if it has none.
/// One that is absent before another is damage.
async fn read_slices(archive: &SourceArchive, lineage: &LineageId, pieces: &[Slice]) -> Result<Option<Bytes>, Failure> {
    let mut parts: Vec<Bytes> = Vec::with_capacity(pieces.len());
    let mut short: Option<&Slice> = None;
    for piece in pieces {
        match (archive.segment(lineage, &piece.name).await?, short) {
            (Some(_), Some(missing)) => return Err(hole(archive, &missing.name)),
            (Some(bytes), None) => {
                short = ((bytes.len() as u64) < piece.len()).then_some(piece);
                parts.push(bytes);
            }
            (None, _) => short = short.or(Some(piece)),
        }
    }
    Ok(match parts.as_slice() {
        [] => None,
        [whole] => Some(whole.clone()),
        _ => Some(Bytes::from(parts.concat())),
    })
}

/// The unfinished file that the server archived, or the tails of the same segment: whichever has more log.
async fn longer(
    archive: &SourceArchive,
    lineage: &LineageId,
    unfinished: &[Slice],
    open: Option<Bytes>,
) -> Result<Option<Bytes>, Failure> {
    let Some(file) = read_slices(archive, lineage, unfinished).await? else { return Ok(open) };
    let Some(open) = open else { return Ok(Some(file)) };
    // The file is stored with all its bytes, and its header says how many of them are log.
    let mut log = 0;
    for slice in unfinished {
        if let Some(span) = archive.segment_span::<PgPosition>(lineage, &slice.name).await? {
            log = slice.offset + span.end.lsn.since(slice.start.lsn);
        }
    }
    Ok(Some(if open.len() as u64 > log { open } else { file }))
}

/// Absent is the end of the log only if nothing later exists. Before the fork, the parent has it.
async fn prove_absent(
    archive: &SourceArchive,
    lineage: &Lineage<PgPosition>,
    first: &Slice,
) -> Result<Answer, Failure> {
    let begins_at = lineage.fork.as_ref().map_or(Lsn(0), |fork| fork.child_at.lsn);
    if first.end.lsn <= begins_at {
        return Ok(Answer::Absent);
    }
    if archive.later_segments_exist(&lineage.id, &first.name).await? {
        return Err(hole(archive, &first.name));
    }
    Ok(Answer::Absent)
}

fn hole(archive: &SourceArchive, name: &SegmentName) -> Failure {
    let source = archive.name().as_str();
    Failure::new(
        ErrorKind::Integrity,
        format!(
            "segment {} is missing from the archive, and later ones exist: this is a gap, not the end of the log",
            name.leaf()
        ),
    )
    .next(format!("pitr status {source}"))
    .next(format!("push the segment again from any machine that has it: pitr wal push --source {source} PATH"))
}

fn lost(archive: &SourceArchive, file: &WalFileName) -> Failure {
    let source = archive.name().as_str();
    let what = format!("{file} is missing from the archive, although its lineage is registered");
    Failure::new(ErrorKind::Integrity, what)
        .next(format!("push it again from any machine that has it: pitr wal push --source {source} PATH"))
}

async fn side_file(archive: &SourceArchive, namespace: &str, file: &WalFileName) -> Result<Answer, Failure> {
    let bytes = archive.get_file(namespace, &file.to_string()).await?;
    Ok(bytes.map_or(Answer::Absent, Answer::File))
}

fn pad(file: Bytes, size: SegmentSize) -> Bytes {
    let mut whole = BytesMut::from(file);
    whole.resize(usize::try_from(size.bytes()).unwrap_or(usize::MAX), 0);
    whole.freeze()
}

/// The segment size that a lineage was registered with.
pub fn segment_size(lineage: &Lineage<PgPosition>) -> Result<SegmentSize, Failure> {
    let bytes = lineage.facts.get(facts::SEGMENT_SIZE).and_then(|text| text.parse().ok());
    bytes.and_then(SegmentSize::new).ok_or_else(|| {
        Failure::new(ErrorKind::Integrity, format!("lineage {} does not say how large its segments are", lineage.id))
    })
}
