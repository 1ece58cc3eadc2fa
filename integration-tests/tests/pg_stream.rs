//! `pitr stream` on real servers: what is durable, what survives, and how the service behaves.
//!
//! `PITR_ROUNDS=20` loses that many servers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_tests::oracle::wait_for_pause;
use integration_tests::seed::{generator, seed};
use integration_tests::{Pitr, Postgres, SOURCE, Scratch, Setup, Streamer};
use rand::RngExt;

/// A server that archives nothing by itself, an archive and a base.
struct World {
    server: Postgres,
    pitr: Pitr,
    scratch: Scratch,
}

async fn world(label: &str, config: &[&str], source: &[&str]) -> Result<World> {
    let scratch = Scratch::new(label)?;
    let mut setup = Setup { segment_mib: 1, ..Setup::default() };
    setup.config = config.iter().map(|line| (*line).to_owned()).collect();
    setup.config.push("archive_mode = off".to_owned());
    let mut server = Postgres::create(&scratch, "primary", &setup)?;
    let pitr = Pitr::local(&scratch, &server)?;
    pitr.configure_source(source.iter().copied())?;
    server.start().await?;
    server.execute("CREATE TABLE step (n int)").await?;
    pitr.run(["init"])?.ok()?;
    Ok(World { server, pitr, scratch })
}

/// The rows that a restore to the latest moment shows.
async fn restored_rows(scratch: &Scratch, pitr: &Pitr, name: &str) -> Result<BTreeSet<i32>> {
    let into = scratch.path().join(name);
    pitr.run(["restore", SOURCE, "--to", "latest", "--into", &into.to_string_lossy()])?.ok()?;
    let mut restored = Postgres::at(scratch, &format!("{name}.run"), 15, into)?;
    restored.start().await?;
    wait_for_pause(&mut restored).await?;
    let rows = restored.connect().await?.query("SELECT n FROM step", &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

async fn insert(server: &Postgres, n: i32) -> Result<()> {
    server.execute(&format!("INSERT INTO step VALUES ({n})")).await
}

/// All files below a directory, by path.
fn files(dir: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.extend([path]),
        }
    }
    Ok(found)
}

