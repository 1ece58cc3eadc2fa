//! The harness itself, without the program under test: PostgreSQL's own base backup and recovery must agree with the
//! oracle, or nothing that the oracle says of `pitr` counts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use anyhow::{Result, ensure};
use integration_tests::ledger::{self, Load};
use integration_tests::oracle::{self, Point, Target, Truth};
use integration_tests::seed::{generator, seed};
use integration_tests::waldump::format_lsn;
use integration_tests::{Azurite, Postgres, S3, Scratch, Setup};
use rand::RngExt;

#[tokio::test]
async fn the_oracle_agrees_with_the_servers_own_recovery() -> Result<()> {
    let seed = seed("harness");
    let scratch = Scratch::new("harness")?;
    let mut server = Postgres::create(&scratch, "primary", &Setup::default())?;
    let archive = scratch.make("wal")?;
    server.configure([format!("archive_command = 'cp %p {}/%f'", archive.display()).as_str()])?;
    server.start().await?;
    ledger::prepare(&server).await?;
    let start = server.value("SELECT pg_current_wal_insert_lsn()").await?;
    let base = scratch.path().join("base");
    let mut backup = server.program("pg_basebackup");
    backup.arg("-D").arg(&base).args(["-X", "none", "-c", "fast", "--no-sync", "-d", &server.url()]);
    ensure!(backup.output()?.status.success(), "pg_basebackup failed");
    let from = server.value("SELECT pg_current_wal_insert_lsn()").await?;
    ledger::run(&server, &Load { seed, round: 1, clients: 8, transactions: 40, marks: 3 }).await?;
    server.archive_everything().await?;
    let truth = Truth::read(&server, &start, &from).await?;
    server.stop().await?;

    let mut rng = generator(seed, 7);
    for number in 0..2 {
        let commit = &truth.log().commits[rng.random_range(20..truth.log().commits.len())];
        let keep = number == 0;
        let into = scratch.path().join(format!("r{number}"));
        ensure!(std::process::Command::new("cp").arg("-a").arg(&base).arg(&into).status()?.success(), "cp failed");
        let mut restored = Postgres::at(&scratch, &format!("r{number}.run"), 15, into.clone())?;
        restored.configure([
            "archive_mode = off",
            format!("restore_command = 'cp {}/%f %p'", archive.display()).as_str(),
            format!("recovery_target_lsn = '{}'", format_lsn(commit.begin)).as_str(),
            format!("recovery_target_inclusive = {keep}").as_str(),
        ])?;
        scratch.write(&format!("r{number}/recovery.signal"), "")?;
        let target = Target { point: Point::Lsn(commit.begin), keep };
        oracle::compare(&mut restored, &truth, &target).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_server_starts_again_with_all_that_it_acknowledged() -> Result<()> {
    let scratch = Scratch::new("crash")?;
    let mut server = Postgres::create(&scratch, "primary", &Setup::default())?;
    server.start().await?;
    server.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a").await?;
    server.kill()?;
    ensure!(!server.is_running()?, "still running");
    server.start().await?;
    assert_eq!(server.value("SELECT count(*) FROM t").await?, "1000");
    Ok(())
}

#[test]
fn the_object_stores_start() -> Result<()> {
    let scratch = Scratch::new("stores")?;
    let s3 = S3::start(&scratch)?;
    let azurite = Azurite::start(&scratch)?;
    assert!(s3.url().starts_with("s3://") && azurite.url().starts_with("az://"));
    Ok(())
}
