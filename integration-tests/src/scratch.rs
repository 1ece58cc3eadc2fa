//! A directory for one test, owned by the user that runs the servers.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::account::Account;
use crate::programs;

/// A temporary directory, removed when dropped. `PITR_KEEP=1` keeps it for a look afterwards.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
    account: Account,
    pitr: PathBuf,
}

impl Scratch {
    /// Makes the directory, short enough for a Unix socket inside, and puts the program under test into it.
    pub fn new(label: &str) -> Result<Self> {
        let account = Account::for_servers()?;
        let mut dir = tempfile::Builder::new().prefix(&format!("pitr-{label}-")).tempdir_in("/tmp")?;
        account.own(dir.path())?;
        if std::env::var_os("PITR_KEEP").is_some() {
            dir.disable_cleanup(true);
            eprintln!("keeping {}", dir.path().display());
        }
        let pitr = dir.path().join("pitr");
        let built = programs::pitr()?;
        // The servers' user may not be allowed to look into the build directory. A link costs nothing; across
        // file systems it must be a copy.
        fs::hard_link(&built, &pitr)
            .or_else(|_| fs::copy(&built, &pitr).map(drop))
            .with_context(|| format!("cannot copy {}", built.display()))?;
        Ok(Self { dir, account, pitr })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A new directory inside, for the servers' user alone.
    pub fn make(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        self.account.own(&path)?;
        Ok(path)
    }

    /// A new or replaced file inside, readable by the servers' user alone.
    pub fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        self.account.own(&path)?;
        Ok(path)
    }

    /// A command that runs as the servers' user, for programs other than ours and the server's.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> std::process::Command {
        self.account.command(program)
    }

    pub(crate) fn account(&self) -> Account {
        self.account
    }

    /// The program under test, where the servers' user can run it.
    pub fn pitr(&self) -> &Path {
        &self.pitr
    }
}
