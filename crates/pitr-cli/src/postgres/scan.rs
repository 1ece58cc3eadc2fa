//! Answers what the planner needs to know: opens roll-ups and scans segments.

use pitr_archive::SourceArchive;
use pitr_core::{ErrorKind, Span};
use pitr_plan::{Answer, Need};
use pitr_postgres::scan::{Fed, Scanner};
use pitr_postgres::{PgPosition, Postgres};

use crate::failure::{During, Failure};
use crate::postgres::fetch::segment_size;

/// Fulfils one need of the planner.
pub async fn fulfil(archive: &SourceArchive, need: Need<PgPosition>) -> Result<Answer<PgPosition>, Failure> {
    match need {
        Need::Expand(span) => Ok(Answer::Segments(archive.expand::<Postgres>(&span).await?)),
        Need::Scan { segment, then } => scan(archive, &segment, then).await,
    }
}

/// Scans a segment, and as much of what follows as its last record needs.
async fn scan(
    archive: &SourceArchive,
    segment: &Span<PgPosition>,
    then: Vec<Span<PgPosition>>,
) -> Result<Answer<PgPosition>, Failure> {
    let lineages = archive.lineages().await?;
    let lineage = lineages.iter().find(|lineage| lineage.id == segment.lineage);
    let size = lineage.map(segment_size).transpose()?.ok_or_else(|| {
        Failure::new(ErrorKind::Integrity, format!("lineage {} is not registered in the archive", segment.lineage))
    })?;
    let mut scanner = Scanner::new(segment.start, segment.end, size);
    let mut rest = vec![segment.clone()];
    rest.extend(then);
    // In log order, the next one last, so that a roll-up can be replaced by its segments.
    rest.reverse();
    while let Some(next) = rest.pop() {
        if !next.is_single() {
            rest.extend(archive.expand::<Postgres>(&next).await?.into_iter().rev());
            continue;
        }
        let bytes = read(archive, &next).await?;
        let fed = scanner.feed(&bytes).map_err(|error| {
            Failure::new(ErrorKind::Integrity, format!("segment {} holds damaged log: {error}", next.first.leaf()))
        })?;
        if fed == Fed::Done {
            break;
        }
    }
    Ok(Answer::Scan(scanner.finish()))
}

/// The bytes of a span, as far as its log goes.
async fn read(archive: &SourceArchive, span: &Span<PgPosition>) -> Result<bytes::Bytes, Failure> {
    let what = || format!("reading segment {}", span.first.leaf());
    let bytes = archive.segment(&span.lineage, &span.first).await.during(what())?;
    let bytes = bytes.ok_or_else(|| {
        Failure::new(ErrorKind::Integrity, format!("segment {} is listed and cannot be found", span.first.leaf()))
            .next(format!("pitr verify {}", archive.name().as_str()))
    })?;
    // An unfinished file is stored whole; what lies behind the end of its log is no log.
    let valid = usize::try_from(span.end.lsn.since(span.start.lsn)).unwrap_or(usize::MAX);
    Ok(bytes.slice(..bytes.len().min(valid)))
}
