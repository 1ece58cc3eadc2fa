//! What `pitr` writes into a source's oplog with `appendOplogNote`: heartbeats and named points.

use bson::{Document, doc};

use crate::entry::{Entry, Op};

/// The key under which a note says that it is ours.
const KEY: &str = "pitr";
const HEARTBEAT: &str = "heartbeat";
const MARK: &str = "mark";

/// The data of a note that moves the end of an idle log.
pub fn heartbeat() -> Document {
    doc! { KEY: HEARTBEAT }
}

/// The data of a note that names a point.
pub fn mark_data(name: &str) -> Document {
    doc! { KEY: MARK, "name": name }
}

/// The name of a point, if the entry is one.
pub fn mark<'a>(entry: &Entry<'a>) -> Option<&'a str> {
    if entry.op != Op::Noop || entry.o.get_str(KEY).ok()? != MARK {
        return None;
    }
    entry.o.get_str("name").ok()
}

/// True for a note that only moves the end of the log.
pub fn is_heartbeat(entry: &Entry<'_>) -> bool {
    entry.op == Op::Noop && entry.o.get_str(KEY).is_ok_and(|kind| kind == HEARTBEAT)
}
