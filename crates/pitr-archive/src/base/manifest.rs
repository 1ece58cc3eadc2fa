//! The manifest: the object that makes a base exist. It is written last.

use chrono::Utc;
use futures::stream::{self, StreamExt, TryStreamExt};
use pitr_core::ports::BackupRecord;
use pitr_core::{Base, BaseId, Engine, Facts, LineageId, Position, Timestamp};
use serde::{Deserialize, Serialize};

use super::limits::HEADER_READS;
use crate::error::{Error, Result};
use crate::layout::{Layout, SourceName};
use crate::objects::Objects;

/// A fresh name: a label for people, with enough chance in it that two bases begun in one second differ.
pub(crate) fn new_base_id() -> Result<BaseId> {
    Ok(BaseId::new(format!("{}-{:04x}", Utc::now().format("%Y%m%dT%H%M%SZ"), rand::random::<u16>()))?)
}

/// What the plain header of a manifest says: a [`Base`], its positions as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestFacts {
    base: BaseId,
    lineage: LineageId,
    start: String,
    consistent: String,
    taken_from: Timestamp,
    taken_to: Timestamp,
    bytes: u64,
    stored: u64,
    facts: Facts,
}

impl ManifestFacts {
    /// From what the engine and the writer say.
    pub(crate) fn new<P: Position>(base: BaseId, record: &BackupRecord<P>, bytes: u64, stored: u64) -> Self {
        Self {
            base,
            lineage: record.lineage.clone(),
            start: record.start.to_string(),
            consistent: record.consistent.to_string(),
            taken_from: record.taken.0,
            taken_to: record.taken.1,
            bytes,
            stored,
            facts: record.facts.clone(),
        }
    }

    /// The base that they describe; `key` names the manifest in errors.
    pub(crate) fn into_base<P: Position>(self, key: &str) -> Result<Base<P>> {
        let position = |text: &str| text.parse::<P>().map_err(|e| Error::corrupt(key, e.to_string()));
        Ok(Base {
            start: position(&self.start)?,
            consistent: position(&self.consistent)?,
            id: self.base,
            lineage: self.lineage,
            taken: (self.taken_from, self.taken_to),
            bytes: self.bytes,
            stored: self.stored,
            facts: self.facts,
        })
    }
}

/// The payload of a manifest: what a reader needs to check that nothing of the base is missing or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contents {
    /// Number of parts.
    pub(crate) parts: u64,
    /// Number of chunk references.
    pub(crate) chunks: u64,
    /// Objects of the index, in order.
    pub(crate) index: Vec<IndexDigest>,
    /// Keyed digest of the list of packs, in hex.
    pub(crate) packs: String,
    /// Number and length of each part that takes several lines of the index.
    pub(crate) long_parts: Vec<(u64, u64)>,
}

/// One object of the index, as the manifest knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexDigest {
    /// Bytes of its content.
    pub(crate) bytes: u64,
    /// Keyed digest of its content, in hex.
    pub(crate) digest: String,
}

/// Names of everything that is called a base in the listing, complete or not.
pub(crate) async fn names(objects: &Objects, layout: &Layout) -> Result<Vec<BaseId>> {
    let groups = objects.groups(&layout.bases()).await?;
    // Something that is no base name was not written by this program, and is no base.
    Ok(groups.iter().filter_map(|name| BaseId::new(name.as_str()).ok()).collect())
}

/// The complete bases of a source: those with a manifest. Reads one header for each.
///
/// # Errors
/// A manifest that cannot be read or understood is an error that names it: a base is never left out silently.
pub async fn list<E: Engine>(objects: &Objects, source: &str) -> Result<Vec<Base<E::Position>>> {
    let layout = &Layout::new(SourceName::new(source)?);
    let mut bases: Vec<Base<E::Position>> = stream::iter(names(objects, layout).await?)
        .map(|id| async move {
            let key = layout.manifest(&id);
            let Some(header) = objects.header(&key).await? else { return Ok(None) };
            let facts: ManifestFacts = header.facts()?;
            if facts.base != id {
                return Err(Error::corrupt(&key, format!("it is the manifest of base {}", facts.base)));
            }
            facts.into_base::<E::Position>(&key).map(Some)
        })
        .buffer_unordered(HEADER_READS)
        .try_filter_map(|base| async move { Ok(base) })
        .try_collect()
        .await?;
    bases.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(bases)
}
