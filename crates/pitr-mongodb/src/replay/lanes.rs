//! Writes on their way to the target, on several connections at once.
//!
//! All writes on one document take the same lane, so they stay in order; different documents do not depend on
//! each other, since no unique index is in place yet. What depends on more than one document waits at a barrier.

use std::sync::Arc;

use bson::{RawDocumentBuf, doc, rawdoc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::inserts::{self, Inserts};
use super::operation::{Kind, Operation, is_changed_by_insert};
use super::pending::Pending;
use crate::connect::{Member, Piece, find_one, with_documents};
use crate::error::{Error, Result};
use crate::limits::{BATCHES_MEMORY, HANDFUL_BYTES, HANDFUL_WRITES, LANES, LARGE_WRITE, MAX_DOCUMENT, QUEUED_HANDFULS};
use crate::position::OpTime;

/// One write, ready to be sent.
#[derive(Debug)]
pub struct Ready {
    /// What it does.
    pub kind: Kind,
    /// The collection, by the name that it has on the target then.
    pub ns: Arc<str>,
    /// The object, as the log has it.
    pub o: RawDocumentBuf,
    /// `{_id: …}` of an update.
    pub o2: Option<RawDocumentBuf>,
    /// The same for all writes on one document.
    pub hash: u64,
    /// True for an insert into a collection that clients may write, where nothing may be in its place.
    pub open: bool,
    /// Where it stands in the log.
    pub at: OpTime,
    /// True if its document may be newer than the log: an update of one that is gone is then no error.
    pub tolerant: bool,
    /// True if nothing but the writes before it decides what it does: it may become one with the last of them.
    pub folds: bool,
}

impl Ready {
    /// As `applyOps` takes it.
    pub fn operation(&self) -> Operation<'_> {
        Operation { kind: self.kind, ns: &self.ns, o: &self.o, o2: self.o2.as_deref() }
    }

    /// True for an insert that a client's command would do to the same effect.
    pub fn is_plain(&self) -> bool {
        self.open && self.o.as_bytes().len() <= MAX_DOCUMENT && !is_changed_by_insert(&self.o)
    }

    /// Bytes that it holds, about.
    pub fn bytes(&self) -> usize {
        self.o.as_bytes().len() + self.o2.as_ref().map_or(0, |o2| o2.as_bytes().len())
    }
}

enum Message {
    Writes(Vec<Ready>),
    /// One that is sent at once, and the room that it takes until then.
    Large(Box<Ready>, OwnedSemaphorePermit),
    Barrier(oneshot::Sender<()>),
}

struct Lane {
    queue: mpsc::Sender<Message>,
    task: JoinHandle<Result<()>>,
    handful: Vec<Ready>,
    bytes: usize,
}

/// All lanes.
pub struct Lanes {
    lanes: Vec<Lane>,
    /// Bytes that large writes may hold on all of them together, in units of [`UNIT`]. A command is held about three times while it is sent.
    room: Arc<Semaphore>,
}

const UNIT: usize = 1024;
const ROOM: usize = BATCHES_MEMORY / UNIT;

impl Lanes {
    /// Lanes to one target.
    pub fn new(target: &Member) -> Self {
        let lane = |_| {
            let (queue, messages) = mpsc::channel(QUEUED_HANDFULS);
            let task = tokio::spawn(work(target.clone(), messages));
            Lane { queue, task, handful: Vec::new(), bytes: 0 }
        };
        Self { lanes: (0..LANES).map(lane).collect(), room: Arc::new(Semaphore::new(ROOM)) }
    }

    /// Waits for the room that a large write takes until it is sent; others need none.
    pub async fn room(&self, bytes: usize) -> Result<Option<OwnedSemaphorePermit>> {
        if bytes <= LARGE_WRITE {
            return Ok(None);
        }
        // What is larger than all of it goes alone.
        let units = u32::try_from(bytes.div_ceil(UNIT).min(ROOM)).unwrap_or(u32::MAX);
        let share = Arc::clone(&self.room).acquire_many_owned(units).await;
        share.map(Some).map_err(|error| Error::answer("replaying", error))
    }

    /// Puts a write on the lane of its hash; waits while that lane is full.
    pub async fn write(&mut self, ready: Ready, room: Option<OwnedSemaphorePermit>) -> Result<()> {
        let at = usize::try_from(ready.hash % LANES as u64).unwrap_or(0);
        let Some(lane) = self.lanes.get_mut(at) else { return Ok(()) };
        match room {
            Some(room) => {
                lane.hand_over().await?;
                lane.send(Message::Large(Box::new(ready), room)).await
            }
            None if lane.push(ready) => lane.hand_over().await,
            None => Ok(()),
        }
    }

