//! A server that `pitr restore --start` restored and left running.

use std::ops::Deref;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{Pitr, Postgres, SOURCE, Scratch, Setup, succeed};

/// A restored server, paused at its target; stopped when dropped.
#[derive(Debug)]
pub struct Restored(Postgres);

impl Restored {
    /// Restores a source of a server `like` this one to the target, with the credentials of the program in the
    /// environment of the new server.
    pub fn start(scratch: &Scratch, pitr: &Pitr, like: &Postgres, target: &str) -> Result<Self> {
        let into = scratch.path().join("restored");
        let (dir, bin) = (into.to_string_lossy(), like.bin().to_string_lossy());
        let report = pitr.json(["restore", SOURCE, "--to", target, "--into", &dir, "--start", "--bin-dir", &bin])?;
        let socket = report["socket"]["directory"].as_str().context("no socket in the report")?;
        let port = report["socket"]["port"].as_u64().context("no port in the report")?;
        let (socket, port) = (PathBuf::from(socket), u16::try_from(port)?);
        Ok(Self(Postgres::running(scratch, Setup::default().major, into, socket, port)?))
    }
}

impl Deref for Restored {
    type Target = Postgres;

    fn deref(&self) -> &Postgres {
        &self.0
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let mut stop = self.0.program("pg_ctl");
        if let Err(error) = succeed(stop.arg("-D").arg(self.0.data()).args(["stop", "-w", "-m", "immediate"])) {
            eprintln!("cannot stop the restored server: {error:#}");
        }
    }
}
