//! Roll-ups: the headers of a whole group in one object, so that a catalog reads one instead of hundreds.
//!
//! A roll-up can be deleted at any time: it only saves reads. It is never encrypted, since it holds nothing
//! that the plain headers of its segments do not say.

use std::collections::BTreeMap;

use pitr_core::{Engine, LineageId, Position, SegmentName, Span};
use serde::{Deserialize, Serialize};

use crate::envelope::Header;
use crate::error::{Error, Result};
use crate::layout::leaf;
use crate::limits;
use crate::objects::{Kind, Payload, Put};
use crate::records::{RunFacts, SegmentFacts};
use crate::source::{SourceArchive, expect_kind, segment_span};

/// Facts of a roll-up: its group, and one record per contiguous run of segments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct RollupFacts {
    lineage: LineageId,
    group: String,
    segments: u64,
    runs: Vec<RunFacts>,
}

/// One entry of the content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    #[serde(flatten)]
    segment: SegmentFacts,
}

/// What the header of a roll-up says.
pub(crate) struct Summary<P> {
    pub runs: Vec<Span<P>>,
    /// Digest over the names of each run.
    pub names: Vec<String>,
}

impl<P> Summary<P> {
    /// True if exactly these names stand behind the run, according to `listed`, the names of a real listing.
    pub fn confirms(&self, run: &Span<P>, listed: &[SegmentName]) -> bool {
        let inside = listed.iter().filter(|name| run.first <= **name && **name <= run.last);
        let known = self.runs.iter().position(|known| known.first == run.first && known.last == run.last);
        known.and_then(|n| self.names.get(n)).is_some_and(|names| *names == names_digest(inside))
    }
}

fn names_digest<'a>(names: impl Iterator<Item = &'a SegmentName>) -> String {
    let mut hasher = blake3::Hasher::new();
    for name in names {
        hasher.update(name.leaf().as_bytes()).update(b"\n");
    }
    hex::encode(hasher.finalize().as_bytes())
}

impl SourceArchive {
    /// Writes the roll-up of a group, which the caller knows to be complete.
    ///
    /// A group whose newest roll-up agrees with its listing is left alone ([`Put::Identical`]); otherwise a new
    /// generation is written. `None` if the group has no segments. Needs no identity.
    pub async fn roll_up<E: Engine>(&self, lineage: &LineageId, group: &str) -> Result<Option<Put>> {
        let spans = self.group_spans::<E::Position>(lineage, group).await?;
        if spans.is_empty() {
            return Ok(None);
        }
        let first = self.newest_generation(lineage, group).await?;
        if let Some(generation) = first
            && self.rollup_entries::<E::Position>(lineage, group, generation).await? == Some(spans.clone())
        {
            return Ok(Some(Put::Identical));
        }
        let (facts, content) = describe::<E>(lineage, group, &spans);
        let content = serde_json::to_vec(&content).map_err(|e| Error::internal(group, e))?;
        let plain = self.objects().unencrypted();
        for generation in first.map_or(0, |n| n + 1)..limits::MAX_ROLLUP_GENERATIONS {
            let key = self.layout().rollup(lineage, group, generation);
            match plain.put(Kind::Rollup, &key, &facts, Payload::Raw(content.clone().into())).await {
                // Another writer was here a moment ago and saw another listing: the next generation settles it.
                Err(Error::Conflict { .. }) => {}
                other => return other.map(Some),
            }
        }
        Ok(Some(Put::Identical))
    }

    /// Rolls up every group of a lineage that has a later one and no roll-up. Returns how many were written.
    pub async fn roll_up_complete<E: Engine>(&self, lineage: &LineageId) -> Result<u64> {
        let mut groups = self.groups(lineage).await?;
        groups.pop();
        let known = self.rollup_generations(lineage).await?;
        let mut written = 0;
        for group in groups.iter().filter(|group| !known.contains_key(*group)) {
            if let Some(Put::Stored { .. }) = self.roll_up::<E>(lineage, group).await? {
                written += 1;
            }
        }
        Ok(written)
    }

    /// Every segment of a group by a real listing and its own header, in log order.
    pub(crate) async fn group_spans<P: Position>(&self, lineage: &LineageId, group: &str) -> Result<Vec<Span<P>>> {
        let names = self.group_names(lineage, group).await?;
        self.spans_of(lineage, &names).await
    }

    /// The spans of these segments from their headers; what is gone since the listing is left out.
    pub(crate) async fn spans_of<P: Position>(
        &self,
        lineage: &LineageId,
        names: &[SegmentName],
    ) -> Result<Vec<Span<P>>> {
        let keys: Vec<String> = names.iter().map(|name| self.layout().segment(lineage, name)).collect();
        let headers = self.objects().headers(&keys, limits::READ_CONCURRENCY).await?;
        headers.iter().flatten().map(segment_span).collect()
    }

    /// The newest generation of every roll-up of a lineage, by one listing.
    pub(crate) async fn rollup_generations(&self, lineage: &LineageId) -> Result<BTreeMap<String, u32>> {
        let mut newest = BTreeMap::new();
        for entry in self.objects().list(&self.layout().rollups(lineage)).await? {
            // What is not named as a roll-up is none; a roll-up only saves reads.
            let Some((group, generation)) = leaf(&entry.key).rsplit_once('.') else { continue };
            let Ok(generation) = generation.parse::<u32>() else { continue };
            let known = newest.entry(group.to_owned()).or_insert(generation);
            *known = generation.max(*known);
        }
        Ok(newest)
    }

