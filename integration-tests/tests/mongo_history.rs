//! One history or two, whole or with a hole: what the archive is told of it, and what a restore makes of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bson::{Document, Timestamp, doc};
use integration_tests::mongo_truth::{self, Truth};
use integration_tests::mongodb::{documents, expect_equal};
use integration_tests::{Mongo, MongoSetup, Pitr, SOURCE, Scratch, Streaming, optime, succeed, wait_for_archive};
use mongodb::{Client, ClientSession};

async fn newest(client: &Client) -> Result<Timestamp> {
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let last = oplog.find_one(doc! {}).sort(doc! { "$natural": -1 }).await?;
    Ok(last.unwrap().get_timestamp("ts")?)
}

async fn restored(scratch: &Scratch, pitr: &Pitr, name: &str, options: &[&str]) -> Result<Mongo> {
    let target = Mongo::standalone(scratch, name).await?;
    let url = target.url();
    let mut args = vec!["restore", SOURCE, "--target-url", &url];
    args.extend(options);
    let run = pitr.run(args)?;
    ensure!(matches!(run.code, Some(0 | 3)), "{run}");
    Ok(target)
}

async fn ids(server: &Mongo) -> Result<Vec<String>> {
    let all = server.client().await?.database("shop").collection::<Document>("all");
    documents(&all).await?.iter().map(|document| Ok(document.get_str("_id")?.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_was_put_back_begins_a_new_history_and_the_old_one_stays() -> Result<()> {
    let scratch = Scratch::new("mongo-fork")?;
    let mut source = Mongo::start(&scratch, "rs", &MongoSetup::chosen()).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), true)?;
    pitr.run(["init"])?.ok()?;
    let client = source.client().await?;
    let all = client.database("shop").collection::<Document>("all");
    let mut tail = Streaming::start(&pitr)?;
    pitr.run(["backup", SOURCE])?.ok()?;
    all.insert_one(doc! { "_id": "common" }).await?;
    wait_for_archive(&pitr, newest(&client).await?).await?;
    tail.stop()?;

    // A snapshot of the volume, a write that is archived, and the snapshot put back.
    let home = source.member(0)?.home().to_path_buf();
    let copy = home.with_extension("copy");
    source.member_mut(0)?.stop()?;
    succeed(Command::new("cp").arg("-a").arg(&home).arg(&copy))?;
    source.member_mut(0)?.launch()?;
    source.primary().await?;
    let mut tail = Streaming::start(&pitr)?;
    all.insert_one(doc! { "_id": "lost" }).await?;
    let lost = newest(&client).await?;
    wait_for_archive(&pitr, lost).await?;
    tail.stop()?;
    source.member_mut(0)?.stop()?;
    fs::remove_dir_all(&home)?;
    fs::rename(&copy, &home)?;
    source.member_mut(0)?.launch()?;
    source.primary().await?;

    all.insert_one(doc! { "_id": "other" }).await?;
    let mut tail = Streaming::start(&pitr)?;
    wait_for_archive(&pitr, newest(&client).await?).await?;
    tail.stop()?;
    let list = pitr.json(["list", SOURCE])?;
    let lineages: Vec<String> =
        list["lineages"].as_array().unwrap().iter().map(|l| l["id"].as_str().unwrap().to_owned()).collect();
    ensure!(lineages.len() == 2, "{list:#}");
    let target = restored(&scratch, &pitr, "new", &["--to", "latest"]).await?;
    ensure!(ids(&target).await? == ["common", "other"]);
    let target = restored(&scratch, &pitr, "old", &["--to", &optime(lost), "--lineage", &lineages[0]]).await?;
    ensure!(ids(&target).await? == ["common", "lost"]);
    pitr.run(["verify", SOURCE])?.ok().map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_missing_between_others_is_fetched_again_while_the_set_has_it() -> Result<()> {
    let scratch = Scratch::new("mongo-hole")?;
    let source = Mongo::start(&scratch, "rs", &MongoSetup::chosen()).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let client = source.client().await?;
    let all = client.database("shop").collection::<Document>("all");
    all.insert_one(doc! { "_id": "first" }).await?;
    let mut tail = Streaming::start(&pitr)?;
    pitr.run(["backup", SOURCE])?.ok()?;
    for n in 0..60 {
        all.insert_one(doc! { "_id": format!("{n:03}"), "text": "x".repeat(1 << 20) }).await?;
    }
    let end = newest(&client).await?;
    wait_for_archive(&pitr, end).await?;
    tail.stop()?;

    // As a writer leaves it that is killed with two segments on their way.
    let mut segments = Vec::new();
    files(pitr.archive()?, &mut segments)?;
    segments.retain(|path| path.to_string_lossy().contains("/log/"));
    segments.sort();
    ensure!(segments.len() >= 3, "{segments:?}");
    fs::remove_file(&segments[1])?;
    let tails = segments[1].to_string_lossy().replace("/log/", "/tail/");
    if let Err(error) = fs::remove_dir_all(&tails) {
        ensure!(error.kind() == std::io::ErrorKind::NotFound, "{tails}: {error}");
    }
    pitr.run(["plan", SOURCE, "--to", &optime(end)])?.with_code(4)?;

    let mut tail = Streaming::start(&pitr)?;
    all.insert_one(doc! { "_id": "last" }).await?;
    wait_for_archive(&pitr, newest(&client).await?).await?;
    tail.stop()?;
    ensure!(fs::exists(&segments[1])?, "{:?} was not fetched again", segments[1]);
    let target = restored(&scratch, &pitr, "target", &["--to", "latest"]).await?;
    expect_equal(&source, &target).await
}

/// All files below a directory.
fn files(dir: &std::path::Path, found: &mut Vec<std::path::PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        match path.is_dir() {
            true => files(&path, found)?,
            false => found.push(path),
        }
    }
    Ok(())
}

/// A transaction that waits for its decision, as a shard holds one that others take part in.
struct Prepared {
    session: ClientSession,
    at: Timestamp,
}

impl Prepared {
    async fn begin(client: &Client, ids: &[&str]) -> Result<Self> {
        let mut session = client.start_session().await?;
        session.start_transaction().await?;
        let all = client.database("shop").collection::<Document>("all");
        for id in ids {
            all.insert_one(doc! { "_id": id }).session(&mut session).await?;
        }
        let prepare = doc! { "prepareTransaction": 1, "writeConcern": { "w": "majority" } };
        let answer = client.database("admin").run_command(prepare).session(&mut session).await?;
        Ok(Self { session, at: answer.get_timestamp("prepareTimestamp")? })
    }

    async fn commit(mut self, client: &Client) -> Result<()> {
        let commit = doc! { "commitTransaction": 1, "commitTimestamp": self.at };
        client.database("admin").run_command(commit).session(&mut self.session).await?;
        Ok(())
    }

    async fn abort(mut self) -> Result<()> {
        Ok(self.session.abort_transaction().await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_being_built_while_a_base_is_taken_comes_only_if_it_is_completed() -> Result<()> {
    let scratch = Scratch::new("mongo-building")?;
    let arguments = ["--setParameter", "enableTestCommands=1"].map(str::to_owned).to_vec();
    let source = Mongo::start(&scratch, "rs", &MongoSetup { arguments, ..MongoSetup::chosen() }).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let client = source.client().await?;
    let shop = client.database("shop");
    for name in ["whole", "twice"] {
        shop.collection("all").insert_one(doc! { "_id": name, "a": name, "b": 1 }).await?;
    }
    let mut tail = Streaming::start(&pitr)?;
    let pause = |mode: &str| doc! { "configureFailPoint": "hangAfterStartingIndexBuild", "mode": mode };
    client.database("admin").run_command(pause("alwaysOn")).await?;
    let build = |field: &str| {
        let index = doc! { "key": { field: 1 }, "name": field, "unique": true };
        let (shop, command) = (shop.clone(), doc! { "createIndexes": "all", "indexes": [index] });
        tokio::spawn(async move { shop.run_command(command).await })
    };
    let (possible, impossible) = (build("a"), build("b"));
    let listed = doc! { "listIndexes": "all" };
    while shop.run_command(listed.clone()).await?.get_document("cursor")?.get_array("firstBatch")?.len() < 3 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    pitr.run(["backup", SOURCE])?.ok()?;
    let during = newest(&client).await?;
    client.database("admin").run_command(pause("off")).await?;
    possible.await??;
    ensure!(impossible.await?.is_err(), "two documents have one value");
    wait_for_archive(&pitr, newest(&client).await?).await?;
    tail.stop()?;
    let target = restored(&scratch, &pitr, "during", &["--to", &optime(during)]).await?;
    ensure!(target.catalog("shop").await?[0].get_array("indexes")?.len() == 1, "{:?}", target.catalog("shop").await?);
    let target = restored(&scratch, &pitr, "target", &["--to", "latest"]).await?;
    expect_equal(&source, &target).await
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_transactions_are_whole_from_their_commit_on_and_absent_before() -> Result<()> {
    let scratch = Scratch::new("mongo-prepared")?;
    let arguments = ["--setParameter", "enableTestCommands=1"].map(str::to_owned).to_vec();
    let source = Mongo::start(&scratch, "rs", &MongoSetup { arguments, ..MongoSetup::chosen() }).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let client = source.client().await?;
    let all = client.database("shop").collection::<Document>("all");
    all.insert_one(doc! { "_id": "first" }).await?;
    let mut tail = Streaming::start(&pitr)?;

    // Open while the base is taken: its operations stand in the log before the base.
    let spanning = Prepared::begin(&client, &["spanning 1", "spanning 2"]).await?;
    pitr.run(["backup", SOURCE])?.ok()?;
    let never = Prepared::begin(&client, &["never"]).await?;
    let late = Prepared::begin(&client, &["late"]).await?;
    all.insert_one(doc! { "_id": "between" }).await?;
    let before = newest(&client).await?;
    spanning.commit(&client).await?;
    never.abort().await?;
    all.insert_one(doc! { "_id": "after" }).await?;
    let open = newest(&client).await?;
    late.commit(&client).await?;
    let end = newest(&client).await?;
    wait_for_archive(&pitr, end).await?;
    tail.stop()?;

    let truth = Truth::read(&client).await?;
    for (number, (cut, expected)) in [
        (before, vec!["between", "first"]),
        (open, vec!["after", "between", "first", "spanning 1", "spanning 2"]),
        (end, vec!["after", "between", "first", "late", "spanning 1", "spanning 2"]),
    ]
    .into_iter()
    .enumerate()
    {
        let target = restored(&scratch, &pitr, &format!("t{number}"), &["--to", &optime(cut)]).await?;
        ensure!(ids(&target).await? == expected, "{:?} instead of {expected:?}", ids(&target).await?);
        let state = truth.state(|moment| moment.at <= cut)?;
        mongo_truth::compare(&state, &mongo_truth::content(&target.client().await?).await?)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_nobody_knows_is_archived_and_refused_when_a_restore_is_planned_over_it() -> Result<()> {
    let scratch = Scratch::new("mongo-unknown")?;
    let mut source = Mongo::start(&scratch, "rs", &MongoSetup::chosen()).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let client = source.client().await?;
    let all = client.database("shop").collection::<Document>("all");
    let mut tail = Streaming::start(&pitr)?;
    pitr.run(["backup", SOURCE])?.ok()?;
    all.insert_one(doc! { "_id": "before" }).await?;
    let before = newest(&client).await?;
    wait_for_archive(&pitr, before).await?;
    tail.stop()?;

    let note = |fill: usize| doc! { "foldCollection": "all", "fill": "x".repeat(fill) };
    let command = "shop.$cmd";
    client.database("admin").run_command(doc! { "appendOplogNote": 1, "data": note(command.len()) }).await?;
    all.insert_one(doc! { "_id": "after" }).await?;
    let after = newest(&client).await?;
    source.member_mut(0)?.stop()?;
    // The note is made a command, as a later version of the server might write one: only a server that is of no set lets
    // its log be changed, and only to something of the same size.
    let mut alone = Mongo::on_directory(&scratch, source.member(0)?.home()).await?;
    let oplog = alone.client().await?.database("local").collection::<Document>("oplog.rs");
    let change = doc! { "$set": { "op": "c", "ns": command, "o": note(0) } };
    let changed = oplog.update_one(doc! { "o.foldCollection": "all" }, change).await?;
    ensure!(changed.modified_count == 1, "{changed:?}");
    alone.member_mut(0)?.stop()?;
    source.member_mut(0)?.launch()?;
    source.primary().await?;

    let mut tail = Streaming::start(&pitr)?;
    let begun = std::time::Instant::now();
    let refused = loop {
        let run = pitr.run(["plan", SOURCE, "--to", &optime(after)])?;
        if run.text().contains("foldCollection") {
            break run.with_code(4)?;
        }
        ensure!(begun.elapsed() < std::time::Duration::from_secs(60), "{run}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    };
    tail.stop()?;
    ensure!(refused.stderr.contains("does not know it"), "{refused}");
    let log = fs::read_to_string(pitr.config().with_file_name("stream.log"))?;
    ensure!(log.contains("foldCollection"), "the stream did not warn: {log}");
    let target = Mongo::standalone(&scratch, "target").await?;
    pitr.run(["restore", SOURCE, "--to", "latest", "--target-url", &target.url()])?.with_code(4)?;
    ensure!(target.client().await?.list_database_names().await?.iter().all(|name| name != "pitr_restore"));
    let target = restored(&scratch, &pitr, "until", &["--to", &optime(before)]).await?;
    ensure!(ids(&target).await? == ["before"]);
    Ok(())
}
