//! Damaged entries of a real oplog.

use anyhow::Result;
use integration_tests::mongo_load::{self, Load};
use integration_tests::mongo_truth::Truth;
use integration_tests::{Mongo, MongoSetup, Scratch};
use pitr_mongodb::entry::{Entries, Meaning};
use pitr_mongodb::raw::fields;
use pitr_mongodb::replay::delta::{Update, applied, merged};
use pitr_mongodb::replay::operation::{Write, hash_id};
use pitr_mongodb::scan;
use rand::RngExt;

use crate::budget::fuzz;
use crate::mutate::mutate;

/// Entries in one input.
const ENTRIES: usize = 4;
/// Longer entries are of one kind, and only slow the search down.
const LONGEST: usize = 4096;

#[tokio::test]
async fn oplog_of_a_real_server_may_be_damaged_in_any_way() -> Result<()> {
    let scratch = Scratch::new("fuzz-oplog")?;
    let source = Mongo::start(&scratch, "rs", &MongoSetup::default()).await?;
    let client = source.client().await?;
    mongo_load::prepare(&client).await?;
    mongo_load::run(&client, Load { seed: 1, round: 1, clients: 2, steps: 60 }).await?;
    let mut entries = Truth::read(&client).await?.raw()?;
    entries.retain(|entry| entry.len() <= LONGEST);
    drop(source);
    fuzz("oplog", |rng| {
        let mut pick = || entries[rng.random_range(0..entries.len())].clone();
        let mut input: Vec<u8> = (0..ENTRIES).flat_map(|_| pick()).collect();
        let other = pick();
        mutate(&mut input, &other, rng);
        let mut read = 0;
        for entry in Entries::new(&input).flatten() {
            read += entry.raw.as_bytes().len();
            look_into(&entry);
        }
        assert!(read <= input.len(), "more was read than there is");
        scan::scan(&input).is_ok()
    });
    Ok(())
}

/// What a replay looks at before it sends anything.
fn look_into(entry: &pitr_mongodb::entry::Entry<'_>) {
    match entry.meaning() {
        Meaning::Write if entry.operations().is_none() => look_at(&Write::of_entry(entry)),
        _ => {
            let operations = entry.operations().into_iter().flatten().flatten();
            operations.filter_map(|operation| Write::of_operation(operation.as_document()?)).for_each(|w| look_at(&w));
        }
    }
}

fn look_at(write: &Write<'_>) {
    write.id().into_iter().for_each(|id| hash_id(id, &mut std::hash::DefaultHasher::new()));
    if let Update::Delta(delta) = Update::of(write.o) {
        // Of the document only some fields are known here, and the update stands on itself as well as on any other.
        for after in [applied(write.o2.unwrap_or(write.o), delta), merged(delta, delta)].into_iter().flatten() {
            assert!(fields(&after).all(|field| field.is_ok()), "{after:?}");
        }
    }
}
