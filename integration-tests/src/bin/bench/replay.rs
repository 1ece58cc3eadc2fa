//! Replay through `wal fetch` with prefetching, against `cp` from a directory with the raw files.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use integration_tests::oracle::wait_for_pause;
use integration_tests::{Postgres, SOURCE};

use crate::Options;
use crate::cluster::Cluster;
use crate::measure::Table;

/// Log to replay, in MiB.
const LOG_MIB: u64 = 640;

pub async fn run(cluster: &Cluster<'_>, options: &Options, table: &mut Table) -> Result<()> {
    cluster.pitr.run(["backup", SOURCE])?.ok()?;
    cluster.write_log(LOG_MIB).await?;
    let (mut fetched, mut copied) = (Vec::new(), Vec::new());
    for run in 0..options.runs {
        fetched.push(replay(cluster, &format!("fetch{run}"), None).await?);
        let copy = format!("restore_command = 'cp {}/%f %p'", cluster.raw.display());
        copied.push(replay(cluster, &format!("copy{run}"), Some(&copy)).await?);
    }
    fetched.sort();
    copied.sort();
    let middle = options.runs / 2;
    let what = format!("replay {LOG_MIB} MiB of log, `wal fetch` against `cp` of raw files");
    table.row(&what, (fetched[middle].as_secs_f64(), copied[middle].as_secs_f64()), "s", "1.15");
    Ok(())
}

/// Lays the newest base down, then times the server from its start to the target.
async fn replay(cluster: &Cluster<'_>, name: &str, override_command: Option<&str>) -> Result<Duration> {
    let into = cluster.scratch.path().join(name);
    cluster.pitr.run(["restore", SOURCE, "--to", "latest", "--into", &into.to_string_lossy()])?.ok()?;
    if let Some(line) = override_command {
        // The last setting of a name counts.
        let file = into.join("postgresql.auto.conf");
        fs::write(&file, fs::read_to_string(&file)? + line + "\n")?;
    }
    let mut server = Postgres::at(cluster.scratch, &format!("{name}.run"), 15, into.clone())?;
    let begun = Instant::now();
    server.start().await?;
    wait_for_pause(&mut server).await?;
    let time = begun.elapsed();
    drop(server);
    fs::remove_dir_all(&into)?;
    Ok(time)
}
