//! Restores a base and replays log onto it, into an empty server.
//!
//! 1. The target is claimed: empty, or left by an interruption of the same restore.
//! 2. Nothing that cannot be replayed lies in the way: told before the target is touched.
//! 3. Collections are made and documents inserted, in parallel, without indexes.
//! 4. Log is applied up to the cut ([`crate::replay`]).
//! 5. Indexes are built, and the note of the restore is removed, last: before that nobody takes it for done.

mod budget;
mod collections;
mod documents;
pub mod server;
pub mod target;

use bson::Document;
use pitr_core::ports::{BaseReader, Recovery, Restorer, SegmentReader};
use pitr_core::{PortError, Span};

use self::documents::Documents;
use self::target::Stage;
use crate::base::catalog::{Collection, Header, catalog_path};
use crate::connect::{Member, Prefer, Settings};
use crate::engine::{Mongo, facts};
use crate::error::{Error, Result};
use crate::limits::{LARGE_SEGMENT, LOG_MEMORY};
use crate::position::{MongoPosition, Stamp};
use crate::replay::model::Model;
use crate::replay::progress::{Identity, Progress, Reached, save};
use crate::replay::{Counts, Range, Replay};
use crate::scan::unreplayable;

/// Restores into a server that runs.
#[derive(Debug)]
pub struct MongoRestore {
    target: Settings,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReport {
    /// Where the replay stopped.
    pub reached: MongoPosition,
    /// The server.
    pub host: String,
    /// Collections, time series and views of the base.
    pub collections: usize,
    /// Documents of the base.
    pub documents: u64,
    /// Bytes of these documents.
    pub bytes: u64,
    /// What the replay did.
    pub log: Counts,
    /// Indexes that were built.
    pub indexes: u64,
    /// Transactions that were open at the cut, and of which nothing is left.
    pub undecided: usize,
    /// True if an interrupted restore was taken up again.
    pub resumed: bool,
}

impl MongoRestore {
    /// A restore into this server or replica set.
    pub fn new(target: Settings) -> Self {
        Self { target }
    }

    /// Performs the restore. `recovery.log` must consist of single segments.
    pub async fn run<R: SegmentReader + BaseReader>(
        self,
        recovery: &Recovery<MongoPosition>,
        from: &R,
    ) -> Result<RestoreReport> {
        let (header, catalog) = read_catalog(recovery, from).await?;
        refuse_unreplayable(recovery, from, header.at.stamp).await?;
        let target = Member::connect(&self.target, Prefer::Primary).await?;
        refuse_older(&target, &header)?;
        let identity = Identity {
            base: recovery.base.to_string(),
            lineage: recovery.lineage.to_string(),
            cut: recovery.cut.stamp.to_string(),
        };
        let stage = target::claim(&target, &identity).await?;
        target::stop_expiry(&target).await?;

        let (reached_before, (documents, bytes)) = match stage {
            Stage::Log(reached) => (reached, (0, 0)),
            Stage::New | Stage::Base => {
                let loaded = lay_down(&target, &catalog, recovery, from, stage == Stage::Base).await?;
                let reached = Reached::exactly(header.at.stamp);
                save(&target, &identity, Some(reached), true).await?;
                (reached, loaded)
            }
        };
        let progress = Progress::new(target.clone(), identity.clone(), reached_before);
        let replayed = replay(&target, progress, &catalog, header.at.stamp, recovery, from).await?;
        // Once there are indexes, nothing may be applied again: on the way through other states they would not hold.
        save(&target, &identity, Some(Reached::exactly(recovery.cut.stamp.previous())), true).await?;
        let indexes = collections::build_indexes(&target, replayed.model()).await?;
        target::finish(&target).await?;
        Ok(RestoreReport {
            reached: reached(recovery, &replayed, header.at.after()),
            host: target.host,
            collections: catalog.len(),
            documents,
            bytes,
            log: replayed.counts(),
            indexes,
            undecided: replayed.undecided(),
            resumed: stage != Stage::New,
        })
    }
}

impl Restorer for MongoRestore {
    type Engine = Mongo;

