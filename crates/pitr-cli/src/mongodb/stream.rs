//! Where the log of a MongoDB source comes from: the oplog of a member of its replica set.

use pitr_archive::SourceArchive;
use pitr_core::{Catalog, ErrorKind, Fork, Gap, GapCause, LineageId, Span};
use pitr_mongodb::connect::Settings;
use pitr_mongodb::position::OpTime;
use pitr_mongodb::stream::{Begin, OplogStream, Upstream as Source};
use pitr_mongodb::{Mongo, MongoPosition};

use crate::failure::{During, Failure};
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
        let begin = begin(&catalog, &lineage);
        if let Begin::After(cut) = begin
            && let Some(last) = cut.last_entry()
            && is_diverged(&source, last).await?
        {
            let (lineage, cut) = fork(archive, &source, &catalog, lineage, last).await?;
            return Ok(source.stream(Begin::After(cut), lineage).await?);
        }
        Ok(source.stream(begin, lineage).await?)
    }

    async fn lost(&mut self, archive: &SourceArchive, removed: &Failure) -> Result<Gap<MongoPosition>, Failure> {
        let source = Source::connect(&self.settings).await?;
        let lineage = lineage::current(archive, &source.lineage, &source.facts).await?;
        let catalog = archive.catalog::<Mongo>().await?;
        let last = log(&catalog, &lineage).max_by_key(|span| span.end.stamp);
        let after = match (last, begin(&catalog, &lineage)) {
            (Some(span), _) => span.end,
            (None, Begin::After(cut)) => cut,
            (None, Begin::With(entry)) => entry.before(),
            (None, Begin::Newest) => source.newest.before(),
        };
        if source.oldest.before() <= after {
            let what = format!("the oplog has the log from {after} on again");
            return Err(Failure::new(ErrorKind::Unreachable, what));
        }
        Ok(Gap {
            lineage: lineage.clone(),
            after,
            before: Some(source.oldest.before()),
            after_time: last.and_then(|span| span.commits.reaches),
            before_time: None,
            cause: GapCause::RemovedByServer(removed.message.clone()),
        })
    }
}

fn log<'a>(
    catalog: &'a Catalog<MongoPosition>,
    lineage: &'a LineageId,
) -> impl Iterator<Item = &'a Span<MongoPosition>> {
    catalog.spans.iter().chain(&catalog.tails).filter(move |span| span.lineage == *lineage)
}

/// Where the first segment begins that the archive lacks.
///
/// The open segment, which is only there as a tail, is read again from its begin: the same bytes.
fn begin(catalog: &Catalog<MongoPosition>, lineage: &LineageId) -> Begin {
    let own = |span: &&Span<MongoPosition>| span.lineage == *lineage;
    let sealed = catalog.spans.iter().filter(own).map(|span| span.end).max_by_key(|end| end.stamp);
    let open = catalog.tails.iter().filter(own).map(|span| span.start).min_by_key(|start| start.stamp);
    let gaps = catalog.gaps.iter().filter(|gap| gap.lineage == *lineage);
    let behind_gap = gaps.filter_map(|gap| gap.before).max_by_key(|before| before.stamp);
    let fork = catalog.lineage(lineage).and_then(|lineage| lineage.fork.as_ref()).map(|fork| fork.child_at);
    let base = catalog.bases.iter().filter(|base| base.lineage == *lineage);
    let newest_base = base.map(|base| base.start).max_by_key(|start| start.stamp);
    let with = |cut: MongoPosition| Begin::With(OpTime { term: cut.term.unwrap_or(-1), stamp: cut.stamp });
    match (sealed, behind_gap) {
        (sealed, Some(before)) if sealed.is_none_or(|end| end <= before) => with(before),
        (Some(end), _) => Begin::After(end),
        (None, _) => match (fork, open, newest_base) {
            (Some(fork), _, _) => Begin::After(fork),
            (None, Some(start), _) | (None, None, Some(start)) => with(start),
            (None, None, None) => Begin::Newest,
        },
    }
}

/// True if the source has entries where the archive's last one should be, and not that one.
async fn is_diverged(source: &Source, last: OpTime) -> Result<bool, Failure> {
    Ok(source.oldest.stamp <= last.stamp && last.stamp <= source.newest.stamp && !source.holds(last).await?)
}

/// Finds the newest cut that both have, and registers the history that goes on from there.
async fn fork(
    archive: &SourceArchive,
    source: &Source,
    catalog: &Catalog<MongoPosition>,
    parent: LineageId,
    last: OpTime,
) -> Result<(LineageId, MongoPosition), Failure> {
    let mut cuts: Vec<MongoPosition> = Vec::new();
    for span in catalog.spans.iter().filter(|span| span.lineage == parent) {
        match span.is_single() {
            true => cuts.push(span.end),
            false => cuts.extend(archive.expand::<Mongo>(span).await?.iter().map(|segment| segment.end)),
        }
    }
    cuts.sort_by_key(|cut| std::cmp::Reverse(cut.stamp));
    for cut in cuts {
        let Some(entry) = cut.last_entry() else { continue };
        if !source.holds(entry).await? {
            continue;
        }
        let next = source.first_from(cut.stamp).await?.unwrap_or(source.newest);
        // The first entry that differs names the history: two sets that leave at one point are told apart.
        let id = LineageId::new(format!("{}-{}-{}", source.lineage, next.term, next.stamp))
            .during("naming the new history")?;
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
