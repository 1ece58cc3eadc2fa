//! The truth about a replica set, read from its own oplog with the ordinary driver.
//!
//! The log of a young set goes back to its beginning. Applied here in the plainest way, entry by entry, to documents in
//! memory, it gives the exact content at any optime. Nothing of `pitr` is used.

use std::collections::{BTreeMap, HashMap, VecDeque};

use anyhow::{Context, Result, bail, ensure};
use bson::{Bson, DateTime, Document, Timestamp, doc};
use futures::TryStreamExt;
use mongodb::Client;

/// Documents of one collection by their `_id`, which is told apart by its bytes.
pub type Content = BTreeMap<Vec<u8>, Document>;

/// Collections by `database.name`.
pub type State = BTreeMap<String, Content>;

/// The log of a set.
#[derive(Debug)]
pub struct Truth {
    entries: Vec<Document>,
}

/// What a target can be aimed at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Its timestamp.
    pub at: Timestamp,
    /// Its wall clock time.
    pub wall: DateTime,
    /// True if it makes something visible.
    pub commit: bool,
}

impl Truth {
    /// Reads the whole log.
    pub async fn read(client: &Client) -> Result<Self> {
        let oplog = client.database("local").collection::<Document>("oplog.rs");
        let entries = oplog.find(doc! {}).sort(doc! { "$natural": 1 }).await?.try_collect().await?;
        Ok(Self { entries })
    }

    /// Every entry as a moment, in order.
    pub fn moments(&self) -> Result<Vec<Moment>> {
        self.entries.iter().map(moment).collect()
    }

    /// The bytes of every entry.
    pub fn raw(&self) -> Result<Vec<Vec<u8>>> {
        self.entries.iter().map(|entry| Ok(entry.to_vec()?)).collect()
    }

    /// The entry of a named point.
    pub fn mark(&self, name: &str) -> Option<Timestamp> {
        let says = |o: &Document, key: &str, value: &str| o.get_str(key).is_ok_and(|found| found == value);
        let is_mark =
            |entry: &&Document| entry.get_document("o").is_ok_and(|o| says(o, "pitr", "mark") && says(o, "name", name));
        self.entries.iter().find(is_mark)?.get_timestamp("ts").ok()
    }

    /// The content after every entry for which `kept` is true, up to the first for which it is not.
    pub fn state(&self, kept: impl Fn(&Moment) -> bool) -> Result<State> {
        let mut replay = Replay::default();
        for entry in &self.entries {
            if !kept(&moment(entry)?) {
                break;
            }
            replay.entry(entry).with_context(|| format!("entry {entry}"))?;
        }
        Ok(replay.state)
    }
}

fn moment(entry: &Document) -> Result<Moment> {
    let o = entry.get_document("o")?;
    let open = o.get_bool("partialTxn").unwrap_or(false) || o.get_bool("prepare").unwrap_or(false);
    let commit = entry.get_str("op")? != "n" && !open && !o.contains_key("abortTransaction");
    Ok(Moment { at: entry.get_timestamp("ts")?, wall: *entry.get_datetime("wall")?, commit })
}

#[derive(Default)]
struct Replay {
    state: State,
    open: HashMap<Vec<u8>, Vec<Document>>,
    /// What capped collections hold at most, and in which order it came: servers before 5.0 do not log what makes room.
    capped: HashMap<String, (usize, VecDeque<Vec<u8>>)>,
}

impl Replay {
    fn entry(&mut self, entry: &Document) -> Result<()> {
        let (op, ns, o) = (entry.get_str("op")?, entry.get_str("ns")?, entry.get_document("o")?);
        match op {
            "n" => Ok(()),
            "c" => self.command(entry, ns, o),
            _ => self.write(op, ns, o, entry.get_document("o2").ok()),
        }
    }

    fn command(&mut self, entry: &Document, ns: &str, o: &Document) -> Result<()> {
        let db = ns.split('.').next().unwrap_or_default();
        let named = |key: &str| Ok::<_, anyhow::Error>(format!("{db}.{}", o.get_str(key)?));
        match o.keys().next().map_or("", String::as_str) {
            "create" => {
                if let Some(most) = o.get("max").and_then(number) {
                    self.capped.insert(named("create")?, (most, VecDeque::new()));
                }
                self.state.entry(named("create")?).or_default();
            }
            "drop" => drop(self.state.remove(&named("drop")?)),
            "dropDatabase" => self.state.retain(|name, _| !name.starts_with(&format!("{db}."))),
            "renameCollection" => {
                let content = self.state.remove(o.get_str("renameCollection")?).context("no such collection")?;
                self.state.insert(o.get_str("to")?.to_owned(), content);
            }
            "applyOps" => self.apply_ops(entry, o)?,
            "commitTransaction" => {
                for operation in self.open.remove(&session(entry)?).unwrap_or_default() {
                    self.entry(&operation)?;
                }
            }
            "abortTransaction" => drop(self.open.remove(&session(entry)?)),
            "createIndexes" | "startIndexBuild" | "commitIndexBuild" | "abortIndexBuild" | "dropIndexes"
            | "collMod" => {}
            other => bail!("command {other}"),
        }
        Ok(())
    }

