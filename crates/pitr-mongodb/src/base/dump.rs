//! Reads one range of one collection into one part.

use bson::{Bson, Document, RawDocumentBuf, Timestamp, doc};
use futures::TryStreamExt;
use pitr_core::ports::{Chunking, PartInfo, PartKind, PartSink, PartWriter};

use super::catalog::{Collection, CollectionId, data_path};
use super::partition::Partition;
use crate::connect::Member;
use crate::error::{Doing, Error, Result};
use crate::limits::READ_ATTEMPTS;
use crate::position::Stamp;

/// Codes with which a server says that it cannot, or no longer, read at that time.
const NO_SNAPSHOT: [i32; 4] = [72, 115, 239, 246];
const NAMESPACE_NOT_FOUND: i32 = 26;
/// Codes of a cursor that ended under us: it is opened again where it was.
const CURSOR_LOST: [i32; 5] = [43, 175, 237, 11601, 11602];

/// One range to read.
#[derive(Debug, Clone)]
pub struct Job<'a> {
    /// The collection.
    pub collection: &'a Collection,
    /// Its identifier, by which it is read: a rename does not matter.
    pub id: CollectionId,
    /// The range.
    pub partition: Partition,
    /// Read as of this cluster time, where the server can.
    pub snapshot: Option<Stamp>,
    /// Documents in a batch.
    pub batch: i32,
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

/// Reads a range; calls `progress` with the bytes of each batch.
pub async fn dump<S: PartSink>(
    member: &Member,
    job: &Job<'_>,
    into: &S,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Outcome> {
    let path = data_path(job.id, job.partition.number);
    let info = PartInfo { path, kind: PartKind::File(Chunking::Content), mode: None };
    let mut part = into.open(info).await.map_err(Error::Port)?;
    let mut reader = Reader { member, job, last: None, snapshot: job.snapshot };
    let mut attempts = 0;
    let outcome = loop {
        match reader.read(&mut part, progress).await {
            Ok(()) => break if reader.snapshot.is_some() { Outcome::Exact } else { Outcome::Newer },
            Err(error) => match error.code() {
                Some(NAMESPACE_NOT_FOUND) => break Outcome::Gone,
                Some(code) if NO_SNAPSHOT.contains(&code) && reader.snapshot.is_some() => {
                    tracing::debug!(%error, "{}: read as it is now", job.collection.ns());
                    reader.snapshot = None;
                }
                Some(code) if CURSOR_LOST.contains(&code) && reader.can_go_on() && attempts < READ_ATTEMPTS => {
                    attempts += 1;
                }
                _ => return Err(error),
            },
        }
        if !reader.can_go_on() {
            return Err(Error::Base(format!("{} cannot be read from the middle on", job.collection.ns())));
        }
    };
    part.finish().await.map_err(Error::Port)?;
    Ok(outcome)
}

struct Reader<'a> {
    member: &'a Member,
    job: &'a Job<'a>,
    /// The last value of `_id` that was written.
    last: Option<Bson>,
    snapshot: Option<Stamp>,
}

impl Reader<'_> {
    /// Without an order of its own, a collection is read from its begin or not at all.
    fn can_go_on(&self) -> bool {
        self.last.is_none() || self.job.collection.has_plain_ids()
    }

    async fn read<W: PartWriter>(&mut self, part: &mut W, progress: &(dyn Fn(u64) + Send + Sync)) -> Result<()> {
        let doing = format!("reading {}", self.job.collection.ns());
        let command = RawDocumentBuf::try_from(&self.command()).map_err(|error| Error::answer(&doing, error))?;
        let database = self.member.database(&self.job.collection.db);
        let mut cursor = database
            .run_raw_cursor_command(command)
            .batch_size(self.job.batch.unsigned_abs())
            .batch()
            .await
            .doing(&doing)?;
        let mut seen = self.last.clone();
        while let Some(batch) = cursor.try_next().await.doing(&doing)? {
            let mut bytes = Vec::with_capacity(batch.as_raw_document().as_bytes().len());
            let mut last = None;
            for value in batch.doc_slices().doing(&doing)? {
                let value = value.map_err(|error| Error::answer(&doing, error))?;
                let document = value.as_document().ok_or_else(|| Error::answer(&doing, "a document is none"))?;
                let id = document.get("_id").map_err(|error| Error::answer(&doing, error))?;
                // The bound is inclusive: after a lost cursor the first document is one that we have.
                if let Some(seen) = seen.take()
                    && id.is_some_and(|id| Bson::try_from(id).is_ok_and(|id| id == seen))
                {
                    continue;
                }
                bytes.extend_from_slice(document.as_bytes());
                last = id.or(last);
            }
            part.write(&bytes).await.map_err(Error::Port)?;
            progress(bytes.len() as u64);
            if let Some(id) = last {
                self.last = Some(Bson::try_from(id).map_err(|error| Error::answer(&doing, error))?);
            }
        }
        Ok(())
    }

    fn command(&self) -> Document {
        let uuid = bson::Uuid::from_bytes(self.job.id);
        let mut command = doc! { "find": uuid, "batchSize": self.job.batch, "noCursorTimeout": true };
        if self.job.collection.has_plain_ids() {
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
