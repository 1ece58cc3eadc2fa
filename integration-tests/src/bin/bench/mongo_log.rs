//! The log of MongoDB: how fast it is tailed on one core, and how fast it is replayed, against one command per entry.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bson::{Document, RawDocument, RawDocumentBuf, doc, rawdoc};
use integration_tests::{SOURCE, Scratch, Streaming, optime, succeed, wait_for_archive};
use mongodb::Client;

use crate::Options;
use crate::measure::{Cost, TIME, Table, cost, median};
use crate::mongo::{COLLECTIONS, Changed, DB, Source};

/// Entries that the clients write.
const ENTRIES: i64 = 240_000;
/// Of these, so many are applied one by one: all of them would take minutes, and each costs the same.
const REFERENCE: usize = 20_000;
/// Entries per second that a tail on one core must keep up with.
const TAIL_GOAL: f64 = 60_000.0;

pub async fn run(scratch: &Scratch, options: &Options) -> Result<Table> {
    let source = Source::create(scratch, "log").await?;
    let mut table = Table::new(&source.describe().await?);
    // Nothing streams yet: the tail is to find all of the log at once.
    source.pitr.run(["backup", SOURCE, "--no-wait"])?.with_code(3)?;
    let written = source.write_log(ENTRIES, Changed::New).await?;
    let entries = source.entries().await?;
    tail(&source, entries.len(), options, &mut table).await?;
    if options.wants("mongo-replay") {
        replay(&source, &entries, written, options, &mut table).await?;
        drop(source);
        replay_of_old(options, &mut table).await?;
    }
    Ok(table)
}

/// A log of which no write stands on another one: every document of the base is written once at most.
async fn replay_of_old(options: &Options, table: &mut Table) -> Result<()> {
    let scratch = Scratch::new("bench-mongo-old")?;
    let source = Source::create(&scratch, "log").await?;
    let documents = source.write_old(ENTRIES).await?;
    source.pitr.run(["backup", SOURCE, "--no-wait"])?.with_code(3)?;
    let written = source.write_log(ENTRIES, Changed::Old).await?;
    let last = source.newest().await?;
    let mut stream = Streaming::start(&source.pitr)?;
    wait_for_archive(&source.pitr, last).await?;
    stream.stop()?;
    let mut restores = Vec::new();
    for run in 0..options.runs {
        restores.push(restore(&source, &optime(last), run).await?);
    }
    let time = median(&restores)?.time.as_secs_f64();
    let what = format!(
        "lay down {documents} documents and replay what changes or deletes each of them once, against the writers"
    );
    table.row(&what, (time, written.as_secs_f64()), "s", "1.0");
    Ok(())
}

/// A restore to a point, and proof that it is one of what the source has.
async fn restore(source: &Source<'_>, point: &str, run: usize) -> Result<Cost> {
    let target = source.target(&format!("ours{run}")).await?;
    let url = target.url();
    let cost = cost(source.pitr.timed_command(&TIME, ["restore", SOURCE, "--to", point, "--target-url", &url]))?;
    expect_same(&source.client, &target.client().await?).await?;
    Ok(cost)
}

/// Archives all of the log at once, on one core.
async fn tail(source: &Source<'_>, entries: usize, options: &Options, table: &mut Table) -> Result<()> {
    let last = source.newest().await?;
    let mut command = source.pitr.timed_command(&["taskset", "-c", "0"], ["stream", SOURCE]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let mut process = command.spawn().context("cannot start pitr stream")?;
    wait_for_archive(&source.pitr, last).await?;
    let time = begun.elapsed();
    let used = Used::by(&process)?;
    succeed(Command::new("kill").args(["-s", "TERM", &process.id().to_string()]))?;
    process.wait()?;
    if options.wants("mongo-tail") {
        let rate = |time: Duration| entries as f64 / time.as_secs_f64();
        let what = format!("tail {entries} entries on one core, entries per second of its processor time");
        table.figure(&what, format!("{:.0}", rate(used.processor)), &format!("{TAIL_GOAL:.0}"));
        let what = "the same, of the clock, from the start of the program until the last one can be restored";
        table.figure(what, format!("{:.0}", rate(time)), &format!("{TAIL_GOAL:.0}"));
        table.figure("peak memory of stream", format!("{} MiB", used.peak_kib / 1024), "128 MiB");
    }
    Ok(())
}

/// What a process has used so far.
struct Used {
    processor: Duration,
    peak_kib: u64,
}

impl Used {
    fn by(process: &Child) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", process.id());
            fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
        };
        // Behind the name, which is in parentheses, the 12th and 13th field are ticks in user and system mode.
        let stat = read("stat")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).context("no such field");
        let peak = read("status")?;
        let peak = peak.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse().ok());
        // A tick is a hundredth of a second on every Linux that this runs on.
        Ok(Self {
            processor: Duration::from_millis((ticks(11)? + ticks(12)?) * 10),
            peak_kib: peak.context("no VmHWM")?,
        })
    }
}

async fn replay(
    source: &Source<'_>,
    entries: &[RawDocumentBuf],
    written: Duration,
    options: &Options,
    table: &mut Table,
) -> Result<()> {
    let (mut ours, mut one_by_one) = (Vec::new(), Vec::new());
    let point = &optime(source.newest().await?);
    for run in 0..options.runs {
        ours.push(restore(source, point, run).await?);
        let target = source.target(&format!("one{run}")).await?;
        let reference = entries.get(..REFERENCE.min(entries.len())).unwrap_or(entries);
        let time = apply_one_by_one(&target.client().await?, reference).await?;
        one_by_one.push(time.mul_f64(entries.len() as f64 / reference.len() as f64));
    }
    let ours = median(&ours)?;
    one_by_one.sort();
    let reference = one_by_one[one_by_one.len() / 2].as_secs_f64();
    let time = ours.time.as_secs_f64();
    let what = format!("replay {} entries, the whole restore, against one command per entry", entries.len());
    table.row(&what, (time, reference), "s", "0.02");
    table.row("the same, against the time in which the clients wrote them", (time, written.as_secs_f64()), "s", "1.0");
    table.figure("peak memory of restore", format!("{} MiB", ours.peak_kib / 1024), "128 MiB");
    Ok(())
}

/// What stock tools do: each entry in an `applyOps` of its own, one after the other.
async fn apply_one_by_one(target: &Client, entries: &[RawDocumentBuf]) -> Result<Duration> {
    for name in COLLECTIONS {
        target.database(DB).create_collection(name).await?;
    }
    let admin = target.database("admin");
    let begun = Instant::now();
    for entry in entries {
        let command = rawdoc! { "applyOps": [operation(entry)?] };
        admin.run_raw_command(command).await?;
    }
    Ok(begun.elapsed())
}

/// Without what only the source knows.
fn operation(entry: &RawDocument) -> Result<RawDocumentBuf> {
    let mut operation =
        rawdoc! { "op": entry.get_str("op")?, "ns": entry.get_str("ns")?, "o": entry.get_document("o")?.to_owned() };
    if let Ok(o2) = entry.get_document("o2") {
        operation.append(bson::cstr!("o2"), o2);
    }
    Ok(operation)
}

async fn expect_same(source: &Client, target: &Client) -> Result<()> {
    let mut hashes: Vec<Document> = Vec::new();
    for client in [source, target] {
        let answer = client.database(DB).run_command(doc! { "dbHash": 1 }).await?;
        hashes.push(answer.get_document("collections")?.clone());
    }
    anyhow::ensure!(hashes[0] == hashes[1], "the restored server differs: {hashes:?}");
    Ok(())
}
