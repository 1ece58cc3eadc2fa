//! An archive that somebody altered: every flipped bit, missing byte and swapped object is found and named, and never
//! reaches a restored server. And no secret stands anywhere where it can be read.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "tamper/harm.rs"]
mod harm;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harm::{HARMS, Harm, Undo, files, holds, kinds, write_over};
use integration_tests::{Pitr, Postgres, Run, SOURCE, Scratch, Setup, Streamer, oracle};
use serde_json::Value;

/// In every row of the canary table, and so in base and log.
const ROW: &str = "canary-row-5b1f0e77";
const TABLE: &str = "canary_table_91ac";
const PASSWORD: &str = "canary-password-c03d";

/// A server whose archive has an object of every kind.
struct World {
    scratch: Scratch,
    pitr: Pitr,
    archive: PathBuf,
    /// Keys of the objects by kind, two of each where there are two.
    kinds: BTreeMap<&'static str, Vec<String>>,
}

impl World {
    async fn new(label: &str, encrypted: bool) -> Result<Self> {
        let scratch = Scratch::new(label)?;
        let setup = Setup { segment_mib: 1, ..Setup::default() };
        let mut server = Postgres::create(&scratch, "primary", &setup)?;
        // The end of a group is near, so that its roll-up is cheap.
        let mut reset = server.program("pg_resetwal");
        integration_tests::succeed(reset.arg("-D").arg(server.data()).args(["-l", "0000000100000000000000F6"]))?;
        let pitr = Pitr::in_directory(&scratch, &server, encrypted)?;
        pitr.run(["init"])?.ok()?;
        server.archive_with(&pitr)?;
        server.start().await?;
        server
            .execute(&format!(
                "CREATE TABLE {TABLE} AS SELECT n, '{ROW}-' || n AS payload FROM generate_series(1, 2000) n"
            ))
            .await?;
        pitr.run(["backup", SOURCE])?.ok()?;
        for _ in 0..12 {
            server
                .execute(&format!(
                    "INSERT INTO {TABLE} SELECT n, '{ROW}-' || md5(n::text) FROM generate_series(1, 50) n"
                ))
                .await?;
            server.execute("SELECT pg_switch_wal()").await?;
        }
        server.archive_everything().await?;
        pitr.run(["backup", SOURCE])?.ok()?;
        server.archive_everything().await?;
        let mut streamer = Streamer::start(&scratch, &pitr)?;
        streamer.says("streaming").await?;
        for n in 1..=2 {
            server.execute(&format!("INSERT INTO {TABLE} VALUES ({n}, '{ROW}-open')")).await?;
            streamer.catches_up(&server).await?;
        }
        streamer.terminate().await?;
        // A server that ends in peace would seal the open segment.
        server.kill()?;
        let archive = pitr.archive()?.to_owned();
        let kinds = kinds(&archive)?;
        let expected = [
            "archive",
            "base_index",
            "base_packs",
            "digest_key",
            "file",
            "lineage",
            "manifest",
            "pack",
            "rollup",
            "segment",
            "tail",
        ];
        ensure!(kinds.keys().eq(&expected), "the archive has only {:?}", kinds.keys());
        Ok(Self { scratch, pitr, archive, kinds })
    }

    /// Exit code of `pitr verify`, and everything it says.
    fn verify(&self) -> Result<Run> {
        self.pitr.run(["-o", "json", "verify"])
    }

    fn is_found(&self, keys: &[&str], what: &str) -> Result<()> {
        let run = self.verify()?;
        let code = if keys == ["archive"] { matches!(run.code, Some(5 | 12)) } else { run.code == Some(5) };
        ensure!(code, "{what} of {keys:?} is not found: {run}");
        for key in keys {
            ensure!(run.text().contains(key), "{what}: {key} is not named: {run}");
        }
        Ok(())
    }

    fn is_whole(&self) -> Result<()> {
        self.verify()?.ok().map(drop)
    }

    fn harmed(&self, key: &str, harm: Harm) -> Result<Undo> {
        let undo = Undo::of(&self.archive.join(key))?;
        let mut bytes = undo.bytes.clone();
        harm.apply(&mut bytes)?;
        write_over(&undo.path, &bytes)?;
        Ok(undo)
    }

    fn deleted(&self, key: &str) -> Result<Undo> {
        let undo = Undo::of(&self.archive.join(key))?;
        fs::remove_file(&undo.path)?;
        Ok(undo)
    }

    fn key(&self, kind: &str) -> &str {
        &self.kinds[kind][0]
    }

    fn answers(&self) -> Result<[Value; 2]> {
        Ok([self.pitr.json(["status"])?["sources"].take(), self.pitr.json(["plan", SOURCE, "--to", "latest"])?])
    }
}

#[tokio::test]
async fn every_alteration_of_an_encrypted_archive_is_found_and_never_restored() -> Result<()> {
    alterations("tamper", true).await
}

