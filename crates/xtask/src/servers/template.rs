//! Data directories as they are right after the installation, for the tests to copy: making one takes MySQL
//! several seconds, copying it a fraction of one.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{debs, once};
use crate::shell::{is_root, line, program};

/// `nobody`: servers refuse to run as root.
const NOBODY: u32 = 65_534;

/// The definitions of MariaDB's system tables, in the order in which its own installation script runs them.
const MARIADB_TABLES: [&str; 6] = [
    "mysql_system_tables.sql",
    "mysql_performance_tables.sql",
    "mysql_system_tables_data.sql",
    "fill_help_tables.sql",
    "maria_add_gis_sp_bootstrap.sql",
    "mysql_sys_schema.sql",
];

/// `data/` of a MySQL server; its only account is `root` without a password.
pub fn mysql(cache: &Path) -> Result<()> {
    once(cache, "mysql-9.7-template", |dir| {
        let server = debs::MYSQL.script(cache, "mysqld");
        let mut command = unprivileged(dir, &server)?;
        command.args(["--initialize-insecure", "--mysqlx=off", "--innodb-redo-log-capacity=8M"]);
        run(command, "")
    })
}

/// `data/` of a MariaDB server; its only account is `root`, without a password.
pub fn mariadb(cache: &Path) -> Result<()> {
    once(cache, "mariadb-10.11-template", |dir| {
        let share = cache.join(debs::MARIADB.dir).join("usr/share/mysql");
        let mut sql = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n".to_owned();
        for file in MARIADB_TABLES {
            let text = fs::read_to_string(share.join(file)).with_context(|| format!("cannot read {file}"))?;
            writeln!(sql, "{text}")?;
        }
        let server = debs::MARIADB.script(cache, "mariadbd");
        let mut command = unprivileged(dir, &server)?;
        command.args(["--bootstrap", "--innodb-log-file-size=8M", "--log-warnings=0"]);
        run(command, &sql)
    })
}

/// A server over the new directory `dir/data`, as `nobody` if we are root.
fn unprivileged(dir: &Path, server: &Path) -> Result<Command> {
    let data = dir.join("data");
    fs::create_dir_all(&data)?;
    let mut command = if is_root() {
        chown(&data, Some(NOBODY), Some(NOBODY)).with_context(|| format!("cannot give away {}", data.display()))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        let id = NOBODY.to_string();
        let mut command = program("setpriv", ["--reuid", &id, "--regid", &id, "--clear-groups"]);
        command.arg(server);
        command
    } else {
        program::<&str>(server, [])
    };
    command.arg(format!("--datadir={}", data.display())).current_dir("/");
    Ok(command)
}

fn run(mut command: Command, input: &str) -> Result<()> {
    let shown = line(&command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    // Written from another thread: a server that complains while it reads would otherwise wait for us.
    let stdin = child.stdin.take().context("the server has no input")?;
    let input = input.to_owned();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut { stdin }, input.as_bytes()));
    let output = child.wait_with_output()?;
    let written = writer.join().map_err(|_| anyhow::anyhow!("writing to `{shown}` panicked"))?;
    if !output.status.success() {
        bail!("`{shown}` failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    written.with_context(|| format!("cannot write to `{shown}`"))
}
