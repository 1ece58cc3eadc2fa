//! What a base says of the database: one description per collection, as the server gave it.
//!
//! The catalog is a run of BSON documents, a [`Header`] first, then one [`Collection`] each, spread over the parts
//! `catalog/0000.bson`, `catalog/0001.bson`, … of at most a MiB: `bsondump` reads them.

use bson::{Bson, Document, Timestamp, doc};

use crate::error::{Error, Result};
use crate::position::{OpTime, Stamp};

/// Version of the layout. Older ones stay readable.
const FORMAT: i32 = 1;

/// Identifier of a collection: it stays when the collection is renamed.
pub type CollectionId = [u8; 16];

/// What holds for the whole base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The cluster time of the base: every write up to here is in it.
    pub at: OpTime,
    /// Version of the server.
    pub version: String,
    /// Feature compatibility version.
    pub compatibility: String,
}

/// How the documents of a collection were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// As they were at the cluster time of the base.
    Snapshot,
    /// At any time from then to this timestamp: the log between makes them agree.
    Until(Stamp),
}

/// What kind of collection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// With documents of its own.
    Plain,
    /// A query under a name.
    View,
    /// The face of a time-series collection, whose documents are in `system.buckets.NAME`.
    TimeSeries,
}

/// One collection, view or time series.
#[derive(Debug, Clone, PartialEq)]
pub struct Collection {
    /// Database.
    pub db: String,
    /// Name in it.
    pub name: String,
    /// Kind.
    pub kind: Kind,
    /// Identifier; a view has none.
    pub id: Option<CollectionId>,
    /// Options, as `listCollections` gives them.
    pub options: Document,
    /// Indexes, as `listIndexes` gives them, with that of `_id`.
    pub indexes: Vec<Document>,
    /// Number of parts that hold its documents.
    pub parts: u32,
    /// How they were read.
    pub read: Read,
}

impl Collection {
    /// `database.collection`.
    pub fn ns(&self) -> String {
        format!("{}.{}", self.db, self.name)
    }

    /// True if it holds documents that a base keeps.
    pub fn has_documents(&self) -> bool {
        // The documents of `system.views` are the views themselves, which are made again one by one.
        self.kind == Kind::Plain && self.name != "system.views"
    }

    /// True for a collection that overwrites its oldest documents.
    pub fn is_capped(&self) -> bool {
        self.options.get_bool("capped").unwrap_or(false)
    }

    /// True if `_id` is compared byte by byte, in an index of its own.
    pub fn has_plain_ids(&self) -> bool {
        !self.is_capped() && !self.options.contains_key("collation") && !self.options.contains_key("clusteredIndex")
    }
}

/// The path of one part with documents.
pub fn data_path(id: CollectionId, part: u32) -> String {
    format!("data/{}/{part:04}.bson", hex(id))
}

/// The path of one part of the catalog.
pub fn catalog_path(part: u32) -> String {
    format!("catalog/{part:04}.bson")
}

/// The collection that a part belongs to.
pub fn id_of_path(path: &str) -> Option<CollectionId> {
    let hex = path.strip_prefix("data/")?.split('/').next()?;
    u128::from_str_radix(hex, 16).ok().filter(|_| hex.len() == 32).map(u128::to_be_bytes)
}

fn hex(id: CollectionId) -> String {
    format!("{:032x}", u128::from_be_bytes(id))
}

impl Header {
    /// As a document.
    pub fn to_document(&self) -> Document {
        doc! {
            "format": FORMAT, "at": Timestamp::from(self.at.stamp), "term": self.at.term,
            "version": &self.version, "compatibility": &self.compatibility,
        }
    }

    /// From its document.
    pub fn from_document(document: &Document) -> Result<Self> {
        let format = document.get_i32("format").map_err(malformed)?;
        if format != FORMAT {
            return Err(Error::Base(format!("its catalog has format {format}: written by a newer pitr")));
        }
        let stamp = document.get_timestamp("at").map_err(malformed)?.into();
        Ok(Self {
            at: OpTime { term: document.get_i64("term").map_err(malformed)?, stamp },
            version: document.get_str("version").map_err(malformed)?.to_owned(),
            compatibility: document.get_str("compatibility").map_err(malformed)?.to_owned(),
        })
    }
}

