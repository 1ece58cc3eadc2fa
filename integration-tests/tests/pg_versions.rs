//! Every version of PostgreSQL: a base, the hook, the stream, and a restore from what both made.
//!
//! `PITR_ROUNDS=5` writes that much more on each.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use integration_tests::oracle::wait_for_pause;
use integration_tests::{Pitr, Postgres, SOURCE, Scratch, Setup, Streamer, has_postgres};

async fn version(major: u32) -> Result<()> {
    if !has_postgres(major) {
        eprintln!("PostgreSQL {major} is not installed: cargo xtask servers --all");
        return Ok(());
    }
    let rounds: i32 = std::env::var("PITR_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let scratch = Scratch::new(&format!("pg{major}"))?;
    let setup = Setup { major, segment_mib: 1, ..Setup::default() };
    let mut server = Postgres::create(&scratch, "primary", &setup)?;
    let pitr = Pitr::local(&scratch, &server)?;
    pitr.configure_source(["slot = \"pitr\""])?;
    server.archive_with(&pitr)?;
    server.start().await?;
    pitr.run(["init"])?.ok()?;
    server.execute("CREATE TABLE step (n int)").await?;
    pitr.run(["backup", SOURCE])?.ok()?;
    // First the hook alone, then the stream beside it, and at the end the stream's tail alone.
    server.execute("INSERT INTO step SELECT 1 FROM generate_series(1, 20000)").await?;
    server.archive_everything().await?;
    let streamer = Streamer::start(&scratch, &pitr)?;
    streamer.says("streaming").await?;
    for round in 0..rounds {
        server.execute(&format!("INSERT INTO step SELECT {} FROM generate_series(1, 20000)", 2 + round)).await?;
    }
    streamer.catches_up(&server).await?;
    let expected: BTreeSet<i32> = (1..2 + rounds).collect();
    server.kill()?;
    let into = scratch.path().join("restored");
    pitr.run(["restore", SOURCE, "--to", "latest", "--into", &into.to_string_lossy()])?.ok()?;
    let mut restored = Postgres::at(&scratch, "restored.run", major, into)?;
    restored.start().await?;
    wait_for_pause(&mut restored).await?;
    let rows = restored.connect().await?.query("SELECT DISTINCT n FROM step", &[]).await?;
    let found = rows.iter().map(|row| Ok(row.try_get(0)?)).collect::<Result<BTreeSet<i32>>>()?;
    ensure!(found == expected, "{found:?} instead of {expected:?}");
    Ok(())
}

#[tokio::test]
async fn version_13_is_streamed_and_restored() -> Result<()> {
    version(13).await
}

#[tokio::test]
async fn version_14_is_streamed_and_restored() -> Result<()> {
    version(14).await
}

#[tokio::test]
async fn version_16_is_streamed_and_restored() -> Result<()> {
    version(16).await
}

#[tokio::test]
async fn version_17_is_streamed_and_restored() -> Result<()> {
    version(17).await
}

#[tokio::test]
async fn version_18_is_streamed_and_restored() -> Result<()> {
    version(18).await
}
