//! `pitr stream` against `pg_receivewal`: both receive the same log of the same server at the same time, then each in turn
//! is the synchronous standby that commits wait for.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_tests::{Pitr, Postgres, SOURCE, Scratch, Setup, Streamer, succeed};

use crate::Options;
use crate::cluster::write_log;
use crate::measure::{self, Table};

/// Log to receive, in MiB.
const LOG_MIB: u64 = 1_024;
/// Its compression: the level whose files are about as large as our segments.
const PEER_COMPRESSION: &str = "gzip:3";
/// Its name at the server.
const PEER: &str = "pg_receivewal";
/// How long either may take to receive everything.
const PATIENCE: Duration = Duration::from_secs(300);

pub async fn run(scratch: &Scratch, options: &Options) -> Result<Table> {
    let config = ["shared_buffers = 512MB", "max_wal_size = 4GB", "checkpoint_timeout = 1h", "archive_mode = off"];
    let setup = Setup { config: config.map(str::to_owned).to_vec(), ..Setup::default() };
    let mut server = Postgres::create(scratch, "streamed", &setup)?;
    let pitr = Pitr::in_directory(scratch, &server, options.encrypted)?;
    pitr.configure_source(["slot = \"pitr\""])?;
    server.start().await?;
    pitr.run(["init"])?.ok()?;
    succeed(server.program("pgbench").args(["-i", "-q", "-s", "20"]).arg(server.url()))?;
    let version = server.value("current_setting('server_version')").await?;
    let cores = std::thread::available_parallelism()?;
    let mut table = Table::new(&format!("PostgreSQL {version}, {cores} cores, pg_receivewal with {PEER_COMPRESSION}."));
    if options.wants("stream") {
        receive(scratch, &server, &pitr, &mut table).await?;
    }
    if options.wants("commits") {
        commits(scratch, &server, &pitr, options, &mut table).await?;
    }
    Ok(table)
}

/// Both receive what pgbench makes the server write, and what they cost is compared.
async fn receive(scratch: &Scratch, server: &Postgres, pitr: &Pitr, table: &mut Table) -> Result<()> {
    let received = scratch.make("received")?;
    let mut ours = Stopped(pitr.spawn(["stream", SOURCE])?);
    let mut theirs = Stopped(receiver(server, &received, &["--compress", PEER_COMPRESSION])?.spawn()?);
    connected(server, "pitr").await?;
    connected(server, PEER).await?;
    let begun = Instant::now();
    write_log(server, LOG_MIB).await?;
    let wrote = begun.elapsed();
    // Complete segments on both sides.
    server.execute("SELECT pg_switch_wal()").await?;
    let end = server.value("SELECT pg_current_wal_flush_lsn()").await?;
    let (behind, their_delay) = tokio::try_join!(reaches(server, "pitr", &end), reaches(server, PEER, &end))?;
    let (cpu, peer_cpu) = (cpu_seconds(&ours.0)?, cpu_seconds(&theirs.0)?);
    let peak = peak_mib(&ours.0)?;
    ours.end()?;
    theirs.end()?;
    let log = pitr.archive()?.join(format!("s/{SOURCE}/log"));
    let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
    table.row(&format!("CPU time for {LOG_MIB} MiB of log and more"), (cpu, peer_cpu), "s", "1.5");
    table.row("stored", (mib(measure::size(&log)?), mib(measure::size(&received)?)), "MiB", "1");
    let keeps_up = format!(
        "{:.2} s after {:.0} s of writing ({PEER}: {:.2} s)",
        behind.as_secs_f64(),
        wrote.as_secs_f64(),
        their_delay.as_secs_f64()
    );
    table.figure("everything durable", keeps_up, "keeps up");
    table.figure("peak memory of stream", format!("{peak} MiB"), "128 MiB");
    Ok(())
}

