//! Reads one range of one collection into one part.

use std::sync::Arc;

use bson::{Bson, Document, RawDocument, RawDocumentBuf, Timestamp, doc};
use futures::TryStreamExt;
use pitr_core::ports::{Chunking, PartInfo, PartKind, PartSink, PartWriter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::catalog::{CollectionId, data_path};
use super::partition::Partition;
use crate::connect::Member;
use crate::error::{Doing, Error, Result};
use crate::limits::{READ_ATTEMPTS, READ_MEMORY};
use crate::position::Stamp;

/// Called with bytes that were read.
pub type Progress = Arc<dyn Fn(u64) + Send + Sync>;

/// Codes with which a server says that it cannot, or no longer, read at that time.
const NO_SNAPSHOT: [i32; 4] = [72, 115, 239, 246];
const NAMESPACE_NOT_FOUND: i32 = 26;
/// Codes of a cursor that ended under us: it is opened again where it was.
const CURSOR_LOST: [i32; 5] = [43, 175, 237, 11601, 11602];

/// One range to read.
#[derive(Debug, Clone)]
pub struct Job {
    /// Database of the collection.
    pub db: String,
    /// `database.collection`, for messages.
    pub ns: String,
    /// Its identifier, by which it is read: a rename does not matter.
    pub id: CollectionId,
    /// True if it is read in the order of `_id`.
    pub plain_ids: bool,
    /// The range.
    pub partition: Partition,
    /// Read as of this cluster time, where the server can.
    pub snapshot: Option<Stamp>,
    /// Documents in a batch.
    pub batch: i32,
    /// Bytes of a batch, about.
    pub batch_bytes: u64,
}

/// What became of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All of it is as of the cluster time.
    Exact,
    /// Some of it is newer.
    Newer,
    /// The collection is gone: the log will say so.
    Gone,
}

/// Reads a range; calls `progress` with the bytes of each batch. On a task of its own: to cut documents into chunks is work,
/// and there is more than one processor.
pub async fn dump<S: PartSink>(
    member: &Member,
    job: Job,
    into: &S,
    room: Arc<Semaphore>,
    progress: Progress,
) -> Result<Outcome> {
    let path = data_path(job.id, job.partition.number);
    let info = PartInfo { path, kind: PartKind::File(Chunking::Content), mode: None };
    let mut part = into.open(info).await.map_err(Error::Port)?;
    let mut reader =
        Reader { member: member.clone(), last: None, snapshot: job.snapshot, batch: job.batch_bytes, room, job };
    // Ends with this future, if that is given up.
    let mut task = JoinSet::new();
    task.spawn(async move {
        let outcome = reader.read_all(&mut part, &progress).await?;
        part.finish().await.map_err(Error::Port)?;
        Ok(outcome)
    });
    match task.join_next().await {
        Some(Ok(outcome)) => outcome,
        Some(Err(error)) => Err(Error::answer("reading documents", error)),
        None => Err(Error::answer("reading documents", "nobody does")),
    }
}

struct Reader {
    member: Member,
    job: Job,
    /// The last value of `_id` that was written.
    last: Option<Bson>,
    snapshot: Option<Stamp>,
    /// Bytes of the next batch, about.
    batch: u64,
    /// Bytes that may be read at once.
    room: Arc<Semaphore>,
}

impl Reader {
    /// Waits until the next batch has room in memory. What is larger than all of it goes alone.
    async fn share(&self) -> Result<OwnedSemaphorePermit> {
        let bytes = usize::try_from(self.batch).unwrap_or(READ_MEMORY).clamp(1, READ_MEMORY);
        let share = Arc::clone(&self.room).acquire_many_owned(u32::try_from(bytes).unwrap_or(1)).await;
        share.map_err(|error| Error::answer("reading documents", error))
    }

    /// Without an order of its own, a collection is read from its begin or not at all.
    fn can_go_on(&self) -> bool {
        self.last.is_none() || self.job.plain_ids
    }

