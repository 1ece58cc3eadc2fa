//! Where the programs are.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// Where servers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Programs on this machine, as `cargo xtask servers` installs them.
    Local,
    /// Containers; needs the feature `containers` and a container engine.
    Containers,
}

/// What `PITR_TEST_SERVERS` says: `local`, which is the default, or `containers`.
pub fn provider() -> Result<Provider> {
    match std::env::var("PITR_TEST_SERVERS").as_deref() {
        Err(_) | Ok("" | "local") => Ok(Provider::Local),
        Ok("containers") if cfg!(feature = "containers") => Ok(Provider::Containers),
        Ok("containers") => bail!("PITR_TEST_SERVERS=containers needs --features containers"),
        Ok(other) => bail!("PITR_TEST_SERVERS={other}: expected local or containers"),
    }
}

/// The program under test: `PITR_BIN`, else the one that cargo built beside this test.
pub fn pitr() -> Result<PathBuf> {
    let path = match std::env::var_os("PITR_BIN") {
        Some(path) => PathBuf::from(path),
        None => {
            let test = std::env::current_exe().context("cannot tell where this test is")?;
            // target/PROFILE/deps/TEST, target/PROFILE/BINARY
            let mut dirs = test.ancestors().skip(1).map(|dir| dir.join("pitr"));
            dirs.find(|path| path.is_file()).unwrap_or_else(|| test.with_file_name("pitr"))
        }
    };
    if !path.is_file() {
        bail!("{} does not exist: run cargo build --workspace --all-targets, or set PITR_BIN", path.display());
    }
    Ok(path)
}

/// Directory with the programs of one major version of PostgreSQL. Debian has 15, the cache may have others.
pub fn postgres(major: u32) -> Result<PathBuf> {
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    let npm = cache().join(format!("postgres-{major}/native/bin"));
    let found = [debian, npm].into_iter().find(|bin| bin.join("initdb").is_file());
    found.with_context(|| format!("PostgreSQL {major} is not installed: run cargo xtask servers --all"))
}

/// True if that version is installed; the version matrix leaves out what is not.
pub fn has_postgres(major: u32) -> bool {
    postgres(major).is_ok()
}

/// Where MySQL or MariaDB is: scripts that start its programs, and a new data directory to copy.
#[derive(Debug, Clone)]
pub struct MysqlHome {
    /// Directory with the scripts.
    pub programs: PathBuf,
    /// The data directory.
    pub template: PathBuf,
}

/// The one version there is of each family.
pub fn mysql(flavour: crate::mysql::Flavour) -> Result<MysqlHome> {
    let dir = match flavour {
        crate::mysql::Flavour::Mysql => "mysql-9.7",
        crate::mysql::Flavour::Mariadb => "mariadb-10.11",
    };
    let home =
        MysqlHome { programs: cache().join(dir).join("run"), template: cache().join(format!("{dir}-template/data")) };
    if !home.template.is_dir() {
        bail!("{} does not exist: run cargo xtask servers", home.template.display());
    }
    Ok(home)
}

/// The S3 server.
pub fn moto() -> Result<PathBuf> {
    in_cache("moto-", "bin/moto_server")
}

/// Azurite: the script; its Node.js is linked beside it.
pub fn azurite() -> Result<(PathBuf, PathBuf)> {
    Ok((in_cache("azurite-", "node")?, in_cache("azurite-", "node_modules/azurite/dist/src/blob/main.js")?))
}

/// One version of `mongod`.
pub fn mongod(version: &str) -> Result<PathBuf> {
    in_cache(&format!("mongodb-{version}"), "bin/mongod")
}

/// A directory with the OpenSSL 1.1 that some versions of MongoDB need: a PostgreSQL of npm brings it along.
pub fn openssl_1_1() -> Option<PathBuf> {
    let file = in_cache("postgres-", "native/lib/libssl.so.1.1").ok()?;
    file.parent().map(Into::into)
}

fn in_cache(prefix: &str, file: &str) -> Result<PathBuf> {
    let cache = cache();
    let entries = std::fs::read_dir(&cache).with_context(|| format!("cannot read {}", cache.display()));
    for entry in entries.context("run cargo xtask servers")? {
        let entry = entry?;
        let path = entry.path().join(file);
        if entry.file_name().to_string_lossy().starts_with(prefix) && path.exists() {
            return Ok(path);
        }
    }
    bail!("{prefix}*/{file} is not in {}: run cargo xtask servers", cache.display())
}

/// Where `cargo xtask servers` put what it fetched: the same rule as there.
fn cache() -> PathBuf {
    let system = PathBuf::from("/var/cache/pitr/servers");
    match (std::env::var_os("PITR_SERVERS_DIR"), std::env::var_os("HOME")) {
        (Some(dir), _) => PathBuf::from(dir),
        (None, Some(home)) => {
            let own = PathBuf::from(home).join(".cache/pitr/servers");
            if own.is_dir() { own } else { system }
        }
        (None, None) => system,
    }
}
