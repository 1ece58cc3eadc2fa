//! The exit codes of `wal fetch`, and what real recoveries make of them: PostgreSQL takes 1 to 125 as the end of the
//! log and opens the database, so no fault may ever look like that.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration_tests::stepped::{Fault, Stepped};
use integration_tests::{Pitr, Postgres, Run};

/// Rows, one per segment; the faults hit the segment of the one in the middle.
const ROWS: usize = 6;
const HIT: usize = 3;

/// Everything that can be wrong while a server recovers, and that can be put right again.
const FAULTS: [&str; 12] = [
    "the object is missing",
    "one byte of the object is flipped",
    "the object is truncated",
    "the object is empty",
    "the object is that of another segment",
    "the object cannot be read",
    "the archive is gone",
    "the lineage is missing",
    "the identity is missing",
    "the identity is somebody else's",
    "the configuration is missing",
    "the configuration is broken",
];

fn inject(world: &Stepped, fault: &str) -> Result<Fault> {
    let object = world.object(world.segment(HIT)?)?;
    let mut bytes = fs::read(&object)?;
    let identity = world.pitr.identity().context("the archive is encrypted")?;
    match fault {
        "the object is missing" => world.take_away(&object),
        "one byte of the object is flipped" => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            world.replace(&object, &bytes, 0o600)
        }
        "the object is truncated" => world.replace(&object, &bytes[..bytes.len() - 1], 0o600),
        "the object is empty" => world.replace(&object, b"", 0o600),
        "the object is that of another segment" => {
            world.replace(&object, &fs::read(world.object(world.segment(HIT + 1)?)?)?, 0o600)
        }
        "the object cannot be read" => world.replace(&object, &bytes, 0o000),
        "the archive is gone" => world.take_away(world.pitr.archive()?),
        "the lineage is missing" => world.take_away(&world.pitr.archive()?.join("s/main/lineage")),
        "the identity is missing" => world.take_away(identity),
        "the identity is somebody else's" => {
            let other = world.scratch.path().join("other-identity.txt");
            if !other.exists() {
                world.pitr.run(["key", "new", "--identity-file", &other.to_string_lossy()])?.ok()?;
            }
            world.replace(identity, &fs::read(&other)?, 0o600)
        }
        "the configuration is missing" => world.take_away(world.pitr.config()),
        "the configuration is broken" => world.replace(world.pitr.config(), b"[archive\n", 0o600),
        other => bail!("no such fault: {other}"),
    }
}

/// A world whose server has stopped: its files stay for comparison.
async fn world(label: &str) -> Result<Stepped> {
    let mut world = Stepped::new(label, u32::try_from(ROWS)?).await?;
    world.server.stop().await?;
    Ok(world)
}

fn fetch(pitr: &Pitr, options: &[&str], name: &str, to: &Path) -> Result<Run> {
    let mut command = pitr.command(["wal", "fetch", "--source", "main", "--deadline", "1"]);
    command.args(options).arg(name).arg(to);
    Pitr::finish(command)
}

#[tokio::test]
async fn only_proved_absence_is_exit_code_1_and_every_fault_is_255() -> Result<()> {
    let world = world("fetch").await?;
    let (pitr, to) = (&world.pitr, world.scratch.make("pg_wal")?.join("RECOVERYXLOG"));
    let now = |options: &[&str], name: &str| fetch(pitr, options, name, &to);
    let direct = ["--prefetch", "0"];

    for segment in &world.segments {
        now(&direct, segment)?.ok()?;
        ensure!(fs::read(&to)? == servers_own(&world, segment)?, "{segment} differs from the server's own");
        fs::remove_file(&to)?;
    }
    let hit = world.segment(HIT)?;
    for fault in FAULTS {
        let broken = inject(&world, fault)?;
        for options in [&direct[..], &["--prefetch", "0", "--lineage", &lineage(&world, fault)?]] {
            let run = now(options, hit)?.with_code(255).with_context(|| format!("{fault}, {options:?}"))?;
            ensure!(!run.stderr.trim().is_empty(), "{fault}: nothing says what is wrong");
            ensure!(!to.exists(), "{fault}: something was delivered");
        }
        // A standby asks again for ever: only what will pass by itself may look like the end of the log.
        if fault.starts_with("the object") {
            now(&["--prefetch", "0", "--standby"], hit)?.with_code(255).with_context(|| fault.to_owned())?;
        }
        broken.repair()?;
        now(&direct, hit)?.ok().with_context(|| format!("after repair of: {fault}"))?;
        fs::remove_file(&to)?;
    }
    every_byte_counts(&world, |name| now(&direct, name))?;

    // Proved absent.
    for absent in ["00000009.history", "00000002.history", &after_the_last(&world)?, "000000020000000000000003"] {
        now(&direct, absent)?.with_code(1)?;
        ensure!(!to.exists(), "{absent} was delivered");
    }
    // Nowhere to put it, and command lines with a typing error.
    let nowhere = world.scratch.path().join("no/such/dir/RECOVERYXLOG");
    fetch(pitr, &direct, hit, &nowhere)?.with_code(255)?;
    for line in [
        vec!["wal", "fetch"],
        vec!["wal", "fetch", hit],
        vec!["wal", "fetch", "--sorce", "main", hit, "/x"],
        vec!["wal", "fetch", "--source", "other", hit, "/x"],
        vec!["wal", "fetch", "--lineage", "1.0", hit, "/x"],
        vec!["wal", "fetch", "--source", "main", "no-wal-file", "/x"],
        vec!["wal", "fetsh", "--source", "main", hit, "/x"],
        vec!["wall", "fetch", "--source", "main", hit, "/x"],
        // What prints a text has delivered nothing.
        vec!["wal", "fetch", "--help"],
        vec!["wal", "fetch", "-h", hit, "/x"],
        vec!["wal", "fetch", "--version", hit, "/x"],
        vec!["--version", "wal", "fetch", hit, "/x"],
        vec!["wal", "--help", "fetch", hit, "/x"],
    ] {
        pitr.run(&line)?.with_code(255)?;
    }
    let not_unicode = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff");
    let mut command = pitr.command(["wal", "fetch", "--source"]);
    command.args([not_unicode, hit.as_ref(), "/x".as_ref()]);
    Pitr::finish(command)?.with_code(255)?;
    Ok(())
}

