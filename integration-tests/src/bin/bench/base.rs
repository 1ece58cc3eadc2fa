//! Whole bases: taking, storing, taking again, and laying down.

use std::fs;

use anyhow::Result;
use integration_tests::SOURCE;

use crate::Options;
use crate::cluster::Cluster;
use crate::measure::{Cost, TIME, Table, cost, median, size};

pub async fn run(cluster: &Cluster<'_>, options: &Options, table: &mut Table) -> Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut stored, mut stored_by_peer) = (0, 0);
    for run in 0..options.runs {
        // A first base each time: into the archive that gets the log in the last run, into new ones before.
        let last = run + 1 == options.runs;
        let pitr = if last {
            cluster.pitr.clone()
        } else {
            cluster.pitr.with_new_archive(cluster.scratch, &format!("base{run}"))?
        };
        if !last {
            pitr.run(["init"])?.ok()?;
        }
        let before = size(pitr.archive()?)?;
        ours.push(cost(pitr.timed_command(&TIME, ["backup", SOURCE, "--no-wait"]))?);
        stored = size(pitr.archive()?)? - before;
        let before = size(&cluster.peer.backups()).unwrap_or_default();
        theirs.push(cost(cluster.peer.timed_command(&["backup", "--type=full"]))?);
        stored_by_peer = size(&cluster.peer.backups())? - before;
        if !last {
            fs::remove_dir_all(pitr.archive()?)?;
        }
    }
    let seconds = |cost: Cost| cost.time.as_secs_f64();
    let (ours, theirs) = (median(&ours)?, median(&theirs)?);
    table.row("take a base", (seconds(ours), seconds(theirs)), "s", "1.0");
    table.row("stored size of a base", (stored as f64 / 1e6, stored_by_peer as f64 / 1e6), "MB", "1.0");
    table.figure("peak memory of backup", format!("{} MiB", ours.peak_kib / 1_024), "128 MiB");

    let before = size(cluster.pitr.archive()?)?;
    let again = cost(cluster.pitr.timed_command(&TIME, ["backup", SOURCE, "--no-wait"]))?;
    let added = size(cluster.pitr.archive()?)? - before;
    let percent = added as f64 * 100.0 / stored as f64;
    table.figure(
        "stored by a second base, nothing changed",
        format!("{percent:.2} % in {:.1} s", seconds(again)),
        "1 %",
    );
    restore(cluster, options, table).await
}

async fn restore(cluster: &Cluster<'_>, options: &Options, table: &mut Table) -> Result<()> {
    cluster.server.archive_everything().await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for run in 0..options.runs {
        let into = cluster.scratch.path().join(format!("ours{run}"));
        ours.push(cost(
            cluster.pitr.timed_command(&TIME, ["restore", SOURCE, "--to", "latest", "--into", &into.to_string_lossy()]),
        )?);
        fs::remove_dir_all(&into)?;
        let into = cluster.scratch.make(&format!("theirs{run}"))?;
        let path = format!("--pg1-path={}", into.display());
        theirs.push(cost(cluster.peer.timed_command(&["restore", "--type=immediate", &path]))?);
        fs::remove_dir_all(&into)?;
    }
    let (ours, theirs) = (median(&ours)?, median(&theirs)?);
    table.row("lay a base down", (ours.time.as_secs_f64(), theirs.time.as_secs_f64()), "s", "1.0");
    table.figure("peak memory of restore", format!("{} MiB", ours.peak_kib / 1_024), "128 MiB");
    Ok(())
}
