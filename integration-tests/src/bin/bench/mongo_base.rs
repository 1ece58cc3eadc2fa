//! Bases of MongoDB: taken, against a plain parallel dump to disk; laid down, against one stream of ordered inserts.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bson::{Document, RawArrayBuf, RawDocument, doc, rawdoc};
use futures::TryStreamExt;
use futures::future::try_join_all;
use integration_tests::{Pitr, SOURCE, Scratch, Streaming, wait_for_archive};
use mongodb::Client;

use crate::Options;
use crate::measure::{Cost, TIME, Table, cost, median, size};
use crate::mongo::{COLLECTIONS, DB, Source};

/// Cursors of the plain dump, as many as ours has.
const CURSORS: i64 = 4;
/// Documents of about a KiB that are inserted at once.
const BATCH: i64 = 1_000;

pub async fn run(scratch: &Scratch, options: &Options) -> Result<Table> {
    let source = Source::create(scratch, "base").await?;
    let mut table = Table::new(&source.describe().await?);
    let documents = i64::try_from(options.size_mib)? * 1_024 / COLLECTIONS.len() as i64;
    for name in COLLECTIONS {
        fill(&source.client, name, documents).await?;
    }
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let plain = scratch.make("plain")?;
    let mut taken: Option<Pitr> = None;
    for run in 0..options.runs {
        let pitr = source.pitr.with_new_archive(scratch, &format!("archive{run}"))?;
        pitr.run(["init"])?.ok()?;
        ours.push(cost(pitr.timed_command(&TIME, ["backup", SOURCE, "--no-wait"]))?);
        theirs.push(dump(&source.client, &plain, documents).await?);
        if let Some(old) = taken.replace(pitr) {
            fs::remove_dir_all(old.archive()?)?;
        }
    }
    let pitr = taken.context("nothing was measured")?;
    theirs.sort();
    let (ours, plain_time) = (median(&ours)?, theirs[theirs.len() / 2].as_secs_f64());
    let bytes = size(&plain)?;
    let what = format!("take a base of {} MB, against {CURSORS} cursors that dump to disk", bytes / 1_000_000);
    table.row(&what, (ours.time.as_secs_f64(), plain_time), "s", "1.0");
    table.row("stored", (size(pitr.archive()?)? as f64 / 1e6, bytes as f64 / 1e6), "MB", "1.0");
    table.figure("peak memory of backup", format!("{} MiB", ours.peak_kib / 1_024), "128 MiB");
    // A base is restorable once the log to its end is archived.
    let mut tail = Streaming::start(&pitr)?;
    wait_for_archive(&pitr, source.newest().await?).await?;
    tail.stop()?;
    restore(&source, &pitr, &plain, options, &mut table).await?;
    Ok(table)
}

/// Documents of about a KiB that compress like text.
async fn fill(client: &Client, name: &str, documents: i64) -> Result<()> {
    let collection = client.database(DB).collection::<Document>(name);
    for first in (0..documents).step_by(usize::try_from(BATCH)?) {
        let document = |n: i64| {
            let words: String =
                (0..24).map(|w| format!("word{} of {:x} ", (n * 31 + w) % 977, n * 7919 * (w + 1))).collect();
            doc! { "_id": n, "customer": n % 9973, "total": n as f64 / 7.0, "tags": ["a", "b", n % 5], "text": words }
        };
        collection.insert_many((first..(first + BATCH).min(documents)).map(document)).ordered(false).await?;
    }
    Ok(())
}

/// Ranges of every collection at the same time, each into a file.
async fn dump(client: &Client, into: &Path, documents: i64) -> Result<Duration> {
    let begun = Instant::now();
    for name in COLLECTIONS {
        let step = documents / CURSORS + 1;
        let ranges = (0..CURSORS).map(|number| {
            let client = client.clone();
            let file = into.join(format!("{name}.{number}.bson"));
            tokio::spawn(dump_range(client, name, (number * step, (number + 1) * step), file))
        });
        for done in try_join_all(ranges).await? {
            done?;
        }
    }
    Ok(begun.elapsed())
}

async fn dump_range(client: Client, name: &str, (from, to): (i64, i64), file: PathBuf) -> Result<()> {
    let mut file = File::create(file)?;
    let command = doc! { "find": name, "filter": { "_id": { "$gte": from, "$lt": to } }, "hint": { "_id": 1 }, "batchSize": 2_000 };
    let command = bson::RawDocumentBuf::try_from(&command)?;
    let mut cursor = client.database(DB).run_raw_cursor_command(command).batch_size(2_000).batch().await?;
    while let Some(batch) = cursor.try_next().await? {
        for document in batch.doc_slices()? {
            file.write_all(document?.as_document().context("no document")?.as_bytes())?;
        }
    }
    Ok(file.sync_all()?)
}

async fn restore(source: &Source<'_>, pitr: &Pitr, plain: &Path, options: &Options, table: &mut Table) -> Result<()> {
    let (mut ours, mut theirs) = (Vec::<Cost>::new(), Vec::new());
    for run in 0..options.runs {
        let target = source.target(&format!("ours{run}")).await?;
        let url = target.url();
        ours.push(cost(pitr.timed_command(&TIME, ["restore", SOURCE, "--to", "latest", "--target-url", &url]))?);
        drop(target);
        let target = source.target(&format!("plain{run}")).await?;
        theirs.push(insert_all(&target.client().await?, plain).await?);
    }
    theirs.sort();
    let (ours, plain) = (median(&ours)?, theirs[theirs.len() / 2].as_secs_f64());
    table.row("lay it down, against one stream of ordered inserts", (ours.time.as_secs_f64(), plain), "s", "0.5");
    table.figure("peak memory of restore", format!("{} MiB", ours.peak_kib / 1_024), "128 MiB");
    Ok(())
}

/// One connection, a thousand documents at a time, in order.
async fn insert_all(target: &Client, plain: &Path) -> Result<Duration> {
    let begun = Instant::now();
    for name in COLLECTIONS {
        for number in 0..CURSORS {
            let mut bytes = Vec::new();
            File::open(plain.join(format!("{name}.{number}.bson")))?.read_to_end(&mut bytes)?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let mut documents = RawArrayBuf::new();
                for _ in 0..BATCH {
                    let Some(length) = rest.first_chunk().map(|length| u32::from_le_bytes(*length) as usize) else {
                        break;
                    };
                    let (document, after) = rest.split_at_checked(length).context("cut off")?;
                    documents.push(RawDocument::from_bytes(document)?);
                    rest = after;
                }
                let command = rawdoc! { "insert": name, "documents": documents, "ordered": true };
                target.database(DB).run_raw_command(command).await?;
            }
        }
    }
    Ok(begun.elapsed())
}
