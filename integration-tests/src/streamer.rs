//! `pitr stream` as a process, and how far it is by the server's own word.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{Pitr, Postgres, SOURCE, Scratch, limits, succeed};

/// A running `pitr stream`, killed when dropped. Its log goes to a file, and is shown if the test failed.
#[derive(Debug)]
pub struct Streamer {
    process: Option<Child>,
    log: PathBuf,
}

impl Streamer {
    /// Starts streaming the one source.
    pub fn start(scratch: &Scratch, pitr: &Pitr) -> Result<Self> {
        Self::with_args(scratch, pitr, &["stream", SOURCE])
    }

    /// Starts with other arguments.
    pub fn with_args(scratch: &Scratch, pitr: &Pitr, args: &[&str]) -> Result<Self> {
        Self::of_command(scratch, pitr.command(args))
    }

    /// Starts a command made by [`Pitr::command`].
    pub fn of_command(scratch: &Scratch, mut command: Command) -> Result<Self> {
        let log = scratch.path().join(format!("stream-{:08x}.log", rand::random::<u32>()));
        let file = File::create(&log).context("no log for the streamer")?;
        let process = command.stdout(Stdio::null()).stderr(file).spawn().context("cannot start pitr")?;
        Ok(Self { process: Some(process), log })
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// SIGTERM; gives the exit code and how long the end took.
    pub async fn terminate(&mut self) -> Result<(Option<i32>, Duration)> {
        let mut process = self.process.take().context("not running")?;
        succeed(Command::new("kill").args(["-s", "TERM", &process.id().to_string()]))?;
        let begun = Instant::now();
        loop {
            if let Some(status) = process.try_wait()? {
                return Ok((status.code(), begun.elapsed()));
            }
            if begun.elapsed() > limits::STOP {
                process.kill()?;
                bail!("pitr stream did not end\n{}", self.log());
            }
            tokio::time::sleep(limits::POLL).await;
        }
    }

    /// Peak of its resident memory so far, in KiB.
    pub fn peak_kib(&self) -> Result<u64> {
        peak_kib(self.process.as_ref().context("not running")?.id())
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// Waits until its log says this.
    pub async fn says(&self, text: &str) -> Result<()> {
        let begun = Instant::now();
        while !self.log().contains(text) {
            ensure!(begun.elapsed() < limits::ARCHIVE, "the streamer never said {text:?}:\n{}", self.log());
            tokio::time::sleep(limits::POLL).await;
        }
        Ok(())
    }

    /// Waits until everything that the server has written is durable in the archive, as reported to the server.
    pub async fn catches_up(&self, server: &Postgres) -> Result<()> {
        if server.value("SELECT pg_is_in_recovery()").await? == "false" {
            // A commit that waits for the disk takes those before it along, which did not: whoever reads the server's files next
            // finds every row's transaction in them.
            server.value("SELECT pg_logical_emit_message(true, 'flush', '')").await?;
        }
        let sql =
            "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END";
        let end = server.value(sql).await?;
        let reached = format!(
            "SELECT coalesce(bool_or(flush_lsn >= '{end}'), false) FROM pg_stat_replication WHERE application_name = 'pitr'"
        );
        let begun = Instant::now();
        while server.value(&reached).await? != "true" {
            ensure!(
                begun.elapsed() < limits::ARCHIVE,
                "the streamer did not reach {end}:\n{}\nserver:\n{}",
                self.log(),
                server.log_tail()
            );
            tokio::time::sleep(limits::POLL).await;
        }
        Ok(())
    }

    /// Its process.
    pub fn id(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("not running")?.id())
    }

    /// The log file.
    pub fn log_file(&self) -> &Path {
        &self.log
    }
}

impl Drop for Streamer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of pitr stream ---\n{}", self.log());
        }
        if let Err(error) = self.kill() {
            eprintln!("cannot kill pitr stream: {error:#}");
        }
    }
}

/// Peak of the resident memory of a process so far, in KiB.
pub fn peak_kib(id: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).context("no status of the process")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
    peak.context("its status names no peak")
}
