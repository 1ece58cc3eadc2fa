//! One segment at a time, as `archive_command` does it: process start, read, compress, store, sync.

use std::process::Command;

use anyhow::{Result, ensure};
use integration_tests::SOURCE;

use crate::Options;
use crate::cluster::{Cluster, PEER_LEVEL};
use crate::measure::{Cost, TIME, Table, cost, median};
use crate::peer::Peer;

/// Real segments of a busy server that are pushed by each side.
const SEGMENTS: usize = 15;
/// Level of zstd of our log.
const OUR_LEVEL: i32 = 1;

pub async fn run(cluster: &Cluster<'_>, options: &Options, table: &mut Table) -> Result<()> {
    // Both sides push into archives that have not seen the segments, since a known one costs less.
    cluster.write_log(16 * SEGMENTS as u64 + 32).await?;
    let pitr = cluster.pitr.with_new_archive(cluster.scratch, "push")?;
    pitr.run(["init"])?.ok()?;
    let peer = |level| Peer::create(cluster.scratch, &cluster.server, &format!("push-peer{level}"), level);
    // At its level of bases, and at that of our log.
    let (peer, equal) = (peer(PEER_LEVEL)?, peer(OUR_LEVEL)?);
    let mut segments: Vec<_> = std::fs::read_dir(&cluster.raw)?.collect::<Result<_, _>>()?;
    segments.retain(|entry| entry.file_name().len() == 24);
    segments.sort_by_key(std::fs::DirEntry::file_name);
    ensure!(segments.len() > SEGMENTS, "only {} segments", segments.len());
    let (mut ours, mut theirs, mut at_our_level) = (Vec::new(), Vec::new(), Vec::new());
    // The last one may be mostly empty.
    for entry in segments.iter().rev().skip(1).take(SEGMENTS) {
        let path = entry.path();
        let path = path.to_string_lossy();
        let in_data = |mut command: Command| {
            command.current_dir(cluster.server.data());
            command
        };
        ours.push(cost(in_data(pitr.timed_command(&TIME, ["wal", "push", &path, "--source", SOURCE])))?);
        theirs.push(cost(in_data(peer.timed_command(&["archive-push", &path])))?);
        at_our_level.push(cost(in_data(equal.timed_command(&["archive-push", &path])))?);
    }
    let (ours, theirs, at_our_level) = (median(&ours)?, median(&theirs)?, median(&at_our_level)?);
    let ms = |cost: Cost| cost.time.as_secs_f64() * 1_000.0;
    let name = if options.encrypted { "push one 16 MiB segment, ours encrypted" } else { "push one 16 MiB segment" };
    table.row(&format!("{name}, peer at zstd {PEER_LEVEL}"), (ms(ours), ms(theirs)), "ms", "0.5");
    table.row(&format!("{name}, peer at zstd {OUR_LEVEL}"), (ms(ours), ms(at_our_level)), "ms", "-");
    table.figure("peak memory of push", format!("{} MiB", ours.peak_kib / 1_024), "128 MiB");
    Ok(())
}
