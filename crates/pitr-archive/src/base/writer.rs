//! Takes a base in: parts become chunks, chunks become packs, and a manifest at the end makes it exist.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use pitr_core::ports::{BackupRecord, PartInfo, PartSink};
use pitr_core::{Base, BaseId, PortError, Position};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::buffers::Buffers;
use super::chunk::ChunkId;
use super::compress::Compressors;
use super::dedup::Dedup;
use super::index::{ChunkRef, IndexWriter, Line};
use super::limits::{CHUNKS_IN_FLIGHT, HEADER_READS, OPEN_FILES, REUSED_BASES, WRITE_WORKERS};
use super::manifest::{self, Contents, ManifestFacts, new_base_id};
use super::pack::{PackFacts, PackList};
use super::packer::{Packer, lock};
use super::part::Part;
use crate::error::{Error, Result};
use crate::layout::{Layout, SourceName};
use crate::limits::ZSTD_LEVEL;
use crate::objects::{Kind, Objects, Payload, Put};

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

impl Default for BaseOptions {
    fn default() -> Self {
        Self { workers: WRITE_WORKERS, level: ZSTD_LEVEL, reuse: REUSED_BASES }
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
        self.intake.bytes.load(Ordering::Relaxed)
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
        let opened = intake.opened.load(Ordering::Relaxed);
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
            reused: intake.reused.load(Ordering::Relaxed),
        })
    }
}

impl PartSink for BaseWriter {
    type Part = Part;

    async fn open(&self, info: PartInfo) -> std::result::Result<Part, PortError> {
        Part::open(&self.intake, info).await.map_err(PortError::new)
    }
}

/// Learns the chunks of the newest complete bases, newest first, until the table is full.
async fn learn(objects: &Objects, layout: &Layout, bases: usize, dedup: &mut Dedup) -> Result<()> {
    let mut names = manifest::names(objects, layout).await?;
    // A label's time is no order to rely on; here it only chooses what is more likely to be found again.
    names.sort_by(|a, b| b.cmp(a));
    let mut reused = 0;
    for base in names {
        if reused == bases || dedup.is_full() {
            break;
        }
        // Only packs of a complete base may be referred to: others may be swept at any time.
        if objects.header(&layout.manifest(&base)).await?.is_none() {
            continue;
        }
        learn_base(objects, layout, &base, dedup).await?;
        reused += 1;
    }
    Ok(())
}

async fn learn_base(objects: &Objects, layout: &Layout, base: &BaseId, dedup: &mut Dedup) -> Result<()> {
    let Some(list) = read_packs(objects, &layout.base_packs(base)).await? else {
        tracing::warn!(%base, "the list of packs is missing: nothing of this base is reused");
        return Ok(());
    };
    let mut headers = stream::iter(list.iter())
        .map(|name| async move { (objects.header(&name.key(layout)).await, name) })
        .buffered(HEADER_READS);
    while let Some((header, name)) = headers.next().await {
        let Some(header) = header? else {
            tracing::warn!(pack = name.key(layout), "a pack is missing: its chunks are stored again");
            continue;
        };
        let place = dedup.add_pack(&name);
        for chunk in header.facts::<PackFacts>()?.chunks {
            dedup.add_chunk(chunk.id, place);
        }
        if dedup.is_full() {
            break;
        }
    }
    Ok(())
}

/// The list of packs of a base, checked; `None` if it is absent.
pub(crate) async fn read_packs(objects: &Objects, key: &str) -> Result<Option<PackList>> {
    let Some(object) = objects.get(key).await? else { return Ok(None) };
    let list: PackList =
        serde_json::from_slice(&object.raw).map_err(|e| Error::corrupt(key, format!("list of packs: {e}")))?;
    list.checked(key).map(Some)
}

