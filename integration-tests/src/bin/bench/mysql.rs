//! MySQL and MariaDB beside their stock tools: replay against `mysqlbinlog | mysql`, catch-up against
//! `mysqlbinlog --raw`, dump and load against mydumper and myloader.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use integration_tests::mysql::{Flavour, Mysql, MysqlSetup};
use integration_tests::{Pitr, SOURCE, Scratch, Streamer, binlogs, succeed};

use crate::Options;
use crate::measure::{TIME, Table, cost, median, size};

/// The parts that need one log.
pub const LOG: [&str; 3] = ["mysql-stream", "mysql-replay", "mysql-memory"];
/// The part about bases.
pub const DUMP: &str = "mysql-dump";

/// Bytes of log that one transaction of sysbench's write-only load takes, about.
const TRANSACTION: u64 = 2_200;
/// Log that is written, in MiB, unless the whole benchmark is made smaller.
const LOG_MIB: u64 = 400;
/// Time between two looks at whether everything has arrived.
const LOOK: Duration = Duration::from_millis(200);
/// Clients that write it.
const CLIENTS: u32 = 8;

/// What servers of both sides are started with.
const ROOMY: [&str; 3] = ["--innodb-buffer-pool-size=512M", "--max-binlog-size=1G", "--performance-schema=OFF"];

/// Measures replay, the stream, and memory, on MySQL.
pub async fn log(scratch: &Scratch, options: &Options) -> Result<Table> {
    let source = Source::create(scratch, Flavour::Mysql, "source").await?;
    source.prepare(8, 50_000)?;
    source.pitr.run(["init"])?.ok()?;
    let mut streamer = Streamer::start(scratch, &source.pitr)?;
    let base = source.pitr.json(["backup", SOURCE])?;
    let consistent = place(base["consistent"].as_str().context("no position")?)?;
    source.server.sql("FLUSH BINARY LOGS")?;
    let mib = options.size_mib.min(LOG_MIB);
    source.write(mib * 1_048_576 / TRANSACTION)?;
    binlogs::caught_up(&source.server, &source.pitr, &streamer).await?;
    let about = format!(
        "{}, {} MB of log from sysbench oltp_write_only with {CLIENTS} clients, {} cores.",
        source.version()?,
        source.log_bytes()? / 1_000_000,
        std::thread::available_parallelism()?
    );
    let mut table = Table::new(&about);
    if options.wants("mysql-stream") {
        stream(scratch, &source, options, &mut table).await?;
    }
    if options.wants("mysql-replay") {
        replay(scratch, &source, consistent, options, &mut table).await?;
    }
    if options.wants("mysql-memory") {
        memory(scratch, &source, &streamer, &mut table).await?;
    }
    streamer.terminate().await?;
    Ok(table)
}

/// A server with data in it, and an archive of its own.
struct Source {
    server: Mysql,
    pitr: Pitr,
}

impl Source {
    async fn create(scratch: &Scratch, flavour: Flavour, name: &str) -> Result<Self> {
        let mut server = Mysql::create(scratch, name, &roomy(flavour))?;
        server.start().await?;
        server.sql("CREATE DATABASE sbtest")?;
        let pitr = Pitr::of_engine(scratch, flavour.engine(), &server.url(), false)?;
        Ok(Self { server, pitr })
    }

    fn sysbench(&self, tables: u32, rows: u32, more: &[String], what: &str) -> Result<()> {
        let mut command = Command::new("sysbench");
        command.args(["oltp_write_only", "--db-driver=mysql", "--mysql-user=root", "--mysql-db=sbtest"]);
        command.arg(format!("--mysql-socket={}", self.server.socket().display()));
        command.args([format!("--tables={tables}"), format!("--table-size={rows}")]).args(more).arg(what);
        succeed(command.stdout(Stdio::null()))
    }

    fn prepare(&self, tables: u32, rows: u32) -> Result<()> {
        self.sysbench(tables, rows, &["--threads=2".to_owned()], "prepare")
    }

    fn write(&self, transactions: u64) -> Result<()> {
        let more = [format!("--threads={CLIENTS}"), format!("--events={transactions}"), "--time=0".to_owned()];
        self.sysbench(8, 50_000, &more, "run")
    }

