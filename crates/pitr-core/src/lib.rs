//! The vocabulary of point-in-time recovery, and the seam between a database engine and everything else.
//!
//! This crate has no I/O: no runtime, no network, no object store. It says what a position, a segment, a
//! base, a gap and a target are, and which traits an engine and the archive implement for each other.
//!
//! ```
//! use pitr_core::{Bound, Target};
//!
//! let now = "2026-09-07T01:00:00Z".parse().unwrap();
//! let target = Target::parse("15m ago", now).unwrap();
//! assert_eq!(target, Target::Time("2026-09-07T00:45:00Z".parse().unwrap()));
//! assert_eq!(Bound::Before.to_string(), "before");
//! ```
//!
//! The nouns, in the order in which a restore meets them:
//!
//! - [`Engine`]: a name and a [`Position`] type. Pure.
//! - [`Lineage`]: one unforked history; a fork starts a new one.
//! - [`Span`]: one or many contiguous sealed segments of a lineage, with commit-time bounds.
//! - [`Event`]: what a scan of log bytes found (a commit, an abort, a named point), each with both its cuts.
//! - [`Base`]: a restorable copy, with its start and its consistent position.
//! - [`Gap`]: a hole in the log, as a value with both edges and a cause.
//! - [`Catalog`]: all of these for one source.
//! - [`Target`] and [`Bound`]: what the user asks for.
//! - [`ports`]: the traits through which engine and archive meet.

mod base;
mod catalog;
mod engine;
mod error;
mod event;
mod finding;
mod gap;
mod lineage;
pub mod ports;
mod segment;
mod target;

pub use base::{Base, BaseId};
pub use catalog::Catalog;
pub use engine::{Engine, Locator, Position};
pub use error::{Classify, ErrorKind, InvalidName, ParsePositionError, PortError};
pub use event::{Event, Scan, What};
pub use finding::{Finding, Severity};
pub use gap::{Gap, GapCause};
pub use lineage::{Fork, Lineage, LineageId};
pub use segment::{CommitBounds, Facts, SegmentName, Span};
pub use target::{Bound, Target, TargetError};

/// A moment in UTC with microsecond meaning; finer digits are never produced by an engine.
pub type Timestamp = chrono::DateTime<chrono::Utc>;
