//! A plan as it stands in JSON output: positions as text, nothing generic.

use pitr_core::ports::Stop;
use pitr_core::{Event, Position, Timestamp, What};
use serde::Serialize;

use crate::{GapReport, Plan};

/// One event of the log.
#[derive(Debug, Clone, Serialize)]
pub struct EventReport {
    /// Where it begins.
    pub begin: String,
    /// Where it ends.
    pub end: String,
    /// Its time.
    pub time: Option<Timestamp>,
    /// The engine's identifier of the transaction.
    pub transaction: Option<String>,
    /// `commit`, `abort`, `mark` or `clock`.
    pub what: &'static str,
    /// The name of a point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl<P: Position> From<&Event<P>> for EventReport {
    fn from(event: &Event<P>) -> Self {
        let (what, name) = match &event.what {
            What::Commit => ("commit", None),
            What::Abort => ("abort", None),
            What::Mark(name) => ("mark", Some(name.clone())),
            What::Clock => ("clock", None),
        };
        Self {
            begin: event.begin.to_string(),
            end: event.end.to_string(),
            time: event.time,
            transaction: event.transaction.clone(),
            what,
            name,
        }
    }
}

/// A whole plan.
#[derive(Debug, Clone, Serialize)]
pub struct PlanReport {
    /// What was asked for.
    pub target: String,
    /// `to` or `before`.
    pub bound: String,
    /// The leaf whose log was followed.
    pub leaf: String,
    /// Leaves not followed, newest first.
    pub other_leaves: Vec<String>,
    /// The history of the cut.
    pub lineage: String,
    /// Everything before it is in.
    pub cut: String,
    /// Where the replay halts: the earliest cut that holds the same transactions.
    pub halt: String,
    /// `before` or `after`.
    pub stop: &'static str,
    /// Begin of the record to stop before or after.
    pub stop_at: String,
    /// The last commit that is kept.
    pub last_kept: Option<EventReport>,
    /// The first commit that is dropped.
    pub first_dropped: Option<EventReport>,
    /// The hole right after the cut.
    pub gap_after: Option<GapReport>,
    /// Commits stamped before a time target that lie after the cut.
    pub inversions: u64,
    /// The first of them.
    pub inversion_examples: Vec<EventReport>,
    /// False if there may be more.
    pub inversions_complete: bool,
    /// Name of the base.
    pub base: String,
    /// Clock of the source when the base was complete.
    pub base_taken: Timestamp,
    /// Its size once restored.
    pub base_bytes: u64,
    /// The histories from the root to that of the cut.
    pub path: Vec<String>,
    /// Where the log begins.
    pub log_start: Option<String>,
    /// Where it ends.
    pub log_end: Option<String>,
    /// Segments to fetch.
    pub log_segments: u64,
    /// Their native bytes.
    pub log_bytes: u64,
    /// Commits between the cut and the end of the archived log.
    pub lost_commits: u64,
    /// True if there may be more.
    pub lost_at_least: bool,
    /// Time of the first commit that is lost.
    pub lost_from: Option<Timestamp>,
    /// The latest moment that the log proves behind the cut.
    pub lost_until: Option<Timestamp>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl<P: Position> From<&Plan<P>> for PlanReport {
    fn from(plan: &Plan<P>) -> Self {
        let (stop, stop_at) = match &plan.end.stop {
            Stop::Before(at) => ("before", at),
            Stop::After(at) => ("after", at),
        };
        let (end, chain) = (&plan.end, &plan.chain);
        Self {
            target: plan.target.to_string(),
            bound: plan.bound.to_string(),
            leaf: plan.leaf.to_string(),
            other_leaves: plan.other_leaves.iter().map(ToString::to_string).collect(),
            lineage: end.lineage.to_string(),
            cut: end.cut.to_string(),
            halt: plan.halt.to_string(),
            stop,
            stop_at: stop_at.to_string(),
            last_kept: end.last_kept.as_ref().map(Into::into),
            first_dropped: end.first_dropped.as_ref().map(Into::into),
            gap_after: end.gap_after.as_ref().map(Into::into),
            inversions: end.inversions.count,
            inversion_examples: end.inversions.examples.iter().map(Into::into).collect(),
            inversions_complete: end.inversions.complete,
            base: chain.base.id.to_string(),
            base_taken: chain.base.taken.1,
            base_bytes: chain.base.bytes,
            path: chain.path.iter().map(ToString::to_string).collect(),
            log_start: chain.log.first().map(|span| span.start.to_string()),
            log_end: chain.log.last().map(|span| span.end.to_string()),
            log_segments: chain.segments,
            log_bytes: chain.bytes,
            lost_commits: plan.lost.commits,
            lost_at_least: plan.lost.at_least,
            lost_from: plan.lost.from,
            lost_until: plan.lost.until,
            warnings: plan.warnings.clone(),
        }
    }
}
