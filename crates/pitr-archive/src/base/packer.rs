//! Fills packs, and stores one while the next is filled.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pitr_core::BaseId;
use tokio::task::JoinSet;

use super::chunk::ChunkId;
use super::dedup::Dedup;
use super::limits::UPLOADS;
use super::pack::{PackBuilder, PackName, SealedPack};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::objects::{Kind, Objects, Payload, Put};
use crate::press::Pressed;

/// Puts new chunks into packs.
#[derive(Debug)]
pub(crate) struct Packer {
    objects: Objects,
    layout: Layout,
    base: BaseId,
    /// Number of the next pack.
    sequence: u32,
    current: Option<Filling>,
    uploads: JoinSet<Result<u64>>,
    stored: u64,
}

#[derive(Debug)]
struct Filling {
    name: PackName,
    place: u32,
    pack: PackBuilder,
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Number of its pack in the base.
    pub(crate) pack: u32,
    /// False if the same chunk had come in while this one was being compressed.
    pub(crate) new: bool,
}

impl Packer {
    /// A packer for the packs of one base.
    pub(crate) fn new(objects: Objects, layout: &Layout, base: &BaseId) -> Self {
        let (layout, base) = (layout.clone(), base.clone());
        Self { objects, layout, base, sequence: 0, current: None, uploads: JoinSet::new(), stored: 0 }
    }

    /// Adds a chunk to the current pack; waits if the pack is full and the store is still busy with the last.
    pub(crate) async fn add(&mut self, dedup: &Mutex<Dedup>, id: ChunkId, raw: &[u8], frame: &[u8]) -> Result<Packed> {
        let (pack, new) = self.place(&mut lock(dedup), id);
        if !new {
            return Ok(Packed { pack, new });
        }
        let full = self.current.as_mut().is_some_and(|filling| {
            filling.pack.append(id, raw, frame);
            filling.pack.is_full()
        });
        if full {
            self.ship().await?;
        }
        Ok(Packed { pack, new })
    }

    /// Decides where the chunk goes; after this it counts as known.
    fn place(&mut self, dedup: &mut Dedup, id: ChunkId) -> (u32, bool) {
        if let Some(pack) = dedup.refer(&id) {
            return (pack, false);
        }
        let filling = self.current.get_or_insert_with(|| {
            let name = PackName { base: self.base.clone(), sequence: self.sequence };
            self.sequence += 1;
            let place = dedup.add_pack(&name);
            Filling { name, place, pack: PackBuilder::new(self.objects.hasher(Kind::Pack)) }
        });
        dedup.add_chunk(id, filling.place);
        (dedup.number(filling.place), true)
    }

    /// Stores what is left and waits for all uploads; returns the bytes that all packs take in the store.
    pub(crate) async fn finish(&mut self) -> Result<u64> {
        self.ship().await?;
        self.wait_for_uploads(0).await?;
        Ok(self.stored)
    }

    async fn ship(&mut self) -> Result<()> {
        let Some(filling) = self.current.take() else { return Ok(()) };
        self.wait_for_uploads(UPLOADS - 1).await?;
        let (objects, key) = (self.objects.clone(), filling.name.key(&self.layout));
        self.uploads.spawn(async move { upload(&objects, &key, filling.pack.seal()).await });
        Ok(())
    }

    /// Waits until at most `left` uploads are under way.
    async fn wait_for_uploads(&mut self, left: usize) -> Result<()> {
        while self.uploads.len() > left {
            if let Some(done) = self.uploads.join_next().await {
                self.stored += done.map_err(|e| Error::internal(self.base.as_str(), e))??;
            }
        }
        Ok(())
    }
}

async fn upload(objects: &Objects, key: &str, pack: SealedPack) -> Result<u64> {
    let SealedPack { facts, frames, raw_bytes, raw_digest } = pack;
    // Each frame was decoded again when it was made.
    let payload = Payload::Pressed(Pressed { kind: Kind::Pack, frames, raw_bytes, raw_digest });
    match objects.put(Kind::Pack, key, &facts, payload).await? {
        Put::Stored { stored_bytes } => Ok(stored_bytes),
        // Only a repetition of our own request, whose first answer was lost, finds the same pack there.
        Put::Identical => Ok(0),
    }
}

/// A lock whose holder died leaves the table as it was between two insertions.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
