//! What the planner is asked, what it may ask back, and the loop between the two.

use std::collections::HashMap;

use pitr_core::{BaseId, Bound, Catalog, Engine, LineageId, Position, Scan, SegmentName, Span, Target};

use crate::{Plan, Refusal, plan};

/// What the user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The moment.
    pub target: Target,
    /// Whether the thing named is kept.
    pub bound: Bound,
    /// The history to follow to its end; `None` for the newest leaf.
    pub lineage: Option<LineageId>,
    /// The base to start from; `None` for the newest that serves.
    pub base: Option<BaseId>,
}

impl Request {
    /// A request that leaves lineage and base to the planner.
    pub fn new(target: Target, bound: Bound) -> Self {
        Self { target, bound, lineage: None, base: None }
    }
}

/// Tells one span of a catalog from another, also a tail from the sealed segment that superseded it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SpanKey<P> {
    lineage: LineageId,
    first: SegmentName,
    last: SegmentName,
    start: P,
    end: P,
}

impl<P: Position> SpanKey<P> {
    fn of(span: &Span<P>) -> Self {
        Self {
            lineage: span.lineage.clone(),
            first: span.first.clone(),
            last: span.last.clone(),
            start: span.start.clone(),
            end: span.end.clone(),
        }
    }
}

/// Everything that was read for a plan so far.
#[derive(Debug, Clone)]
pub struct Known<P> {
    scans: HashMap<SpanKey<P>, Scan<P>>,
    expansions: HashMap<SpanKey<P>, Vec<Span<P>>>,
}

impl<P> Default for Known<P> {
    fn default() -> Self {
        Self { scans: HashMap::new(), expansions: HashMap::new() }
    }
}

impl<P: Position> Known<P> {
    /// Adds what a scan of `span` found.
    pub fn add_scan(&mut self, span: &Span<P>, scan: Scan<P>) {
        self.scans.insert(SpanKey::of(span), scan);
    }

    /// Adds the segments that the roll-up `span` stands for.
    pub fn add_expansion(&mut self, span: &Span<P>, segments: Vec<Span<P>>) {
        self.expansions.insert(SpanKey::of(span), segments);
    }

    /// Adds the answer to a need. Returns false, and adds nothing, if it is the answer to another question.
    pub fn add(&mut self, need: &Need<P>, answer: Answer<P>) -> bool {
        match (need, answer) {
            (Need::Expand(span), Answer::Segments(segments)) => self.add_expansion(span, segments),
            (Need::Scan { segment, .. }, Answer::Scan(scan)) => self.add_scan(segment, scan),
            _ => return false,
        }
        true
    }

    /// Number of segments scanned so far.
    pub fn scans(&self) -> usize {
        self.scans.len()
    }

    /// Number of roll-ups expanded so far.
    pub fn expansions(&self) -> usize {
        self.expansions.len()
    }

    pub(crate) fn scan(&self, span: &Span<P>) -> Option<&Scan<P>> {
        // Most catalogs are planned with a handful of scans: do not build keys for nothing.
        if self.scans.is_empty() { None } else { self.scans.get(&SpanKey::of(span)) }
    }

    pub(crate) fn expansion(&self, span: &Span<P>) -> Option<&[Span<P>]> {
        if self.expansions.is_empty() { None } else { self.expansions.get(&SpanKey::of(span)).map(Vec::as_slice) }
    }
}

/// What the planner must see before it can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need<P> {
    /// The single segments of this roll-up, in log order.
    Expand(Span<P>),
    /// The events of this segment (or tail).
    Scan {
        /// What to scan.
        segment: Span<P>,
        /// The log that follows, in order, for a record that crosses the segment's end. To be read only as
        /// far as the scanner asks; may contain roll-ups. Empty where the log ends or a hole follows.
        then: Vec<Span<P>>,
    },
}

/// The answer to a [`Need`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<P> {
    /// Segments of a roll-up.
    Segments(Vec<Span<P>>),
    /// What a scan found.
    Scan(Scan<P>),
}

/// One step of planning.
#[derive(Debug, Clone, PartialEq, Eq)]
// One exists at a time: its size costs nothing.
#[allow(clippy::large_enum_variant)]
pub enum Outcome<P> {
    /// The plan.
    Ready(Box<Plan<P>>),
    /// The exact reason why there is none.
    Refused(Box<Refusal<P>>),
    /// Fulfil this, add it to [`Known`] and call again.
    Need(Need<P>),
}

/// A plan, or the reason why not.
pub type Planned<P> = Result<Box<Plan<P>>, Box<Refusal<P>>>;

/// Calls [`plan`] until it is ready or refused, with `fulfil` answering each need.
///
/// The outer error is the caller's own (a store that cannot be reached); the inner one is the refusal.
/// An answer of the wrong kind is asked for again, so `fulfil` must match on the need.
pub fn drive<E, Err>(
    catalog: &Catalog<E::Position>,
    request: &Request,
    mut fulfil: impl FnMut(&Need<E::Position>) -> Result<Answer<E::Position>, Err>,
) -> Result<Planned<E::Position>, Err>
where
    E: Engine,
{
    let mut known = Known::default();
    loop {
        match plan::<E>(catalog, request, &known) {
            Outcome::Ready(plan) => return Ok(Ok(plan)),
            Outcome::Refused(refusal) => return Ok(Err(refusal)),
            Outcome::Need(need) => {
                let answer = fulfil(&need)?;
                known.add(&need, answer);
            }
        }
    }
}

/// [`drive`] for callers that fulfil needs asynchronously.
pub async fn drive_async<E, Err>(
    catalog: &Catalog<E::Position>,
    request: &Request,
    mut fulfil: impl AsyncFnMut(Need<E::Position>) -> Result<Answer<E::Position>, Err>,
) -> Result<Planned<E::Position>, Err>
where
    E: Engine,
{
    let mut known = Known::default();
    loop {
        match plan::<E>(catalog, request, &known) {
            Outcome::Ready(plan) => return Ok(Ok(plan)),
            Outcome::Refused(refusal) => return Ok(Err(refusal)),
            Outcome::Need(need) => {
                let answer = fulfil(need.clone()).await?;
                known.add(&need, answer);
            }
        }
    }
}
