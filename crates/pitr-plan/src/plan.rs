//! The plan, and the steps that make it.

use pitr_core::ports::{Recovery, Stop};
use pitr_core::{Base, Bound, Catalog, Engine, Event, Gap, Lineage, LineageId, Position, Span, Target, Timestamp};

use crate::choose::{OnPath, bases, choose, nearest};
use crate::limits::{MAX_INVERSION_EXAMPLES, MAX_INVERSION_SCANS};
use crate::log::{At, Halt, Log, Step, has_commits, is_commit};
use crate::refusal::{Reason, Refusal, Spot};
use crate::resolve::{Resolved, first_dropped, is_beyond, last_kept, refuse, resolve};
use crate::walk::{Walk, shelves};
use crate::{Known, Outcome, Request};

/// A restore, decided: everything an engine needs to do it, and everything a person needs to agree to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<P> {
    /// What was asked for.
    pub target: Target,
    /// Whether it is kept.
    pub bound: Bound,
    /// The leaf whose log was followed.
    pub leaf: LineageId,
    /// Other leaves that `--lineage` could name, newest first.
    pub other_leaves: Vec<LineageId>,
    /// Where the restore stops.
    pub end: End<P>,
    /// Where the replay really halts: the earliest cut that holds the same transactions as `end.cut`. A transaction
    /// that is dropped has often done its work by then, and would hold its locks for as long as the replay is
    /// paused: just before the commit of a `DROP TABLE` nobody can read that table.
    pub halt: P,
    /// What it is made from.
    pub chain: Chain<P>,
    /// What it leaves out.
    pub lost: Lost,
    /// What a person should know, as sentences.
    pub warnings: Vec<String>,
}

/// Where a restore stops, and what lies on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End<P> {
    /// Everything before it is in.
    pub cut: P,
    /// How to stop there.
    pub stop: Stop<P>,
    /// The history in which it lies.
    pub lineage: LineageId,
    /// The last commit that is kept; `None` if the unbroken log before the cut holds none.
    pub last_kept: Option<Event<P>>,
    /// The first commit that is dropped; `None` if the unbroken log after the cut holds none.
    pub first_dropped: Option<Event<P>>,
    /// The hole that the log runs into right after the cut, if it does.
    pub gap_after: Option<Gap<P>>,
    /// Commits that a time target leaves out although they are stamped before it.
    pub inversions: Inversions<P>,
}

/// Commits that lie after the cut in the log although their time lies before the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inversions<P> {
    /// How many were found.
    pub count: u64,
    /// The first of them.
    pub examples: Vec<Event<P>>,
    /// False if there may be more in segments that were not looked into.
    pub complete: bool,
}

/// The base and the log after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain<P> {
    /// The base.
    pub base: Base<P>,
    /// The histories from the root to the one of the cut.
    pub path: Vec<LineageId>,
    /// The log to apply, in order, without a hole.
    pub log: Vec<Span<P>>,
    /// Segments of that log.
    pub segments: u64,
    /// Its native bytes, before compression.
    pub bytes: u64,
}

/// What a restore leaves out: the commits between the cut and the end of the archived log of the leaf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lost {
    /// Number of commits.
    pub commits: u64,
    /// True if there may be more (holes, commits whose count no header knows).
    pub at_least: bool,
    /// Time of the first one.
    pub from: Option<Timestamp>,
    /// Latest moment that the log proves.
    pub until: Option<Timestamp>,
}

impl<P: Position> Plan<P> {
    /// The part that an engine needs.
    pub fn recovery(&self) -> Recovery<P> {
        Recovery {
            base: self.chain.base.id.clone(),
            lineage: self.end.lineage.clone(),
            path: self.chain.path.clone(),
            log: self.chain.log.clone(),
            cut: self.halt.clone(),
            stop: if self.halt == self.end.cut { self.end.stop.clone() } else { Stop::Before(self.halt.clone()) },
        }
    }
}

