//! Receives the documents of a base in any order, and inserts them on several connections.
//!
//! Chunks are cut by content: one may begin and end in the middle of a document. Each part is therefore put together
//! from its begin; what comes early waits in memory, or in a temporary file if it is much. Whole documents
//! are handed to workers in batches, each to the first that is free; if none is, the archive waits.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bson::{Bson, RawDocument, rawdoc};
use pitr_core::PortError;
use pitr_core::ports::{PartInfo, PartTarget};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::budget::{Budget, Share};
use crate::base::catalog::{Collection, CollectionId, id_of_path};
use crate::connect::{Member, with_documents};
use crate::error::{Error, Result};
use crate::limits::{
    BATCH_BYTES, BATCH_WRITES, BATCHES_MEMORY, LANES, LARGE_DOCUMENT, LARGE_MEMORY, MAX_ENTRY, QUEUED_BATCHES,
    REORDER_MEMORY,
};
use crate::replay::operation::{Kind, Operation, is_changed_by_insert};
use crate::replay::send;
use crate::spill::{Piece, Pieces, Spill};

/// Documents for one collection, as they follow each other.
struct Batch {
    db: String,
    name: String,
    bytes: Vec<u8>,
    _share: Share,
}

/// Where a collection of the base goes to.
struct Place {
    db: String,
    name: String,
    /// Its documents must keep their order: one worker takes them all.
    ordered: bool,
}

#[derive(Default)]
struct Part {
    /// Everything before this offset has been taken.
    next: u64,
    total: u64,
    early: BTreeMap<u64, Piece>,
    /// Documents that wait to make a batch, and the begin of one that is not whole.
    open: Vec<u8>,
    /// The begin of a large one instead.
    large: Option<Large>,
}

/// The begin of a document that is large, put aside: parts of several collections arrive at the same time.
struct Large {
    /// Of the whole document.
    length: usize,
    held: usize,
    pieces: Pieces,
    spill: Spill,
}

struct Parts {
    by_path: HashMap<String, Part>,
    spill: Spill,
}

struct Queues {
    any: mpsc::Sender<Batch>,
    ordered: mpsc::Sender<Batch>,
}

/// Workers that share it take turns in waiting for the next batch.
type Shared = Arc<tokio::sync::Mutex<mpsc::Receiver<Batch>>>;

/// The receiving end of a base.
pub struct Documents {
    places: HashMap<CollectionId, Place>,
    parts: Mutex<Parts>,
    /// To whichever worker is free, and to the one that keeps the order; `None` when all has been sent.
    queues: Option<Queues>,
    tasks: Vec<JoinHandle<Result<()>>>,
    budget: Arc<Budget>,
    documents: AtomicU64,
    bytes: AtomicU64,
}

