//! The server that is restored into: it must be empty, or hold what an interrupted restore of the same left.

use std::time::Instant;

use bson::{Bson, Document, doc};
use tokio::time::sleep;

use crate::connect::{Member, find_one};
use crate::error::{Error, Result};
use crate::limits::{APPLICATION_NAME, OUTLIVE_TIMEOUT, SERVER_POLL};
use crate::replay::progress::{DB, Identity, Reached, STATE, save};

/// How far a restore had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It begins.
    New,
    /// Documents of the base are being laid down.
    Base,
    /// Log is being applied; so much of it is.
    Log(Reached),
}

/// Looks at the target, and refuses one that holds anything else.
pub async fn claim(target: &Member, identity: &Identity) -> Result<Stage> {
    let state = find_one(target, DB, STATE, doc! {}).await?;
    let Some(state) = state else {
        refuse_content(target).await?;
        save(target, identity, None, true).await?;
        return Ok(Stage::New);
    };
    let text = |key: &str| state.get_str(key).unwrap_or_default().to_owned();
    let known = Identity { base: text("base"), lineage: text("lineage"), cut: text("cut") };
    if known != *identity {
        return Err(Error::Target {
            what: format!(
                "{} holds an unfinished restore of base {} to {}, not of base {} to {}",
                target.host, known.base, known.cut, identity.base, identity.cut
            ),
            hint: "finish that one with the same command, or give an empty server".to_owned(),
        });
    }
    outlive(target).await?;
    // Read again: what was still running may have been the note itself.
    let state = find_one(target, DB, STATE, doc! {}).await?.unwrap_or(state);
    Ok(Reached::from_document(&state).map_or(Stage::Base, Stage::Log))
}

/// Waits for what an interrupted restore has left running: a server finishes a command whose client is gone.
async fn outlive(target: &Member) -> Result<()> {
    let doing = "looking for writes of an interrupted restore";
    let names = ["applyOps", "insert", "update", "create", "createIndexes", "renameCollection"];
    let writing: Vec<Document> =
        names.iter().map(|name| doc! { format!("command.{name}"): { "$exists": true } }).collect();
    let command = doc! {
        "aggregate": 1, "cursor": {},
        "pipeline": [
            { "$currentOp": { "allUsers": true } },
            { "$match": { "appName": APPLICATION_NAME, "active": true, "$or": writing } },
        ],
    };
    let begun = Instant::now();
    loop {
        let answer = target.admin(command.clone(), doing).await?;
        let running = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
        if running.map_err(|error| Error::answer(doing, error))?.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > OUTLIVE_TIMEOUT {
            return Err(Error::Target {
                what: format!("{} still carries out writes of another restore", target.host),
                hint: "wait until that one has ended, or end it with db.killOp()".to_owned(),
            });
        }
        sleep(SERVER_POLL).await;
    }
}

async fn refuse_content(target: &Member) -> Result<()> {
    let mut found = Vec::new();
    let databases = target.admin(doc! { "listDatabases": 1, "nameOnly": true }, "listing databases").await?;
    for database in databases.get_array("databases").into_iter().flatten().filter_map(Bson::as_document) {
        let name = database.get_str("name").unwrap_or_default();
        if !matches!(name, "admin" | "config" | "local") {
            found.push(name.to_owned());
        }
    }
    let listed = target.run("admin", doc! { "listCollections": 1, "nameOnly": true }, "listing collections").await?;
    let first = listed.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    for collection in first.into_iter().flatten().filter_map(Bson::as_document) {
        let name = collection.get_str("name").unwrap_or_default();
        if !name.starts_with("system.") {
            found.push(format!("admin.{name}"));
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    found.truncate(5);
    Err(Error::Target {
        what: format!("{} is not empty: it has {}", target.host, found.join(", ")),
        hint: "restore into a new replica set or a new standalone server".to_owned(),
    })
}

/// Removes the note: the restore is complete.
pub async fn finish(target: &Member) -> Result<()> {
    target.run(DB, doc! { "dropDatabase": 1 }, "removing the note of the restore").await.map(drop)
}

/// Keeps the server from deleting what has expired by now: it had not, at the time that is restored.
pub async fn stop_expiry(target: &Member) -> Result<()> {
    let command = doc! { "setParameter": 1, "ttlMonitorEnabled": false };
    target.admin(command, "switching the expiry of documents off").await.map(drop)
}