    fn apply_ops(&mut self, entry: &Document, o: &Document) -> Result<()> {
        let mut operations: Vec<Document> =
            o.get_array("applyOps")?.iter().filter_map(|operation| operation.as_document().cloned()).collect();
        if entry.contains_key("lsid") {
            let flag = |name: &str| o.get_bool(name).unwrap_or(false);
            let mut all = self.open.remove(&session(entry)?).unwrap_or_default();
            all.append(&mut operations);
            if flag("partialTxn") || flag("prepare") {
                self.open.insert(session(entry)?, all);
                return Ok(());
            }
            operations = all;
        }
        operations.iter().try_for_each(|operation| self.entry(operation))
    }

    fn write(&mut self, op: &str, ns: &str, o: &Document, o2: Option<&Document>) -> Result<()> {
        let content = self.state.entry(ns.to_owned()).or_default();
        match op {
            "i" => {
                content.insert(key(o)?, o.clone());
                if let Some((most, order)) = self.capped.get_mut(ns) {
                    order.push_back(key(o)?);
                    if order.len() > *most {
                        order.pop_front().and_then(|oldest| content.remove(&oldest));
                    }
                }
            }
            "d" => drop(content.remove(&key(o)?)),
            "u" => {
                let old = content.get_mut(&key(o2.context("no o2")?)?).context("update of nothing")?;
                match o.get_document("diff") {
                    Ok(diff) => apply_diff(old, diff)?,
                    Err(_) if ["$v", "$set", "$unset"].iter().any(|key| o.contains_key(key)) => apply_paths(old, o)?,
                    Err(_) => *old = o.clone(),
                }
            }
            other => bail!("operation {other}"),
        }
        Ok(())
    }
}

/// The bytes of an `_id`; numbers that are equal are one key.
pub fn key(document: &Document) -> Result<Vec<u8>> {
    let id = document.get("_id").context("no _id")?;
    let id = match id {
        Bson::Int32(n) => Bson::Double(f64::from(*n)),
        Bson::Int64(n) => Bson::Double(*n as f64),
        other => other.clone(),
    };
    Ok(doc! { "_id": id }.to_vec()?)
}

fn number(value: &Bson) -> Option<usize> {
    let number = value.as_i64().or_else(|| value.as_i32().map(i64::from)).or_else(|| Some(value.as_f64()? as i64));
    number.and_then(|number| usize::try_from(number).ok()).filter(|number| *number > 0)
}

fn session(entry: &Document) -> Result<Vec<u8>> {
    Ok(entry.get_document("lsid")?.to_vec()?)
}

/// The server's description of a change, version 2: `d` removes, `u` changes in place, `i` appends, `s…` goes deeper.
fn apply_diff(document: &mut Document, diff: &Document) -> Result<()> {
    for (section, value) in diff {
        let fields = value.as_document();
        match section.as_str() {
            "d" => fields.into_iter().flatten().for_each(|(field, _)| drop(document.remove(field))),
            "u" => {
                for (field, value) in fields.context("u")? {
                    document.insert(field, value.clone());
                }
            }
            "i" => {
                for (field, value) in fields.context("i")? {
                    document.remove(field);
                    document.insert(field, value.clone());
                }
            }
            other => {
                let field = other.strip_prefix('s').context("unknown section")?;
                let inner = fields.context("s")?;
                match document.get_mut(field).context("diff of nothing")? {
                    Bson::Document(document) => apply_diff(document, inner)?,
                    Bson::Array(array) => apply_array_diff(array, inner)?,
                    other => bail!("diff of {other}"),
                }
            }
        }
    }
    Ok(())
}

fn apply_array_diff(array: &mut Vec<Bson>, diff: &Document) -> Result<()> {
    ensure!(diff.get_bool("a").unwrap_or(false), "not the diff of an array: {diff}");
    for (field, value) in diff {
        match field.as_str() {
            "a" => {}
            "l" => array.resize(usize::try_from(value.as_i32().context("l")?)?, Bson::Null),
            other => {
                let at: usize = other.get(1..).context("no index")?.parse()?;
                if array.len() <= at {
                    array.resize(at + 1, Bson::Null);
                }
                match (other.as_bytes().first(), &mut array[at]) {
                    (Some(b'u'), place) => *place = value.clone(),
                    (Some(b's'), Bson::Document(document)) => apply_diff(document, value.as_document().context("s")?)?,
                    (Some(b's'), Bson::Array(inner)) => apply_array_diff(inner, value.as_document().context("s")?)?,
                    _ => bail!("diff {other}"),
                }
            }
        }
    }
    Ok(())
}

