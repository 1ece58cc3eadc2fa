//! What may happen to a replica set, and to `pitr`, at any moment.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bson::{Document, Timestamp, doc};
use integration_tests::mongo_load::{self, Load};
use integration_tests::mongo_truth::{self, Truth};
use integration_tests::mongodb::expect_equal;
use integration_tests::seed::{generator, seed};
use integration_tests::{Mongo, MongoSetup, Pitr, SOURCE, Scratch, Streaming, optime, wait_for_archive};
use mongodb::Client;
use rand::RngExt;

/// The newest entry of the log that this client's server has.
async fn newest(client: &Client) -> Result<Timestamp> {
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let last = oplog.find_one(doc! {}).sort(doc! { "$natural": -1 }).await?;
    Ok(last.unwrap().get_timestamp("ts")?)
}

async fn restored(scratch: &Scratch, pitr: &Pitr, name: &str) -> Result<Mongo> {
    let target = Mongo::standalone(scratch, name).await?;
    let run = pitr.run(["restore", SOURCE, "--to", "latest", "--target-url", &target.url()])?;
    ensure!(matches!(run.code, Some(0 | 3)), "{run}");
    Ok(target)
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_were_rolled_back_are_not_archived_and_tailing_survives_the_failover() -> Result<()> {
    let scratch = Scratch::new("mongo-failover")?;
    let mut source = Mongo::start(&scratch, "rs", &MongoSetup { members: 3, ..MongoSetup::chosen() }).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let first = source.primary().await?;
    let client = source.client().await?;
    let all = client.database("shop").collection::<Document>("all");
    all.insert_one(doc! { "_id": "before" }).await?;
    // From the very member that is going to lose its writes.
    let lonely = format!("mongodb://{}/?directConnection=true", source.member(first)?.host());
    let mut tail = Streaming::with_url(&pitr, &lonely)?;
    pitr.run(["backup", SOURCE])?.ok()?;
    all.insert_one(doc! { "_id": "kept" }).await?;
    wait_for_archive(&pitr, newest(&client).await?).await?;

    let others: Vec<usize> = (0..3).filter(|number| *number != first).collect();
    let alone = source.member(first)?.connect().await?;
    // Gone, and not only halted: what is on its way to a halted member still arrives once it goes on.
    for number in &others {
        source.member_mut(*number)?.kill()?;
    }
    let doomed = doc! { "insert": "all", "documents": [{ "_id": "doomed" }], "writeConcern": { "w": 1 } };
    alone.database("shop").run_command(doomed).await?;
    // Time enough for a tail that would take what no majority has.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let lost = newest(&alone).await?;
    pitr.run(["plan", SOURCE, "--to", &optime(lost)])?.with_code(4)?;
    source.member_mut(first)?.kill()?;
    tail.stop()?;
    for number in &others {
        source.member_mut(*number)?.launch()?;
    }
    source.primary().await?;
    let mut tail = Streaming::start(&pitr)?;
    all.insert_one(doc! { "_id": "after" }).await?;
    source.member_mut(first)?.launch()?;
    source.member(first)?.wait().await?;
    // The member has found out that its history is not that of the set.
    let begun = Instant::now();
    while fs::read_dir(source.member(first)?.home().join("rollback")).is_err() {
        ensure!(begun.elapsed() < Duration::from_secs(60), "no write was rolled back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    all.insert_one(doc! { "_id": "at the end" }).await?;
    let primary = source.member(source.primary().await?)?.connect().await?;
    wait_for_archive(&pitr, newest(&primary).await?).await?;
    tail.stop()?;

    let target = restored(&scratch, &pitr, "target").await?;
    let found = target.client().await?.database("shop").collection::<Document>("all");
    let mut ids: Vec<String> = Vec::new();
    for document in integration_tests::mongodb::documents(&found).await? {
        ids.push(document.get_str("_id")?.to_owned());
    }
    ensure!(ids == ["after", "at the end", "before", "kept"], "{ids:?}");
    let lineages = pitr.json(["list", SOURCE])?["lineages"].as_array().map_or(0, Vec::len);
    ensure!(lineages == 1, "the failover began {lineages} histories: {}", pitr.run(["list", SOURCE])?);
    let status = pitr.json(["status", SOURCE])?;
    ensure!(!status.to_string().contains("removed_by_server"), "{status}");
    Ok(())
}

/// A set of three that is streamed, and the member that is read.
async fn tailed(scratch: &Scratch) -> Result<(Mongo, Pitr, Streaming, String)> {
    let source = Mongo::start(scratch, "rs", &MongoSetup { members: 3, ..MongoSetup::chosen() }).await?;
    let pitr = Pitr::of_engine(scratch, "mongodb", &source.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let client = source.client().await?;
    client.database("shop").collection::<Document>("all").insert_one(doc! { "_id": "before" }).await?;
    let tail = Streaming::start(&pitr)?;
    let member = pitr.json(["backup", SOURCE])?["member"].as_str().unwrap().to_owned();
    wait_for_archive(&pitr, newest(&client).await?).await?;
    Ok((source, pitr, tail, member))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_stands_still_is_left_for_another_one() -> Result<()> {
    let scratch = Scratch::new("mongo-still")?;
    let (source, pitr, tail, member) = tailed(&scratch).await?;
    let all = source.client().await?.database("shop").collection::<Document>("all");
    // It answers, and takes nothing from the others any more.
    let primary = source.primary().await?;
    let read = (0..3).find(|number| source.member(*number).is_ok_and(|m| m.host() == member)).unwrap();
    ensure!(read != primary, "the primary is read");
    source.member(read)?.connect().await?.database("admin").run_command(doc! { "fsync": 1, "lock": true }).await?;
    all.insert_one(doc! { "_id": "after" }).await?;
    let written = newest(&source.member(primary)?.connect().await?).await?;
    tail.wait_for_log("stands still").await?;
    wait_for_archive(&pitr, written).await?;
    // A base is not taken from it either.
    let other = pitr.json(["backup", SOURCE])?["member"].as_str().unwrap().to_owned();
    ensure!(other != member, "{member} was read");
    Ok(())
}

/// The member that is read answers, and has nothing new: whoever tails it sees a set at which nothing happens.
#[tokio::test(flavor = "multi_thread")]
async fn a_set_without_a_primary_does_not_pass_for_an_idle_one() -> Result<()> {
    let scratch = Scratch::new("mongo-headless")?;
    let (mut source, pitr, tail, read) = tailed(&scratch).await?;
    let others: Vec<usize> = (0..3).filter(|number| source.member(*number).is_ok_and(|m| m.host() != read)).collect();
    for number in &others {
        source.member_mut(*number)?.kill()?;
    }
    tail.wait_for_log("and no note can be written into the oplog").await?;
    for number in &others {
        source.member_mut(*number)?.launch()?;
    }
    let client = source.client().await?;
    let all = client.database("shop").collection::<Document>("all");
    all.insert_one(doc! { "_id": "after" }).await?;
    wait_for_archive(&pitr, newest(&client).await?).await?;
    Ok(())
}

/// Reads are answered, and no note ever: so a server of 4.4.2 looked that hung by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_answers_no_note_does_not_pass_for_an_idle_one() -> Result<()> {
    let scratch = Scratch::new("mongo-hung")?;
    let parameter = |setting: &str| ["--setParameter", setting].map(str::to_owned);
    let arguments = [parameter("enableTestCommands=1"), parameter("writePeriodicNoops=false")].concat();
    let source = Mongo::start(&scratch, "rs", &MongoSetup { arguments, ..MongoSetup::chosen() }).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let tail = Streaming::start(&pitr)?;
    let data = doc! { "failCommands": ["appendOplogNote"], "blockConnection": true, "blockTimeMS": 40_000 };
    let hang = doc! { "configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data };
    source.client().await?.database("admin").run_command(hang).await?;
    tail.wait_for_log("no note can be written into the oplog: the primary does not answer").await
}

#[tokio::test(flavor = "multi_thread")]
async fn log_that_the_set_removed_is_a_gap_that_blocks_what_crosses_it() -> Result<()> {
    let scratch = Scratch::new("mongo-rollover")?;
    let setup = MongoSetup { oplog_mib: 16, ..MongoSetup::chosen() };
    let source = Mongo::start(&scratch, "rs", &setup).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let client = source.client().await?;
    let all = client.database("shop").collection::<Document>("all");
    all.insert_one(doc! { "_id": "before" }).await?;
    let mut tail = Streaming::start(&pitr)?;
    pitr.run(["backup", SOURCE])?.ok()?;
    all.insert_one(doc! { "_id": "archived" }).await?;
    let known = newest(&client).await?;
    wait_for_archive(&pitr, known).await?;
    tail.stop()?;

    let begun = Instant::now();
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    // Once more than half of what the log reaches back is not archived, a stream that begins says so.
    let oldest = oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await?.unwrap().get_timestamp("ts")?;
    loop {
        let behind = newest(&client).await?.time - known.time;
        if behind > 12 && behind > known.time - oldest.time + 1 {
            break;
        }
        client.database("admin").run_command(doc! { "appendOplogNote": 1, "data": {} }).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let mut tail = Streaming::start(&pitr)?;
    tail.wait_for_log("more before log is lost: enlarge it with replSetResizeOplog").await?;
    let known = newest(&client).await?;
    wait_for_archive(&pitr, known).await?;
    tail.stop()?;
    // Servers cut the log from time to time, in the background.
    while oplog.find_one(doc! {}).sort(doc! { "$natural": 1 }).await?.unwrap().get_timestamp("ts")? <= known {
        ensure!(begun.elapsed() < Duration::from_secs(120), "the oplog does not roll over");
        let rows = (0..50).map(|n| doc! { "n": n, "text": "x".repeat(100_000) });
        all.insert_many(rows).await?;
    }
    let _tail = Streaming::start(&pitr)?;
    let crossing = loop {
        let status = pitr.json(["status", SOURCE])?.to_string();
        if status.contains("removed") {
            break newest(&client).await?;
        }
        ensure!(begun.elapsed() < Duration::from_secs(180), "no gap in {status}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let refused = pitr.run(["plan", SOURCE, "--to", &optime(crossing)])?.with_code(4)?;
    ensure!(refused.stderr.contains("removed by the server"), "{refused}");
    let kept = pitr.run(["plan", SOURCE, "--to", &optime(known)])?;
    ensure!(matches!(kept.code, Some(0 | 3)), "{kept}");
    // A new base makes what comes after it restorable again.
    pitr.run(["backup", SOURCE])?.ok()?;
    all.insert_one(doc! { "_id": "after" }).await?;
    wait_for_archive(&pitr, newest(&client).await?).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_streams_and_killed_restores_go_on_where_they_were() -> Result<()> {
    let seed = seed("mongo_kills");
    let mut rng = generator(seed, 7);
    let scratch = Scratch::new("mongo-kills")?;
    let mut source = Mongo::start(&scratch, "rs", &MongoSetup::chosen()).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let client = source.client().await?;
    mongo_load::prepare(&client).await?;
    let mut tail = Streaming::start(&pitr)?;
    pitr.run(["backup", SOURCE])?.ok()?;
    for round in 1..5 {
        mongo_load::run(&client, Load { seed, round, clients: 3, steps: 40 }).await?;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..1500))).await;
        tail.kill()?;
        if round == 2 {
            source.member_mut(0)?.kill()?;
            source.member_mut(0)?.launch()?;
            source.primary().await?;
        }
        tail = Streaming::start(&pitr)?;
    }
    let truth = Truth::read(&client).await?;
    wait_for_archive(&pitr, truth.moments()?.last().unwrap().at).await?;
    tail.stop()?;

    let target = Mongo::standalone(&scratch, "target").await?;
    let url = target.url();
    let args = ["restore", SOURCE, "--to", "latest", "--target-url", &url];
    for _ in 0..4 {
        let mut restore = pitr.spawn(args)?;
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..1500))).await;
        restore.kill()?;
        if restore.wait()?.success() {
            break;
        }
    }
    let run = pitr.run(args)?;
    // One of those that were to be killed may have been faster.
    ensure!(matches!(run.code, Some(0 | 3)) || run.stderr.contains("not empty"), "{run}");
    mongo_truth::compare(&truth.state(|_| true)?, &mongo_truth::content(&target.client().await?).await?)?;
    expect_equal(&source, &target).await?;

    // With a server of its own, which outlives a killed restore.
    let dir = scratch.path().join("into");
    let server = source.member(0)?;
    let into = || {
        let mut command = pitr.command(["restore", SOURCE, "--to", "latest", "--into"]);
        server.lend(command.arg(&dir));
        command
    };
    for _ in 0..3 {
        let mut restore = into().stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        tokio::time::sleep(Duration::from_millis(rng.random_range(300..3000))).await;
        restore.kill()?;
        restore.wait()?;
    }
    let run = Pitr::finish(into())?;
    // One of them may have been faster, or may have been killed when all was done but the end of its server.
    let faster = run.stderr.contains("not empty") && !dir.join("pitr.unfinished").exists();
    ensure!(matches!(run.code, Some(0 | 3)) || run.stderr.contains("was complete") || faster, "{run}");
    expect_equal(&source, &Mongo::on_directory(&scratch, &dir).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_can_be_restored_within_seconds_and_an_idle_set_stays_current() -> Result<()> {
    let scratch = Scratch::new("mongo-idle")?;
    let source = Mongo::start(&scratch, "rs", &MongoSetup::chosen()).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let client = source.client().await?;
    client.database("shop").collection("all").insert_one(doc! { "_id": 1 }).await?;
    let _tail = Streaming::start(&pitr)?;
    pitr.run(["backup", SOURCE])?.ok()?;
    wait_for_archive(&pitr, newest(&client).await?).await?;
    client.database("shop").collection("all").insert_one(doc! { "_id": 2 }).await?;
    let begun = Instant::now();
    wait_for_archive(&pitr, newest(&client).await?).await?;
    eprintln!("durable and planned after {:?}", begun.elapsed());
    ensure!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // Nobody writes: a moment after the last write becomes restorable all the same.
    let moment = chrono::Utc::now();
    let idle = Instant::now();
    while !matches!(pitr.run(["plan", SOURCE, "--to", &moment.to_rfc3339()])?.code, Some(0 | 3)) {
        ensure!(idle.elapsed() < Duration::from_secs(20), "the archive does not learn that nothing happened");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    eprintln!("an idle moment is restorable after {:?}", idle.elapsed());
    Ok(())
}
