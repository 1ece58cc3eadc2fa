//! Debian packages that are unpacked into the cache instead of being installed: servers that the machine should
//! not start by itself, or of a release that is not its own.
//!
//! A private package state is made beside the tree, so neither the machine's lists nor what it has installed counts:
//! every library comes along, down to the loader. Each program gets a script in `run/` that starts it through that.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::once;
use crate::shell::{self, output, program};

/// A tree of unpacked packages.
pub struct Tree {
    /// Its directory in the cache.
    pub dir: &'static str,
    suite: &'static str,
    packages: &'static [&'static str],
    /// Programs below `usr/`, and what each is always told.
    programs: &'static [(&'static str, &'static [&'static str])],
    /// Directories of libraries below `usr/lib`, besides the usual one.
    libraries: &'static [&'static str],
    /// Files below `usr/` that no package has, and what is in them.
    files: &'static [(&'static str, &'static str)],
    /// Files below `usr/` of packages that need much more than they are needed for, so that the package comes alone.
    alone: &'static [(&'static str, &'static str)],
}

const MYSQLD: &[&str] = &[
    "--no-defaults",
    "--basedir=@/usr",
    "--lc-messages-dir=@/usr/share/mysql",
    "--character-sets-dir=@/usr/share/mysql/charsets",
    "--plugin-dir=@/usr/lib/mysql/plugin",
];
const MARIADBD: &[&str] = &[
    "--no-defaults",
    "--basedir=@/usr",
    "--lc-messages-dir=@/usr/share/mysql",
    "--character-sets-dir=@/usr/share/mysql/charsets",
    "--plugin-dir=@/usr/lib/mysql/plugin",
];

/// MySQL 9.7. Debian's stable releases have none; the unstable one keeps no old versions, so this is what it has.
pub const MYSQL: Tree = Tree {
    dir: "mysql-9.7",
    suite: "sid",
    packages: &["mysql-server-core", "mysql-client-core"],
    programs: &[
        ("sbin/mysqld", MYSQLD),
        ("bin/mysql", &[]),
        ("bin/mysqladmin", &[]),
        ("bin/mysqlbinlog", &[]),
        ("bin/mysqldump", &[]),
    ],
    libraries: &["mysql", "mysql/private"],
    // A test may give its server a file of keys, in the data directory; without one nothing changes.
    files: &[
        ("sbin/mysqld.my", "{\"read_local_manifest\": true}\n"),
        ("lib/mysql/plugin/component_keyring_file.cnf", "{\"read_local_config\": true}\n"),
    ],
    alone: &[],
};

/// MariaDB 10.11.
pub const MARIADB: Tree = Tree {
    dir: "mariadb-10.11",
    suite: "bookworm",
    packages: &["mariadb-server-core", "mariadb-client-core", "mariadb-client"],
    programs: &[
        ("sbin/mariadbd", MARIADBD),
        ("bin/mariadb", &[]),
        ("bin/mariadb-admin", &[]),
        ("bin/mariadb-binlog", &[]),
        ("bin/mariadb-dump", &[]),
    ],
    libraries: &[],
    files: &[],
    // With it a server may encrypt its log.
    alone: &[("mariadb-server", "lib/mysql/plugin/file_key_management.so")],
};

