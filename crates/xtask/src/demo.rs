//! `cargo xtask demo`: a throwaway PostgreSQL, a local archive, a base, a workload, a `DROP TABLE`, and the way back.
//!
//! Every command is printed as a user would type it, then run just so: in one directory, with `pitr` and the server's
//! programs on the path. Nothing outside that directory is touched, and it is removed at the end.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::e2e::debug_program;
use crate::servers;
use crate::shell::{self, cargo, is_root, output, program};

const SERVER_PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// Archiving one segment of a small cluster takes well under a second.
const ARCHIVE_WAIT: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keep the directory and leave both servers running, to look around
    #[arg(long)]
    keep: bool,
}

/// The story, one step a line.
pub fn run(args: &Args) -> Result<()> {
    servers::ensure_postgres()?;
    eprintln!("Building pitr (the first time takes some minutes) …");
    shell::run(cargo(["build", "--quiet", "-p", "pitr"]))?;
    let stage = Stage::new(args.keep)?;
    say("Everything happens in", &stage.dir.display().to_string());

    title("1. A server that archives through pitr");
    stage.server()?;
    stage.init()?;
    stage.shell("pg_ctl -D primary -l primary.log -w start >/dev/null")?;
    stage.shell("pitr check orders")?;

    title("2. Data, and a base");
    stage.psql("CREATE TABLE orders (id int PRIMARY KEY, customer text, cents int)")?;
    stage.psql("INSERT INTO orders SELECT n, 'customer ' || n % 97, n * 7 % 10000 FROM generate_series(1, 50000) n")?;
    stage.shell("pitr backup orders")?;

    title("3. Work goes on");
    stage.psql("INSERT INTO orders SELECT n, 'late ' || n, 100 FROM generate_series(50001, 60000) n")?;
    stage.psql("UPDATE orders SET cents = cents + 1 WHERE id % 10 = 0")?;
    sleep(Duration::from_millis(1200));
    let moment = stage.value("SELECT now()")?;
    sleep(Duration::from_millis(1200));

    title("4. The accident");
    stage.psql("DROP TABLE orders")?;
    stage.psql("CREATE TABLE unrelated AS SELECT 1 AS a")?;
    stage.archive()?;

    title("5. What can be restored, and what a restore would do");
    stage.shell("pitr status orders")?;
    let target = format!("--to '{moment}'");
    stage.shell(&format!("pitr plan orders {target}"))?;

    title("6. Back to just before it");
    stage.shell(&format!("pitr restore orders {target} --into {}/restored", stage.dir.display()))?;
    stage.start_restored()?;
    let restored = format!("-p {}", stage.restored_port);
    stage.shell(&format!("psql {restored} -c 'SELECT count(*), sum(cents) FROM orders'"))?;
    stage.shell(&format!("psql {restored} -c 'SELECT * FROM orders ORDER BY id DESC LIMIT 3'"))?;
    let rows = stage.value_at(stage.restored_port, "SELECT count(*) FROM orders")?;
    if rows != "60000" {
        bail!("the restored table has {rows} rows instead of 60000");
    }
    say("All 60000 rows are back, as of", &moment);
    if args.keep {
        say("Kept, with both servers running:", &stage.dir.display().to_string());
    }
    Ok(())
}

fn title(text: &str) {
    eprintln!("\n=== {text}");
}

fn say(text: &str, detail: &str) {
    eprintln!("{text} {detail}");
}

/// The directory of the demo; servers are stopped and it is removed when dropped.
struct Stage {
    dir: PathBuf,
    /// User and group id of the servers' user, if we are root: PostgreSQL refuses to run as root.
    user: Option<(u32, u32)>,
    port: u16,
    restored_port: u16,
    keep: bool,
}

