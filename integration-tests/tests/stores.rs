//! Real object stores: the contract of the store, the way from `init` to a restored server, and a store that goes away.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration_tests::ledger::{self, Content, Load};
use integration_tests::seed::seed;
use integration_tests::{Azurite, Pitr, Postgres, Restored, S3, SOURCE, Scratch, Setup};
use object_store::prefix::PrefixStore;
use pitr_archive::{Retry, Store};
use pitr_testkit::faulty_store::{Faults, FaultyStore};
use pitr_testkit::store_contract::store_contract;

/// Repeats quickly: the faults on purpose pass at once.
const PATIENT: Retry = Retry {
    first_pause: Duration::from_micros(200),
    max_pause: Duration::from_millis(2),
    deadline: Duration::from_secs(60),
};

#[tokio::test]
async fn an_s3_server_keeps_the_contract_also_behind_faults() -> Result<()> {
    let scratch = Scratch::new("s3-contract")?;
    let s3 = S3::start(&scratch)?;
    let login = [("access_key_id", "test"), ("secret_access_key", "test")];
    keeps_the_contract(&s3.url(), s3.options(), &login).await
}

#[tokio::test]
async fn an_azure_server_keeps_the_contract_also_behind_faults() -> Result<()> {
    let scratch = Scratch::new("az-contract")?;
    let azurite = Azurite::start(&scratch)?;
    let (_, key) = azurite.environment().pop().context("no login")?;
    keeps_the_contract(&azurite.url(), azurite.options(), &[("account_key", &key)]).await
}

/// Every run of the suite has a root of its own, since a run begins where no archive is.
async fn keeps_the_contract(url: &str, options: Vec<(String, String)>, login: &[(&str, &str)]) -> Result<()> {
    let login = login.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let options = options.into_iter().chain(login).collect();
    store_contract(&Store::open(&format!("{url}/clean"), &options)?, "clean").await?;
    let seed = seed("contract");
    for round in 0..3 {
        let store = Store::open(&format!("{url}/faulty-{round}"), &options)?;
        let faults = Faults::Random { rate: 0.1, seed: seed.wrapping_add(round) };
        let faulty = Arc::new(FaultyStore::new(store.object_store(), faults));
        let below_root = PrefixStore::new(faulty.clone(), store.root().clone());
        store_contract(&Store::from_object_store(Arc::new(below_root)).with_retry(PATIENT), "faulty").await?;
        ensure!(faulty.calls() > 50, "only {} calls went through the faulty store", faulty.calls());
    }
    Ok(())
}

#[tokio::test]
async fn an_s3_bucket_that_does_not_exist_is_no_archive() -> Result<()> {
    let scratch = Scratch::new("s3-bucket")?;
    let s3 = S3::start(&scratch)?;
    let login = [("access_key_id", "test"), ("secret_access_key", "test")];
    let login = login.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let store = Store::open("s3://pitr-no-such-bucket/archive", &s3.options().into_iter().chain(login).collect())?;
    // Never "absent": the server says "not found" for a missing bucket, too.
    ensure!(matches!(store.get("s/x/log/a").await, Err(pitr_archive::Error::NoArchive { .. })));
    ensure!(matches!(store.list("s/x").await, Err(pitr_archive::Error::NoArchive { .. })));
    let created = store.create("archive", Vec::new()).await;
    ensure!(matches!(created, Err(pitr_archive::Error::NoArchive { .. })), "{created:?}");
    Ok(())
}

#[tokio::test]
async fn an_archive_on_s3_restores_exactly_the_rows_before_a_name() -> Result<()> {
    let scratch = Scratch::new("s3")?;
    let s3 = S3::start(&scratch)?;
    let mut server = Postgres::create(&scratch, "primary", &Setup::default())?;
    let pitr = Pitr::on_s3(&scratch, &server, &s3)?;
    main_path(&scratch, &mut server, &pitr).await
}

#[tokio::test]
async fn an_archive_on_azure_restores_exactly_the_rows_before_a_name() -> Result<()> {
    let scratch = Scratch::new("az")?;
    let azurite = Azurite::start(&scratch)?;
    let mut server = Postgres::create(&scratch, "primary", &Setup::default())?;
    let pitr = Pitr::on_azure(&scratch, &server, &azurite)?;
    main_path(&scratch, &mut server, &pitr).await
}

