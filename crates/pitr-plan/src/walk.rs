//! The log of one path through the lineages, cut into unbroken runs.
//!
//! [`Walk`] is where the chain rule lives: it lines up the spans of every lineage on the path, joins them
//! where one continues the other, and begins a new run where something is missing.

use std::cmp::Ordering;
use std::collections::HashMap;

use pitr_core::{Catalog, Engine, Fork, Gap, GapCause, Lineage, LineageId, Span};

use crate::Known;
use crate::limits::MAX_ROLL_UP_DEPTH;

/// A span on the path, and which part of it counts.
#[derive(Debug, Clone)]
pub(crate) struct Piece<'a, P> {
    pub span: &'a Span<P>,
    /// Index of its lineage on the path.
    pub hop: usize,
    /// Where its bytes begin to be usable: the span's start, or the end of a damaged stretch.
    pub lower: P,
    /// Events that begin before this cut belong to an earlier piece, or to nobody.
    pub from: P,
    /// Where it ends to count: the span's end, the fork, or the begin of a damaged stretch.
    pub end: P,
    /// True if every event of the span counts here, so that its bounds can be believed.
    pub whole: bool,
}

/// Pieces without a hole between them. Never empty.
#[derive(Debug, Clone)]
pub(crate) struct Run<'a, P> {
    pub pieces: Vec<Piece<'a, P>>,
}

/// The log of one path.
#[derive(Debug, Clone)]
pub(crate) struct Walk<'a, P> {
    pub path: Vec<&'a Lineage<P>>,
    pub runs: Vec<Run<'a, P>>,
    gaps: &'a [Gap<P>],
}

/// Spans of one lineage, sealed and not yet sealed, each in log order.
#[derive(Debug)]
pub(crate) struct Shelf<'a, P> {
    sealed: Vec<&'a Span<P>>,
    tails: Vec<&'a Span<P>>,
}

/// The catalog's spans by lineage: made once, used for every path.
pub(crate) type Shelves<'a, P> = HashMap<&'a LineageId, Shelf<'a, P>>;

pub(crate) fn shelves<P>(catalog: &Catalog<P>) -> Shelves<'_, P> {
    let mut shelves: Shelves<'_, P> = HashMap::new();
    let empty = || Shelf { sealed: Vec::new(), tails: Vec::new() };
    for span in &catalog.spans {
        shelves.entry(&span.lineage).or_insert_with(empty).sealed.push(span);
    }
    for span in &catalog.tails {
        shelves.entry(&span.lineage).or_insert_with(empty).tails.push(span);
    }
    shelves
}

impl<'a, P: pitr_core::Position> Walk<'a, P> {
    /// Lines up the log of `path`, with every roll-up replaced that `known` can expand.
    pub fn new<E: Engine<Position = P>>(
        path: Vec<&'a Lineage<P>>,
        shelves: &Shelves<'a, P>,
        gaps: &'a [Gap<P>],
        known: &'a Known<P>,
    ) -> Self {
        let mut builder = Builder { runs: Vec::new(), end: None, floor: None };
        for (hop, lineage) in path.iter().enumerate() {
            if let Some(fork) = lineage.fork.as_ref().filter(|_| hop > 0) {
                builder.cross::<E>(fork);
            }
            let until = path.get(hop + 1).and_then(|child| child.fork.as_ref()).map(|fork| &fork.parent_at);
            let Some(shelf) = shelves.get(&lineage.id) else { continue };
            let blocked: Vec<&Gap<P>> = gaps.iter().filter(|g| g.lineage == lineage.id && blocks(&g.cause)).collect();
            for span in in_log_order(shelf, known) {
                for piece in usable(span, hop, &blocked) {
                    if let Some(piece) = clip(piece, until) {
                        builder.push(piece);
                    }
                }
            }
        }
        Self { path, runs: builder.runs, gaps }
    }

    /// The fork at which `hop` is left, in its own coordinates.
    pub fn until(&self, hop: usize) -> Option<&P> {
        self.path.get(hop + 1).and_then(|child| child.fork.as_ref()).map(|fork| &fork.parent_at)
    }