impl Documents {
    /// Inserts into these collections, which exist. `again` accepts documents that an interrupted restore inserted.
    pub fn new(target: &Member, collections: &[Collection], again: bool) -> Self {
        let queue = |batches| {
            let (sender, receiver) = mpsc::channel(batches);
            (sender, Shared::new(tokio::sync::Mutex::new(receiver)))
        };
        let (any, shared) = queue(LANES * QUEUED_BATCHES);
        let (ordered, own) = queue(QUEUED_BATCHES);
        let queues = std::iter::repeat_n(shared, LANES).chain([own]);
        let places = collections.iter().filter(|c| c.has_documents()).filter_map(|collection| {
            let (db, name, ordered) = (collection.db.clone(), collection.name.clone(), collection.is_capped());
            Some((collection.id?, Place { db, name, ordered }))
        });
        Self {
            places: places.collect(),
            parts: Mutex::new(Parts { by_path: HashMap::new(), spill: Spill::new(REORDER_MEMORY) }),
            tasks: queues.map(|queue| tokio::spawn(work(target.clone(), queue, again))).collect(),
            queues: Some(Queues { any, ordered }),
            budget: Arc::new(Budget::new(BATCHES_MEMORY)),
            documents: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Waits until all is inserted. Returns the number of documents and of bytes.
    pub async fn finish(mut self) -> Result<(u64, u64)> {
        self.queues = None;
        for task in std::mem::take(&mut self.tasks) {
            task.await.map_err(|error| Error::answer("inserting documents", error))??;
        }
        Ok((self.documents.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed)))
    }

    /// The failure of a worker, if there is one; the archive only learns that a batch was not taken.
    pub async fn failure(mut self) -> Option<Error> {
        self.queues = None;
        for task in std::mem::take(&mut self.tasks) {
            if let Ok(Err(error)) = task.await {
                return Some(error);
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        // A panic elsewhere fails the restore anyway; what is guarded is never left half changed.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes content, and sends what has become whole. The lock is held on the way to the worker: batches of a
    /// part must not overtake each other.
    fn take(&self, path: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut guard = self.lock();
        let Parts { by_path, spill } = &mut *guard;
        let part =
            by_path.get_mut(path).ok_or_else(|| Error::Base(format!("content for {path}, which was not begun")))?;
        if offset != part.next {
            part.early.insert(offset, spill.put(bytes)?);
            return Ok(());
        }
        let room = |bytes| Budget::share(&self.budget, bytes);
        let send = |batch, documents, share| self.send(path, batch, documents, share);
        part.accept(bytes, room, send)?;
        while let Some(piece) = part.early.remove(&part.next) {
            let bytes = spill.take(piece)?;
            part.accept(&bytes, room, send)?;
        }
        if part.next == part.total {
            if !part.open.is_empty() || part.large.is_some() {
                return Err(Error::Base(format!("{path} ends in the middle of a document")));
            }
            by_path.remove(path);
        }
        Ok(())
    }

    fn send(&self, path: &str, bytes: Vec<u8>, documents: u64, share: Share) -> Result<()> {
        let place = id_of_path(path).and_then(|id| self.places.get(&id));
        let place = place.ok_or_else(|| Error::Base(format!("{path} belongs to no collection of its catalog")))?;
        self.documents.fetch_add(documents, Ordering::Relaxed);
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let queue = self.queues.as_ref().map(|queues| if place.ordered { &queues.ordered } else { &queues.any });
        let batch = Batch { db: place.db.clone(), name: place.name.clone(), bytes, _share: share };
        let sent = queue.map(|queue| queue.blocking_send(batch));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(Error::answer("inserting documents", "a worker gave up")),
        }
    }
}

impl Part {
    /// Takes the content that follows, and hands out the batches that have become whole, each with its share of the memory, which
    /// is taken before a large document is put together. What is left is less than one batch.
    fn accept(
        &mut self,
        mut bytes: &[u8],
        room: impl Fn(usize) -> Share,
        send: impl Fn(Vec<u8>, u64, Share) -> Result<()>,
    ) -> Result<()> {
        self.next += bytes.len() as u64;
        if let Some(mut large) = self.large.take() {
            let (end, after) = bytes.split_at(bytes.len().min(large.length - large.held));
            bytes = after;
            if !large.is_whole_with(end) {
                large.put(end)?;
                self.large = Some(large);
                return Ok(());
            }
            // Workers that give up leave their share, too.
            let share = room(large.length);
            send(large.put_together(end)?, 1, share)?;
        }
        self.open.reserve_exact(bytes.len());
        self.open.extend_from_slice(bytes);
        while let Some((end, documents)) = batch(&self.open, self.next == self.total)? {
            // What is left is mostly less than what is handed out, which is not copied.
            let rest = self.open.split_off(end.min(self.open.len()));
            let whole = std::mem::replace(&mut self.open, rest);
            let share = room(whole.len());
            send(whole, documents, share)?;
        }
        let first = self.open.first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
        if first > LARGE_DOCUMENT && first > self.open.len() {
            let mut large = Large { length: first, held: 0, pieces: Pieces::new(), spill: Spill::new(LARGE_MEMORY) };
            large.put(&std::mem::take(&mut self.open))?;
            self.large = Some(large);
        }
        Ok(())
    }
}

impl Large {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.held += bytes.len();
        self.pieces.push_back(self.spill.put(bytes)?);
        Ok(())
    }

    fn is_whole_with(&self, end: &[u8]) -> bool {
        self.held + end.len() == self.length
    }

    fn put_together(mut self, end: &[u8]) -> Result<Vec<u8>> {
        let mut whole = Vec::with_capacity(self.length);
        for piece in self.pieces {
            whole.extend_from_slice(&self.spill.take(piece)?);
        }
        whole.extend_from_slice(end);
        Ok(whole)
    }
}

/// Length and number of the whole documents that make one batch; `None` while there are too few, unless these are the
/// `last`.
fn batch(open: &[u8], last: bool) -> Result<Option<(usize, u64)>> {
    let (mut end, mut documents) = (0, 0);
    let mut full = false;
    while !full {
        let rest = open.get(end..).unwrap_or_default();
        let Some(length) = rest.first_chunk().map(|length| u32::from_le_bytes(*length) as usize) else { break };
        if !(5..=MAX_ENTRY).contains(&length) {
            return Err(Error::Base(format!("it holds a document of {length} bytes")));
        }
        // A document of the largest size fills a command by itself.
        if documents > 0 && end + length > BATCH_BYTES {
            full = true;
            break;
        }
        if rest.len() < length {
            break;
        }
        end += length;
        documents += 1;
        full = documents >= BATCH_WRITES as u64 || end >= BATCH_BYTES;
    }
    Ok((documents > 0 && (full || last)).then_some((end, documents)))
}

impl PartTarget for Documents {
    fn begin(&self, part: &PartInfo, bytes: u64) -> Result<(), PortError> {
        if bytes > 0 {
            self.lock().by_path.insert(part.path.clone(), Part { total: bytes, ..Part::default() });
        }
        Ok(())
    }

    fn read_at(&self, _: &PartInfo, _: u64, _: usize) -> Result<Option<Vec<u8>>, PortError> {
        // What was inserted cannot be compared chunk by chunk: an interrupted base is poured again.
        Ok(None)
    }

    fn write_at(&self, part: &PartInfo, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        self.take(&part.path, offset, bytes).map_err(PortError::from)
    }

    fn end(&self, part: &PartInfo) -> Result<(), PortError> {
        match self.lock().by_path.contains_key(&part.path) {
            true => Err(PortError::from(Error::Base(format!("{} has a hole", part.path)))),
            false => Ok(()),
        }
    }
}

async fn work(target: Member, batches: Shared, again: bool) -> Result<()> {
    loop {
        let next = batches.lock().await.recv().await;
        let Some(batch) = next else { return Ok(()) };
        if let Err(error) = insert(&target, batch, again).await {
            // What else is sent would be inserted for nothing.
            batches.lock().await.close();
            return Err(error);
        }
    }
}

const DUPLICATE_KEY: i32 = 11_000;

async fn insert(target: &Member, mut batch: Batch, again: bool) -> Result<()> {
    let doing = format!("inserting into {}.{}", batch.db, batch.name);
    let (mut plain, mut exact) = (Vec::<&[u8]>::new(), Vec::new());
    let ns = format!("{}.{}", batch.db, batch.name);
    let mut rest = batch.bytes.as_slice();
    while let Some(length) = rest.first_chunk().map(|length| u32::from_le_bytes(*length) as usize) {
        let (bytes, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        let document = RawDocument::from_bytes(bytes).map_err(|error| Error::Base(error.to_string()))?;
        let id = document.get("_id").map_err(|error| Error::Base(error.to_string()))?;
        rest = after;
        if target.is_own_user(&ns, id) {
            continue;
        }
        // Such documents take the way of the log; so do users and roles, which replace those of the same name.
        if is_changed_by_insert(document) || ns.starts_with("admin.system.") {
            exact.push(Operation { kind: Kind::Insert, ns: &ns, o: document, o2: None });
        } else {
            plain.push(bytes);
        }
    }
    // Never as one atomic command: that way servers before 6.2 put the time in, too.
    send(target, exact.iter().copied()).await?;
    if plain.is_empty() {
        return Ok(());
    }
    let options =
        rawdoc! { "ordered": false, "bypassDocumentValidation": true, "writeConcern": { "w": 1, "j": false } };
    let begin = rawdoc! { "insert": batch.name.as_str() };
    let command = with_documents(&begin, "documents", plain.into_iter(), &options)?;
    // It holds them now.
    drop(std::mem::take(&mut batch.bytes));
    let answer = target.run_raw(&batch.db, command, &doing).await?;
    for error in answer.get_array("writeErrors").into_iter().flatten().filter_map(Bson::as_document) {
        if !(again && error.get_i32("code").is_ok_and(|code| code == DUPLICATE_KEY)) {
            return Err(Error::answer(&doing, error.get_str("errmsg").unwrap_or("a document was refused")));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "documents_tests.rs"]
mod tests;
