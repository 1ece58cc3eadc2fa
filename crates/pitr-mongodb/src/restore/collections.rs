//! Makes collections and views on the target, and their indexes at the end.

use bson::{Document, RawDocumentBuf, doc};

use crate::base::catalog::{Collection, Kind};
use crate::connect::Member;
use crate::error::{Error, Result};
use crate::limits::LANES;
use crate::replay::model::{Known, Model};

const NAMESPACE_EXISTS: i32 = 48;

/// Makes everything that the catalog names: collections, then time series, then views, which may look at both.
pub async fn create(target: &Member, collections: &[Collection]) -> Result<()> {
    let series = |collection: &Collection| collection.name.starts_with("system.buckets.");
    for collection in collections.iter().filter(|c| c.kind == Kind::Plain && !series(c) && c.name != "system.views") {
        make(target, collection).await?;
    }
    // The server makes the collection of buckets together with its face.
    for collection in collections.iter().filter(|c| c.kind == Kind::TimeSeries) {
        make(target, collection).await?;
    }
    for collection in collections.iter().filter(|c| c.kind == Kind::View) {
        make(target, collection).await?;
    }
    // Views that were all dropped leave the collection that held them.
    for collection in collections.iter().filter(|c| c.name == "system.views") {
        make(target, collection).await?;
    }
    Ok(())
}

async fn make(target: &Member, collection: &Collection) -> Result<()> {
    let doing = format!("creating {}", collection.ns());
    let mut command = doc! { "create": &collection.name };
    command.extend(collection.options.clone());
    for gone in ["uuid", "autoIndexId", "recordIdsReplicated"] {
        command.remove(gone);
    }
    let result = if collection.name.starts_with("system.") {
        // The log says which index on `_id` it has; without, it would be one of the old kind.
        let of_id = |index: &&Document| index.get_str("name").is_ok_and(|name| name == "_id_");
        if let Some(mut index) = collection.indexes.iter().find(of_id).cloned() {
            index.remove("ns");
            command.insert("idIndex", index);
        }
        apply(target, &collection.db, command, &doing).await
    } else {
        target.run(&collection.db, command, &doing).await.map(drop)
    };
    match result {
        Err(error) if error.code() == Some(NAMESPACE_EXISTS) => Ok(()),
        other => other,
    }
}

/// Creates what clients may not create under that name.
async fn apply(target: &Member, db: &str, command: Document, doing: &str) -> Result<()> {
    let operation = doc! { "applyOps": [{ "op": "c", "ns": format!("{db}.$cmd"), "o": command }] };
    let operation = RawDocumentBuf::try_from(&operation).map_err(|error| Error::answer(doing, error))?;
    target.run_raw("admin", operation, doing).await.map(drop)
}

/// Builds all indexes, those of one collection in one scan of it. Returns how many.
pub async fn build_indexes(target: &Member, model: &Model) -> Result<u64> {
    let mut built = 0;
    let wanted: Vec<&Known> = model.collections().into_iter().filter(|known| !known.indexes.is_empty()).collect();
    for group in wanted.chunks(LANES) {
        let builds = group.iter().map(|known| build(target, known));
        for count in futures::future::try_join_all(builds).await? {
            built += count;
        }
    }
    Ok(built)
}

async fn build(target: &Member, known: &Known) -> Result<u64> {
    let doing = format!("building indexes of {}", known.ns);
    let mut indexes: Vec<Document> = known.indexes.values().cloned().collect();
    for index in &mut indexes {
        // Written by servers before 4.4, and no longer accepted.
        index.remove("ns");
        index.remove("background");
    }
    let count = indexes.len() as u64;
    let command = doc! { "createIndexes": &known.name, "indexes": indexes };
    let command = RawDocumentBuf::try_from(&command).map_err(|error| Error::answer(&doing, error))?;
    target.run_raw(&known.db, command, &doing).await?;
    Ok(count)
}