    /// True if it is certain that the cut `a` lies at or before the cut `b`, each with the lineage in whose
    /// coordinates it is.
    pub fn is_before<E: Engine<Position = P>>(&self, a: (usize, &P), b: (usize, &P)) -> bool {
        let fork_of = |hop: usize| self.path.get(hop).and_then(|lineage| lineage.fork.as_ref());
        match a.0.cmp(&b.0) {
            Ordering::Equal => a.1 <= b.1,
            Ordering::Less => {
                let mut at = a.1.clone();
                for hop in a.0 + 1..=b.0 {
                    let Some(fork) = fork_of(hop) else { return false };
                    // A child's position may lie before its fork, in the copy of the parent's bytes.
                    at = if hop == b.0 && fork.child_at <= *b.1 {
                        return true;
                    } else {
                        E::in_child(&at, fork).unwrap_or_else(|| fork.child_at.clone())
                    };
                }
                at <= *b.1
            }
            // Of a parent, only the fork itself is at or after a cut of its child that is not in the copy.
            Ordering::Greater => {
                let mut at = a.1;
                for hop in (b.0 + 1..=a.0).rev() {
                    match fork_of(hop) {
                        Some(fork) if *at <= fork.child_at => at = &fork.parent_at,
                        _ => return false,
                    }
                }
                at <= b.1
            }
        }
    }

    /// The hole after run `run`, which must not be the last one. Times are left to the caller.
    pub fn hole_after(&self, run: usize) -> Option<Gap<P>> {
        let last = self.runs.get(run)?.pieces.last()?;
        let next = self.runs.get(run + 1)?.pieces.first()?;
        let before = if next.from <= next.lower { next.lower.clone() } else { next.from.clone() };
        // A parent that reaches the fork leaves a hole only in the child, and is named in its coordinates.
        let reaches_fork = self.until(last.hop).is_some_and(|until| *until <= last.end);
        let (lineage, after) = match self.path.get(last.hop + 1).and_then(|child| child.fork.as_ref()) {
            Some(fork) if reaches_fork && last.hop + 1 == next.hop => (next.hop, fork.child_at.clone()),
            _ => (last.hop, last.end.clone()),
        };
        self.gap(lineage, after, Some(before))
    }

    /// The gap that was recorded at the end of the last run, if there is one.
    pub fn recorded_after(&self, run: usize) -> Option<Gap<P>> {
        let last = self.runs.get(run)?.pieces.last()?;
        let leaf = self.path.last()?;
        let is_last = run + 1 == self.runs.len() && last.hop + 1 == self.path.len();
        // One that ends before the log does was filled.
        let open = |gap: &&Gap<P>| match &gap.before {
            Some(before) => last.end < *before,
            None => last.end <= gap.after,
        };
        let gap = self.gaps.iter().filter(|gap| is_last && gap.lineage == leaf.id).find(open)?;
        Some(Gap { after: last.end.clone(), ..gap.clone() })
    }

    /// A gap with these edges, and the cause that a writer recorded for it, if any.
    pub fn gap(&self, hop: usize, after: P, before: Option<P>) -> Option<Gap<P>> {
        let lineage = &self.path.get(hop)?.id;
        let recorded = self.gaps.iter().find(|gap| {
            gap.lineage == *lineage
                && !before.as_ref().is_some_and(|before| *before <= gap.after)
                && !gap.before.as_ref().is_some_and(|end| *end <= after)
        });
        Some(Gap {
            lineage: lineage.clone(),
            after,
            before,
            after_time: recorded.and_then(|gap| gap.after_time),
            before_time: recorded.and_then(|gap| gap.before_time),
            cause: recorded.map_or(GapCause::NeverArchived, |gap| gap.cause.clone()),
        })
    }
}

/// True for gaps whose bytes a listing may still show. The others are holes between spans, or were filled
/// later, which the spans themselves prove.
pub(crate) fn blocks(cause: &GapCause) -> bool {
    matches!(cause, GapCause::Damaged(_) | GapCause::Disappeared)
}

/// Sealed spans and tails of one lineage, merged. Where both begin at the same cut, the sealed one is first
/// and supersedes the tail.
fn in_log_order<'a, P: pitr_core::Position>(shelf: &Shelf<'a, P>, known: &'a Known<P>) -> Vec<&'a Span<P>> {
    let mut sealed = Vec::with_capacity(shelf.sealed.len());
    for &span in &shelf.sealed {
        expand_into(&mut sealed, span, known, 0);
    }
    if shelf.tails.is_empty() {
        return sealed;
    }
    let mut merged = Vec::with_capacity(sealed.len() + shelf.tails.len());
    let mut tails = shelf.tails.iter().copied().peekable();
    for span in sealed {
        while let Some(tail) = tails.next_if(|tail| tail.start < span.start) {
            merged.push(tail);
        }
        merged.push(span);
    }
    merged.extend(tails);
    merged
}

