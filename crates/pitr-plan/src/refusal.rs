//! Why a target cannot be restored, and what can be restored instead.

use std::fmt;

use pitr_core::{BaseId, Bound, Classify, ErrorKind, Gap, LineageId, Position, Target, TargetError, Timestamp};
use serde::Serialize;

use crate::text::safe;

/// A moment that can be restored, as a person can type it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment<P> {
    /// The cut.
    pub position: P,
    /// The latest time the log proves there, or the clock of the source when the base was complete. For
    /// screens: the position says it exactly.
    pub time: Option<Timestamp>,
    /// What to type after `--to`.
    pub target: String,
    /// The leaf to name with `--lineage`, where it is not the one the planner would choose.
    pub lineage: Option<LineageId>,
}

/// A commit, abort or named point that a target may have meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate<P> {
    /// Where it begins.
    pub begin: P,
    /// Its time, if it carries one.
    pub time: Option<Timestamp>,
    /// What to type after `--to` or `--before` instead.
    pub target: String,
}

/// The reasons, as data.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason<P> {
    /// The archive knows no history of the source.
    NoLineage,
    /// The history asked for is not in the archive.
    LineageUnknown {
        /// As asked for.
        lineage: LineageId,
        /// Those that exist, oldest first.
        known: Vec<LineageId>,
    },
    /// An ancestor of the history is missing from the archive, or the ancestors form a circle.
    NotALineage {
        /// The history whose ancestors do not add up.
        lineage: LineageId,
    },
    /// The base asked for is not in the archive.
    BaseUnknown {
        /// As asked for.
        base: BaseId,
        /// Those that exist.
        known: Vec<BaseId>,
    },
    /// The base asked for was not taken from this history, or after it forked off.
    BaseElsewhere {
        /// As asked for.
        base: BaseId,
        /// Where it was taken.
        lineage: LineageId,
    },
    /// No base of this history exists.
    NoBase,
    /// There are bases, but not the log that any of them needs to become consistent.
    NoLog {
        /// The earliest of them.
        base: BaseId,
        /// Where log is needed from.
        start: P,
        /// How far it is needed.
        consistent: P,
    },
    /// The target lies before the earliest cut that the bases can reach.
    BeforeBase {
        /// The base with the earliest consistent cut in this stretch of log.
        base: BaseId,
        /// That cut.
        consistent: P,
    },
    /// The target lies inside a hole in the log.
    InGap {
        /// The hole.
        gap: Gap<P>,
    },
    /// The target is in the archive, but a hole lies between it and the newest base before it.
    CrossesGap {
        /// The newest base before the target.
        base: BaseId,
        /// The hole after it.
        gap: Gap<P>,
    },
    /// The target lies after everything that the archive holds of this history.
    AfterEnd {
        /// The latest moment that the log proves to reach.
        reaches: Option<Timestamp>,
        /// What is known to be missing from there on.
        gap: Option<Gap<P>>,
    },
    /// The position belongs to no stretch of this history.
    NotInLog,
    /// No transaction with this identifier committed.
    UnknownTransaction {
        /// As asked for.
        id: String,
        /// Where it was rolled back, if it was.
        aborted: Option<Candidate<P>>,
    },
    /// No point has this name.
    UnknownName {
        /// As asked for.
        name: String,
        /// Names that exist, newest first.
        known: Vec<String>,
    },
    /// Several events fit.
    Ambiguous {
        /// "transaction" or "named point".
        what: &'static str,
        /// All that fit, in log order.
        candidates: Vec<Candidate<P>>,
    },
    /// `--before latest` names nothing.
    BeforeLatest,
    /// The coordinate is not one of this engine.
    TargetInvalid(TargetError),
}

/// A target that cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal<P> {
    /// What was asked for.
    pub target: Target,
    /// Whether it was to be kept.
    pub bound: Bound,
    /// The leaf whose log was looked at, if there is one.
    pub lineage: Option<LineageId>,
    /// Why not.
    pub reason: Reason<P>,
    /// The latest restorable moment before the target.
    pub nearest_before: Option<Moment<P>>,
    /// The earliest restorable moment after it.
    pub nearest_after: Option<Moment<P>>,
}

/// Where on the path a refused target lies.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Spot {
    /// Nowhere: it names nothing.
    Nowhere,
    /// Before all log.
    Start,
    /// In the hole after this run.
    Hole(usize),
    /// At a cut in this run that no base reaches.
    Cut(usize),
    /// After all log.
    End,
}

