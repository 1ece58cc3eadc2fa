//! Commands of the log: what changes collections and indexes. Each runs alone, between two barriers and two notes.
//!
//! A command that an interrupted restore may have run is run again, on a target where nothing happened after it. To make
//! a collection, to drop it, or to give it options is then the same once or twice; a rename shows that it was done.

use bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};

use super::lanes::send;
use super::model::{Known, Model};
use crate::base::catalog::CollectionId;
use crate::base::inventory::is_kept;
use crate::connect::Member;
use crate::error::{Error, Result};
use crate::position::OpTime;

/// A command of the log.
#[derive(Debug)]
pub struct Command<'a> {
    /// Its name.
    pub name: &'a str,
    /// Database.
    pub db: &'a str,
    /// The collection that it is for.
    pub id: Option<CollectionId>,
    /// The command itself.
    pub o: Document,
    /// Where it stands.
    pub at: OpTime,
}

/// The target, and whether an interrupted restore may have run the same command there, as the last thing that it did.
pub type Place<'a> = (&'a Member, bool);

const NAMESPACE_NOT_FOUND: i32 = 26;
const NAMESPACE_EXISTS: i32 = 48;

impl<'a> Command<'a> {
    /// Reads a command.
    pub fn new(name: &'a str, ns: &'a str, id: Option<CollectionId>, o: &RawDocument, at: OpTime) -> Result<Self> {
        let db = ns.split_once('.').map_or(ns, |(db, _)| db);
        let o = Document::try_from(o).map_err(|error| Error::answer(format!("reading {name} at {at}"), error))?;
        Ok(Self { name, db, id, o, at })
    }

    /// True if it only changes what is noted of indexes: nothing is sent, and no barrier needed.
    pub fn is_of_index(&self) -> bool {
        crate::commands::policy(self.name) == crate::commands::Policy::Index
            || self.name == "collMod" && self.o.keys().all(|key| key == "collMod" || key == "index")
    }

    /// Notes a change of indexes.
    pub fn note_index(&self, model: &mut Model) {
        let Some(known) = self.id.and_then(|id| model.get_mut(id)) else { return };
        match self.name {
            "createIndexes" => {
                let mut index = self.o.clone();
                index.remove("createIndexes");
                known.add_index(&index);
            }
            "commitIndexBuild" => {
                let indexes = self.o.get_array("indexes").ok().into_iter().flatten();
                indexes.filter_map(Bson::as_document).for_each(|index| known.add_index(index));
            }
            "collMod" => {
                if let Ok(change) = self.o.get_document("index") {
                    known.change_index(change);
                }
            }
            _ => {
                if let Some(which) = self.o.get("index") {
                    known.drop_index(which);
                }
            }
        }
    }

    /// Runs it on the target, if there is one to run it on, and notes what it changed.
    pub async fn run(self, target: Option<Place<'_>>, model: &mut Model) -> Result<()> {
        match self.name {
            "create" => self.create(target, model).await,
            "drop" => self.drop(target, model).await,
            "renameCollection" => self.rename(target, model).await,
            "dropDatabase" => {
                self.apply(target, self.o.clone(), &[NAMESPACE_NOT_FOUND]).await?;
                model.drop_database(self.db);
                Ok(())
            }
            "collMod" => {
                self.note_index(model);
                let mut change = self.o.clone();
                for gone in ["index", "noPadding", "usePowerOf2Sizes"] {
                    change.remove(gone);
                }
                self.on_collection(target, model, change).await
            }
            _ => self.on_collection(target, model, self.o.clone()).await,
        }
    }

    async fn create(&self, target: Option<Place<'_>>, model: &mut Model) -> Result<()> {
        let name = self.text("create")?;
        if !is_kept(self.db, name) {
            return Ok(());
        }
        let mut command = self.o.clone();
        // Record identifiers of later servers: the target gives its own.
        command.remove("recordIdsReplicated");
        self.apply(target, command, &[NAMESPACE_EXISTS]).await?;
        if let Some(id) = self.id {
            model.create(id, Known::new(self.db, name, &self.o));
        }
        Ok(())
    }

    async fn drop(&self, target: Option<Place<'_>>, model: &mut Model) -> Result<()> {
        let Some((id, known)) = self.id.and_then(|id| Some((id, model.get(id)?))) else { return Ok(()) };
        self.apply(target, doc! { "drop": &known.name }, &[NAMESPACE_NOT_FOUND]).await?;
        model.drop(id);
        Ok(())
    }

    async fn rename(&self, target: Option<Place<'_>>, model: &mut Model) -> Result<()> {
        let Some((id, known)) = self.id.and_then(|id| Some((id, model.get(id)?))) else { return Ok(()) };
        let to = self.text("to")?;
        let (db, name) = to.split_once('.').ok_or_else(|| self.malformed("to"))?;
        let from = known.ns.to_string();
        // The log names the collection in the way by its identifier, which is another one on the target.
        let drop_target = !matches!(self.o.get("dropTarget"), None | Some(Bson::Boolean(false)));
        let command = doc! { "renameCollection": &from, "to": to, "dropTarget": drop_target };
        if let Some((target, repeated)) = target {
            match target.admin(command, &format!("renaming {from} to {to}")).await {
                // Since nothing has happened after it, the collection is gone from its old name only if it has the new one.
                Err(error) if repeated && error.code() == Some(NAMESPACE_NOT_FOUND) => {}
                Err(error) if error.code().is_some() => return Err(self.failed(&error)),
                other => drop(other?),
            }
        }
        model.rename(id, db, name);
        Ok(())
    }

    /// A command whose first value is the name of a collection.
    async fn on_collection(&self, target: Option<Place<'_>>, model: &Model, mut command: Document) -> Result<()> {
        let Some(known) = self.id.and_then(|id| model.get(id)) else { return Ok(()) };
        command.insert(self.name, &known.name);
        self.apply(target, command, &[NAMESPACE_NOT_FOUND]).await
    }

    /// Sends it the way the log holds it, which is allowed where the command itself would not be.
    async fn apply(&self, target: Option<Place<'_>>, command: Document, accepted: &[i32]) -> Result<()> {
        let Some((target, _)) = target else { return Ok(()) };
        let operation = doc! { "op": "c", "ns": format!("{}.$cmd", self.db), "o": command };
        let operation = RawDocumentBuf::try_from(&operation).map_err(|error| Error::answer("replaying", error))?;
        match send(target, std::iter::once(operation.as_bytes())).await {
            Ok(()) => Ok(()),
            Err(error) if error.code().is_some_and(|code| accepted.contains(&code)) => Ok(()),
            Err(error) if error.code().is_none() => Err(error),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, error: &Error) -> Error {
        let operation = format!("{} in {}", self.name, self.db);
        Error::Replay { operation, at: self.at.to_string(), why: error.to_string() }
    }

    fn text(&self, key: &str) -> Result<&str> {
        self.o.get_str(key).map_err(|_| self.malformed(key))
    }

    fn malformed(&self, key: &str) -> Error {
        Error::Unreplayable {
            operation: self.name.to_owned(),
            at: self.at.to_string(),
            why: format!("its field {key:?} is not what servers write"),
        }
    }
}
