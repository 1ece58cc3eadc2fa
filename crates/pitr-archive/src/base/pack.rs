//! Packs: chunks put together into objects that a store likes, and the list of packs of a base.

use bytes::Bytes;
use pitr_core::BaseId;
use serde::{Deserialize, Serialize};

use super::chunk::ChunkId;
use super::limits::{CONTENT_CHUNK_MAX, PACK_CHUNKS, PACK_RAW, PACK_TARGET};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::limits::PIECE_BYTES;

/// Name of a pack: the base that stored it, and a number counted from 0 within that base.
///
/// So a pack is never named twice, whoever else writes, and one that a crash left behind tells by its name
/// which base never became complete.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PackName {
    pub(crate) base: BaseId,
    pub(crate) sequence: u32,
}

impl PackName {
    /// Its object key.
    pub(crate) fn key(&self, layout: &Layout) -> String {
        layout.pack(&self.base, self.sequence)
    }
}

/// One chunk in the plain header of a pack; there it is the array `[id, raw, frame]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(ChunkId, u32, u32)", into = "(ChunkId, u32, u32)")]
pub(crate) struct PackedChunk {
    /// Its name.
    pub(crate) id: ChunkId,
    /// Bytes of its content.
    pub(crate) raw: u32,
    /// Bytes of its zstd frame.
    pub(crate) frame: u32,
}

impl From<(ChunkId, u32, u32)> for PackedChunk {
    fn from((id, raw, frame): (ChunkId, u32, u32)) -> Self {
        Self { id, raw, frame }
    }
}

impl From<PackedChunk> for (ChunkId, u32, u32) {
    fn from(chunk: PackedChunk) -> Self {
        (chunk.id, chunk.raw, chunk.frame)
    }
}

/// What the plain header of a pack says: its chunks, in the order of their frames.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PackFacts {
    pub(crate) chunks: Vec<PackedChunk>,
}

/// A pack that is being filled.
#[derive(Debug)]
pub(crate) struct PackBuilder {
    facts: PackFacts,
    frames: Vec<Bytes>,
    /// Frames that are not in `frames` yet: small ones are put together to larger pieces.
    current: Vec<u8>,
    stored: usize,
    raw: u64,
    hasher: blake3::Hasher,
}

/// A filled pack, ready to be stored.
#[derive(Debug)]
pub(crate) struct SealedPack {
    pub(crate) facts: PackFacts,
    /// All frames, in pieces.
    pub(crate) frames: Vec<Bytes>,
    /// Bytes of all chunks, uncompressed.
    pub(crate) raw_bytes: u64,
    /// Digest of all chunks, concatenated.
    pub(crate) raw_digest: [u8; 32],
}

impl PackBuilder {
    /// An empty pack; `hasher` makes the digest of its whole content.
    pub(crate) fn new(hasher: blake3::Hasher) -> Self {
        Self { facts: PackFacts::default(), frames: Vec::new(), current: Vec::new(), stored: 0, raw: 0, hasher }
    }

    /// Adds a chunk and its compressed form. No chunk exceeds [`CONTENT_CHUNK_MAX`].
    pub(crate) fn append(&mut self, id: ChunkId, raw: &[u8], frame: &[u8]) {
        debug_assert!(raw.len() <= CONTENT_CHUNK_MAX && !raw.is_empty());
        self.hasher.update(raw);
        self.raw += raw.len() as u64;
        self.facts.chunks.push(PackedChunk { id, raw: raw.len() as u32, frame: frame.len() as u32 });
        self.stored += frame.len();
        if self.current.len() + frame.len() > PIECE_BYTES && !self.current.is_empty() {
            self.frames.push(std::mem::take(&mut self.current).into());
        }
        self.current.extend_from_slice(frame);
    }

    /// True when it should be stored and another one begun.
    pub(crate) fn is_full(&self) -> bool {
        self.stored >= PACK_TARGET || self.facts.chunks.len() >= PACK_CHUNKS || self.raw >= PACK_RAW
    }

    /// Ends the pack.
    pub(crate) fn seal(mut self) -> SealedPack {
        self.frames.push(self.current.into());
        SealedPack {
            facts: self.facts,
            frames: self.frames,
            raw_bytes: self.raw,
            raw_digest: *self.hasher.finalize().as_bytes(),
        }
    }
}