/// Decides how `request` can be restored from `catalog`, or why not, or what must be read first.
///
/// Pure and total. Call it again with what it needs added to `known`, until it is ready or refuses; see
/// [`crate::drive`]. The documentation of the crate says what each target means.
pub fn plan<E: Engine>(
    catalog: &Catalog<E::Position>,
    request: &Request,
    known: &Known<E::Position>,
) -> Outcome<E::Position> {
    let (path, others) = match follow(catalog, request) {
        Ok(followed) => followed,
        Err(reason) => return refused(request, None, reason, (None, None)),
    };
    let leaf = path.last().map(|lineage| lineage.id.clone());
    let log = Log::<E>::new(Walk::new::<E>(path, &shelves(catalog), &catalog.gaps, known), known);
    match attempt(catalog, request, &log, others) {
        Ok(plan) => Outcome::Ready(Box::new(plan)),
        Err(Halt::Need(need)) => Outcome::Need(need),
        Err(Halt::Refused(reason, spot)) => {
            let moments = bases(catalog, &log.walk, request.base.as_ref()).and_then(|b| nearest(&log, &b, spot));
            match moments {
                Ok(mut moments) => {
                    for moment in [&mut moments.0, &mut moments.1].into_iter().flatten() {
                        moment.lineage = request.lineage.clone();
                    }
                    refused(request, leaf, *reason, moments)
                }
                Err(Halt::Need(need)) => Outcome::Need(need),
                Err(Halt::Refused(..)) => refused(request, leaf, *reason, (None, None)),
            }
        }
    }
}

fn refused<P>(
    request: &Request,
    lineage: Option<LineageId>,
    reason: Reason<P>,
    (nearest_before, nearest_after): crate::choose::Nearest<P>,
) -> Outcome<P> {
    let (target, bound) = (request.target.clone(), request.bound);
    Outcome::Refused(Box::new(Refusal { target, bound, lineage, reason, nearest_before, nearest_after }))
}

/// Leaves of the tree of histories, newest first by order of appearance.
pub(crate) fn leaves<P>(catalog: &Catalog<P>) -> Vec<&Lineage<P>> {
    let parents: std::collections::HashSet<&LineageId> =
        catalog.lineages.iter().filter_map(|lineage| lineage.fork.as_ref().map(|fork| &fork.parent)).collect();
    let mut leaves: Vec<_> = catalog.lineages.iter().filter(|lineage| !parents.contains(&lineage.id)).collect();
    leaves.sort_by(|a, b| b.ordinal.cmp(&a.ordinal).then_with(|| b.id.cmp(&a.id)));
    leaves
}

type Followed<'a, P> = (Vec<&'a Lineage<P>>, Vec<LineageId>);

/// The path to follow, and the leaves not followed.
fn follow<'a, P: Position>(catalog: &'a Catalog<P>, request: &Request) -> Result<Followed<'a, P>, Reason<P>> {
    let leaves = leaves(catalog);
    let chosen = match (&request.lineage, leaves.first()) {
        (Some(lineage), _) => lineage.clone(),
        (None, Some(newest)) => newest.id.clone(),
        (None, None) => match catalog.lineages.first() {
            None => return Err(Reason::NoLineage),
            // Every history is somebody's parent: they form a circle.
            Some(some) => return Err(Reason::NotALineage { lineage: some.id.clone() }),
        },
    };
    if catalog.lineage(&chosen).is_none() {
        let known = catalog.lineages.iter().map(|lineage| lineage.id.clone()).collect();
        return Err(Reason::LineageUnknown { lineage: chosen, known });
    }
    let others = leaves.iter().filter(|leaf| leaf.id != chosen).map(|leaf| leaf.id.clone()).collect();
    match catalog.path(&chosen) {
        Some(path) => Ok((path, others)),
        None => Err(Reason::NotALineage { lineage: chosen }),
    }
}

