//! The index of a base: which chunks make up which part, as lines of JSON.
//!
//! A base of any size has an index of any size, so it is written and read in pieces: a full buffer becomes
//! one object, and a part with many chunks goes on over several lines.

use bytes::Bytes;
use pitr_core::BaseId;
use pitr_core::ports::PartInfo;
use serde::{Deserialize, Serialize};

use super::chunk::ChunkId;
use super::limits::INDEX_OBJECT;
use super::manifest::IndexDigest;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::objects::{Kind, Objects, Payload, Put};

/// Where the content of a piece of a part is; in the index it is the array `[pack, id, raw]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, ChunkId, u32)", into = "(u32, ChunkId, u32)")]
pub(crate) struct ChunkRef {
    /// Number of the pack in the base's list.
    pub(crate) pack: u32,
    /// Name of the chunk.
    pub(crate) id: ChunkId,
    /// Bytes of its content.
    pub(crate) raw: u32,
}

impl From<(u32, ChunkId, u32)> for ChunkRef {
    fn from((pack, id, raw): (u32, ChunkId, u32)) -> Self {
        Self { pack, id, raw }
    }
}

impl From<ChunkRef> for (u32, ChunkId, u32) {
    fn from(chunk: ChunkRef) -> Self {
        (chunk.pack, chunk.id, chunk.raw)
    }
}

/// One line of the index: a part, or a stretch of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Number of the part, counted from 0 in the order in which parts were opened.
    pub(crate) part: u64,
    /// The part itself, repeated on each of its lines.
    #[serde(flatten)]
    pub(crate) info: PartInfo,
    /// Offset of the first chunk of this line, in bytes.
    pub(crate) at: u64,
    /// Bytes of all chunks of this line.
    pub(crate) bytes: u64,
    /// True if the part ends here.
    pub(crate) last: bool,
    /// The chunks, without hole from `at` on.
    pub(crate) chunks: Vec<ChunkRef>,
}

impl Line {
    /// The first line of a part, still empty.
    pub(crate) fn first(part: u64, info: PartInfo) -> Self {
        Self { part, info, at: 0, bytes: 0, last: false, chunks: Vec::new() }
    }

    /// Adds the chunk that follows.
    pub(crate) fn push(&mut self, chunk: ChunkRef) {
        self.bytes += u64::from(chunk.raw);
        self.chunks.push(chunk);
    }

    /// Offset after the last chunk.
    pub(crate) fn end(&self) -> u64 {
        self.at.saturating_add(self.bytes)
    }

    /// Makes this the line that follows, still empty.
    pub(crate) fn advance(&mut self) {
        self.at = self.end();
        self.bytes = 0;
        self.chunks.clear();
    }

    /// Reads one line of the index object `key`.
    pub(crate) fn parse(key: &str, text: &[u8]) -> Result<Self> {
        let line: Self = serde_json::from_slice(text).map_err(|e| Error::corrupt(key, format!("index line: {e}")))?;
        let bytes: u64 = line.chunks.iter().map(|chunk| u64::from(chunk.raw)).sum();
        if bytes != line.bytes || line.at.checked_add(bytes).is_none() {
            return Err(Error::corrupt(key, format!("index line of part {}: lengths do not add up", line.part)));
        }
        Ok(line)
    }
}

/// What the plain header of an index object says: nothing about the parts.
#[derive(Debug, Serialize)]
struct IndexFacts {
    number: usize,
    lines: u64,
}

/// Collects lines and stores them, one object for each full buffer.
#[derive(Debug)]
pub(crate) struct IndexWriter {
    objects: Objects,
    layout: Layout,
    base: BaseId,
    buffer: Vec<u8>,
    lines: u64,
    summary: IndexSummary,
}

/// What the manifest says of the index.
#[derive(Debug, Clone, Default)]
pub(crate) struct IndexSummary {
    pub(crate) objects: Vec<IndexDigest>,
    /// Finished parts.
    pub(crate) parts: u64,
    pub(crate) chunks: u64,
    pub(crate) bytes: u64,
    /// Number and length of each part that takes several lines, since a reader must know the length first.
    pub(crate) long_parts: Vec<(u64, u64)>,
    /// Bytes that the index takes in the store.
    pub(crate) stored: u64,
}

