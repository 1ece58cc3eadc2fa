//! A long load, streamed into a store that fails a tenth of its calls: no gap, nothing lost, memory flat.
//!
//! `PITR_SOAK_MINUTES=30` makes it long.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_tests::flaky::FlakyProxy;
use integration_tests::seed::{generator, seed};
use integration_tests::{Azurite, Pitr, Postgres, Restored, SOURCE, Scratch, Setup, Streamer, succeed};

/// How much more memory the last third of the time may need than the middle third, in KiB: what an allocator keeps.
const FLAT_KIB: u64 = 16 * 1_024;
/// And at most, ever.
const LIMIT_KIB: u64 = 128 * 1_024;
/// The balances of pgbench, and what its history says of each.
const BALANCES: &str = "SELECT concat_ws(' ', (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches), \
     (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(delta) FROM pgbench_history), (SELECT count(*) FROM pgbench_history))";

#[tokio::test]
async fn a_store_that_fails_a_tenth_of_its_calls_costs_no_log_and_no_memory() -> Result<()> {
    let seed = seed("soak");
    let minutes: Option<u64> = std::env::var("PITR_SOAK_MINUTES").ok().and_then(|n| n.parse().ok());
    let seconds = minutes.map_or(20, |minutes| minutes * 60);
    let scratch = Scratch::new("soak")?;
    let azurite = Azurite::start(&scratch)?;
    let proxy = FlakyProxy::start(azurite.port(), 10, generator(seed, 1))?;
    let setup = Setup { segment_mib: 4, config: vec!["archive_mode = off".to_owned()], ..Setup::default() };
    let mut server = Postgres::create(&scratch, "primary", &setup)?;
    let pitr = Pitr::on_azure_through(proxy.port(), &scratch, &server, &azurite)?;
    pitr.configure_source(["slot = \"pitr\""])?;
    server.start().await?;
    succeed(server.program("pgbench").args(["-i", "-q", "-s", "2"]).arg(server.url()))?;
    pitr.run(["init"])?.ok()?;
    let streamer = Streamer::start(&scratch, &pitr)?;
    streamer.says("streaming").await?;
    pitr.run(["backup", SOURCE])?.ok()?;

    let mut pgbench = server.program("pgbench");
    let rate = if minutes.is_some() { "150" } else { "300" };
    pgbench.args(["-n", "-c", "4", "-R", rate, "-T", &seconds.to_string()]).arg(server.url());
    let mut pgbench = pgbench.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let (begun, mut memory) = (Instant::now(), Vec::new());
    while pgbench.try_wait()?.is_none() {
        memory.push(resident_kib(&streamer)?);
        ensure!(begun.elapsed() < Duration::from_secs(seconds * 2 + 60), "the load does not end");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    ensure!(pgbench.wait()?.success(), "pgbench failed");
    streamer.catches_up(&server).await?;

    let (calls, failed) = proxy.calls();
    let third = memory.len() / 3;
    let peak = |part: &[u64]| part.iter().max().copied().unwrap_or_default();
    let (middle, last, ever) = (peak(&memory[third..2 * third]), peak(&memory[2 * third..]), peak(&memory));
    let interrupted = streamer.log().matches("the stream was interrupted").count();
    eprintln!(
        "{seconds} s: {calls} calls, {failed} failed, {interrupted} interruptions, resident {middle} KiB in the middle, {last} KiB in the end, {ever} KiB at most"
    );
    ensure!(failed * 20 > calls, "only {failed} of {calls} calls failed: nothing was proved");
    ensure!(last <= middle + FLAT_KIB, "memory grows: {middle} KiB, then {last} KiB");
    ensure!(ever <= LIMIT_KIB, "{ever} KiB");
    let status = pitr.json(["status", SOURCE])?;
    ensure!(status["sources"][0]["gaps"].as_array().is_some_and(Vec::is_empty), "a gap: {status}");
    let written = server.value(BALANCES).await?;
    server.kill()?;
    pitr.run(["verify", SOURCE])?.ok()?;
    let restored = Restored::start(&scratch, &pitr, &server, "latest")?;
    let found = restored.value(BALANCES).await?;
    ensure!(found == written, "restored {found}, written {written}");
    Ok(())
}

fn resident_kib(streamer: &Streamer) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", streamer.id()?)).context("the streamer ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no memory")?;
    Ok(line.split_whitespace().next().context("no figure")?.parse()?)
}
