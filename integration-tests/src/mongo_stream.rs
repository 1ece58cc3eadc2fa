//! `pitr stream` in the background, and waiting for it.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bson::Timestamp;

use crate::postgres::succeed;
use crate::streamer::peak_kib;
use crate::{Pitr, Run, SOURCE, limits};

/// A streaming service, ended when dropped.
#[derive(Debug)]
pub struct Streaming {
    process: Option<Child>,
    log: PathBuf,
}

impl Streaming {
    /// Starts it.
    pub fn start(pitr: &Pitr) -> Result<Self> {
        Self::launch(pitr, None)
    }

    /// The same, from another server than the configuration names.
    pub fn with_url(pitr: &Pitr, url: &str) -> Result<Self> {
        Self::launch(pitr, Some(url))
    }

    fn launch(pitr: &Pitr, url: Option<&str>) -> Result<Self> {
        let log = pitr.config().with_file_name("stream.log");
        let mut command = pitr.command(["stream", SOURCE]);
        command.envs(url.map(|url| ("PITR__SOURCES__MAIN__URL", url)));
        command.stdout(Stdio::null()).stderr(File::options().create(true).append(true).open(&log)?);
        Ok(Self { process: Some(command.spawn()?), log })
    }

    /// Peak of its resident memory so far, in KiB.
    pub fn peak_kib(&self) -> Result<u64> {
        peak_kib(self.process.as_ref().context("not running")?.id())
    }

    /// Waits until it, or one before it, has said so.
    pub async fn wait_for_log(&self, text: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let log = std::fs::read_to_string(&self.log)?;
            if log.contains(text) {
                return Ok(());
            }
            ensure!(begun.elapsed() < limits::ARCHIVE, "{text:?} is not in the log of the stream:\n{log}");
            tokio::time::sleep(limits::POLL * 10).await;
        }
    }

    /// Ends it in order: what it has read is durable afterwards.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        succeed(Command::new("kill").args(["-s", "TERM", &process.id().to_string()]))?;
        process.wait()?;
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.kill()?;
        process.wait()?;
        Ok(())
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the stream ---\n{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
        if let Err(error) = self.kill() {
            eprintln!("cannot kill the stream: {error:#}");
        }
    }
}

/// As it is typed after `--to`.
pub fn optime(at: Timestamp) -> String {
    format!("optime:{}.{}", at.time, at.increment)
}

/// Waits until everything up to an optime can be restored.
pub async fn wait_for_archive(pitr: &Pitr, at: Timestamp) -> Result<Run> {
    let begun = Instant::now();
    loop {
        let run = pitr.run(["plan", SOURCE, "--to", &optime(at)])?;
        match run.code {
            Some(0 | 3) => return Ok(run),
            _ if begun.elapsed() < limits::ARCHIVE => tokio::time::sleep(limits::POLL * 10).await,
            _ => {
                let log = pitr.config().with_file_name("stream.log");
                let log = std::fs::read_to_string(log).unwrap_or_default();
                bail!("{} is not archived after {:?}: {run}\nlog of the stream:\n{log}", optime(at), begun.elapsed())
            }
        }
    }
}
