//! Delivers what a window needs from one pack, on several threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pitr_core::PortError;
use pitr_core::ports::{PartInfo, PartTarget};

use super::chunk::ChunkId;
use super::compress::FrameDecoder;
use super::fetch::FetchedPack;
use super::limits::READ_WORKERS;
use super::packer::lock;
use super::window::{Want, Window};
use crate::error::{Error, Result};
use crate::objects::Objects;

/// The wants whose place in the target does not hold their content yet: all of them in a new restore.
pub(crate) fn differing<T: PartTarget>(
    objects: &Objects,
    window: &Window,
    wants: &[Want],
    into: &T,
) -> Result<Vec<Want>> {
    let differing = Mutex::new(Vec::new());
    in_parallel(
        wants,
        || Ok(()),
        |(), want| {
            let part = part(window, want)?;
            let found = into.read_at(part, want.offset, want.raw as usize).map_err(Error::Target)?;
            let same = |bytes: &Vec<u8>| {
                bytes.len() == want.raw as usize && ChunkId::from_digest(&objects.digest(bytes)) == want.id
            };
            if !found.as_ref().is_some_and(same) {
                lock(&differing).push(*want);
            }
            Ok(())
        },
    )?;
    let mut differing = differing.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    differing.sort_unstable();
    Ok(differing)
}

/// Writes the content of all wants, which are sorted, to their places.
pub(crate) fn deliver<T: PartTarget>(
    objects: &Objects,
    pack: &FetchedPack,
    window: &Window,
    wants: &[Want],
    into: &T,
) -> Result<()> {
    each_chunk(objects, pack, wants, |places, content| {
        let content = content?;
        for want in places {
            if content.len() != want.raw as usize {
                return Err(wrong_length(pack, want, content));
            }
            into.write_at(part(window, want)?, want.offset, content).map_err(Error::Target)?;
        }
        Ok(())
    })
}

/// An index and a pack that disagree about the length of a chunk.
pub(crate) fn wrong_length(pack: &FetchedPack, want: &Want, content: &[u8]) -> Error {
    let what = format!("chunk {} has {} bytes, the index of the base says {}", want.id, content.len(), want.raw);
    Error::corrupt(pack.key(), what)
}

/// Decodes each chunk once, however many places need it, and calls `work` with those places and the content.
pub(crate) fn each_chunk(
    objects: &Objects,
    pack: &FetchedPack,
    wants: &[Want],
    work: impl Fn(&[Want], Result<&[u8]>) -> Result<()> + Sync,
) -> Result<()> {
    let mut chunks: Vec<&[Want]> = wants.chunk_by(|a, b| a.id == b.id).collect();
    // In stored order neighbouring chunks mostly belong to one file, one after the other.
    chunks.sort_by_key(|places| places.first().and_then(|want| pack.start(&want.id)));
    let decoder = || FrameDecoder::new().map_err(|e| Error::internal(pack.key(), e));
    in_parallel(&chunks, decoder, |decoder, places| match places.first() {
        Some(want) => work(places, pack.chunk(objects, &want.id, decoder)),
        None => Ok(()),
    })
}

/// The part that a want belongs to.
pub(crate) fn part<'w>(window: &'w Window, want: &Want) -> Result<&'w PartInfo> {
    let part = window.parts.get(want.part as usize).map(|part| &part.info);
    part.ok_or_else(|| Error::Target(PortError::with_kind(pitr_core::ErrorKind::Failed, "a chunk without a part")))
}

/// Does `work` for every item, on as many threads as are useful; stops at the first error.
pub(crate) fn in_parallel<I: Sync, S>(
    items: &[I],
    begin: impl Fn() -> Result<S> + Sync,
    work: impl Fn(&mut S, &I) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let run = || {
        let mut state = begin()?;
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(&mut state, item) {
                // Nothing more for the other threads.
                next.store(items.len(), Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.min(READ_WORKERS).min(items.len());
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut outcome = run();
        for other in others {
            let done = other.join().unwrap_or_else(|_| Err(Error::internal("a pack", "a worker thread died")));
            outcome = outcome.and(done);
        }
        outcome
    })
}
