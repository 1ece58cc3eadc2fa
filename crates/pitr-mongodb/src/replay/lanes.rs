//! Writes on their way to the target, on several connections at once.
//!
//! All writes on one document take the same lane, so they stay in order; different documents do not depend on
//! each other, since no unique index is in place yet. What depends on more than one document waits at a barrier.

use std::sync::Arc;

use bson::{Document, RawDocument, RawDocumentBuf, doc, rawdoc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::inserts::{self, Inserts};
use crate::connect::{Member, with_documents};
use crate::error::{Error, Result};
use crate::limits::{BATCH_BYTES, BATCH_WRITES, BATCHES_MEMORY, LANES, QUEUED_BATCHES};
use crate::position::OpTime;

/// One write, ready to be sent.
#[derive(Debug)]
pub struct Ready {
    /// As `applyOps` takes it.
    pub operation: RawDocumentBuf,
    /// The same for all writes on one document.
    pub hash: u64,
    /// True for an insert that a client's command would do to the same effect.
    pub plain: bool,
    /// Where it stands in the log.
    pub at: OpTime,
    /// True if its document may be newer than the log: an update of one that is gone is then no error.
    pub tolerant: bool,
}

enum Message {
    Batch(Vec<Ready>, OwnedSemaphorePermit),
    Barrier(oneshot::Sender<()>),
}

struct Lane {
    queue: mpsc::Sender<Message>,
    task: JoinHandle<Result<()>>,
    batch: Vec<Ready>,
    bytes: usize,
}

/// All lanes.
pub struct Lanes {
    lanes: Vec<Lane>,
    /// Bytes that may be on their way on all of them together, in units of [`UNIT`].
    room: Arc<Semaphore>,
}

const UNIT: usize = 1024;
const ROOM: usize = BATCHES_MEMORY / UNIT;

impl Lanes {
    /// Lanes to one target.
    pub fn new(target: &Member) -> Self {
        let lane = |_| {
            let (queue, messages) = mpsc::channel(QUEUED_BATCHES);
            let task = tokio::spawn(work(target.clone(), messages));
            Lane { queue, task, batch: Vec::new(), bytes: 0 }
        };
        Self { lanes: (0..LANES).map(lane).collect(), room: Arc::new(Semaphore::new(ROOM)) }
    }

    /// Puts a write on the lane of its hash; waits while that lane is full.
    pub async fn write(&mut self, ready: Ready) -> Result<()> {
        let at = usize::try_from(ready.hash % LANES as u64).unwrap_or(0);
        let Some(lane) = self.lanes.get_mut(at) else { return Ok(()) };
        let bytes = ready.operation.as_bytes().len();
        // A document of the largest size fills a command by itself.
        if lane.bytes + bytes > BATCH_BYTES {
            lane.send_batch(&self.room).await?;
        }
        lane.bytes += bytes;
        lane.batch.push(ready);
        if lane.batch.len() >= BATCH_WRITES || lane.bytes >= BATCH_BYTES {
            lane.send_batch(&self.room).await?;
        }
        Ok(())
    }

    /// Waits until everything that was given is on the target.
    pub async fn barrier(&mut self) -> Result<()> {
        let mut waiting = Vec::with_capacity(self.lanes.len());
        for lane in &mut self.lanes {
            lane.send_batch(&self.room).await?;
            let (done, wait) = oneshot::channel();
            lane.send(Message::Barrier(done)).await?;
            waiting.push(wait);
        }
        for (lane, wait) in self.lanes.iter_mut().zip(waiting) {
            if wait.await.is_err() {
                return Err(lane.failure().await);
            }
        }
        Ok(())
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        // After a failure on one lane the others must not go on writing behind the caller's back.
        self.lanes.iter().for_each(|lane| lane.task.abort());
    }
}

impl Lane {
    async fn send_batch(&mut self, room: &Arc<Semaphore>) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        // What is larger than all of it goes alone.
        let units = self.bytes.div_ceil(UNIT).clamp(1, ROOM);
        let units = u32::try_from(units).map_err(|error| Error::answer("replaying", error))?;
        let share = Arc::clone(room).acquire_many_owned(units).await;
        let share = share.map_err(|error| Error::answer("replaying", error))?;
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        self.send(Message::Batch(batch, share)).await
    }

    async fn send(&mut self, message: Message) -> Result<()> {
        match self.queue.send(message).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    /// Why the lane ended.
    async fn failure(&mut self) -> Error {
        match (&mut self.task).await {
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => Error::answer("replaying", "a lane ended for no reason that it told"),
        }
    }
}

async fn work(target: Member, mut messages: mpsc::Receiver<Message>) -> Result<()> {
    while let Some(message) = messages.recv().await {
        match message {
            Message::Batch(batch, share) => {
                apply(&target, &batch).await?;
                drop((batch, share));
            }
            // Whoever waited may have given up; that is no reason to fail.
            Message::Barrier(done) => drop(done.send(())),
        }
    }
    Ok(())
}

/// Applies a batch in few commands; if any of it fails, one by one, to learn which and why.
async fn apply(target: &Member, batch: &[Ready]) -> Result<()> {
    let (inserts, rest) = inserts::split(batch);
    match apply_at_once(target, &inserts, &rest).await {
        Ok(()) => return Ok(()),
        Err(error) if error.code().is_none() => return Err(error),
        Err(error) => tracing::debug!(%error, "a batch failed; its writes are sent one by one"),
    }
    for ready in batch {
        // Every write is idempotent, and the order within the lane stays: what was applied already may come again.
        if let Err(error) = send(target, std::iter::once(ready.operation.as_ref())).await
            && (error.code().is_none() || !(ready.tolerant && is_update_of_nothing(target, ready).await?))
        {
            return Err(failed(ready, &error));
        }
    }
    Ok(())
}

async fn apply_at_once(target: &Member, inserts: &[Inserts<'_>], rest: &[&Ready]) -> Result<()> {
    for inserts in inserts {
        if !inserts.send(target).await? {
            // In the order of the log they replace what is there.
            return send(target, inserts.batch.iter().map(|ready| ready.operation.as_ref())).await;
        }
    }
    if rest.is_empty() {
        return Ok(());
    }
    send(target, rest.iter().map(|ready| ready.operation.as_ref())).await
}

/// Applies operations in one command.
pub async fn send<'a>(target: &Member, operations: impl Iterator<Item = &'a RawDocument> + Clone) -> Result<()> {
    let mut options = rawdoc! { "bypassDocumentValidation": true, "writeConcern": { "w": 1, "j": false } };
    // Later servers know neither the mode nor the lenience, and do what we ask older ones for.
    if target.version < (6, 2, 0) {
        options.append(bson::cstr!("allowAtomic"), false);
        options.append(bson::cstr!("alwaysUpsert"), false);
    }
    let operations = operations.map(RawDocument::as_bytes);
    let command = with_documents(&rawdoc! {}, "applyOps", operations, &options)?;
    target.run_raw("admin", command, "applying log").await.map(drop)
}

/// True if the write is an update, and the document that it is for does not exist.
async fn is_update_of_nothing(target: &Member, ready: &Ready) -> Result<bool> {
    let operation = Document::try_from(ready.operation.as_ref()).map_err(|error| Error::answer("replaying", error))?;
    let Ok("u") = operation.get_str("op") else { return Ok(false) };
    let id = operation.get_document("o2").ok().and_then(|o2| o2.get("_id"));
    let (Some(id), Some((db, name))) = (id, operation.get_str("ns").ok().and_then(|ns| ns.split_once('.'))) else {
        return Ok(false);
    };
    let filter = doc! { "_id": { "$eq": id.clone() } };
    Ok(crate::connect::find_one(target, db, name, filter).await?.is_none())
}

fn failed(ready: &Ready, error: &Error) -> Error {
    let text = |key: &str| ready.operation.get_str(key).unwrap_or("?").to_owned();
    Error::Replay {
        operation: format!("{} on {}", text("op"), text("ns")),
        at: ready.at.to_string(),
        why: error.to_string(),
    }
}
