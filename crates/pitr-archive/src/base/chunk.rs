//! Chunks: how the bytes of a part are cut, and how a piece is named.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use fastcdc::v2020::{Normalization, get_gear_with_seed, select_masks};
use pitr_core::ports::Chunking;
use serde::{Deserialize, Serialize};

use super::buffers::Buffers;
use super::limits::{CONTENT_CHUNK_AVERAGE, CONTENT_CHUNK_MAX, CONTENT_CHUNK_MIN, FIXED_CHUNK};

/// Name of a chunk: the first 16 bytes of the keyed digest of its content.
///
/// 128 bits of a keyed digest cannot be made to collide by somebody who does not know the key, and do not
/// collide by chance in any archive that can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ChunkId([u8; Self::LEN]);

impl ChunkId {
    /// Bytes of a name.
    pub(crate) const LEN: usize = 16;

    /// The name that follows from the keyed digest of the content.
    pub(crate) fn from_digest(digest: &[u8; 32]) -> Self {
        let mut id = [0; Self::LEN];
        id.copy_from_slice(&digest[..Self::LEN]);
        Self(id)
    }

    /// The bytes of the name, for the table of known chunks.
    pub(crate) fn bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl From<ChunkId> for String {
    fn from(id: ChunkId) -> Self {
        hex::encode(id.0)
    }
}

impl TryFrom<String> for ChunkId {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut id = [0; Self::LEN];
        hex::decode_to_slice(text, &mut id)?;
        Ok(Self(id))
    }
}

/// Cuts the bytes of one part into chunks; where it cuts does not depend on how the bytes arrive.
#[derive(Debug)]
pub(crate) struct Cutter {
    scan: Scan,
    buffers: Arc<Buffers>,
    chunk: Vec<u8>,
}

/// Where the chunk that is being collected ends.
#[derive(Debug)]
enum Scan {
    Fixed,
    Content(Gear),
}

impl Cutter {
    /// A cutter that holds nothing; memory grows with what is pushed, up to one chunk.
    pub(crate) fn new(chunking: Chunking, buffers: Arc<Buffers>) -> Self {
        let scan = match chunking {
            Chunking::Fixed => Scan::Fixed,
            Chunking::Content => Scan::Content(Gear::new()),
        };
        Self { scan, buffers, chunk: Vec::new() }
    }

    /// Takes bytes from the front of `bytes` until a chunk is complete or nothing is left.
    pub(crate) fn push(&mut self, bytes: &mut &[u8]) -> Option<Vec<u8>> {
        if self.chunk.capacity() == 0 {
            self.chunk = self.buffers.take();
        }
        let end = match &mut self.scan {
            Scan::Fixed => FIXED_CHUNK.checked_sub(self.chunk.len()).filter(|end| *end <= bytes.len()),
            Scan::Content(gear) => gear.find(self.chunk.len(), bytes),
        };
        let (taken, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        self.chunk.extend_from_slice(taken);
        *bytes = rest;
        end.map(|_| std::mem::take(&mut self.chunk))
    }

    /// What is left once the part has ended; `None` when nothing is left.
    pub(crate) fn rest(&mut self) -> Option<Vec<u8>> {
        (!self.chunk.is_empty()).then(|| std::mem::take(&mut self.chunk))
    }
}

/// Cuts of FastCDC, found in bytes as they arrive. The library wants the whole of the longest possible chunk at
/// once, for every chunk: collecting that and moving the rest to the front copied each byte several times.
#[derive(Debug)]
struct Gear {
    table: Cow<'static, [u64]>,
    /// Of the bytes since the shortest chunk.
    hash: u64,
    /// What a cut before the usual size asks of the hash, and what one after it does.
    masks: (u64, u64),
}

impl Gear {
    fn new() -> Self {
        let (table, _) = get_gear_with_seed(0);
        Self { table, hash: 0, masks: select_masks(CONTENT_CHUNK_AVERAGE, Normalization::Level1) }
    }