/// What all open parts of a base share.
#[derive(Debug)]
pub(crate) struct Intake {
    objects: Objects,
    layout: Layout,
    id: BaseId,
    compressors: Compressors,
    buffers: Arc<Buffers>,
    workers: Semaphore,
    chunks: Arc<Semaphore>,
    files: Arc<Semaphore>,
    dedup: Mutex<Dedup>,
    packer: tokio::sync::Mutex<Packer>,
    index: tokio::sync::Mutex<IndexWriter>,
    finishing: Mutex<JoinSet<Result<()>>>,
    failure: Mutex<Failure>,
    opened: AtomicU64,
    bytes: AtomicU64,
    reused: AtomicU64,
}

/// The first failure of any part: reported once with its cause, and by name from then on.
#[derive(Debug)]
enum Failure {
    None,
    First(Error),
    Reported,
}

/// A chunk after the work of a thread: where it is, or its frame.
enum Digested {
    Known(u32),
    New(Vec<u8>),
}

impl Intake {
    fn new(objects: &Objects, layout: Layout, id: BaseId, options: &BaseOptions, dedup: Dedup) -> Self {
        Self {
            packer: tokio::sync::Mutex::new(Packer::new(objects.clone(), &layout, &id)),
            index: tokio::sync::Mutex::new(IndexWriter::new(objects.clone(), &layout, &id)),
            objects: objects.clone(),
            layout,
            id,
            compressors: Compressors::new(options.level),
            buffers: Arc::default(),
            workers: Semaphore::new(options.workers.max(1)),
            chunks: Arc::new(Semaphore::new(CHUNKS_IN_FLIGHT)),
            files: Arc::new(Semaphore::new(OPEN_FILES)),
            dedup: Mutex::new(dedup),
            finishing: Mutex::new(JoinSet::new()),
            failure: Mutex::new(Failure::None),
            opened: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            reused: AtomicU64::new(0),
        }
    }

    /// Buffers for chunks.
    pub(crate) fn buffers(&self) -> &Arc<Buffers> {
        &self.buffers
    }

    /// The number of a part that is being opened.
    pub(crate) fn number(&self) -> u64 {
        self.opened.fetch_add(1, Ordering::Relaxed)
    }

    /// A place for an open file; an error when there is none, since whoever waits may hold all of them.
    pub(crate) fn open_file(&self) -> Result<OwnedSemaphorePermit> {
        let full = |_| self.refuse(format!("more than {OPEN_FILES} parts are open at the same time"));
        Arc::clone(&self.files).try_acquire_owned().map_err(full)
    }

