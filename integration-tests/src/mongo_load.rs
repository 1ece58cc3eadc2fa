//! Clients that write to a replica set in every way that its log has a shape for.

use anyhow::Result;
use bson::{Bson, Decimal128, Document, Timestamp, doc, oid::ObjectId};
use futures::future::try_join_all;
use mongodb::options::IndexOptions;
use mongodb::{Client, Collection, IndexModel};
use rand::rngs::StdRng;
use rand::{RngExt, seq::IndexedRandom};

use crate::seed::generator;

/// The database that the clients write to.
pub const DB: &str = "shop";

/// What the clients do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Seed of the choices.
    pub seed: u64,
    /// Tells rounds apart, so that no two write the same new documents.
    pub round: u64,
    /// Clients at the same time.
    pub clients: u64,
    /// Steps of each.
    pub steps: u64,
}

/// Collections that exist from the begin on, with indexes of several kinds.
pub async fn prepare(client: &Client) -> Result<()> {
    let db = client.database(DB);
    db.run_command(doc! { "create": "capped", "capped": true, "size": 65536, "max": 50 }).await?;
    if !crate::mongodb::is_since(&db, 5).await? {
        // Made by two transactions at once it can hang 4.4.2: the server commits nothing any more.
        db.create_collection("ledger").await?;
    }
    db.run_command(doc! { "create": "folded", "collation": { "locale": "en", "strength": 2 } }).await?;
    db.run_command(doc! { "create": "checked", "validator": { "n": { "$gte": 0 } } }).await?;
    db.run_command(doc! { "create": "view", "viewOn": "items", "pipeline": [{ "$match": { "n": 1 } }] }).await?;
    let items = db.collection::<Document>("items");
    let unique = IndexOptions::builder().unique(true).sparse(true).build();
    items.create_index(IndexModel::builder().keys(doc! { "slot": 1 }).options(unique).build()).await?;
    items.create_index(IndexModel::builder().keys(doc! { "n": 1, "tags": -1 }).build()).await?;
    items.insert_many(mixed_ids().into_iter().map(|id| doc! { "_id": id, "n": 0, "tags": [] })).await?;
    db.collection("swaps").insert_many((0..10).map(|n| doc! { "_id": n, "seat": n })).await?;
    let unique = IndexOptions::builder().unique(true).build();
    let seats = IndexModel::builder().keys(doc! { "seat": 1 }).options(unique).build();
    db.collection::<Document>("swaps").create_index(seats).await?;
    Ok(())
}

/// Values of `_id` of every type that can be one.
pub fn mixed_ids() -> Vec<Bson> {
    let decimal: Option<Decimal128> = "7.50".parse().ok();
    let mut ids = vec![
        Bson::Int32(1),
        Bson::Int64(1 << 40),
        Bson::Double(2.5),
        Bson::Double(f64::NAN),
        Bson::Double(f64::INFINITY),
        Bson::from("text"),
        Bson::from(""),
        Bson::from(doc! { "a": 1, "b": "x" }),
        Bson::from(doc! {}),
        Bson::ObjectId(ObjectId::from_bytes([7; 12])),
        Bson::Boolean(true),
        Bson::Null,
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Timestamp(Timestamp { time: 5, increment: 5 }),
        Bson::DateTime(bson::DateTime::from_millis(-5)),
        Bson::Binary(bson::Binary { subtype: 0.into(), bytes: vec![0, 1, 2] }),
    ];
    ids.extend(decimal.map(Bson::Decimal128));
    ids
}

/// Runs the clients to their end.
pub async fn run(client: &Client, load: Load) -> Result<()> {
    let clients = (0..load.clients).map(|number| one_client(client, load, number));
    try_join_all(clients).await.map(drop)
}

async fn one_client(client: &Client, load: Load, number: u64) -> Result<()> {
    let mut rng = generator(load.seed, load.round * 1000 + number);
    for step in 0..load.steps {
        let key = i64::try_from((load.round * 1000 + number) * 100_000 + step)?;
        one_step(client, &mut rng, key).await?;
    }
    Ok(())
}

async fn one_step(client: &Client, rng: &mut StdRng, key: i64) -> Result<()> {
    let db = client.database(DB);
    let items = db.collection::<Document>("items");
    match rng.random_range(0..20) {
        0..5 => drop(items.insert_one(item(key, rng)).await?),
        5..11 => change(&items, rng).await?,
        11 => {
            items.delete_one(doc! { "n": { "$gt": rng.random_range(0..50) } }).await?;
        }
        12 => {
            items.delete_many(doc! { "n": rng.random_range(5..500) }).await?;
        }
        13 => swap(client, rng).await?,
        14 => transfer(client, rng, key).await?,
        15 => {
            let capped = db.collection::<Document>("capped");
            drop(capped.insert_one(doc! { "_id": key, "text": "x".repeat(rng.random_range(1..300)) }).await?);
        }
        16 => {
            let folded = db.collection::<Document>("folded");
            let id = format!("{}{}", if rng.random_bool(0.5) { "Key" } else { "kEY" }, rng.random_range(0..20));
            let change = doc! { "$inc": { "n": 1 }, "$push": { "by": key } };
            unless_refused(folded.update_one(doc! { "_id": id }, change).upsert(true).await)?;
        }
        17 => comes_and_goes(client, rng, key).await?,
        _ => drop(items.insert_many((0..5).map(|n| item(key * 10 + n, rng)).collect::<Vec<_>>()).await?),
    }
    Ok(())
}