impl<P> Reason<P> {
    /// A stable word for scripts.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoLineage => "no_lineage",
            Self::LineageUnknown { .. } => "lineage_unknown",
            Self::NotALineage { .. } => "not_a_lineage",
            Self::BaseUnknown { .. } => "base_unknown",
            Self::BaseElsewhere { .. } => "base_elsewhere",
            Self::NoBase => "no_base",
            Self::NoLog { .. } => "no_log",
            Self::BeforeBase { .. } => "before_base",
            Self::InGap { .. } => "in_gap",
            Self::CrossesGap { .. } => "crosses_gap",
            Self::AfterEnd { .. } => "after_end",
            Self::NotInLog => "not_in_log",
            Self::UnknownTransaction { .. } => "unknown_transaction",
            Self::UnknownName { .. } => "unknown_name",
            Self::Ambiguous { .. } => "ambiguous",
            Self::BeforeLatest => "before_latest",
            Self::TargetInvalid(_) => "target_invalid",
        }
    }
}

impl<P: Position> fmt::Display for Refusal<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = safe(&self.target.to_string());
        match &self.reason {
            Reason::NoLineage => write!(f, "nothing is archived of this source yet"),
            Reason::LineageUnknown { lineage, .. } => write!(f, "lineage {lineage} is not in the archive"),
            Reason::NotALineage { lineage } => write!(f, "an ancestor of lineage {lineage} is not in the archive"),
            Reason::BaseUnknown { base, .. } => write!(f, "base {base} is not in the archive"),
            Reason::BaseElsewhere { base, lineage } => {
                write!(f, "base {base} of lineage {lineage} does not lead to this history")
            }
            Reason::NoBase => write!(f, "no base of this history is in the archive"),
            Reason::NoLog { base, start, consistent } => {
                write!(f, "base {base} needs the log from {start} to {consistent}, which is not in the archive")
            }
            Reason::BeforeBase { base, consistent } => {
                write!(f, "{target} lies before {consistent}, the earliest position that base {base} can reach")
            }
            Reason::InGap { gap } => write!(f, "{target} lies inside a gap of the log: {}", GapText(gap)),
            Reason::CrossesGap { base, gap } => {
                write!(f, "a gap of the log lies between base {base} and {target}: {}", GapText(gap))
            }
            Reason::AfterEnd { reaches, gap } => {
                write!(f, "{target} lies after the end of the archived log")?;
                if let Some(time) = reaches {
                    write!(f, ", which reaches {}", crate::text::utc(*time))?;
                }
                match gap {
                    Some(gap) => write!(f, "; a gap follows: {}", GapText(gap)),
                    None => Ok(()),
                }
            }
            Reason::NotInLog => write!(f, "{target} is no position of this history"),
            Reason::UnknownTransaction { id, aborted: Some(_) } => {
                write!(f, "transaction {} was rolled back", safe(id))
            }
            Reason::UnknownTransaction { id, aborted: None } => {
                write!(f, "no commit of transaction {} is in the archive", safe(id))
            }
            Reason::UnknownName { name, .. } => write!(f, "no point named {} is in the archive", safe(name)),
            Reason::Ambiguous { what, candidates } => {
                write!(f, "{target} is ambiguous: {} fit", crate::text::count(candidates.len() as u64, what))
            }
            Reason::BeforeLatest => write!(f, "\"before latest\" names no moment"),
            Reason::TargetInvalid(error) => f.write_str(&safe(&error.to_string())),
        }
    }
}

impl<P: Position> std::error::Error for Refusal<P> {}

impl<P: Position> Classify for Refusal<P> {
    fn kind(&self) -> ErrorKind {
        match &self.reason {
            Reason::LineageUnknown { .. }
            | Reason::BaseUnknown { .. }
            | Reason::BaseElsewhere { .. }
            | Reason::BeforeLatest
            | Reason::TargetInvalid(_) => ErrorKind::Usage,
            _ => ErrorKind::NotRecoverable,
        }
    }

