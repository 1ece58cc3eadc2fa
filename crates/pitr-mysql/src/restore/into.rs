//! Restores into a directory: makes a server there, runs it where nobody else can reach it, and stops it again.
//!
//! The server's programs come from the user's PATH. It listens on a socket in a private directory and nowhere else, and
//! is administered through an account of the restore's own, made anew with each start and dropped at the end. What
//! the restore needs beside the data lies in `DIR.pitr-restore`, which is also the mark of an unfinished one.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use tokio::time::{Instant, sleep};

use super::RestoreError;
use super::orphan::{self, PRIVATE};
use crate::base::Dial;
use crate::base::format::Dump;
use crate::connect::{Password, Settings};
use crate::error::Error;
use crate::event::Flavour;
use crate::limits::{LOG_TAIL, SERVER_POLL, SERVER_START, SERVER_STOP};

/// The account of the restore.
const ADMIN: &str = "pitr_restore";
/// MySQL does not start where the directory is missing that it was built with, unless files are ruled out. Rows of
/// `LOAD DATA` that are in the log do not count as files.
const NO_FILES: &str = "--secure-file-priv=NULL";
/// The file that says which restore a directory belongs to.
const PLAN: &str = "plan";
/// The file that says that the server's own files have been made.
const INITIALIZED: &str = "initialized";

/// A directory to restore into, and where the server's programs are.
#[derive(Debug, Clone)]
pub struct Into {
    /// The data directory to make: it does not exist, is empty, or holds the same restore, interrupted.
    pub directory: PathBuf,
    /// Directory with the server's programs; PATH where `None`.
    pub bin_dir: Option<PathBuf>,
}

/// A directory that is ours until the restore is complete.
#[derive(Debug)]
pub struct Claim {
    into: Into,
    flavour: Flavour,
    /// `DIR.pitr-restore`.
    beside: PathBuf,
    owner: Option<(u32, u32)>,
    /// Locked until the restore ends.
    _plan: File,
}

