//! Timelines: a stream follows them from the server's own answer, and every history is restorable.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use integration_tests::oracle::wait_for_pause;
use integration_tests::{Pitr, Postgres, SOURCE, Scratch, Setup, Streamer};
use serde_json::Value;

struct World {
    server: Postgres,
    pitr: Pitr,
    scratch: Scratch,
}

async fn world(label: &str) -> Result<World> {
    let scratch = Scratch::new(label)?;
    let config = vec!["archive_mode = off".to_owned()];
    let mut server = Postgres::create(&scratch, "primary", &Setup { segment_mib: 1, config, ..Setup::default() })?;
    let pitr = Pitr::local(&scratch, &server)?;
    server.start().await?;
    server.execute("CREATE TABLE step (n int)").await?;
    pitr.run(["init"])?.ok()?;
    Ok(World { server, pitr, scratch })
}

async fn insert(server: &Postgres, n: i32) -> Result<()> {
    server.execute(&format!("INSERT INTO step VALUES ({n})")).await
}

async fn rows(server: &Postgres) -> Result<BTreeSet<i32>> {
    let rows = server.connect().await?.query("SELECT n FROM step", &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// A server restored to a target, paused there.
async fn restored(world: &World, name: &str, target: &[&str]) -> Result<Postgres> {
    let into = world.scratch.path().join(name);
    let into_text = into.to_string_lossy().into_owned();
    world.pitr.run([&["restore", SOURCE, "--into", &into_text], target].concat())?.ok()?;
    let mut server = Postgres::at(&world.scratch, &format!("{name}.run"), 15, into)?;
    server.start().await?;
    wait_for_pause(&mut server).await?;
    Ok(server)
}

async fn promote(server: &Postgres) -> Result<()> {
    ensure!(server.value("SELECT pg_promote()").await? == "true", "not promoted\n{}", server.log_tail());
    Ok(())
}

/// Turns a server into a standby of nobody: still on its timeline, and able to stream.
async fn make_standby(server: &mut Postgres, scratch: &Scratch) -> Result<()> {
    server.stop().await?;
    let name = server.data().file_name().context("no data directory")?.to_string_lossy().into_owned();
    scratch.write(&format!("{name}/standby.signal"), "")?;
    server.start().await
}

fn lineages(pitr: &Pitr) -> Result<Vec<Value>> {
    let list = pitr.json(["list", SOURCE])?;
    list["lineages"].as_array().cloned().context("no lineages")
}

#[tokio::test]
async fn a_promotion_is_followed_while_it_happens() -> Result<()> {
    let World { mut server, pitr, scratch } = world("promote").await?;
    let streamer = Streamer::start(&scratch, &pitr)?;
    streamer.says("streaming").await?;
    pitr.run(["backup", SOURCE])?.ok()?;
    insert(&server, 1).await?;
    make_standby(&mut server, &scratch).await?;
    streamer.catches_up(&server).await?;
    promote(&server).await?;
    streamer.says("this history ended").await?;
    insert(&server, 2).await?;
    streamer.catches_up(&server).await?;
    server.kill()?;
    let plan = pitr.run(["plan", SOURCE, "--to", "latest"])?.ok()?;
    ensure!(plan.stdout.contains("timeline 2"), "the plan does not name the timeline: {plan}");
    let world = World { server, pitr, scratch };
    let copy = restored(&world, "copy", &["--to", "latest"]).await?;
    ensure!(rows(&copy).await? == BTreeSet::from([1, 2]));
    Ok(())
}

#[tokio::test]
async fn promotions_that_nobody_saw_are_all_followed_and_each_can_be_restored() -> Result<()> {
    let World { mut server, pitr, scratch } = world("skipped").await?;
    let mut streamer = Streamer::start(&scratch, &pitr)?;
    streamer.says("streaming").await?;
    pitr.run(["backup", SOURCE])?.ok()?;
    insert(&server, 1).await?;
    streamer.catches_up(&server).await?;
    streamer.kill()?;
    for n in 2..=4 {
        // Some of them with whole segments of their own, some within one.
        if n != 3 {
            server.execute(&format!("INSERT INTO step SELECT {n} FROM generate_series(1, 20000)")).await?;
        }
        make_standby(&mut server, &scratch).await?;
        promote(&server).await?;
        insert(&server, n * 10).await?;
    }
    let streamer = Streamer::start(&scratch, &pitr)?;
    streamer.catches_up(&server).await?;
    let (known, found) = (lineages(&pitr)?, pitr.run(["list", SOURCE])?.ok()?);
    ensure!(known.len() == 4, "{found}");
    ensure!(known.iter().skip(1).all(|lineage| lineage["parent"].is_string()), "a history without parent: {found}");
    let all = rows(&server).await?;
    let world = World { server, pitr, scratch };
    let copy = restored(&world, "copy", &["--to", "latest"]).await?;
    ensure!(rows(&copy).await? == all, "{:?} of {all:?}", rows(&copy).await?);
    Ok(())
}

#[tokio::test]
async fn two_restores_that_choose_the_same_timeline_are_two_histories_and_neither_harms_the_first() -> Result<()> {
    let mut world = world("twins").await?;
    let streamer = Streamer::start(&world.scratch, &world.pitr)?;
    streamer.says("streaming").await?;
    world.pitr.run(["backup", SOURCE])?.ok()?;
    insert(&world.server, 1).await?;
    world.server.execute("SELECT pg_create_restore_point('between')").await?;
    insert(&world.server, 2).await?;
    streamer.catches_up(&world.server).await?;

    // The origin goes on, and two restores of it are put to use. "Latest" alone would be that of the newest history.
    let origin = lineages(&world.pitr)?[0]["id"].as_str().context("no id")?.to_owned();
    for (name, target, row) in [("a", "name:between", 10), ("b", "latest", 20)] {
        let twin = restored(&world, name, &["--to", target, "--lineage", &origin]).await?;
        promote(&twin).await?;
        let file = twin.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())").await?;
        ensure!(file.starts_with("00000002"), "another timeline: {file}");
        let config = fs::read_to_string(world.pitr.config())?.replace(&world.server.url(), &twin.url());
        let config = world.scratch.write(&format!("{name}.toml"), &config)?;
        let args = ["--config", &config.to_string_lossy(), "stream", SOURCE];
        let stream = Streamer::with_args(&world.scratch, &world.pitr, &args)?;
        insert(&twin, row).await?;
        stream.catches_up(&twin).await?;
    }
    insert(&world.server, 3).await?;
    streamer.catches_up(&world.server).await?;
    ensure!(!streamer.log().contains("WARN"), "the origin was disturbed:\n{}", streamer.log());
    world.server.kill()?;

    let mut found = BTreeSet::new();
    for (number, lineage) in lineages(&world.pitr)?.iter().enumerate() {
        let id = lineage["id"].as_str().context("no id")?;
        let copy = restored(&world, &format!("r{number}"), &["--to", "latest", "--lineage", id]).await?;
        found.insert(rows(&copy).await?);
    }
    let expected = [vec![1, 2, 3], vec![1, 10], vec![1, 2, 20]];
    ensure!(found == expected.into_iter().map(BTreeSet::from_iter).collect(), "{found:?}");
    // Before the fork, on whichever of them.
    let copy = restored(&world, "before", &["--before", "name:between", "--lineage", &origin]).await?;
    ensure!(rows(&copy).await? == BTreeSet::from([1]));
    Ok(())
}