    /// Where in `bytes`, which follow `length` bytes of the same chunk, the chunk ends.
    fn find(&mut self, length: usize, bytes: &[u8]) -> Option<usize> {
        let place = |size: usize| size.saturating_sub(length).min(bytes.len());
        let (min, average, max) = (place(CONTENT_CHUNK_MIN), place(CONTENT_CHUNK_AVERAGE), place(CONTENT_CHUNK_MAX));
        let end = match self.scan(bytes.get(min..average)?, self.masks.0) {
            Some(end) => Some(min + end),
            None => self.scan(bytes.get(average..max)?, self.masks.1).map(|end| average + end),
        };
        let end = end.or((length + max == CONTENT_CHUNK_MAX).then_some(max));
        if end.is_some() {
            self.hash = 0;
        }
        end
    }

    /// The first byte that begins a new chunk.
    fn scan(&mut self, bytes: &[u8], mask: u64) -> Option<usize> {
        // An array of known size needs no check at each byte.
        let table: &[u64; 256] = self.table.as_ref().try_into().ok()?;
        let mut hash = self.hash;
        let end = bytes.iter().position(|byte| {
            hash = (hash << 1).wrapping_add(table[usize::from(*byte)]);
            hash & mask == 0
        });
        self.hash = hash;
        end
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fastcdc::v2020::FastCDC;
    use proptest::prelude::*;

    use super::*;

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cut(chunking: Chunking, bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut cutter = Cutter::new(chunking, Arc::default());
        let mut chunks = Vec::new();
        for mut piece in bytes.chunks(step) {
            while !piece.is_empty() {
                chunks.extend(cutter.push(&mut piece));
            }
        }
        chunks.extend(cutter.rest());
        chunks
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn cuts_do_not_depend_on_how_the_bytes_arrive(
            len in 0_usize..5_000_000, seed: u64, step in 1_000_usize..3_000_000, content: bool,
        ) {
            let chunking = if content { Chunking::Content } else { Chunking::Fixed };
            let bytes = noise(len, seed);
            let chunks = cut(chunking, &bytes, step);
            prop_assert_eq!(&chunks, &cut(chunking, &bytes, 65_536));
            prop_assert!(chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= CONTENT_CHUNK_MAX));
            prop_assert_eq!(chunks.concat(), bytes);
        }
    }

    #[test]
    fn cuts_by_content_are_those_of_fastcdc() {
        let mut bytes = noise(12 << 20, 3);
        // Nothing to cut at: the longest chunk.
        bytes.splice(5 << 20..5 << 20, vec![0; 5 << 20]);
        let (min, average, max) = (CONTENT_CHUNK_MIN, CONTENT_CHUNK_AVERAGE, CONTENT_CHUNK_MAX);
        let expected: Vec<_> = FastCDC::new(&bytes, min, average, max).map(|chunk| chunk.length).collect();
        let lengths: Vec<_> = cut(Chunking::Content, &bytes, 99_991).iter().map(Vec::len).collect();
        assert_eq!(lengths, expected);
        assert!(lengths.contains(&max) && lengths.len() > 20, "{lengths:?}");
    }

    #[test]
    fn fixed_chunks_end_at_page_boundaries() {
        let chunks = cut(Chunking::Fixed, &noise(3 * FIXED_CHUNK + 8_192, 1), 12_345);
        let lengths: Vec<_> = chunks.iter().map(Vec::len).collect();
        assert_eq!(lengths, [FIXED_CHUNK, FIXED_CHUNK, FIXED_CHUNK, 8_192]);
    }

    #[test]
    fn an_insertion_changes_only_the_chunks_around_it_when_cut_by_content() {
        let before = noise(20 << 20, 7);
        let mut after = before.clone();
        after.splice(10 << 20..10 << 20, *b"one more row");
        let known: std::collections::HashSet<_> = cut(Chunking::Content, &before, 1 << 20).into_iter().collect();
        let new = cut(Chunking::Content, &after, 1 << 20).into_iter().filter(|chunk| !known.contains(chunk)).count();
        assert!((1..=3).contains(&new), "{new} chunks changed");
    }

    #[test]
    fn an_id_survives_its_text() {
        let id = ChunkId::from_digest(&[7; 32]);
        assert_eq!(serde_json::from_str::<ChunkId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        assert_eq!(id.to_string(), "07".repeat(16));
        assert!(serde_json::from_str::<ChunkId>("\"07\"").is_err());
    }
}