fn attempt<E: Engine>(
    catalog: &Catalog<E::Position>,
    request: &Request,
    log: &Log<'_, E>,
    other_leaves: Vec<LineageId>,
) -> Step<E::Position, Plan<E::Position>> {
    let bases = bases(catalog, &log.walk, request.base.as_ref())?;
    if log.runs() == 0 {
        return crate::choose::too_early(log, &bases, Spot::Nowhere);
    }
    let resolved = resolve(log, &request.target, request.bound, &bases)?;
    let (base, first) = choose(log, &bases, &resolved)?;
    let Some(leaf) = log.walk.path.last() else { return refuse(Reason::NoLineage, Spot::Nowhere) };
    let chain = chain(log, base, first, &resolved)?;
    let end = end(log, request, &resolved)?;
    let halt = halt(log, request, &end, &base, resolved.hop);
    let lost = lost(log, &resolved, &end);
    let warnings = warnings(catalog, log, &end, &other_leaves);
    let leaf = leaf.id.clone();
    Ok(Plan {
        target: request.target.clone(),
        bound: request.bound,
        leaf,
        other_leaves,
        end,
        halt,
        chain,
        lost,
        warnings,
    })
}

/// The log from the base to the cut. Roll-ups at its edges are opened, so that nothing superfluous is in it.
fn chain<E: Engine>(
    log: &Log<'_, E>,
    base: OnPath<'_, E::Position>,
    first: At,
    resolved: &Resolved<E::Position>,
) -> Step<E::Position, Chain<E::Position>> {
    let places = || log.places(first.run).skip(first.piece).take_while(|(at, _)| *at <= resolved.last.max(first));
    for edge in [places().next(), places().last()].into_iter().flatten() {
        if !edge.1.span.is_single() {
            return Err(Halt::Need(log.need(edge.0)));
        }
    }
    let spans: Vec<Span<E::Position>> = places().map(|(_, piece)| piece.span.clone()).collect();
    Ok(Chain {
        base: base.base.clone(),
        path: log.walk.path.iter().take(resolved.hop + 1).map(|lineage| lineage.id.clone()).collect(),
        segments: spans.iter().map(|span| span.count).sum(),
        bytes: spans.iter().map(|span| span.bytes).sum(),
        log: spans,
    })
}

fn end<E: Engine>(
    log: &Log<'_, E>,
    request: &Request,
    resolved: &Resolved<E::Position>,
) -> Step<E::Position, End<E::Position>> {
    let last_kept = last_kept(log, resolved)?.cloned();
    let first_dropped = first_dropped(log, resolved)?.cloned();
    let runs_out = first_dropped.is_none() && log.end_of(resolved.at.run)?.is_some_and(|end| end.cut == resolved.cut);
    let inversions = match request.target {
        Target::Time(time) => inversions(log, time, request.bound, resolved)?,
        _ => Inversions { count: 0, examples: Vec::new(), complete: true },
    };
    let lineage = log.walk.path.get(resolved.hop).map(|lineage| lineage.id.clone());
    let Some(lineage) = lineage else { return refuse(Reason::NoLineage, Spot::Nowhere) };
    Ok(End {
        cut: resolved.cut.clone(),
        stop: resolved.stop.clone(),
        lineage,
        last_kept,
        first_dropped,
        gap_after: log.break_after(resolved.at.run).filter(|_| runs_out),
        inversions,
    })
}

/// The earliest cut from the base on that holds the same transactions. A position that was asked for stays as it is.
fn halt<E: Engine>(
    log: &Log<'_, E>,
    request: &Request,
    end: &End<E::Position>,
    base: &OnPath<'_, E::Position>,
    hop: usize,
) -> E::Position {
    let is_position = |scheme: &str, value: &str| {
        let located = |lineage: &&Lineage<E::Position>| E::locate(lineage, scheme, value).ok();
        log.walk.path.iter().filter_map(located).any(|located| located.position().is_some())
    };
    let at_commit = end.first_dropped.as_ref().is_some_and(|dropped| end.stop == Stop::Before(dropped.begin.clone()));
    let asked_for = matches!(&request.target, Target::Coordinate { scheme, value } if is_position(scheme, value));
    if !at_commit || asked_for {
        return end.cut.clone();
    }
    // A cut may lie in a child's copy of its parent's log, and so before the consistent cut of the parent's base.
    let floor = log.in_descendant(base.hop, hop, &base.base.consistent);
    let floor = floor.as_ref().filter(|consistent| **consistent <= end.cut);
    match (end.last_kept.as_ref().map(|kept| &kept.end), floor) {
        (Some(kept), Some(floor)) if *kept <= end.cut => if floor <= kept { kept } else { floor }.clone(),
        // The base is an ancestor's, and consistent before the fork.
        (Some(kept), None) if *kept <= end.cut => kept.clone(),
        (None, Some(floor)) => floor.clone(),
        // The last transaction is an ancestor's: what lies between is this history's own.
        _ => end.cut.clone(),
    }
}

