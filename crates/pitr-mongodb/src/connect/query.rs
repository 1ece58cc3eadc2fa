//! Small questions about a server's oplog and identity.

use bson::{Document, RawDocument, RawDocumentBuf, doc, rawdoc};
use futures::TryStreamExt;
use pitr_core::{Facts, LineageId};

use super::Member;
use crate::engine::facts;
use crate::error::{Doing, Error, Result};
use crate::position::{OpTime, Stamp};

/// First and last entry of the oplog, the last one majority-committed and without holes before it.
pub async fn oplog_bounds(member: &Member) -> Result<(OpTime, OpTime)> {
    Ok((edge(member, 1).await?, last_committed(member).await?))
}

/// The last entry that a majority has, as this member knows it.
///
/// A backward read can see an entry beyond a hole that is still being written: the forward read from it proves that
/// it is visible to a tail too.
async fn last_committed(member: &Member) -> Result<OpTime> {
    let last = edge(member, -1).await?;
    entry_at(member, last.stamp).await?.ok_or_else(|| {
        Error::answer("reading the end of the oplog", format!("{last} is there backward and not forward"))
    })
}

async fn edge(member: &Member, direction: i32) -> Result<OpTime> {
    let command = rawdoc! {
        "find": "oplog.rs", "sort": { "$natural": direction }, "limit": 1, "singleBatch": true,
        "projection": { "ts": 1, "t": 1 },
        "readConcern": { "level": "majority" },
    };
    let found = first(member, "local", command, "reading the oplog").await?;
    let found = found.ok_or_else(|| Error::answer("reading the oplog", "it is empty"))?;
    optime(&found)
}

/// The entry with exactly this timestamp, if the oplog has it.
pub async fn entry_at(member: &Member, stamp: Stamp) -> Result<Option<OpTime>> {
    Ok(first_from(member, stamp).await?.filter(|found| found.stamp == stamp))
}

/// The first entry at or after a timestamp. The server seeks to it, whatever the size of the oplog.
pub async fn first_from(member: &Member, stamp: Stamp) -> Result<Option<OpTime>> {
    let at = bson::Timestamp::from(stamp);
    let command = rawdoc! {
        "find": "oplog.rs", "filter": { "ts": { "$gte": at } }, "limit": 1, "singleBatch": true,
        "projection": { "ts": 1, "t": 1 },
        "readConcern": { "level": "majority" },
    };
    let found = first(member, "local", command, "reading the oplog").await?;
    found.map(|found| optime(&found)).transpose()
}

/// The last entry of the same term, at or after this one.
pub async fn last_of_term(member: &Member, entry: OpTime) -> Result<Option<OpTime>> {
    let at = bson::Timestamp::from(entry.stamp);
    let command = rawdoc! {
        "find": "oplog.rs", "filter": { "ts": { "$gte": at }, "t": entry.term }, "sort": { "$natural": -1 },
        "limit": 1, "singleBatch": true, "projection": { "ts": 1, "t": 1 }, "readConcern": { "level": "majority" },
    };
    let found = first(member, "local", command, "looking for an election in the oplog").await?;
    found.map(|found| optime(&found)).transpose()
}

/// The last entry before a timestamp.
pub async fn last_before(member: &Member, stamp: Stamp) -> Result<Option<OpTime>> {
    let at = bson::Timestamp::from(stamp);
    let command = rawdoc! {
        "find": "oplog.rs", "filter": { "ts": { "$lt": at } }, "sort": { "$natural": -1 },
        "limit": 1, "singleBatch": true, "projection": { "ts": 1, "t": 1 }, "readConcern": { "level": "majority" },
    };
    let found = first(member, "local", command, "reading the oplog").await?;
    found.map(|found| optime(&found)).transpose()
}

fn optime(entry: &RawDocument) -> Result<OpTime> {
    let stamp = entry.get_timestamp("ts").map_err(|error| Error::answer("reading the oplog", error))?;
    Ok(OpTime { term: entry.get_i64("t").unwrap_or(-1), stamp: stamp.into() })
}

async fn first(member: &Member, db: &str, command: RawDocumentBuf, doing: &str) -> Result<Option<RawDocumentBuf>> {
    let mut cursor = member.database(db).run_raw_cursor_command(command).batch().await.doing(doing)?;
    while let Some(batch) = cursor.try_next().await.doing(doing)? {
        if let Some(document) = batch.doc_slices().doing(doing)?.into_iter().next() {
            let value = document.map_err(|error| Error::answer(doing, error))?;
            return Ok(value.as_document().map(ToOwned::to_owned));
        }
    }
    Ok(None)
}

/// One document of a small collection.
pub(crate) async fn find_one(member: &Member, db: &str, name: &str, filter: Document) -> Result<Option<Document>> {
    let doing = format!("reading {db}.{name}");
    member.database(db).collection::<Document>(name).find_one(filter).await.doing(doing)
}

/// Name and facts of the history that a set writes.
pub(crate) async fn lineage_facts(member: &Member) -> Result<(LineageId, Facts)> {
    let doing = "reading the configuration of the replica set";
    let Some(set) = &member.set else {
        return Err(Error::Unsuitable {
            what: format!("{} is a standalone server: it keeps no oplog", member.host),
            hint: "restart it with --replSet, and run rs.initiate(): a set of one member is enough".to_owned(),
        });
    };
    let config = find_one(member, "local", "system.replset", doc! {}).await?;
    let config = config.ok_or_else(|| Error::answer(doing, "it is empty"))?;
    let id = config.get_document("settings").and_then(|settings| settings.get_object_id("replicaSetId"));
    let id = id.map_err(|error| Error::answer(doing, format!("no replicaSetId: {error}")))?.to_hex();
    let known = Facts::from([
        (facts::REPLICA_SET_ID.to_owned(), id.clone()),
        (facts::SET_NAME.to_owned(), set.clone()),
        (facts::VERSION.to_owned(), member.version_text()),
    ]);
    Ok((LineageId::new(id)?, known))
}

/// The feature compatibility version, such as `6.0`.
pub async fn compatibility(member: &Member) -> Result<String> {
    let answer = member
        .admin(doc! { "getParameter": 1, "featureCompatibilityVersion": 1 }, "asking for the compatibility version")
        .await?;
    let version = answer.get_document("featureCompatibilityVersion").and_then(|answer| answer.get_str("version"));
    version.map(str::to_owned).map_err(|error| Error::answer("asking for the compatibility version", error))
}
