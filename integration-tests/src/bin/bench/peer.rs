//! pgBackRest, set up as its manual says, with zstd as ours.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use integration_tests::{Postgres, Scratch, succeed};

use crate::measure::TIME;

/// Its one cluster.
const STANZA: &str = "bench";

/// A configuration and a repository.
pub struct Peer<'s> {
    scratch: &'s Scratch,
    config: PathBuf,
    repository: PathBuf,
}

impl<'s> Peer<'s> {
    /// Writes a configuration with a new repository and creates the stanza; compresses at this level of zstd.
    pub fn create(scratch: &'s Scratch, server: &Postgres, name: &str, level: i32) -> Result<Self> {
        let repository = scratch.make(name)?;
        let text = format!(
            "[global]\nrepo1-path={repo}/repo\nlog-path={repo}\nlock-path={repo}/lock\nspool-path={repo}/spool\n\
             log-level-file=off\nlog-level-console=warn\ncompress-type=zst\ncompress-level={level}\nprocess-max=2\n\
             start-fast=y\narchive-check=n\nrepo1-retention-full=99\n\
             [{STANZA}]\npg1-path={data}\npg1-port={port}\npg1-socket-path={socket}\npg1-user=postgres\n",
            repo = repository.display(),
            data = server.data().display(),
            port = server.port(),
            socket = server.socket().display(),
        );
        let config = scratch.write(&format!("{name}.conf"), &text)?;
        let peer = Self { scratch, config, repository };
        succeed(&mut peer.command(&["stanza-create"]))?;
        Ok(peer)
    }

    /// One of its commands.
    pub fn command(&self, args: &[&str]) -> Command {
        self.under("pgbackrest", &[], args)
    }

    /// One of its commands under `time`.
    pub fn timed_command(&self, args: &[&str]) -> Command {
        let [time, format @ ..] = TIME;
        self.under(time, &[format.as_slice(), &["pgbackrest"]].concat(), args)
    }

    fn under(&self, program: &str, before: &[&str], args: &[&str]) -> Command {
        let mut command = self.scratch.command(program);
        command.args(before).arg(format!("--config={}", self.config.display()));
        command.arg(format!("--stanza={STANZA}")).args(args);
        command
    }

    /// What `archive_command` calls.
    pub fn push_command(&self) -> String {
        format!("pgbackrest --config={} --stanza={STANZA} archive-push %p", self.config.display())
    }

    /// Bases of the repository.
    pub fn backups(&self) -> PathBuf {
        self.repository.join("repo/backup").join(STANZA)
    }

    /// Name and version.
    pub fn version(&self) -> Result<String> {
        let output = self.scratch.command("pgbackrest").arg("version").output().context("cannot run pgbackrest")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
