//! Which base a restore starts from, and which gap is in the way if none serves.
//!
//! Bases are ordered by their consistent cut along the path, never by clock or name.

use std::cmp::Ordering;

use pitr_core::ports::Stop;
use pitr_core::{Base, BaseId, Catalog, Engine, Gap, Locator, Position};

use crate::log::{At, Log, Step};
use crate::refusal::{Moment, Reason, Spot};
use crate::resolve::{Resolved, refuse};
use crate::walk::Walk;

/// A base on the path.
#[derive(Debug)]
pub(crate) struct OnPath<'a, P> {
    pub base: &'a Base<P>,
    /// Index of its lineage on the path.
    pub hop: usize,
}

// By hand: a reference is `Copy` whatever it refers to.
impl<P> Copy for OnPath<'_, P> {}
impl<P> Clone for OnPath<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

/// The bases that lead to the histories of a path.
#[derive(Debug)]
pub(crate) struct Bases<'a, P> {
    all: Vec<OnPath<'a, P>>,
}

/// Bases of the path: of one of its lineages, and consistent at or before the fork at which it is left.
pub(crate) fn bases<'a, P: Position>(
    catalog: &'a Catalog<P>,
    walk: &Walk<'_, P>,
    only: Option<&BaseId>,
) -> Step<P, Bases<'a, P>> {
    let mut all: Vec<OnPath<'a, P>> = Vec::new();
    for base in catalog.bases.iter().filter(|base| only.is_none_or(|only| *only == base.id)) {
        let hop = walk.path.iter().position(|lineage| lineage.id == base.lineage);
        let before_fork = |hop: &usize| walk.until(*hop).is_none_or(|until| base.consistent <= *until);
        all.extend(hop.filter(before_fork).map(|hop| OnPath { base, hop }));
    }
    match (only, all.is_empty()) {
        (_, false) => Ok(Bases { all }),
        (None, true) => refuse(Reason::NoBase, Spot::Nowhere),
        (Some(only), true) => match catalog.bases.iter().find(|base| base.id == *only) {
            Some(base) => {
                refuse(Reason::BaseElsewhere { base: only.clone(), lineage: base.lineage.clone() }, Spot::Nowhere)
            }
            None => {
                let mut known: Vec<BaseId> = catalog.bases.iter().map(|base| base.id.clone()).collect();
                known.sort();
                refuse(Reason::BaseUnknown { base: only.clone(), known }, Spot::Nowhere)
            }
        },
    }
}

/// The order of bases on a path: by consistent cut, then by how little log they need, then by name.
///
/// Good for finding a first or a last one, not for sorting: positions that cannot be compared count as equal.
pub(crate) fn by_consistency<P: Position>(a: &OnPath<'_, P>, b: &OnPath<'_, P>) -> Ordering {
    let by = |a: &P, b: &P| a.partial_cmp(b).unwrap_or(Ordering::Equal);
    a.hop
        .cmp(&b.hop)
        .then_with(|| by(&a.base.consistent, &b.base.consistent))
        .then_with(|| by(&a.base.start, &b.base.start))
        .then_with(|| a.base.id.cmp(&b.base.id))
}

/// The base for a cut, and the place where its log begins.
pub(crate) fn choose<'a, E: Engine>(
    log: &Log<'_, E>,
    bases: &Bases<'a, E::Position>,
    cut: &Resolved<E::Position>,
) -> Step<E::Position, (OnPath<'a, E::Position>, At)> {
    let before = |one: &OnPath<'a, E::Position>| {
        log.is_before((one.hop, &one.base.consistent), (cut.hop, &cut.cut)) && one.hop <= cut.hop
    };
    let first = |one: &OnPath<'a, E::Position>| log.place_to_read_from(cut.at.run, one.hop, &one.base.start);
    let candidates: Vec<OnPath<'a, E::Position>> = bases.all.iter().copied().filter(before).collect();
    let serving = candidates.iter().filter_map(|one| Some((*one, first(one)?)));
    if let Some(best) = serving.max_by(|a, b| by_consistency(&a.0, &b.0)) {
        return Ok(best);
    }
    let spot = Spot::Cut(cut.at.run);
    match candidates.into_iter().max_by(by_consistency) {
        Some(blocked) => match gap_after(log, &blocked) {
            Some(gap) => refuse(Reason::CrossesGap { base: blocked.base.id.clone(), gap }, spot),
            None => too_early(log, bases, spot),
        },
        None => too_early(log, bases, spot),
    }
}

/// The hole that cuts a base off from all that follows.
fn gap_after<E: Engine>(log: &Log<'_, E>, one: &OnPath<'_, E::Position>) -> Option<Gap<E::Position>> {
    let start = &one.base.start;
    if let Some(run) = (0..log.runs()).find(|run| log.place_to_read_from(*run, one.hop, start).is_some()) {
        return log.hole_after(run);
    }
    match log.last_ended(one.hop, start) {
        Some(run) => log.hole_after(run),
        None => {
            // The log begins after the base: it was pruned, or archiving began too late.
            let first = log.run(0).first()?;
            log.walk.gap(one.hop, start.clone(), Some(first.from.clone()))
        }
    }
}