#[tokio::test]
async fn every_alteration_of_a_plain_archive_is_found_and_never_restored() -> Result<()> {
    alterations("tamper-plain", false).await
}

async fn alterations(label: &str, encrypted: bool) -> Result<()> {
    let world = World::new(label, encrypted).await?;
    world.is_whole()?;
    // What hides nothing else is altered at once; the others one by one.
    let together = ["segment", "file", "rollup", "pack", "lineage", "tail"];
    let alone = ["archive", "digest_key", "manifest", "base_index", "base_packs"];
    let groups = alone.map(|kind| vec![kind]).into_iter().chain([together.to_vec()]);
    for kinds in groups {
        let keys: Vec<&str> = kinds.iter().map(|kind| world.key(kind)).collect();
        for harm in HARMS {
            let undo = keys.iter().map(|key| world.harmed(key, harm)).collect::<Result<Vec<_>>>()?;
            world.is_found(&keys, &format!("{harm:?}"))?;
            drop(undo);
        }
        let pairs: Vec<_> =
            kinds.iter().filter_map(|kind| Some((world.key(kind), world.kinds[kind].get(1)?))).collect();
        let swapped = pairs.iter().map(|(a, b)| swap(&world, a, b)).collect::<Result<Vec<_>>>()?;
        if !pairs.is_empty() {
            let keys: Vec<&str> = pairs.iter().flat_map(|(a, b)| [*a, b.as_str()]).collect();
            // Of two bases with each other's manifest, any finding is enough; of all others both are named.
            let keys = if kinds == ["manifest"] { &keys[..1] } else { &keys[..] };
            world.is_found(keys, "swap")?;
        }
        drop(swapped);
    }
    world.is_whole()?;
    nothing_wrong_is_restored(&world)?;
    what_is_missing_is_told(&world)?;
    a_rollup_never_changes_the_answer(&world)?;
    world.is_whole()?;
    what_is_whole_restores(&world).await
}

fn swap(world: &World, a: &str, b: &str) -> Result<(Undo, Undo)> {
    let undo = (Undo::of(&world.archive.join(a))?, Undo::of(&world.archive.join(b))?);
    write_over(&undo.0.path, &undo.1.bytes)?;
    write_over(&undo.1.path, &undo.0.bytes)?;
    Ok(undo)
}

/// A restore that needs an altered object ends with 5 and leaves nothing that could be started. What it does not need
/// changes nothing.
fn nothing_wrong_is_restored(world: &World) -> Result<()> {
    let base = world.key("manifest").rsplit('/').nth(1).context("no base")?.to_owned();
    let into = world.scratch.path().join("altered");
    let name = into.to_string_lossy();
    let restore = || world.pitr.run(["restore", SOURCE, "--to", "latest", "--base", &base, "--into", &name]);
    restore()?.ok()?;
    fs::remove_dir_all(&into)?;
    for kind in ["lineage", "manifest", "base_index", "base_packs", "pack", "tail"] {
        for harm in [Harm::FactsLine, Harm::Middle, Harm::Truncate] {
            let undo = world.harmed(world.key(kind), harm)?;
            let run = restore()?;
            drop(undo);
            ensure!(run.code == Some(5), "{harm:?} of {kind}: {run}");
            ensure!(!into.join("global/pg_control").exists(), "{harm:?} of {kind} left a directory that starts");
            if into.exists() {
                fs::remove_dir_all(&into)?;
            }
        }
    }
    let segment = world.key("segment");
    let name = segment.rsplit('/').next().context("no name")?;
    let to = world.scratch.path().join("fetched");
    for harm in HARMS {
        let undo = world.harmed(segment, harm)?;
        let run =
            world.pitr.run(["wal", "fetch", name, &to.to_string_lossy(), "--source", SOURCE, "--deadline", "2"])?;
        drop(undo);
        ensure!(run.code == Some(255) && !to.exists(), "{harm:?} of a segment: {run}");
    }
    Ok(())
}

