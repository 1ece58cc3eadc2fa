//! An archive with two histories, from which something of one of them was taken or altered.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "tamper/harm.rs"]
#[allow(dead_code)]
mod harm;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harm::{HARMS, Undo, files, write_over};
use integration_tests::stepped::Stepped;
use integration_tests::{Postgres, SOURCE, oracle};

/// A server that left its first timeline in the middle of a segment: rows 1 to 3 before, 4 and 5 after.
struct World {
    stepped: Stepped,
    /// The last row of the first timeline, as a target; it is in the unfinished segment alone.
    in_partial: String,
    /// The two lineages, as they are named, and the objects that tests take away.
    lineages: [String; 2],
    records: [PathBuf; 2],
    history: PathBuf,
    partial: PathBuf,
}

impl World {
    async fn new(label: &str) -> Result<Self> {
        let mut stepped = Stepped::new(label, 2).await?;
        let server = &mut stepped.server;
        server.execute("INSERT INTO step VALUES (3)").await?;
        let in_partial = format!("lsn:{}", server.value("SELECT pg_current_wal_lsn()").await?);
        server.execute("INSERT INTO step VALUES (4)").await?;
        // Not by a shutdown, which would close the segment.
        server.kill()?;
        fs::write(server.data().join("standby.signal"), "")?;
        server.start().await?;
        server.execute("SELECT pg_promote()").await?;
        server.execute("INSERT INTO step VALUES (5)").await?;
        server.archive_everything().await?;
        let root = stepped.pitr.archive()?.join("s").join(SOURCE);
        let all = files(&root)?;
        let find = |what: &dyn Fn(&str) -> bool| {
            let found = all.iter().find(|path| what(&path.to_string_lossy()));
            found.cloned().with_context(|| format!("not in the archive: {all:#?}"))
        };
        let records =
            [find(&|path| path.contains("/lineage/000000-"))?, find(&|path| path.contains("/lineage/000001-"))?];
        let name = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.and_then(|name| name.split_once('-')).map(|(_, id)| id.to_owned()).context("no lineage")
        };
        let lineages = [name(&records[0])?, name(&records[1])?];
        Ok(Self {
            in_partial,
            lineages,
            records,
            history: find(&|path| path.ends_with("00000002.history"))?,
            partial: find(&|path| path.contains("/log/") && path.contains("partial"))?,
            stepped,
        })
    }

    fn taken(&self, path: &Path) -> Result<Undo> {
        let undo = Undo::of(path)?;
        fs::remove_file(path)?;
        Ok(undo)
    }

    fn key(&self, path: &Path) -> Result<String> {
        Ok(path.strip_prefix(self.stepped.pitr.archive()?)?.to_string_lossy().into_owned())
    }

    /// `verify` finds it, and names it.
    fn is_found(&self, named: &str, what: &str) -> Result<()> {
        let run = self.stepped.pitr.run(["verify"])?.with_code(5).with_context(|| what.to_owned())?;
        ensure!(run.text().contains(named), "{what}: {named} is not named: {run}");
        Ok(())
    }

    /// Neither planned nor laid down.
    fn is_refused(&self, options: &[&str], code: i32, what: &str) -> Result<()> {
        let into = self.stepped.scratch.path().join("refused");
        let into_text = into.to_string_lossy();
        self.stepped
            .pitr
            .run([&["plan", SOURCE], options].concat())?
            .with_code(code)
            .with_context(|| what.to_owned())?;
        let line = [&["restore", SOURCE, "--into", &into_text], options].concat();
        self.stepped.pitr.run(line)?.with_code(code).with_context(|| what.to_owned())?;
        ensure!(!into.exists(), "{what}: something was laid down");
        Ok(())
    }

    /// A real restore shows these rows.
    async fn restores(&self, name: &str, options: &[&str], rows: &str) -> Result<()> {
        let into = self.stepped.scratch.path().join(name);
        let into_text = into.to_string_lossy().into_owned();
        self.stepped.pitr.run([&["restore", SOURCE, "--into", &into_text], options].concat())?.ok()?;
        let mut restored = Postgres::at(&self.stepped.scratch, &format!("{name}.run"), 15, into)?;
        restored.start().await?;
        oracle::wait_for_pause(&mut restored).await?;
        let found = restored.value("SELECT string_agg(n::text, ',' ORDER BY n) FROM step").await?;
        ensure!(found == rows, "{name}: rows {found}, expected {rows}");
        restored.stop().await
    }
}

#[tokio::test]
async fn what_is_lost_of_one_history_is_told_and_never_restored_wrongly() -> Result<()> {
    let world = World::new("lineages").await?;
    let [first, second] = &world.lineages;
    let latest = ["--to", "latest"];
    let of_first = ["--to", &world.in_partial, "--lineage", first];
    world.stepped.pitr.run(["verify"])?.ok()?;
    world.restores("both", &latest, "1,2,3,4,5").await?;
    world.restores("parent", &of_first, "1,2,3").await?;

    // Without its history no server gets through the second timeline.
    let undo = world.taken(&world.history)?;
    world.is_found(&world.key(&world.history)?, "a missing history")?;
    world.is_refused(&latest, 5, "a missing history")?;
    let to = world.stepped.scratch.path().join("fetched");
    let fetch = ["wal", "fetch", "--deadline", "1", "--lineage", second, "00000002.history", &to.to_string_lossy()];
    let run = world.stepped.pitr.run(fetch)?.with_code(255)?;
    ensure!(run.stderr.contains("missing") && !to.exists(), "{run}");
    // The first one needs none.
    world.restores("without-history", &of_first, "1,2,3").await?;
    drop(undo);

    // Without the unfinished segment the first timeline ends earlier; the second holds a copy of what was in it.
    let undo = world.taken(&world.partial)?;
    world.is_refused(&of_first, 4, "a missing unfinished segment")?;
    world.restores("without-partial", &latest, "1,2,3,4,5").await?;
    drop(undo);

    // Which history is the newest cannot be said while one has no record.
    let undo = world.taken(&world.records[1])?;
    world.is_found(second, "a missing record")?;
    world.is_refused(&latest, 5, "a missing record")?;
    world.restores("without-record", &["--to", "latest", "--lineage", first], "1,2,3,4").await?;
    drop(undo);

    let undo = world.taken(&world.records[0])?;
    world.is_found(first, "a missing record of the parent")?;
    world.is_refused(&latest, 5, "a missing record of the parent")?;
    drop(undo);

    for path in [&world.records[1], &world.history, &world.partial] {
        for harm in HARMS {
            let undo = Undo::of(path)?;
            let mut bytes = undo.bytes.clone();
            harm.apply(&mut bytes)?;
            write_over(path, &bytes)?;
            world.is_found(&world.key(path)?, &format!("{harm:?}"))?;
            if *path == world.records[1] {
                world.is_refused(&latest, 5, &format!("{harm:?} of a record"))?;
            }
        }
    }
    let (a, b) = (Undo::of(&world.records[0])?, Undo::of(&world.records[1])?);
    write_over(&a.path, &b.bytes)?;
    write_over(&b.path, &a.bytes)?;
    for path in &world.records {
        world.is_found(&world.key(path)?, "two records in each other's place")?;
    }
    world.is_refused(&latest, 5, "two records in each other's place")?;
    drop((a, b));
    world.stepped.pitr.run(["verify"])?.ok().map(drop)
}