impl IndexWriter {
    /// An empty index.
    pub(crate) fn new(objects: Objects, layout: &Layout, base: &BaseId) -> Self {
        let (layout, base) = (layout.clone(), base.clone());
        Self { objects, layout, base, buffer: Vec::new(), lines: 0, summary: IndexSummary::default() }
    }

    /// Adds a line; stores the lines so far if they are many.
    pub(crate) async fn add(&mut self, line: &Line) -> Result<()> {
        let failed = |e| Error::internal(&self.layout.base_index(&self.base, self.summary.objects.len()), e);
        serde_json::to_writer(&mut self.buffer, line).map_err(failed)?;
        self.buffer.push(b'\n');
        self.lines += 1;
        self.summary.chunks += line.chunks.len() as u64;
        self.summary.bytes += line.bytes;
        if line.last {
            self.summary.parts += 1;
            if line.at > 0 {
                self.summary.long_parts.push((line.part, line.end()));
            }
        }
        if self.buffer.len() >= INDEX_OBJECT {
            self.store().await?;
        }
        Ok(())
    }

    /// Stores what is left.
    pub(crate) async fn finish(&mut self) -> Result<IndexSummary> {
        if !self.buffer.is_empty() {
            self.store().await?;
        }
        Ok(self.summary.clone())
    }

    async fn store(&mut self) -> Result<()> {
        let number = self.summary.objects.len();
        let key = self.layout.base_index(&self.base, number);
        let raw = Bytes::from(std::mem::take(&mut self.buffer));
        let digest = self.objects.digest(&raw);
        self.summary.objects.push(IndexDigest { bytes: raw.len() as u64, digest: hex::encode(digest) });
        let facts = IndexFacts { number, lines: std::mem::take(&mut self.lines) };
        if let Put::Stored { stored_bytes } = self.objects.put(Kind::BaseIndex, &key, &facts, Payload::Raw(raw)).await?
        {
            self.summary.stored += stored_bytes;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pitr_core::ports::{Chunking, PartKind};

    use super::*;

    fn line() -> Line {
        let info = PartInfo { path: "base/5/1259".into(), kind: PartKind::File(Chunking::Fixed), mode: Some(0o600) };
        let mut line = Line::first(7, info);
        line.push(ChunkRef { pack: 3, id: ChunkId::from_digest(&[1; 32]), raw: 524_288 });
        line.push(ChunkRef { pack: 0, id: ChunkId::from_digest(&[2; 32]), raw: 8_192 });
        line
    }

    #[test]
    fn a_line_has_the_form_that_the_format_page_shows() {
        let text = serde_json::to_string(&line()).unwrap();
        let (one, two) = ("01".repeat(16), "02".repeat(16));
        assert_eq!(
            text,
            format!(
                r#"{{"part":7,"path":"base/5/1259","kind":{{"file":"fixed"}},"mode":384,"at":0,"bytes":532480,"last":false,"chunks":[[3,"{one}",524288],[0,"{two}",8192]]}}"#
            )
        );
        assert_eq!(Line::parse("key", text.as_bytes()).unwrap(), line());
    }

    #[test]
    fn a_line_whose_lengths_do_not_add_up_is_damaged() {
        let text = serde_json::to_string(&line()).unwrap();
        for bad in [text.replace("532480", "532481"), text.replace("\"at\":0", &format!("\"at\":{}", u64::MAX))] {
            let error = Line::parse("the index", bad.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("part 7"), "{error}");
        }
        assert!(Line::parse("key", &text.as_bytes()[1..]).is_err());
    }

    #[test]
    fn a_part_goes_on_where_its_last_line_ended() {
        let mut line = line();
        line.advance();
        assert_eq!((line.at, line.bytes, line.chunks.len()), (532_480, 0, 0));
        assert_eq!(line.end(), 532_480);
    }
}
