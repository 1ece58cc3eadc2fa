//! What the open parts of a base share: the way of a chunk from bytes to a place in a pack.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pitr_core::BaseId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::buffers::Buffers;
use super::chunk::ChunkId;
use super::compress::Compressors;
use super::dedup::Dedup;
use super::index::{ChunkRef, IndexWriter, Line};
use super::limits::{CHUNKS_IN_FLIGHT, OPEN_FILES};
use super::manifest::{Contents, ManifestFacts};
use super::packer::{Packer, lock};
use super::writer::BaseOptions;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::objects::{Kind, Objects, Payload, Put};

/// What all open parts of a base share.
#[derive(Debug)]
pub(crate) struct Intake {
    objects: Objects,
    layout: Layout,
    pub(crate) id: BaseId,
    compressors: Compressors,
    buffers: Arc<Buffers>,
    gates: Gates,
    dedup: Mutex<Dedup>,
    pub(crate) packer: tokio::sync::Mutex<Packer>,
    pub(crate) index: tokio::sync::Mutex<IndexWriter>,
    finishing: Mutex<JoinSet<Result<()>>>,
    failure: Mutex<Failure>,
    pub(crate) tally: Tally,
}

/// What may go on at the same time.
#[derive(Debug)]
struct Gates {
    workers: Semaphore,
    chunks: Arc<Semaphore>,
    files: Arc<Semaphore>,
}

/// What has gone in so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Parts that were opened.
    pub(crate) opened: AtomicU64,
    /// Bytes of chunks that are found or stored.
    pub(crate) bytes: AtomicU64,
    /// Of these, bytes that were found.
    pub(crate) reused: AtomicU64,
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
    pub(crate) fn new(objects: &Objects, layout: Layout, id: BaseId, options: &BaseOptions, dedup: Dedup) -> Self {
        Self {
            packer: tokio::sync::Mutex::new(Packer::new(objects.clone(), &layout, &id)),
            index: tokio::sync::Mutex::new(IndexWriter::new(objects.clone(), &layout, &id)),
            objects: objects.clone(),
            layout,
            id,
            compressors: Compressors::new(options.level),
            buffers: Arc::default(),
            gates: Gates {
                workers: Semaphore::new(options.workers.max(1)),
                chunks: Arc::new(Semaphore::new(CHUNKS_IN_FLIGHT)),
                files: Arc::new(Semaphore::new(OPEN_FILES)),
            },
            dedup: Mutex::new(dedup),
            finishing: Mutex::new(JoinSet::new()),
            failure: Mutex::new(Failure::None),
            tally: Tally::default(),
        }
    }

    /// Buffers for chunks.
    pub(crate) fn buffers(&self) -> &Arc<Buffers> {
        &self.buffers
    }

    /// The number of a part that is being opened.
    pub(crate) fn number(&self) -> u64 {
        self.tally.opened.fetch_add(1, Ordering::Relaxed)
    }

    /// A place for an open file; an error when there is none, since whoever waits may hold all of them.
    pub(crate) fn open_file(&self) -> Result<OwnedSemaphorePermit> {
        let full = |_| self.refuse(format!("more than {OPEN_FILES} parts are open at the same time"));
        Arc::clone(&self.gates.files).try_acquire_owned().map_err(full)
    }

    /// A place for a chunk on its way; waits while the store is slower than the source.
    pub(crate) async fn admit(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.gates.chunks).acquire_owned().await.map_err(|e| Error::internal(self.id.as_str(), e))
    }

    /// Finds or stores one chunk.
    pub(crate) async fn store(self: Arc<Self>, raw: Vec<u8>, _admitted: OwnedSemaphorePermit) -> Result<ChunkRef> {
        let internal = |e: &dyn std::fmt::Display| Error::internal(self.id.as_str(), e);
        let worker = self.gates.workers.acquire().await.map_err(|e| internal(&e))?;
        let this = Arc::clone(&self);
        let digest = move || this.digest(&raw).map(|(id, digested)| (raw, id, digested));
        let (raw, id, digested) = tokio::task::spawn_blocking(digest).await.map_err(|e| internal(&e))??;
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
        self.tally.bytes.fetch_add(length.into(), Ordering::Relaxed);
        if !new {
            self.tally.reused.fetch_add(length.into(), Ordering::Relaxed);
        }
        Ok(ChunkRef { pack, id, raw: length })
    }

    /// The work of a thread: the digest, and if that is new, the compression.
    fn digest(&self, raw: &[u8]) -> Result<(ChunkId, Digested)> {
        let id = ChunkId::from_digest(&self.objects.digest(raw));
        if let Some(pack) = lock(&self.dedup).refer(&id) {
            return Ok((id, Digested::Known(pack)));
        }
        let mut frame = self.buffers.take();
        match self.compressors.compress(raw, &mut frame) {
            Ok(true) => Ok((id, Digested::New(frame))),
            Ok(false) => {
                let what = format!("chunk {id} decodes to other bytes than were compressed");
                Err(Error::Unfaithful { key: self.id.to_string(), what })
            }
            Err(error) => Err(Error::internal(self.id.as_str(), error)),
        }
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

    pub(crate) async fn wait_for_parts(&self) -> Result<()> {
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
    pub(crate) async fn store_packs(&self) -> Result<(u64, String)> {
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

    pub(crate) async fn store_manifest(&self, facts: &ManifestFacts, contents: &Contents) -> Result<()> {
        let key = self.layout.manifest(&self.id);
        let raw = serde_json::to_vec(contents).map_err(|e| Error::internal(&key, e))?;
        self.objects.put(Kind::Base, &key, facts, Payload::Raw(raw.into())).await?;
        Ok(())
    }
}
