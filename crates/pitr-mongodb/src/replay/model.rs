//! What exists on the target at the point of the log that the replay has come to.
//!
//! Collections are known by the identifier they have on the source, so that an entry finds its collection under
//! whatever name it has by then. Indexes are only noted here: they are built when all documents are in place,
//! since a unique index would fail on states that the source only ever passed through in another order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bson::{Bson, Document, doc};

use crate::base::catalog::{Collection, CollectionId, Kind, Read};
use crate::position::Stamp;

/// One collection.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Database.
    pub db: String,
    /// Name in it, now.
    pub name: String,
    /// `database.collection`.
    pub ns: Arc<str>,
    /// True if order among documents matters, or `_id` is not compared byte by byte.
    pub in_order: bool,
    /// True if its oldest documents make room for new ones.
    pub capped: bool,
    /// True if its indexes compare by a collation unless they say otherwise.
    pub collated: bool,
    /// Up to here its documents may be newer than the log.
    pub until: Option<Stamp>,
    /// Indexes by name, without that of `_id`.
    pub indexes: BTreeMap<String, Document>,
}

impl Known {
    /// A collection made with these options.
    pub fn new(db: &str, name: &str, options: &Document) -> Self {
        let collated = options.contains_key("collation");
        let capped = options.get_bool("capped").unwrap_or(false);
        let in_order = collated || capped || options.contains_key("clusteredIndex");
        let ns = format!("{db}.{name}").into();
        let (db, name) = (db.to_owned(), name.to_owned());
        Self { db, name, ns, in_order, capped, collated, until: None, indexes: BTreeMap::new() }
    }

    /// Notes an index that is there from now on.
    pub fn add_index(&mut self, index: &Document) {
        let Ok(name) = index.get_str("name") else { return };
        // The order of a clustered collection is shown as an index, and made with the collection.
        if name == "_id_" || index.get_bool("clustered").unwrap_or(false) {
            return;
        }
        let mut index = index.clone();
        if self.collated && !index.contains_key("collation") {
            // Said by silence where it is stored, and by name where it is asked for.
            index.insert("collation", doc! { "locale": "simple" });
        }
        self.indexes.insert(name.to_owned(), index);
    }

    /// Forgets an index by its name, its keys, or all of them (`*`).
    pub fn drop_index(&mut self, which: &Bson) {
        match which {
            Bson::String(name) if name == "*" => self.indexes.clear(),
            Bson::String(name) => drop(self.indexes.remove(name)),
            Bson::Document(keys) => {
                self.indexes.retain(|_, index| index.get_document("key").is_ok_and(|known| known != keys));
            }
            Bson::Array(names) => names.iter().for_each(|name| self.drop_index(name)),
            _ => {}
        }
    }

    /// Changes options of one index, as `collMod` does.
    pub fn change_index(&mut self, change: &Document) {
        let by_name = change.get_str("name").ok();
        let by_keys = change.get_document("keyPattern").ok();
        let wanted = |index: &&mut Document| match (by_name, by_keys) {
            (Some(name), _) => index.get_str("name").is_ok_and(|known| known == name),
            (None, Some(keys)) => index.get_document("key").is_ok_and(|known| known == keys),
            (None, None) => false,
        };
        let Some(index) = self.indexes.values_mut().find(wanted) else { return };
        for (key, value) in change {
            match (key.as_str(), value) {
                ("name" | "keyPattern", _) => {}
                // The way back is told as such, and as a value that an index cannot have.
                ("forceNonUnique", _) => drop((index.remove("unique"), index.remove("prepareUnique"))),
                ("hidden" | "unique" | "prepareUnique", Bson::Boolean(false)) => drop(index.remove(key)),
                // What was prepared has come to be: an index cannot be both.
                ("unique", _) => drop((index.insert(key.clone(), value.clone()), index.remove("prepareUnique"))),
                _ => drop(index.insert(key.clone(), value.clone())),
            }
        }
    }
}

/// All collections.
#[derive(Debug, Default)]
pub struct Model {
    by_id: HashMap<CollectionId, Known>,
}

impl Model {
    /// As a base leaves the target.
    pub fn of_base(collections: &[Collection]) -> Self {
        let mut model = Self::default();
        for collection in collections.iter().filter(|collection| collection.kind == Kind::Plain) {
            let Some(id) = collection.id else { continue };
            let mut known = Known::new(&collection.db, &collection.name, &collection.options);
            known.until = if let Read::Until(until) = collection.read { Some(until) } else { None };
            collection.indexes.iter().for_each(|index| known.add_index(index));
            model.by_id.insert(id, known);
        }
        model
    }

