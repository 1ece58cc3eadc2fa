//! `pitr stream` in the background, and waiting for it.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Result, bail};
use mongodb::bson::Timestamp;

use crate::postgres::succeed;
use crate::{Pitr, Run, SOURCE, limits};

/// A streaming service, ended when dropped.
#[derive(Debug)]
pub struct Streaming {
    process: Option<Child>,
}

impl Streaming {
    /// Starts it.
    pub fn start(pitr: &Pitr) -> Result<Self> {
        Ok(Self { process: Some(pitr.spawn(["stream", SOURCE])?) })
    }

    /// The same, from another server than the configuration names.
    pub fn with_url(pitr: &Pitr, url: &str) -> Result<Self> {
        let mut command = pitr.command(["stream", SOURCE]);
        command.env("PITR__SOURCES__MAIN__URL", url).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { process: Some(command.spawn()?) })
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
            _ => bail!("{} is not archived after {:?}: {run}", optime(at), begun.elapsed()),
        }
    }
}