/// The description of a change up to 4.4, version 1: values by their whole paths.
fn apply_paths(document: &mut Document, change: &Document) -> Result<()> {
    for path in change.get_document("$unset").into_iter().flat_map(Document::keys) {
        let (way, last) = path.rsplit_once('.').map_or((None, path.as_str()), |(way, last)| (Some(way), last));
        if let Some(inner) = holder(document, way, false) {
            set(inner, last, None)?;
        }
    }
    for (path, value) in change.get_document("$set").into_iter().flatten() {
        let (way, last) = path.rsplit_once('.').map_or((None, path.as_str()), |(way, last)| (Some(way), last));
        let inner = holder(document, way, true).with_context(|| format!("no {path}"))?;
        set(inner, last, Some(value.clone()))?;
    }
    Ok(())
}

enum Holder<'a> {
    Document(&'a mut Document),
    Array(&'a mut Vec<Bson>),
}

/// What holds the last step of a path. Version 1 does not say whether that was there: setting something makes it.
fn holder<'a>(document: &'a mut Document, way: Option<&str>, make: bool) -> Option<Holder<'a>> {
    let mut at = Holder::Document(document);
    for step in way.into_iter().flat_map(|way| way.split('.')) {
        let value = match at {
            Holder::Document(document) => match make {
                true => document.entry(step).or_insert_with(|| Document::new().into()),
                false => document.get_mut(step)?,
            },
            Holder::Array(array) => {
                let at: usize = step.parse().ok()?;
                if make && array.len() <= at {
                    array.resize(at, Bson::Null);
                    array.push(Document::new().into());
                }
                array.get_mut(at)?
            }
        };
        at = match value {
            Bson::Document(document) => Holder::Document(document),
            Bson::Array(array) => Holder::Array(array),
            _ => return None,
        };
    }
    Some(at)
}

fn set(holder: Holder<'_>, field: &str, value: Option<Bson>) -> Result<()> {
    match (holder, value) {
        (Holder::Document(document), Some(value)) => drop(document.insert(field, value)),
        (Holder::Document(document), None) => drop(document.remove(field)),
        (Holder::Array(array), value) => {
            let at: usize = field.parse()?;
            if array.len() <= at {
                array.resize(at + 1, Bson::Null);
            }
            array[at] = value.unwrap_or(Bson::Null);
        }
    }
    Ok(())
}

/// All documents of a server, without its own databases.
pub async fn content(client: &Client) -> Result<State> {
    let mut state = State::new();
    for db in client.list_database_names().await? {
        if matches!(db.as_str(), "admin" | "config" | "local") {
            continue;
        }
        let database = client.database(&db);
        let mut listed = database.list_collections().await?;
        while let Some(collection) = listed.try_next().await? {
            if collection.collection_type == mongodb::results::CollectionType::View {
                continue;
            }
            let mut found = Content::new();
            let mut documents = database.collection::<Document>(&collection.name).find(doc! {}).await?;
            while let Some(document) = documents.try_next().await? {
                found.insert(key(&document)?, document);
            }
            state.insert(format!("{db}.{}", collection.name), found);
        }
    }
    Ok(state)
}

/// Compares the content that a restore gave with the truth, and names what differs.
pub fn compare(expected: &State, found: &State) -> Result<()> {
    let user = |name: &&String| !["config.", "local.", "admin."].iter().any(|own| name.starts_with(own));
    let (left, right): (Vec<_>, Vec<_>) = (expected.keys().filter(user).collect(), found.keys().filter(user).collect());
    ensure!(left == right, "collections: expected {left:?}, found {right:?}");
    for name in left {
        let (expected, found) = (&expected[name], &found[name]);
        let missing = expected.iter().find(|(id, _)| !found.contains_key(*id));
        let surplus = found.iter().find(|(id, _)| !expected.contains_key(*id));
        let other = expected.iter().find(|(id, document)| found.get(*id).is_some_and(|f| !same(f, document)));
        ensure!(
            missing.is_none() && surplus.is_none() && other.is_none(),
            "{name}: {} expected, {} found; missing {missing:?}, surplus {surplus:?}, other {:?} instead of {other:?}",
            expected.len(),
            found.len(),
            other.and_then(|(id, _)| found.get(id))
        );
    }
    Ok(())
}

/// Equal byte by byte: types, order of fields, and what is not a number.
fn same(a: &Document, b: &Document) -> bool {
    a.to_vec().ok() == b.to_vec().ok()
}