    /// A collection.
    pub fn get(&self, id: CollectionId) -> Option<&Known> {
        self.by_id.get(&id)
    }

    /// A collection, to be changed.
    pub fn get_mut(&mut self, id: CollectionId) -> Option<&mut Known> {
        self.by_id.get_mut(&id)
    }

    /// The identifier of the collection of that name.
    pub fn id_of(&self, db: &str, name: &str) -> Option<CollectionId> {
        self.by_id.iter().find(|(_, known)| known.db == db && known.name == name).map(|(id, _)| *id)
    }

    /// Notes a new collection.
    pub fn create(&mut self, id: CollectionId, known: Known) {
        self.by_id.insert(id, known);
    }

    /// Forgets a collection.
    pub fn drop(&mut self, id: CollectionId) {
        self.by_id.remove(&id);
    }

    /// Gives a collection another name; one that had it is gone.
    pub fn rename(&mut self, id: CollectionId, db: &str, name: &str) {
        if let Some(other) = self.id_of(db, name).filter(|other| *other != id) {
            self.by_id.remove(&other);
        }
        if let Some(known) = self.by_id.get_mut(&id) {
            (known.db, known.name) = (db.to_owned(), name.to_owned());
            known.ns = format!("{db}.{name}").into();
        }
    }

    /// Forgets a database.
    pub fn drop_database(&mut self, db: &str) {
        self.by_id.retain(|_, known| known.db != db);
    }

    /// All collections, in the order of their names.
    pub fn collections(&self) -> Vec<&Known> {
        let mut all: Vec<_> = self.by_id.values().collect();
        all.sort_by(|a, b| (&a.db, &a.name).cmp(&(&b.db, &b.name)));
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with_indexes() -> Known {
        let mut known = Known::new("a", "b", &doc! {});
        known.add_index(&doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" });
        known.add_index(&doc! { "v": 2, "key": { "x": 1 }, "name": "x_1", "unique": true });
        known.add_index(&doc! { "v": 2, "key": { "y": 1 }, "name": "y_1", "expireAfterSeconds": 60 });
        known
    }

    #[test]
    fn indexes_follow_every_way_of_changing_them() {
        let mut known = with_indexes();
        assert_eq!(known.indexes.len(), 2);
        known.change_index(&doc! { "name": "y_1", "expireAfterSeconds": 5_i64 });
        known.change_index(&doc! { "keyPattern": { "x": 1 }, "hidden": true });
        assert_eq!(known.indexes["y_1"].get_i64("expireAfterSeconds").unwrap(), 5);
        assert!(known.indexes["x_1"].get_bool("hidden").unwrap());
        known.change_index(&doc! { "name": "x_1", "hidden": false });
        known.change_index(&doc! { "name": "y_1", "prepareUnique": true });
        known.change_index(&doc! { "name": "y_1", "unique": true });
        assert!(
            known.indexes["y_1"].get_bool("unique").unwrap() && !known.indexes["y_1"].contains_key("prepareUnique")
        );
        known.change_index(&doc! { "name": "x_1", "forceNonUnique": true });
        assert_eq!(known.indexes["x_1"], doc! { "v": 2, "key": { "x": 1 }, "name": "x_1" });
        known.drop_index(&Bson::from("x_1"));
        known.drop_index(&Bson::from(doc! { "y": 1 }));
        assert!(known.indexes.is_empty());
        let mut known = with_indexes();
        known.drop_index(&Bson::from("*"));
        assert!(known.indexes.is_empty());
    }

    #[test]
    fn a_renamed_collection_keeps_its_indexes_and_replaces_the_one_in_its_way() {
        let mut model = Model::default();
        model.create([1; 16], with_indexes());
        model.create([2; 16], Known::new("a", "c", &doc! {}));
        model.rename([1; 16], "a", "c");
        assert_eq!(model.id_of("a", "c"), Some([1; 16]));
        assert!(model.get([2; 16]).is_none() && model.id_of("a", "b").is_none());
        assert_eq!(model.get([1; 16]).unwrap().indexes.len(), 2);
        model.drop_database("a");
        assert!(model.collections().is_empty());
    }
}
