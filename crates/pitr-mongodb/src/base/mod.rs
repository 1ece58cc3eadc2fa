//! Takes a base: a logical dump, parallel, of one cluster time.
//!
//! 1. The catalog, and a cluster time of which it is true ([`inventory`]).
//! 2. Every collection, large ones in several ranges of `_id` ([`partition`]), read as of that time ([`dump`]).
//!    Where a server cannot do so (before 5.0, capped collections, history that is gone), documents are read as they
//!    are, and the log from the cluster time to the end of the reading makes them agree.
//! 3. The catalog's parts, last: they say how each collection was read.
//!
//! The same documents always give the same bytes, so a collection that did not change costs next to nothing in
//! the archive's chunk store.

pub mod catalog;
mod dump;
pub mod inventory;
mod listing;
pub mod partition;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use pitr_core::ports::{BackupRecord, BaseBackup, Chunking, PartInfo, PartKind, PartSink, PartWriter};
use pitr_core::{Facts, PortError, Timestamp};
use tokio::sync::Semaphore;

use self::catalog::{Collection, CollectionId, Header, Read, catalog_path};
use self::dump::{Job, Outcome, dump};
use crate::connect::{Member, Prefer, Settings, compatibility, lineage_facts, oplog_bounds};
use crate::engine::{Mongo, facts};
use crate::error::{Error, Result};
use crate::limits::{CATALOG_PART, DUMP_CONNECTIONS, READ_MEMORY};
use crate::position::{MongoPosition, Stamp};

/// Bytes done, and about how many there are.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// Takes a base of a replica set.
pub struct MongoBackup {
    settings: Settings,
    progress: Option<Progress>,
}

/// What was taken, for screens.
#[derive(Debug, Clone)]
pub struct BackupReport {
    /// Facts of the lineage, for its registration.
    pub lineage_facts: Facts,
    /// Collections, views included.
    pub collections: usize,
    /// Collections that were not read at the cluster time.
    pub newer: Vec<String>,
    /// The member that was read.
    pub host: String,
}

impl MongoBackup {
    /// A backup from the member that suits best.
    pub fn new(settings: Settings) -> Self {
        Self { settings, progress: None }
    }

    /// Reports how far it is.
    #[must_use]
    pub fn on_progress(mut self, progress: Progress) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Takes the base.
    pub async fn run<S: PartSink>(self, into: &S) -> Result<(BackupRecord<MongoPosition>, BackupReport)> {
        let begun = Timestamp::from(std::time::SystemTime::now());
        let member = Member::connect(&self.settings, Prefer::Secondary).await?;
        let (lineage, lineage_facts) = lineage_facts(&member).await?;
        let inventory = inventory::take(&member).await?;
        let header =
            Header { at: inventory.at, version: member.version_text(), compatibility: compatibility(&member).await? };
        let mut collections = inventory.collections;
        self.documents(&member, &mut collections, inventory.at.stamp, into).await?;
        let newer: Vec<String> = collections.iter().filter(|c| c.read != Read::Snapshot).map(Collection::ns).collect();
        write_catalog(&header, &collections, into).await?;

        let until = collections.iter().filter_map(|c| if let Read::Until(at) = c.read { Some(at) } else { None }).max();
        let read = if until.is_some() { "fuzzy" } else { facts::READ_AT_ONE_TIME };
        let base_facts = Facts::from([
            (facts::READ.to_owned(), read.to_owned()),
            (facts::AT.to_owned(), inventory.at.stamp.to_string()),
            (facts::UNTIL.to_owned(), until.unwrap_or(inventory.at.stamp).to_string()),
            (facts::VERSION.to_owned(), header.version.clone()),
            (facts::COMPATIBILITY.to_owned(), header.compatibility.clone()),
        ]);
        let consistent = until.map_or(inventory.at.after(), |until| MongoPosition { term: None, stamp: until.next() });
        let ended = Timestamp::from(std::time::SystemTime::now());
        let record =
            BackupRecord { lineage, start: inventory.start, consistent, taken: (begun, ended), facts: base_facts };
        let report = BackupReport { lineage_facts, collections: collections.len(), newer, host: member.host };
        Ok((record, report))
    }

