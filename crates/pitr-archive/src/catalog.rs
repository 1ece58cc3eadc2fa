//! The catalog of a source: what the planner knows, from listings and plain headers.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{self, StreamExt, TryStreamExt};
use pitr_core::{Catalog, Engine, Gap, GapCause, LineageId, Position, SegmentName, Span};

use crate::error::Result;
use crate::limits;
use crate::source::SourceArchive;

/// Spans of one group, and the holes that its roll-up proves.
struct GroupView<P> {
    spans: Vec<Span<P>>,
    gaps: Vec<Gap<P>>,
}

/// One reading of a lineage.
struct LineageView<P> {
    spans: Vec<Span<P>>,
    tails: Vec<Span<P>>,
    gaps: Vec<Gap<P>>,
}

impl<P: Position> LineageView<P> {
    /// Segments before which log is missing that may still be on its way.
    fn behind_holes(&self) -> BTreeSet<SegmentName> {
        let mut log: Vec<&Span<P>> = self.spans.iter().chain(&self.tails).collect();
        log.sort_by(|a, b| a.first.cmp(&b.first));
        let (mut holes, mut behind) = (BTreeSet::new(), 0);
        for (span, next) in log.iter().zip(log.iter().skip(1)).rev() {
            behind += next.count;
            if behind > limits::MAX_OUT_OF_ORDER {
                break;
            }
            if !span.continued_by(next) {
                holes.insert(next.first.clone());
            }
        }
        holes
    }
}

impl<P> From<Vec<Span<P>>> for GroupView<P> {
    fn from(spans: Vec<Span<P>>) -> Self {
        Self { spans, gaps: Vec::new() }
    }
}

impl SourceArchive {
    /// Everything the planner may know of the source. Needs no identity.
    ///
    /// A group with a roll-up costs one small read and becomes one span per contiguous run; one without costs
    /// one small read per segment. The newest groups of each lineage, and those that the listing no longer
    /// shows, are compared with a real listing, and what is gone becomes a gap. [`SourceArchive::confirm`] does
    /// the same for the segments of a plan.
    pub async fn catalog<E: Engine>(&self) -> Result<Catalog<E::Position>> {
        let mut catalog = Catalog {
            lineages: self.lineages().await?,
            bases: crate::base::list::<E>(self.objects(), self.name().as_str()).await?,
            ..Catalog::default()
        };
        for lineage in catalog.lineages.iter().map(|lineage| lineage.id.clone()).collect::<Vec<_>>() {
            let view = self.settled_view::<E>(&lineage).await?;
            catalog.tails.extend(view.tails);
            catalog.spans.extend(view.spans);
            catalog.gaps.extend(view.gaps);
        }
        // After the log: a stream records a gap before it goes on behind it.
        catalog.gaps.extend(self.gaps().await?);
        Ok(catalog)
    }

    /// The log of one lineage, in which a hole is a hole: an earlier version of a stream has two segments on their way, and the second
    /// may arrive first. So near the end only what two readings in a row miss is missing.
    async fn settled_view<E: Engine>(&self, lineage: &LineageId) -> Result<LineageView<E::Position>> {
        let mut view = self.lineage_view::<E>(lineage).await?;
        let mut holes = view.behind_holes();
        for _ in 1..limits::CATALOG_READINGS {
            if holes.is_empty() {
                break;
            }
            tokio::time::sleep(limits::CATALOG_PAUSE).await;
            view = self.lineage_view::<E>(lineage).await?;
            let before = std::mem::replace(&mut holes, view.behind_holes());
            if holes.is_subset(&before) {
                break;
            }
        }
        Ok(view)
    }