/// Places from that of the cut to the end of the log.
fn rest<'l, 'a, E: Engine>(
    log: &'l Log<'a, E>,
    from: At,
) -> impl Iterator<Item = (At, &'l crate::walk::Piece<'a, E::Position>)> {
    (from.run..log.runs()).flat_map(|run| log.places(run)).skip_while(move |(at, _)| *at < from)
}

fn inversions<E: Engine>(
    log: &Log<'_, E>,
    time: Timestamp,
    bound: Bound,
    resolved: &Resolved<E::Position>,
) -> Step<E::Position, Inversions<E::Position>> {
    let mut found = Inversions { count: 0, examples: Vec::new(), complete: true };
    let mut looked = 0;
    for (at, piece) in rest(log, resolved.at) {
        let may = piece.span.commits.min.is_some_and(|min| !is_beyond(min, time, bound));
        if !may && !log.is_scanned(at) {
            // A commit that crosses the end of its segment is not worth a read here.
            found.complete &= !piece.span.commits.open;
            continue;
        }
        if looked == MAX_INVERSION_SCANS {
            found.complete = false;
            break;
        }
        // A roll-up costs one read before its segments are looked into one by one.
        looked += 1;
        let behind = |event: &&Event<E::Position>| {
            is_commit(event)
                && (at.run > resolved.at.run || !(event.end <= resolved.cut))
                && event.time.is_some_and(|at| !is_beyond(at, time, bound))
        };
        for event in log.events(at)?.filter(behind) {
            found.count += 1;
            if found.examples.len() < MAX_INVERSION_EXAMPLES {
                found.examples.push(event.clone());
            }
        }
    }
    Ok(found)
}

/// Counts what lies behind the cut: from scans where there are any, else from bounds.
fn lost<E: Engine>(log: &Log<'_, E>, resolved: &Resolved<E::Position>, end: &End<E::Position>) -> Lost {
    let mut lost = Lost { from: end.first_dropped.as_ref().and_then(|event| event.time), ..Lost::default() };
    for (at, piece) in rest(log, resolved.at) {
        lost.until = lost.until.max(if piece.whole { piece.span.commits.reaches } else { None });
        match log.events(at) {
            Ok(events) => {
                let behind = |event: &&Event<E::Position>| {
                    at.run > resolved.at.run || piece.hop > resolved.hop || !(event.end <= resolved.cut)
                };
                lost.commits += events.filter(|event| is_commit(event)).filter(behind).count() as u64;
            }
            Err(_) => {
                lost.commits += if piece.whole { piece.span.commits.count } else { 0 };
                lost.at_least |= piece.span.commits.open || (!piece.whole && has_commits(&piece.span.commits));
            }
        }
    }
    lost.at_least |= resolved.at.run + 1 < log.runs();
    if lost.commits == 0 && !lost.at_least {
        lost.until = None;
    }
    lost
}

fn warnings<E: Engine>(
    catalog: &Catalog<E::Position>,
    log: &Log<'_, E>,
    end: &End<E::Position>,
    other_leaves: &[LineageId],
) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(gap) = &end.gap_after {
        let gap = crate::refusal::GapText(gap);
        warnings.push(format!("the log breaks off right after this point: {gap}"));
    }
    if let [newest, ..] = other_leaves {
        let leaf = log.walk.path.last().map(|leaf| leaf.ordinal);
        let newer = catalog.lineage(newest).map(|other| other.ordinal) > leaf;
        let also = if newer { "a newer history exists" } else { "other histories exist" };
        warnings.push(format!("{also}: --lineage {newest}"));
    }
    warnings
}
