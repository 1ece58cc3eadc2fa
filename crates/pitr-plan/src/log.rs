//! Reading the log of a path: what the spans say by themselves, and what only a scan can tell.
//!
//! Every function that would need bytes which nobody has scanned yet returns [`Halt::Need`] instead, for
//! exactly one segment or roll-up. So the planner reads in the order of its questions, and no further.

use pitr_core::ports::Stop;
use pitr_core::{CommitBounds, Engine, Event, Gap, Scan, Timestamp, What};

use crate::limits::MAX_CONTINUATIONS;
use crate::refusal::{Reason, Spot};
use crate::walk::{Piece, Run, Walk};
use crate::{Known, Need};

/// Why a step of planning ended early.
#[derive(Debug)]
// One exists at a time, at the end of a step: its size costs nothing.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Halt<P> {
    /// Something must be read first.
    Need(Need<P>),
    /// The target cannot be restored; the spot is where to look for the nearest moments that can.
    Refused(Box<Reason<P>>, Spot),
}

pub(crate) type Step<P, T> = Result<T, Halt<P>>;

/// An event, and the place whose span holds its begin.
pub(crate) type Found<'a, P> = (At, &'a Event<P>);

/// A piece by its place: run, and index in the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    pub run: usize,
    pub piece: usize,
}

/// The end of a run, as a place to stop.
#[derive(Debug, Clone)]
pub(crate) struct RunEnd<P> {
    pub at: At,
    pub hop: usize,
    pub cut: P,
    pub stop: Stop<P>,
}

pub(crate) struct Log<'a, E: Engine> {
    pub walk: Walk<'a, E::Position>,
    known: &'a Known<E::Position>,
}

impl<'a, E: Engine> Log<'a, E> {
    pub fn new(walk: Walk<'a, E::Position>, known: &'a Known<E::Position>) -> Self {
        Self { walk, known }
    }

    pub fn runs(&self) -> usize {
        self.walk.runs.len()
    }

    pub fn run(&self, run: usize) -> &[Piece<'a, E::Position>] {
        self.walk.runs.get(run).map_or(&[], |run: &Run<'a, E::Position>| run.pieces.as_slice())
    }

    pub fn piece(&self, at: At) -> Option<&Piece<'a, E::Position>> {
        self.run(at.run).get(at.piece)
    }

    /// All places of a run, in log order.
    pub fn places(
        &self,
        run: usize,
    ) -> impl DoubleEndedIterator<Item = (At, &Piece<'a, E::Position>)> + ExactSizeIterator {
        self.run(run).iter().enumerate().map(move |(piece, p)| (At { run, piece }, p))
    }

