//! What an archive holds of binary logs: the files that its segments give when they are put together.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use pitr_archive::{Access, Archive, SourceArchive, Store};
use pitr_core::{Catalog, Engine, LineageId, Span};
use pitr_mysql::BinlogPosition;
use pitr_mysql::scan::SegmentPlace;

use crate::mysql::{Flavour, Mysql};
use crate::{Pitr, SOURCE, Streamer, limits};

/// Files by name, each with the history that it belongs to.
pub type Files = BTreeMap<(LineageId, String), Vec<u8>>;

/// The only source of an archive that is not encrypted.
pub async fn source(pitr: &Pitr) -> Result<SourceArchive> {
    let url = format!("file://{}", pitr.archive()?.display());
    let archive = Archive::open(Store::open(&url, &BTreeMap::new())?, Access::plain()).await?;
    Ok(archive.source(SOURCE)?)
}

/// The catalog of an archive.
pub async fn catalog(pitr: &Pitr, flavour: Flavour) -> Result<Catalog<BinlogPosition>> {
    let source = source(pitr).await?;
    Ok(match flavour {
        Flavour::Mysql => source.catalog::<pitr_mysql::Mysql>().await?,
        Flavour::Mariadb => source.catalog::<pitr_mysql::Mariadb>().await?,
    })
}

/// Every file that is archived, whole from its first byte, sealed segments and the open one.
pub async fn files(pitr: &Pitr, flavour: Flavour) -> Result<Files> {
    match flavour {
        Flavour::Mysql => files_of::<pitr_mysql::Mysql>(pitr).await,
        Flavour::Mariadb => files_of::<pitr_mysql::Mariadb>(pitr).await,
    }
}

async fn files_of<E: Engine<Position = BinlogPosition>>(pitr: &Pitr) -> Result<Files> {
    let source = source(pitr).await?;
    let catalog = source.catalog::<E>().await?;
    let mut files = Files::new();
    for span in catalog.spans.iter().chain(&catalog.tails) {
        for segment in source.expand::<E>(span).await? {
            append(&mut files, &source, &segment).await?;
        }
    }
    Ok(files)
}

async fn append(files: &mut Files, source: &SourceArchive, segment: &Span<BinlogPosition>) -> Result<()> {
    let place = SegmentPlace::read(&segment.facts).with_context(|| format!("odd facts: {:?}", segment.facts))?;
    let bytes = match source.segment(&segment.lineage, &segment.first).await? {
        Some(bytes) => Some(bytes),
        None => source.open_segment(&segment.lineage, &segment.first).await?,
    };
    let bytes = bytes.with_context(|| format!("{} is listed and not there", segment.first))?;
    let file = files.entry((segment.lineage.clone(), place.file.to_string())).or_default();
    // A history may begin in the middle of a file.
    if file.is_empty() {
        file.resize(usize::try_from(place.offset)?, 0);
    }
    ensure!(file.len() as u64 == place.offset, "{}: a hole before {}", place.file, place.offset);
    file.extend_from_slice(&bytes);
    Ok(())
}

/// Compares archived files of one history with the server's own, each of which must be there, whole. A file in use is
/// marked as such on disk, in one bit.
pub fn compare(server: &Mysql, files: &Files, lineage: &LineageId) -> Result<usize> {
    const FLAGS: usize = 4 + 17;
    let mut compared = 0;
    for path in server.binlogs()? {
        let name = path.file_name().context("a file has no name")?.to_string_lossy().into_owned();
        let Some(ours) = files.get(&(lineage.clone(), name.clone())) else { continue };
        let mut theirs = fs::read(&path)?;
        theirs[FLAGS] &= !1;
        ensure!(theirs.len() == ours.len(), "{name}: {} bytes on disk, {} archived", theirs.len(), ours.len());
        if let Some(at) = theirs.iter().zip(ours).position(|(a, b)| a != b) {
            bail!("{name} differs at {at}");
        }
        compared += 1;
    }
    Ok(compared)
}

/// Waits until everything that the server has written is in the archive.
pub async fn caught_up(server: &Mysql, pitr: &Pitr, streamer: &Streamer) -> Result<()> {
    let (file, end) = server.log_end()?;
    let begun = Instant::now();
    loop {
        let arrived = match catalog(pitr, server.flavour()).await {
            Ok(catalog) => catalog.spans.iter().chain(&catalog.tails).any(|span| {
                let number = file.rsplit('.').next().and_then(|number| number.parse().ok());
                Some(span.end.file) == number && span.end.offset >= end && newest(&catalog) == Some(&span.lineage)
            }),
            // The archive may not be there yet.
            Err(_) => false,
        };
        if arrived {
            return Ok(());
        }
        ensure!(begun.elapsed() < limits::ARCHIVE, "{file}:{end} was not archived\n{}", streamer.log());
        tokio::time::sleep(limits::POLL).await;
    }
}

/// The newest history.
pub fn newest(catalog: &Catalog<BinlogPosition>) -> Option<&LineageId> {
    catalog.lineages.iter().max_by_key(|lineage| lineage.ordinal).map(|lineage| &lineage.id)
}