    /// Reads all documents, several ranges at once, and notes for each collection how it was read.
    async fn documents<S: PartSink>(
        &self,
        member: &Member,
        collections: &mut [Collection],
        at: Stamp,
        into: &S,
    ) -> Result<()> {
        let can_snapshot = member.version.0 >= 5;
        let mut jobs = Vec::new();
        let mut parts: BTreeMap<CollectionId, u32> = BTreeMap::new();
        let mut total = 0;
        for collection in collections.iter().filter(|collection| collection.has_documents()) {
            let Some(id) = collection.id else { continue };
            let size = partition::size(member, collection).await?;
            total += size.bytes;
            let snapshot = (can_snapshot && !collection.is_capped()).then_some(at);
            let ranges = partition::partitions(member, collection, id, size).await?;
            parts.insert(id, u32::try_from(ranges.len()).unwrap_or(u32::MAX));
            let job = |partition| Job {
                db: collection.db.clone(),
                ns: collection.ns(),
                id,
                plain_ids: collection.has_plain_ids(),
                partition,
                snapshot,
                batch: size.batch(),
                batch_bytes: size.batch_bytes(),
            };
            jobs.extend(ranges.into_iter().map(job));
        }
        let progress = self.counting(total);
        let room = Arc::new(Semaphore::new(READ_MEMORY));
        let mut reads: Vec<BoxFuture<'_, Result<(CollectionId, Outcome)>>> = Vec::with_capacity(jobs.len());
        for job in jobs {
            let (progress, room) = (Arc::clone(&progress), Arc::clone(&room));
            reads.push(Box::pin(async move { Ok((job.id, dump(member, job, into, room, progress).await?)) }));
        }
        let outcomes: Vec<_> = stream::iter(reads).buffer_unordered(DUMP_CONNECTIONS).try_collect().await?;
        self.note(member, collections, &parts, &outcomes).await
    }

    /// Adds up what several readers have read.
    fn counting(&self, total: u64) -> dump::Progress {
        let (done, progress) = (AtomicU64::new(0), self.progress.clone());
        Arc::new(move |bytes| {
            let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            if let Some(progress) = &progress {
                progress(done, total.max(done));
            }
        })
    }

    async fn note(
        &self,
        member: &Member,
        collections: &mut [Collection],
        parts: &BTreeMap<CollectionId, u32>,
        outcomes: &[(CollectionId, Outcome)],
    ) -> Result<()> {
        let inexact = |id| outcomes.iter().any(|(of, outcome)| *of == id && *outcome != Outcome::Exact);
        let (_, end) = oplog_bounds(member).await?;
        for collection in collections {
            let Some(id) = collection.id else { continue };
            collection.parts = parts.get(&id).copied().unwrap_or(0);
            if inexact(id) {
                collection.read = Read::Until(end.stamp);
            }
        }
        Ok(())
    }
}

impl BaseBackup for MongoBackup {
    type Engine = Mongo;

    async fn take<S: PartSink>(self, into: &S) -> Result<BackupRecord<MongoPosition>, PortError> {
        Ok(self.run(into).await?.0)
    }
}

/// Writes the catalog in parts that can each be read whole.
async fn write_catalog<S: PartSink>(header: &Header, collections: &[Collection], into: &S) -> Result<()> {
    let encode = |document: bson::Document| {
        document.to_vec().map_err(|error| Error::Base(format!("its catalog cannot be written: {error}")))
    };
    let mut part = encode(header.to_document())?;
    let mut number = 0;
    for collection in collections {
        let document = encode(collection.to_document())?;
        if part.len() + document.len() > CATALOG_PART {
            write_part(number, &std::mem::take(&mut part), into).await?;
            number += 1;
        }
        part.extend(document);
    }
    write_part(number, &part, into).await
}

async fn write_part<S: PartSink>(number: u32, bytes: &[u8], into: &S) -> Result<()> {
    let info = PartInfo { path: catalog_path(number), kind: PartKind::File(Chunking::Content), mode: None };
    let mut part = into.open(info).await.map_err(Error::Port)?;
    part.write(bytes).await.map_err(Error::Port)?;
    part.finish().await.map_err(Error::Port)?;
    Ok(())
}
