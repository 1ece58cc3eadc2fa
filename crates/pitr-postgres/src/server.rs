//! Runs the server of a restored directory until it has replayed the log, and looks where it stopped.
//!
//! The server is private meanwhile: it listens on a socket in a directory of its own, which only its owner can
//! enter, with access rules of its own. Whether it recovered is never taken from an exit code of `pg_ctl`, which
//! says "started" before a later failure, but from the server itself, and from whether it still lives.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pitr_core::ports::Recovery;
use pitr_core::{Classify, ErrorKind};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::connect::{ConnectError, Settings, SqlClient, sql_client};
use crate::error::Error;
use crate::history::TimelineHistory;
use crate::limits::{DEFAULT_PORT, LOG_TAIL, MAX_HISTORY_FILE, RECOVERY_POLL, SHUTDOWN_TIMEOUT};
use crate::{Lsn, PgPosition, SegmentSize, TimelineId, run_dir};

/// How to run the server of a restored directory.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    /// Directory with `postgres` of the right major version; looked for where `None`.
    pub bin_dir: Option<PathBuf>,
    /// A role that exists in the restored cluster; `postgres` is tried as well.
    pub role: Option<String>,
    /// Ends the recovery once the position is verified: the server goes on as a new timeline.
    pub promote: bool,
    /// Leaves the server running on its private socket; otherwise it is shut down again.
    pub keep_running: bool,
    /// How long the replay may take; no limit where `None`.
    pub timeout: Option<Duration>,
}

/// Where a replay stopped, as verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The position, which is the one planned.
    pub position: PgPosition,
    /// Directory and port of the private socket, if the server was left running.
    pub socket: Option<(PathBuf, u16)>,
    /// Tables that transactions in progress at that position have locked: as long as the recovery is paused, whoever
    /// reads them waits for ever.
    pub locked: u64,
}

/// What can go wrong with the server of a restored directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// There is no program for this version.
    #[error("no postgres of version {major} found in {}", looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoProgram {
        /// The version that the directory needs.
        major: u32,
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// Root owns the directory, and no server runs as root.
    #[error("{0} belongs to root, and a server never runs as root")]
    OwnedByRoot(PathBuf),
    /// The server ended before it reached the position.
    #[error("the server ended before it reached {planned}; the end of its log:\n{log}")]
    Ended {
        /// Where it should have stopped.
        planned: PgPosition,
        /// The end of its log.
        log: String,
    },
    /// The server stopped somewhere else.
    #[error("the replay stopped at {reached}, planned was {planned}; the end of the server's log:\n{log}")]
    Elsewhere {
        /// Where it should have stopped.
        planned: PgPosition,
        /// Where it did.
        reached: PgPosition,
        /// The end of its log.
        log: String,
    },
    /// The time limit of the caller is over.
    #[error("the server did not reach {planned} within {} s", limit.as_secs())]
    TooSlow {
        /// Where it should have stopped.
        planned: PgPosition,
        /// The limit.
        limit: Duration,
    },
    /// The server runs, but nobody may ask it.
    #[error("the restored server lets none of the roles {roles:?} in: {last}")]
    NoRole {
        /// Roles that were tried.
        roles: Vec<String>,
        /// What it said last.
        last: ConnectError,
    },
    /// The system refused.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Classify for ServerError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoProgram { .. } | Self::NoRole { .. } => ErrorKind::Usage,
            Self::OwnedByRoot(_) => ErrorKind::Refused,
            Self::Elsewhere { .. } => ErrorKind::Integrity,
            Self::Ended { .. } | Self::TooSlow { .. } | Self::Io { .. } => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoProgram { major, .. } => format!("install postgresql-{major}, or name its bin directory"),
            Self::OwnedByRoot(path) => format!("chown -R postgres: {}", path.display()),
            Self::NoRole { .. } => "name a role that exists in the cluster".to_owned(),
            Self::Ended { .. } => "the log says why; the directory is complete and can be started again".to_owned(),
            Self::Elsewhere { .. } => "do not use this directory; run pitr verify and restore again".to_owned(),
            Self::TooSlow { .. } => "start the server in the directory by hand: the replay goes on".to_owned(),
            Self::Io { .. } => return None,
        };
        Some(hint)
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServerError {
    let path = path.to_owned();
    move |source| ServerError::Io { doing, path, source }
}

