//! What the planner and the archive must know of an engine: a name, positions, and how targets name them.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::str::FromStr;

use crate::{Facts, Fork, Lineage, ParsePositionError, Span, TargetError};

/// A cut in the log of one source: everything before it is in, the rest is out.
///
/// # Contract
/// The order is by inclusion and therefore partial: `a <= b` means that every transaction before `a` is
/// also before `b`. Positions of different lineages need not be comparable. `Display` and `FromStr`
/// round-trip, the text is stable (it is stored in the archive) and free of control characters.
pub trait Position:
    Clone + Debug + Display + FromStr<Err = ParsePositionError> + Eq + Hash + PartialOrd + Send + Sync + 'static
{
}

impl<T> Position for T where
    T: Clone + Debug + Display + FromStr<Err = ParsePositionError> + Eq + Hash + PartialOrd + Send + Sync + 'static
{
}

/// One database engine, as pure data and functions: no I/O, no clock.
///
/// # Contract
/// Implemented once per engine by an empty type, called by the planner and the archive. All functions
/// are pure and total; bad input is a [`TargetError`], never a panic.
pub trait Engine: Debug + Clone + Copy + Send + Sync + 'static {
    /// The name in configuration, archive headers and screens: `postgres`, `mysql`, `mongodb`.
    const NAME: &'static str;
    /// The target schemes this engine understands, with one example each, for error messages.
    const TARGETS: &'static [(&'static str, &'static str)];
    /// A cut in this engine's log.
    type Position: Position;

    /// Reads the coordinate `scheme:value` of a target as seen from `lineage`.
    ///
    /// Coordinates that leave out the lineage (an LSN has no timeline) take it from the argument.
    fn locate(
        lineage: &Lineage<Self::Position>,
        scheme: &str,
        value: &str,
    ) -> Result<Locator<Self::Position>, TargetError>;

    /// False only if it is certain from the span's own facts that it does not hold transaction `id`.
    fn may_hold_transaction(span: &Span<Self::Position>, id: &str) -> bool;

    /// Merges the engine's facts of contiguous segments into those of their span.
    fn merge_facts(into: &mut Facts, next: &Facts);

    /// The child's name for a cut of the parent that lies at or before the fork.
    ///
    /// `None` where the child's log never repeats the parent's. PostgreSQL's does: the first segment of a
    /// timeline begins with a copy of the old one, and after a failover it is often the only copy.
    fn in_child(position: &Self::Position, fork: &Fork<Self::Position>) -> Option<Self::Position>;

    /// A position as a target that can be typed after `--to`: `lsn:4A/9C3F1E88`.
    fn target(position: &Self::Position) -> String;

    /// A position as people of this engine write it, for screens ("timeline 1, LSN 4A/9C3F1E88").
    fn describe(position: &Self::Position) -> String;
}

/// A coordinate of the log that a user named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locator<P> {
    /// The event that begins at, or spans, this position. The end of the log is such a position too.
    Position(P),
    /// The record that begins at this position. Unlike a cut, it cannot be kept where the log ends before it.
    Record(P),
    /// The transaction with this identifier.
    Transaction(String),
    /// The named point.
    Named(String),
}

impl<P> Locator<P> {
    /// The position, of a coordinate that has one.
    pub fn position(self) -> Option<P> {
        match self {
            Self::Position(position) | Self::Record(position) => Some(position),
            Self::Transaction(_) | Self::Named(_) => None,
        }
    }
}
