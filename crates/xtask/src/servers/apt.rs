//! Debian packages.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::shell::{self, is_root, output, program};

/// A set of packages and what it is for.
pub struct Set {
    purpose: &'static str,
    packages: &'static [&'static str],
}

/// A server to run, and what builds the allocator. `libicu` and friends come as dependencies.
pub const POSTGRES: Set = Set { purpose: "a PostgreSQL server and the build", packages: &["postgresql-15", "make"] };
/// What the tests need: the server, and the stock tools that must be able to read our archive.
pub const TESTS: Set = Set {
    purpose: "the tests",
    packages: &["postgresql-15", "make", "age", "zstd", "jq", "python3-venv", "ca-certificates"],
};
/// What the benchmark compares with.
pub const BENCH: Set = Set { purpose: "the benchmark", packages: &["pgbackrest", "sysbench", "mydumper", "time"] };

/// Where `pg_createcluster` looks for settings of its own.
const CREATECLUSTER: &str = "/etc/postgresql-common/createcluster.d";

/// Installs what is missing; says what to type where we may not.
pub fn ensure(set: &Set) -> Result<()> {
    let missing: Vec<_> = set.packages.iter().copied().filter(|package| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    if !is_root() {
        bail!("{} need packages that are not installed; type:\n  sudo apt-get update && sudo {install}", set.purpose);
    }
    shell::run(program("apt-get", ["update", "-q"]))?;
    let guard = NoMainCluster::new(missing.contains(&"postgresql-15"))?;
    let mut apt = program("apt-get", install.split(' ').skip(1));
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    let result = shell::run(apt);
    guard.remove()?;
    result
}

fn installed(package: &str) -> bool {
    output(program("dpkg-query", ["-W", "-f", "${db:Status-Abbrev}", package]))
        .is_ok_and(|status| status.starts_with("ii"))
}

/// While it exists, installing a server package creates no cluster and so starts none: the tests make
/// their own, and a machine should not be left with a server that nobody asked for.
struct NoMainCluster(Option<std::path::PathBuf>);

impl NoMainCluster {
    fn new(wanted: bool) -> Result<Self> {
        if !wanted {
            return Ok(Self(None));
        }
        let file = Path::new(CREATECLUSTER).join("pitr-tests.conf");
        fs::create_dir_all(CREATECLUSTER).with_context(|| format!("cannot create {CREATECLUSTER}"))?;
        fs::write(&file, "create_main_cluster = false\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self(Some(file)))
    }

    fn remove(self) -> Result<()> {
        match self.0 {
            Some(file) => fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display())),
            None => Ok(()),
        }
    }
}