/// Starts the server of `data`, waits until it stopped replaying, and verifies that it stopped at the plan's cut.
pub async fn recover(
    data: &Path,
    major: u32,
    recovery: &Recovery<PgPosition>,
    options: &StartOptions,
) -> Result<Reached, Error> {
    let program = find_program(major, options.bin_dir.as_deref()).await?;
    let mut server = PrivateServer::start(&program, data)?;
    let planned = recovery.cut;
    let waiting = server.wait_for_stop(planned, options.role.as_deref());
    let (sql, position) = match options.timeout {
        None => waiting.await?,
        Some(limit) => {
            tokio::time::timeout(limit, waiting).await.map_err(|_| ServerError::TooSlow { planned, limit })??
        }
    };
    let locked = if options.promote {
        promote(&sql).await?;
        0
    } else {
        locked_tables(&sql).await?
    };
    drop(sql);
    let socket = if options.keep_running {
        Some(server.keep())
    } else {
        server.shut_down().await?;
        None
    };
    Ok(Reached { position, socket, locked })
}

/// The `postgres` of a major version: where the caller says, in `PATH`, or where packages put it.
async fn find_program(major: u32, bin_dir: Option<&Path>) -> Result<PathBuf, ServerError> {
    let mut looked: Vec<PathBuf> = Vec::new();
    match bin_dir {
        Some(directory) => looked.push(directory.to_owned()),
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            looked.extend(std::env::split_paths(&path).filter(|directory| directory.join("postgres").is_file()));
            looked.push(format!("/usr/lib/postgresql/{major}/bin").into());
            looked.push(format!("/usr/pgsql-{major}/bin").into());
        }
    }
    for directory in &looked {
        let program = directory.join("postgres");
        let Ok(output) = Command::new(&program).arg("-V").stdin(Stdio::null()).output().await else { continue };
        if version_of(&String::from_utf8_lossy(&output.stdout)) == Some(major) {
            return Ok(program);
        }
    }
    Err(ServerError::NoProgram { major, looked })
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn version_of(text: &str) -> Option<u32> {
    let version = text.split_whitespace().nth(2)?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Tables locked by replayed transactions that have neither committed nor been rolled back: a `DROP TABLE` locks its
/// table well before its commit, which is where a restore to just before it stops.
async fn locked_tables(sql: &SqlClient) -> Result<u64, ConnectError> {
    let query = "SELECT count(DISTINCT (database, relation)) FROM pg_locks \
                 WHERE mode = 'AccessExclusiveLock' AND granted AND relation IS NOT NULL AND pid <> pg_backend_pid()";
    let row = sql.query_one(query, &[]).await.map_err(|error| ConnectError::sql("looking for locks", error))?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

/// Ends recovery and waits until the server is on its own.
async fn promote(sql: &SqlClient) -> Result<(), ConnectError> {
    const DOING: &str = "ending recovery";
    let in_recovery = "SELECT pg_is_in_recovery()";
    let ask = || async { sql.query_one(in_recovery, &[]).await.map(|row| row.get::<_, bool>(0)) };
    if ask().await.map_err(|error| ConnectError::sql(DOING, error))? {
        sql.batch_execute("SELECT pg_wal_replay_resume()").await.map_err(|error| ConnectError::sql(DOING, error))?;
    }
    while ask().await.map_err(|error| ConnectError::sql(DOING, error))? {
        tokio::time::sleep(RECOVERY_POLL).await;
    }
    Ok(())
}

/// A server that nobody else can reach. Shut down when dropped, unless kept.
struct PrivateServer {
    child: Child,
    data: PathBuf,
    /// Directory with socket, access rules and log.
    directory: PathBuf,
    kept: bool,
}

impl PrivateServer {
    fn start(program: &Path, data: &Path) -> Result<Self, ServerError> {
        let owner = fs::metadata(data).map_err(io_error("look at", data))?;
        if owner.uid() == 0 {
            return Err(ServerError::OwnedByRoot(data.to_owned()));
        }
        let we_are_root = rustix::process::geteuid().is_root();
        let give = |path: &Path| match we_are_root {
            true => chown(path, Some(owner.uid()), Some(owner.gid())).map_err(io_error("set owner of", path)),
            false => Ok(()),
        };
        let directory = run_dir::create(data).map_err(io_error("create a directory for the server of", data))?;
        give(&directory)?;
        let rules = directory.join(run_dir::RULES_FILE);
        fs::write(&rules, "local all all trust\n").map_err(io_error("write", &rules))?;
        give(&rules)?;
        let log_path = directory.join("log");
        let log = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&log_path);
        let log = log.map_err(io_error("create", &log_path))?;
        give(&log_path)?;

        let mut command = Command::new(program);
        command.arg("-D").arg(data).current_dir(data).stdin(Stdio::null());
        let errors = log.try_clone().map_err(io_error("open", &log_path))?;
        // A group of its own: an interrupt at our terminal is ours to handle.
        command.stdout(log).stderr(errors).process_group(0).kill_on_drop(false);
        for setting in [
            // A configuration that includes others may name that of the source.
            format!("data_directory={}", data.display()),
            format!("unix_socket_directories={}", directory.display()),
            format!("hba_file={}", rules.display()),
            format!("port={DEFAULT_PORT}"),
            "listen_addresses=".to_owned(),
            format!("external_pid_file={}", directory.join(run_dir::PID_FILE).display()),
            "ssl=off".to_owned(),
            "archive_mode=off".to_owned(),
            "hot_standby=on".to_owned(),
            "logging_collector=off".to_owned(),
            "log_destination=stderr".to_owned(),
        ] {
            command.arg("-c").arg(setting);
        }
        if we_are_root {
            command.uid(owner.uid()).gid(owner.gid());
        }
        let child = command.spawn().map_err(io_error("start", program))?;
        Ok(Self { child, data: data.to_owned(), directory, kept: false })
    }

    /// Waits until the replay stopped; returns a connection and the position, which is the planned one.
    async fn wait_for_stop(
        &mut self,
        planned: PgPosition,
        role: Option<&str>,
    ) -> Result<(SqlClient, PgPosition), Error> {
        let mut roles: Vec<String> = role.map(str::to_owned).into_iter().collect();
        if !roles.iter().any(|role| role == "postgres") {
            roles.push("postgres".to_owned());
        }
        loop {
            if self.child.try_wait().map_err(io_error("wait for", &self.data))?.is_some() {
                return Err(ServerError::Ended { planned, log: self.log_tail() }.into());
            }
            if let Some(sql) = self.connect(&roles).await?
                && let Some((reached, segment_size)) = self.stopped_at(&sql, planned.timeline).await?
            {
                // The server reports the end of a record, a plan may give the begin of the next one.
                let same = reached.timeline == planned.timeline
                    && reached.lsn.normalized(segment_size) == planned.lsn.normalized(segment_size);
                if same {
                    return Ok((sql, planned));
                }
                return Err(ServerError::Elsewhere { planned, reached, log: self.log_tail() }.into());
            }
            tokio::time::sleep(RECOVERY_POLL).await;
        }
    }

    /// A connection with the first role that is let in; `None` while the server is not ready.
    async fn connect(&self, roles: &[String]) -> Result<Option<SqlClient>, ServerError> {
        const NO_DATABASE: &str = "3D000";
        let mut last = None;
        for role in roles {
            let settings = Settings::unix(&self.directory, DEFAULT_PORT, role);
            for database in ["postgres", "template1"] {
                match sql_client(&settings.clone().with_database(database)).await {
                    Ok(client) => return Ok(Some(client)),
                    Err(ConnectError::Server { message, .. }) if message.sqlstate == NO_DATABASE => {}
                    Err(error) if error.kind() == ErrorKind::Denied => last = Some(error),
                    // Not up yet, or not consistent yet. Whether it ever will be is seen from the process.
                    Err(_) => return Ok(None),
                }
            }
        }
        match last {
            None => Ok(None),
            Some(last) => Err(ServerError::NoRole { roles: roles.to_vec(), last }),
        }
    }

    /// Where the replay stopped; `None` while it goes on, or if the server went away.
    async fn stopped_at(
        &self,
        sql: &SqlClient,
        timeline: TimelineId,
    ) -> Result<Option<(PgPosition, SegmentSize)>, Error> {
        const STATE: &str = "SELECT pg_is_in_recovery(), \
            CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END, \
            pg_last_wal_replay_lsn()::text, \
            (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'), \
            (SELECT timeline_id FROM pg_control_checkpoint())";
        let Ok(row) = sql.query_one(STATE, &[]).await else { return Ok(None) };
        let (in_recovery, paused): (bool, Option<bool>) = (row.get(0), row.get(1));
        let (replayed, size): (Option<&str>, &str) = (row.get(2), row.get(3));
        let size = size.parse().ok().and_then(SegmentSize::new).unwrap_or(SegmentSize::DEFAULT);
        if !in_recovery {
            let timeline: i32 = row.get(4);
            return Ok(self.left_at(TimelineId(timeline.unsigned_abs()))?.map(|position| (position, size)));
        }
        match (paused, replayed) {
            (Some(true), Some(lsn)) => Ok(Some((PgPosition::new(timeline, lsn.parse::<Lsn>()?), size))),
            _ => Ok(None),
        }
    }

    /// A server that could not pause (no snapshot for queries yet) ended recovery at the target: its new timeline's
    /// history says where. `None` while it is not written.
    fn left_at(&self, timeline: TimelineId) -> Result<Option<PgPosition>, Error> {
        let path = self.data.join("pg_wal").join(format!("{:08X}.history", timeline.0));
        let mut content = Vec::new();
        match File::open(&path) {
            Ok(file) => {
                file.take(MAX_HISTORY_FILE as u64).read_to_end(&mut content).map_err(io_error("read", &path))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", &path)(error).into()),
        };
        let (parent, at) = TimelineHistory::parse(timeline, &content)?.parent();
        Ok(Some(PgPosition::new(parent, at)))
    }

    /// The end of the server's log.
    fn log_tail(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(self.directory.join("log"))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
            let mut tail = Vec::new();
            file.read_to_end(&mut tail)?;
            Ok(String::from_utf8_lossy(&tail).trim_end().to_owned())
        };
        read().unwrap_or_else(|error| format!("(the log cannot be read: {error})"))
    }

    fn keep(mut self) -> (PathBuf, u16) {
        self.kept = true;
        (self.directory.clone(), DEFAULT_PORT)
    }

    async fn shut_down(mut self) -> Result<(), ServerError> {
        self.signal(Signal::INT);
        match tokio::time::timeout(SHUTDOWN_TIMEOUT, self.child.wait()).await {
            Ok(ended) => ended.map(drop).map_err(io_error("wait for", &self.data)),
            Err(_) => Err(io_error("shut down the server of", &self.data)(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Tells the server something, if it is still there.
    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended between the two lines, and then has nothing to be told.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        self.signal(Signal::INT);
        // Leftovers do no harm, and there is nobody to tell.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::version_of;

    #[test]
    fn the_major_version_is_read_from_any_distribution() {
        assert_eq!(version_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(version_of("postgres (PostgreSQL) 19beta3\n"), Some(19));
        assert_eq!(version_of("mysqld"), None);
    }
}
