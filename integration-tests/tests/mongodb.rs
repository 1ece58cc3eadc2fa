//! A replica set through the program: tail, base, restore.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use anyhow::{Result, ensure};
use integration_tests::mongo_load::{self, Load};
use integration_tests::mongo_truth::{self, Truth};
use integration_tests::mongodb::expect_equal;
use integration_tests::seed::seed;
use integration_tests::{Mongo, MongoSetup, Pitr, SOURCE, Scratch, Streaming, wait_for_archive};

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
