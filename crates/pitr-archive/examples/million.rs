//! How long a catalog takes: `cargo run --release -p pitr-archive --example million -- DIRECTORY [SEGMENTS]`.
//!
//! Writes that many real objects (a million by default, 4 KiB of disk each) into a new directory, rolls them up,
//! loads the catalog, confirms the whole log against listings, and removes the directory. Objects are written
//! past the store, without sync: writing is not what is measured.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, ensure};
use bytes::Bytes;
use pitr_archive::envelope::{self, Subject};
use pitr_archive::{Access, Archive, Kind, Payload, SourceArchive, Store};
use pitr_core::{
    Engine, Facts, Fork, Lineage, LineageId, Locator, ParsePositionError, SegmentName, Span, TargetError, Timestamp,
};

const PER_GROUP: u64 = 256;
const SEGMENT: u64 = 16 << 20;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().context("name a directory that does not exist")?);
    let count: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    ensure!(!directory.exists(), "{} exists", directory.display());
    let open = || Store::open(&format!("file://{}", directory.display()), &BTreeMap::new());
    let source = Archive::create(open()?, Access::plain()).await?.source("orders")?;
    let lineage = LineageId::new("7301-1")?;
    let none: Option<&Fork<At>> = None;
    source.put_lineage(&lineage, none, &Facts::new()).await?;

    let begin = Instant::now();
    write(&source, &directory, &lineage, count)?;
    println!("{count} segments written in {:?}", begin.elapsed());
    let begin = Instant::now();
    let rollups = source.roll_up_complete::<Numbers>(&lineage).await?;
    println!("{rollups} roll-ups written in {:?}", begin.elapsed());
    for _ in 0..3 {
        // A new store each time: what a new process would do.
        let source = Archive::open(open()?, Access::plain()).await?.source("orders")?;
        let begin = Instant::now();
        let catalog = source.catalog::<Numbers>().await?;
        let loaded = begin.elapsed();
        let known: u64 = catalog.spans.iter().map(|span| span.count).sum();
        ensure!(known == count, "the catalog knows {known} of {count} segments");
        let begin = Instant::now();
        ensure!(source.confirm::<Numbers>(&catalog.spans).await?.is_empty(), "segments are missing");
        println!(
            "catalog of {} spans loaded in {loaded:?}; all confirmed in {:?}",
            catalog.spans.len(),
            begin.elapsed()
        );
    }
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

/// Two threads, every other group each.
fn write(source: &SourceArchive, root: &Path, lineage: &LineageId, count: u64) -> anyhow::Result<()> {
    let groups = count.div_ceil(PER_GROUP);
    std::thread::scope(|scope| {
        let thread = |first: u64| {
            (first..groups).step_by(2).try_for_each(|group| write_group(source, root, lineage, group, count))
        };
        let other = scope.spawn(move || thread(1));
        thread(0)?;
        other.join().map_err(|_| anyhow::anyhow!("a thread died"))?
    })
}

fn write_group(source: &SourceArchive, root: &Path, lineage: &LineageId, group: u64, count: u64) -> anyhow::Result<()> {
    let (objects, keys) = (source.objects(), source.objects().keys());
    let name = |n: u64| SegmentName::new(format!("{:016X}", n / PER_GROUP), format!("{n:024X}"));
    std::fs::create_dir_all(root.join(source.layout().group(lineage, name(group * PER_GROUP)?.group())))?;
    for n in group * PER_GROUP..((group + 1) * PER_GROUP).min(count) {
        let name = name(n)?;
        let key = source.layout().segment(lineage, &name);
        let time: Timestamp = Timestamp::from_timestamp(1_788_000_000 + n as i64, 0).context("a time")?;
        let facts = serde_json::json!({
            "lineage": lineage, "group": name.group(), "leaf": name.leaf(),
            "start": (n * SEGMENT).to_string(), "end": ((n + 1) * SEGMENT).to_string(),
            "commits": { "count": 40, "min": time, "max": time, "reaches": time },
            "marks": 0, "facts": { "xids": format!("{}-{}", n * 40, n * 40 + 39) },
        });
        let subject = Subject { kind: Kind::Segment, archive: objects.archive().clone(), key: key.clone(), facts };
        let raw = Payload::Raw(Bytes::from_static(b"a small stand-in for 16 MiB of log"));
        let sealed = envelope::seal(subject, raw, &keys.encryption, &keys.digest_key)?;
        std::fs::write(root.join(key), sealed.to_bytes())?;
    }
    Ok(())
}

/// An engine whose positions are numbers.
#[derive(Debug, Clone, Copy)]
struct Numbers;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Hash)]
struct At(u64);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for At {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        text.parse().map(At).map_err(|_| ParsePositionError { text: text.to_owned(), expected: "a number" })
    }
}

impl Engine for Numbers {
    const NAME: &'static str = "numbers";
    const TARGETS: &'static [(&'static str, &'static str)] = &[];
    type Position = At;

    fn locate(_: &Lineage<At>, scheme: &str, _: &str) -> Result<Locator<At>, TargetError> {
        let (engine, accepted) = (Self::NAME, String::new());
        Err(TargetError::UnknownScheme { engine, scheme: scheme.to_owned(), accepted })
    }

    fn may_hold_transaction(_: &Span<At>, _: &str) -> bool {
        true
    }

    fn merge_facts(into: &mut Facts, next: &Facts) {
        into.extend(next.clone());
    }

    fn in_child(_: &At, _: &Fork<At>) -> Option<At> {
        None
    }

    fn target(position: &At) -> String {
        position.to_string()
    }

    fn describe(position: &At) -> String {
        position.to_string()
    }
}
