//! The PITR oracle through `pitr stream`: alone, and with the hook beside it, with kills of both sides and a failover.
//!
//! `PITR_TARGETS=100` checks more targets, `PITR_SEED` replays a run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use anyhow::{Result, ensure};
use integration_tests::ledger::{self, Load};
use integration_tests::oracle::{self, Truth};
use integration_tests::seed::{generator, seed};
use integration_tests::waldump::Log;
use integration_tests::{Pitr, Postgres, SOURCE, Scratch, Setup, Streamer};
use rand::RngExt;

struct Variant {
    name: &'static str,
    hook: bool,
    failover: bool,
    targets: usize,
}

#[tokio::test]
async fn every_target_restores_exactly_through_the_stream_alone_and_a_failover() -> Result<()> {
    run(&Variant { name: "streamed", hook: false, failover: true, targets: 6 }).await
}

#[tokio::test]
async fn every_target_restores_exactly_through_stream_and_hook_at_once() -> Result<()> {
    run(&Variant { name: "both", hook: true, failover: false, targets: 6 }).await
}

async fn run(variant: &Variant) -> Result<()> {
    let seed = seed(variant.name);
    let mut rng = generator(seed, 7);
    let scratch = Scratch::new(variant.name)?;
    let setup = Setup { segment_mib: 1, ..Setup::default() };
    let mut server = Postgres::create(&scratch, "primary", &setup)?;
    let pitr = Pitr::local(&scratch, &server)?;
    pitr.configure_source(["slot = \"pitr\""])?;
    if !variant.hook {
        // Tails in strips; beside the hook they are objects.
        pitr.configure_source(["flush_interval = \"0s\""])?;
    }
    match variant.hook {
        true => server.archive_with(&pitr)?,
        false => server.configure(["archive_mode = off"])?,
    }
    server.start().await?;
    pitr.run(["init"])?.ok()?;
    let mut streamer = Streamer::start(&scratch, &pitr)?;
    streamer.says("streaming").await?;
    ledger::prepare(&server).await?;
    let start = server.value("SELECT pg_current_wal_insert_lsn()").await?;
    pitr.run(["backup", SOURCE])?.ok()?;
    let from = server.value("SELECT pg_current_wal_insert_lsn()").await?;

    load(&server, seed, 1).await?;
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
    streamer.kill()?;
    streamer = Streamer::start(&scratch, &pitr)?;
    load(&server, seed, 2).await?;
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
    server.kill()?;
    server.start().await?;
    load(&server, seed, 3).await?;

    let mut log = None;
    if variant.failover {
        // The log of the first timeline is complete here; the second one follows.
        server.stop().await?;
        scratch.write("primary/standby.signal", "")?;
        server.start().await?;
        log = Some(Log::read(&server, &start)?);
        ensure!(server.value("SELECT pg_promote()").await? == "true", "not promoted\n{}", server.log_tail());
        load(&server, seed, 4).await?;
    }
    streamer.catches_up(&server).await?;
    let log = match log {
        Some(first) => first.then(Log::read_timeline(&server, 2, &switched_at(&server)?)?),
        None => Log::read(&server, &start)?,
    };
    let truth = Truth::of(&server, log, &from).await?;
    server.kill()?;
    eprintln!("{} commits, {} inversions", truth.log().commits.len(), truth.log().inversions());
    let count = std::env::var("PITR_TARGETS").ok().and_then(|n| n.parse().ok()).unwrap_or(variant.targets);
    for (number, target) in truth.targets(count, &mut generator(seed, 99))?.iter().enumerate() {
        oracle::check(&scratch, &pitr, &truth, target, setup.major, &format!("r{number}")).await?;
        eprintln!("{number:>3} {target:<46} exact");
    }
    Ok(())
}

async fn load(server: &Postgres, seed: u64, round: u32) -> Result<()> {
    ledger::run(server, &Load { seed, round, clients: 6, transactions: 25, marks: 3 }).await
}

/// Where timeline 2 began, from the server's own history file.
fn switched_at(server: &Postgres) -> Result<String> {
    let history = std::fs::read_to_string(server.data().join("pg_wal/00000002.history"))?;
    let at = history.split_whitespace().nth(1).map(str::to_owned);
    at.ok_or_else(|| anyhow::anyhow!("not understood: {history}"))
}
