//! A throwaway PostgreSQL for tests: `initdb` in a temporary directory, reachable over its socket alone.
//!
//! The programs come from `PITR_PG_BIN`, else from Debian's PostgreSQL 15. Their absence fails the test: a decoder
//! that was compared with nothing is not tested.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tokio_postgres::{Client, NoTls};

/// A running server and its directory; both are gone when it is dropped.
pub struct Server {
    dir: tempfile::TempDir,
    bin: PathBuf,
}

impl Server {
    /// Makes and starts a server with WAL segments of that many MiB, which archives into [`Server::archive`].
    pub fn start(segment_mib: u64) -> Self {
        let bin = PathBuf::from(std::env::var("PITR_PG_BIN").unwrap_or("/usr/lib/postgresql/15/bin".to_owned()));
        assert!(bin.join("postgres").exists(), "no PostgreSQL in {}: install it or set PITR_PG_BIN", bin.display());
        let dir = tempfile::Builder::new().prefix("pitr-pg").tempdir().unwrap();
        let server = Self { dir, bin };
        std::fs::create_dir(server.archive()).unwrap();
        if is_root() {
            run(Command::new("chown").arg("-R").arg("postgres").arg(server.dir.path()));
        }
        let data = server.data();
        let size = format!("--wal-segsize={segment_mib}");
        server.program("initdb", &["-D", path(&data), "-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", &size]);
        let archive = path(&server.archive()).to_owned();
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\nshared_buffers = 64MB\n\
             wal_level = logical\narchive_mode = on\narchive_command = 'cp %p {archive}/%f'\nautovacuum = off\n\
             max_prepared_transactions = 20\ntrack_commit_timestamp = on\ntimezone = 'UTC'\nlog_timezone = 'UTC'\n\
             wal_keep_size = 4GB\nmax_wal_size = 4GB\nmin_wal_size = {}MB\n",
            path(server.dir.path()),
            segment_mib * 4
        );
        let config = data.join("postgresql.conf");
        let old = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, old + &settings).unwrap();
        server.up();
        server
    }

    /// Starts it again after [`Server::down`].
    pub fn up(&self) {
        let log = self.dir.path().join("log");
        self.program("pg_ctl", &["-D", path(&self.data()), "-l", path(&log), "-w", "-t", "60", "start"]);
    }

    /// Stops it: `fast` with a checkpoint, `immediate` as a crash.
    pub fn down(&self, mode: &str) {
        self.program("pg_ctl", &["-D", path(&self.data()), "-m", mode, "-w", "stop"]);
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Where `archive_command` puts completed segments.
    pub fn archive(&self) -> PathBuf {
        self.dir.path().join("archive")
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Client {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.dir.path()).user("postgres").dbname("postgres");
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// True if the programs include this one.
    pub fn has(&self, program: &str) -> bool {
        self.bin.join(program).exists()
    }

    /// Runs one of the server's programs as the user that owns the server, and fails unless it succeeds.
    pub fn program(&self, name: &str, args: &[&str]) -> Output {
        let program = self.bin.join(name);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        run(command.args(args).env("TZ", "UTC").env("LC_ALL", "C").current_dir(self.dir.path()))
    }

    /// Completed segments, in order of their names, once the archiver has taken the one that is current now.
    pub async fn completed_segments(&self) -> Vec<(String, Vec<u8>)> {
        let client = self.connect().await;
        let row = client.query_one("SELECT pg_walfile_name(pg_switch_wal())", &[]).await.unwrap();
        let last: String = row.get(0);
        // The archiver copies in place: the file is whole once the server says so.
        for _ in 0..600 {
            let row = client.query_one("SELECT last_archived_wal FROM pg_stat_archiver", &[]).await.unwrap();
            if row.get::<_, Option<String>>(0).is_some_and(|archived| archived >= last) {
                let entries = std::fs::read_dir(self.archive()).unwrap().map(|entry| entry.unwrap().path());
                let mut files: Vec<_> = entries.filter(|file| file.extension().is_none()).collect();
                files.sort();
                return files.iter().map(|file| (name(file), std::fs::read(file).unwrap())).collect();
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("{last} was not archived within a minute");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists() {
            self.down("immediate");
        }
    }
}

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn run(command: &mut Command) -> Output {
    // `pg_ctl start` hands its output on to the server: a pipe would stay open for as long as that lives.
    let quiet = command.get_args().any(|arg| arg == "start");
    let output = if quiet {
        let null = std::process::Stdio::null;
        let status = command.stdout(null()).stderr(null()).status().unwrap();
        Output { status, stdout: Vec::new(), stderr: Vec::new() }
    } else {
        command.output().unwrap()
    };
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