#[tokio::test]
async fn a_push_that_only_prints_a_text_is_a_failure_that_the_archiver_counts() -> Result<()> {
    let world = world("push-help").await?;
    let segment = world.server.data().join("pg_wal").join(world.segment(HIT)?);
    let segment = segment.to_string_lossy();
    for line in [
        vec!["wal", "push", "--help"],
        vec!["wal", "push", "-h", &segment],
        vec!["wal", "push", &segment, "--source", "main", "--version"],
        vec!["--version", "wal", "push", &segment],
        vec!["wal", "--help", "push", &segment],
        vec!["wal", "push"],
        vec!["wal", "push", &segment, "--sorce", "main"],
        vec!["wal", "psh", "push", &segment],
    ] {
        let run = world.pitr.run(&line)?;
        ensure!(run.code.is_some_and(|code| (1..=125).contains(&code)), "{run}");
    }
    // A terminal gets its text all the same, and elsewhere asking for help is no failure.
    ensure!(world.pitr.run(["wal", "push", "--help"])?.text().contains("archive_command"), "no help");
    world.pitr.run(["--help"])?.ok()?;
    world.pitr.run(["--version"])?.ok()?;
    world.pitr.run(["status", "--help"])?.ok().map(drop)
}

/// Damage is found wherever it is: in the header, in the sealed content, at its end.
fn every_byte_counts(world: &Stepped, fetch: impl Fn(&str) -> Result<Run>) -> Result<()> {
    let hit = world.segment(HIT)?;
    let object = world.object(hit)?;
    let bytes = fs::read(&object)?;
    for at in (0..16).map(|part| part * (bytes.len() - 1) / 15) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let fault = world.replace(&object, &damaged, 0o600)?;
        fetch(hit)?.with_code(255).with_context(|| format!("byte {at} of {} flipped", bytes.len()))?;
        fault.repair()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_standby_is_told_to_ask_again_when_the_store_cannot_be_reached() -> Result<()> {
    let world = world("unreachable").await?;
    let to = world.scratch.path().join("RECOVERYXLOG");
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let archive = format!("file://{}", world.pitr.archive()?.display());
    let toml = fs::read_to_string(world.pitr.config())?.replacen(&archive, "s3://pitr/archive", 1);
    let options = format!(
        "endpoint = \"http://127.0.0.1:{port}\"\nregion = \"us-east-1\"\nallow_http = \"true\"\naccess_key_id = \"x\"\nsecret_access_key = \"x\"\n"
    );
    let toml = toml.replacen("[encryption]", &format!("[archive.options]\n{options}[encryption]"), 1);
    let fault = world.replace(world.pitr.config(), toml.as_bytes(), 0o600)?;
    for name in [world.segment(1)?, "00000002.history"] {
        fetch(&world.pitr, &["--prefetch", "0"], name, &to)?.with_code(255)?;
        fetch(&world.pitr, &["--prefetch", "0", "--standby"], name, &to)?.with_code(1)?;
        ensure!(!to.exists(), "{name} was delivered");
    }
    fault.repair()?;
    fetch(&world.pitr, &["--prefetch", "0", "--standby"], world.segment(1)?, &to)?.ok().map(drop)
}

#[tokio::test]
async fn a_spool_serves_the_servers_own_bytes_and_what_is_left_in_it_does_no_harm() -> Result<()> {
    let world = world("spool").await?;
    let to = world.scratch.make("pg_wal")?.join("RECOVERYXLOG");
    let spool = world.scratch.path().join("spool");
    let spool_text = spool.to_string_lossy().into_owned();
    // What a killed process and a stranger leave behind.
    world.scratch.make("spool")?;
    let place = world.scratch.make("spool/newest")?;
    world.scratch.write(&format!("spool/newest/.unfinished-{}", world.segment(2)?), "half a segm")?;
    world.scratch.write("spool/newest/notes.txt", "not a segment")?;
    world.scratch.write("spool/newest/.lock", "")?;

    let options = ["--spool", &spool_text, "--prefetch", "3"];
    fetch(&world.pitr, &options, world.segment(1)?, &to)?.ok()?;
    ensure!(fs::read(&to)? == servers_own(&world, world.segment(1)?)?, "the first segment differs");
    wait_until_ahead(&world, &place, 2..=4).await?;
    let gone = world.take_away(world.pitr.archive()?)?;
    for row in 2..=4 {
        // Without refill, which would end without the archive.
        fetch(&world.pitr, &["--spool", &spool_text, "--prefetch", "0"], world.segment(row)?, &to)?.ok()?;
        ensure!(fs::read(&to)? == servers_own(&world, world.segment(row)?)?, "segment of row {row} differs");
    }
    fetch(&world.pitr, &options, world.segment(5)?, &to)?.with_code(255)?;
    gone.repair()?;

    // What was altered there since it was fetched is discarded, and comes from the archive again.
    fetch(&world.pitr, &options, world.segment(1)?, &to)?.ok()?;
    wait_until_ahead(&world, &place, 2..=4).await?;
    for (row, alter) in [(2, flip as fn(&Path) -> Result<()>), (3, truncate)] {
        let name = world.segment(row)?;
        let file = spooled(&place, name)?.context("it was there a moment ago")?;
        alter(&file)?;
        fetch(&world.pitr, &["--spool", &spool_text, "--prefetch", "0"], name, &to)?.ok()?;
        ensure!(fs::read(&to)? == servers_own(&world, name)?, "altered bytes were delivered");
        ensure!(!file.exists(), "the altered file is still there");
    }
    let altered = spooled(&place, world.segment(4)?)?.context("it was there a moment ago")?;
    flip(&altered)?;
    let gone = world.take_away(world.pitr.archive()?)?;
    fetch(&world.pitr, &["--spool", &spool_text, "--prefetch", "0"], world.segment(4)?, &to)?.with_code(255)?;
    gone.repair()?;
    // A spool that cannot be used only makes it slower.
    fs::write(world.scratch.path().join("file"), "")?;
    let file = world.scratch.path().join("file").to_string_lossy().into_owned();
    fetch(&world.pitr, &["--spool", &file], world.segment(5)?, &to)?.ok()?;
    ensure!(fs::read(&to)? == servers_own(&world, world.segment(5)?)?, "without spool, the segment differs");
    Ok(())
}

async fn wait_until_ahead(world: &Stepped, place: &Path, rows: std::ops::RangeInclusive<usize>) -> Result<()> {
    let begun = Instant::now();
    for row in rows {
        while spooled(place, world.segment(row)?)?.is_none() {
            ensure!(begun.elapsed() < Duration::from_secs(20), "the segment of row {row} was not fetched ahead");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// The spool's file of a segment: its name goes on with a checksum.
fn spooled(place: &Path, segment: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(place)? {
        let path = entry?.path();
        if path.file_stem().is_some_and(|stem| stem == segment) && path.extension().is_some() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn flip(file: &Path) -> Result<()> {
    let mut bytes = fs::read(file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(fs::write(file, bytes)?)
}

fn truncate(file: &Path) -> Result<()> {
    let open = fs::File::options().write(true).open(file)?;
    Ok(open.set_len(open.metadata()?.len() - 8192)?)
}

#[tokio::test]
async fn a_recovery_to_a_target_never_opens_on_a_fault_and_completes_once_it_is_repaired() -> Result<()> {
    let faults = [
        "one byte of the object is flipped",
        "the object is truncated",
        "the archive is gone",
        "the identity is missing",
        "the configuration is missing",
    ];
    recover("target", true, &faults).await
}

#[tokio::test]
async fn a_recovery_without_any_target_never_opens_on_a_fault_either() -> Result<()> {
    let faults = [
        "the object is missing",
        "one byte of the object is flipped",
        "the object cannot be read",
        "the lineage is missing",
        "the configuration is broken",
    ];
    recover("notarget", false, &faults).await
}

/// One directory goes through all of the faults, one start after the other.
async fn recover(label: &str, has_target: bool, faults: &[&str]) -> Result<()> {
    let world = world(label).await?;
    let into = world.scratch.path().join("restored");
    let into_text = into.to_string_lossy();
    world.pitr.run(["restore", "main", "--to", "latest", "--prefetch", "0", "--into", &into_text])?.ok()?;
    let auto_conf = into.join("postgresql.auto.conf");
    let conf = fs::read_to_string(&auto_conf)?;
    ensure!(conf.contains("recovery_target_lsn") && conf.contains(" wal fetch "), "unexpected settings:\n{conf}");
    let kept = conf.lines().filter(|line| has_target || !line.starts_with("recovery_target"));
    let conf: String = kept.map(|line| format!("{line}\n")).collect();
    fs::write(&auto_conf, conf.replace(" wal fetch ", " wal fetch --deadline 1 "))?;

    let mut restored = Postgres::at(&world.scratch, "restored.run", 15, into.clone())?;
    for fault in faults {
        let broken = inject(&world, fault)?;
        let ended = ends_without_opening(&mut restored).await;
        ended.with_context(|| format!("{fault}\n{}", restored.log_tail()))?;
        broken.repair()?;
    }
    // A typing error in the command is no end of the log, either.
    let good = fs::read_to_string(&auto_conf)?;
    for typo in [" wal fetch --dedline 1 ", " wal fetsh --deadline 1 "] {
        fs::write(&auto_conf, good.replace(" wal fetch --deadline 1 ", typo))?;
        ends_without_opening(&mut restored).await.with_context(|| format!("{typo}\n{}", restored.log_tail()))?;
    }
    fs::write(&auto_conf, &good)?;

    restored.start().await?;
    let wanted = if has_target { "truepaused" } else { "falsenot paused" };
    let state = "SELECT pg_is_in_recovery()::text || \
        CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() ELSE 'not paused' END";
    let begun = Instant::now();
    while restored.value(state).await? != wanted {
        ensure!(begun.elapsed() < Duration::from_secs(30), "not {wanted}\n{}", restored.log_tail());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rows = restored.value("SELECT string_agg(n::text, ',' ORDER BY n) FROM step").await?;
    ensure!(rows == "1,2,3,4,5,6", "rows {rows}");
    Ok(())
}

/// Starts a server that must give up, as often as anybody looks still in recovery, and be where it was.
async fn ends_without_opening(server: &mut Postgres) -> Result<()> {
    server.launch()?;
    let begun = Instant::now();
    while server.is_running()? {
        // Most of the time it accepts no connections: then it is certainly not open for writing.
        if let Ok(in_recovery) = server.value("SELECT pg_is_in_recovery()").await {
            ensure!(in_recovery == "true", "the server opened the database");
        }
        ensure!(begun.elapsed() < Duration::from_secs(30), "the server goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let output = server.program("pg_controldata").arg("-D").arg(server.data()).output()?;
    let control = String::from_utf8_lossy(&output.stdout).into_owned();
    let says = |label: &str, value: &str| {
        control.lines().any(|line| line.strip_prefix(label).is_some_and(|rest| rest.trim() == value))
    };
    ensure!(says("Database cluster state:", "in archive recovery"), "unexpected state:\n{control}");
    ensure!(says("Latest checkpoint's TimeLineID:", "1"), "a new timeline:\n{control}");
    ensure!(!server.data().join("pg_wal/00000002.history").exists(), "the server left its timeline");
    ensure!(server.data().join("recovery.signal").exists(), "the recovery is over");
    ensure!(server.log_tail().contains("FATAL"), "the log does not say why it ended");
    Ok(())
}

fn servers_own(world: &Stepped, segment: &str) -> Result<Vec<u8>> {
    let path = world.server.data().join("pg_wal").join(segment);
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn after_the_last(world: &Stepped) -> Result<String> {
    let last = world.objects()?.pop().context("the archive has no segment")?;
    let name = last.file_name().and_then(|name| name.to_str()).context("no name")?;
    // Not the first of the next four GiB, in a log as short as this.
    Ok(format!("{}{:08X}", &name[..16], u32::from_str_radix(&name[16..], 16)? + 1))
}

/// The lineage, as `list` would name it; known without the archive.
fn lineage(world: &Stepped, fault: &str) -> Result<String> {
    if fault == "the archive is gone" {
        return Ok("unknown.1".to_owned());
    }
    let object = world.objects()?.pop().context("the archive has no segment")?;
    let lineage = object.ancestors().nth(2).and_then(Path::file_name).context("no lineage")?;
    Ok(lineage.to_string_lossy().into_owned())
}