    fn version(&self) -> Result<String> {
        self.server.sql("SELECT CONCAT('version ', VERSION())")
    }

    fn log_bytes(&self) -> Result<u64> {
        let (_, end) = self.server.log_end()?;
        Ok(end)
    }
}

fn roomy(flavour: Flavour) -> MysqlSetup {
    let redo = match flavour {
        Flavour::Mysql => "--innodb-redo-log-capacity=1G",
        Flavour::Mariadb => "--innodb-log-file-size=1G",
    };
    MysqlSetup::of(flavour).with(ROOMY).with([redo])
}

/// File and offset of a position.
fn place(position: &str) -> Result<(u64, u64)> {
    let mut parts = position.split(':').skip(1).map(str::parse);
    let mut next = || parts.next().context("an odd position")?.context("an odd position");
    Ok((next()?, next()?))
}

/// Catching up with the current file, from its first byte.
async fn stream(scratch: &Scratch, source: &Source, options: &Options, table: &mut Table) -> Result<()> {
    let (file, _) = source.server.log_end()?;
    let (mut ours, mut theirs, mut peak) = (Vec::new(), Vec::new(), 0);
    let mut stored = 0;
    for run in 0..options.runs {
        let pitr = source.pitr.with_new_archive(scratch, &format!("catch-up{run}"))?;
        pitr.configure_source(["server_id = 5001"])?;
        pitr.run(["init"])?.ok()?;
        let begun = SystemTime::now();
        let mut streamer = Streamer::start(scratch, &pitr)?;
        while !arrived(&source.server, &pitr).await? {
            tokio::time::sleep(LOOK).await;
        }
        // Looking takes processor time, so it is done rarely: when the last of it was stored says the file itself.
        ours.push(newest(pitr.archive()?)?.duration_since(begun)?);
        peak = peak.max(streamer.peak_kib()?);
        streamer.terminate().await?;
        stored = size(pitr.archive()?)?;
        std::fs::remove_dir_all(pitr.archive()?)?;

        let into = scratch.make(&format!("raw{run}"))?;
        let mut raw = source.server.binlog_tool();
        raw.args(["--read-from-remote-server", "--raw", "--user=root"]);
        raw.arg(format!("--socket={}", source.server.socket().display()));
        raw.arg(format!("--result-file={}/", into.display())).arg(&file);
        let begun = Instant::now();
        succeed(&mut raw)?;
        theirs.push(begun.elapsed());
        std::fs::remove_dir_all(into)?;
    }
    row(table, "catch up with the log: compressed and stored, against `mysqlbinlog --raw`", ours, theirs, "1.3");
    let percent = stored as f64 * 100.0 / source.log_bytes()? as f64;
    table.figure("stored by that", format!("{percent:.0} % of the log"), "-");
    table.figure("peak memory of stream", format!("{} MiB", peak / 1_024), "128 MiB");
    Ok(())
}

/// True once everything that the server has written is in the archive.
async fn arrived(server: &Mysql, pitr: &Pitr) -> Result<bool> {
    let (file, end) = server.log_end()?;
    let number: u64 = file.rsplit('.').next().context("a file without a number")?.parse()?;
    // It may not be there yet.
    let Ok(catalog) = binlogs::catalog(pitr, server.flavour()).await else { return Ok(false) };
    let mut spans = catalog.spans.iter().chain(&catalog.tails);
    Ok(spans.any(|span| (span.end.file, span.end.offset) >= (number, end)))
}

/// When the newest file below a directory was written.
fn newest(path: &Path) -> Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let at =
            if entry.file_type()?.is_dir() { self::newest(&entry.path())? } else { entry.metadata()?.modified()? };
        newest = newest.max(at);
    }
    Ok(newest)
}