/// Refuses a cut that lies before everything the bases can reach.
pub(crate) fn too_early<E: Engine, T>(
    log: &Log<'_, E>,
    bases: &Bases<'_, E::Position>,
    spot: Spot,
) -> Step<E::Position, T> {
    let from = match spot {
        Spot::Cut(run) => run,
        _ => 0,
    };
    for run in from..log.runs() {
        if let Some(first) = window_start(log, bases, run)? {
            let base = first.base;
            let reason = Reason::BeforeBase { base: base.id.clone(), consistent: base.consistent.clone() };
            return refuse(reason, spot);
        }
    }
    match bases.all.iter().copied().min_by(by_consistency) {
        Some(OnPath { base, .. }) => {
            let (start, consistent) = (base.start.clone(), base.consistent.clone());
            refuse(Reason::NoLog { base: base.id.clone(), start, consistent }, spot)
        }
        None => refuse(Reason::NoBase, spot),
    }
}

impl<'a, P: Position> Bases<'a, P> {
    /// The bases that a run serves up to `end`.
    pub fn served<E: Engine<Position = P>>(
        &self,
        log: &Log<'_, E>,
        run: usize,
        (hop, end): (usize, &P),
    ) -> Vec<OnPath<'a, P>> {
        let serves = |one: &OnPath<'a, P>| {
            one.hop <= hop
                && log.place_to_read_from(run, one.hop, &one.base.start).is_some()
                && log.is_before((one.hop, &one.base.consistent), (hop, end))
        };
        self.all.iter().copied().filter(serves).collect()
    }
}

/// The base that reaches back furthest in a run; `None` if nothing in the run can be restored.
fn window_start<'a, E: Engine>(
    log: &Log<'_, E>,
    bases: &Bases<'a, E::Position>,
    run: usize,
) -> Step<E::Position, Option<OnPath<'a, E::Position>>> {
    let begins = |one: &OnPath<'a, E::Position>| log.place_to_read_from(run, one.hop, &one.base.start).is_some();
    if !bases.all.iter().any(begins) {
        return Ok(None);
    }
    let Some(end) = log.end_of(run)? else { return Ok(None) };
    Ok(bases.served(log, run, (end.hop, &end.cut)).into_iter().min_by(by_consistency))
}

/// The latest moment that can be restored before `spot`, and the earliest one after it.
pub(crate) type Nearest<P> = (Option<Moment<P>>, Option<Moment<P>>);

pub(crate) fn nearest<E: Engine>(
    log: &Log<'_, E>,
    bases: &Bases<'_, E::Position>,
    spot: Spot,
) -> Step<E::Position, Nearest<E::Position>> {
    // Runs that end before the spot, and runs whose restorable part begins after it.
    let (before, after) = match spot {
        Spot::Nowhere => return Ok((None, None)),
        Spot::Start => (0, 0),
        Spot::Hole(run) => (run + 1, run + 1),
        Spot::Cut(run) => (run, run),
        Spot::End => (log.runs(), log.runs()),
    };
    let mut nearest = (None, None);
    for run in (0..before).rev() {
        if window_start(log, bases, run)?.is_some() {
            nearest.0 = moment_at_end(log, run)?;
            break;
        }
    }
    for run in after..log.runs() {
        if let Some(OnPath { base, .. }) = window_start(log, bases, run)? {
            nearest.1 = Some(Moment {
                position: base.consistent.clone(),
                time: Some(base.taken.1),
                target: target_of_begin(log, run, base)?,
                lineage: None,
            });
            break;
        }
    }
    Ok(nearest)
}

/// What to type for the earliest cut of a run. Where the log ends right there, that is the name of its end.
fn target_of_begin<E: Engine>(log: &Log<'_, E>, run: usize, base: &Base<E::Position>) -> Step<E::Position, String> {
    let ends_there = moment_at_end(log, run)?.filter(|end| end.position == base.consistent);
    Ok(ends_there.map_or_else(|| E::target(&base.consistent), |end| end.target))
}

fn moment_at_end<E: Engine>(log: &Log<'_, E>, run: usize) -> Step<E::Position, Option<Moment<E::Position>>> {
    let time = log.reach(run)?;
    // A server may write the end of a record as the begin of the next one, which is in the hole.
    let names_itself = |hop: usize, cut: &E::Position| {
        let text = E::target(cut);
        let lineage = log.walk.path.get(hop);
        let located = lineage.zip(text.split_once(':')).map(|(at, (scheme, value))| E::locate(at, scheme, value));
        matches!(located, Some(Ok(Locator::Position(position))) if position == *cut)
    };
    let target_of = |hop: usize, cut: &E::Position, stop: &Stop<E::Position>| match stop {
        Stop::After(kept) if !names_itself(hop, cut) => E::target(kept),
        _ => E::target(cut),
    };
    let moment = log.end_of(run)?.map(|end| Moment {
        target: if run + 1 == log.runs() { "latest".to_owned() } else { target_of(end.hop, &end.cut, &end.stop) },
        position: end.cut,
        time,
        lineage: None,
    });
    Ok(moment)
}