/// Segments of the source in a local archive.
fn sealed(pitr: &Pitr) -> Result<BTreeSet<String>> {
    let log = pitr.archive()?.join(format!("s/{SOURCE}/log"));
    let paths = if log.is_dir() { files(&log)? } else { BTreeSet::new() };
    Ok(paths.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
}

#[tokio::test]
async fn a_commit_survives_its_server_without_any_segment_being_complete() -> Result<()> {
    let World { mut server, pitr, scratch } = world("tail", &[], &[]).await?;
    let mut streamer = Streamer::start(&scratch, &pitr)?;
    streamer.says("streaming").await?;
    pitr.run(["backup", SOURCE])?.ok()?;
    let before = server.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await?;
    insert(&server, 1).await?;
    streamer.catches_up(&server).await?;
    ensure!(before == server.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await?, "not one segment");
    ensure!(!sealed(&pitr)?.contains(&before), "the segment is sealed: nothing was proved");
    server.kill()?;
    fs::remove_dir_all(server.data())?;
    streamer.kill()?;
    ensure!(restored_rows(&scratch, &pitr, "restored").await? == BTreeSet::from([1]), "the commit is lost");
    Ok(())
}

#[tokio::test]
async fn log_that_commits_waited_for_is_restored_whole_or_its_damage_is_named() -> Result<()> {
    let World { mut server, pitr, scratch } = world("strip", &[], &["flush_interval = \"0s\""]).await?;
    let mut streamer = Streamer::start(&scratch, &pitr)?;
    streamer.says("streaming").await?;
    pitr.run(["backup", SOURCE])?.ok()?;
    for n in 1..=40 {
        insert(&server, n).await?;
    }
    streamer.catches_up(&server).await?;
    server.kill()?;
    streamer.kill()?;
    let mut tails = files(&pitr.archive()?.join(format!("s/{SOURCE}/tail")))?;
    tails.retain(|path| path.to_string_lossy().contains("/strip-"));
    let strip = tails.last().context("no strip")?;
    let whole = fs::read(strip)?;
    let mut harmed = whole.clone();
    // In the object of its first frame.
    harmed[1_000] ^= 1;
    fs::write(strip, &harmed)?;
    let name = strip.file_name().context("no name")?.to_string_lossy().into_owned();
    let verified = pitr.run(["verify", SOURCE])?.with_code(5)?;
    ensure!(verified.text().contains(&name), "the damage is not named: {verified}");
    let into = scratch.path().join("damaged");
    let refused = pitr.run(["restore", SOURCE, "--to", "latest", "--into", &into.to_string_lossy()])?.with_code(5)?;
    ensure!(refused.text().contains(&name) && !into.join("global/pg_control").exists(), "{refused}");
    fs::write(strip, &whole)?;
    pitr.run(["verify", SOURCE])?.ok()?;
    ensure!(restored_rows(&scratch, &pitr, "restored").await? == (1..=40).collect(), "rows are lost");
    Ok(())
}

#[tokio::test]
async fn a_server_that_was_set_back_is_refused_after_it_has_passed_the_end_of_a_segment() -> Result<()> {
    set_back("set-back-sealed", true).await
}

#[tokio::test]
async fn a_server_that_was_set_back_is_refused_also_where_it_repeats_the_open_segment_in_the_same_lengths() -> Result<()>
{
    set_back("set-back-open", false).await
}

/// A snapshot of the data directory comes back, and the server writes other log at the positions of what is archived.
async fn set_back(label: &str, sealed: bool) -> Result<()> {
    let World { mut server, pitr, scratch } = world(label, &["autovacuum = off"], &[]).await?;
    let mut streamer = Streamer::start(&scratch, &pitr)?;
    streamer.says("streaming").await?;
    pitr.run(["backup", SOURCE])?.ok()?;
    insert(&server, 1).await?;
    server.stop().await?;
    streamer.terminate().await?;
    let snapshot = scratch.path().join("snapshot");
    let copied = Command::new("cp").arg("-a").args([server.data(), snapshot.as_path()]).status()?;
    ensure!(copied.success(), "the directory was not copied");

    server.start().await?;
    let mut streamer = Streamer::start(&scratch, &pitr)?;
    insert(&server, 2).await?;
    if sealed {
        server.execute("SELECT pg_switch_wal()").await?;
    }
    insert(&server, 3).await?;
    streamer.catches_up(&server).await?;
    let archived = server.value("SELECT pg_current_wal_lsn()").await?;
    server.kill()?;
    streamer.terminate().await?;
    fs::remove_dir_all(server.data())?;
    fs::rename(&snapshot, server.data())?;
    let before = files(pitr.archive()?)?;

    server.start().await?;
    let mut streamer = Streamer::start(&scratch, &pitr)?;
    streamer.says("the server only up to").await?;
    // The same statements: only in the open segment the records lie where they lay before.
    insert(&server, 12).await?;
    if sealed {
        server.execute("CREATE TABLE other (n int)").await?;
        server.execute("SELECT pg_switch_wal()").await?;
    }
    for n in 13.. {
        insert(&server, n).await?;
        if server.value(&format!("SELECT pg_current_wal_lsn() > '{archived}'")).await? == "true" {
            break;
        }
    }
    streamer.says("is not the one that is archived").await?;
    streamer.says("give the server a [sources.NAME] of its own").await?;
    streamer.terminate().await?;
    // Nor does the hook hide what was streamed behind a whole segment.
    let name = server.value("SELECT pg_walfile_name(pg_current_wal_lsn())").await?;
    server.execute("SELECT pg_switch_wal()").await?;
    if !sealed {
        let path = server.data().join("pg_wal").join(name);
        let pushed = pitr.run(["wal", "push", &path.to_string_lossy(), "--source", SOURCE])?.with_code(6)?;
        ensure!(pushed.text().contains("is not the one that is archived"), "{pushed}");
    }
    ensure!(files(pitr.archive()?)? == before, "something was archived of another log\n{}", streamer.log());
    pitr.run(["verify", SOURCE])?.ok()?;
    ensure!(restored_rows(&scratch, &pitr, "restored").await? == BTreeSet::from([1, 2, 3]), "not what was archived");
    Ok(())
}

#[tokio::test]
async fn a_synchronous_standby_loses_nothing_that_was_acknowledged() -> Result<()> {
    lose_servers("sync", &["synchronous_standby_names = 'FIRST 1 (pitr)'"], "0s", None).await
}

#[tokio::test]
async fn without_waiting_for_it_no_more_is_lost_than_what_was_written_just_before() -> Result<()> {
    // The default flush interval, and a generous pause of a busy machine.
    lose_servers("async", &[], "1s", Some(Duration::from_secs(10))).await
}

/// Under load the server and its data directory are gone at a random moment. What is restored then lacks no acknowledged
/// commit that is older than `exposure`, none at all where the server waited for us.
async fn lose_servers(label: &str, settings: &[&str], flush: &str, exposure: Option<Duration>) -> Result<()> {
    let seed = seed(label);
    let rounds = std::env::var("PITR_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    // Only the load waits.
    let config = [settings, &["synchronous_commit = local"]].concat();
    let flush = format!("flush_interval = \"{flush}\"");
    for round in 0..rounds {
        let World { mut server, pitr, scratch } = world(label, &config, &[&flush]).await?;
        let mut streamer = Streamer::start(&scratch, &pitr)?;
        streamer.says("streaming").await?;
        pitr.run(["backup", SOURCE])?.ok()?;
        let mut clients = Vec::new();
        for client in 0..4 {
            let connection = server.connect().await?;
            clients.push(tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                connection.batch_execute("SET synchronous_commit = on").await?;
                for n in 0.. {
                    let row = client * 1_000_000 + n;
                    // The loss of the server ends it.
                    if connection.execute(&format!("INSERT INTO step VALUES ({row})"), &[]).await.is_err() {
                        break;
                    }
                    acknowledged.push((row, Instant::now()));
                }
                Ok::<_, tokio_postgres::Error>(acknowledged)
            }));
        }
        let moment = generator(seed, round).random_range(300..4_000);
        tokio::time::sleep(Duration::from_millis(moment)).await;
        server.kill()?;
        let killed = Instant::now();
        fs::remove_dir_all(server.data())?;
        match exposure {
            // Not even if we go down with it.
            None => streamer.kill()?,
            // On a machine of its own it makes durable what it has received.
            Some(_) => {
                let (code, _) = streamer.terminate().await?;
                ensure!(code == Some(0), "{}", streamer.log());
            }
        }
        let mut acknowledged = Vec::new();
        for client in clients {
            acknowledged.extend(client.await??);
        }
        let rows = restored_rows(&scratch, &pitr, "restored").await?;
        let lost: Vec<_> = acknowledged.iter().filter(|(row, _)| !rows.contains(row)).collect();
        let oldest = lost.iter().map(|(_, at)| killed.saturating_duration_since(*at)).max().unwrap_or_default();
        eprintln!(
            "{label} {round}: {} acknowledged in {moment} ms, {} restored, {} lost, the oldest of them {oldest:?} before the end",
            acknowledged.len(),
            rows.len(),
            lost.len()
        );
        ensure!(!acknowledged.is_empty(), "nothing was acknowledged: nothing was proved");
        match exposure {
            None => ensure!(lost.is_empty(), "{} acknowledged commits are lost: {lost:?}", lost.len()),
            Some(exposure) => ensure!(oldest <= exposure, "a commit {oldest:?} before the end is lost"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_stream_and_the_hook_make_the_same_objects() -> Result<()> {
    let World { mut server, pitr, scratch } = world("same", &[], &[]).await?;
    // The hook archives into an archive of its own first, then into the same one.
    server.stop().await?;
    let other = pitr.with_new_archive(&scratch, "other")?;
    other.run(["init"])?.ok()?;
    server.configure(["archive_mode = on"])?;
    server.archive_with(&other)?;
    server.start().await?;
    let streamer = Streamer::start(&scratch, &pitr)?;
    streamer.says("streaming").await?;
    let first = server.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await?;
    for n in 0..4 {
        server.execute(&format!("INSERT INTO step SELECT {n} FROM generate_series(1, 20000)")).await?;
    }
    server.archive_everything().await?;
    streamer.catches_up(&server).await?;
    let (ours, theirs) = (sealed(&pitr)?, sealed(&other)?);
    let common: Vec<_> = ours.intersection(&theirs).collect();
    ensure!(common.len() >= 4 && ours.contains(&first), "only {common:?} of {ours:?} and {theirs:?}");
    for name in &common {
        ensure!(facts(&pitr, name)? == facts(&other, name)?, "{name} has two headers");
    }
    // And into the same archive: whoever comes second finds it there.
    server.archive_with(&pitr)?;
    server.reload()?;
    server.execute("INSERT INTO step SELECT 9 FROM generate_series(1, 20000)").await?;
    server.archive_everything().await?;
    streamer.catches_up(&server).await?;
    ensure!(server.value("SELECT failed_count FROM pg_stat_archiver").await? == "0", "a push was refused");
    ensure!(!streamer.log().contains("WARN"), "the streamer was disturbed:\n{}", streamer.log());
    Ok(())
}

/// What the plain header of a segment says of its content.
fn facts(pitr: &Pitr, name: &str) -> Result<String> {
    let find = pitr.archive()?.join(format!("s/{SOURCE}/log"));
    let output = Command::new("find").arg(find).args(["-name", name]).output()?;
    let path = String::from_utf8(output.stdout)?;
    let bytes = fs::read(path.trim()).with_context(|| format!("no object {name}"))?;
    let header = bytes.split(|byte| *byte == b'\n').nth(1).context("no header")?;
    let header: serde_json::Value = serde_json::from_slice(header)?;
    Ok(format!("{} {}", header["facts"], header["raw_bytes"]))
}

#[tokio::test]
async fn what_was_killed_goes_on_where_the_archive_ends() -> Result<()> {
    let World { mut server, pitr, scratch } = world("kill", &[], &["slot = \"pitr\""]).await?;
    let seed = seed("kill");
    let mut rng = generator(seed, 0);
    pitr.run(["backup", SOURCE, "--no-wait"])?;
    let mut streamer = Streamer::start(&scratch, &pitr)?;
    let mut rows = BTreeSet::new();
    for round in 0..6 {
        server.execute(&format!("INSERT INTO step SELECT {round} FROM generate_series(1, 15000)")).await?;
        rows.insert(round);
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
        match round % 3 {
            0 => {
                streamer.kill()?;
                streamer = Streamer::start(&scratch, &pitr)?;
            }
            1 => {
                server.kill()?;
                server.start().await?;
            }
            _ => {}
        }
    }
    streamer.catches_up(&server).await?;
    ensure!(restored_rows(&scratch, &pitr, "restored").await? == rows, "rows are lost");
    let gaps = pitr.json(["status", SOURCE])?["sources"][0]["gaps"].clone();
    ensure!(gaps.as_array().is_some_and(Vec::is_empty), "a gap: {gaps}");

    // The slot is dropped only when asked.
    ensure!(server.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'pitr'").await? == "1");
    let (code, _) = streamer.terminate().await?;
    ensure!(code == Some(0), "{}", streamer.log());
    pitr.run(["stream", SOURCE, "--drop-slot"])?.ok()?;
    ensure!(server.value("SELECT count(*) FROM pg_replication_slots").await? == "0", "the slot is still there");
    Ok(())
}

#[tokio::test]
async fn sigterm_makes_durable_what_has_arrived_and_ends_with_zero() -> Result<()> {
    let World { mut server, pitr, scratch } = world("term", &[], &["flush_interval = \"1h\""]).await?;
    let mut streamer = Streamer::start(&scratch, &pitr)?;
    streamer.says("streaming").await?;
    pitr.run(["backup", SOURCE, "--no-wait"])?;
    insert(&server, 1).await?;
    let sent = "SELECT bool_and(sent_lsn >= pg_current_wal_flush_lsn()) FROM pg_stat_replication";
    let begun = Instant::now();
    while server.value(sent).await? != "true" {
        ensure!(begun.elapsed() < Duration::from_secs(30), "the server sends nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (code, took) = streamer.terminate().await?;
    ensure!(code == Some(0) && took < Duration::from_secs(10), "{code:?} after {took:?}\n{}", streamer.log());
    server.kill()?;
    ensure!(restored_rows(&scratch, &pitr, "restored").await? == BTreeSet::from([1]), "the commit is lost");
    Ok(())
}

#[tokio::test]
async fn log_that_the_server_removed_is_a_gap_and_the_stream_goes_on_behind_it() -> Result<()> {
    let config = ["wal_keep_size = 0", "max_wal_size = 2MB", "min_wal_size = 2MB"];
    go_on_behind_removed_log(&world("removed", &config, &[]).await?).await
}

#[tokio::test]
async fn a_slot_that_the_server_gave_up_is_made_anew_and_what_it_lost_is_a_gap() -> Result<()> {
    let config = ["max_slot_wal_keep_size = 1MB", "wal_keep_size = 0", "max_wal_size = 2MB", "min_wal_size = 2MB"];
    let world = world("given-up", &config, &["slot = \"pitr\""]).await?;
    go_on_behind_removed_log(&world).await?;
    let slots = world.server.value("SELECT string_agg(slot_name || wal_status, ',') FROM pg_replication_slots").await?;
    ensure!(["pitrreserved", "pitrextended"].contains(&slots.as_str()), "{slots}");
    Ok(())
}

async fn go_on_behind_removed_log(World { server, pitr, scratch }: &World) -> Result<()> {
    let mut streamer = Streamer::start(scratch, pitr)?;
    streamer.says("streaming").await?;
    pitr.run(["backup", SOURCE])?.ok()?;
    insert(server, 1).await?;
    streamer.catches_up(server).await?;
    streamer.kill()?;
    for n in 2..8 {
        server.execute(&format!("INSERT INTO step SELECT {n} FROM generate_series(1, 30000)")).await?;
        server.execute("SELECT pg_switch_wal(); CHECKPOINT").await?;
    }
    let streamer = Streamer::start(scratch, pitr)?;
    streamer.says("log is lost").await?;
    // Once is enough: a slow machine must not lose more.
    server.execute("ALTER SYSTEM SET wal_keep_size = '1GB'").await?;
    server.execute("SELECT pg_reload_conf()").await?;
    ensure!(streamer.log().contains(&format!("pitr backup {SOURCE}")), "no way out:\n{}", streamer.log());
    streamer.catches_up(server).await?;
    let status = pitr.run(["status", SOURCE])?.with_code(3)?;
    ensure!(status.stdout.contains("removed by the server"), "the gap has no cause: {status}");
    // Up to the gap everything is as restorable as ever, and behind it after a new base.
    let refused = pitr.run(["plan", SOURCE, "--to", "latest"])?.with_code(4)?;
    ensure!(refused.text().contains("gap"), "{refused}");
    pitr.run(["backup", SOURCE])?;
    insert(server, 8).await?;
    streamer.catches_up(server).await?;
    let rows = restored_rows(scratch, pitr, "restored").await?;
    ensure!(rows == (1..=8).collect(), "{rows:?}");
    Ok(())
}

#[tokio::test]
async fn a_watched_directory_is_archived_file_by_file_and_left_as_it_is() -> Result<()> {
    let World { server, pitr, scratch } = world("watch", &[], &[]).await?;
    pitr.run(["backup", SOURCE, "--no-wait"])?;
    let wal_dir = server.data().join("pg_wal");
    let status = wal_dir.join("archive_status");
    server.execute("INSERT INTO step SELECT 1 FROM generate_series(1, 30000)").await?;
    let marks = fs::read_dir(&status)?.count();
    let args = ["stream", SOURCE, "--wal-dir", &wal_dir.to_string_lossy()];
    let mut streamer = Streamer::with_args(&scratch, &pitr, &args)?;
    let last = server.value("SELECT pg_walfile_name(pg_switch_wal())").await?;
    insert(&server, 2).await?;
    streamer.says(&last).await?;
    let open = server.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await?;
    server.execute("SELECT pg_switch_wal()").await?;
    insert(&server, 3).await?;
    // What completes while it watches arrives at once; what is being written never does.
    streamer.says(&open).await?;
    let (code, _) = streamer.terminate().await?;
    ensure!(code == Some(0), "{}", streamer.log());
    ensure!(!streamer.log().contains("WARN"), "{}", streamer.log());
    let written = server.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await?;
    ensure!(!sealed(&pitr)?.contains(&written), "a file was taken while it was written");
    ensure!(fs::read_dir(&status)?.count() == marks, "the server's marks were touched");
    let rows = restored_rows(&scratch, &pitr, "restored").await?;
    ensure!(rows == BTreeSet::from([1, 2]), "{rows:?}");
    Ok(())
}
