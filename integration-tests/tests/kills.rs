//! `kill -9` of every process at random moments: nothing that was acknowledged is lost, nothing half is ever shown, and
//! the same command again finishes the work.
//!
//! `PITR_KILLS=100` kills more often, `PITR_SEED` replays the moments.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "kills/watch.rs"]
mod watch;

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration_tests::ledger::{self, Load};
use integration_tests::seed::{generator, seed};
use integration_tests::{Pitr, Postgres, Run, Scratch, Setup, oracle};
use rand::RngExt;
use rand::rngs::StdRng;
use watch::{Hunt, Listing, Watch};

/// A server of version 15 with small segments, an encrypted archive of it, and an empty ledger.
struct World {
    scratch: Scratch,
    server: Postgres,
    pitr: Pitr,
    rng: StdRng,
    seed: u64,
}

impl World {
    async fn new(label: &str) -> Result<Self> {
        let seed = seed(label);
        let scratch = Scratch::new(label)?;
        let setup = Setup { segment_mib: 1, ..Setup::default() };
        let mut server = Postgres::create(&scratch, "primary", &setup)?;
        let pitr = Pitr::local(&scratch, &server)?;
        pitr.run(["init"])?.ok()?;
        server.archive_with(&pitr)?;
        server.start().await?;
        ledger::prepare(&server).await?;
        Ok(Self { scratch, server, pitr, rng: generator(seed, 1), seed })
    }

    fn load(&self, round: u32) -> Load {
        Load { seed: self.seed, round, clients: 8, transactions: 25, marks: 0 }
    }

    /// Everything is archived, sound and without a hole, and a restore to the end shows what the server shows.
    async fn all_is_there(&mut self, name: &str) -> Result<()> {
        self.server.archive_everything().await?;
        sound(&self.pitr)?;
        ensure!(gaps(&self.pitr)? == 0, "there is a gap: {}", self.pitr.run(["status"])?);
        let into = self.scratch.path().join(name);
        restore(&self.pitr, &into)?.ok()?;
        self.shows_all(name, &into).await
    }

    async fn shows_all(&self, name: &str, into: &Path) -> Result<()> {
        let mut restored = Postgres::at(&self.scratch, &format!("{name}.run"), 15, into.to_owned())?;
        restored.start().await?;
        oracle::wait_for_pause(&mut restored).await?;
        self.same_content(&restored).await
    }

    async fn same_content(&self, restored: &Postgres) -> Result<()> {
        let (want, found) = (ledger::content(&self.server).await?, ledger::content(restored).await?);
        ensure!(want.len() > 50, "only {} transactions in the ledger", want.len());
        ensure!(
            want == found,
            "{} transactions on the source, {} restored, or their rows differ",
            want.len(),
            found.len()
        );
        Ok(())
    }
}

#[tokio::test]
async fn a_push_that_is_killed_loses_nothing_and_overwrites_nothing() -> Result<()> {
    let mut world = World::new("kill-push").await?;
    let killed = world.scratch.write("killed", "")?;
    let usual = world.scratch.write("usual", "20000")?;
    // `RANDOM` of bash differs from process to process; its seed comes from ours and the number of the kill. A push is
    // killed within the microseconds that the last whole one took, however fast the machine is.
    let script = format!(
        "RANDOM=$(( ({seed} + $(stat -c %s {killed}) + $$) % 32768 ))\n\
         dice=$RANDOM\nprintf -v pause '%06d' $(( RANDOM * $(cat {usual}) / 32768 ))\n\
         begun=${{EPOCHREALTIME/[.,]/}}\n\
         {push} &\npid=$!\n\
         if (( dice % 2 )); then sleep 0.$pause; kill -9 $pid 2>/dev/null && echo -n k >> {killed}; fi\n\
         wait $pid || exit 1\n\
         took=$(( ${{EPOCHREALTIME/[.,]/}} - begun ))\n\
         (( dice % 2 )) || echo $(( took < 900000 ? took : 900000 )) > {usual}\n",
        seed = world.seed % 32768,
        usual = usual.display(),
        killed = killed.display(),
        push = world.pitr.push_command().replace("%p", "\"$1\""),
    );
    let script = world.scratch.write("push.sh", &script)?;
    world.server.configure([format!("archive_command = 'bash {} %p'", script.display()).as_str()])?;
    let nudge = nudge(&world.server).await?;
    world.server.reload()?;
    let watch = Watch::begin(world.pitr.archive()?);
    world.pitr.run(["backup", "main"])?.ok()?;
    let enough = kills(3);
    for round in 1.. {
        ledger::run(&world.server, &world.load(round)).await?;
        world.server.archive_everything().await?;
        let count = std::fs::metadata(&killed)?.len() as usize;
        if count >= enough && round >= 3 {
            eprintln!("{count} pushes killed in {round} rounds");
            break;
        }
        ensure!(round < 20 + u32::try_from(enough)?, "only {count} pushes were killed");
    }
    world.all_is_there("latest").await?;
    nudge.abort();
    let seen = watch.end()?;
    ensure!(seen > 15, "only {seen} objects were watched");
    Ok(())
}