    /// The segments behind a span, one span each, in log order.
    pub async fn expand<E: Engine>(&self, span: &Span<E::Position>) -> Result<Vec<Span<E::Position>>> {
        if span.is_single() {
            return Ok(vec![span.clone()]);
        }
        let mut segments = Vec::new();
        for group in self.groups_between(span).await? {
            let known = match self.newest_generation(&span.lineage, &group).await? {
                Some(generation) => self.rollup_entries(&span.lineage, &group, generation).await?,
                None => None,
            };
            segments.extend(match known {
                Some(known) => known,
                None => self.group_spans(&span.lineage, &group).await?,
            });
        }
        segments.retain(|segment| span.first <= segment.first && segment.last <= span.last);
        Ok(segments)
    }

    /// Compares spans with a real listing of their groups; returns the segments that are not there.
    ///
    /// Names only: that the content is whole is checked when it is read.
    pub async fn confirm<E: Engine>(&self, spans: &[Span<E::Position>]) -> Result<Vec<(LineageId, SegmentName)>> {
        let mut groups = BTreeSet::new();
        for span in spans {
            for group in self.groups_between(span).await? {
                groups.insert((span.lineage.clone(), group));
            }
        }
        let missing: Vec<Vec<(LineageId, SegmentName)>> = stream::iter(groups)
            .map(|(lineage, group)| self.missing_in::<E>(spans, lineage, group))
            .buffered(limits::READ_CONCURRENCY)
            .try_collect()
            .await?;
        Ok(missing.concat())
    }

    /// The segments of one group that `spans` promise and a listing does not show.
    async fn missing_in<E: Engine>(
        &self,
        spans: &[Span<E::Position>],
        lineage: LineageId,
        group: String,
    ) -> Result<Vec<(LineageId, SegmentName)>> {
        let listed = self.group_names(&lineage, &group).await?;
        let mut missing = Vec::new();
        let here = |span: &&Span<E::Position>| {
            span.lineage == lineage && span.first.group() <= group.as_str() && group.as_str() <= span.last.group()
        };
        for span in spans.iter().filter(here) {
            let promised = match self.run_is_listed::<E>(span, &group, &listed).await? {
                true => continue,
                // Not sealed yet: its tails must reach as far as they did.
                false if span.is_single() && self.tails_reach(span).await? => continue,
                false => self.expand::<E>(span).await?,
            };
            let names = promised.into_iter().map(|segment| segment.first).filter(|name| name.group() == group);
            missing.extend(names.filter(|name| !listed.contains(name)).map(|name| (lineage.clone(), name)));
        }
        Ok(missing)
    }

    async fn tails_reach<P: Position>(&self, span: &Span<P>) -> Result<bool> {
        let tail = self.tail_span::<P>(&span.lineage, &span.first).await?;
        Ok(tail.is_some_and(|tail| span.end <= tail.end))
    }

    /// The cheap way to confirm a run: the digest over its names, which the header of its roll-up holds.
    async fn run_is_listed<E: Engine>(
        &self,
        span: &Span<E::Position>,
        group: &str,
        listed: &[SegmentName],
    ) -> Result<bool> {
        if span.is_single() {
            return Ok(listed.contains(&span.first));
        }
        let Some(generation) = self.newest_generation(&span.lineage, group).await? else { return Ok(false) };
        let summary = self.rollup_summary::<E::Position>(&span.lineage, group, generation).await?;
        Ok(summary.is_some_and(|summary| summary.confirms(span, listed)))
    }

    async fn groups_between<P: Position>(&self, span: &Span<P>) -> Result<Vec<String>> {
        if span.first.group() == span.last.group() {
            return Ok(vec![span.first.group().to_owned()]);
        }
        let mut groups: BTreeSet<String> = self.groups(&span.lineage).await?.into_iter().collect();
        groups.extend([span.first.group().to_owned(), span.last.group().to_owned()]);
        let inside = |group: &String| span.first.group() <= group.as_str() && group.as_str() <= span.last.group();
        Ok(groups.into_iter().filter(inside).collect())
    }

