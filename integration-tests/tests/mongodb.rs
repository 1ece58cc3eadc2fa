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
    let source = Mongo::start(&scratch, "rs", &MongoSetup::default()).await?;
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