/// Commits that wait for one of them, in turn.
async fn commits(
    scratch: &Scratch,
    server: &Postgres,
    pitr: &Pitr,
    options: &Options,
    table: &mut Table,
) -> Result<()> {
    pitr.configure_source(["flush_interval = \"0s\""])?;
    server.execute("CREATE TABLE waited (n bigint)").await?;
    let script = scratch.write("one-row.sql", "INSERT INTO waited VALUES (1);\n")?;
    let received = scratch.make("received-synchronously")?;
    for clients in ["1", "8"] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..options.runs {
            let mut streamer = Streamer::start(scratch, pitr)?;
            streamer.says("streaming").await?;
            ours.push(latency(server, "pitr", &script, clients).await?);
            streamer.terminate().await?;
            let mut receiver = Stopped(receiver(server, &received, &["--synchronous"])?.spawn()?);
            theirs.push(latency(server, PEER, &script, clients).await?);
            receiver.end()?;
        }
        ours.sort_by(f64::total_cmp);
        theirs.sort_by(f64::total_cmp);
        let middle = options.runs / 2;
        let what = format!("latency of a commit that waits for it, {clients} clients");
        table.row(&what, (ours[middle], theirs[middle]), "ms", "1.2");
    }
    Ok(())
}

/// Mean time of a transaction of one row, in milliseconds, while the server waits for this standby.
async fn latency(server: &Postgres, standby: &str, script: &Path, clients: &str) -> Result<f64> {
    connected(server, standby).await?;
    server.execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{standby}'")).await?;
    server.execute("SELECT pg_reload_conf()").await?;
    let begun = Instant::now();
    let waits = format!(
        "SELECT bool_or(sync_state = 'sync')::text FROM pg_stat_replication WHERE application_name = '{standby}'"
    );
    while server.value(&waits).await? != "true" {
        ensure!(begun.elapsed() < PATIENCE, "{standby} never became synchronous");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut pgbench = server.program("pgbench");
    pgbench.args(["-n", "-c", clients, "-T", "5", "-f"]).arg(script).arg(server.url());
    let output = pgbench.output()?;
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    server.execute("ALTER SYSTEM RESET synchronous_standby_names").await?;
    server.execute("SELECT pg_reload_conf()").await?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find_map(|line| line.strip_prefix("latency average = ")).context("no latency")?;
    Ok(line.split_whitespace().next().context("no figure")?.parse()?)
}

fn receiver(server: &Postgres, into: &Path, options: &[&str]) -> Result<Command> {
    let slot = ["--create-slot", "--if-not-exists", "--slot", PEER, "-d"];
    succeed(server.program("pg_receivewal").args(slot).arg(server.url()))?;
    let mut command = server.program("pg_receivewal");
    command.args(["--slot", PEER, "--directory"]).arg(into).args(options).arg("-d").arg(server.url());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

async fn connected(server: &Postgres, name: &str) -> Result<()> {
    let here = format!(
        "SELECT count(*)::text FROM pg_stat_replication WHERE application_name = '{name}' AND state = 'streaming'"
    );
    let begun = Instant::now();
    while server.value(&here).await? == "0" {
        ensure!(begun.elapsed() < PATIENCE, "{name} does not connect");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Waits until this standby has everything; how long that took.
async fn reaches(server: &Postgres, name: &str, end: &str) -> Result<Duration> {
    let sql = format!(
        "SELECT coalesce(bool_or(flush_lsn >= '{end}'), false)::text FROM pg_stat_replication WHERE application_name = '{name}'"
    );
    let begun = Instant::now();
    while server.value(&sql).await? != "true" {
        ensure!(begun.elapsed() < PATIENCE, "{name} does not reach {end}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(begun.elapsed())
}

/// User and system time so far.
fn cpu_seconds(process: &Child) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
    // Behind the name, which may hold anything: state is field 3, utime 14, stime 15, in ticks of 10 ms.
    let fields = stat.rsplit_once(')').context("no name")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / 100.0)
}

fn peak_mib(process: &Child) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no peak")?;
    Ok(peak.split_whitespace().next().context("no figure")?.parse::<u64>()? / 1_024)
}

/// A process that is ended with SIGTERM, also on failure.
struct Stopped(Child);

impl Stopped {
    fn end(&mut self) -> Result<()> {
        if self.0.try_wait()?.is_none() {
            succeed(Command::new("kill").args(["-s", "TERM", &self.0.id().to_string()]))?;
            self.0.wait()?;
        }
        Ok(())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("a process did not end: {error:#}");
        }
    }
}
