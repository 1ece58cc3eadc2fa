//! One source in the archive: its segments and side files.

use bytes::Bytes;
use pitr_core::ports::{SealedSegment, SegmentReader};
use pitr_core::{Facts, LineageId, PortError, Position, SegmentName, Span};

use crate::envelope::Header;
use crate::error::{Error, Result};
use crate::layout::{Layout, SourceName, leaf};
use crate::objects::{Kind, Objects, Payload, Put};
use crate::press::{Press, Pressed};
use crate::records::{self, SegmentFacts};
use crate::store::Entry;

/// The objects of one source.
///
/// # Contract
/// Everything that is put is durable when the call returns, was created once and can be put again. Of a crash
/// between two puts only whole objects stay. Reading answers `None` for what is certainly absent.
/// Lineages are put before their first segment: log of a lineage that was never put is in no catalog.
#[derive(Debug, Clone)]
pub struct SourceArchive {
    objects: Objects,
    name: SourceName,
    layout: Layout,
}

/// A side file of the log, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name within the namespace.
    pub name: String,
    /// Size of the object in bytes, as stored.
    pub stored_bytes: u64,
}

impl SourceArchive {
    pub(crate) fn new(objects: Objects, name: SourceName) -> Self {
        let layout = Layout::new(name.clone());
        Self { objects, name, layout }
    }

    /// Its name.
    pub fn name(&self) -> &SourceName {
        &self.name
    }

    /// Its keys.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The object layer.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Stores a sealed segment. The same bytes again are [`Put::Identical`]; other bytes under its name are refused.
    pub async fn put_segment<P: Position>(&self, segment: &SealedSegment<P>) -> Result<Put> {
        let facts = SegmentFacts {
            lineage: segment.lineage.clone(),
            group: segment.name.group().to_owned(),
            leaf: segment.name.leaf().to_owned(),
            start: segment.start.to_string(),
            end: segment.end.to_string(),
            commits: segment.commits.clone(),
            marks: segment.marks,
            facts: segment.facts.clone(),
        };
        let bytes = segment.bytes.len() as u64;
        self.put_segment_of::<P>(&segment.name, facts, bytes, Payload::Raw(segment.bytes.clone())).await
    }

    /// Compresses the bytes of a segment before it is put.
    pub async fn compress_segment(&self, lineage: &LineageId, name: &SegmentName, bytes: Bytes) -> Result<Payload> {
        self.objects.compress(Kind::Segment, &self.layout.segment(lineage, name), bytes).await
    }

    /// Begins to compress a segment whose bytes come in pieces.
    pub fn press(&self) -> Result<Press> {
        self.objects.press(Kind::Segment)
    }

    /// Stores a sealed segment that was compressed while it was read; `segment` is a span of one.
    pub async fn put_pressed<P: Position>(&self, segment: &Span<P>, pressed: Pressed) -> Result<Put> {
        self.put_span(segment, Payload::Pressed(pressed)).await
    }

    /// Stores a sealed segment whose content may be compressed already; `segment` is a span of one.
    pub async fn put_span<P: Position>(&self, segment: &Span<P>, payload: Payload) -> Result<Put> {
        let facts = SegmentFacts {
            lineage: segment.lineage.clone(),
            group: segment.first.group().to_owned(),
            leaf: segment.first.leaf().to_owned(),
            start: segment.start.to_string(),
            end: segment.end.to_string(),
            commits: segment.commits.clone(),
            marks: segment.marks,
            facts: segment.facts.clone(),
        };
        let bytes = payload.raw_bytes();
        self.put_segment_of::<P>(&segment.first, facts, bytes, payload).await
    }

    async fn put_segment_of<P: Position>(
        &self,
        name: &SegmentName,
        facts: SegmentFacts,
        bytes: u64,
        payload: Payload,
    ) -> Result<Put> {
        let key = self.layout.segment(&facts.lineage, name);
        // The same check that a reader makes, so that nothing is stored which cannot be read back.
        facts.clone().span::<P>(&key, bytes)?;
        self.objects.put(Kind::Segment, &key, &facts, payload).await
    }

    /// The native bytes of a segment, checked; of one that is not sealed yet, as far as its tails go. `None` if
    /// it is certainly absent.
    pub async fn segment(&self, lineage: &LineageId, name: &SegmentName) -> Result<Option<Bytes>> {
        match self.sealed_segment(lineage, name).await? {
            Some(bytes) => Ok(Some(bytes)),
            None => self.open_segment(lineage, name).await,
        }
    }

