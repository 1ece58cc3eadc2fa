//! Reads the catalog of a server as it was at one cluster time.

use bson::doc;
use futures::TryStreamExt;
use tokio::time::{sleep, timeout};

use super::catalog::Collection;
use super::listing::Listing;
use crate::connect::{Member, entry_at, last_before, oplog_bounds};
use crate::error::{Doing, Error, Result};
use crate::limits::{CATALOG_ATTEMPTS, COMMIT_POLL, COMMIT_TIMEOUT};
use crate::position::{MongoPosition, OpTime, Stamp};

/// The catalog, and the cluster time of which it is.
#[derive(Debug)]
pub struct Inventory {
    /// Every write up to here is reflected.
    pub at: OpTime,
    /// Log is needed from here on: transactions that were open at that time have parts before it.
    pub start: MongoPosition,
    /// What there is, sorted by database and name.
    pub collections: Vec<Collection>,
}

/// Takes stock at a moment that a majority has.
///
/// The server reads its catalog as it is now, not at a time. So the log is asked afterwards: if no command
/// changed the catalog between the cluster time and the end of the reading, it was the same all along. If one did, what
/// it changed is listed again.
pub async fn take(member: &Member) -> Result<Inventory> {
    // In this order: a transaction that is open at the cluster time either shows in the list, or began after it was read.
    let (_, before) = oplog_bounds(member).await?;
    let oldest = oldest_transaction(member).await?;
    let start = oldest.map_or(before.before(), |oldest| oldest.before().or_earlier(before.before()));
    let mut listing = Listing::default();
    for _ in 0..CATALOG_ATTEMPTS {
        let (_, newest) = oplog_bounds(member).await?;
        let at = before_prepared(member, newest).await?;
        listing.read(member, at.stamp).await?;
        let last = last_applied(member).await?;
        if committed(member, last).await? && listing.holds(member, last.stamp).await? {
            let start = start.or_earlier(at.before());
            return Ok(Inventory { at, start, collections: listing.into_collections() });
        }
    }
    Err(Error::Silent {
        doing: format!("collections or indexes of {} changed each time they were listed", member.host),
        seconds: 0,
    })
}

/// The first entry of the oldest transaction that is open, as a majority sees it.
async fn oldest_transaction(member: &Member) -> Result<Option<OpTime>> {
    let doing = "looking for open transactions";
    let command = doc! {
        "find": "transactions", "filter": { "state": { "$in": ["prepared", "inProgress"] } },
        "projection": { "startOpTime": 1 }, "readConcern": { "level": "majority" },
    };
    let mut cursor = member.database("config").run_cursor_command(command).await.doing(doing)?;
    let mut oldest: Option<OpTime> = None;
    while let Some(transaction) = cursor.try_next().await.doing(doing)? {
        let Ok(start) = transaction.get_document("startOpTime") else { continue };
        let stamp = start.get_timestamp("ts").map_err(|error| Error::answer(doing, error))?;
        let found = OpTime { term: start.get_i64("t").unwrap_or(-1), stamp: stamp.into() };
        oldest = Some(oldest.filter(|oldest| oldest.stamp <= found.stamp).unwrap_or(found));
    }
    Ok(oldest)
}

/// The newest entry that no undecided transaction is prepared before: a read as of a later time would wait for its
/// decision at each document that it changes.
async fn before_prepared(member: &Member, newest: OpTime) -> Result<OpTime> {
    let doing = "looking for prepared transactions";
    let command = doc! {
        "find": "transactions", "filter": { "state": "prepared" }, "projection": { "lastWriteOpTime": 1 },
        "readConcern": { "level": "majority" },
    };
    let mut cursor = member.database("config").run_cursor_command(command).await.doing(doing)?;
    let mut at = newest;
    while let Some(transaction) = cursor.try_next().await.doing(doing)? {
        let prepared = transaction.get_document("lastWriteOpTime").and_then(|last| last.get_timestamp("ts"));
        let prepared: Stamp = prepared.map_err(|error| Error::answer(doing, error))?.into();
        if prepared <= at.stamp {
            let gone = || Error::answer(doing, format!("the oplog does not reach back to {prepared}"));
            at = last_before(member, prepared).await?.ok_or_else(gone)?;
        }
    }
    Ok(at)
}

/// The last entry that this member has applied, committed or not.
async fn last_applied(member: &Member) -> Result<OpTime> {
    let doing = "asking for the last write";
    let answer = member.admin(doc! { "hello": 1 }, doing).await?;
    let last = answer.get_document("lastWrite").and_then(|last| last.get_document("opTime"));
    let last = last.map_err(|error| Error::answer(doing, error))?;
    let stamp = last.get_timestamp("ts").map_err(|error| Error::answer(doing, error))?;
    Ok(OpTime { term: last.get_i64("t").unwrap_or(-1), stamp: stamp.into() })
}

/// Waits until a majority has the entry; false if it was rolled back.
async fn committed(member: &Member, entry: OpTime) -> Result<bool> {
    let wait = async {
        loop {
            let (_, last) = oplog_bounds(member).await?;
            if last.stamp >= entry.stamp {
                return Ok(entry_at(member, entry.stamp).await? == Some(entry));
            }
            sleep(COMMIT_POLL).await;
        }
    };
    timeout(COMMIT_TIMEOUT, wait).await.map_err(|_| Error::Silent {
        doing: format!("waiting for a majority to have {entry}"),
        seconds: COMMIT_TIMEOUT.as_secs(),
    })?
}

/// False for what a server keeps for itself, and what a target must have of its own.
pub fn is_kept(db: &str, name: &str) -> bool {
    match (db, name) {
        ("local" | "config", _) => false,
        ("admin", "system.users" | "system.roles") => true,
        ("admin", name) if name.starts_with("system.") => false,
        (_, name) if name.starts_with("system.buckets.") => true,
        (_, "system.views" | "system.js") => true,
        (_, name) => !name.starts_with("system."),
    }
}

#[cfg(test)]
mod tests {
    use super::is_kept;

    #[test]
    fn what_belongs_to_the_server_is_left_to_the_server() {
        for (db, name) in [
            ("local", "oplog.rs"),
            ("config", "transactions"),
            ("admin", "system.version"),
            ("admin", "system.keys"),
            ("shop", "system.profile"),
        ] {
            assert!(!is_kept(db, name), "{db}.{name}");
        }
        for (db, name) in [
            ("admin", "system.users"),
            ("admin", "notes"),
            ("shop", "orders"),
            ("shop", "system.js"),
            ("shop", "system.buckets.weather"),
            ("shop", "systematic"),
        ] {
            assert!(is_kept(db, name), "{db}.{name}");
        }
    }
}
