//! What of an archive can be restored at all, and what is missing: from the catalog alone.

use std::collections::HashSet;

use pitr_core::{BaseId, Catalog, Engine, Gap, LineageId, Position, Timestamp};
use serde::Serialize;

use crate::Known;
use crate::choose::{OnPath, by_consistency};
use crate::log::Log;
use crate::plan::leaves;
use crate::walk::{Shelves, Walk, shelves};

/// A stretch of the log of a leaf in which every moment can be restored.
///
/// Made from headers alone, so the end is the end of the archived bytes: the last record may be cut off
/// there, and a plan for `latest` may end a record earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window<P> {
    /// The leaf whose log it is.
    pub leaf: LineageId,
    /// The base that reaches back furthest in it.
    pub base: BaseId,
    /// The newest base in it.
    pub newest_base: BaseId,
    /// Number of bases in it.
    pub bases: usize,
    /// The earliest cut that can be restored.
    pub start: P,
    /// Where the log breaks off or ends.
    pub end: P,
    /// Clock of the source when the first base was complete.
    pub start_time: Timestamp,
    /// The latest moment that the log proves.
    pub end_time: Option<Timestamp>,
    /// True if it goes on to the end of the archived log of the leaf.
    pub newest: bool,
}

/// Window and gap walks share everything but the path.
fn walks<'a, E: Engine>(
    catalog: &'a Catalog<E::Position>,
    shelves: &Shelves<'a, E::Position>,
    known: &'a Known<E::Position>,
) -> impl Iterator<Item = (&'a LineageId, Log<'a, E>)> {
    leaves(catalog).into_iter().filter_map(move |leaf| {
        let walk = Walk::new::<E>(catalog.path(&leaf.id)?, shelves, &catalog.gaps, known);
        Some((&leaf.id, Log::new(walk, known)))
    })
}

/// The windows of every leaf, newest leaf first, each leaf's in log order.
pub fn windows<E: Engine>(catalog: &Catalog<E::Position>) -> Vec<Window<E::Position>> {
    let known = Known::default();
    let shelves = shelves(catalog);
    let mut windows = Vec::new();
    let by = |a: &&OnPath<'_, E::Position>, b: &&OnPath<'_, E::Position>| by_consistency(a, b);
    for (leaf, log) in walks::<E>(catalog, &shelves, &known) {
        let Ok(bases) = crate::choose::bases(catalog, &log.walk, None) else { continue };
        for run in 0..log.runs() {
            let Some(last) = log.run(run).last() else { continue };
            let served = bases.served(&log, run, (last.hop, &last.end));
            let (first, newest) = (served.iter().min_by(by), served.iter().max_by(by));
            let (Some(first), Some(newest)) = (first, newest) else { continue };
            windows.push(Window {
                leaf: leaf.clone(),
                base: first.base.id.clone(),
                newest_base: newest.base.id.clone(),
                bases: served.len(),
                start: first.base.consistent.clone(),
                end: last.end.clone(),
                start_time: first.base.taken.1,
                end_time: log.known_reach(run),
                newest: run + 1 == log.runs(),
            });
        }
    }
    windows
}

/// All that is missing: holes between spans on the paths of all leaves, with the cause that a writer
/// recorded for them, and recorded gaps behind which nothing is archived yet.
///
/// A recorded gap that was filled later is not among them.
pub fn gaps<E: Engine>(catalog: &Catalog<E::Position>) -> Vec<Gap<E::Position>> {
    let known = Known::default();
    let shelves = shelves(catalog);
    let mut seen = HashSet::new();
    let mut holes: Vec<Gap<E::Position>> = Vec::new();
    let mut filled = vec![false; catalog.gaps.len()];
    for (_, log) in walks::<E>(catalog, &shelves, &known) {
        for hole in (0..log.runs()).filter_map(|run| log.hole_after(run)) {
            if seen.insert((hole.lineage.clone(), hole.after.clone(), hole.before.clone())) {
                holes.push(hole);
            }
        }
        for (gap, filled) in catalog.gaps.iter().zip(&mut filled) {
            *filled |= is_filled(&log, gap);
        }
    }
    let shown = |gap: &Gap<E::Position>| holes.iter().any(|hole| overlap(hole, gap));
    let open = catalog.gaps.iter().zip(filled).filter(|(gap, filled)| !filled && !shown(gap));
    let open: Vec<_> = open.map(|(gap, _)| gap.clone()).collect();
    holes.extend(open);
    holes
}

/// True if one run holds both edges of the gap, and so everything between.
fn is_filled<E: Engine>(log: &Log<'_, E>, gap: &Gap<E::Position>) -> bool {
    let Some(hop) = log.walk.path.iter().position(|lineage| lineage.id == gap.lineage) else { return false };
    let Some(before) = &gap.before else { return false };
    let holds = |run: usize, at| log.place_to_read_from(run, hop, at).is_some();
    (0..log.runs()).any(|run| holds(run, &gap.after) && holds(run, before))
}

fn overlap<P: Position>(a: &Gap<P>, b: &Gap<P>) -> bool {
    let ends_before = |x: &Gap<P>, y: &Gap<P>| x.before.as_ref().is_some_and(|before| *before <= y.after);
    a.lineage == b.lineage && !ends_before(a, b) && !ends_before(b, a)
}

/// A gap in JSON output.
#[derive(Debug, Clone, Serialize)]
pub struct GapReport {
    /// The history it is in.
    pub lineage: String,
    /// Last position before it.
    pub after: String,
    /// First position after it.
    pub before: Option<String>,
    /// Latest moment that the log before it proves.
    pub after_time: Option<Timestamp>,
    /// Time of the first commit after it.
    pub before_time: Option<Timestamp>,
    /// Why it is there.
    pub cause: String,
}

impl<P: Position> From<&Gap<P>> for GapReport {
    fn from(gap: &Gap<P>) -> Self {
        Self {
            lineage: gap.lineage.to_string(),
            after: gap.after.to_string(),
            before: gap.before.as_ref().map(ToString::to_string),
            after_time: gap.after_time,
            before_time: gap.before_time,
            cause: gap.cause.to_string(),
        }
    }
}
