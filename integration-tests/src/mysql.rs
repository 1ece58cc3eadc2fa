//! A real MySQL or MariaDB server of its own, for one test.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::account::Account;
use crate::postgres::{free_port, succeed};
use crate::{Scratch, limits, programs};

/// The two families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// MySQL 9.7.
    Mysql,
    /// MariaDB 10.11.
    Mariadb,
}

impl Flavour {
    /// As in the configuration of `pitr`.
    pub fn engine(self) -> &'static str {
        match self {
            Self::Mysql => "mysql",
            Self::Mariadb => "mariadb",
        }
    }
}

/// How a server is made.
#[derive(Debug, Clone)]
pub struct MysqlSetup {
    /// The family.
    pub flavour: Flavour,
    /// `server_id`.
    pub server_id: u32,
    /// Further options, as on the command line: `--gtid-mode=OFF`.
    pub options: Vec<String>,
}

impl MysqlSetup {
    /// A server with identifiers switched on, and a binary log called `binlog`.
    pub fn of(flavour: Flavour) -> Self {
        Self { flavour, server_id: 1, options: Vec::new() }
    }

    /// The same with another `server_id`.
    #[must_use]
    pub fn with_id(mut self, server_id: u32) -> Self {
        self.server_id = server_id;
        self
    }

    /// The same with more options; a later one beats an earlier one.
    #[must_use]
    pub fn with<S: Into<String>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.options.extend(options.into_iter().map(Into::into));
        self
    }
}

/// A server that is stopped when dropped, also by a panic, and then shows its log if the test failed.
///
/// Its only account is `root` without a password, until a test makes others.
#[derive(Debug)]
pub struct Mysql {
    setup: MysqlSetup,
    programs: PathBuf,
    data: PathBuf,
    socket: PathBuf,
    temporary: PathBuf,
    port: u16,
    log: PathBuf,
    account: Account,
    process: Option<Child>,
}

impl Mysql {
    /// Makes a server from the template that `cargo xtask servers` left. It is not started.
    pub fn create(scratch: &Scratch, name: &str, setup: &MysqlSetup) -> Result<Self> {
        let home = programs::mysql(setup.flavour)?;
        let data = scratch.path().join(name);
        copy(&home.template, &data, scratch.account())?;
        // Copied, it would give every server the same identity.
        let identity = data.join("auto.cnf");
        if identity.exists() {
            fs::remove_file(identity)?;
        }
        Self::at(scratch, name, setup, data)
    }

    /// A server over a data directory that exists, such as a restored one.
    pub fn at(scratch: &Scratch, name: &str, setup: &MysqlSetup, data: PathBuf) -> Result<Self> {
        let socket = scratch.make(&format!("{name}.s"))?;
        Ok(Self {
            programs: programs::mysql(setup.flavour)?.programs,
            setup: setup.clone(),
            log: socket.join("log"),
            data,
            temporary: socket.clone(),
            socket: socket.join("sock"),
            port: free_port()?,
            account: scratch.account(),
            process: None,
        })
    }

