//! Finds what a target can stop at.

use pitr_core::{ErrorKind, Scan, Span};
use pitr_mysql::BinlogPosition;
use pitr_mysql::scan::{Fed, Scanner, SegmentPlace};

use crate::engine::Product;
use crate::failure::Failure;
use crate::log::{LogReader, damaged_log};

/// Scans a segment, and as much of what follows as its last transaction needs.
pub async fn scan<E: Product<Position = BinlogPosition>>(
    segment: &Span<BinlogPosition>,
    mut log: LogReader<'_, E>,
) -> Result<Scan<BinlogPosition>, Failure> {
    let mut scanner = Scanner::new(segment.end.incarnation, &place(segment)?);
    while let Some((span, bytes)) = log.next().await? {
        let fed = scanner.feed(&place(&span)?, &bytes).map_err(|error| damaged_log(&span, error))?;
        if fed == Fed::Done {
            break;
        }
    }
    Ok(scanner.finish())
}

fn place(span: &Span<BinlogPosition>) -> Result<SegmentPlace, Failure> {
    SegmentPlace::read(&span.facts).ok_or_else(|| {
        Failure::new(ErrorKind::Integrity, format!("segment {} does not say where it belongs", span.first.leaf()))
    })
}