/// The same log applied to the same base by both.
async fn replay(
    scratch: &Scratch,
    source: &Source,
    (file, offset): (u64, u64),
    options: &Options,
    table: &mut Table,
) -> Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let expected = checksums(&source.server)?;
    for run in 0..options.runs {
        let mut target = Mysql::create(scratch, &format!("ours{run}"), &roomy(Flavour::Mysql).with_id(600))?;
        target.start().await?;
        let report = source.pitr.json(["restore", SOURCE, "--to", "latest", "--target-url", &target.url()])?;
        ours.push(Duration::from_secs_f64(report["replay_seconds"].as_f64().context("no duration")?));
        ensure!(checksums(&target)? == expected, "the rows differ");
        discard(target).await?;

        let mut target = Mysql::create(scratch, &format!("theirs{run}"), &roomy(Flavour::Mysql).with_id(601))?;
        target.start().await?;
        let base = format!("file:binlog.{file:06}:{offset}");
        source.pitr.json(["restore", SOURCE, "--before", &base, "--target-url", &target.url()])?;
        let script = scratch.write("peer.sh", &pipe(source, &target, file, offset)?)?;
        let begun = Instant::now();
        succeed(scratch.command("sh").arg(script))?;
        theirs.push(begun.elapsed());
        ensure!(checksums(&target)? == expected, "the peer's rows differ");
        discard(target).await?;
    }
    row(table, "replay into the restored base, against `mysqlbinlog | mysql`", ours, theirs, "0.25");
    Ok(())
}

fn pipe(source: &Source, target: &Mysql, file: u64, offset: u64) -> Result<String> {
    let number = |path: &PathBuf| path.extension().and_then(|text| text.to_str()).and_then(|text| text.parse().ok());
    let files = source.server.binlogs()?.into_iter().filter(|path| number(path).is_some_and(|n: u64| n >= file));
    let files: Vec<_> = files.map(|path| path.display().to_string()).collect();
    let programs = source.server.programs().display();
    Ok(format!(
        "set -e\n{programs}/mysqlbinlog --no-defaults --start-position={offset} {} | {programs}/mysql --no-defaults --binary-mode --user=root --socket={}\n",
        files.join(" "),
        target.socket().display()
    ))
}

fn checksums(server: &Mysql) -> Result<String> {
    server.sql("CHECKSUM TABLE sbtest.sbtest1, sbtest.sbtest2, sbtest.sbtest5, sbtest.sbtest8")
}

/// Stops a server and removes what it has.
async fn discard(mut server: Mysql) -> Result<()> {
    let data = server.data().to_owned();
    server.kill()?;
    drop(server);
    Ok(std::fs::remove_dir_all(data)?)
}

/// What one transaction of a gibibyte costs in memory: the stream that runs, and a restore.
async fn memory(scratch: &Scratch, source: &Source, streamer: &Streamer, table: &mut Table) -> Result<()> {
    source.server.sql(
        "SET GLOBAL max_allowed_packet = 1073741824; CREATE TABLE sbtest.big (id INT PRIMARY KEY AUTO_INCREMENT, b LONGBLOB)",
    )?;
    let insert = "INSERT INTO sbtest.big (b) SELECT REPEAT(RANDOM_BYTES(1024), 32768);";
    source.server.sql(&format!("BEGIN; {} COMMIT", insert.repeat(32)))?;
    binlogs::caught_up(&source.server, &source.pitr, streamer).await?;
    let about = "with a transaction of 1 GiB in the log";
    table.figure(
        &format!("peak memory of stream, {about}"),
        format!("{} MiB", streamer.peak_kib()? / 1_024),
        "128 MiB",
    );
    let mut target = Mysql::create(scratch, "large", &roomy(Flavour::Mysql).with_id(602))?;
    target.start().await?;
    let url = target.url();
    let spent = cost(source.pitr.timed_command(&TIME, ["restore", SOURCE, "--to", "latest", "--target-url", &url]))?;
    ensure!(target.sql("SELECT SUM(LENGTH(b)) FROM sbtest.big")? == (1_u64 << 30).to_string(), "rows are missing");
    table.figure(&format!("peak memory of restore, {about}"), format!("{} MiB", spent.peak_kib / 1_024), "128 MiB");
    discard(target).await
}

