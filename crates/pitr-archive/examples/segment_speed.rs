//! How long one segment takes: `cargo run --release -p pitr-archive --example segment_speed -- DIRECTORY [FILE]`.
//!
//! DIRECTORY is new and is removed afterwards. FILE is a real WAL segment; without it, 16 MiB of text that
//! compresses about as well is made up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use pitr_archive::{Access, Archive, Identities, Kind, Payload, Put, Store};

const ROUNDS: usize = 15;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().context("name a directory that does not exist")?);
    ensure!(!directory.exists(), "{} exists", directory.display());
    let content = match arguments.next() {
        Some(file) => std::fs::read(file)?,
        None => made_up(16 << 20),
    };
    for encrypted in [false, true] {
        let root = directory.join(if encrypted { "encrypted" } else { "plain" });
        let store = Store::open(&format!("file://{}", root.display()), &BTreeMap::new())?;
        let access = if encrypted {
            Access::reader(Identities::from(age::x25519::Identity::generate()))
        } else {
            Access::plain()
        };
        let objects = Archive::create(store, access).await?.objects().clone();
        let (mut puts, mut gets) = (Vec::new(), Vec::new());
        let mut stored = 0;
        for round in 0..ROUNDS {
            // Every segment is another one: an identical one would be found to be stored already.
            let mut bytes = content.clone();
            bytes.splice(..8, (round as u64).to_be_bytes());
            let (key, bytes) = (format!("s/speed/log/a/b/{round:04}"), Bytes::from(bytes));
            let begin = Instant::now();
            let put = objects.put(Kind::Segment, &key, &BTreeMap::<String, String>::new(), Payload::Raw(bytes)).await?;
            puts.push(begin.elapsed());
            if let Put::Stored { stored_bytes } = put {
                stored = stored_bytes;
            }
            let begin = Instant::now();
            objects.get(&key).await?.context("just stored")?;
            gets.push(begin.elapsed());
        }
        println!(
            "{}: {} bytes -> {stored}; put first {:?} median {:?}; get median {:?}",
            if encrypted { "encrypted" } else { "plain" },
            content.len(),
            puts.first().copied().unwrap_or_default(),
            median(puts),
            median(gets)
        );
    }
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Rows as a log would hold them: a few changing numbers among much that repeats.
fn made_up(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 256);
    let mut seed: u64 = 42;
    while bytes.len() < len {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let row = format!("UPDATE accounts balance={} id={}", seed >> 20 & 0xffff_ffff, seed >> 44);
        bytes.extend_from_slice(row.as_bytes());
        bytes.extend(std::iter::repeat_n(0, 96));
        bytes.extend_from_slice(&seed.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
