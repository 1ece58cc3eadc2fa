//! Takes a base in: parts become chunks, chunks become packs, and a manifest at the end makes it exist.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pitr_core::ports::{BackupRecord, PartInfo, PartSink};
use pitr_core::{Base, BaseId, PortError, Position};

use super::dedup::Dedup;
use super::intake::Intake;
use super::learn::learn;
use super::limits::{REUSED_BASES, WRITE_WORKERS};
use super::manifest::{Contents, ManifestFacts, new_base_id};
use super::part::Part;
use crate::error::Result;
use crate::layout::{Layout, SourceName};
use crate::limits::{ZSTD_LEVEL_OF_PAGES, ZSTD_LEVEL_OF_ROWS};
use crate::objects::Objects;

/// How a base is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseOptions {
    /// Threads that digest and compress.
    pub workers: usize,
    /// zstd level of chunks.
    pub level: i32,
    /// Newest complete bases whose packs are reused; 0 stores everything again.
    pub reuse: usize,
}

/// For a base of files of pages.
impl Default for BaseOptions {
    fn default() -> Self {
        Self { workers: WRITE_WORKERS, level: ZSTD_LEVEL_OF_PAGES, reuse: REUSED_BASES }
    }
}

impl BaseOptions {
    /// For a base of rows or documents, one after the other.
    pub fn of_rows() -> Self {
        Self { level: ZSTD_LEVEL_OF_ROWS, ..Self::default() }
    }
}

/// What writing a base came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseWritten<P> {
    /// The base, as the catalog shows it from now on.
    pub base: Base<P>,
    /// Number of parts, directories included.
    pub parts: u64,
    /// Number of chunks that the parts consist of.
    pub chunks: u64,
    /// Of the base's bytes, how many were found in the archive and not stored again.
    pub reused: u64,
}

/// A base on its way into the archive.
///
/// # Contract
/// Nothing of it is visible before [`BaseWriter::commit`] returns. Dropped before that, it leaves packs and
/// index objects behind that no manifest refers to, for a later sweep. Must be used inside a tokio runtime.
#[derive(Debug)]
pub struct BaseWriter {
    intake: Arc<Intake>,
}

impl BaseWriter {
    /// Begins a base of `source` under a fresh name, and learns what can be reused.
    pub async fn begin(objects: &Objects, source: &str, options: &BaseOptions) -> Result<Self> {
        let layout = Layout::new(SourceName::new(source)?);
        let id = new_base_id()?;
        let mut dedup = Dedup::new();
        learn(objects, &layout, options.reuse, &mut dedup).await?;
        Ok(Self { intake: Arc::new(Intake::new(objects, layout, id, options, dedup)) })
    }

    /// Name of the base.
    pub fn id(&self) -> &BaseId {
        &self.intake.id
    }

    /// Bytes taken in so far, for progress.
    pub fn bytes(&self) -> u64 {
        self.intake.tally.bytes.load(Ordering::Relaxed)
    }

    /// Makes the base exist: waits until every byte of it is durable, then writes the manifest.
    ///
    /// # Errors
    /// An earlier failure of any part, a part that was opened and not finished, or the store's.
    pub async fn commit<P: Position>(self, record: BackupRecord<P>) -> Result<BaseWritten<P>> {
        let intake = &self.intake;
        intake.wait_for_parts().await?;
        let packed = intake.packer.lock().await.finish().await?;
        let index = intake.index.lock().await.finish().await?;
        let opened = intake.tally.opened.load(Ordering::Relaxed);
        if index.parts != opened {
            return Err(intake.refuse(format!("{} of {opened} parts were not finished", opened - index.parts)));
        }
        let (listed, packs) = intake.store_packs().await?;
        let stored = packed + index.stored + listed;
        let facts = ManifestFacts::new(intake.id.clone(), &record, index.bytes, stored);
        let contents = Contents {
            parts: index.parts,
            chunks: index.chunks,
            index: index.objects,
            packs,
            long_parts: index.long_parts,
        };
        // Last: from here on the base exists.
        intake.store_manifest(&facts, &contents).await?;
        Ok(BaseWritten {
            base: facts.into_base(intake.id.as_str())?,
            parts: contents.parts,
            chunks: contents.chunks,
            reused: intake.tally.reused.load(Ordering::Relaxed),
        })
    }
}

impl PartSink for BaseWriter {
    type Part = Part;

    async fn open(&self, info: PartInfo) -> std::result::Result<Part, PortError> {
        Part::open(&self.intake, info).await.map_err(PortError::new)
    }
}
