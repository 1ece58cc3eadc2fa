//! The replica set of the MongoDB measures, and what its clients write.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bson::{Document, RawDocumentBuf, Timestamp, doc};
use futures::TryStreamExt;
use futures::future::try_join_all;
use integration_tests::{Mongo, MongoSetup, Pitr, Scratch};
use mongodb::Client;

/// Clients that write at the same time.
const CLIENTS: i64 = 4;
/// Documents that a client inserts, updates and deletes in one round.
const ROUND: [i64; 3] = [100, 60, 20];
/// Numbers of documents that were there before are below this one.
const OLD: i64 = -1;
/// Enough memory for what is measured to be the programs and not the disk.
const CACHE_MIB: u32 = 1_024;
/// The database that is written.
pub const DB: &str = "bench";
/// Its collections.
pub const COLLECTIONS: [&str; 3] = ["orders", "events", "users"];

/// Which documents the clients change and delete.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Changed {
    /// Those that they have inserted just before.
    New,
    /// Each one of [`Source::write_old`] once.
    Old,
}

/// A set of one member, and the program set up for it.
pub struct Source<'s> {
    /// Everything lies in here.
    pub scratch: &'s Scratch,
    /// The set, stopped with this.
    _server: Mongo,
    /// Ours.
    pub pitr: Pitr,
    /// A client of the set.
    pub client: Client,
}

impl<'s> Source<'s> {
    /// Makes an empty one.
    pub async fn create(scratch: &'s Scratch, name: &str) -> Result<Self> {
        let setup = MongoSetup { cache_mib: CACHE_MIB, ..MongoSetup::chosen() };
        let server = Mongo::start(scratch, name, &setup).await?;
        let pitr = Pitr::of_engine(scratch, "mongodb", &server.url(), false)?;
        pitr.run(["init"])?.ok()?;
        let client = server.client().await?;
        for name in COLLECTIONS {
            client.database(DB).create_collection(name).await?;
        }
        Ok(Self { scratch, _server: server, pitr, client })
    }

    /// What was measured on what, for the head of the table.
    pub async fn describe(&self) -> Result<String> {
        let answer = self.client.database("admin").run_command(doc! { "buildInfo": 1 }).await?;
        let cores = std::thread::available_parallelism()?;
        Ok(format!("MongoDB {}, {cores} cores for servers, clients and pitr together.", answer.get_str("version")?))
    }

    /// Writes about this many entries of log with several clients at once. Returns how long that took.
    pub async fn write_log(&self, entries: i64, of: Changed) -> Result<Duration> {
        let begun = Instant::now();
        try_join_all((0..CLIENTS).map(|number| one_client(&self.client, number, rounds(entries), of))).await?;
        Ok(begun.elapsed())
    }

    /// The documents that [`Changed::Old`] changes and deletes. Returns how many.
    pub async fn write_old(&self, entries: i64) -> Result<i64> {
        let [_, updates, deletes] = ROUND;
        for number in 0..CLIENTS {
            for round in 0..rounds(entries) {
                let first = first(number, round);
                let documents = (0..updates + deletes).map(|n| document(OLD - first - n, n));
                let collection = self.client.database(DB).collection::<Document>(collection(round));
                collection.insert_many(documents).ordered(false).await?;
            }
        }
        Ok(CLIENTS * rounds(entries) * (updates + deletes))
    }

    /// The newest timestamp of the log.
    pub async fn newest(&self) -> Result<Timestamp> {
        let oplog = self.client.database("local").collection::<Document>("oplog.rs");
        let last = oplog.find_one(doc! {}).sort(doc! { "$natural": -1 }).await?;
        Ok(last.context("the oplog is empty")?.get_timestamp("ts")?)
    }

    /// All entries of the log that write a document of the clients.
    pub async fn entries(&self) -> Result<Vec<RawDocumentBuf>> {
        let oplog = self.client.database("local").collection::<RawDocumentBuf>("oplog.rs");
        let ours = doc! { "op": { "$in": ["i", "u", "d"] }, "ns": { "$regex": format!("^{DB}\\.") } };
        Ok(oplog.find(ours).sort(doc! { "$natural": 1 }).await?.try_collect().await?)
    }

    /// An empty standalone to restore into.
    pub async fn target(&self, name: &str) -> Result<Mongo> {
        let setup = MongoSetup { members: 0, cache_mib: CACHE_MIB, ..MongoSetup::chosen() };
        Mongo::start(self.scratch, name, &setup).await
    }
}

fn rounds(entries: i64) -> i64 {
    entries / CLIENTS / ROUND.iter().sum::<i64>()
}

/// The first number of the documents of a client's round.
fn first(number: i64, round: i64) -> i64 {
    (number * 1_000_000 + round) * 1_000
}

fn collection(round: i64) -> &'static str {
    COLLECTIONS[round.unsigned_abs() as usize % COLLECTIONS.len()]
}

fn document(id: i64, n: i64) -> Document {
    doc! {
        "_id": id, "customer": n % 97, "state": "new", "lines": [{ "sku": n, "count": 1 }],
        "note": format!("order {id} of a customer who writes long notes"),
    }
}

/// Bulk writes, as fast as the server takes them: inserts, updates of three shapes, deletes.
async fn one_client(client: &Client, number: i64, rounds: i64, of: Changed) -> Result<()> {
    let db = client.database(DB);
    for round in 0..rounds {
        let (name, first) = (collection(round), first(number, round));
        let [inserts, updates, deletes] = ROUND;
        let new = (0..inserts).map(|n| document(first + n, n));
        db.collection::<Document>(name).insert_many(new).ordered(false).await?;
        let change = |n: i64| match n % 3 {
            0 => doc! { "$set": { "state": "paid", "paid": round } },
            1 => doc! { "$push": { "lines": { "sku": n, "count": 2 } } },
            _ => doc! { "$inc": { "customer": 1 }, "$unset": { "note": 1 } },
        };
        // None is changed and deleted.
        let id = |n: i64| match of {
            Changed::New => first + n,
            Changed::Old => OLD - first - n,
        };
        let gone = match of {
            Changed::New => inserts - deletes,
            Changed::Old => updates,
        };
        let changes: Vec<_> = (0..updates).map(|n| doc! { "q": { "_id": id(n) }, "u": change(n) }).collect();
        db.run_command(doc! { "update": name, "updates": changes, "ordered": false }).await?;
        let removals: Vec<_> = (0..deletes).map(|n| doc! { "q": { "_id": id(gone + n) }, "limit": 1 }).collect();
        db.run_command(doc! { "delete": name, "deletes": removals, "ordered": false }).await?;
    }
    Ok(())
}
