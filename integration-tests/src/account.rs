//! The user that servers run as: PostgreSQL refuses to run as root.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Who runs the servers, and the program under test beside them.
#[derive(Debug, Clone, Copy)]
pub enum Account {
    /// We are not root: everything runs as we do.
    Ourselves,
    /// We are root: everything runs as this user.
    Other {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

impl Account {
    /// The user `postgres` if we are root, else ourselves.
    pub fn for_servers() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
        if uid != Some("0") {
            return Ok(Self::Ourselves);
        }
        let users = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        let postgres = users.lines().find(|line| line.starts_with("postgres:"));
        let postgres = postgres.context("there is no user postgres: run cargo xtask servers")?;
        let mut fields = postgres.split(':').skip(2);
        let mut number = || fields.next().and_then(|field| field.parse().ok()).context("/etc/passwd is malformed");
        Ok(Self::Other { uid: number()?, gid: number()? })
    }

    /// A command that runs as this user. The program replaces no shell and no wrapper: its process id is the child's.
    pub fn command(self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if let Self::Other { uid, gid } = self {
            command.uid(uid).gid(gid).env("HOME", "/tmp");
        }
        // The locale of the machine must not change what the tools print.
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").current_dir("/");
        command
    }

    /// Gives a file or directory to this user.
    pub fn own(self, path: &Path) -> Result<()> {
        match self {
            Self::Ourselves => Ok(()),
            Self::Other { uid, gid } => {
                chown(path, Some(uid), Some(gid)).with_context(|| format!("cannot give away {}", path.display()))
            }
        }
    }
}