    async fn restore<R: SegmentReader + BaseReader>(
        self,
        recovery: &Recovery<MongoPosition>,
        from: &R,
    ) -> Result<Option<MongoPosition>, PortError> {
        Ok(Some(self.run(recovery, from).await?.reached))
    }
}

/// The catalog of the base, part by part.
async fn read_catalog<R: BaseReader>(
    recovery: &Recovery<MongoPosition>,
    from: &R,
) -> Result<(Header, Vec<Collection>)> {
    let mut header = None;
    let mut collections = Vec::new();
    for number in 0.. {
        let Some(part) = from.small_part(&recovery.base, &catalog_path(number)).await.map_err(Error::Port)? else {
            break;
        };
        let mut rest = &part[..];
        while !rest.is_empty() {
            let document = Document::from_reader(&mut rest)
                .map_err(|error| Error::Base(format!("its catalog cannot be read: {error}")))?;
            match &header {
                None => header = Some(Header::from_document(&document)?),
                Some(_) => collections.push(Collection::from_document(&document)?),
            }
        }
    }
    let header = header.ok_or_else(|| Error::Base("it has no catalog".to_owned()))?;
    Ok((header, collections))
}

/// A server cannot take what a later one wrote.
fn refuse_older(target: &Member, header: &Header) -> Result<()> {
    let compatibility = header.compatibility.split_once('.');
    let source = compatibility.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    match source {
        Some(source) if (target.version.0, target.version.1) < source => Err(Error::Target {
            what: format!("{} runs {}, the source was of {}", target.host, target.version_text(), header.compatibility),
            hint: "restore into a server of the same version or a later one".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Looks into the segments whose headers say that they hold something unknown.
async fn refuse_unreplayable<R: SegmentReader>(
    recovery: &Recovery<MongoPosition>,
    from: &R,
    base: Stamp,
) -> Result<()> {
    for (span, end) in parts(&recovery.log).into_iter().filter(|(span, _)| span.facts.contains_key(facts::UNKNOWN)) {
        if let Some(refusal) = unreplayable(&segment(span, from).await?, base, end.or_earlier(recovery.cut))? {
            return Err(refusal);
        }
    }
    Ok(())
}

/// Segments, and where each ends to count: what follows of a history that is left at a fork is not of this path.
pub fn parts(log: &[Span<MongoPosition>]) -> Vec<(&Span<MongoPosition>, MongoPosition)> {
    let mut parts = Vec::with_capacity(log.len());
    let (mut child, mut fork) = (None, None);
    for span in log.iter().rev() {
        if let Some((lineage, start)) = child.replace((&span.lineage, span.start))
            && *lineage != span.lineage
        {
            fork = Some(start);
        }
        parts.push((span, fork.map_or(span.end, |fork| fork.or_earlier(span.end))));
    }
    parts.reverse();
    parts
}

async fn segment<R: SegmentReader>(span: &Span<MongoPosition>, from: &R) -> Result<bytes::Bytes> {
    let bytes = from.segment(&span.lineage, &span.first).await.map_err(Error::Port)?;
    bytes.ok_or_else(|| Error::Base(format!("segment {} of the plan is not in the archive", span.first)))
}

async fn lay_down<R: BaseReader>(
    target: &Member,
    catalog: &[Collection],
    recovery: &Recovery<MongoPosition>,
    from: &R,
    again: bool,
) -> Result<(u64, u64)> {
    collections::create(target, catalog).await?;
    let documents = Documents::new(target, catalog, again);
    let poured = from.pour(&recovery.base, &|part| part.path.starts_with("data/"), &documents).await;
    match poured {
        Ok(()) => documents.finish().await,
        // A worker knows better why the archive could not go on.
        Err(error) => Err(documents.failure().await.unwrap_or(Error::Port(error))),
    }
}

async fn replay<R: SegmentReader>(
    target: &Member,
    progress: Progress,
    catalog: &[Collection],
    base: Stamp,
    recovery: &Recovery<MongoPosition>,
    from: &R,
) -> Result<Replay> {
    let range = Range { base, before: progress.reached(), cut: recovery.cut };
    let mut replay = Replay::new(target.clone(), Model::of_base(catalog), range, progress);
    let mut ahead = None;
    let parts = parts(&recovery.log);
    for (number, (span, end)) in parts.iter().enumerate() {
        let bytes = match ahead.take() {
            Some(read) => read?,
            None => {
                if span.bytes > LARGE_SEGMENT {
                    replay.settle().await?;
                }
                segment(span, from).await?
            }
        };
        let next = parts.get(number + 1).filter(|(next, _)| span.bytes + next.bytes <= LOG_MEMORY);
        let read = async {
            match next {
                Some((next, _)) => Some(segment(next, from).await),
                None => None,
            }
        };
        let (more, read) = tokio::join!(replay.feed(&bytes, end.stamp), read);
        let more = more?;
        if !more {
            break;
        }
        // That it cannot be read is a failure only for a log that goes on with it.
        ahead = read;
        replay.note_if_due().await?;
    }
    replay.settle().await?;
    Ok(replay)
}

/// The cut itself, if the log was seen to reach it.
fn reached(recovery: &Recovery<MongoPosition>, replay: &Replay, base: MongoPosition) -> MongoPosition {
    let covered = recovery.log.last().is_some_and(|span| recovery.cut <= span.end);
    let last = replay.last().map_or(base, |last| last.after());
    if covered && last <= recovery.cut { recovery.cut } else { last }
}
