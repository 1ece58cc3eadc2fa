//! Lists collections and indexes, and tells from the log whether they were the same all along.
//!
//! Where definitions change all the time, the whole list never stands still for as long as it takes to read it. So what
//! was listed stays as long as no command has changed it, and only the rest is listed again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bson::{Bson, Document, doc, rawdoc};
use futures::TryStreamExt;

use super::catalog::{Collection, CollectionId, Kind, Read, uuid};
use super::inventory::is_kept;
use crate::connect::Member;
use crate::entry::{Entry, Meaning, Op};
use crate::error::{Doing, Error, Result};
use crate::position::Stamp;
use crate::raw::field;

const NAMESPACE_NOT_FOUND: i32 = 26;

/// What was listed, and what has changed since.
#[derive(Debug, Default)]
pub struct Listing {
    /// The moment for which it was brought up to date.
    at: Stamp,
    databases: BTreeMap<String, Listed<Vec<Collection>>>,
    indexes: HashMap<CollectionId, Listed<Vec<Document>>>,
    changes: Changes,
}

/// Something that was read from a server after the moment `since`.
#[derive(Debug)]
struct Listed<T> {
    since: Stamp,
    content: T,
}

impl Listing {
    /// Lists what is not known, or has changed since it was listed. `at` is a moment that a majority has passed.
    pub async fn read(&mut self, member: &Member, at: Stamp) -> Result<()> {
        if at < self.at || self.at == Stamp::default() {
            *self = Self { changes: Changes { read: at, ..Changes::default() }, ..Self::default() };
        }
        self.at = at;
        self.changes.read_to(member, at).await?;
        let existing = databases(member).await?;
        let changes = &self.changes;
        self.databases.retain(|db, list| existing.contains(db) && !changes.touch_database(db, list.since));
        for db in existing {
            if !self.databases.contains_key(&db) {
                let mut content = collections(member, &db).await?;
                for collection in content.iter_mut().filter(|collection| collection.kind == Kind::Plain) {
                    collection.indexes = self.indexes(member, collection).await?;
                }
                self.databases.insert(db, Listed { since: at, content });
            }
        }
        Ok(())
    }

    async fn indexes(&mut self, member: &Member, collection: &Collection) -> Result<Vec<Document>> {
        let known = collection.id.and_then(|id| Some((id, self.indexes.get(&id)?)));
        if let Some((id, known)) = known
            && !self.changes.touch_indexes(id, known.since)
        {
            return Ok(known.content.clone());
        }
        let content = indexes(member, &collection.db, &collection.name).await?;
        if let Some(id) = collection.id {
            self.indexes.insert(id, Listed { since: self.at, content: content.clone() });
        }
        Ok(content)
    }

    /// True if nothing has changed up to `to`, which is behind the end of the reading: then the list is true of the moment
    /// for which it was read.
    pub async fn holds(&mut self, member: &Member, to: Stamp) -> Result<bool> {
        self.changes.read_to(member, to).await?;
        let since = |db: &String| self.databases.get(db).map_or(self.at, |list| list.since);
        let changed = |(db, at): (&String, &Stamp)| *at > since(db);
        Ok(self.changes.anything <= self.at && !self.changes.databases.iter().any(changed))
    }

    /// All collections, sorted by database and name.
    pub fn into_collections(self) -> Vec<Collection> {
        let mut found: Vec<Collection> = self.databases.into_values().flat_map(|list| list.content).collect();
        found.sort_by(|a, b| (&a.db, &a.name).cmp(&(&b.db, &b.name)));
        found
    }
}

/// When each thing was changed last, as far as the log was read.
#[derive(Debug, Default)]
struct Changes {
    read: Stamp,
    databases: HashMap<String, Stamp>,
    indexes: HashMap<CollectionId, Stamp>,
    /// When something was changed that the entry does not name.
    anything: Stamp,
}

impl Changes {
    fn touch_database(&self, db: &str, since: Stamp) -> bool {
        self.anything > since || self.databases.get(db).is_some_and(|at| *at > since)
    }

    fn touch_indexes(&self, id: CollectionId, since: Stamp) -> bool {
        self.anything > since || self.indexes.get(&id).is_some_and(|at| *at > since)
    }

