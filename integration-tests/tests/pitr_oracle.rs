//! Random targets of every form against the server's own log: the rows of a restore must be exactly those of the
//! transactions before the cut.
//!
//! `PITR_TARGETS=100` checks more of them, `PITR_SEED` replays a run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use anyhow::{Result, ensure};
use integration_tests::ledger::{self, Load};
use integration_tests::oracle::{self, Truth};
use integration_tests::seed::{generator, seed};
use integration_tests::waldump::Log;
use integration_tests::{Pitr, Postgres, Scratch, Setup};

/// Round of the first storm, after those of the loads.
const FIRST_STORM: u32 = 10;
/// For how long storms are tried.
const STORMS: std::time::Duration = std::time::Duration::from_secs(60);

struct Variant {
    name: &'static str,
    encrypted: bool,
    segment_mib: u32,
    targets: usize,
}

#[tokio::test]
async fn every_target_restores_exactly_the_rows_of_the_servers_own_order_encrypted() -> Result<()> {
    run(&Variant { name: "oracle", encrypted: true, segment_mib: 16, targets: 12 }).await
}

#[tokio::test]
async fn every_target_restores_exactly_the_rows_of_the_servers_own_order_plain_with_small_segments() -> Result<()> {
    run(&Variant { name: "plain", encrypted: false, segment_mib: 1, targets: 4 }).await
}

async fn run(variant: &Variant) -> Result<()> {
    let seed = seed(variant.name);
    let scratch = Scratch::new(variant.name)?;
    // Commits that wait for a place in the log overtake each other: their times come out of order.
    let config = vec!["wal_buffers = 32kB".to_owned()];
    let setup = Setup { segment_mib: variant.segment_mib, config, ..Setup::default() };
    let mut server = Postgres::create(&scratch, "primary", &setup)?;
    let pitr = Pitr::in_directory(&scratch, &server, variant.encrypted)?;
    server.archive_with(&pitr)?;
    server.start().await?;
    pitr.run(["init"])?.ok()?;
    ledger::prepare(&server).await?;

    let start = server.value("SELECT pg_current_wal_insert_lsn()").await?;
    pitr.run(["backup", "main"])?.ok()?;
    let from = server.value("SELECT pg_current_wal_insert_lsn()").await?;
    load(&server, seed, 1).await?;
    // A second base under load, and an idle stretch that targets may fall into.
    let (busy, backup) = tokio::join!(load(&server, seed, 2), backup_meanwhile(&pitr));
    busy?;
    backup?;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    load(&server, seed, 3).await?;
    invert(&server, &from).await?;
    server.archive_everything().await?;

    let truth = Truth::read(&server, &start, &from).await?;
    eprintln!("{} commits, {} inversions", truth.log().commits.len(), truth.log().inversions());
    server.stop().await?;
    let count = std::env::var("PITR_TARGETS").ok().and_then(|n| n.parse().ok()).unwrap_or(variant.targets);
    let targets = truth.targets(count, &mut generator(seed, 99))?;
    ensure!(targets.len() == count, "only {} targets", targets.len());
    let inverted = targets.iter().map(|target| truth.is_inverted(target)).collect::<Result<Vec<_>>>()?;
    ensure!(inverted.contains(&true), "no target falls to where the clock goes backwards in the log");
    for (number, target) in targets.iter().enumerate() {
        let begun = std::time::Instant::now();
        oracle::check(&scratch, &pitr, &truth, target, setup.major, &format!("r{number}")).await?;
        eprintln!("{number:>3} {target:<46} exact, {:.1} s", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

async fn load(server: &Postgres, seed: u64, round: u32) -> Result<()> {
    ledger::run(server, &Load { seed, round, clients: 8, transactions: 40, marks: 5 }).await
}

/// Storms until the log has two neighbours whose times are the other way round: about one commit in some thousands.
async fn invert(server: &Postgres, from: &str) -> Result<()> {
    let begun = std::time::Instant::now();
    for round in FIRST_STORM.. {
        ledger::storm(server, round).await?;
        let end = server.value("SELECT pg_current_wal_flush_lsn()").await?;
        if Log::read_until(server, from, &end)?.inversions() > 0 {
            return Ok(());
        }
        ensure!(begun.elapsed() < STORMS, "{} storms, and every commit has its place", round - FIRST_STORM + 1);
    }
    Ok(())
}

/// On a thread of its own: the load goes on meanwhile.
async fn backup_meanwhile(pitr: &Pitr) -> Result<()> {
    let pitr = pitr.clone();
    tokio::task::spawn_blocking(move || pitr.run(["backup", "main"])?.ok()).await?.map(drop)
}
