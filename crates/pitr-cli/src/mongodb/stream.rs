//! Where the log of a MongoDB source comes from: the oplog of a member of its replica set.

use pitr_archive::SourceArchive;
use pitr_core::{Catalog, ErrorKind, Fork, Gap, GapCause, LineageId, Span};
use pitr_mongodb::connect::Settings;
use pitr_mongodb::engine::facts;
use pitr_mongodb::position::OpTime;
use pitr_mongodb::stream::{Begin, OplogStream, Upstream as Source};
use pitr_mongodb::{Mongo, MongoPosition};

use crate::failure::{During, Failure};
use crate::mongodb::archived::{Archived, archived};
use crate::mongodb::lineage;
use crate::streaming::{Durable, Upstream};

/// A replica set to stream from.
#[derive(Debug)]
pub struct MongoUpstream {
    settings: Settings,
}

impl MongoUpstream {
    /// The replica set behind these settings.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }
}

impl Upstream for MongoUpstream {
    type Engine = Mongo;
    type Stream = OplogStream;

    async fn connect(&mut self, archive: &SourceArchive, _: Durable<MongoPosition>) -> Result<OplogStream, Failure> {
        let source = Source::connect(&self.settings).await?;
        let lineage = lineage::current(archive, &source.lineage, &source.facts).await?;
        let catalog = archive.catalog::<Mongo>().await?;
        let archived = archived(&catalog, &lineage);
        if let Some(last) = archived.last_entry() {
            // A member that lags shows nothing new, and one that was put back is known by what it writes next.
            if source.newest.stamp < last.stamp {
                return Err(source.behind(last).into());
            }
            if source.oldest.stamp <= last.stamp && !source.holds(last).await? {
                let (lineage, cut) = fork(archive, &source, &catalog, lineage, last).await?;
                let begin = resumable(&source, Begin::After(cut)).await?.unwrap_or(Begin::After(cut));
                return Ok(source.stream(begin, None, lineage).await?);
            }
        }
        let begin = begin(&source, &archived).await?;
        Ok(source.stream(begin, archived.until(begin), lineage).await?)
    }

    async fn lost(&mut self, archive: &SourceArchive, removed: &Failure) -> Result<Gap<MongoPosition>, Failure> {
        let source = Source::connect(&self.settings).await?;
        let lineage = lineage::current(archive, &source.lineage, &source.facts).await?;
        let catalog = archive.catalog::<Mongo>().await?;
        let archived = archived(&catalog, &lineage);
        let after = match (archived.end, archived.begin) {
            (Some(end), _) | (None, Begin::After(end)) => end,
            (None, Begin::With(entry)) => after_base(&catalog, &lineage, entry.before()),
            (None, Begin::Newest) => source.newest.before(),
        };
        let oldest = source.oldest.before();
        if oldest <= after {
            let what = format!("the oplog has the log from {after} on again");
            return Err(Failure::new(ErrorKind::Unreachable, what));
        }
        let before = archived.until(Begin::After(after)).filter(|known| *known <= oldest).unwrap_or(oldest);
        Ok(Gap {
            lineage: lineage.clone(),
            after,
            before: Some(before),
            after_time: archived.reaches,
            before_time: None,
            cause: GapCause::RemovedByServer(removed.message.clone()),
        })
    }
}

/// Where to go on: with the open segment from its begin, or, if the source no longer has that, behind what is there of it.
async fn begin(source: &Source, archived: &Archived) -> Result<Begin, Failure> {
    if let Some(begin) = resumable(source, archived.begin).await? {
        return Ok(begin);
    }
    let behind = match archived.end {
        Some(end) => resumable(source, Begin::After(end)).await?,
        None => None,
    };
    // The stream will find out what is wrong.
    Ok(behind.unwrap_or(archived.begin))
}

/// The begin, if the source has the entry that proves it: the one before the cut, or the one that stands right at it.
async fn resumable(source: &Source, begin: Begin) -> Result<Option<Begin>, Failure> {
    let Begin::After(cut) = begin else {
        let there = match begin {
            Begin::With(entry) => source.holds(entry).await?,
            _ => true,
        };
        return Ok(there.then_some(begin));
    };
    if let Some(last) = cut.last_entry()
        && source.holds(last).await?
    {
        return Ok(Some(begin));
    }
    match cut.term {
        Some(term) => {
            let next = OpTime { term, stamp: cut.stamp };
            Ok(source.holds(next).await?.then_some(Begin::With(next)))
        }
        None => Ok(None),
    }
}

/// Without log, what is known ends with the newest base that needs none.
fn after_base(catalog: &Catalog<MongoPosition>, lineage: &LineageId, start: MongoPosition) -> MongoPosition {
    let whole = |read: &String| read == facts::READ_AT_ONE_TIME;
    let bases = catalog.bases.iter().filter(|base| base.lineage == *lineage && base.start == start);
    let whole_bases = bases.filter(|base| base.facts.get(facts::READ).is_some_and(whole));
    whole_bases.map(|base| base.consistent).max_by_key(|cut| cut.stamp).unwrap_or(start)
}

/// Finds the newest cut that both have, and registers the history that goes on from there.
///
/// A set goes another way only after an election. So from the newest entry that both are known to have, they are the same
/// up to the end of its term in the log of the source.
async fn fork(
    archive: &SourceArchive,
    source: &Source,
    catalog: &Catalog<MongoPosition>,
    parent: LineageId,
    last: OpTime,
) -> Result<(LineageId, MongoPosition), Failure> {
    let mut behind = last;
    for known in known_entries(archive, catalog, &parent).await? {
        if !source.holds(known).await? {
            behind = known;
            continue;
        }
        let end = source.last_of_term(known).await?;
        let cut = if end.stamp < behind.stamp { end.after() } else { known.after() };
        // Its newest entry names the history: two that leave at one cut are told apart.
        let OpTime { term, stamp } = source.newest;
        let id = LineageId::new(format!("{}-{term}-{stamp}", source.lineage)).during("naming the new history")?;
        tracing::warn!(%last, %cut, lineage = %id, "the source lost entries that are archived: a new history begins");
        let fork = Fork { parent, parent_at: cut, child_at: cut };
        archive.put_lineage(&id, Some(&fork), &source.facts).await.during(format!("registering lineage {id}"))?;
        return Ok((id, cut));
    }
    Err(Failure::new(
        ErrorKind::Refused,
        format!("the source does not have {last}, the last entry of the archive, and nothing before it either"),
    )
    .next("take a new base of it under a source of another name"))
}

/// Entries of a history that the plain headers name, newest first: those at both ends of each segment.
async fn known_entries(
    archive: &SourceArchive,
    catalog: &Catalog<MongoPosition>,
    lineage: &LineageId,
) -> Result<Vec<OpTime>, Failure> {
    let mut segments: Vec<Span<MongoPosition>> =
        catalog.tails.iter().filter(|t| t.lineage == *lineage).cloned().collect();
    for span in catalog.spans.iter().filter(|span| span.lineage == *lineage) {
        match span.is_single() {
            true => segments.push(span.clone()),
            false => segments.extend(archive.expand::<Mongo>(span).await?),
        }
    }
    let mut known: Vec<OpTime> = Vec::new();
    for segment in segments {
        known.extend(segment.end.last_entry());
        let first = segment.facts.get(facts::FIRST).and_then(|first| first.parse::<MongoPosition>().ok());
        known.extend(first.and_then(|first| Some(OpTime { term: first.term?, stamp: first.stamp })));
    }
    known.sort_by_key(|entry| std::cmp::Reverse(entry.stamp));
    known.dedup();
    Ok(known)
}
