//! Everything that can stand in an oplog, each in a database of its own: before the base, and again after it.
//! After a restore to the end every digest, option and index must be that of the source.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bson::{Bson, DateTime, Document, Timestamp, cstr, doc};
use futures::FutureExt;
use futures::future::BoxFuture;
use integration_tests::mongo_load::mixed_ids;
use integration_tests::mongo_truth::Truth;
use integration_tests::mongodb::{expect_equal, is_since};
use integration_tests::seed::{generator, seed};
use integration_tests::{Mongo, MongoSetup, Pitr, Run, SOURCE, Scratch, Streaming, wait_for_archive};
use mongodb::{Client, Collection, Database};
use rand::RngExt;

type Shape = for<'a> fn(&'a Client, Database, i32) -> BoxFuture<'a, Result<()>>;

/// The promise, and what is written to prove it: in round 1 before the base, in round 2 after it.
const SHAPES: [(&str, Shape); 24] = [
    ("ids_of_every_type", |_, db, round| ids_of_every_type(db, round).boxed()),
    ("equal_ids_of_two_number_types", |_, db, round| equal_ids(db, round).boxed()),
    ("values_of_every_type", |_, db, round| values_of_every_type(db, round).boxed()),
    ("updates_then_delete", |_, db, round| updates_then_delete(db, round).boxed()),
    ("documents_written_again_and_again", |_, db, round| again_and_again(db, round).boxed()),
    ("unique_values_change_hands", |_, db, round| unique_values(db, round).boxed()),
    ("rename_over_another", |client, db, round| rename_over(client, db, round).boxed()),
    ("database_dropped_and_made_again", |_, db, round| database_again(db, round).boxed()),
    ("transaction_of_several_entries", |client, db, round| large_transaction(client, db, round).boxed()),
    ("transaction_that_makes_collections", |client, db, round| making_transaction(client, db, round).boxed()),
    ("options_change", |_, db, round| options_change(db, round).boxed()),
    ("indexes_of_every_kind", |_, db, round| indexes(db, round).boxed()),
    ("capped_wraps", |_, db, round| capped(db, round).boxed()),
    ("time_series", |_, db, round| time_series(db, round).boxed()),
    ("views", |_, db, round| views(db, round).boxed()),
    ("largest_documents", |_, db, round| largest_documents(db, round).boxed()),
    ("writes_after_becoming_capped", |_, db, round| becomes_capped(db, round).boxed()),
    ("expired_documents", |_, db, round| expired_documents(db, round).boxed()),
    ("clustered_by_id", |_, db, round| clustered(db, round).boxed()),
    ("images_of_changes", |_, db, round| images(db, round).boxed()),
    ("stored_functions", |_, db, round| stored_functions(db, round).boxed()),
    ("an_index_that_never_came", |_, db, round| impossible_index(db, round).boxed()),
    ("output_of_aggregations", |_, db, round| output(db, round).boxed()),
    ("names_with_dots_and_letters", |_, db, round| names(db, round).boxed()),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_of_the_log_comes_back_exactly() -> Result<()> {
    let scratch = Scratch::new("mongo-shapes")?;
    let parameter = |setting: &str| ["--setParameter", setting].map(str::to_owned).to_vec();
    // Documents that have expired stay on the source, so that it is known what must be on the target.
    let arguments = parameter("ttlMonitorEnabled=false");
    let setup = MongoSetup { cache_mib: 512, arguments, ..MongoSetup::chosen() };
    let source = Mongo::start(&scratch, "rs", &setup).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let client = source.client().await?;
    write(&client, 1).await?;
    users(&client, 1).await?;
    let mut streaming = Streaming::start(&pitr)?;
    pitr.run(["backup", SOURCE])?.ok()?;
    write(&client, 2).await?;
    users(&client, 2).await?;
    let last = *Truth::read(&client).await?.moments()?.last().unwrap();
    wait_for_archive(&pitr, last.at).await?;
    streaming.stop()?;

    // A set that would delete what has expired every second.
    let eager = MongoSetup { arguments: parameter("ttlMonitorSleepSecs=1"), ..setup };
    let target = Mongo::start(&scratch, "target", &eager).await?;
    let run = pitr.run(["restore", SOURCE, "--to", "latest", "--target-url", &target.url()])?.with_code(3)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    expect_equal(&source, &target).await?;
    expect_expiry_to_be_off(&target, &run).await?;
    for collection in ["system.users", "system.roles"] {
        let all = |client: Client| async move {
            integration_tests::mongodb::documents(&client.database("admin").collection(collection)).await
        };
        let (expected, found) = (all(client.clone()).await?, all(target.client().await?).await?);
        ensure!(expected == found && !expected.is_empty(), "{collection}: {expected:?}\n{found:?}");
    }

    // The same again as a directory, with a server that is started on it afterwards.
    // Its path is longer than that of a socket may be.
    let dir = scratch.path().join("restored".repeat(12));
    let mut command = pitr.command(["restore", SOURCE, "--to", "latest", "--into"]);
    source.member(0)?.lend(command.arg(&dir));
    let run = Pitr::finish(command)?;
    ensure!(matches!(run.code, Some(0 | 3)), "{run}");
    let restored = Mongo::on_directory(&scratch, &dir).await?;
    expect_equal(&source, &restored).await
}

/// Until the command that the restore printed is given; then the restored index does what it did on the source.
async fn expect_expiry_to_be_off(target: &Mongo, restore: &Run) -> Result<()> {
    let client = target.client().await?;
    ensure!(restore.text().contains("setParameter: 1, ttlMonitorEnabled: true"), "{restore}");
    client.database("admin").run_command(doc! { "setParameter": 1, "ttlMonitorEnabled": true }).await?;
    let all = client.database("expired_documents").collection::<Document>("all");
    let begun = Instant::now();
    while all.count_documents(doc! {}).await? > 0 {
        ensure!(begun.elapsed() < Duration::from_secs(90), "nothing expires");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn write(client: &Client, round: i32) -> Result<()> {
    for (name, shape) in SHAPES {
        shape(client, client.database(name), round).await.with_context(|| format!("{name}, round {round}"))?;
    }
    Ok(())
}

async fn ids_of_every_type(db: Database, round: i32) -> Result<()> {
    let all = db.collection::<Document>("all");
    for id in mixed_ids() {
        match round {
            1 => drop(all.insert_one(doc! { "_id": id, "n": 1 }).await?),
            _ => drop(all.update_one(doc! { "_id": id }, doc! { "$set": { "n": 2, "more": true } }).await?),
        }
    }
    Ok(())
}

async fn equal_ids(db: Database, round: i32) -> Result<()> {
    let all = db.collection::<Document>("all");
    for n in 0..20 {
        // The same document, named by another type each time: the order of the writes must stay.
        all.update_one(doc! { "_id": n }, doc! { "$set": { "n": n } }).upsert(true).await?;
        all.update_one(doc! { "_id": i64::from(n) }, doc! { "$inc": { "n": round } }).await?;
        all.delete_one(doc! { "_id": f64::from(n) }).await?;
        all.insert_one(doc! { "_id": i64::from(n), "again": round }).await?;
    }
    Ok(())
}

async fn values_of_every_type(db: Database, round: i32) -> Result<()> {
    let mut all = Document::new();
    for (n, value) in mixed_ids().into_iter().enumerate() {
        all.insert(format!("v{n}"), value);
    }
    all.insert("empty", Timestamp { time: 0, increment: 0 });
    all.insert("code", Bson::JavaScriptCode("function() { return 1; }".into()));
    all.insert("undefined", Bson::Undefined);
    all.insert(
        "regex",
        Bson::RegularExpression(bson::Regex { pattern: cstr!("a+").into(), options: cstr!("i").into() }),
    );
    all.insert("_id", round);
    let collection = db.collection::<Document>("all");
    collection.insert_one(&all).await?;
    // An empty timestamp inside of a document stays what it is.
    collection.insert_one(doc! { "_id": round + 100, "in": { "empty": Timestamp { time: 0, increment: 0 } } }).await?;
    // At the top a pipeline can put one.
    let pipeline = vec![doc! { "$set": { "stamp": Timestamp { time: 0, increment: 0 } } }];
    collection.update_one(doc! { "_id": round + 100 }, pipeline).await?;
    Ok(())
}

async fn updates_then_delete(db: Database, round: i32) -> Result<()> {
    let all = db.collection::<Document>("all");
    all.insert_many((0..50).map(|n| doc! { "_id": n + round * 100, "n": n, "list": [1, 2, 3] })).await?;
    for n in 0..50 {
        let id = doc! { "_id": n + round * 100 };
        all.update_one(id.clone(), doc! { "$set": { "list.1": { "x": n } }, "$unset": { "n": 1 } }).await?;
        all.update_one(id.clone(), doc! { "$push": { "list": { "$each": [7, 8], "$slice": -2 } } }).await?;
        if n % 3 == 0 {
            all.delete_one(id).await?;
        }
    }
    // Retried, these two would be answered from images that the server keeps.
    all.find_one_and_update(doc! { "_id": round * 100 + 1 }, doc! { "$inc": { "n": 1 } }).await?;
    all.find_one_and_delete(doc! { "_id": round * 100 + 2 }).await?;
    all.delete_many(doc! { "_id": { "$gt": round * 100 + 40 } }).await?;
    Ok(())
}

/// Nothing but writes on few documents, in a row: those of the first round are in the base, those of the second are new.
async fn again_and_again(db: Database, round: i32) -> Result<()> {
    let seed = seed("mongo_shapes");
    let mut rng = generator(seed, u64::try_from(round)?);
    let all = db.collection::<Document>("all");
    let new = |id: i32| {
        let rows = vec![doc! { "x": 1, "y": [1, 2] }, doc! { "x": 2 }];
        doc! { "_id": id, "n": 0, "in": { "a": 1, "b": { "c": [1, 2, 3] } }, "rows": rows, "tags": ["a", "b"], "": 1, "0": 0 }
    };
    all.insert_many((0..20).map(|n| new(round * 100 + n))).await?;
    let is_new = is_since(&db, 5).await?;
    for _ in 0..60 {
        let mut changes = Vec::new();
        for _ in 0..40 {
            let id = rng.random_range(1..=round) * 100 + rng.random_range(0..20);
            let n: i32 = rng.random_range(0..1000);
            let change: Bson = match rng.random_range(0..17) {
                0 => doc! { "$set": { "n": n, "in.a": n } }.into(),
                1 => doc! { "$set": { "in.b.c.1": n, "rows.0.y.1": n } }.into(),
                2 => doc! { "$push": { "tags": { "$each": [n, "x"], "$position": n % 3 } } }.into(),
                3 => doc! { "$push": { "rows": { "$each": [{ "x": n, "y": [n] }], "$slice": -4 } } }.into(),
                4 => doc! { "$pull": { "rows": { "x": { "$lt": n } } } }.into(),
                5 => doc! { "$pop": { "tags": -1 } }.into(),
                6 => doc! { "$unset": { "in.a": 1, "tags": 1 } }.into(),
                7 => doc! { "$set": { format!("in.b.k{}", n % 5): { "deep": [n] }, format!("k{}", n % 5): n } }.into(),
                8 => doc! { "$rename": { "n": "m", "in.b": "in.d" } }.into(),
                9 => doc! { "$rename": { "m": "n", "in.d": "in.b" } }.into(),
                10 => doc! { "$set": { "tags.6": n, "tags": [n] } }.into(),
                11 => doc! { "$set": { "tags": [n, { "x": n }], "rows": [] } }.into(),
                12 => doc! { "$set": { "rows.5.y.2": n } }.into(),
                13 => doc! { "$inc": { "n": 1, "rows.$[].x": 1 }, "$mul": { "in.a": 1.5 } }.into(),
                14 => new(id).into(),
                15 if is_new => vec![
                    doc! { "$unset": ["in", "n"] },
                    doc! { "$set": { "n": "$m", "in": { "a": "$n", "b": { "c": "$tags" } } } },
                ]
                .into(),
                _ => vec![doc! { "$set": { "last": { "$size": { "$ifNull": ["$tags", []] } }, "in": { "z": n } } }]
                    .into(),
            };
            changes.push(doc! { "q": { "_id": id }, "u": change, "upsert": rng.random_bool(0.3) });
        }
        // Some no longer fit the shape that a document has by then; they never happened.
        db.run_command(doc! { "update": "all", "updates": changes, "ordered": false }).await?;
        let gone = rng.random_range(1..=round) * 100 + rng.random_range(0..20);
        if rng.random_bool(0.5)
            && all.delete_one(doc! { "_id": gone }).await?.deleted_count == 1
            && rng.random_bool(0.5)
        {
            all.insert_one(new(gone)).await?;
        }
    }
    Ok(())
}

async fn unique_values(db: Database, round: i32) -> Result<()> {
    let all = db.collection::<Document>("all");
    if round == 1 {
        db.run_command(
            doc! { "createIndexes": "all", "indexes": [{ "key": { "k": 1 }, "name": "k", "unique": true }] },
        )
        .await?;
    }
    for n in 0..20 {
        all.insert_one(doc! { "_id": format!("{round}/{n}/a"), "k": round * 100 + n }).await?;
        all.delete_one(doc! { "k": round * 100 + n }).await?;
        all.insert_one(doc! { "_id": format!("{round}/{n}/b"), "k": round * 100 + n }).await?;
    }
    Ok(())
}

async fn rename_over(client: &Client, db: Database, round: i32) -> Result<()> {
    for n in 0..3 {
        let from = format!("new{n}");
        db.collection(&from).insert_many((0..5).map(|m| doc! { "_id": m, "n": n, "round": round })).await?;
        db.run_command(
            doc! { "createIndexes": &from, "indexes": [{ "key": { "n": n + 1 }, "name": format!("n{n}") }] },
        )
        .await?;
        let (from, to) = (format!("{}.{from}", db.name()), format!("{}.current", db.name()));
        let rename = doc! { "renameCollection": from, "to": to, "dropTarget": true };
        client.database("admin").run_command(rename).await?;
        db.collection::<Document>("current").update_many(doc! {}, doc! { "$inc": { "n": 10 } }).await?;
    }
    // To another database, which the server does by copying.
    db.collection("moved").insert_one(doc! { "_id": round }).await?;
    let (from, to) = (format!("{}.moved", db.name()), format!("elsewhere.moved{round}"));
    client.database("admin").run_command(doc! { "renameCollection": from, "to": to }).await?;
    Ok(())
}

async fn database_again(db: Database, round: i32) -> Result<()> {
    for n in 0..2 {
        db.collection("a").insert_one(doc! { "_id": 1, "n": n, "round": round }).await?;
        db.collection("b").insert_one(doc! { "_id": 1 }).await?;
        db.drop().await?;
    }
    db.collection("a").insert_one(doc! { "_id": 2, "round": round }).await?;
    Ok(())
}

async fn large_transaction(client: &Client, db: Database, round: i32) -> Result<()> {
    let all = db.collection::<Document>("all");
    if round == 1 {
        all.insert_one(doc! { "_id": "first" }).await?;
    }
    for commit in [true, false] {
        // A busy server may find it too large for its cache for a moment: then it never happened.
        let mut attempts = 0;
        while let Err(error) = one_large_transaction(client, &all, round, commit).await {
            attempts += 1;
            ensure!(attempts < 20 && is_passing(&error), "{error}");
        }
    }
    Ok(())
}

fn is_passing(error: &mongodb::error::Error) -> bool {
    const TOO_LARGE_FOR_CACHE: i32 = 388;
    let too_large = matches!(&*error.kind, mongodb::error::ErrorKind::Command(c) if c.code == TOO_LARGE_FOR_CACHE);
    too_large || error.contains_label("TransientTransactionError")
}

async fn one_large_transaction(
    client: &Client,
    all: &Collection<Document>,
    round: i32,
    commit: bool,
) -> mongodb::error::Result<()> {
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    for n in 0..5 {
        let id = format!("{round}/{n}/{commit}");
        let row = doc! { "_id": id, "text": "x".repeat(5 << 20) };
        all.insert_one(row).session(&mut session).await?;
    }
    all.update_one(doc! { "_id": "first" }, doc! { "$inc": { "n": 1 } }).session(&mut session).await?;
    match commit {
        true => session.commit_transaction().await,
        false => session.abort_transaction().await,
    }
}

async fn making_transaction(client: &Client, db: Database, round: i32) -> Result<()> {
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    let name = format!("made{round}");
    db.run_command(doc! { "create": &name }).session(&mut session).await?;
    let index = doc! { "createIndexes": &name, "indexes": [{ "key": { "a": 1 }, "name": "a", "unique": true }] };
    db.run_command(index).session(&mut session).await?;
    db.collection(&name).insert_one(doc! { "_id": 1, "a": 1 }).session(&mut session).await?;
    session.commit_transaction().await?;
    Ok(())
}

async fn options_change(db: Database, round: i32) -> Result<()> {
    if round == 1 {
        db.collection("all").insert_one(doc! { "_id": 1, "at": DateTime::now(), "a": 1 }).await?;
        let indexes = doc! {
            "createIndexes": "all",
            "indexes": [
                { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 3600 },
                { "key": { "a": 1 }, "name": "a" },
                { "key": { "b": 1 }, "name": "b" },
            ],
        };
        db.run_command(indexes).await?;
        return Ok(());
    }
    let change = |index: Document| doc! { "collMod": "all", "index": index };
    db.run_command(change(doc! { "name": "ttl", "expireAfterSeconds": 86_400_i64 })).await?;
    db.run_command(change(doc! { "keyPattern": { "a": 1 }, "hidden": true })).await?;
    db.run_command(
        doc! { "collMod": "all", "validator": { "_id": { "$exists": true } }, "validationLevel": "moderate" },
    )
    .await?;
    db.run_command(doc! { "dropIndexes": "all", "index": "b" }).await?;
    if is_since(&db, 6).await? {
        for step in ["prepareUnique", "unique"] {
            db.run_command(change(doc! { "keyPattern": { "a": 1 }, step: true })).await?;
        }
    }
    db.run_command(doc! { "convertToCapped": "all", "size": 100_000 }).await.map(drop)?;
    Ok(())
}

async fn indexes(db: Database, round: i32) -> Result<()> {
    let name = format!("all{round}");
    db.run_command(doc! { "create": &name, "collation": { "locale": "de", "strength": 1 } }).await?;
    db.collection(&name)
        .insert_many((0..20).map(|n| doc! { "_id": n, "t": "a b", "p": [n, n], "w": { "x": n } }))
        .await?;
    let indexes = doc! {
        "createIndexes": &name,
        "indexes": [
            { "key": { "t": "text" }, "name": "text", "default_language": "german", "weights": { "t": 3 }, "collation": { "locale": "simple" } },
            { "key": { "p": "2d" }, "name": "2d", "min": -500.0, "max": 500.0, "collation": { "locale": "simple" } },
            { "key": { "g": "2dsphere" }, "name": "sphere" },
            { "key": { "h": "hashed" }, "name": "hashed" },
            { "key": { "w.$**": 1 }, "name": "wildcard" },
            { "key": { "a": 1, "b": -1 }, "name": "partial", "partialFilterExpression": { "a": { "$gt": 5 } } },
            { "key": { "c": 1 }, "name": "sparse", "sparse": true, "unique": true },
            { "key": { "d": 1 }, "name": "folded", "collation": { "locale": "en", "strength": 2 } },
        ],
    };
    db.run_command(indexes).await?;
    Ok(())
}

async fn capped(db: Database, round: i32) -> Result<()> {
    if round == 1 {
        db.run_command(doc! { "create": "ring", "capped": true, "size": 8192, "max": 20 }).await?;
    }
    let ring = db.collection::<Document>("ring");
    for n in 0..45 {
        ring.insert_one(doc! { "_id": n + round * 1000, "n": n, "text": "x".repeat(100) }).await?;
    }
    see(&db, &ring, doc! { "_id": round * 1000 + 44 }).await
}

async fn time_series(db: Database, round: i32) -> Result<()> {
    if !is_since(&db, 5).await? {
        return without("time series", &db);
    }
    let name = format!("weather{round}");
    let options = doc! { "timeField": "at", "metaField": "where", "granularity": "seconds" };
    db.run_command(doc! { "create": &name, "timeseries": options, "expireAfterSeconds": 1_000_000_000_i64 }).await?;
    let index = doc! { "key": { "where": 1, "at": -1 }, "name": "by place" };
    db.run_command(doc! { "createIndexes": &name, "indexes": [index] }).await?;
    if round == 2 {
        let change =
            doc! { "collMod": "weather1", "timeseries": { "granularity": "minutes" }, "expireAfterSeconds": "off" };
        db.run_command(change).await?;
    }
    for name in (1..=round).map(|round| format!("weather{round}")) {
        let point = |n: i64| doc! { "at": DateTime::from_millis(1_700_000_000_000 + n * 1000), "where": n % 3, "t": n as f64 / 7.0 };
        db.collection(&name).insert_many((0..200).map(point)).await?;
        for n in 200..260 {
            db.collection(&name).insert_one(point(n)).await?;
        }
    }
    Ok(())
}

async fn views(db: Database, round: i32) -> Result<()> {
    if round == 1 {
        db.collection("all").insert_one(doc! { "_id": 1 }).await?;
        db.run_command(doc! { "create": "changed", "viewOn": "all", "pipeline": [] }).await?;
        db.run_command(doc! { "create": "dropped", "viewOn": "all", "pipeline": [] }).await?;
        return Ok(());
    }
    db.run_command(doc! { "collMod": "changed", "viewOn": "all", "pipeline": [{ "$match": { "_id": 1 } }] }).await?;
    db.run_command(doc! { "drop": "dropped" }).await?;
    db.run_command(doc! { "create": "made", "viewOn": "changed", "pipeline": [{ "$limit": 1 }] }).await?;
    Ok(())
}

async fn users(client: &Client, round: i32) -> Result<()> {
    let admin = client.database("admin");
    let role = format!("role{round}");
    admin.run_command(doc! { "createRole": &role, "privileges": [], "roles": ["read"] }).await?;
    admin.run_command(doc! { "createUser": format!("user{round}"), "pwd": "secret", "roles": [role] }).await?;
    if round == 2 {
        admin.run_command(doc! { "updateUser": "user1", "roles": ["role2"] }).await?;
    }
    Ok(())
}

/// As large as a document may be: its entry in the log is larger, and it travels alone.
async fn largest_documents(db: Database, round: i32) -> Result<()> {
    const ROOM: usize = (16 << 20) - 25;
    let all = db.collection::<Document>("all");
    for n in 0..4 {
        all.insert_one(doc! { "_id": round * 10 + n, "text": "y".repeat(300_000) }).await?;
    }
    all.insert_one(doc! { "_id": round, "text": "x".repeat(ROOM) }).await?;
    all.insert_one(doc! { "_id": round * 10 + 4, "text": "z" }).await?;
    if round == 2 {
        all.replace_one(doc! { "_id": 1 }, doc! { "_id": 1, "text": "r".repeat(ROOM) }).await?;
    }
    Ok(())
}

async fn becomes_capped(db: Database, round: i32) -> Result<()> {
    let name = format!("all{round}");
    let all = db.collection::<Document>(&name);
    all.insert_many((0..10).map(|n| doc! { "_id": n, "text": "x".repeat(1000) })).await?;
    db.run_command(doc! { "convertToCapped": &name, "size": 16_384 }).await?;
    for round in 1..=round {
        let all = db.collection::<Document>(&format!("all{round}"));
        all.insert_many((0..10).map(|n| doc! { "text": "y".repeat(1000), "n": n })).await?;
        see(&db, &all, doc! { "n": 9 }).await?;
    }
    Ok(())
}

/// Changes a document of a capped collection. Before 6.0 its size had to stay the same.
async fn see(db: &Database, capped: &Collection<Document>, which: Document) -> Result<()> {
    let change = match is_since(db, 6).await? {
        true => doc! { "$set": { "seen": true } },
        false => doc! { "$set": { "n": 8 } },
    };
    capped.update_one(which, change).await?;
    Ok(())
}

async fn expired_documents(db: Database, round: i32) -> Result<()> {
    if round == 1 {
        let index = doc! { "key": { "at": 1 }, "name": "ttl", "expireAfterSeconds": 1 };
        db.run_command(doc! { "createIndexes": "all", "indexes": [index] }).await?;
    }
    let old = DateTime::from_millis(1_500_000_000_000);
    db.collection("all").insert_many((0..5).map(|n| doc! { "_id": round * 10 + n, "at": old })).await?;
    Ok(())
}

/// True for a server of this major version or a later one.
/// A shape that the server does not have.
fn without(what: &str, db: &Database) -> Result<()> {
    eprintln!("SKIPPED {}: a server of this version has no {what}", db.name());
    Ok(())
}

async fn clustered(db: Database, round: i32) -> Result<()> {
    if !is_since(&db, 6).await? {
        return without("clustered collections", &db);
    }
    let name = format!("all{round}");
    let index = doc! { "key": { "_id": 1 }, "unique": true, "name": "by id" };
    db.run_command(doc! { "create": &name, "clusteredIndex": index, "expireAfterSeconds": 1_000_000_000_i64 }).await?;
    for name in (1..=round).map(|round| format!("all{round}")) {
        let all = db.collection::<Document>(&name);
        for id in mixed_ids().into_iter().filter(|id| !matches!(id, Bson::MinKey | Bson::MaxKey)) {
            all.replace_one(doc! { "_id": &id }, doc! { "_id": &id, "round": round }).upsert(true).await?;
        }
        all.delete_one(doc! { "_id": "text" }).await?;
    }
    Ok(())
}

async fn images(db: Database, round: i32) -> Result<()> {
    if !is_since(&db, 6).await? {
        return without("images of changes", &db);
    }
    let name = format!("all{round}");
    db.run_command(doc! { "create": &name, "changeStreamPreAndPostImages": { "enabled": true } }).await?;
    let all = db.collection::<Document>(&name);
    all.insert_one(doc! { "_id": 1, "n": 1 }).await?;
    all.update_one(doc! { "_id": 1 }, doc! { "$inc": { "n": 1 } }).await?;
    if round == 2 {
        let change = doc! { "collMod": "all1", "changeStreamPreAndPostImages": { "enabled": false } };
        db.run_command(change).await?;
    }
    Ok(())
}

async fn stored_functions(db: Database, round: i32) -> Result<()> {
    let functions = db.collection::<Document>("system.js");
    let code = Bson::JavaScriptCode(format!("function() {{ return {round}; }}"));
    functions.insert_one(doc! { "_id": format!("f{round}"), "value": &code }).await?;
    functions.update_one(doc! { "_id": "f1" }, doc! { "$set": { "value": code } }).await?;
    Ok(())
}

/// The log tells of the begin and of the end of its building.
async fn impossible_index(db: Database, round: i32) -> Result<()> {
    db.collection("all").insert_many((0..5).map(|n| doc! { "_id": n + round * 10, "same": 1 })).await?;
    let index = doc! { "key": { "same": 1 }, "name": format!("never{round}"), "unique": true };
    let refused = db.run_command(doc! { "createIndexes": "all", "indexes": [index] }).await;
    ensure!(refused.is_err(), "{refused:?}");
    Ok(())
}

/// The server fills a collection under another name and renames it.
async fn output(db: Database, round: i32) -> Result<()> {
    let all = db.collection::<Document>("all");
    all.insert_many((0..20).map(|n| doc! { "_id": n + round * 100, "n": n % 3 })).await?;
    let group = doc! { "$group": { "_id": "$n", "count": { "$sum": 1 } } };
    for last in [doc! { "$out": "counts" }, doc! { "$merge": { "into": "merged", "whenMatched": "replace" } }] {
        all.aggregate([group.clone(), last]).await?;
    }
    Ok(())
}

async fn names(db: Database, round: i32) -> Result<()> {
    for name in ["a.b", "a.b.c", "ümläut and space", "systems", "_x-1"] {
        let all = db.collection::<Document>(name);
        all.insert_one(doc! { "_id": round, "a.b": 1, "": 2, "$c": { "$d": 3 } }).await.map(drop).or_else(|error| {
            // Before 5.0 a name of a field could not begin like that.
            if error.to_string().contains("$c") { Ok(()) } else { Err(error) }
        })?;
        all.insert_one(doc! { "_id": -round, "in": { "a": { "": round } } }).await?;
    }
    db.run_command(doc! { "collMod": "a.b", "validationLevel": "moderate" }).await?;
    Ok(())
}
