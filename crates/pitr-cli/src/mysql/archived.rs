//! What the archive has of a server's log, in the words of the engine, and registering what comes.

use pitr_archive::SourceArchive;
use pitr_core::{Catalog, Lineage, LineageId, Span};
use pitr_mysql::BinlogPosition;
use pitr_mysql::dump::Replica;
use pitr_mysql::engine::facts;
use pitr_mysql::limits::MAX_KNOWN_CUTS;
use pitr_mysql::stream::{Archived, Cut, Found};

use crate::engine::{Product, Site};
use crate::failure::{During, Failure};

/// What a connection to the server is for. Each has an identity of its own, since a server ends the connection of a
/// replica when another one of the same identity comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To stream the log.
    Stream,
    /// To look into it.
    Look,
}

/// As whom we ask the server of a source for its log: always the same for the same source, configured number and purpose.
pub fn replica(site: &Site<'_>, purpose: Purpose) -> Replica {
    let label = match purpose {
        Purpose::Stream => "stream",
        Purpose::Look => "look",
    };
    let mut text = format!("pitr {label} {}", site.name);
    // MySQL tells replicas apart by their UUID first: two that stream into two archives need two of them.
    if let Some(id) = site.source.server_id {
        text.push_str(&format!(" {id}"));
    }
    let digest = blake3::hash(text.as_bytes());
    let number = |at: usize| digest.as_bytes().iter().skip(at).take(4).fold(0, |n, byte| n << 8 | u32::from(*byte));
    // Far above what people choose, so that it meets no server's.
    let derived = 0x7000_0000 | (number(0) & 0x0FFF_FFFF);
    let server_id = match (site.source.server_id, purpose) {
        (Some(id), Purpose::Stream) => id,
        _ => derived,
    };
    let hex = digest.to_hex();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default().to_owned();
    let uuid = format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32));
    Replica { server_id, uuid, confirms: purpose == Purpose::Stream && site.source.semi_sync }
}

/// The newest history of a source; `None` if it has none.
pub async fn archived<E: Product<Position = BinlogPosition>>(
    archive: &SourceArchive,
) -> Result<Option<Archived>, Failure> {
    let catalog = archive.catalog::<E>().await?;
    let Some(lineage) = catalog.lineages.iter().max_by_key(|lineage| lineage.ordinal) else { return Ok(None) };
    let Some(incarnation) = lineage.facts.get(facts::INCARNATION).and_then(|text| text.parse().ok()) else {
        return Ok(None);
    };
    let segments = newest_segments::<E>(archive, &catalog, lineage).await?;
    let of_lineage = |span: &&Span<BinlogPosition>| span.lineage == lineage.id;
    let tail = catalog.tails.iter().rfind(of_lineage);
    let cut = |span: &Span<BinlogPosition>| {
        Cut::read(span.end, &span.facts).map(|cut| Cut { reaches: span.commits.reaches, ..cut })
    };
    let sealed = segments.first().and_then(cut);
    let cuts = tail.into_iter().chain(&segments).filter_map(cut).collect();
    Ok(Some(Archived {
        lineage: lineage.id.clone(),
        incarnation,
        facts: lineage.facts.clone(),
        cuts,
        sealed,
        open_start: tail.map(|tail| tail.start),
        base: begin_of(&catalog, lineage),
    }))
}

/// The last segments of a history, newest first.
async fn newest_segments<E: Product<Position = BinlogPosition>>(
    archive: &SourceArchive,
    catalog: &Catalog<BinlogPosition>,
    lineage: &Lineage<BinlogPosition>,
) -> Result<Vec<Span<BinlogPosition>>, Failure> {
    let mut segments = Vec::new();
    for span in catalog.spans.iter().rev().filter(|span| span.lineage == lineage.id) {
        if segments.len() >= MAX_KNOWN_CUTS {
            break;
        }
        segments.extend(archive.expand::<E>(span).await?.into_iter().rev());
    }
    segments.truncate(MAX_KNOWN_CUTS);
    Ok(segments)
}

/// Where a history begins of which there is no log yet: at its fork, or where its first base needs it.
fn begin_of(catalog: &Catalog<BinlogPosition>, lineage: &Lineage<BinlogPosition>) -> Option<BinlogPosition> {
    let bases = catalog.bases.iter().filter(|base| base.lineage == lineage.id).map(|base| base.start);
    let fork = lineage.fork.as_ref().map(|fork| fork.child_at);
    bases.chain(fork).min_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal))
}

/// Registers the history that was found, and records the gap before it.
pub async fn register<E: Product<Position = BinlogPosition>>(
    archive: &SourceArchive,
    found: &Found,
) -> Result<LineageId, Failure> {
    if let Some(history) = &found.new {
        let registered = archive.put_lineage(&history.id, history.fork.as_ref(), &history.facts).await;
        registered.during(format!("registering lineage {}", history.id))?;
    }
    if let Some(gap) = &found.gap {
        archive.put_gap(gap).await?;
    }
    Ok(found.lineage.clone())
}