    /// The native bytes of a sealed segment, checked; `None` if it is certainly absent.
    pub async fn sealed_segment(&self, lineage: &LineageId, name: &SegmentName) -> Result<Option<Bytes>> {
        let key = self.layout.segment(lineage, name);
        let Some(object) = self.objects.get(&key).await? else { return Ok(None) };
        expect_kind(&object.header, Kind::Segment)?;
        Ok(Some(object.raw))
    }

    /// The plain header of a segment. Needs no identity.
    pub async fn segment_header(&self, lineage: &LineageId, name: &SegmentName) -> Result<Option<Header>> {
        self.objects.header(&self.layout.segment(lineage, name)).await
    }

    /// What the plain header of a segment says.
    pub async fn segment_span<P: Position>(&self, lineage: &LineageId, name: &SegmentName) -> Result<Option<Span<P>>> {
        self.segment_header(lineage, name).await?.map(|header| segment_span(&header)).transpose()
    }

    /// Names in one group by a real listing, in log order.
    pub async fn group_names(&self, lineage: &LineageId, group: &str) -> Result<Vec<SegmentName>> {
        let entries = self.objects.list(&self.layout.group(lineage, group)).await?;
        let name = |entry: &Entry| {
            SegmentName::new(group, leaf(&entry.key)).map_err(|e| Error::corrupt(&entry.key, e.to_string()))
        };
        entries.iter().map(name).collect()
    }

    /// Groups of a lineage by a real listing, in log order.
    pub async fn groups(&self, lineage: &LineageId) -> Result<Vec<String>> {
        self.objects.groups(&self.layout.log(lineage)).await
    }

    /// True if a segment later than `name` is stored, sealed or not: what tells a hole from the end of the log.
    ///
    /// Lists the group of `name` and the later ones only.
    pub async fn later_segments_exist(&self, lineage: &LineageId, name: &SegmentName) -> Result<bool> {
        let same = self.group_names(lineage, name.group()).await?;
        if same.iter().any(|other| other > name) {
            return Ok(true);
        }
        for group in self.groups(lineage).await?.iter().rev().take_while(|group| group.as_str() > name.group()) {
            // A directory may be empty, left by a crash or a pruning.
            if !self.group_names(lineage, group).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(self.last_open_name(lineage).await?.is_some_and(|last| last > *name))
    }

    /// The last segment of a lineage by name.
    pub async fn last_segment(&self, lineage: &LineageId) -> Result<Option<SegmentName>> {
        for group in self.groups(lineage).await?.iter().rev() {
            if let Some(last) = self.group_names(lineage, group).await?.pop() {
                return Ok(Some(last));
            }
        }
        Ok(None)
    }

    /// Stores a side file (`.history`, `.backup`, `.partial`) under a namespace: a lineage, or a word of the engine.
    pub async fn put_file(&self, namespace: &str, name: &str, facts: &Facts, bytes: Bytes) -> Result<Put> {
        let key = self.layout.file(namespace, name)?;
        self.objects.put(Kind::File, &key, facts, Payload::Raw(bytes)).await
    }

    /// The content of a side file.
    pub async fn get_file(&self, namespace: &str, name: &str) -> Result<Option<Bytes>> {
        let Some(object) = self.objects.get(&self.layout.file(namespace, name)?).await? else { return Ok(None) };
        expect_kind(&object.header, Kind::File)?;
        Ok(Some(object.raw))
    }

    /// The side files of a namespace.
    pub async fn list_files(&self, namespace: &str) -> Result<Vec<FileEntry>> {
        let entries = self.objects.list(&self.layout.files(namespace)?).await?;
        let file = |entry: Entry| FileEntry { name: leaf(&entry.key).to_owned(), stored_bytes: entry.bytes };
        Ok(entries.into_iter().map(file).collect())
    }
}

impl SegmentReader for SourceArchive {
    async fn segment(&self, lineage: &LineageId, name: &SegmentName) -> std::result::Result<Option<Bytes>, PortError> {
        Ok(SourceArchive::segment(self, lineage, name).await?)
    }
}

/// What the header of a segment says, as a span of one.
pub(crate) fn segment_span<P: Position>(header: &Header) -> Result<Span<P>> {
    expect_kind(header, Kind::Segment)?;
    header.facts::<records::SegmentFacts>()?.span(&header.key, header.raw_bytes)
}

/// An object of another kind under this key is damage, not something to go on with.
pub(crate) fn expect_kind(header: &Header, kind: Kind) -> Result<()> {
    if header.kind == kind {
        return Ok(());
    }
    Err(Error::corrupt(&header.key, format!("it is of kind {:?}, expected {kind:?}", header.kind)))
}