    /// Reads to the end, also if the server can no longer do so as of the cluster time, or loses the cursor.
    async fn read_all<W: PartWriter>(&mut self, part: &mut W, progress: &Progress) -> Result<Outcome> {
        let mut attempts = 0;
        loop {
            match self.read(part, progress).await {
                Ok(()) => return Ok(if self.snapshot.is_some() { Outcome::Exact } else { Outcome::Newer }),
                Err(error) => match error.code() {
                    Some(NAMESPACE_NOT_FOUND) => return Ok(Outcome::Gone),
                    Some(code) if NO_SNAPSHOT.contains(&code) && self.snapshot.is_some() => {
                        tracing::debug!(%error, "{}: read as it is now", self.job.ns);
                        self.snapshot = None;
                    }
                    Some(code) if CURSOR_LOST.contains(&code) && self.can_go_on() && attempts < READ_ATTEMPTS => {
                        attempts += 1;
                    }
                    _ => return Err(error),
                },
            }
            if !self.can_go_on() {
                return Err(Error::Base(format!("{} cannot be read from the middle on", self.job.ns)));
            }
        }
    }

    async fn read<W: PartWriter>(&mut self, part: &mut W, progress: &Progress) -> Result<()> {
        let doing = format!("reading {}", self.job.ns);
        let command = RawDocumentBuf::try_from(&self.command()).map_err(|error| Error::answer(&doing, error))?;
        let database = self.member.database(&self.job.db);
        // The first batch comes with the cursor.
        let mut share = self.share().await?;
        let mut cursor = database
            .run_raw_cursor_command(command)
            .batch_size(self.job.batch.unsigned_abs())
            .batch()
            .await
            .doing(&doing)?;
        let mut seen = self.last.clone();
        while let Some(batch) = cursor.try_next().await.doing(&doing)? {
            let (mut bytes, mut last) = (0, None);
            for value in batch.doc_slices().doing(&doing)? {
                let value = value.map_err(|error| Error::answer(&doing, error))?;
                let document = value.as_document().ok_or_else(|| Error::answer(&doing, "a document is none"))?;
                // The bound is inclusive: after a lost cursor the first document is one that we have.
                if let Some(seen) = seen.take()
                    && id_of(document, &doing)?.is_some_and(|id| is_same(&id, &seen))
                {
                    continue;
                }
                // One by one: an answer may have 16 MiB, which are not held twice.
                part.write(document.as_bytes()).await.map_err(Error::Port)?;
                bytes += document.as_bytes().len() as u64;
                last = Some(document);
            }
            progress(bytes);
            if let Some(document) = last {
                self.last = id_of(document, &doing)?.or_else(|| self.last.take());
            }
            self.batch = self.batch.max(bytes);
            drop((batch, share));
            share = self.share().await?;
        }
        Ok(())
    }

    fn command(&self) -> Document {
        let uuid = bson::Uuid::from_bytes(self.job.id);
        let mut command = doc! { "find": uuid, "batchSize": self.job.batch, "noCursorTimeout": true };
        if self.job.plain_ids {
            // In the order of `_id` the same documents give the same bytes, on any member, at any time.
            command.insert("hint", doc! { "_id": 1 });
            if let Some(from) = self.last.as_ref().or(self.job.partition.from.as_ref()) {
                command.insert("min", doc! { "_id": from.clone() });
            }
            if let Some(to) = &self.job.partition.to {
                command.insert("max", doc! { "_id": to.clone() });
            }
        } else {
            command.insert("hint", doc! { "$natural": 1 });
        }
        command.insert(
            "readConcern",
            match self.snapshot {
                Some(at) => doc! { "level": "snapshot", "atClusterTime": Timestamp::from(at) },
                // Never what a majority does not have: it could be rolled back.
                None => doc! { "level": "majority" },
            },
        );
        command
    }
}

fn id_of(document: &RawDocument, doing: &str) -> Result<Option<Bson>> {
    let id = document.get("_id").map_err(|error| Error::answer(doing, error))?;
    id.map(|id| Bson::try_from(id).map_err(|error| Error::answer(doing, error))).transpose()
}

/// Also true for what is not a number.
fn is_same(a: &Bson, b: &Bson) -> bool {
    doc! { "": a }.to_vec().is_ok_and(|a| doc! { "": b }.to_vec().is_ok_and(|b| a == b))
}