    /// A place for a chunk on its way; waits while the store is slower than the source.
    pub(crate) async fn admit(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.chunks).acquire_owned().await.map_err(|e| Error::internal(self.id.as_str(), e))
    }

    /// Finds or stores one chunk.
    pub(crate) async fn store(self: Arc<Self>, raw: Vec<u8>, _admitted: OwnedSemaphorePermit) -> Result<ChunkRef> {
        let internal = |e: &dyn std::fmt::Display| Error::internal(self.id.as_str(), e);
        let worker = self.workers.acquire().await.map_err(|e| internal(&e))?;
        let this = Arc::clone(&self);
        let digest = move || this.digest(&raw).map(|(id, digested)| (raw, id, digested));
        let digested = tokio::task::spawn_blocking(digest).await.map_err(|e| internal(&e))?;
        let (raw, id, digested) = digested.map_err(|e| internal(&e))?;
        drop(worker);
        let (pack, new) = match digested {
            Digested::Known(pack) => (pack, false),
            Digested::New(frame) => {
                let packed = self.packer.lock().await.add(&self.dedup, id, &raw, &frame).await?;
                self.buffers.give(frame);
                (packed.pack, packed.new)
            }
        };
        let length = raw.len() as u32;
        self.buffers.give(raw);
        self.bytes.fetch_add(length.into(), Ordering::Relaxed);
        if !new {
            self.reused.fetch_add(length.into(), Ordering::Relaxed);
        }
        Ok(ChunkRef { pack, id, raw: length })
    }

    /// The work of a thread: the digest, and if that is new, the compression.
    fn digest(&self, raw: &[u8]) -> std::io::Result<(ChunkId, Digested)> {
        let id = ChunkId::from_digest(&self.objects.digest(raw));
        if let Some(pack) = lock(&self.dedup).refer(&id) {
            return Ok((id, Digested::Known(pack)));
        }
        let mut frame = self.buffers.take();
        self.compressors.compress(raw, &mut frame)?;
        Ok((id, Digested::New(frame)))
    }

    /// Adds a line to the index.
    pub(crate) async fn add_line(&self, line: &Line) -> Result<()> {
        self.index.lock().await.add(line).await
    }

    /// Lets a part end by itself, so that the next one need not wait for its last chunk.
    pub(crate) fn finish_later(self: &Arc<Self>, task: impl Future<Output = Result<()>> + Send + 'static) {
        let mut finishing = lock(&self.finishing);
        while let Some(done) = finishing.try_join_next() {
            self.note(done);
        }
        finishing.spawn(task);
    }

    async fn wait_for_parts(&self) -> Result<()> {
        let mut finishing = std::mem::take(&mut *lock(&self.finishing));
        while let Some(done) = finishing.join_next().await {
            self.note(done);
        }
        self.check()
    }

    fn note(&self, done: std::result::Result<Result<()>, tokio::task::JoinError>) {
        if let Err(error) = done.unwrap_or_else(|e| Err(Error::internal(self.id.as_str(), e))) {
            self.fail(error);
        }
    }

    /// Remembers a failure that nobody is there to receive.
    fn fail(&self, error: Error) {
        let mut failure = lock(&self.failure);
        match *failure {
            Failure::None => *failure = Failure::First(error),
            Failure::First(_) | Failure::Reported => tracing::debug!(%error, "a further failure of the same base"),
        }
    }

    /// An error if anything of this base has failed.
    pub(crate) fn check(&self) -> Result<()> {
        let mut failure = lock(&self.failure);
        match std::mem::replace(&mut *failure, Failure::Reported) {
            Failure::None => {
                *failure = Failure::None;
                Ok(())
            }
            Failure::First(error) => Err(error),
            Failure::Reported => Err(self.refuse("an earlier part of it could not be stored".to_owned())),
        }
    }

    /// Passes an error on to the caller, and makes sure that the base is never committed.
    pub(crate) fn failed(&self, error: Error) -> Error {
        *lock(&self.failure) = Failure::Reported;
        error
    }

    /// An error that says why this base cannot be stored.
    pub(crate) fn refuse(&self, what: String) -> Error {
        Error::BaseNotTaken { base: self.id.to_string(), what }
    }

    /// Stores the list of packs; returns its size in the store, and its digest in hex.
    async fn store_packs(&self) -> Result<(u64, String)> {
        let key = self.layout.base_packs(&self.id);
        let (text, packs) = {
            let dedup = lock(&self.dedup);
            (serde_json::to_vec(dedup.list()), dedup.list().len())
        };
        let raw = Bytes::from(text.map_err(|e| Error::internal(&key, e))?);
        let digest = hex::encode(self.objects.digest(&raw));
        let facts = serde_json::json!({ "packs": packs });
        // Plain: the next base and retention must read it without an identity.
        match self.objects.unencrypted().put(Kind::BasePacks, &key, &facts, Payload::Raw(raw)).await? {
            Put::Stored { stored_bytes } => Ok((stored_bytes, digest)),
            Put::Identical => Ok((0, digest)),
        }
    }

    async fn store_manifest(&self, facts: &ManifestFacts, contents: &Contents) -> Result<()> {
        let key = self.layout.manifest(&self.id);
        let raw = serde_json::to_vec(contents).map_err(|e| Error::internal(&key, e))?;
        self.objects.put(Kind::Base, &key, facts, Payload::Raw(raw.into())).await?;
        Ok(())
    }
}