#[tokio::test]
async fn a_backup_that_is_killed_is_never_listed_half_and_the_next_one_works() -> Result<()> {
    let mut world = World::new("kill-backup").await?;
    ledger::run(&world.server, &world.load(1)).await?;
    world.pitr.run(["backup", "main", "--no-wait"])?;
    // Of the second one: it stores what is new, as those do that will be killed.
    let before = Instant::now();
    world.pitr.run(["backup", "main", "--no-wait"])?;
    let usual = before.elapsed();
    let mut killed = 0;
    for round in 0..kills(6) {
        ledger::run(&world.server, &Load { transactions: 3, ..world.load(10 + u32::try_from(round)?) }).await?;
        let listed = bases(&world.pitr)?;
        let mut child = world.pitr.spawn(["backup", "main", "--no-wait"])?;
        killed += usize::from(kill_within(&mut child, usual, &mut world.rng)?);
        // Every base that is listed can be read whole, that of a kill after its manifest was written too.
        ensure!(bases(&world.pitr)? <= listed + 1, "a backup left two bases");
        sound(&world.pitr)?;
    }
    eprintln!("{killed} backups killed, one takes {usual:?}");
    ensure!(killed > 0, "no backup was killed");
    let listed = bases(&world.pitr)?;
    world.pitr.run(["backup", "main"])?.ok()?;
    ensure!(bases(&world.pitr)? == listed + 1, "the whole base is not listed");
    world.all_is_there("latest").await
}

#[tokio::test]
async fn a_restore_that_is_killed_cannot_be_started_and_goes_on_when_repeated() -> Result<()> {
    let mut world = World::new("kill-restore").await?;
    world.pitr.run(["backup", "main"])?.ok()?;
    ledger::run(&world.server, &world.load(1)).await?;
    world.all_is_there("whole").await?;
    let begun = Instant::now();
    restore(&world.pitr, &world.scratch.path().join("timed"))?.ok()?;
    let usual = begun.elapsed();
    let into = world.scratch.path().join("killed");
    let marker = into.join(".pitr-restore-unfinished");
    let (enough, mut killed, mut tries) = (kills(5), 0, 0);
    // The last one must leave something to go on with.
    while killed < enough || !marker.exists() {
        tries += 1;
        ensure!(tries < 20 + 4 * enough, "of {tries} restores only {killed} were killed");
        let mut child = world.pitr.spawn(restore_args(&into))?;
        if !kill_within(&mut child, usual, &mut world.rng)? || (into.exists() && !marker.exists()) {
            // It was complete before the kill: begin again, else there is nothing to go on with.
            ensure!(into.join("global/pg_control").exists(), "complete without pg_control");
            std::fs::remove_dir_all(&into)?;
            continue;
        }
        killed += 1;
        // The control file is the last one: where it is, all others are.
        if into.exists() && !into.join("global/pg_control").exists() {
            let mut half = Postgres::at(&world.scratch, &format!("half{killed}"), 15, into.clone())?;
            half.launch()?;
            ensure!(!half.wait_for_end().await?, "half a directory started");
        }
    }
    let run = world.pitr.json(restore_args(&into))?;
    eprintln!("{killed} restores killed, one takes {usual:?}");
    ensure!(run["resumed"] == true, "the report does not say that it went on: {run}");
    ensure!(!marker.exists(), "the marker is still there");
    world.shows_all("killed", &into).await
}

#[tokio::test]
async fn a_server_that_is_killed_goes_on_archiving_without_a_gap() -> Result<()> {
    let mut world = World::new("kill-server").await?;
    world.pitr.run(["backup", "main"])?.ok()?;
    for round in 0..kills(4) {
        let load = Load { transactions: 400, ..world.load(1 + u32::try_from(round)?) };
        let moment = Duration::from_millis(world.rng.random_range(150..700));
        tokio::select! {
            done = ledger::run(&world.server, &load) => done?,
            () = tokio::time::sleep(moment) => {}
        }
        world.server.kill()?;
        world.server.start().await?;
    }
    world.server.archive_everything().await?;
    // After a crash the server may push what is stored already.
    let segment = archived_segment(world.server.data())?;
    let before = Listing::of(world.pitr.archive()?);
    let path = segment.to_string_lossy();
    world.pitr.run(["wal", "push", &path, "--source", "main"])?.ok()?;
    ensure!(Listing::of(world.pitr.archive()?) == before, "an identical push changed the archive");
    world.all_is_there("latest").await
}