fn item(key: i64, rng: &mut StdRng) -> Document {
    doc! {
        "_id": if rng.random_bool(0.5) { Bson::Int64(key) } else { Bson::from(format!("k{key}")) },
        "n": rng.random_range(0..1000), "tags": ["a", { "deep": [1, 2, 3] }], "nested": { "x": { "y": 1 }, "z": key },
        "text": "lorem ".repeat(rng.random_range(0..40)),
    }
}

/// Every shape of update: fields set, removed, renamed; arrays grown, shrunk and changed within; replacements.
async fn change(items: &Collection<Document>, rng: &mut StdRng) -> Result<()> {
    let filter = doc! { "n": { "$gte": rng.random_range(0..1000) } };
    let number: i32 = rng.random_range(0..1_000_000);
    let update = match rng.random_range(0..9) {
        0 => doc! { "$set": { "n": number % 1000, "nested.x.y": number } },
        1 => doc! { "$unset": { "text": 1 }, "$set": { format!("new{}", number % 7): number } },
        2 => doc! { "$push": { "tags": { "$each": [number, { "q": number }], "$slice": -6 } } },
        3 => doc! { "$pop": { "tags": 1 } },
        4 => doc! { "$inc": { "nested.z": 1_i64, "n": 1 }, "$rename": { "text": "told" } },
        5 => doc! { "$set": { "tags.1.deep.0": number, "nested.list": [[number], []] } },
        6 => doc! { "$mul": { "n": 2 }, "$set": { "nested": { "x": { "y": number }, "z": 0_i64 } } },
        7 => doc! { "$set": { "big": "y".repeat(usize::try_from(number % 20_000)?) } },
        _ => {
            let whole = doc! { "n": i64::from(number % 1000), "tags": [], "whole": true };
            items.replace_one(filter, whole).await?;
            return Ok(());
        }
    };
    let updated = match rng.random_bool(0.2) {
        true => items.update_many(doc! { "n": rng.random_range(0..1000) }, update).await,
        false => items.update_one(filter, update).await,
    };
    unless_refused(updated)
}

/// A write that the server refuses, since the document has another shape by now, is one that never happened.
fn unless_refused<T>(result: mongodb::error::Result<T>) -> Result<()> {
    match result {
        Err(error) if matches!(*error.kind, mongodb::error::ErrorKind::Write(_)) => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// Two documents exchange what must be unique: each state on the way is legal, but not in every order.
async fn swap(client: &Client, rng: &mut StdRng) -> Result<()> {
    let swaps = client.database(DB).collection::<Document>("swaps");
    let (one, free) = (rng.random_range(0..10), rng.random_range(1000..1_000_000));
    // Another client may have taken the seat just now: then nothing happens, which is as good.
    unless_refused(swaps.update_one(doc! { "_id": one }, doc! { "$set": { "seat": free } }).await)?;
    let other = doc! { "_id": rng.random_range(0..10) };
    unless_refused(swaps.update_one(other, doc! { "$set": { "seat": one } }).await)
}

/// A transaction over two collections, small or of several log entries, committed or not.
async fn transfer(client: &Client, rng: &mut StdRng, key: i64) -> Result<()> {
    let db = client.database(DB);
    let (from, to) = (db.collection::<Document>("items"), db.collection::<Document>("ledger"));
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    let large = rng.random_bool(0.1);
    let rows = if large { 9 } else { rng.random_range(1..5) };
    for row in 0..rows {
        let text = if large { "t".repeat(2 << 20) } else { "t".to_owned() };
        let written = async {
            to.insert_one(doc! { "_id": key * 100 + row, "of": key, "rows": rows, "text": text })
                .session(&mut session)
                .await?;
            let id = *[1, 2, 3].choose(rng).unwrap_or(&1);
            from.update_one(doc! { "_id": id }, doc! { "$inc": { "n": 1 } }).session(&mut session).await
        };
        if written.await.is_err() {
            // Another transaction was faster: this one never happened.
            session.abort_transaction().await?;
            return Ok(());
        }
    }
    if rng.random_bool(0.2) {
        session.abort_transaction().await?;
        return Ok(());
    }
    match session.commit_transaction().await {
        // Two transactions that both make the collection: one of them never happened.
        Err(error) if error.contains_label("TransientTransactionError") => Ok(()),
        other => Ok(other?),
    }
}

/// Collections, indexes and a database that are made, renamed, changed and dropped.
async fn comes_and_goes(client: &Client, rng: &mut StdRng, key: i64) -> Result<()> {
    let db = client.database(DB);
    let name = format!("c{key}");
    let collection = db.collection::<Document>(&name);
    collection.insert_many((0..3).map(|n| doc! { "_id": n, "of": key })).await?;
    let options = IndexOptions::builder().unique(rng.random_bool(0.5)).build();
    collection.create_index(IndexModel::builder().keys(doc! { "of": 1, "_id": 1 }).options(options).build()).await?;
    match rng.random_range(0..6) {
        0 => collection.drop().await?,
        1 => rename(client, &name, &format!("r{}", rng.random_range(0..3)), true).await?,
        2 => drop(db.run_command(doc! { "collMod": &name, "validator": { "of": { "$exists": true } } }).await?),
        3 => collection.drop_index("of_1__id_1").await?,
        4 => {
            let other = client.database(&format!("other{key}"));
            other.collection("x").insert_one(doc! { "_id": key }).await?;
            other.drop().await?;
        }
        _ => drop(collection.update_many(doc! {}, doc! { "$set": { "last": key } }).await?),
    }
    Ok(())
}

async fn rename(client: &Client, from: &str, to: &str, drop_target: bool) -> Result<()> {
    let command =
        doc! { "renameCollection": format!("{DB}.{from}"), "to": format!("{DB}.{to}"), "dropTarget": drop_target };
    client.database("admin").run_command(command).await?;
    Ok(())
}