fn what_is_missing_is_told(world: &World) -> Result<()> {
    // Two that a roll-up knows, the oldest one among them, and one that is known by its own header alone. That the very
    // last one is missing nobody can tell: the log would have ended there.
    let log = &world.kinds["segment"];
    for key in [&log[0], &log[log.len() / 3], &log[log.len() - 2]] {
        let undo = world.deleted(key)?;
        let run = world.pitr.run(["-o", "json", "status"])?;
        ensure!(run.code == Some(3), "{key} is missing: {run}");
        let status: Value = serde_json::from_str(&run.stdout)?;
        let gap = &status["data"]["sources"][0]["gaps"][0];
        ensure!(gap["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{key}: no cause in {gap}");
        ensure!(world.verify()?.code == Some(3), "{key} is missing and verify does not say so");
        drop(undo);
    }
    for kind in ["pack", "base_index", "base_packs"] {
        let key = world.key(kind);
        let undo = world.deleted(key)?;
        world.is_found(&[key], "deletion")?;
        if kind == "pack" {
            let document: Value = serde_json::from_str(&world.verify()?.stdout)?;
            let damaged = &document["data"]["sources"][0]["damaged"];
            ensure!(damaged[0]["affects"][0].is_string(), "no part is named: {damaged}");
        }
        drop(undo);
    }
    Ok(())
}

/// Derived data: damaged or gone, the answer is the same.
fn a_rollup_never_changes_the_answer(world: &World) -> Result<()> {
    let (key, whole) = (world.key("rollup"), world.answers()?);
    for harm in HARMS {
        let undo = world.harmed(key, harm)?;
        ensure!(world.answers()? == whole, "{harm:?} of a roll-up changed the answer");
        drop(undo);
    }
    let undo = world.deleted(key)?;
    ensure!(world.answers()? == whole, "a missing roll-up changed the answer");
    world.is_whole()?;
    drop(undo);
    Ok(())
}

async fn what_is_whole_restores(world: &World) -> Result<()> {
    let into = world.scratch.path().join("again");
    world.pitr.run(["restore", SOURCE, "--to", "latest", "--into", &into.to_string_lossy()])?.ok()?;
    let mut restored = Postgres::at(&world.scratch, "again.run", 15, into)?;
    restored.start().await?;
    oracle::wait_for_pause(&mut restored).await?;
    let rows = restored.value(&format!("SELECT count(*) FROM {TABLE} WHERE payload LIKE '{ROW}-%'")).await?;
    ensure!(rows == "2602", "{rows} rows");
    Ok(())
}

#[tokio::test]
async fn no_secret_is_in_the_archive_the_output_or_a_process_list() -> Result<()> {
    let scratch = Scratch::new("canary")?;
    let mut server = Postgres::create(&scratch, "primary", &Setup { segment_mib: 1, ..Setup::default() })?;
    let pitr = Pitr::local(&scratch, &server)?;
    let file = scratch.write("password", PASSWORD)?;
    let config = fs::read_to_string(pitr.config())?;
    scratch.write("pitr.toml", &format!("{config}password_file = {file:?}\n"))?;
    let identity = fs::read_to_string(pitr.identity().context("no identity")?)?;
    let identity = identity.lines().find(|line| line.starts_with("AGE-SECRET-KEY")).context("no secret")?.to_owned();
    let secrets = [ROW, TABLE, PASSWORD, &identity];

    let watch = watch_process_lists(&secrets);
    let mut runs = vec![pitr.run(["-vv", "init"])?];
    server.archive_with(&pitr)?;
    server.start().await?;
    server
        .execute(&format!(
            "CREATE TABLE {TABLE} AS SELECT n, '{ROW}-' || n AS payload FROM generate_series(1, 20000) n"
        ))
        .await?;
    runs.push(pitr.run(["-vv", "backup", SOURCE])?);
    server.execute(&format!("UPDATE {TABLE} SET payload = payload || '{ROW}'")).await?;
    server.archive_everything().await?;
    let into = scratch.path().join("restored");
    let into = into.to_string_lossy();
    let lines: [&[&str]; 7] = [
        &["-vv", "status"],
        &["-vv", "list", SOURCE],
        &["-vv", "plan", SOURCE, "--to", "latest"],
        &["-vv", "verify"],
        &["-vv", "key", "check"],
        &["-vv", "-o", "json", "check"],
        &["-vv", "restore", SOURCE, "--to", "latest", "--into", &into],
    ];
    for line in lines {
        runs.push(pitr.run(line)?);
    }
    let seen = watch.end();
    ensure!(seen.is_empty(), "process lists show {seen:?}");
    for run in &runs {
        ensure!(run.code.is_some_and(|code| code <= 3), "{run}");
        ensure!(!secrets.iter().any(|secret| run.text().contains(secret)), "a secret is in the output: {run}");
    }
    // The secrets are there to be found: the restored files have the rows, in clear.
    let clear = files(Path::new(&*into))?;
    ensure!(clear.iter().any(|path| holds(path, ROW)), "the rows are not in the restored files");
    for path in files(pitr.archive()?)? {
        for secret in secrets {
            ensure!(!holds(&path, secret), "{secret} is in {}", path.display());
        }
    }
    ensure!(!server.log().contains(PASSWORD), "the password is in the server's log");
    Ok(())
}

struct ProcessWatch(Arc<AtomicBool>, std::thread::JoinHandle<Vec<String>>);

impl ProcessWatch {
    fn end(self) -> Vec<String> {
        self.0.store(true, Ordering::Relaxed);
        self.1.join().expect("the watch panicked")
    }
}

/// Reads the command line of every running `pitr`, all the time.
fn watch_process_lists(secrets: &[&str]) -> ProcessWatch {
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, secrets) = (stop.clone(), secrets.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    let look = move || {
        let mut seen = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
                let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).into_owned();
                if line.contains("/pitr\0") && secrets.iter().any(|secret| line.contains(secret)) {
                    seen.push(line);
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        seen
    };
    ProcessWatch(stop, std::thread::spawn(look))
}
