//! What the program refuses, with which exit code, and that the way out that it names is one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_tests::stepped::Stepped;
use integration_tests::{Pitr, Postgres, SOURCE, Setup, succeed};
use serde_json::Value;

/// Runs a command that must be refused, as text and as JSON; gives the JSON error.
fn refused(pitr: &Pitr, args: &[&str], code: i32, word: &str) -> Result<Value> {
    let text = pitr.run(args)?.with_code(code)?;
    ensure!(text.stdout.is_empty() && !text.stderr.trim().is_empty(), "a refusal belongs on stderr: {text}");
    let run = pitr.run([&["-o", "json"], args].concat())?.with_code(code)?;
    let document: Value = serde_json::from_str(&run.stdout).with_context(|| format!("not JSON: {run}"))?;
    let error = document["errors"][0].clone();
    ensure!(document["schema"] == "pitr.error/1" && document["success"] == false && error["code"] == word, "{run}");
    ensure!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "no message: {run}");
    ensure!(error["next"].as_array().is_some_and(|next| !next.is_empty()), "no way out: {run}");
    Ok(error)
}

fn refused_target(pitr: &Pitr, target: &str) -> Result<Value> {
    refused(pitr, &["plan", SOURCE, "--to", target], 4, "not_recoverable").with_context(|| target.to_owned())
}

/// Types the targets of the commands that an error names; gives how many there were.
fn follow(pitr: &Pitr, error: &Value) -> Result<usize> {
    let next = error["next"].as_array().context("no next")?;
    let commands = next.iter().filter_map(Value::as_str).filter(|step| step.starts_with("pitr plan "));
    let mut followed = 0;
    for command in commands {
        let target = command.split_once(" --to ").with_context(|| format!("no target in {command}"))?.1;
        plan(pitr, target.trim_matches('\'')).with_context(|| format!("the way out of {error}"))?;
        followed += 1;
    }
    Ok(followed)
}

fn plan(pitr: &Pitr, target: &str) -> Result<Value> {
    pitr.json(["plan", SOURCE, "--to", target])
}

fn message(error: &Value) -> &str {
    error["message"].as_str().unwrap_or_default()
}

/// First record of a segment of one MiB, as a target.
fn position_in(segment: &str) -> Result<String> {
    let number = u64::from_str_radix(&segment[16..], 16)?;
    Ok(format!("lsn:0/{:X}", number * 0x0010_0000 + 0x28))
}

/// Every file of the archive.
fn files(dir: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.insert(path).then_some(()).context("twice")? }
    }
    Ok(found)
}

#[tokio::test]
async fn a_gap_blocks_exactly_the_targets_that_cross_it() -> Result<()> {
    let mut world = Stepped::new("gap", 5).await?;
    let pitr = world.pitr.clone();
    plan(&pitr, &world.times[3])?;
    let hit = world.segment(3)?.to_owned();
    fs::remove_file(world.object(&hit)?)?;

    let status = pitr.run(["status", SOURCE])?.with_code(3)?;
    ensure!(status.stdout.contains("GAP"), "the gap is silent: {status}");
    let gaps = pitr.json(["status", SOURCE])?["sources"][0]["gaps"].clone();
    ensure!(gaps.as_array().is_some_and(|gaps| gaps.len() == 1), "not one gap: {gaps}");
    let across = [world.times[2].clone(), world.times[3].clone(), position_in(world.segment(4)?)?, "latest".to_owned()];
    for target in &across {
        let error = refused_target(&pitr, target)?;
        ensure!(message(&error).contains("gap"), "the gap is not named: {error}");
        ensure!(follow(&pitr, &error)? > 0, "no restorable moment is named: {error}");
        let into = world.scratch.path().join("never").to_string_lossy().into_owned();
        refused(&pitr, &["restore", SOURCE, "--to", target, "--into", &into], 4, "not_recoverable")?;
        ensure!(!Path::new(&into).exists(), "a refused restore left {into}");
    }
    for target in [world.times[0].clone(), world.times[1].clone(), position_in(world.segment(2)?)?] {
        plan(&pitr, &target)?;
    }
    let into = world.scratch.path().join("before");
    pitr.run(["restore", SOURCE, "--to", &world.times[1], "--into", &into.to_string_lossy()])?.ok()?;
    ensure!(into.join("global/pg_control").is_file(), "the restore is not complete");

    // A new base makes what comes after it restorable; the gap stays.
    pitr.run(["backup", SOURCE])?;
    world.step().await?;
    world.server.archive_everything().await?;
    for target in ["latest", &world.times[5], &world.times[1]] {
        plan(&pitr, target).with_context(|| format!("{target} with a base after the gap"))?;
    }
    let error = refused_target(&pitr, &world.times[3])?;
    ensure!(follow(&pitr, &error)? > 0, "no restorable moment is named: {error}");
    pitr.run(["status", SOURCE])?.with_code(3)?;

    // The server still has the segment: pushing it again closes the gap.
    let own = world.server.data().join("pg_wal").join(&hit);
    pitr.run(["wal", "push", "--source", SOURCE, &own.to_string_lossy()])?.ok()?;
    for target in &across {
        plan(&pitr, target).with_context(|| format!("{target} after the gap was closed"))?;
    }
    pitr.run(["status", SOURCE])?.ok().map(drop)
}

