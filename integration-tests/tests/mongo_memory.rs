//! Many documents of the largest size, none of which compresses: the memory that each verb takes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Binary, Document, doc, spec::BinarySubtype};
use integration_tests::mongodb::expect_equal;
use integration_tests::{Mongo, MongoSetup, Pitr, SOURCE, Scratch, Streaming, peak_kib, wait_for_archive};
use rand::Rng;

/// Content of a document of nearly 16 MiB.
const LARGE: usize = (16 << 20) - 100;
/// Largest peak of each verb, in MiB. The driver holds a command four times while it is sent: with documents of this size a backup and a
/// restore take more than the 128 MiB that are enough otherwise.
const MOST: [(&str, u64); 3] = [("backup", 160), ("stream", 128), ("restore", 190)];

/// Documents in several collections, so that several connections read and write them at once.
async fn write(client: &mongodb::Client, round: i32) -> Result<()> {
    for collection in ["a", "b", "c", "d"] {
        for n in 0..4 {
            let mut bytes = vec![0; LARGE];
            rand::rng().fill_bytes(&mut bytes);
            let row = doc! { "_id": round * 10 + n, "x": Binary { subtype: BinarySubtype::Generic, bytes } };
            client.database("large").collection::<Document>(collection).insert_one(row).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_documents_of_the_largest_size_take_the_memory_that_is_promised() -> Result<()> {
    let scratch = Scratch::new("mongo-memory")?;
    let source = Mongo::start(&scratch, "rs", &MongoSetup { cache_mib: 512, ..MongoSetup::chosen() }).await?;
    let pitr = Pitr::of_engine(&scratch, "mongodb", &source.url(), false)?;
    pitr.run(["init"])?.ok()?;
    let client = source.client().await?;
    write(&client, 0).await?;
    let mut peaks = vec![("backup", peak(&pitr, &["backup", SOURCE, "--no-wait"])?)];
    write(&client, 1).await?;

    // All of it is there when the stream begins: it arrives as fast as it can.
    let mut stream = Streaming::start(&pitr)?;
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let last = oplog.find_one(doc! {}).sort(doc! { "$natural": -1 }).projection(doc! { "ts": 1 }).await?;
    wait_for_archive(&pitr, last.context("the oplog is empty")?.get_timestamp("ts")?).await?;
    peaks.push(("stream", stream.peak_kib()?));
    stream.stop()?;

    let target = Mongo::standalone(&scratch, "target").await?;
    peaks.push(("restore", peak(&pitr, &["restore", SOURCE, "--to", "latest", "--target-url", &target.url()])?));
    expect_equal(&source, &target).await?;
    for ((verb, kib), (_, most)) in peaks.iter().zip(MOST) {
        eprintln!("{verb}: {} MiB", kib / 1024);
        ensure!(kib / 1024 <= most, "{verb} took {kib} KiB");
    }
    Ok(())
}

/// Runs a verb to its end, and gives the peak of its memory in KiB, looked at until then.
fn peak(pitr: &Pitr, args: &[&str]) -> Result<u64> {
    let mut child = pitr.spawn(args)?;
    let mut peak = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        // One that is ending has none any more.
        peak = peak_kib(child.id()).unwrap_or(peak);
        std::thread::sleep(Duration::from_millis(5));
    };
    ensure!(matches!(status.code(), Some(0 | 3)) && peak > 0, "{args:?} ended with {status}");
    Ok(peak)
}
