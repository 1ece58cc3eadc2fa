//! Reads log back, segment by segment.

use bytes::Bytes;
use pitr_archive::SourceArchive;
use pitr_core::{Engine, ErrorKind, Span};

use crate::failure::{During, Failure};

/// Stretches of log as single segments with their native bytes, in order. Roll-ups are opened on the way.
#[derive(Debug)]
pub struct LogReader<'a, E: Engine> {
    archive: &'a SourceArchive,
    /// In reverse, so that a roll-up can be replaced by its segments.
    rest: Vec<Span<E::Position>>,
}

impl<'a, E: Engine> LogReader<'a, E> {
    /// Reads these stretches, given in log order.
    pub fn new(archive: &'a SourceArchive, stretches: impl IntoIterator<Item = Span<E::Position>>) -> Self {
        let mut rest: Vec<_> = stretches.into_iter().collect();
        rest.reverse();
        Self { archive, rest }
    }

    /// The next segment; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<(Span<E::Position>, Bytes)>, Failure> {
        while let Some(next) = self.rest.pop() {
            if next.is_single() {
                let bytes = self.read(&next).await?;
                return Ok(Some((next, bytes)));
            }
            self.rest.extend(self.archive.expand::<E>(&next).await?.into_iter().rev());
        }
        Ok(None)
    }

    async fn read(&self, span: &Span<E::Position>) -> Result<Bytes, Failure> {
        let leaf = span.first.leaf();
        let bytes = self.archive.segment(&span.lineage, &span.first).await.during(format!("reading segment {leaf}"))?;
        let bytes = bytes.ok_or_else(|| {
            Failure::new(ErrorKind::Integrity, format!("segment {leaf} is listed and cannot be found"))
                .next(format!("pitr verify {}", self.archive.name().as_str()))
        })?;
        // An open segment may have grown since it was planned with.
        Ok(bytes.slice(..bytes.len().min(usize::try_from(span.bytes).unwrap_or(usize::MAX))))
    }
}

/// The failure of log that cannot be decoded.
pub fn damaged_log<P>(segment: &Span<P>, error: impl std::fmt::Display) -> Failure {
    let leaf = segment.first.leaf();
    Failure::new(ErrorKind::Integrity, format!("segment {leaf} holds damaged log: {error}"))
}