impl Claim {
    /// Claims the directory for the restore with this fingerprint.
    pub fn take(into: &Into, dump: &Dump, fingerprint: &str) -> Result<Self, RestoreError> {
        let directory = std::path::absolute(&into.directory).map_err(RestoreError::io("find", &into.directory))?;
        let into = Into { directory: directory.clone(), bin_dir: into.bin_dir.clone() };
        let mut beside = directory.clone().into_os_string();
        beside.push(".pitr-restore");
        let beside = PathBuf::from(beside);
        let resumed = beside.join(PLAN).exists();
        if !resumed && let Some(example) = first_entry(&directory)? {
            return Err(RestoreError::DirectoryNotEmpty { directory, example });
        }
        let owner = owner(&directory)?;
        for path in [&beside, &directory] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(RestoreError::io("create directory", path))?;
            give(path, owner)?;
        }
        let plan = open_plan(&beside, fingerprint)?;
        if resumed {
            orphan::end(&directory)?;
        }
        let flavour = if dump.family == "mariadb" { Flavour::Mariadb } else { Flavour::Mysql };
        Ok(Self { into, flavour, beside, owner, _plan: plan })
    }

    /// A private directory on the same file system, for the spool.
    pub fn beside(&self) -> &Path {
        &self.beside
    }

    /// Makes the server's own files, unless they are there.
    pub fn initialize(&self, dump: &Dump) -> Result<(), RestoreError> {
        let mark = self.beside.join(INITIALIZED);
        if mark.exists() {
            return Ok(());
        }
        // What an interrupted attempt left is of no use.
        let directory = &self.into.directory;
        for entry in fs::read_dir(directory).map_err(RestoreError::io("list", directory))? {
            let path = entry.map_err(RestoreError::io("list", directory))?.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(RestoreError::io("remove", &path))?;
        }
        let mut command = match self.flavour {
            Flavour::Mysql => {
                let mut command = self.command(&["mysqld"])?;
                command.arg("--no-defaults").arg("--initialize-insecure");
                command
            }
            Flavour::Mariadb => {
                let mut command = self.command(&["mariadb-install-db", "mysql_install_db"])?;
                command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
                command
            }
        };
        command.arg(format!("--datadir={}", directory.display()));
        command.args(self.fixed_options(dump));
        let log = self.log()?;
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdout(log.try_clone().map_err(RestoreError::io("open", &self.beside))?).stderr(log);
        let status = command.status().map_err(RestoreError::io("start", &program))?;
        if !status.success() {
            return Err(RestoreError::ServerEnded { program, log: self.log_tail() });
        }
        File::create(&mark).map_err(RestoreError::io("create", &mark))?;
        Ok(())
    }

    /// Starts the server and waits until it answers.
    pub async fn start(&self, dump: &Dump) -> Result<PrivateServer, Error> {
        let password = hex::encode(rand::random::<[u8; 16]>());
        let run = Scratch::create(self.owner)?;
        let init = run.0.join("init.sql");
        // What root may grant on every server, and all privileges together do not include. MariaDB lets nobody grant it
        // while it starts.
        let proxy = match self.flavour {
            Flavour::Mysql => format!("GRANT PROXY ON ''@'' TO '{ADMIN}'@'localhost' WITH GRANT OPTION;\n"),
            Flavour::Mariadb => format!(
                "REPLACE INTO mysql.proxies_priv (host, user, proxied_host, proxied_user, with_grant) VALUES ('localhost', '{ADMIN}', '', '', 1);\nFLUSH PRIVILEGES;\n"
            ),
        };
        // One statement a line: the server reads the file so.
        let statements = format!(
            "SET SESSION sql_log_bin = 0;\nDROP USER IF EXISTS '{ADMIN}'@'localhost';\nCREATE USER '{ADMIN}'@'localhost' IDENTIFIED BY '{password}';\nGRANT ALL PRIVILEGES ON *.* TO '{ADMIN}'@'localhost' WITH GRANT OPTION;\n{proxy}"
        );
        write_private(&init, statements.as_bytes(), self.owner)?;
        let socket = run.0.join("sock");
        let mut command =
            self.command(if self.flavour == Flavour::Mysql { &["mysqld"] } else { &["mariadbd", "mysqld"] })?;
        command.arg("--no-defaults").arg(format!("--datadir={}", self.into.directory.display()));
        command.arg(format!("--socket={}", socket.display())).arg(format!("--init-file={}", init.display()));
        command.arg(format!("--pid-file={}", run.0.join("pid").display()));
        command.args(self.fixed_options(dump)).args(self.options(dump));
        let log = self.log()?;
        // A group of its own: an interrupt at our terminal is ours to handle.
        command.stdin(Stdio::null()).process_group(0);
        command.stdout(log.try_clone().map_err(RestoreError::io("open", &self.beside))?).stderr(log);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(RestoreError::io("start", &program))?;
        let settings = Settings::unix(&socket, ADMIN).with_password(Password::new(password));
        let mut server = PrivateServer { child: Some(child), program, settings, _run: run };
        server.wait(self).await?;
        Ok(server)
    }

    /// The restore is complete: writes the settings under which the server may be started, and removes the mark.
    pub fn release(self, dump: &Dump) -> Result<(), RestoreError> {
        let path = self.into.directory.join("my.cnf");
        let mut text = "# Written by pitr restore.\n[mysqld]\n".to_owned();
        text.push_str(&format!("datadir = {}\nserver_id = {}\n", self.into.directory.display(), new_server_id(dump)));
        text.push_str("# Events of the source would fire in this copy of it.\nevent_scheduler = OFF\n");
        for option in self.fixed_options(dump) {
            let option = option.trim_start_matches("--").replace('=', " = ");
            text.push_str(&format!("{option}\n"));
        }
        if self.flavour == Flavour::Mysql {
            text.push_str("# The directory that it was built with for files of LOAD DATA need not exist here.\n");
            text.push_str(&format!("{}\n", NO_FILES.trim_start_matches("--").replace('=', " = ")));
        }
        if self.flavour == Flavour::Mysql && dump.settings.get("gtid_mode").is_some_and(|mode| mode == "ON") {
            text.push_str("gtid_mode = ON\nenforce_gtid_consistency = ON\n");
        }
        write_private(&path, text.as_bytes(), self.owner)?;
        fs::remove_dir_all(&self.beside).map_err(RestoreError::io("remove", &self.beside))
    }

    /// What a data directory keeps for its whole life.
    fn fixed_options(&self, dump: &Dump) -> Vec<String> {
        let fixed = ["lower_case_table_names", "innodb_page_size"];
        let value = |name: &&str| dump.settings.get(*name).map(|value| format!("--{}={value}", name.replace('_', "-")));
        fixed.iter().filter_map(value).collect()
    }

    fn options(&self, dump: &Dump) -> Vec<String> {
        let mut options: Vec<String> = [
            "--skip-networking",
            "--skip-log-bin",
            "--event-scheduler=OFF",
            "--max-allowed-packet=1G",
            // If the machine fails, the restore is repeated.
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
            "--relay-log=pitr-relay",
            "--relay-log-space-limit=4G",
        ]
        .map(str::to_owned)
        .into();
        options.push(format!("--server-id={}", new_server_id(dump)));
        match self.flavour {
            Flavour::Mysql => {
                options.extend(["--mysqlx=OFF", "--skip-replica-start=ON", NO_FILES].map(str::to_owned));
                if let Some(mode) = dump.settings.get("gtid_mode") {
                    // Without names, the log may hold transactions that could have none.
                    let consistent = if mode.starts_with("ON") { "ON" } else { "OFF" };
                    options.push(format!("--gtid-mode={mode}"));
                    options.push(format!("--enforce-gtid-consistency={consistent}"));
                }
            }
            Flavour::Mariadb => options.push("--skip-slave-start".to_owned()),
        }
        options
    }

    /// The first of these programs that is there, run as the owner of the directory.
    fn command(&self, names: &[&str]) -> Result<Command, RestoreError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places: Vec<PathBuf> = match &self.into.bin_dir {
            Some(directory) => vec![directory.clone()],
            None => std::env::split_paths(&path).collect(),
        };
        if self.into.bin_dir.is_none() {
            places.extend(["/usr/sbin", "/usr/libexec"].map(PathBuf::from));
        }
        let found = names.iter().find_map(|name| places.iter().map(|place| place.join(name)).find(|p| p.is_file()));
        let found = found.ok_or_else(|| {
            RestoreError::Option(format!(
                "there is no {} in PATH; say with --bin-dir where the server's programs are",
                names.join(" or ")
            ))
        })?;
        let mut command = Command::new(found);
        command.current_dir("/").env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        if let Some((uid, gid)) = self.owner {
            command.uid(uid).gid(gid);
        }
        Ok(command)
    }

    fn log(&self) -> Result<File, RestoreError> {
        let path = self.beside.join("server.log");
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        log.map_err(RestoreError::io("open", &path))
    }

    fn log_tail(&self) -> String {
        let text = fs::read(self.beside.join("server.log")).unwrap_or_default();
        let from = text.len().saturating_sub(LOG_TAIL);
        String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned()
    }
}

