//! Pure planner: catalog and target in; recovery plan, or the exact reason why not, out.
//!
//! The planner does no I/O. [`plan`] is a function of what the archive lists ([`pitr_core::Catalog`]), what
//! is asked for ([`Request`]) and what was read so far ([`Known`]). It answers with a [`Plan`], a
//! [`Refusal`], or a [`Need`]: one roll-up to expand or one segment to scan. [`drive`] is the loop.
//!
//! ```
//! use pitr_core::{Bound, Catalog, Engine, Target};
//! use pitr_plan::{Answer, Need, Request, Planned, drive};
//!
//! fn restore_latest<E: Engine>(
//!     catalog: &Catalog<E::Position>,
//!     read: impl FnMut(&Need<E::Position>) -> std::io::Result<Answer<E::Position>>,
//! ) -> std::io::Result<Planned<E::Position>> {
//!     drive::<E, _>(catalog, &Request::new(Target::Latest, Bound::To), read)
//! }
//! ```
//!
//! The nouns: a [`Plan`] has an [`End`] (where it stops and what lies on both sides), a [`Chain`] (base and
//! log) and what is [`Lost`]. A [`Refusal`] has a [`Reason`] and the nearest [`Moment`]s that can be
//! restored. A [`Window`] is a stretch in which every moment can. [`explain`] and [`explain_refusal`] make
//! screens of the first two.
//!
//! # The log
//!
//! The log of a leaf is the log of its path: each ancestor up to the fork at which it is left, the child
//! from there on. It falls into *runs*: pieces, each of which continues the one before
//! ([`pitr_core::Span::continued_by`]); between two runs is a hole. Overlaps and duplicates are fine. A tail
//! continues the log where nothing sealed covers it. A child may begin with a copy of its parent's last
//! bytes. Where the parent's own log reaches the fork, events of that copy do not count. Where it ends
//! earlier, and the engine can translate its end ([`pitr_core::Engine::in_child`]), the copy fills in. Spans
//! inside a gap that is recorded as damaged or disappeared are taken for missing.
//!
//! # What a target means
//!
//! Every target ends as a cut: everything before it is in, the rest is out.
//!
//! - **Time** `T`: the cut before the first commit, *in log order*, that is later than `T` (`--to`) or not
//!   earlier than it (`--before`). Commit times need not be monotonic: later commits with earlier times are
//!   left out, and reported as [`Inversions`]. If a run has no such commit but something in it proves the
//!   log to reach `T` (a commit, an abort, a checkpoint at or after `T`), the cut is the end of its last whole
//!   record. Otherwise the search goes on behind the hole. A later run answers only if its first commit is
//!   kept; if even that one is left out, the first commit to be left out may be in the hole, and `T` lies
//!   *inside the gap*. If no run answers, `T` lies *after the end*.
//! - **Position** `P`: the cut at `P`. A record that begins at `P` or spans it is named by it: `--to` keeps it,
//!   `--before` drops it. The end of the last whole record is the latest cut. A position in the coordinates
//!   of the leaf that lies before the fork is its parent's.
//! - **Transaction**: `--to` keeps its commit, `--before` drops it. Identifiers wrap around: two commits with
//!   the same one are ambiguous, and each is named by its position.
//! - **Named point**: likewise.
//! - **Latest**: the end of the last whole record of the last run.
//!
//! # What a restore needs
//!
//! A base of the path, consistent at or before the cut (and, on an ancestor, at or before the fork), whose
//! start lies in the run of the cut. Of those the one that is consistent latest. If bases before the cut
//! exist but a hole follows each, the target *crosses a gap*. If none is before the cut, it lies *before
//! the base*. If no base can become consistent at all, there is *no log*. A plan reads only what decides it:
//! spans whose commit-time bounds rule them out stay closed.

mod choose;
mod explain;
pub mod limits;
mod log;
mod plan;
mod refusal;
mod report;
mod request;
mod resolve;
mod text;
mod walk;
mod windows;

pub use explain::{Zone, explain, explain_refusal, next_commands};
pub use plan::{Chain, End, Inversions, Lost, Plan, plan};
pub use refusal::{Candidate, Moment, MomentReport, Reason, Refusal, RefusalReport};
pub use report::{EventReport, PlanReport};
pub use request::{Answer, Known, Need, Outcome, Planned, Request, drive, drive_async};
pub use windows::{GapReport, Window, gaps, windows};