    /// Finds the newest generation of one roll-up without listing those of all groups.
    pub(crate) async fn newest_generation(&self, lineage: &LineageId, group: &str) -> Result<Option<u32>> {
        let mut newest = None;
        for generation in 0..limits::MAX_ROLLUP_GENERATIONS {
            if self.objects().store().get_prefix(&self.layout().rollup(lineage, group, generation), 1).await?.is_none()
            {
                break;
            }
            newest = Some(generation);
        }
        Ok(newest)
    }

    /// What the header of a roll-up says; `None` if there is none that can be used.
    pub(crate) async fn rollup_summary<P: Position>(
        &self,
        lineage: &LineageId,
        group: &str,
        generation: u32,
    ) -> Result<Option<Summary<P>>> {
        let key = self.layout().rollup(lineage, group, generation);
        match self.objects().header(&key).await {
            Ok(Some(header)) => usable(&key, summary(&header, lineage, group)),
            Ok(None) => Ok(None),
            Err(error) => usable(&key, Err(error)),
        }
    }

    /// Every segment that a roll-up knows, in log order; `None` if there is none that can be used.
    pub(crate) async fn rollup_entries<P: Position>(
        &self,
        lineage: &LineageId,
        group: &str,
        generation: u32,
    ) -> Result<Option<Vec<Span<P>>>> {
        let key = self.layout().rollup(lineage, group, generation);
        let object = match self.objects().get(&key).await {
            Ok(Some(object)) => object,
            Ok(None) => return Ok(None),
            Err(error) => return usable(&key, Err(error)),
        };
        usable(&key, entries(&key, &object.header, &object.raw))
    }
}

/// A damaged roll-up is as good as none: the segments' own headers say the same. All other errors stay errors.
fn usable<T>(key: &str, outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error @ (Error::Corrupt { .. } | Error::Newer { .. })) => {
            tracing::warn!(key, error = %error, "a roll-up cannot be used, reading the headers of its segments");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn summary<P: Position>(header: &Header, lineage: &LineageId, group: &str) -> Result<Summary<P>> {
    expect_kind(header, Kind::Rollup)?;
    let facts: RollupFacts = header.facts()?;
    if facts.lineage != *lineage || facts.group != group {
        return Err(Error::corrupt(&header.key, "it is the roll-up of another group"));
    }
    let names = facts.runs.iter().map(|run| run.names_digest.clone()).collect();
    let runs = facts.runs.into_iter().map(|run| run.span(&header.key, lineage, group)).collect::<Result<_>>()?;
    Ok(Summary { runs, names })
}

fn entries<P: Position>(key: &str, header: &Header, raw: &[u8]) -> Result<Vec<Span<P>>> {
    expect_kind(header, Kind::Rollup)?;
    let entries: Vec<Entry> =
        serde_json::from_slice(raw).map_err(|e| Error::corrupt(key, format!("its content: {e}")))?;
    entries.into_iter().map(|entry| entry.segment.span(key, entry.bytes)).collect()
}

fn describe<E: Engine>(lineage: &LineageId, group: &str, spans: &[Span<E::Position>]) -> (RollupFacts, Vec<Entry>) {
    let runs = runs::<E>(spans);
    let records = runs.iter().map(|run| {
        let inside = spans.iter().filter(|span| run.first <= span.first && span.last <= run.last);
        RunFacts {
            first: run.first.leaf().to_owned(),
            last: run.last.leaf().to_owned(),
            count: run.count,
            start: run.start.to_string(),
            end: run.end.to_string(),
            bytes: run.bytes,
            commits: run.commits.clone(),
            marks: run.marks,
            facts: run.facts.clone(),
            names_digest: names_digest(inside.map(|span| &span.first)),
        }
    });
    let facts = RollupFacts {
        lineage: lineage.clone(),
        group: group.to_owned(),
        segments: spans.len() as u64,
        runs: records.collect(),
    };
    (facts, spans.iter().map(entry).collect())
}

fn entry<P: Position>(span: &Span<P>) -> Entry {
    let segment = SegmentFacts {
        lineage: span.lineage.clone(),
        group: span.first.group().to_owned(),
        leaf: span.first.leaf().to_owned(),
        start: span.start.to_string(),
        end: span.end.to_string(),
        commits: span.commits.clone(),
        marks: span.marks,
        facts: span.facts.clone(),
    };
    Entry { bytes: span.bytes, segment }
}

/// Joins segments in log order into contiguous runs; a run never bridges a hole.
pub(crate) fn runs<E: Engine>(spans: &[Span<E::Position>]) -> Vec<Span<E::Position>> {
    let mut runs: Vec<Span<E::Position>> = Vec::new();
    for next in spans {
        match runs.last_mut() {
            Some(run) if run.continued_by(next) => {
                run.last = next.last.clone();
                run.count += next.count;
                run.end = next.end.clone();
                run.bytes += next.bytes;
                run.commits.extend(&next.commits);
                run.marks += next.marks;
                E::merge_facts(&mut run.facts, &next.facts);
            }
            _ => runs.push(next.clone()),
        }
    }
    runs
}