#[tokio::test]
async fn a_target_that_cannot_be_restored_is_refused_with_one_that_can() -> Result<()> {
    let world = Stepped::new("targets", 3).await?;
    let (pitr, server) = (&world.pitr, &world.server);
    for name in ["once", "twice", "twice"] {
        server.execute(&format!("SELECT pg_create_restore_point('{name}')")).await?;
    }
    // An idle tail: no commit any more, and a checkpoint that proves how far the log reaches.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let idle = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    server.execute("CHECKPOINT").await?;
    server.archive_everything().await?;
    let kept = plan(pitr, &idle)?["last_kept"]["time"].clone();
    ensure!(kept.is_string() && kept == plan(pitr, "latest")?["last_kept"]["time"], "the tail lost a commit: {kept}");

    let ancient = refused_target(pitr, "2001-01-01T00:00:00Z")?;
    ensure!(follow(pitr, &ancient)? > 0, "no restorable moment is named: {ancient}");
    let future = refused_target(pitr, "2099-01-01T00:00:00Z")?;
    ensure!(message(&future).contains("reaches"), "the latest moment is not named: {future}");
    ensure!(follow(pitr, &future)? > 0, "no restorable moment is named: {future}");
    refused_target(pitr, "lsn:0/1")?;
    refused_target(pitr, "lsn:FF/0")?;
    refused_target(pitr, "xid:4000000000")?;
    plan(pitr, "name:once")?;
    let unknown = refused_target(pitr, "name:nowhere")?;
    ensure!(unknown["next"].to_string().contains("once"), "the names that exist are not listed: {unknown}");

    let plan_usage = |target: &str| refused(pitr, &["plan", SOURCE, "--to", target], 2, "usage");
    let zone = plan_usage("2026-09-07 02:57")?;
    ensure!(zone["next"].to_string().contains("+02:00"), "no zone is suggested: {zone}");
    // Which of the two is for the person to say: the candidates can be typed.
    let twice = refused_target(pitr, "name:twice")?;
    ensure!(follow(pitr, &twice)? == 2, "the candidates are not commands to type: {twice}");
    let hint = twice["next"].to_string();
    let candidates: BTreeSet<_> = hint
        .split(|c: char| c == '"' || c == ',' || c.is_whitespace())
        .filter(|word| word.starts_with("lsn:"))
        .collect();
    ensure!(candidates.len() == 2, "not two candidates: {twice}");
    for candidate in candidates {
        plan(pitr, candidate)?;
    }
    for target in ["", "yesterday-ish", "gtid:1-2-3", "xid:x", "lsn:zz"] {
        plan_usage(target).with_context(|| format!("target {target:?}"))?;
    }
    let mian = refused(pitr, &["plan", "mian", "--to", "latest"], 2, "usage")?;
    ensure!(mian.to_string().contains(SOURCE), "the sources that exist are not named: {mian}");
    for args in [vec!["plan", SOURCE], vec!["plan", SOURCE, "--to", "latest", "--before", "latest"], vec!["pan"]] {
        pitr.run(args)?.with_code(2)?;
    }
    Ok(())
}

#[tokio::test]
async fn restores_into_used_directories_and_from_unusable_archives_are_refused() -> Result<()> {
    let world = Stepped::new("harm", 1).await?;
    let pitr = &world.pitr;
    let restore = |into: &Path, code, word| {
        refused(pitr, &["restore", SOURCE, "--to", "latest", "--into", &into.to_string_lossy()], code, word)
    };
    let used = world.scratch.make("used")?;
    world.scratch.write("used/precious", "mine")?;
    restore(&used, 6, "refused")?;
    ensure!(files(&used)? == BTreeSet::from([used.join("precious")]), "something was added");
    ensure!(fs::read_to_string(used.join("precious"))? == "mine", "something was changed");
    restore(world.server.data(), 6, "refused")?;
    ensure!(world.server.value("SELECT count(*) FROM step").await? == "1", "the running server was harmed");

    let into = world.scratch.path().join("into");
    let config = fs::read_to_string(pitr.config())?;
    let fault = world.replace(pitr.config(), config.replacen("url =", "urll =", 1).as_bytes(), 0o600)?;
    let error = restore(&into, 2, "usage")?;
    ensure!(error.to_string().contains("urll"), "the unknown key is not named: {error}");
    fault.repair()?;
    let fault = world.take_away(pitr.archive()?)?;
    restore(&into, 10, "absent")?;
    fault.repair()?;
    let other = world.scratch.path().join("other.txt");
    pitr.run(["key", "new", "--identity-file", &other.to_string_lossy()])?.ok()?;
    let fault = world.replace(pitr.identity().context("encrypted")?, &fs::read(&other)?, 0o600)?;
    restore(&into, 12, "denied")?;
    fault.repair()?;
    ensure!(!into.join("PG_VERSION").exists(), "a refused restore left files");
    pitr.run(["restore", SOURCE, "--to", "latest", "--into", &into.to_string_lossy()])?.ok().map(drop)
}

