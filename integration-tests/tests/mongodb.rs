//! A replica set through the program: tail, base, restore.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{Document, doc};
use integration_tests::mongo_load::{self, Load};
use integration_tests::mongo_truth::{self, Truth};
use integration_tests::mongodb::expect_equal;
use integration_tests::seed::seed;
use integration_tests::{Mongo, MongoSetup, Pitr, SOURCE, Scratch, Streaming, wait_for_archive};
use mongodb::Client;

#[tokio::test(flavor = "multi_thread")]
async fn a_base_and_the_log_after_it_give_the_same_server_again() -> Result<()> {
    let seed = seed("mongo_main");
    let scratch = Scratch::new("mongo")?;
    let source = Mongo::start(&scratch, "rs", &MongoSetup::chosen()).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), true)?;
    pitr.run(["init"])?.ok()?;
    let client = source.client().await?;
    mongo_load::prepare(&client).await?;
    let mut streaming = Streaming::start(&pitr)?;

    mongo_load::run(&client, Load { seed, round: 1, clients: 3, steps: 60 }).await?;
    let during = mongo_load::run(&client, Load { seed, round: 2, clients: 3, steps: 60 });
    let taken = {
        let pitr = pitr.clone();
        tokio::task::spawn_blocking(move || pitr.run(["backup", SOURCE])?.ok())
    };
    let (during, taken) = tokio::join!(during, taken);
    during?;
    eprintln!("{}", taken??.stdout);
    mongo_load::run(&client, Load { seed, round: 3, clients: 3, steps: 60 }).await?;

    let truth = Truth::read(&client).await?;
    let last = *truth.moments()?.last().unwrap();
    wait_for_archive(&pitr, last.at).await?;
    streaming.stop()?;
    let target = Mongo::standalone(&scratch, "target").await?;
    let run = pitr.run(["restore", SOURCE, "--to", "latest", "--target-url", &target.url()])?;
    ensure!(matches!(run.code, Some(0 | 3)), "{run}");
    eprintln!("{}", run.stdout);
    let found = mongo_truth::content(&target.client().await?).await?;
    mongo_truth::compare(&truth.state(|_| true)?, &found)?;
    expect_equal(&source, &target).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_cannot_be_read_at_one_time_is_made_to_agree_by_the_log() -> Result<()> {
    let seed = seed("mongo_fuzzy");
    let scratch = Scratch::new("mongo-fuzzy")?;
    let mut setup = MongoSetup::chosen();
    if !setup.version.starts_with("4.") {
        // The server forgets every state but the last one. One before 5.0 has no other to read.
        setup.arguments = ["--setParameter", "minSnapshotHistoryWindowInSeconds=0"].map(str::to_owned).to_vec();
    }
    let source = Mongo::start(&scratch, "rs", &setup).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let client = source.client().await?;
    mongo_load::prepare(&client).await?;
    let mut streaming = Streaming::start(&pitr)?;
    mongo_load::run(&client, Load { seed, round: 1, clients: 3, steps: 100 }).await?;

    let mut read_later = String::new();
    for round in 2..8 {
        let during = mongo_load::run(&client, Load { seed, round, clients: 3, steps: 40 });
        let taken = {
            let pitr = pitr.clone();
            tokio::task::spawn_blocking(move || pitr.json(["backup", SOURCE]))
        };
        let (during, taken) = tokio::join!(during, taken);
        during?;
        read_later = taken??["read_later"].to_string();
        if read_later.contains("shop.items") {
            break;
        }
    }
    ensure!(read_later.contains("shop.items"), "every base was of one time: {read_later}");
    let truth = Truth::read(&client).await?;
    wait_for_archive(&pitr, truth.moments()?.last().unwrap().at).await?;
    streaming.stop()?;
    let target = Mongo::standalone(&scratch, "target").await?;
    let run = pitr.run(["restore", SOURCE, "--to", "latest", "--target-url", &target.url()])?;
    ensure!(matches!(run.code, Some(0 | 3)), "{run}");
    mongo_truth::compare(&truth.state(|_| true)?, &mongo_truth::content(&target.client().await?).await?)?;
    expect_equal(&source, &target).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_is_taken_while_names_and_definitions_change_and_a_second_one_stores_what_differs() -> Result<()> {
    let scratch = Scratch::new("mongo-ddl")?;
    let source = Mongo::start(&scratch, "rs", &MongoSetup::chosen()).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let client = source.client().await?;
    mongo_load::prepare(&client).await?;
    let moving = client.database("moving");
    for part in 0..20 {
        let row =
            |n: i32| doc! { "_id": part * 1000 + n, "n": n, "text": format!("{:x} ", i64::from(n) * 7919).repeat(200) };
        moving.collection("here").insert_many((0..1000).map(row)).await?;
    }
    let unchanged = pitr.json(["backup", SOURCE, "--no-wait"])?;
    let again = pitr.json(["backup", SOURCE, "--no-wait"])?;
    let (first, second) = (unchanged["stored_bytes"].as_u64().unwrap(), again["stored_bytes"].as_u64().unwrap());
    ensure!(second * 20 < first, "{first} bytes of a base, and {second} more of one of the same");

    let mut streaming = Streaming::start(&pitr)?;
    let stop = Arc::new(AtomicBool::new(false));
    let busy = tokio::spawn(change_definitions(client.clone(), Arc::clone(&stop)));
    for _ in 0..3 {
        pitr.run(["backup", SOURCE])?.ok()?;
    }
    stop.store(true, Ordering::Relaxed);
    let rounds = busy.await??;
    eprintln!("definitions changed {rounds} times meanwhile");
    change_compatibility(&client).await?;
    let truth = Truth::read(&client).await?;
    wait_for_archive(&pitr, truth.moments()?.last().unwrap().at).await?;
    streaming.stop()?;
    let target = Mongo::standalone(&scratch, "target").await?;
    let run = pitr.run(["restore", SOURCE, "--to", "latest", "--target-url", &target.url()])?;
    ensure!(matches!(run.code, Some(0 | 3)), "{run}");
    expect_equal(&source, &target).await
}

/// A large collection changes its name, others, views and indexes come and go, several times a second. Returns how often.
async fn change_definitions(client: Client, stop: Arc<AtomicBool>) -> Result<i32> {
    let (admin, moving) = (client.database("admin"), client.database("moving"));
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        let (from, to) = if round % 2 == 0 { ("here", "there") } else { ("there", "here") };
        let rename = doc! { "renameCollection": format!("moving.{from}"), "to": format!("moving.{to}") };
        admin.run_command(rename).await?;
        let all = moving.collection::<Document>(to);
        all.update_many(doc! { "n": round % 1000 }, doc! { "$inc": { "changed": 1 } }).await?;
        let (index, name) = (format!("i{}", round % 3), format!("of{}", round % 5));
        let index = doc! { "createIndexes": to, "indexes": [{ "key": { &index: 1 }, "name": &index }] };
        moving.run_command(index).await?;
        let other = client.database(&format!("db{}", round % 4));
        other.collection(&name).insert_one(doc! { "_id": 1 }).await?;
        other.run_command(doc! { "create": "view", "viewOn": &name, "pipeline": [] }).await?;
        other.run_command(doc! { "collMod": "view", "viewOn": "all", "pipeline": [] }).await?;
        other.collection::<Document>("view").drop().await?;
        if round % 7 == 0 {
            all.drop_index(format!("i{}", round % 3)).await?;
            other.drop().await?;
        } else {
            other.collection::<Document>(&name).drop().await?;
        }
        round += 1;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    Ok(round)
}

/// Down to the version before, and back.
async fn change_compatibility(client: &Client) -> Result<()> {
    let db = client.database("versions");
    let version = db.run_command(doc! { "buildInfo": 1 }).await?.get_str("version")?.to_owned();
    let steps = match version.split('.').next() {
        Some("4") => ["4.2", "4.4"],
        Some("5") => ["4.4", "5.0"],
        _ => ["5.0", "6.0"],
    };
    for step in steps {
        client.database("admin").run_command(doc! { "setFeatureCompatibilityVersion": step }).await?;
        db.collection("all").insert_one(doc! { "_id": step, "n": 1 }).await?;
        db.collection::<Document>("all").update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await?;
    }
    Ok(())
}