async fn main_path(scratch: &Scratch, server: &mut Postgres, pitr: &Pitr) -> Result<()> {
    archive_and_base(server, pitr).await?;
    load(server, 1).await?;
    let expected = ledger::content(server).await?;
    server.execute("SELECT pg_create_restore_point('here')").await?;
    load(server, 2).await?;
    ensure!(ledger::content(server).await?.len() > expected.len(), "nothing was written after the name");
    server.archive_everything().await?;

    ensure!(pitr.run(["status"])?.ok()?.stdout.contains(SOURCE), "the status does not name the source");
    pitr.run(["plan", SOURCE, "--to", "name:here"])?.ok()?;
    let restored = Restored::start(scratch, pitr, server, "name:here")?;
    shows(&restored, &expected).await?;
    pitr.run(["verify", SOURCE])?.ok()?;
    Ok(())
}

#[tokio::test]
async fn while_the_store_is_away_every_verb_says_so_and_afterwards_nothing_is_missing() -> Result<()> {
    let scratch = Scratch::new("outage")?;
    let mut azurite = Azurite::start(&scratch)?;
    let mut server = Postgres::create(&scratch, "primary", &Setup::default())?;
    let pitr = Pitr::on_azure(&scratch, &server, &azurite)?;
    give_up_soon(&scratch, &pitr)?;
    archive_and_base(&mut server, &pitr).await?;
    load(&server, 1).await?;
    let pushed = server.value("SELECT pg_walfile_name(pg_current_wal_lsn())").await?;
    server.archive_everything().await?;

    azurite.stop()?;
    let segment = server.data().join("pg_wal").join(&pushed);
    let segment = segment.to_string_lossy();
    let into = scratch.make("fetched")?.join(&pushed);
    let fetch = ["wal", "fetch", "--deadline", "1", "--prefetch", "0", &pushed, &into.to_string_lossy()];
    pitr.run(["status"])?.with_code(7)?;
    let push = pitr.run(["wal", "push", &segment])?;
    ensure!(matches!(push.code, Some(1..=125)), "PostgreSQL would stop or lose the segment: {push}");
    pitr.run(fetch)?.with_code(255)?;
    ensure!(!into.exists(), "a fetch that failed left a file");
    // The server goes on, and keeps what it cannot archive.
    load(&server, 2).await?;
    server.execute("SELECT pg_switch_wal()").await?;
    wait_for_a_failed_push(&server).await?;

    azurite.restart(&scratch)?;
    server.archive_everything().await?;
    pitr.run(["status"])?.ok()?;
    pitr.run(["wal", "push", &segment])?.ok()?;
    pitr.run(fetch)?.ok()?;
    ensure!(std::fs::read(&into)? == std::fs::read(&*segment)?, "{pushed} came back with other bytes");
    let restored = Restored::start(&scratch, &pitr, &server, "latest")?;
    shows(&restored, &ledger::content(&server).await?).await
}

/// Two seconds of retries instead of two minutes.
fn give_up_soon(scratch: &Scratch, pitr: &Pitr) -> Result<()> {
    let toml = std::fs::read_to_string(pitr.config())?;
    scratch.write("pitr.toml", &toml.replacen("[archive]\n", "[archive]\nretry_seconds = 2\n", 1))?;
    Ok(())
}

async fn wait_for_a_failed_push(server: &Postgres) -> Result<()> {
    for _ in 0..1200 {
        if server.value("SELECT failed_count > 0 FROM pg_stat_archiver").await? == "true" {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("archiving did not fail without a store\n{}", server.log_tail())
}

async fn archive_and_base(server: &mut Postgres, pitr: &Pitr) -> Result<()> {
    server.archive_with(pitr)?;
    pitr.run(["init"])?.ok()?;
    server.start().await?;
    ledger::prepare(server).await?;
    pitr.run(["backup", SOURCE])?.ok()?;
    Ok(())
}

async fn load(server: &Postgres, round: u32) -> Result<()> {
    ledger::run(server, &Load { seed: seed("load"), round, clients: 4, transactions: 15, marks: 0 }).await
}

/// The rows of a restored server are these, and it stands read-only at its target.
async fn shows(restored: &Restored, expected: &Content) -> Result<()> {
    let state = restored.value("SELECT pg_is_in_recovery()::text || pg_get_wal_replay_pause_state()").await?;
    ensure!(state == "truepaused", "the restored server is {state}");
    let found = ledger::content(restored).await?;
    ensure!(found == *expected, "{} transactions instead of {}", found.len(), expected.len());
    Ok(())
}