impl Collection {
    /// As a document.
    pub fn to_document(&self) -> Document {
        let kind = match self.kind {
            Kind::Plain => "collection",
            Kind::View => "view",
            Kind::TimeSeries => "timeseries",
        };
        let mut document = doc! {
            "db": &self.db, "name": &self.name, "kind": kind, "options": self.options.clone(),
            "indexes": self.indexes.clone(), "parts": i64::from(self.parts),
        };
        if let Some(id) = self.id {
            document.insert("uuid", bson::Uuid::from_bytes(id));
        }
        if let Read::Until(stamp) = self.read {
            document.insert("until", Timestamp::from(stamp));
        }
        document
    }

    /// From its document.
    pub fn from_document(document: &Document) -> Result<Self> {
        let text = |key: &str| document.get_str(key).map(str::to_owned).map_err(malformed);
        let indexes = document.get_array("indexes").map_err(malformed)?;
        let index = |index: &Bson| index.as_document().cloned().ok_or_else(|| malformed("an index is no document"));
        let until = document.get_timestamp("until").ok();
        Ok(Self {
            db: text("db")?,
            name: text("name")?,
            kind: match text("kind")?.as_str() {
                "collection" => Kind::Plain,
                "view" => Kind::View,
                "timeseries" => Kind::TimeSeries,
                other => return Err(malformed(format!("collection of kind {other:?}"))),
            },
            id: match document.get("uuid") {
                None => None,
                Some(id) => Some(uuid(id).ok_or_else(|| malformed("uuid is none"))?),
            },
            options: document.get_document("options").map_err(malformed)?.clone(),
            indexes: indexes.iter().map(index).collect::<Result<_>>()?,
            parts: u32::try_from(document.get_i64("parts").map_err(malformed)?).map_err(malformed)?,
            read: until.map_or(Read::Snapshot, |until| Read::Until(until.into())),
        })
    }
}

/// A UUID out of a value.
pub(crate) fn uuid(value: &Bson) -> Option<CollectionId> {
    match value {
        Bson::Binary(binary) if binary.subtype == bson::spec::BinarySubtype::Uuid => {
            binary.bytes.as_slice().try_into().ok()
        }
        _ => None,
    }
}

fn malformed(error: impl std::fmt::Display) -> Error {
    Error::Base(format!("its catalog is malformed: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let header = Header {
            at: OpTime { term: 5, stamp: Stamp::new(100, 7) },
            version: "6.0.5".into(),
            compatibility: "6.0".into(),
        };
        assert_eq!(Header::from_document(&header.to_document()).unwrap(), header);
        let mut collection = Collection {
            db: "shop".into(),
            name: "orders".into(),
            kind: Kind::Plain,
            id: Some([0xAB; 16]),
            options: doc! { "validator": { "a": { "$gt": 1 } } },
            indexes: vec![doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }],
            parts: 3,
            read: Read::Until(Stamp::new(9, 9)),
        };
        assert_eq!(Collection::from_document(&collection.to_document()).unwrap(), collection);
        (collection.id, collection.kind, collection.read) = (None, Kind::View, Read::Snapshot);
        assert_eq!(Collection::from_document(&collection.to_document()).unwrap(), collection);
    }

    #[test]
    fn a_path_names_its_collection() {
        assert_eq!(id_of_path(&data_path([0x0B; 16], 12)), Some([0x0B; 16]));
        for other in ["catalog/0000.bson", "data/", "data/xyz/0000.bson", "data/0b/0000.bson"] {
            assert_eq!(id_of_path(other), None, "{other}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_in_words() {
        let error = Header::from_document(&doc! { "format": 2 }).unwrap_err();
        assert!(error.to_string().contains("newer pitr"), "{error}");
    }
}