    /// Reads the log up to here. Views are documents of `system.views`; all else is changed by commands.
    async fn read_to(&mut self, member: &Member, to: Stamp) -> Result<()> {
        if to <= self.read {
            return Ok(());
        }
        let doing = "looking for changes of the catalog";
        let (from, until) = (bson::Timestamp::from(self.read), bson::Timestamp::from(to));
        let command = rawdoc! {
            "find": "oplog.rs",
            "filter": {
                "ts": { "$gt": from, "$lte": until },
                "$or": [{ "op": "c" }, { "ns": { "$regex": "\\.system\\.views$" } }],
            },
            "readConcern": { "level": "majority" },
        };
        let mut cursor = member.database("local").run_raw_cursor_command(command).batch().await.doing(doing)?;
        while let Some(batch) = cursor.try_next().await.doing(doing)? {
            for document in batch.doc_slices().doing(doing)? {
                let document = document.map_err(|error| Error::answer(doing, error))?;
                let document = document.as_document().ok_or_else(|| Error::answer(doing, "an entry is no document"))?;
                self.note(&Entry::decode(document.as_bytes(), 0)?);
            }
        }
        self.read = to;
        Ok(())
    }

    fn note(&mut self, entry: &Entry<'_>) {
        let at = entry.optime.stamp;
        match (entry.op, entry.meaning()) {
            (Op::Command("applyOps"), _) => {
                let operations = entry.operations().into_iter().flatten().flatten();
                for operation in operations.filter_map(|operation| operation.as_document()) {
                    if operation.get_str("op").is_ok_and(|op| op == "c") {
                        let id = field(operation, b"ui").and_then(|id| id.as_uuid());
                        self.change(operation.get_str("ns").unwrap_or_default(), id, at);
                    }
                }
            }
            // What it did was said by its parts, which may lie before.
            (Op::Command("commitTransaction"), _) => self.anything = at,
            (Op::Command("abortTransaction"), _) | (_, Meaning::Nothing) => {}
            _ => self.change(entry.ns, entry.uuid, at),
        }
    }

    fn change(&mut self, ns: &str, id: Option<CollectionId>, at: Stamp) {
        let db = ns.split_once('.').map_or(ns, |(db, _)| db);
        if is_kept(db, "any") {
            self.databases.insert(db.to_owned(), at);
        }
        if let Some(id) = id {
            self.indexes.insert(id, at);
        }
    }
}

/// Databases whose collections a base keeps.
async fn databases(member: &Member) -> Result<BTreeSet<String>> {
    let doing = "listing databases";
    let answer = member.admin(doc! { "listDatabases": 1, "nameOnly": true }, doing).await?;
    let databases = answer.get_array("databases").map_err(|error| Error::answer(doing, error))?;
    let mut found = BTreeSet::new();
    for database in databases.iter().filter_map(Bson::as_document) {
        let db = database.get_str("name").map_err(|error| Error::answer(doing, error))?;
        if is_kept(db, "any") {
            found.insert(db.to_owned());
        }
    }
    Ok(found)
}

/// The collections of a database, without their indexes.
async fn collections(member: &Member, db: &str) -> Result<Vec<Collection>> {
    let doing = format!("listing collections of {db}");
    let database = member.database(db);
    let mut cursor = database.run_cursor_command(doc! { "listCollections": 1 }).await.doing(&doing)?;
    let mut found = Vec::new();
    while let Some(listed) = cursor.try_next().await.doing(&doing)? {
        let name = listed.get_str("name").map_err(|error| Error::answer(&doing, error))?.to_owned();
        if !is_kept(db, &name) {
            continue;
        }
        let kind = match listed.get_str("type") {
            Ok("view") => Kind::View,
            Ok("timeseries") => Kind::TimeSeries,
            _ => Kind::Plain,
        };
        found.push(Collection {
            db: db.to_owned(),
            name,
            kind,
            id: listed.get_document("info").ok().and_then(|info| info.get("uuid")).and_then(uuid),
            options: listed.get_document("options").cloned().unwrap_or_default(),
            indexes: Vec::new(),
            parts: 0,
            read: Read::Snapshot,
        });
    }
    Ok(found)
}

/// Indexes that are complete: of one that is being built the log says later whether it came to be. A collection that went
/// away meanwhile has none; the log tells that it did.
async fn indexes(member: &Member, db: &str, name: &str) -> Result<Vec<Document>> {
    let doing = format!("listing indexes of {db}.{name}");
    let command = doc! { "listIndexes": name, "includeBuildUUIDs": true };
    let listed: Vec<Document> = match member.database(db).run_cursor_command(command).await {
        Ok(cursor) => cursor.try_collect().await.doing(doing)?,
        Err(error) if crate::error::code(&error) == Some(NAMESPACE_NOT_FOUND) => Vec::new(),
        Err(error) => return Err(error).doing(doing),
    };
    Ok(listed.into_iter().filter(|index| !index.contains_key("buildUUID")).collect())
}