fn expand_into<'a, P: pitr_core::Position>(
    out: &mut Vec<&'a Span<P>>,
    span: &'a Span<P>,
    known: &'a Known<P>,
    depth: usize,
) {
    match known.expansion(span).filter(|_| !span.is_single() && depth < MAX_ROLL_UP_DEPTH) {
        None => out.push(span),
        Some(inner) => {
            // A roll-up that contains itself would never end; without it, a hole shows.
            for part in inner.iter().filter(|part| *part != span) {
                expand_into(out, part, known, depth + 1);
            }
        }
    }
}

/// The parts of a span outside of stretches that are known to be unusable.
///
/// A damaged segment is left out as a whole. A roll-up over one keeps both ends: looking inside expands it,
/// and then the first rule applies.
fn usable<'a, P: pitr_core::Position>(span: &'a Span<P>, hop: usize, blocked: &[&Gap<P>]) -> Vec<Piece<'a, P>> {
    let mut rest = Some(Piece {
        span,
        hop,
        lower: span.start.clone(),
        from: span.start.clone(),
        end: span.end.clone(),
        whole: true,
    });
    let mut parts = Vec::with_capacity(1);
    for gap in blocked {
        let Some(piece) = rest.take() else { break };
        let beyond = piece.end <= gap.after || gap.before.as_ref().is_some_and(|before| *before <= piece.lower);
        if beyond {
            rest = Some(piece);
            continue;
        }
        if span.is_single() {
            return Vec::new();
        }
        if piece.lower < gap.after {
            parts.push(Piece { end: gap.after.clone(), whole: false, ..piece.clone() });
        }
        rest = gap.before.as_ref().filter(|before| **before < piece.end).map(|before| Piece {
            lower: before.clone(),
            from: before.clone(),
            whole: false,
            ..piece
        });
    }
    parts.extend(rest);
    parts
}

/// What of a piece lies before the fork at which its lineage is left.
fn clip<'a, P: pitr_core::Position>(mut piece: Piece<'a, P>, until: Option<&P>) -> Option<Piece<'a, P>> {
    let Some(until) = until else { return Some(piece) };
    if *until <= piece.lower {
        return None;
    }
    if !(piece.end <= *until) {
        piece.end = until.clone();
        piece.whole = false;
    }
    Some(piece)
}

struct Builder<'a, P> {
    runs: Vec<Run<'a, P>>,
    /// Where the log ends so far, in coordinates of the lineage being read; `None` before the first piece
    /// and where the coordinates of a child say nothing about the parent's.
    end: Option<P>,
    /// The fork at which the lineage being read began.
    floor: Option<P>,
}

impl<'a, P: pitr_core::Position> Builder<'a, P> {
    /// Goes on from a parent to its child.
    fn cross<E: Engine<Position = P>>(&mut self, fork: &Fork<P>) {
        self.floor = Some(fork.child_at.clone());
        self.end = match self.end.take() {
            Some(end) if fork.parent_at <= end => Some(fork.child_at.clone()),
            // The parent's last bytes may be missing where the child repeats them.
            Some(end) => E::in_child(&end, fork),
            None => None,
        };
    }

    fn push(&mut self, mut piece: Piece<'a, P>) {
        let joined = self.end.clone().filter(|end| piece.lower <= *end);
        if let Some(mut end) = joined {
            if piece.end <= end {
                return;
            }
            if let Some(shorter) = self.drop_superseded(&piece) {
                end = shorter;
            }
            piece.whole &= !(piece.from < end);
            piece.from = end;
        } else if let Some(floor) = self.floor.as_ref().filter(|floor| !(**floor <= piece.from)) {
            // The copy of the parent's bytes at the begin of a child counts only where it is joined to them.
            if piece.end <= *floor {
                return;
            }
            piece.from = floor.clone();
            piece.whole = false;
            self.runs.push(Run { pieces: Vec::new() });
        } else {
            self.runs.push(Run { pieces: Vec::new() });
        }
        self.end = Some(piece.end.clone());
        if let Some(run) = self.runs.last_mut() {
            run.pieces.push(piece);
        }
    }

    /// Drops pieces at the end of the run that `next` makes superfluous, so that a chain has no detours.
    /// Returns the new end of the run if one was dropped.
    fn drop_superseded(&mut self, next: &Piece<'a, P>) -> Option<P> {
        let run = self.runs.last_mut()?;
        let mut end = None;
        while let [.., before, last] = run.pieces.as_slice() {
            let superfluous = last.hop == next.hop
                && before.hop == next.hop
                && next.lower <= before.end
                && last.end <= next.end
                && before.span.lineage == next.span.lineage;
            if !superfluous {
                break;
            }
            end = Some(before.end.clone());
            run.pieces.pop();
        }
        end
    }
}