#[tokio::test]
async fn a_push_takes_what_belongs_to_the_source_once_and_nothing_else() -> Result<()> {
    let mut world = Stepped::new("push", 2).await?;
    let pitr = world.pitr.clone();
    let push = |path: &Path| pitr.run(["wal", "push", "--source", SOURCE, &path.to_string_lossy()]);
    let wal = world.server.data().join("pg_wal");
    let whole = wal.join(world.segment(1)?);
    world.server.archive_everything().await?;
    let before = files(pitr.archive()?)?;

    // Again, and what the server keeps beside its segments.
    push(&whole)?.ok()?;
    let label = fs::read_dir(&wal)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let label = label.into_iter().find(|path| path.extension().is_some_and(|ext| ext == "backup"));
    push(&label.context("the server keeps no .backup file")?)?.ok()?;

    // Another cluster, and a server that has the right name and is not the one.
    let setup = Setup { segment_mib: 1, ..Setup::default() };
    let mut foreign = Postgres::create(&world.scratch, "foreign", &setup)?;
    foreign.start().await?;
    let theirs = foreign.value("SELECT pg_walfile_name(pg_switch_wal())").await?;
    let run = push(&foreign.data().join("pg_wal").join(theirs))?.with_code(6)?;
    ensure!(run.stderr.contains("system identifier"), "{run}");
    foreign.stop().await?;

    let damaged = world.scratch.make("damaged")?;
    let name = world.segment(1)?;
    let bytes = fs::read(&whole)?;
    let mut flipped = bytes.clone();
    flipped[100] ^= 1;
    for (what, content) in [("truncated", &bytes[..bytes.len() / 2]), ("empty", b""), ("flipped", &flipped[..])] {
        fs::write(damaged.join(name), content)?;
        refused_push(push(&damaged.join(name))?.code).with_context(|| what.to_owned())?;
    }
    for path in [damaged.join("000000010000000000000099"), damaged.join("postgresql.conf"), damaged.join("00000001")] {
        refused_push(push(&path)?.code).with_context(|| path.display().to_string())?;
    }
    for line in
        [vec!["wal", "push"], vec!["wal", "push", "--sorce", "x", "y"], vec!["wal", "push", "--source", "x", "y"]]
    {
        refused_push(pitr.run(&line)?.code).with_context(|| line.join(" "))?;
    }
    let fault = world.take_away(pitr.archive()?)?;
    refused_push(push(&whole)?.code)?;
    fault.repair()?;
    ensure!(files(pitr.archive()?)? == before, "a refused or repeated push changed the archive");
    clones(&mut world, &pitr).await
}

/// A copy of the data directory that runs on: on the same timeline it is refused, promoted it has a history of its own.
async fn clones(world: &mut Stepped, pitr: &Pitr) -> Result<()> {
    world.server.stop().await?;
    let at = |name: &str| world.scratch.path().join(name);
    for name in ["rogue", "promoted"] {
        succeed(world.scratch.command("cp").arg("-a").arg(world.server.data()).arg(at(name)))?;
    }
    world.scratch.write("promoted/standby.signal", "")?;
    let mut rogue = Postgres::at(&world.scratch, "rogue.run", 15, at("rogue"))?;
    let mut promoted = Postgres::at(&world.scratch, "promoted.run", 15, at("promoted"))?;
    world.server.start().await?;
    world.step().await?;
    world.server.archive_everything().await?;

    rogue.start().await?;
    rogue.execute("INSERT INTO step VALUES (666)").await?;
    let same_name = rogue.value("SELECT pg_walfile_name(pg_switch_wal())").await?;
    let stored = fs::read(world.object(&same_name)?)?;
    let path = rogue.data().join("pg_wal").join(&same_name);
    pitr.run(["wal", "push", "--source", SOURCE, &path.to_string_lossy()])?.with_code(6)?;
    ensure!(fs::read(world.object(&same_name)?)? == stored, "the archived segment was overwritten");
    // Its own archiver counts the failure and keeps the segment.
    let begun = Instant::now();
    while rogue.value("SELECT failed_count FROM pg_stat_archiver").await? == "0" {
        ensure!(begun.elapsed() < Duration::from_secs(15), "no failure is counted\n{}", rogue.log_tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rogue.kill()?;

    promoted.start().await?;
    ensure!(promoted.value("SELECT pg_promote()").await? == "true", "not promoted");
    promoted.archive_everything().await?;
    let stored = files(pitr.archive()?)?;
    let has = |end: &str| stored.iter().any(|path| path.to_string_lossy().contains(end));
    ensure!(has("/00000002.history"), "the history of the new timeline is not archived");
    ensure!(has(".partial"), "the unfinished segment of the old timeline is not archived");
    // Both histories are there, each restorable.
    ensure!(has("/00000002-0000000000/"), "no segment of the new timeline is archived");
    plan(pitr, "latest").map(drop)
}

fn refused_push(code: Option<i32>) -> Result<()> {
    ensure!(code.is_some_and(|code| (1..=125).contains(&code)), "exit code {code:?} would not make the server retry");
    Ok(())
}