    fn hint(&self) -> Option<String> {
        let list = |names: Vec<String>| (!names.is_empty()).then(|| format!("known are: {}", names.join(", ")));
        match &self.reason {
            Reason::NoLineage | Reason::NoBase => Some("take a base: pitr backup SOURCE".to_owned()),
            Reason::LineageUnknown { known, .. } => list(known.iter().map(ToString::to_string).collect()),
            Reason::BaseUnknown { known, .. } => list(known.iter().map(ToString::to_string).collect()),
            Reason::BaseElsewhere { .. } => Some("leave out the base, or name its lineage".to_owned()),
            Reason::NotALineage { .. } => Some("check the archive: pitr verify".to_owned()),
            Reason::NoLog { .. } => Some("wait until that log is archived, or take a new base: pitr backup".to_owned()),
            Reason::UnknownName { known, .. } => list(known.iter().map(|name| safe(name)).collect()),
            Reason::UnknownTransaction { aborted: Some(at), .. } => {
                Some(format!("its end is at {}: that position can be restored", at.target))
            }
            Reason::Ambiguous { candidates, .. } => {
                let targets: Vec<_> = candidates.iter().map(|candidate| candidate.target.clone()).collect();
                Some(format!("say which one: {}", targets.join(", ")))
            }
            Reason::BeforeLatest => Some("use --to latest, or --before with a time or position".to_owned()),
            Reason::TargetInvalid(error) => Some(safe(&error.hint())),
            _ => self.nearest_hint(),
        }
    }
}

impl<P: Position> Refusal<P> {
    fn nearest_hint(&self) -> Option<String> {
        let before = self.nearest_before.as_ref().map(|m| format!("nearest before: --to {}", m.target));
        let after = self.nearest_after.as_ref().map(|m| format!("nearest after: --to {}", m.target));
        match (before, after) {
            (Some(before), Some(after)) => Some(format!("{before}; {after}")),
            (one, other) => one.or(other),
        }
    }

    /// The moments that can be restored instead, nearest before first.
    pub fn nearest(&self) -> impl Iterator<Item = &Moment<P>> {
        self.nearest_before.iter().chain(&self.nearest_after)
    }
}

/// A gap in one line: edges, times, cause.
pub(crate) struct GapText<'a, P>(pub &'a Gap<P>);

impl<P: Position> fmt::Display for GapText<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gap = self.0;
        write!(f, "after {}", gap.after)?;
        if let Some(time) = gap.after_time {
            write!(f, " ({})", crate::text::utc(time))?;
        }
        if let Some(before) = &gap.before {
            write!(f, " up to {before}")?;
        }
        if let Some(time) = gap.before_time {
            write!(f, " ({})", crate::text::utc(time))?;
        }
        write!(f, ", {}", safe(&gap.cause.to_string()))
    }
}

/// A refusal as it stands in JSON output.
#[derive(Debug, Clone, Serialize)]
pub struct RefusalReport {
    /// The reason as a stable word.
    pub reason: &'static str,
    /// The reason as a sentence.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The target as asked for.
    pub target: String,
    /// `to` or `before`.
    pub bound: String,
    /// The leaf whose log was looked at.
    pub lineage: Option<String>,
    /// The latest restorable moment before the target.
    pub nearest_before: Option<MomentReport>,
    /// The earliest restorable moment after it.
    pub nearest_after: Option<MomentReport>,
    /// All that an ambiguous target may mean.
    pub candidates: Vec<MomentReport>,
    /// The gap in the way.
    pub gap: Option<crate::GapReport>,
}

/// A moment in JSON output.
#[derive(Debug, Clone, Serialize)]
pub struct MomentReport {
    /// The cut.
    pub position: String,
    /// Its time.
    pub time: Option<Timestamp>,
    /// What to type after `--to`.
    pub target: String,
}

impl<P: Position> From<&Moment<P>> for MomentReport {
    fn from(moment: &Moment<P>) -> Self {
        Self { position: moment.position.to_string(), time: moment.time, target: moment.target.clone() }
    }
}

impl<P: Position> From<&Refusal<P>> for RefusalReport {
    fn from(refusal: &Refusal<P>) -> Self {
        let candidate =
            |c: &Candidate<P>| MomentReport { position: c.begin.to_string(), time: c.time, target: c.target.clone() };
        let (candidates, gap) = match &refusal.reason {
            Reason::Ambiguous { candidates, .. } => (candidates.iter().map(candidate).collect(), None),
            Reason::UnknownTransaction { aborted, .. } => (aborted.iter().map(candidate).collect(), None),
            Reason::InGap { gap } | Reason::CrossesGap { gap, .. } | Reason::AfterEnd { gap: Some(gap), .. } => {
                (Vec::new(), Some(gap.into()))
            }
            _ => (Vec::new(), None),
        };
        Self {
            reason: refusal.reason.code(),
            message: refusal.to_string(),
            hint: refusal.hint(),
            target: refusal.target.to_string(),
            bound: refusal.bound.to_string(),
            lineage: refusal.lineage.as_ref().map(ToString::to_string),
            nearest_before: refusal.nearest_before.as_ref().map(Into::into),
            nearest_after: refusal.nearest_after.as_ref().map(Into::into),
            candidates,
            gap,
        }
    }
}