/// A server that nobody else can reach. Stopped when dropped.
#[derive(Debug)]
pub struct PrivateServer {
    child: Option<Child>,
    program: String,
    settings: Settings,
    _run: Scratch,
}

impl PrivateServer {
    /// Sessions of its administrator.
    pub fn dial(&self) -> Dial {
        let settings = self.settings.clone();
        Arc::new(move || {
            let settings = settings.clone();
            Box::pin(async move { Ok(settings.sql().await?) })
        })
    }

    /// Drops the account of the restore and stops the server in good order.
    pub async fn stop(mut self, claim: &Claim) -> Result<(), Error> {
        let mut session = self.settings.sql().await?;
        session.execute("SET SESSION sql_log_bin = 0").await?;
        session.execute(&format!("DROP USER IF EXISTS '{ADMIN}'@'localhost'")).await?;
        session.execute("SHUTDOWN").await?;
        let begun = Instant::now();
        while self.is_running()? {
            if begun.elapsed() > SERVER_STOP {
                return Err(self.silent(claim, SERVER_STOP.as_secs()).into());
            }
            sleep(SERVER_POLL).await;
        }
        Ok(())
    }

    async fn wait(&mut self, claim: &Claim) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            if !self.is_running()? {
                return Err(RestoreError::ServerEnded { program: self.program.clone(), log: claim.log_tail() }.into());
            }
            match self.settings.sql().await {
                Ok(session) => {
                    session.close().await;
                    return Ok(());
                }
                Err(error) if begun.elapsed() > SERVER_START => {
                    tracing::debug!(%error, "the server does not answer");
                    return Err(self.silent(claim, SERVER_START.as_secs()).into());
                }
                Err(_) => sleep(SERVER_POLL).await,
            }
        }
    }

    fn silent(&self, claim: &Claim, seconds: u64) -> RestoreError {
        RestoreError::ServerSilent { program: self.program.clone(), seconds, log: claim.log_tail() }
    }

    fn is_running(&mut self) -> Result<bool, RestoreError> {
        let Some(child) = &mut self.child else { return Ok(false) };
        if child.try_wait().map_err(RestoreError::io("wait for", &self.program))?.is_some() {
            self.child = None;
        }
        Ok(self.child.is_some())
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // The restore failed and will be repeated: InnoDB recovers.
        if let Err(error) = child.kill().and_then(|()| child.wait()) {
            tracing::warn!(%error, program = self.program, "could not stop the server of the restore");
        }
    }
}