/// Dump and load of MariaDB: Debian's mydumper does not know how to ask MySQL 8.4 and later for its position.
pub async fn dump(scratch: &Scratch, options: &Options) -> Result<Table> {
    let source = Source::create(scratch, Flavour::Mariadb, "dumped").await?;
    let rows = u32::try_from(options.size_mib.min(1_024) * 1_048_576 / 240 / 4)?;
    source.prepare(4, rows)?;
    let bytes =
        source.server.sql("SELECT SUM(data_length) FROM information_schema.tables WHERE table_schema = 'sbtest'")?;
    let about = format!("{}, {} MB of rows.", source.version()?, bytes.parse::<u64>()? / 1_000_000);
    let mut table = Table::new(&about);
    let (mut ours, mut theirs, mut compressed) = (Vec::new(), Vec::new(), Vec::new());
    let (mut load, mut peer_load) = (Vec::new(), Vec::new());
    for run in 0..options.runs {
        let pitr = source.pitr.with_new_archive(scratch, &format!("dump{run}"))?;
        pitr.run(["init"])?.ok()?;
        ours.push(cost(pitr.timed_command(&TIME, ["backup", SOURCE, "--no-wait"]))?);
        let into = scratch.make(&format!("peer{run}"))?;
        theirs.push(cost(mydumper(scratch, &source, &into, &[]))?);
        let squeezed = scratch.make(&format!("peer-compressed{run}"))?;
        compressed.push(cost(mydumper(scratch, &source, &squeezed, &["--compress"]))?);

        let mut streamer = Streamer::start(scratch, &pitr)?;
        source.server.sql("CREATE OR REPLACE TABLE sbtest.mark (a INT)")?;
        binlogs::caught_up(&source.server, &pitr, &streamer).await?;
        streamer.terminate().await?;
        let mut target = Mysql::create(scratch, &format!("loaded{run}"), &roomy(Flavour::Mariadb).with_id(603))?;
        target.start().await?;
        load.push(cost(
            pitr.timed_command(&TIME, ["restore", SOURCE, "--to", "latest", "--target-url", &target.url()]),
        )?);
        discard(target).await?;
        let mut target = Mysql::create(scratch, &format!("peer-loaded{run}"), &roomy(Flavour::Mariadb).with_id(604))?;
        target.start().await?;
        let mut peer = timed("myloader", scratch);
        peer.arg(format!("--socket={}", target.socket().display()));
        peer.args(["--user=root", "--threads=2", "--directory"]).arg(&into);
        peer_load.push(cost(peer)?);
        ensure!(target.sql("SELECT COUNT(*) FROM sbtest.sbtest4")? == rows.to_string(), "the peer lost rows");
        discard(target).await?;
    }
    let (ours, load) = (median(&ours)?, median(&load)?);
    for (what, ours, theirs) in [
        ("dump, against mydumper with 2 threads, which writes plain text", ours, median(&theirs)?),
        ("dump, against mydumper --compress with 2 threads", ours, median(&compressed)?),
        ("load, against myloader with 2 threads", load, median(&peer_load)?),
    ] {
        table.row(what, (ours.time.as_secs_f64(), theirs.time.as_secs_f64()), "s", "1.0");
    }
    for (what, ours) in [("dump", ours), ("load", load)] {
        table.figure(&format!("peak memory of that {what}"), format!("{} MiB", ours.peak_kib / 1_024), "128 MiB");
    }
    Ok(table)
}

fn mydumper(scratch: &Scratch, source: &Source, into: &Path, more: &[&str]) -> Command {
    let mut command = timed("mydumper", scratch);
    command.arg(format!("--socket={}", source.server.socket().display()));
    command.args(["--user=root", "--threads=2", "--database=sbtest", "--outputdir"]).arg(into).args(more);
    command
}

fn timed(program: &str, scratch: &Scratch) -> Command {
    let [time, format @ ..] = TIME;
    let mut command = scratch.command(time);
    command.args(format).arg(program);
    command
}

fn row(table: &mut Table, what: &str, mut ours: Vec<Duration>, mut theirs: Vec<Duration>, goal: &str) {
    ours.sort();
    theirs.sort();
    let middle = |times: &[Duration]| times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64);
    table.row(what, (middle(&ours), middle(&theirs)), "s", goal);
}