#[tokio::test]
async fn a_fetch_that_is_killed_ends_the_recovery_at_worst_and_never_promotes() -> Result<()> {
    let world = World::new("kill-fetch").await?;
    world.pitr.run(["backup", "main"])?.ok()?;
    ledger::run(&world.server, &world.load(1)).await?;
    ledger::run(&world.server, &world.load(2)).await?;
    world.server.archive_everything().await?;
    let into = world.scratch.path().join("latest");
    restore(&world.pitr, &into)?.ok()?;

    let (enough, killed) = (kills(4), world.scratch.write("killed", "")?);
    let auto = into.join("postgresql.auto.conf");
    let conf = std::fs::read_to_string(&auto)?;
    let line = conf.lines().find(|line| line.starts_with("restore_command = ")).context("no restore_command")?;
    let fetch = line.trim_start_matches("restore_command = ").trim_matches('\'').replace("''", "'");
    let fetch = fetch.replace("%f", "$1").replace("%p", "$2").replace("%%", "%");
    let script = format!(
        "done=$(stat -c %s {killed})\nRANDOM=$(( ({seed} + done + $$) % 32768 ))\n\
         {fetch} &\npid=$!\n\
         if (( done < {enough} && (done == 0 || RANDOM % 2) )); then\n\
         (( done == 0 )) || sleep 0.0$(( RANDOM % 2 ))$(( RANDOM % 10 )); kill -9 $pid 2>/dev/null && echo -n k >> {killed}\nfi\n\
         wait $pid; code=$?\n(( code > 128 )) && exit 255\nexit $code\n",
        seed = world.seed % 32768,
        killed = killed.display(),
    );
    let script = world.scratch.write("fetch.sh", &script)?;
    let text = format!("{conf}restore_command = 'bash {} %f %p'\n", script.display());
    std::fs::write(&auto, text)?;

    let hunt = Hunt::begin(into.join("pitr.spool"), generator(world.seed, 5));
    let mut restored = Postgres::at(&world.scratch, "latest.run", 15, into.clone())?;
    let mut starts = 0;
    loop {
        starts += 1;
        ensure!(starts <= enough + 3, "still not at the target after {starts} starts\n{}", restored.log_tail());
        restored.launch()?;
        match oracle::wait_for_pause(&mut restored).await {
            Ok(()) => break,
            // Running and not at its target: it promoted itself, or hangs.
            Err(error) if restored.is_running()? => return Err(error),
            Err(_) => {}
        }
    }
    let prefetches = hunt.end();
    eprintln!("{} fetches and {prefetches} prefetches killed, {starts} starts", std::fs::metadata(&killed)?.len());
    ensure!(std::fs::metadata(&killed)?.len() > 0, "no fetch was killed");
    ensure!(!into.join("pg_wal/00000002.history").exists(), "a new timeline was begun");
    world.same_content(&restored).await
}

/// `PITR_KILLS`, else this many.
fn kills(usual: usize) -> usize {
    std::env::var("PITR_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Kills a child at a random moment of its usual time; false if it had ended before.
fn kill_within(child: &mut Child, usual: Duration, rng: &mut StdRng) -> Result<bool> {
    std::thread::sleep(usual.mul_f64(rng.random_range(0.02..1.0)));
    let early = child.try_wait()?.is_none();
    // Of a child that has ended this is no error.
    child.kill()?;
    child.wait()?;
    Ok(early)
}

fn restore_args(into: &Path) -> [String; 6] {
    ["restore", "main", "--to", "latest", "--into", &into.to_string_lossy()].map(str::to_owned)
}

fn restore(pitr: &Pitr, into: &Path) -> Result<Run> {
    pitr.run(restore_args(into))
}

/// Warnings are allowed, damage is not.
fn sound(pitr: &Pitr) -> Result<()> {
    let run = pitr.run(["verify"])?;
    ensure!(matches!(run.code, Some(0 | 3)), "{run}");
    Ok(())
}

fn gaps(pitr: &Pitr) -> Result<usize> {
    Ok(pitr.json(["status"])?["sources"][0]["gaps"].as_array().context("no gaps in status")?.len())
}

fn bases(pitr: &Pitr) -> Result<usize> {
    Ok(pitr.json(["list", "main"])?["bases"].as_array().context("no bases in list")?.len())
}

/// A segment that is archived and still in the server's own directory.
fn archived_segment(data: &Path) -> Result<PathBuf> {
    for entry in std::fs::read_dir(data.join("pg_wal/archive_status"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".done").filter(|name| name.len() == 24) else { continue };
        if data.join("pg_wal").join(name).exists() {
            return Ok(data.join("pg_wal").join(name));
        }
    }
    bail!("no archived segment is left in {}", data.display())
}

/// Wakes the archiver all the time: after three failures it would wait for a minute.
async fn nudge(server: &Postgres) -> Result<tokio::task::JoinHandle<()>> {
    let client = server.connect().await?;
    Ok(tokio::spawn(async move {
        while client.batch_execute("SELECT pg_reload_conf()").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }))
}
