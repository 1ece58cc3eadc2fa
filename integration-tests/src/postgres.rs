//! One PostgreSQL server with its own directory, port and socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tokio_postgres::{Client, Config, NoTls};

use crate::account::Account;
use crate::{Pitr, Scratch, limits, programs};

/// How a cluster is made.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Major version.
    pub major: u32,
    /// Size of a WAL segment in MiB.
    pub segment_mib: u32,
    /// Page checksums.
    pub checksums: bool,
    /// Further lines of `postgresql.conf`.
    pub config: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { major: 15, segment_mib: 16, checksums: true, config: Vec::new() }
    }
}

/// A server that is stopped when dropped, also by a panic, and then shows its log if the test failed.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    data: PathBuf,
    socket: PathBuf,
    port: u16,
    log: PathBuf,
    account: Account,
    process: Option<Child>,
}

impl Postgres {
    /// Makes a cluster with superuser `postgres`, trusted on its socket. It is not started.
    pub fn create(scratch: &Scratch, name: &str, setup: &Setup) -> Result<Self> {
        let server = Self::at(scratch, name, setup.major, scratch.path().join(name))?;
        let mut initdb = server.program("initdb");
        initdb.arg("-D").arg(&server.data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]);
        initdb.arg(format!("--wal-segsize={}", setup.segment_mib));
        initdb.args(setup.checksums.then_some("--data-checksums"));
        succeed(&mut initdb)?;
        let defaults = [
            "listen_addresses = '127.0.0.1'",
            "shared_buffers = 32MB",
            "max_connections = 40",
            "max_prepared_transactions = 20",
            "max_wal_senders = 4",
            "log_line_prefix = '%m [%p] '",
            "archive_mode = on",
            "archive_command = 'false'",
            // The truth is read from the server's own log: nothing of it may be recycled.
            "wal_keep_size = 8GB",
        ];
        server.configure(defaults.into_iter().chain(setup.config.iter().map(String::as_str)))?;
        Ok(server)
    }

    /// A server over a directory that exists, such as a restored one.
    pub fn at(scratch: &Scratch, name: &str, major: u32, data: PathBuf) -> Result<Self> {
        let socket = scratch.make(&format!("{name}.s"))?;
        Ok(Self {
            bin: programs::postgres(major)?,
            log: socket.join("log"),
            data,
            socket,
            port: free_port()?,
            account: scratch.account(),
            process: None,
        })
    }

    /// A server that somebody else started, such as `pitr restore --start`, and that is not stopped when dropped.
    pub fn running(scratch: &Scratch, major: u32, data: PathBuf, socket: PathBuf, port: u16) -> Result<Self> {
        let log = socket.join("log");
        let bin = programs::postgres(major)?;
        Ok(Self { bin, data, socket, port, log, account: scratch.account(), process: None })
    }

    /// Appends lines to `postgresql.conf`; they take effect with the next start or reload.
    pub fn configure<'a>(&self, lines: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let file = self.data.join("postgresql.conf");
        let mut text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Sets `archive_command` to `pitr wal push`.
    pub fn archive_with(&self, pitr: &Pitr) -> Result<()> {
        self.configure([format!("archive_command = '{}'", pitr.push_command()).as_str()])
    }

    /// Starts and waits until it accepts connections; an early end is an error with the end of its log.
    pub async fn start(&mut self) -> Result<()> {
        self.launch()?;
        let begun = Instant::now();
        loop {
            match self.connect().await {
                Ok(_) => return Ok(()),
                Err(_) if self.is_running()? && begun.elapsed() < limits::START => {
                    tokio::time::sleep(limits::POLL).await
                }
                Err(error) => bail!("server in {} did not start: {error:#}\n{}", self.data.display(), self.log_tail()),
            }
        }
    }

    /// Starts without waiting for anything.
    pub fn launch(&mut self) -> Result<()> {
        if self.is_running()? {
            bail!("server in {} runs already", self.data.display());
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        self.account.own(&self.log)?;
        let mut command = self.program("postgres");
        command.arg("-D").arg(&self.data).arg("-k").arg(&self.socket).args(["-p", &self.port.to_string()]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(command.spawn().context("cannot start postgres")?);
        Ok(())
    }

    /// True while the postmaster lives.
    pub fn is_running(&mut self) -> Result<bool> {
        let Some(process) = &mut self.process else { return Ok(false) };
        if process.try_wait()?.is_some() {
            self.process = None;
            return Ok(false);
        }
        Ok(true)
    }

    /// Waits for the end of a server that is expected to give up; true if it exited with code 0.
    pub async fn wait_for_end(&mut self) -> Result<bool> {
        let begun = Instant::now();
        while begun.elapsed() < limits::REPLAY {
            match self.process.as_mut().map(Child::try_wait).transpose()?.flatten() {
                Some(status) => {
                    self.process = None;
                    return Ok(status.success());
                }
                None if self.process.is_none() => bail!("the server was not started"),
                None => tokio::time::sleep(limits::POLL).await,
            }
        }
        bail!("the server is still running\n{}", self.log_tail())
    }

    /// Fast shutdown: archives what is complete, writes a checkpoint.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal("INT")?;
        let begun = Instant::now();
        while self.is_running()? {
            if begun.elapsed() > limits::STOP {
                let tail = self.log_tail();
                self.kill()?;
                bail!("server in {} did not stop and was killed\n{tail}", self.data.display());
            }
            tokio::time::sleep(limits::POLL).await;
        }
        Ok(())
    }

    /// `kill -9` of the postmaster: its children notice and go, as after a crash. Waits until they are gone, so that
    /// the next start finds its shared memory free.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let children = children(process.id());
        process.kill()?;
        process.wait()?;
        let begun = Instant::now();
        while children.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) && begun.elapsed() < limits::STOP {
            std::thread::sleep(limits::POLL);
        }
        Ok(())
    }

    /// Makes it read its configuration again.
    pub fn reload(&mut self) -> Result<()> {
        self.signal("HUP")
    }

    fn signal(&mut self, name: &str) -> Result<()> {
        let Some(process) = &self.process else { return Ok(()) };
        succeed(Command::new("kill").args(["-s", name, &process.id().to_string()]))
    }

    /// A connection as superuser; it ends with the client.
    pub async fn connect(&self) -> Result<Client> {
        let mut config = Config::new();
        config.host_path(&self.socket).port(self.port).user("postgres").dbname("postgres");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move {
            // A server that is killed on purpose breaks its connections; the client's next call reports it.
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Runs statements that return nothing of interest.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.connect().await?.batch_execute(sql).await.with_context(|| format!("statement failed: {sql}"))
    }

    /// The first column of the first row, as text.
    pub async fn value(&self, sql: &str) -> Result<String> {
        let sql = format!("SELECT ({sql})::text");
        let row = self.connect().await?.query_one(&sql, &[]).await.with_context(|| format!("query failed: {sql}"))?;
        row.try_get::<_, Option<String>>(0)?.with_context(|| format!("no value: {sql}"))
    }

    /// Seals the open segment and waits until everything written so far is archived.
    pub async fn archive_everything(&self) -> Result<()> {
        // A switch in an empty segment does nothing: write something first.
        self.execute("SELECT pg_logical_emit_message(false, 'pitr', 'end')").await?;
        let sealed = self.value("SELECT pg_walfile_name(pg_switch_wal())").await?;
        let begun = Instant::now();
        while begun.elapsed() < limits::ARCHIVE {
            let done = format!("SELECT coalesce(last_archived_wal >= '{sealed}', false) FROM pg_stat_archiver");
            if self.value(&done).await? == "true" {
                return Ok(());
            }
            tokio::time::sleep(limits::POLL).await;
        }
        bail!("{sealed} was not archived\n{}", self.log_tail())
    }

    /// One of the programs of this server's version, run as the servers' user.
    pub fn program(&self, name: &str) -> Command {
        self.account.command(self.bin.join(name))
    }

    /// Directory with the programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Its port, and the number in the name of its socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Directory of its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// How `pitr` reaches it, without password: over the socket.
    pub fn url(&self) -> String {
        let socket = self.socket.to_string_lossy().replace('/', "%2F");
        format!("postgresql://postgres@{socket}:{}/postgres", self.port)
    }

    /// How `pitr` reaches it over TCP.
    pub fn tcp_url(&self, user: &str) -> String {
        format!("postgresql://{user}@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    /// The whole log of the server.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// The end of it, for errors.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(limits::LOG_TAIL)..].join("\n")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the server in {} ---\n{}", self.data.display(), self.log_tail());
        }
        if let Err(error) = self.kill() {
            eprintln!("cannot kill the server in {}: {error:#}", self.data.display());
        }
    }
}

/// Runs a program to its end; its output is in the error.
pub fn succeed(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!("{command:?} failed: {}\n{}", output.status, String::from_utf8_lossy(&text));
    }
    Ok(())
}

/// A port that nobody listens on at this moment.
pub fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.port())
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
