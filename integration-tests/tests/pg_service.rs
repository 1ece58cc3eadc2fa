//! `pitr stream` as a service of several sources, on large segments, and in a directory where the server marks its files.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration_tests::oracle::wait_for_pause;
use integration_tests::{Azurite, Pitr, Postgres, SOURCE, Scratch, Setup, Streamer};

struct World {
    server: Postgres,
    pitr: Pitr,
    scratch: Scratch,
}

async fn world(label: &str, segment_mib: u32, config: &[&str]) -> Result<World> {
    let scratch = Scratch::new(label)?;
    let config = config.iter().map(|line| (*line).to_owned()).collect();
    let mut server = Postgres::create(&scratch, "primary", &Setup { segment_mib, config, ..Setup::default() })?;
    let pitr = Pitr::local(&scratch, &server)?;
    server.start().await?;
    server.execute("CREATE TABLE step (n int)").await?;
    pitr.run(["init"])?.ok()?;
    Ok(World { server, pitr, scratch })
}

/// The numbers that a restore to the latest moment shows.
async fn restored_numbers(world: &World) -> Result<BTreeSet<i32>> {
    let into = world.scratch.path().join("restored");
    let run = world.pitr.run(["restore", SOURCE, "--to", "latest", "--into", &into.to_string_lossy()])?;
    ensure!(matches!(run.code, Some(0 | 3)), "{run}");
    let mut restored = Postgres::at(&world.scratch, "restored.run", 15, into)?;
    restored.start().await?;
    wait_for_pause(&mut restored).await?;
    let rows = restored.connect().await?.query("SELECT DISTINCT n FROM step", &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The next thing that the service tells its manager, of those that begin with this.
fn told(manager: &UnixDatagram, what: &str) -> Result<String> {
    let begun = Instant::now();
    let mut message = [0; 512];
    loop {
        ensure!(begun.elapsed() < Duration::from_secs(60), "the service never says {what}");
        let Ok(length) = manager.recv(&mut message) else { continue };
        let text = String::from_utf8_lossy(&message[..length]).into_owned();
        if text.starts_with(what) {
            return Ok(text);
        }
    }
}

#[tokio::test]
async fn a_service_says_that_it_is_ready_and_alive_and_no_source_stops_another() -> Result<()> {
    let World { server, pitr, scratch } = world("service", 1, &["archive_mode = off"]).await?;
    // One that may not replicate, for good.
    server.execute("CREATE ROLE plain LOGIN").await?;
    let refused = server.url().replace("postgres@", "plain@");
    let section = format!("[sources.refused]\nengine = \"postgres\"\nurl = {refused:?}");
    pitr.configure_source([section.as_str()])?;
    let socket = scratch.path().join("notify");
    let manager = UnixDatagram::bind(&socket)?;
    manager.set_read_timeout(Some(Duration::from_millis(200)))?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777))?;
    let mut command = pitr.command(["stream"]);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "4000000");
    let mut streamer = Streamer::of_command(&scratch, command)?;
    let status = told(&manager, "STATUS=")?;
    ensure!(status.contains(SOURCE) && status.contains("refused"), "{status}");
    told(&manager, "READY=1")?;
    streamer.says("NOT streaming this source").await?;
    server.execute("INSERT INTO step VALUES (1)").await?;
    streamer.catches_up(&server).await?;
    told(&manager, "WATCHDOG=1")?;
    told(&manager, "WATCHDOG=1")?;
    let (code, took) = streamer.terminate().await?;
    ensure!(code == Some(0) && took < Duration::from_secs(10), "{code:?} after {took:?}\n{}", streamer.log());
    told(&manager, "STOPPING=1").map(drop)?;

    // Alone, the same mistake ends the program at once, with the way out.
    let alone = pitr.run(["stream", "refused"])?;
    ensure!(alone.code != Some(0) && alone.stderr.contains("replication"), "{alone}");
    Ok(())
}