    /// Starts and waits until it accepts connections; an early end is an error with the end of its log.
    pub async fn start(&mut self) -> Result<()> {
        self.launch()?;
        let begun = Instant::now();
        loop {
            match self.sql("SELECT 1") {
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
        let mut command = self.server();
        command.args(self.options()).args(&self.setup.options);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(command.spawn().context("cannot start the server")?);
        Ok(())
    }

    /// The server program over its data directory, without options.
    pub fn server(&self) -> Command {
        let program = match self.setup.flavour {
            Flavour::Mysql => "mysqld",
            Flavour::Mariadb => "mariadbd",
        };
        self.program(program)
    }

    fn options(&self) -> Vec<String> {
        let mut options = vec![
            format!("--datadir={}", self.data.display()),
            format!("--socket={}", self.socket.display()),
            format!("--port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--pid-file={}.pid", self.socket.display()),
            format!("--server-id={}", self.setup.server_id),
            // Servers that share one fall over each other's temporary tables.
            format!("--tmpdir={}", self.temporary.display()),
            "--log-bin=binlog".to_owned(),
            "--binlog-format=ROW".to_owned(),
            "--innodb-buffer-pool-size=32M".to_owned(),
            "--max-connections=60".to_owned(),
            // A power loss is none of the tests' business, and the disk is slow.
            "--innodb-flush-log-at-trx-commit=0".to_owned(),
            "--sync-binlog=0".to_owned(),
        ];
        let own: &[&str] = match self.setup.flavour {
            Flavour::Mysql => &[
                "--gtid-mode=ON",
                "--enforce-gtid-consistency=ON",
                "--mysqlx=off",
                "--innodb-redo-log-capacity=32M",
                "--secure-file-priv=",
                "--performance-schema=ON",
            ],
            Flavour::Mariadb => &["--binlog-checksum=CRC32", "--innodb-log-file-size=32M"],
        };
        options.extend(own.iter().map(|option| (*option).to_owned()));
        options
    }

    /// Changes the options of the next start.
    pub fn set_options<S: Into<String>>(&mut self, options: impl IntoIterator<Item = S>) {
        self.setup.options = options.into_iter().map(Into::into).collect();
    }

    /// True while it lives.
    pub fn is_running(&mut self) -> Result<bool> {
        let Some(process) = &mut self.process else { return Ok(false) };
        if process.try_wait()?.is_some() {
            self.process = None;
            return Ok(false);
        }
        Ok(true)
    }

    /// Shuts down in an orderly way: the log ends with a STOP event.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(process) = &self.process else { return Ok(()) };
        succeed(Command::new("kill").args(["-s", "TERM", &process.id().to_string()]))?;
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

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// Runs statements as `root` and gives what they print: values separated by tabs, without headings.
    pub fn sql(&self, statements: &str) -> Result<String> {
        let mut client = self.client();
        client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = client.spawn().context("cannot start the client")?;
        let mut stdin = child.stdin.take().context("the client has no input")?;
        let text = statements.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output()?;
        // A client that stops at an error closes its end: that error is the one to tell.
        let written = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
        if !output.status.success() {
            let mut shown: String = statements.chars().take(400).collect();
            write!(shown, ": {}", String::from_utf8_lossy(&output.stderr).trim())?;
            bail!("statement failed: {shown}");
        }
        written.context("cannot write to the client")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// The stock client, connected over the socket, reading statements from its input.
    pub fn client(&self) -> Command {
        let name = match self.setup.flavour {
            Flavour::Mysql => "mysql",
            Flavour::Mariadb => "mariadb",
        };
        let mut command = self.program(name);
        command.arg("--no-defaults").arg(format!("--socket={}", self.socket.display()));
        command.args(["--user=root", "--batch", "--skip-column-names", "--raw"]);
        command
    }

    /// The stock tool that reads binary logs; the caller adds what to read.
    pub fn binlog_tool(&self) -> Command {
        let name = match self.setup.flavour {
            Flavour::Mysql => "mysqlbinlog",
            Flavour::Mariadb => "mariadb-binlog",
        };
        let mut command = self.program(name);
        command.arg("--no-defaults");
        command
    }

    /// The binary log files on disk, in order.
    pub fn binlogs(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.data)? {
            let path = entry?.path();
            let number = path.extension().and_then(|number| number.to_str()).unwrap_or_default();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            if stem == Some("binlog") && number.bytes().all(|byte| byte.is_ascii_digit()) && !number.is_empty() {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Name and size of the file that is being written.
    pub fn log_end(&self) -> Result<(String, u64)> {
        let statement = match self.setup.flavour {
            Flavour::Mysql => "SHOW BINARY LOG STATUS",
            Flavour::Mariadb => "SHOW MASTER STATUS",
        };
        let row = self.sql(statement)?;
        let mut columns = row.split('\t');
        let name = columns.next().context("no binary log")?.to_owned();
        Ok((name, columns.next().context("no position")?.parse()?))
    }

    /// The executed set.
    pub fn executed(&self) -> Result<String> {
        let variable = match self.setup.flavour {
            Flavour::Mysql => "SELECT REPLACE(@@GLOBAL.gtid_executed, '\\n', '')",
            Flavour::Mariadb => "SELECT @@GLOBAL.gtid_binlog_pos",
        };
        self.sql(variable)
    }

    /// One of the programs of this server's version, run as the servers' user.
    pub fn program(&self, name: &str) -> Command {
        self.account.command(self.programs.join(name))
    }

    /// Directory with the programs.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// The same as a user's PATH would have them: taking `--no-defaults`, which the scripts of the tests give already.
    pub fn stock_programs(&self, scratch: &Scratch) -> Result<PathBuf> {
        let directory = scratch.make("bin")?;
        let script = |name: &str, text: String| -> Result<()> {
            let path = scratch.write(&format!("bin/{name}"), &text)?;
            Ok(fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?)
        };
        for name in ["mysqld", "mariadbd"] {
            let program = self.programs.join(name);
            let text = format!("#!/bin/sh\n[ \"$1\" = --no-defaults ] && shift\nexec {} \"$@\"\n", program.display());
            script(name, text)?;
        }
        // Debian's own script wants the server installed where it was built for; a data directory is the same each time.
        let blank = Self::create(scratch, "blank", &MysqlSetup::of(self.setup.flavour))?;
        let copy = format!(
            "#!/bin/sh\nfor o; do case $o in --datadir=*) exec cp -R {}/. \"${{o#--datadir=}}/\";; esac; done\nexit 1\n",
            blank.data().display()
        );
        script("mariadb-install-db", copy)?;
        Ok(directory)
    }

    /// The family.
    pub fn flavour(&self) -> Flavour {
        self.setup.flavour
    }

    /// Its port on the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path of its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// How `pitr` reaches it over the socket, as `root` without a password.
    pub fn url(&self) -> String {
        format!("{}://root@localhost?socket={}", self.setup.flavour.engine(), self.socket.display())
    }

    /// How `pitr` reaches it over TCP.
    pub fn tcp_url(&self, user: &str) -> String {
        format!("{}://{user}@127.0.0.1:{}", self.setup.flavour.engine(), self.port)
    }

    /// The end of its log, for errors.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_else(|error| format!("(no log: {error})"));
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(limits::LOG_TAIL)..].join("\n")
    }
}

impl Drop for Mysql {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the server in {} ---\n{}", self.data.display(), self.log_tail());
        }
        if let Err(error) = self.kill() {
            eprintln!("cannot kill the server in {}: {error:#}", self.data.display());
        }
    }
}

/// Copies a directory tree and gives it to `account`.
fn copy(from: &Path, to: &Path, account: Account) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("cannot create {}", to.display()))?;
    fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    account.own(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target, account)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| format!("cannot copy {}", entry.path().display()))?;
            account.own(&target)?;
        }
    }
    Ok(())
}