    /// The scan of a piece, or the need for it.
    pub fn scan(&self, at: At) -> Step<E::Position, &'a Scan<E::Position>> {
        match self.piece(at).and_then(|piece| self.known.scan(piece.span)) {
            Some(scan) => Ok(scan),
            None => Err(Halt::Need(self.need(at))),
        }
    }

    /// True if looking into the piece costs no further read.
    pub fn is_scanned(&self, at: At) -> bool {
        self.piece(at).is_some_and(|piece| self.known.scan(piece.span).is_some())
    }

    /// What must be read to look into a piece. `at` comes from [`Self::places`], so the piece exists.
    pub fn need(&self, at: At) -> Need<E::Position> {
        let pieces = &self.run(at.run)[at.piece..];
        let piece = &pieces[0];
        if !piece.span.is_single() {
            return Need::Expand(piece.span.clone());
        }
        // No record crosses a fork. But a record of the parent goes on in its child's copy of the parent's
        // bytes where the parent's own end too early.
        let goes_on = |pair: &&[Piece<'_, E::Position>]| {
            pair[0].hop == pair[1].hop || self.walk.until(pair[0].hop).is_some_and(|until| !(*until <= pair[0].end))
        };
        let then = pieces.windows(2).take_while(goes_on).take(MAX_CONTINUATIONS);
        Need::Scan { segment: piece.span.clone(), then: then.map(|pair| pair[1].span.clone()).collect() }
    }

    /// Whether an event found in the piece's span belongs to the log at this place.
    pub fn counts(&self, piece: &Piece<'_, E::Position>, begin: &E::Position, end: &E::Position) -> bool {
        !(*begin < piece.from)
            && self.walk.until(piece.hop).is_none_or(|until| *end <= *until)
            && (piece.end == piece.span.end || *end <= piece.end)
    }

    /// The events of a piece that belong to the log, in order.
    pub fn events(
        &self,
        at: At,
    ) -> Step<E::Position, impl DoubleEndedIterator<Item = &'a Event<E::Position>> + use<'_, 'a, E>> {
        let scan = self.scan(at)?;
        let piece = self.piece(at);
        let counts = move |event: &&Event<E::Position>| piece.is_some_and(|p| self.counts(p, &event.begin, &event.end));
        Ok(scan.events.iter().filter(counts))
    }

    /// The first commit of a run, at or after place `from`, whose time satisfies `wanted`. Spans of which
    /// `may` says no by their bounds are not looked into.
    pub fn first_commit(
        &self,
        from: At,
        may: impl Fn(&CommitBounds) -> bool,
        wanted: impl Fn(&Event<E::Position>) -> bool,
    ) -> Step<E::Position, Option<Found<'a, E::Position>>> {
        for (at, piece) in self.places(from.run).skip(from.piece) {
            if may(&piece.span.commits)
                && let Some(event) = self.events(at)?.find(|event| is_commit(event) && wanted(event))
            {
                return Ok(Some((at, event)));
            }
        }
        Ok(None)
    }

    /// The latest moment that a run proves the log to reach.
    ///
    /// Bounds say it for whole spans. A span of which only a part counts is looked into, if it could
    /// change the answer; commits whose time no bounds know count where they were scanned.
    pub fn reach(&self, run: usize) -> Step<E::Position, Option<Timestamp>> {
        let mut reach = self.known_reach(run);
        for (at, piece) in self.places(run) {
            if !piece.whole && piece.span.commits.reaches > reach {
                reach = reach.max(self.events(at)?.filter_map(|event| event.time).max());
            }
        }
        Ok(reach)
    }

    /// The part of [`Self::reach`] that needs no further read.
    pub fn known_reach(&self, run: usize) -> Option<Timestamp> {
        let of_piece = |(at, piece): (At, &Piece<'a, E::Position>)| {
            let bounds = if piece.whole { piece.span.commits.reaches } else { None };
            let scanned = self.events(at).ok().and_then(|events| events.filter_map(|event| event.time).max());
            bounds.max(scanned)
        };
        self.places(run).map(of_piece).max().flatten()
    }

    /// The end of the last whole record of a run; `None` if no whole record begins in it.
    pub fn end_of(&self, run: usize) -> Step<E::Position, Option<RunEnd<E::Position>>> {
        for (at, piece) in self.places(run).rev() {
            let Some((begin, end)) = &self.scan(at)?.last_record else { continue };
            if *begin < piece.from {
                continue;
            }
            if self.counts(piece, begin, end) {
                return Ok(Some(RunEnd { at, hop: piece.hop, cut: end.clone(), stop: Stop::After(begin.clone()) }));
            }
            // Records go on beyond the fork (or into damage): the log of this path ends in front of them.
            let cut = self.walk.until(piece.hop).unwrap_or(&piece.end).clone();
            return Ok(Some(RunEnd { at, hop: piece.hop, cut: cut.clone(), stop: Stop::Before(cut) }));
        }
        Ok(None)
    }

    /// The place in a run that accounts for the cut `position` of lineage `hop`: the last one, where two meet.
    pub fn place_of(&self, run: usize, hop: usize, position: &E::Position) -> Option<At> {
        let pieces = self.run(run);
        let behind = pieces.partition_point(|p| p.hop < hop || (p.hop == hop && p.from <= *position));
        let piece = behind.checked_sub(1)?;
        pieces.get(piece).filter(|p| p.hop == hop && *position <= p.end).map(|_| At { run, piece })
    }

    /// The place in a run from which log can be read that begins at `start`, the start of a base of lineage
    /// `hop`. Unlike [`Self::place_of`] it may lie in bytes that a child repeats from its parent.
    pub fn place_to_read_from(&self, run: usize, hop: usize, start: &E::Position) -> Option<At> {
        let place = |to: usize| self.place_of(run, to, &self.in_descendant(hop, to, start)?);
        (hop..self.walk.path.len()).find_map(place)
    }

    /// The last run that ends at or before a cut.
    pub fn last_ended(&self, hop: usize, position: &E::Position) -> Option<usize> {
        let ended = |run: &usize| {
            let Some(last) = self.run(*run).last() else { return false };
            last.hop < hop || self.in_descendant(hop, last.hop, position).is_some_and(|at| last.end <= at)
        };
        (0..self.runs()).rev().find(ended)
    }

    /// A cut of lineage `from` in the coordinates of its descendant `to`.
    pub fn in_descendant(&self, from: usize, to: usize, position: &E::Position) -> Option<E::Position> {
        let mut forks = self.walk.path.get(from + 1..=to)?.iter().map(|child| child.fork.as_ref());
        forks.try_fold(position.clone(), |at, fork| E::in_child(&at, fork?))
    }

    /// See [`Walk::is_before`].
    pub fn is_before(&self, a: (usize, &E::Position), b: (usize, &E::Position)) -> bool {
        self.walk.is_before::<E>(a, b)
    }

    /// The first place at or after `from` whose bytes reach to `position`, the last of the run if none does.
    pub fn place_reaching(&self, from: At, hop: usize, position: &E::Position) -> At {
        let pieces = self.run(from.run);
        let reaches = |piece: &Piece<'_, E::Position>| {
            let at = self.in_descendant(hop, piece.hop, position);
            at.is_none_or(|at| at <= piece.span.end)
        };
        let found = pieces.iter().skip(from.piece).position(reaches).map(|skipped| from.piece + skipped);
        At { run: from.run, piece: found.unwrap_or(pieces.len().saturating_sub(1)) }
    }

    /// The hole after a run, with the times of its edges as far as they are known.
    pub fn hole_after(&self, run: usize) -> Option<Gap<E::Position>> {
        let mut gap = self.walk.hole_after(run)?;
        gap.after_time = (0..=run).filter_map(|run| self.known_reach(run)).max().or(gap.after_time);
        gap.before_time = self.known_first_commit(run + 1).or(gap.before_time);
        Some(gap)
    }

    /// The hole after a run; after the last one, a gap that a writer recorded and behind which nothing is archived yet.
    pub fn break_after(&self, run: usize) -> Option<Gap<E::Position>> {
        self.hole_after(run).or_else(|| self.walk.recorded_after(run))
    }

    fn known_first_commit(&self, run: usize) -> Option<Timestamp> {
        for (at, piece) in self.places(run).filter(|(_, piece)| has_commits(&piece.span.commits)) {
            match self.events(at) {
                Ok(events) => {
                    if let Some(event) = { events }.find(|event| is_commit(event)) {
                        return event.time;
                    }
                }
                Err(_) => return piece.span.commits.min,
            }
        }
        None
    }
}

pub(crate) fn is_commit<P>(event: &Event<P>) -> bool {
    event.what == What::Commit
}

/// True unless it is certain that no commit begins in the span.
pub(crate) fn has_commits(bounds: &CommitBounds) -> bool {
    bounds.open || bounds.count > 0
}