/// The packs that a base refers to, in the order of their numbers. Readable without identity: it is what
/// retention and the next base need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PackList {
    /// Bases that stored the packs.
    bases: Vec<BaseId>,
    /// For each pack, the place of its base in `bases`, and its number within that base.
    packs: Vec<(u32, u32)>,
}

impl PackList {
    /// Adds a pack, returns its number.
    pub(crate) fn push(&mut self, name: PackName) -> u32 {
        let base = self.bases.iter().rposition(|base| *base == name.base).unwrap_or_else(|| {
            self.bases.push(name.base);
            self.bases.len() - 1
        });
        self.packs.push((base as u32, name.sequence));
        (self.packs.len() - 1) as u32
    }

    /// The pack with that number.
    pub(crate) fn get(&self, number: u32) -> Option<PackName> {
        let (base, sequence) = *self.packs.get(number as usize)?;
        Some(PackName { base: self.bases.get(base as usize)?.clone(), sequence })
    }

    /// Number of packs.
    pub(crate) fn len(&self) -> usize {
        self.packs.len()
    }

    /// All packs, in the order of their numbers; `key` names the list in errors.
    pub(crate) fn checked(self, key: &str) -> Result<Self> {
        match (0..self.packs.len()).find(|number| self.get(*number as u32).is_none()) {
            None => Ok(self),
            Some(number) => Err(Error::corrupt(key, format!("pack {number} names a base that is not listed"))),
        }
    }

    /// All packs, in the order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = PackName> {
        (0..self.packs.len() as u32).filter_map(|number| self.get(number))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn name(base: &str, sequence: u32) -> PackName {
        PackName { base: BaseId::new(base).unwrap(), sequence }
    }

    #[test]
    fn a_pack_list_survives_its_text() {
        let mut list = PackList::default();
        for (number, (base, sequence)) in [("b", 3), ("a", 0), ("b", 4)].into_iter().enumerate() {
            assert_eq!(list.push(name(base, sequence)), number as u32);
        }
        let text = serde_json::to_string(&list).unwrap();
        assert_eq!(text, r#"{"bases":["b","a"],"packs":[[0,3],[1,0],[0,4]]}"#);
        let read: PackList = serde_json::from_str(&text).unwrap();
        assert_eq!(read.checked("packs").unwrap(), list);
        assert_eq!(list.get(2), Some(name("b", 4)));
        assert_eq!(list.get(3), None);
    }

    #[test]
    fn a_pack_list_with_an_unknown_base_is_damaged() {
        let list: PackList = serde_json::from_str(r#"{"bases":["b"],"packs":[[0,3],[1,0]]}"#).unwrap();
        assert!(list.checked("the list").unwrap_err().to_string().contains("pack 1"));
    }

    #[test]
    fn a_pack_is_full_at_its_size_and_at_its_number_of_chunks() {
        let mut pack = PackBuilder::new(blake3::Hasher::new());
        let id = ChunkId::from_digest(&[0; 32]);
        pack.append(id, b"x", &vec![0; PACK_TARGET - 1]);
        assert!(!pack.is_full());
        pack.append(id, b"y", b"z");
        assert!(pack.is_full());
        let mut pack = PackBuilder::new(blake3::Hasher::new());
        for _ in 0..PACK_CHUNKS {
            assert!(!pack.is_full());
            pack.append(id, b"x", b"z");
        }
        assert!(pack.is_full());
        let sealed = pack.seal();
        assert_eq!(sealed.raw_bytes, PACK_CHUNKS as u64);
        assert_eq!(sealed.raw_digest, *blake3::hash(&vec![b'x'; PACK_CHUNKS]).as_bytes());
    }

    #[test]
    fn the_header_lists_a_chunk_as_id_raw_length_and_frame_length() {
        let facts =
            PackFacts { chunks: vec![PackedChunk { id: ChunkId::from_digest(&[1; 32]), raw: 8_192, frame: 77 }] };
        let text = serde_json::to_string(&facts).unwrap();
        assert_eq!(text, format!(r#"{{"chunks":[["{}",8192,77]]}}"#, "01".repeat(16)));
        assert_eq!(serde_json::from_str::<PackFacts>(&text).unwrap(), facts);
    }
}
