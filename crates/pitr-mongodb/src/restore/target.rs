//! The server that is restored into: it must be empty, or hold what an interrupted restore of the same left.

use mongodb::bson::{Bson, Document, doc};

use crate::connect::{Member, find_one};
use crate::error::{Error, Result};
use crate::position::Stamp;

/// Where a restore keeps what it needs to go on after an interruption. Gone when it is complete.
const DB: &str = "pitr_restore";
const STATE: &str = "state";

/// What the restore is of: another one must not go on where this one stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The base.
    pub base: String,
    /// The history.
    pub lineage: String,
    /// The cut.
    pub cut: String,
}

/// How far a restore had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It begins.
    New,
    /// Documents of the base are being laid down.
    Base,
    /// Log is being applied; everything up to here is.
    Log(Stamp),
}

/// Looks at the target, and refuses one that holds anything else.
pub async fn claim(target: &Member, identity: &Identity) -> Result<Stage> {
    let state = find_one(target, DB, STATE, doc! {}).await?;
    let Some(state) = state else {
        refuse_content(target).await?;
        save(target, identity, Stage::Base).await?;
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
    Ok(state.get_timestamp("at").map_or(Stage::Base, |at| Stage::Log(at.into())))
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

/// Notes how far the restore has come.
pub async fn save(target: &Member, identity: &Identity, stage: Stage) -> Result<()> {
    let mut state = doc! {
        "_id": "restore", "base": &identity.base, "lineage": &identity.lineage, "cut": &identity.cut,
    };
    if let Stage::Log(at) = stage {
        state.insert("at", mongodb::bson::Timestamp::from(at));
    }
    let update: Document = doc! { "q": { "_id": "restore" }, "u": state, "upsert": true };
    let command = doc! { "update": STATE, "updates": [update], "writeConcern": { "w": 1, "j": true } };
    target.run(DB, command, "noting how far the restore is").await.map(drop)
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