    /// Waits until everything that was given is on the target.
    pub async fn barrier(&mut self) -> Result<()> {
        let mut waiting = Vec::with_capacity(self.lanes.len());
        for lane in &mut self.lanes {
            lane.hand_over().await?;
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
    /// Keeps a write; true if it is time to hand over what there is.
    fn push(&mut self, ready: Ready) -> bool {
        self.bytes += ready.bytes();
        self.handful.push(ready);
        self.handful.len() >= HANDFUL_WRITES || self.bytes >= HANDFUL_BYTES
    }

    async fn hand_over(&mut self) -> Result<()> {
        if self.handful.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let handful = std::mem::replace(&mut self.handful, Vec::with_capacity(HANDFUL_WRITES));
        self.send(Message::Writes(handful)).await
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
    let mut pending = Pending::default();
    while let Some(message) = messages.recv().await {
        match message {
            Message::Writes(writes) => {
                for ready in writes {
                    take(&target, &mut pending, ready).await?;
                }
            }
            Message::Large(ready, share) => {
                take(&target, &mut pending, *ready).await?;
                apply_all(&target, &mut pending).await?;
                drop(share);
            }
            Message::Barrier(done) => {
                apply_all(&target, &mut pending).await?;
                // Whoever waited may have given up; that is no reason to fail.
                done.send(()).ok();
            }
        }
    }
    Ok(())
}

async fn take(target: &Member, pending: &mut Pending, ready: Ready) -> Result<()> {
    while pending.is_full_for(ready.bytes()) {
        apply(target, pending.batch()).await?;
    }
    pending.push(ready);
    Ok(())
}

async fn apply_all(target: &Member, pending: &mut Pending) -> Result<()> {
    while !pending.is_empty() {
        apply(target, pending.batch()).await?;
    }
    Ok(())
}

/// Applies a batch in few commands; if any of it fails, one by one, to learn which and why.
async fn apply(target: &Member, mut batch: Vec<Ready>) -> Result<()> {
    if batch.len() > 1 {
        let (inserts, rest) = inserts::split(&batch);
        match apply_at_once(target, &inserts, &rest).await {
            Ok(()) => return Ok(()),
            Err(error) if error.code().is_none() => return Err(error),
            Err(error) => tracing::debug!(%error, "a batch failed; its writes are sent one by one"),
        }
    }
    for ready in &mut batch {
        // Every write is idempotent, and the order within the lane stays: what was applied already may come again.
        let command = command(target, std::iter::once(ready.operation()))?;
        // It holds the object, and the driver holds it more than once.
        ready.o = RawDocumentBuf::new();
        if let Err(error) = run(target, command).await
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
            return send(target, inserts.batch.iter().map(Ready::operation)).await;
        }
    }
    send(target, rest.iter().map(|ready| ready.operation())).await
}

/// Applies operations in one command.
pub async fn send(target: &Member, operations: impl Iterator<Item = impl Piece> + Clone) -> Result<()> {
    if operations.clone().next().is_none() {
        return Ok(());
    }
    run(target, command(target, operations)?).await
}

fn command(target: &Member, operations: impl Iterator<Item = impl Piece> + Clone) -> Result<RawDocumentBuf> {
    let mut options = rawdoc! { "bypassDocumentValidation": true, "writeConcern": { "w": 1, "j": false } };
    // Later servers know neither the mode nor the lenience, and do what we ask older ones for.
    if target.version < (6, 2, 0) {
        options.append(bson::cstr!("allowAtomic"), false);
        options.append(bson::cstr!("alwaysUpsert"), false);
    }
    with_documents(&rawdoc! {}, "applyOps", operations, &options)
}

async fn run(target: &Member, command: RawDocumentBuf) -> Result<()> {
    target.run_raw("admin", command, "applying log").await.map(drop)
}

/// True if the write is an update, and the document that it is for does not exist.
async fn is_update_of_nothing(target: &Member, ready: &Ready) -> Result<bool> {
    let id = ready.o2.as_ref().and_then(|o2| o2.get("_id").ok().flatten());
    let (Kind::Update, Some(id), Some((db, name))) = (ready.kind, id, ready.ns.split_once('.')) else {
        return Ok(false);
    };
    let id = bson::Bson::try_from(id).map_err(|error| Error::answer("replaying", error))?;
    Ok(find_one(target, db, name, doc! { "_id": { "$eq": id } }).await?.is_none())
}

fn failed(ready: &Ready, error: &Error) -> Error {
    let what = match ready.kind {
        Kind::Insert => "an insert into",
        Kind::Update => "an update in",
        Kind::Delete => "a delete in",
    };
    Error::Replay { operation: format!("{what} {}", ready.ns), at: ready.at.to_string(), why: error.to_string() }
}