impl Tree {
    /// Unpacks it, unless it is there.
    pub fn ensure(&self, cache: &Path) -> Result<()> {
        once(cache, self.dir, |dir| {
            let archives = self.download(&dir.join("apt"))?;
            unpack(&archives, dir)?;
            fs::remove_dir_all(dir.join("apt")).context("cannot remove the package state")?;
            self.write_scripts(dir)
        })?;
        // Also where an older version of this program unpacked the tree.
        for (path, content) in self.files {
            let path = cache.join(self.dir).join("usr").join(path);
            if !path.exists() {
                fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        for (package, file) in self.alone {
            if !cache.join(self.dir).join("usr").join(file).exists() {
                self.unpack_alone(&cache.join(self.dir), package)?;
            }
        }
        Ok(())
    }

    /// Unpacks one package without what it depends on.
    fn unpack_alone(&self, dir: &Path, package: &str) -> Result<()> {
        let state = dir.join("apt");
        self.prepare(&state)?;
        let mut download = apt(&state, &["-q", "download", package]);
        download.current_dir(&state);
        shell::run(download)?;
        unpack(&state, dir)?;
        fs::remove_dir_all(state).context("cannot remove the package state")
    }

    /// The script that runs one of its programs.
    pub fn script(&self, cache: &Path, name: &str) -> PathBuf {
        cache.join(self.dir).join("run").join(name)
    }

    fn download(&self, state: &Path) -> Result<PathBuf> {
        self.prepare(state)?;
        let mut install = vec!["-q", "-y", "--no-install-recommends", "--download-only", "install"];
        install.extend(self.packages);
        shell::run(apt(state, &install))?;
        Ok(state.join("archives"))
    }

    /// A private package state with the lists of the suite.
    fn prepare(&self, state: &Path) -> Result<()> {
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(state.join(part))?;
        }
        fs::write(state.join("status"), "")?;
        let source = format!("deb {} {} main\n", mirror()?, self.suite);
        fs::write(state.join("sources.list"), source)?;
        shell::run(apt(state, &["update", "-q"]))
    }

    fn write_scripts(&self, dir: &Path) -> Result<()> {
        let place = dir.display().to_string();
        let libraries = self.libraries.iter().map(|name| format!("{place}/usr/lib/{name}"));
        let usual = format!("{place}/usr/lib/x86_64-linux-gnu:{place}/lib/x86_64-linux-gnu");
        let libraries: Vec<_> = std::iter::once(usual).chain(libraries).collect();
        let loader = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "lib64"]
            .map(|lib| dir.join(lib).join("ld-linux-x86-64.so.2"))
            .into_iter()
            .find(|loader| loader.exists())
            .with_context(|| format!("{place} has no loader"))?;
        fs::create_dir_all(dir.join("run"))?;
        for (path, always) in self.programs {
            let target = dir.join("usr").join(path);
            if !target.exists() {
                bail!("{} is in none of the packages", target.display());
            }
            let always = always.join(" ").replace('@', &place);
            let script = format!(
                "#!/bin/sh\nexec {} --library-path {} {} {always} \"$@\"\n",
                loader.display(),
                libraries.join(":"),
                target.display()
            );
            let file = dir.join("run").join(target.file_name().context("a program has no name")?);
            fs::write(&file, script)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }
}

/// Unpacks all packages that lie in a directory.
fn unpack(archives: &Path, dir: &Path) -> Result<()> {
    for package in fs::read_dir(archives)? {
        let path = package?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            output(program("dpkg", ["-x".as_ref(), path.as_os_str(), dir.as_os_str()]))?;
        }
    }
    Ok(())
}

/// The mirror that the machine's own sources name.
fn mirror() -> Result<String> {
    let args = ["indextargets", "--format", "$(REPO_URI) $(COMPONENT) $(SUITE)", "Created-By: Packages"];
    let targets = output(program("apt-get", args))?;
    let mut rows = targets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let plain = |row: &Vec<&str>| matches!(row.as_slice(), [_, "main", suite] if !suite.contains('-'));
    let row = rows.find(plain).context("apt has no sources of a Debian release")?;
    let uri = row.first().context("a source of apt has no address")?;
    Ok(uri.trim_end_matches('/').to_owned())
}

/// `apt-get` over a private state.
fn apt(state: &Path, args: &[&str]) -> std::process::Command {
    let own = |key: &str, file: &str| format!("{key}={}", state.join(file).display());
    let mut options = vec![
        own("Dir::Etc::sourcelist", "sources.list"),
        own("Dir::State::lists", "lists"),
        own("Dir::State::status", "status"),
        own("Dir::Cache::archives", "archives"),
    ];
    options.extend(
        [
            "Dir::Etc::sourceparts=/dev/null",
            "Dir::Cache::pkgcache=",
            "Dir::Cache::srcpkgcache=",
            "APT::Sandbox::User=root",
            // It is ours alone, and the machine's own may be in use at this moment.
            "Debug::NoLocking=1",
        ]
        .map(str::to_owned),
    );
    let mut command = program("apt-get", args);
    for option in options {
        command.arg("-o").arg(option);
    }
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
