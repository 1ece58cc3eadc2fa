//! What a scan of log bytes finds.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Something in the log that a target can stop at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event<P> {
    /// Cut just before it: where it begins.
    pub begin: P,
    /// Cut just after it.
    pub end: P,
    /// Its own time, where it carries one. For a commit always the commit time.
    pub time: Option<Timestamp>,
    /// The engine's identifier of the transaction, where there is one.
    pub transaction: Option<String>,
    /// What it is.
    pub what: What,
}

/// The kinds of event that matter to a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A transaction became visible.
    Commit,
    /// A transaction was rolled back; its time still proves how far the log reaches.
    Abort,
    /// A named point.
    Mark(String),
    /// Nothing a user sees, but its time proves how far the log reaches (a checkpoint).
    Clock,
}

/// Everything found in one segment, in log order.
///
/// An event belongs to the segment in which it begins, also if its last byte lies in the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan<P> {
    /// Events that begin in the segment.
    pub events: Vec<Event<P>>,
    /// Begin and end of the last record that begins in the segment and is whole; a record that is cut off
    /// by the end of the archive does not count. `None` if no whole record begins here.
    pub last_record: Option<(P, P)>,
}
