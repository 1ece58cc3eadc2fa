//! What a restore must find before it begins, and what it leaves behind: nothing outside the directory it was given.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use integration_tests::stepped::Stepped;
use integration_tests::{Pitr, Postgres, Run, SOURCE, succeed};

/// Names in a directory.
fn names(dir: &Path) -> Result<BTreeSet<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

/// Directories of private servers in the temporary directory.
fn run_directories() -> Result<BTreeSet<PathBuf>> {
    let ours = |path: &PathBuf| {
        let rest = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("pitr-"));
        rest.is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
    };
    Ok(names(Path::new("/tmp"))?.into_iter().filter(ours).collect())
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !done().await? {
        ensure!(begun.elapsed() < Duration::from_secs(30), "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Restores and starts; the server that `pitr` left running.
fn started(world: &Stepped, into: &Path, options: &[&str]) -> Result<Postgres> {
    let (into_text, bin) = (into.to_string_lossy(), world.server.bin().to_string_lossy());
    let line = ["restore", SOURCE, "--to", "latest", "--into", &into_text, "--start", "--bin-dir", &bin];
    let data = world.pitr.json([&line[..], options].concat())?;
    let directory = data["socket"]["directory"].as_str().with_context(|| format!("no socket in {data}"))?;
    ensure!(Path::new(directory).starts_with(into), "the private server is outside its directory: {directory}");
    let port = data["socket"]["port"].as_u64().context("no port")?;
    Postgres::running(&world.scratch, 15, into.to_owned(), directory.into(), u16::try_from(port)?)
}

fn stop(server: &Postgres) -> Result<()> {
    succeed(server.program("pg_ctl").arg("-D").arg(server.data()).args(["stop", "-m", "fast", "-w"]))
}

#[tokio::test]
async fn nothing_outlives_the_directory_that_was_restored() -> Result<()> {
    let mut world = Stepped::new("leaves", 1).await?;
    // The worst that a source's own configuration can say: a server of it would run in the directory of the source.
    let data = format!("data_directory = '{}'", world.server.data().display());
    let included = world.scratch.write("included.conf", &data)?;
    let included = format!("include '{}'", included.display());
    let pid = format!("external_pid_file = '{}'", world.scratch.path().join("source.pid").display());
    world.server.configure([data.as_str(), included.as_str(), pid.as_str()])?;
    world.pitr.run(["backup", SOURCE])?.ok()?;
    for _ in 0..4 {
        world.step().await?;
    }
    world.server.archive_everything().await?;
    let (around, temporary) = (names(world.scratch.path())?, run_directories()?);
    let (resumed, promoted) = (world.scratch.path().join("resumed"), world.scratch.path().join("promoted"));

    let server = started(&world, &resumed, &[])?;
    ensure!(
        server.value("current_setting('data_directory')").await? == resumed.to_string_lossy(),
        "it runs in another directory"
    );
    ensure!(resumed.join("pitr.spool").is_dir(), "nothing was fetched ahead, so nothing is proved");
    server.execute("SELECT pg_wal_replay_resume()").await?;
    until("recovery ended", async || Ok(server.value("SELECT pg_is_in_recovery()").await? == "false")).await?;
    until("the spool is gone", async || Ok(!resumed.join("pitr.spool").exists())).await?;
    stop(&server)?;
    let mut by_hand = Postgres::at(&world.scratch, "resumed.run", 15, resumed.clone())?;
    by_hand.start().await?;
    ensure!(
        by_hand.value("current_setting('data_directory')").await? == resumed.to_string_lossy(),
        "it runs in another directory"
    );
    by_hand.stop().await?;
    drop(by_hand);
    fs::remove_dir_all(world.scratch.path().join("resumed.run.s"))?;

    let server = started(&world, &promoted, &["--promote"])?;
    ensure!(server.value("SELECT count(*) FROM step").await? == "5", "rows are missing");
    until("the spool is gone", async || Ok(!promoted.join("pitr.spool").exists())).await?;
    // A base of this server does not bring its own leftovers with it, nor is it confused by them.
    ensure!(promoted.join("pitr.run").is_dir(), "the private server was elsewhere");
    stop(&server)?;

    let mut left = names(world.scratch.path())?;
    ensure!(left.remove(&resumed) && left.remove(&promoted), "the restored directories are gone");
    ensure!(left == around, "left beside the restored directories: {:?}", left.difference(&around));
    let more: Vec<_> = run_directories()?.difference(&temporary).cloned().collect();
    ensure!(more.is_empty(), "left in the temporary directory: {more:?}");
    Ok(())
}

#[tokio::test]
async fn a_backup_sweeps_what_killed_writers_left_in_a_local_archive() -> Result<()> {
    let world = Stepped::new("sweep", 1).await?;
    let object = world.object(world.segment(1)?)?;
    let beside = |digits: &str| PathBuf::from(format!("{}#{digits}", object.display()));
    let (old, young) = (beside("12345"), beside("67890"));
    let owner = fs::metadata(&object)?;
    for (path, age) in [(&old, 2), (&young, 0)] {
        fs::write(path, "half a segment")?;
        chown(path, Some(owner.uid()), Some(owner.gid()))?;
        let file = fs::File::options().write(true).open(path)?;
        file.set_modified(SystemTime::now() - Duration::from_secs(age * 86_400))?;
    }
    world.pitr.run(["verify"])?.ok()?;
    ensure!(old.exists(), "who only reads an archive removes nothing");
    world.pitr.run(["backup", SOURCE])?.ok()?;
    ensure!(!old.exists(), "what a killed writer left two days ago is still there");
    ensure!(young.exists(), "a running writer lost its file");
    world.pitr.run(["verify"])?.ok().map(drop)
}

/// As root, who may read everything.
fn as_root(pitr: &Pitr, args: &[&str]) -> Result<Run> {
    let mut command = Command::new(pitr.program());
    command.args(args).env("PITR_CONFIG", pitr.config()).env("LC_ALL", "C.UTF-8").current_dir("/");
    Pitr::finish(command)
}

#[tokio::test]
async fn root_is_told_before_anything_is_written_what_the_servers_user_cannot_read() -> Result<()> {
    let mut world = Stepped::new("as-root", 2).await?;
    world.server.stop().await?;
    if !fs::metadata("/proc/self")?.uid().eq(&0) {
        eprintln!("not root: nothing to prove");
        return Ok(());
    }
    let pitr = &world.pitr;
    let identity = pitr.identity().context("encrypted")?;
    let servers = fs::metadata(identity)?;
    let into = world.scratch.path().join("restored");
    let line = ["restore", SOURCE, "--to", "latest", "--into", &into.to_string_lossy()];
    let around = names(world.scratch.path())?;

    let closed = world.scratch.make("closed")?;
    chown(&closed, Some(0), Some(0))?;
    let hidden = closed.join("identity.txt");
    fs::copy(identity, &hidden)?;
    fs::set_permissions(&hidden, PermissionsExt::from_mode(0o600))?;
    let toml = fs::read_to_string(pitr.config())?;
    let moved = toml.replace(&*identity.to_string_lossy(), &hidden.to_string_lossy());
    for (what, config, fix) in [
        ("the identity is root's", &toml, format!("chown postgres {}", identity.display())),
        ("the identity's directory is root's", &moved, format!("chmod a+x {}", closed.display())),
    ] {
        chown(identity, Some(0), Some(0))?;
        let fault = world.replace(pitr.config(), config.as_bytes(), 0o600)?;
        let run = as_root(pitr, &line)?.with_code(6).context(what)?;
        ensure!(run.stderr.contains(&fix), "{what}: the way out is not named: {run}");
        fault.repair()?;
        chown(identity, Some(servers.uid()), Some(servers.gid()))?;
        ensure!(!into.exists(), "{what}: something was written");
    }
    fs::remove_dir_all(&closed)?;
    ensure!(names(world.scratch.path())? == around, "something was written beside the directory");

    // Into a directory of root's own, no server could be started.
    let of_root = tempfile::Builder::new().prefix("pitr-of-root-").tempdir()?;
    let inside = of_root.path().join("data");
    let run = as_root(pitr, &["restore", SOURCE, "--to", "latest", "--start", "--into", &inside.to_string_lossy()])?;
    ensure!(run.with_code(6)?.stderr.contains("install -d -o postgres"), "the way out is not named");
    ensure!(!inside.exists(), "something was written");

    as_root(pitr, &line)?.ok()?;
    let mut restored = Postgres::at(&world.scratch, "restored.run", 15, into)?;
    restored.start().await?;
    integration_tests::oracle::wait_for_pause(&mut restored).await?;
    ensure!(restored.value("SELECT count(*) FROM step").await? == "2", "rows are missing");
    Ok(())
}
