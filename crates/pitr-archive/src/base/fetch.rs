//! A pack that was read back: where its chunks are, and what they contain.

use std::collections::HashMap;

use bytes::Bytes;
use pitr_core::BaseId;

use super::chunk::ChunkId;
use super::compress::FrameDecoder;
use super::limits::CONTENT_CHUNK_MAX;
use super::pack::PackFacts;
use crate::error::{Error, Result};
use crate::objects::Objects;

/// A pack in memory: decrypted, still compressed.
#[derive(Debug)]
pub(crate) struct FetchedPack {
    key: String,
    frames: Bytes,
    places: HashMap<ChunkId, Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    start: usize,
    frame: usize,
    raw: usize,
}

impl FetchedPack {
    /// Reads the pack `key`, which `base` needs, and compares its header with its length.
    pub(crate) async fn fetch(objects: &Objects, key: String, base: &BaseId) -> Result<Self> {
        let Some((header, frames)) = objects.get_frames(&key).await? else {
            return Err(Error::Missing { key, base: base.to_string() });
        };
        let facts: PackFacts = header.facts()?;
        let mut places = HashMap::with_capacity(facts.chunks.len());
        let mut start = 0_usize;
        for chunk in facts.chunks {
            let (frame, raw) = (chunk.frame as usize, chunk.raw as usize);
            if raw > CONTENT_CHUNK_MAX {
                return Err(Error::corrupt(&key, format!("chunk {} has {raw} bytes", chunk.id)));
            }
            places.insert(chunk.id, Place { start, frame, raw });
            start = start.saturating_add(frame);
        }
        if start != frames.len() {
            return Err(Error::corrupt(
                &key,
                format!("its frames have {} bytes, its header says {start}", frames.len()),
            ));
        }
        Ok(Self { key, frames, places })
    }

    /// Its key.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Where a chunk begins in the pack, to go through chunks in the order in which they were stored.
    pub(crate) fn start(&self, id: &ChunkId) -> Option<usize> {
        self.places.get(id).map(|place| place.start)
    }

    /// The content of a chunk, checked against its name.
    pub(crate) fn chunk<'d>(&self, objects: &Objects, id: &ChunkId, decoder: &'d mut FrameDecoder) -> Result<&'d [u8]> {
        let damaged = |what: String| Error::corrupt(&self.key, format!("chunk {id}: {what}"));
        let place = self.places.get(id).ok_or_else(|| damaged("it is not in this pack".to_owned()))?;
        let frame = self.frames.get(place.start..place.start + place.frame).unwrap_or_default();
        let raw = decoder.decode(frame, place.raw).map_err(|e| damaged(e.to_string()))?;
        if ChunkId::from_digest(&objects.digest(raw)) != *id {
            return Err(damaged("its content does not have this digest".to_owned()));
        }
        Ok(raw)
    }
}
