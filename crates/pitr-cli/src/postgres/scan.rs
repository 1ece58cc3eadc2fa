//! Finds what a target can stop at.

use pitr_core::{Lineage, Scan, Span};
use pitr_postgres::scan::{Fed, Scanner};
use pitr_postgres::{PgPosition, Postgres};

use crate::failure::Failure;
use crate::log::{LogReader, damaged_log};
use crate::postgres::fetch::segment_size;

/// Scans a segment, and as much of what follows as its last record needs.
pub async fn scan(
    lineage: &Lineage<PgPosition>,
    segment: &Span<PgPosition>,
    mut log: LogReader<'_, Postgres>,
) -> Result<Scan<PgPosition>, Failure> {
    let mut scanner = Scanner::new(segment.start, segment.end, segment_size(lineage)?);
    while let Some((span, bytes)) = log.next().await? {
        // An unfinished file is stored whole; what lies behind the end of its log is no log.
        let valid = usize::try_from(span.end.lsn.since(span.start.lsn)).unwrap_or(usize::MAX);
        let fed = scanner.feed(&bytes[..bytes.len().min(valid)]).map_err(|error| damaged_log(&span, error))?;
        if fed == Fed::Done {
            break;
        }
    }
    Ok(scanner.finish())
}