    /// Spans of one lineage in log order, those that are open, and the holes that roll-ups prove.
    ///
    /// Read from the end of the log to its begin, against the order in which it is written: what was stored before something
    /// that is seen is seen too.
    async fn lineage_view<E: Engine>(&self, lineage: &LineageId) -> Result<LineageView<E::Position>> {
        let newest_tails = self.newest_tail_names(lineage).await?;
        let listed = self.groups(lineage).await?;
        let rollups = self.rollup_generations(lineage).await?;
        let fresh = listed.len().saturating_sub(limits::FRESH_GROUPS);
        let mut groups: BTreeMap<String, bool> = rollups.keys().map(|group| (group.clone(), true)).collect();
        groups.extend(listed.into_iter().enumerate().map(|(n, group)| (group, n >= fresh)));
        let rollups = &rollups;
        let view = |(group, compare): (String, bool)| async move {
            self.group_view::<E>(lineage, &group, rollups.get(&group).copied(), compare).await
        };
        let last = match groups.pop_last() {
            Some(last) => Some(view(last).await?),
            None => None,
        };
        let mut views: Vec<GroupView<E::Position>> =
            stream::iter(groups).map(view).buffered(limits::READ_CONCURRENCY).try_collect().await?;
        views.extend(last);
        let mut spans = Vec::new();
        let mut gaps = Vec::new();
        for view in views {
            spans.extend(view.spans);
            gaps.extend(view.gaps);
        }
        let tails = self.open_segments(lineage, &spans, newest_tails).await?;
        Ok(LineageView { spans, tails, gaps })
    }

    async fn group_view<E: Engine>(
        &self,
        lineage: &LineageId,
        group: &str,
        rollup: Option<u32>,
        compare: bool,
    ) -> Result<GroupView<E::Position>> {
        let Some(generation) = rollup else {
            return Ok(self.group_spans(lineage, group).await?.into());
        };
        if !compare && let Some(summary) = self.rollup_summary(lineage, group, generation).await? {
            return Ok(summary.runs.into());
        }
        match self.rollup_entries(lineage, group, generation).await? {
            Some(known) => self.compared(lineage, group, known).await,
            None => Ok(self.group_spans(lineage, group).await?.into()),
        }
    }

    /// What a roll-up knows, corrected by a real listing: late segments come in, lost ones become gaps.
    async fn compared<P: Position>(
        &self,
        lineage: &LineageId,
        group: &str,
        known: Vec<Span<P>>,
    ) -> Result<GroupView<P>> {
        let listed: BTreeSet<SegmentName> = self.group_names(lineage, group).await?.into_iter().collect();
        let late: Vec<SegmentName> =
            listed.iter().filter(|name| known.iter().all(|span| span.first != **name)).cloned().collect();
        let gaps = disappeared(&known, &listed);
        let mut spans: Vec<Span<P>> = known.into_iter().filter(|span| listed.contains(&span.first)).collect();
        spans.extend(self.spans_of(lineage, &late).await?);
        spans.sort_by(|a, b| a.first.cmp(&b.first));
        Ok(GroupView { spans, gaps })
    }
}

/// One gap per contiguous stretch of segments that a roll-up knows and the listing lacks.
fn disappeared<P: Position>(known: &[Span<P>], listed: &BTreeSet<SegmentName>) -> Vec<Gap<P>> {
    let mut gaps: Vec<Gap<P>> = Vec::new();
    let mut before: Option<&Span<P>> = None;
    for span in known {
        let lost = !listed.contains(&span.first);
        match gaps.last_mut() {
            Some(gap) if lost && before.is_some_and(|b| !listed.contains(&b.first) && b.continued_by(span)) => {
                gap.before = Some(span.end.clone());
            }
            Some(gap) if !lost && gap.before_time.is_none() => gap.before_time = span.commits.min,
            _ => {}
        }
        if lost && !before.is_some_and(|b| !listed.contains(&b.first) && b.continued_by(span)) {
            gaps.push(Gap {
                lineage: span.lineage.clone(),
                after: span.start.clone(),
                before: Some(span.end.clone()),
                after_time: before.and_then(|before| before.commits.reaches),
                before_time: None,
                cause: GapCause::Disappeared,
            });
        }
        before = Some(span);
    }
    gaps
}