/// A directory with a short path for the socket, removed when dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn create(owner: Option<(u32, u32)>) -> Result<Self, RestoreError> {
        let path = std::env::temp_dir().join(format!("{PRIVATE}{}", hex::encode(rand::random::<[u8; 6]>())));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(RestoreError::io("create directory", &path))?;
        let scratch = Self(path);
        give(&scratch.0, owner)?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, directory = %self.0.display(), "could not remove a directory; it can be deleted");
        }
    }
}

/// One that the source does not have, and the same each time.
fn new_server_id(dump: &Dump) -> u32 {
    (dump.coordinates.server_id ^ 0x5a5a_5a5a) & 0x7fff_ffff | 1
}

/// Root gives files away, since no server runs as root; anybody else keeps them.
fn owner(directory: &Path) -> Result<Option<(u32, u32)>, RestoreError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(directory);
    let metadata = fs::metadata(existing).map_err(RestoreError::io("look at", existing))?;
    if metadata.uid() == 0 {
        let existing = existing.display();
        return Err(RestoreError::Option(format!(
            "a server does not run as root, and {existing} belongs to root: give it to the server's user first (chown mysql: {existing})"
        )));
    }
    Ok(Some((metadata.uid(), metadata.gid())))
}

fn give(path: &Path, owner: Option<(u32, u32)>) -> Result<(), RestoreError> {
    let Some((uid, gid)) = owner else { return Ok(()) };
    chown(path, Some(uid), Some(gid)).map_err(RestoreError::io("set owner of", path))
}

fn write_private(path: &Path, content: &[u8], owner: Option<(u32, u32)>) -> Result<(), RestoreError> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = file.map_err(RestoreError::io("create", path))?;
    file.write_all(content).map_err(RestoreError::io("write", path))?;
    give(path, owner)
}

fn first_entry(directory: &Path) -> Result<Option<String>, RestoreError> {
    match fs::read_dir(directory) {
        Ok(mut entries) => {
            let first = entries.next().transpose().map_err(RestoreError::io("list", directory))?;
            Ok(first.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RestoreError::io("list", directory)(error)),
    }
}

/// Opens and locks the mark, and writes it where it is new.
fn open_plan(beside: &Path, fingerprint: &str) -> Result<File, RestoreError> {
    let path = beside.join(PLAN);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = opened.map_err(RestoreError::io("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(RestoreError::Busy(beside.display().to_string())),
        Err(error) => return Err(RestoreError::io("lock", &path)(error)),
    }
    let mut before = String::new();
    file.read_to_string(&mut before).map_err(RestoreError::io("read", &path))?;
    if before.is_empty() {
        file.write_all(fingerprint.as_bytes()).map_err(RestoreError::io("write", &path))?;
        file.sync_all().map_err(RestoreError::io("sync", &path))?;
    } else if before != fingerprint {
        return Err(RestoreError::OtherPlan);
    }
    Ok(file)
}