#[tokio::test]
async fn while_the_store_hangs_the_server_is_answered_nothing_is_acknowledged_and_the_watchdog_is_not() -> Result<()> {
    let scratch = Scratch::new("hangs")?;
    let azurite = Azurite::start(&scratch)?;
    // Without an answer for this long the server would end the connection.
    let config = ["archive_mode = off", "wal_sender_timeout = 2s"].map(str::to_owned).to_vec();
    let mut server = Postgres::create(&scratch, "primary", &Setup { segment_mib: 1, config, ..Setup::default() })?;
    let pitr = Pitr::on_azure(&scratch, &server, &azurite)?;
    pitr.configure_source(["slot = \"pitr\""])?;
    server.start().await?;
    server.execute("CREATE TABLE step (n int)").await?;
    pitr.run(["init"])?.ok()?;
    let socket = scratch.path().join("notify");
    let manager = UnixDatagram::bind(&socket)?;
    manager.set_nonblocking(true)?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777))?;
    let mut command = pitr.command(["stream"]);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "4000000");
    let streamer = Streamer::of_command(&scratch, command)?;
    streamer.says("streaming").await?;
    streamer.catches_up(&server).await?;
    let connection = "SELECT backend_start::text FROM pg_stat_replication WHERE application_name = 'pitr'";
    let slot = "SELECT restart_lsn::text FROM pg_replication_slots";
    let (connected, kept) = (server.value(connection).await?, server.value(slot).await?);

    azurite.hang(true)?;
    server.execute("INSERT INTO step VALUES (1)").await?;
    let written = server.value("SELECT pg_current_wal_flush_lsn()").await?;
    tokio::time::sleep(Duration::from_secs(6)).await;
    signs_of_life(&manager);
    tokio::time::sleep(Duration::from_secs(4)).await;
    ensure!(signs_of_life(&manager) == 0, "the watchdog hears that all is well");
    ensure!(server.value(connection).await? == connected, "the connection was lost:\n{}", streamer.log());
    let reported = format!("SELECT (flush_lsn < '{written}')::text FROM pg_stat_replication");
    ensure!(server.value(&reported).await? == "true", "log is acknowledged that no store has");

    azurite.hang(false)?;
    streamer.catches_up(&server).await?;
    ensure!(server.value(connection).await? == connected, "the connection was lost:\n{}", streamer.log());
    let moved = format!("SELECT (restart_lsn > '{kept}')::text FROM pg_replication_slots");
    ensure!(server.value(&moved).await? == "true", "the server keeps log that it need not keep");
    let begun = Instant::now();
    while signs_of_life(&manager) == 0 {
        ensure!(begun.elapsed() < Duration::from_secs(60), "the watchdog would end a service that does its work");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Signs of life since the last call.
fn signs_of_life(manager: &UnixDatagram) -> usize {
    let mut message = [0; 512];
    let told =
        std::iter::from_fn(|| manager.recv(&mut message).ok().map(|len| message[..len].starts_with(b"WATCHDOG=1")));
    told.filter(|alive| *alive).count()
}

#[tokio::test]
async fn segments_of_any_size_are_streamed_and_restored() -> Result<()> {
    let world = world("large", 64, &["archive_mode = off", "max_wal_size = 1GB"]).await?;
    let streamer = Streamer::start(&world.scratch, &world.pitr)?;
    streamer.says("streaming").await?;
    world.pitr.run(["backup", SOURCE])?.ok()?;
    for n in 1..=3 {
        world.server.execute(&format!("INSERT INTO step SELECT {n} FROM generate_series(1, 400000)")).await?;
    }
    ensure!(
        world
            .server
            .value("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint / 67108864")
            .await?
            .parse::<u64>()?
            >= 2,
        "not even one segment is full"
    );
    streamer.catches_up(&world.server).await?;
    ensure!(streamer.log().contains("sealed"), "{}", streamer.log());
    drop(streamer);
    ensure!(restored_numbers(&world).await? == (1..=3).collect());
    Ok(())
}

#[tokio::test]
async fn files_that_the_server_marks_are_taken_when_they_are_marked() -> Result<()> {
    // It marks what is complete as ready, for ever: nobody takes it.
    let world = world("marked", 1, &["archive_mode = on", "archive_command = 'false'"]).await?;
    let wal_dir = world.server.data().join("pg_wal");
    let args = ["stream", SOURCE, "--wal-dir", &wal_dir.to_string_lossy()];
    let mut streamer = Streamer::with_args(&world.scratch, &world.pitr, &args)?;
    let mut last = String::new();
    for n in 1..=3 {
        if n == 2 {
            world.pitr.run(["backup", SOURCE, "--no-wait"])?;
        }
        world.server.execute(&format!("INSERT INTO step SELECT {n} FROM generate_series(1, 30000)")).await?;
        last = world.server.value("SELECT pg_walfile_name(pg_switch_wal())").await?;
        if n == 2 {
            // What happens while nobody looks is found when somebody looks again.
            streamer.kill()?;
        }
    }
    streamer = Streamer::with_args(&world.scratch, &world.pitr, &args)?;
    streamer.says(&last).await?;
    let open = world.server.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await?;
    ensure!(!streamer.log().contains(&open), "a file was taken while it was written:\n{}", streamer.log());
    let (code, _) = streamer.terminate().await?;
    ensure!(code == Some(0) && !streamer.log().contains("WARN"), "{}", streamer.log());
    ensure!(wal_dir.join(format!("archive_status/{last}.ready")).exists(), "the server's marks were touched");
    ensure!(restored_numbers(&world).await? == (1..=3).collect());
    Ok(())
}