impl Stage {
    fn new(keep: bool) -> Result<Self> {
        let dir = PathBuf::from(format!("/tmp/pitr-demo-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let user = if is_root() { Some((id("-u")?, id("-g")?)) } else { None };
        let stage = Self { dir, user, port: free_port()?, restored_port: free_port()?, keep };
        stage.own(&stage.dir)?;
        let bin = stage.dir.join("bin");
        fs::create_dir(&bin)?;
        fs::copy(debug_program(), bin.join("pitr")).context("cannot copy pitr")?;
        if user.is_some() {
            eprintln!("Servers do not run as root: the commands below run as the user postgres.");
        }
        Ok(stage)
    }

    fn server(&self) -> Result<()> {
        self.shell("initdb -D primary -U postgres -A trust --data-checksums >/dev/null")?;
        let dir = self.dir.display();
        let settings = format!(
            "port = {}\nlisten_addresses = ''\nunix_socket_directories = '{dir}'\narchive_mode = on\n\
             archive_timeout = 60\n\
             archive_command = '{dir}/bin/pitr --config {dir}/pitr.toml wal push --source orders %p'\n",
            self.port
        );
        eprintln!("$ cat >> primary/postgresql.conf\n{}", settings.trim_end());
        let file = self.dir.join("primary/postgresql.conf");
        let text = fs::read_to_string(&file)? + &settings;
        fs::write(&file, text).context("cannot write postgresql.conf")
    }

    fn init(&self) -> Result<()> {
        let (dir, port) = (self.dir.display(), self.port);
        self.shell(&format!(
            "pitr init --archive file://{dir}/archive --source orders --url 'postgresql://postgres@/postgres?host={dir}&port={port}'"
        ))
    }

    fn start_restored(&self) -> Result<()> {
        let options = format!("-p {} -k {} -h \"\"", self.restored_port, self.dir.display());
        self.shell(&format!("pg_ctl -D restored -l restored.log -o '{options}' -w start >/dev/null"))?;
        let begun = Instant::now();
        let paused = "SELECT pg_get_wal_replay_pause_state()";
        while self.value_at(self.restored_port, paused)? != "paused" {
            if begun.elapsed() > ARCHIVE_WAIT {
                bail!("replay did not reach the target:\n{}", fs::read_to_string(self.dir.join("restored.log"))?);
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Seals the open segment and waits until it is archived.
    fn archive(&self) -> Result<()> {
        let segment = self.value("SELECT pg_walfile_name(pg_switch_wal())")?;
        let begun = Instant::now();
        while self.value(&format!("SELECT coalesce(last_archived_wal >= '{segment}', false) FROM pg_stat_archiver"))?
            != "t"
        {
            if begun.elapsed() > ARCHIVE_WAIT {
                bail!("the server does not archive:\n{}", fs::read_to_string(self.dir.join("primary.log"))?);
            }
            sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn psql(&self, sql: &str) -> Result<()> {
        self.shell(&format!("psql -q -p {} -c {}", self.port, shell::quote(sql)))
    }

    fn value(&self, sql: &str) -> Result<String> {
        self.value_at(self.port, sql)
    }

    /// A query that is not part of the story: not printed.
    fn value_at(&self, port: u16, sql: &str) -> Result<String> {
        let mut psql = self.command("psql");
        psql.args(["-X", "-A", "-t", "-p", &port.to_string(), "-c", sql]);
        Ok(output(psql)?.trim().to_owned())
    }

    /// Prints a line and runs it in a shell.
    fn shell(&self, line: &str) -> Result<()> {
        eprintln!("\n$ {line}");
        let mut bash = self.command("bash");
        let status = bash.args(["-c", line]).stdin(Stdio::null()).status().context("cannot start bash")?;
        if !status.success() {
            for log in ["primary.log", "restored.log"] {
                if let Ok(text) = fs::read_to_string(self.dir.join(log)) {
                    eprintln!("--- {log}\n{text}");
                }
            }
            bail!("`{line}` failed: {status}");
        }
        Ok(())
    }

    fn command(&self, name: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = program(name, [""; 0]);
        command.current_dir(&self.dir).env("PATH", format!("{}/bin:{SERVER_PROGRAMS}:{path}", self.dir.display()));
        command.env("PGHOST", &self.dir).env("PGUSER", "postgres").env("PGDATABASE", "postgres").env("HOME", &self.dir);
        command.env("PAGER", "cat").env_remove("PITR_CONFIG").env_remove("PITR_SOURCE");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn own(&self, path: &Path) -> Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        match self.user {
            Some((uid, gid)) => chown(path, Some(uid), Some(gid)).context("cannot give the directory away"),
            None => Ok(()),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for data in ["primary", "restored"] {
            if self.dir.join(data).join("postmaster.pid").exists() {
                let mut stop = self.command("pg_ctl");
                stop.args(["-D", data, "-m", "immediate", "-w", "stop"]);
                if let Err(error) = output(stop) {
                    eprintln!("cannot stop the server in {data}: {error:#}");
                }
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("cannot remove {}: {error}", self.dir.display());
        }
    }
}

/// A number of the user that Debian's package made for the server.
fn id(which: &str) -> Result<u32> {
    output(program("id", [which, "postgres"]))?.trim().parse().context("id printed no number")
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free port")?.local_addr()?.port())
}
