//! A server of our own, for a restore into a directory: reached through a socket in that directory and nowhere else.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use bson::doc;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use crate::connect::{Member, Prefer, Settings};
use crate::error::{Doing, Error, Result};
use crate::limits::{LOG_TAIL, SERVER_POLL, SERVER_START, SERVER_STOP};

/// Says that a directory was made by a restore that is not finished. Removed last.
const MARKER: &str = "pitr.unfinished";
/// Its content once nothing is left to do but to end the server.
const COMPLETE: &str = "complete";
const SOCKET: &str = "pitr.sock";
const LOG: &str = "pitr.log";
/// Bytes of a directory's path in which the server can have its sockets: a path of one has 107 at most, and the server
/// makes `mongodb-27017.sock` there.
const MAX_SOCKET_DIR: usize = 80;
/// Where a server writes its process number.
const LOCK: &str = "mongod.lock";

/// A `mongod` that runs on a directory while it is restored.
#[derive(Debug)]
pub struct Server {
    dir: PathBuf,
    sockets: Sockets,
    process: Child,
}

impl Server {
    /// Takes the directory and starts a server on it. `program` is `mongod` or the path of one.
    pub async fn start(dir: &Path, program: &Path) -> Result<Self> {
        if fs::read_to_string(dir.join(MARKER)).is_ok_and(|note| note == COMPLETE) {
            return Err(end_complete(dir).await?);
        }
        claim(dir)?;
        end_orphan(dir).await?;
        match Self::launch(dir, program).await {
            // One that had not yet locked the directory when we looked.
            Err(_) if server_on(dir).is_some() => {
                end_orphan(dir).await?;
                Self::launch(dir, program).await
            }
            launched => launched,
        }
    }

    async fn launch(dir: &Path, program: &Path) -> Result<Self> {
        let sockets = Sockets::of(dir)?;
        let socket = sockets.dir.join(SOCKET);
        let mut command = Command::new(program);
        command.arg("--dbpath").arg(dir).arg("--bind_ip").arg(&socket).arg("--logpath").arg(dir.join(LOG));
        // Documents must not expire while they are restored, and nobody else is to find the server.
        command.args(["--logappend", "--setParameter", "ttlMonitorEnabled=false", "--setParameter"]);
        command.args(["diagnosticDataCollectionEnabled=false", "--unixSocketPrefix"]).arg(&sockets.dir);
        // A fifth of the server's time while documents are inserted; its journal is empty when it has shut down.
        command.args(["--wiredTigerJournalCompressor", "none"]);
        // What keeps a program from starting at all, such as a library that is missing, is told there and nowhere else.
        let told =
            fs::OpenOptions::new().create(true).append(true).open(dir.join(LOG)).doing(format!("opening {LOG}"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(told);
        let process = command.spawn().doing(format!("starting {}", program.display()))?;
        let mut server = Self { dir: dir.to_owned(), sockets, process };
        server.wait().await?;
        Ok(server)
    }

    /// How it is reached.
    pub fn settings(&self) -> Result<Settings> {
        let socket = self.sockets.dir.join(SOCKET).to_string_lossy().replace('%', "%25").replace('/', "%2F");
        Settings::parse(&format!("mongodb://{socket}/?directConnection=true"))
    }

    async fn wait(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().doing("waiting for mongod")? {
                return Err(self.failed(&format!("it ended with {status}")));
            }
            // Before the socket is there, looking for a server on it would take the driver's whole patience.
            if self.sockets.dir.join(SOCKET).exists()
                && Member::connect(&self.settings()?, Prefer::Primary).await.is_ok()
            {
                return Ok(());
            }
            if begun.elapsed() > SERVER_START {
                return Err(self.failed("it does not answer"));
            }
            sleep(SERVER_POLL).await;
        }
    }

    /// Shuts it down in order: the directory is then complete, and a server can be started on it.
    pub async fn finish(mut self) -> Result<()> {
        fs::write(self.dir.join(MARKER), COMPLETE).doing(format!("writing {MARKER}"))?;
        let member = Member::connect(&self.settings()?, Prefer::Primary).await?;
        // The server closes the connection instead of answering; whether it is gone is seen below.
        let asked = member.admin(doc! { "shutdown": 1, "force": true }, "shutting mongod down").await;
        let begun = Instant::now();
        loop {
            match self.process.try_wait().doing("waiting for mongod")? {
                Some(status) if status.success() => break,
                Some(status) => return Err(self.failed(&format!("it ended with {status}"))),
                None if begun.elapsed() > SERVER_STOP => {
                    asked?;
                    return Err(self.failed("it does not shut down"));
                }
                None => sleep(SERVER_POLL).await,
            }
        }
        remove_traces(&self.dir)
    }

    fn failed(&self, what: &str) -> Error {
        Error::Target {
            what: format!("mongod on {}: {what}\n{}", self.dir.display(), self.log_tail()),
            hint: "put a mongod of the source's version on PATH, or restore with --target-url".to_owned(),
        }
    }

    fn log_tail(&self) -> String {
        let read = || {
            let mut file = fs::File::open(self.dir.join(LOG))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A restore that failed goes on later: the server recovers what was written.
        if let Ok(None) = self.process.try_wait() {
            // Nothing can be done if it is gone by itself in this moment.
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// Where the server's sockets are: in its directory, or, if the path of that is too long for one, in a directory of their own.
#[derive(Debug)]
struct Sockets {
    dir: PathBuf,
    own: bool,
}

impl Sockets {
    fn of(dir: &Path) -> Result<Self> {
        if dir.as_os_str().len() <= MAX_SOCKET_DIR {
            return Ok(Self { dir: dir.to_owned(), own: false });
        }
        let own = std::env::temp_dir().join(format!("pitr-{}", std::process::id()));
        match fs::DirBuilder::new().mode(0o700).create(&own) {
            // Left by another process that had this number.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                fs::remove_dir_all(&own).and_then(|()| fs::DirBuilder::new().mode(0o700).create(&own))
            }
            made => made,
        }
        .doing(format!("making {}", own.display()))?;
        Ok(Self { dir: own, own: true })
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        if self.own {
            // Sockets of a server that is gone: nobody misses them, or minds them.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Removes what only the restore needed.
fn remove_traces(dir: &Path) -> Result<()> {
    for file in [SOCKET, LOG, MARKER] {
        match fs::remove_file(dir.join(file)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).doing(format!("removing {file}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Ends what is left of a restore that was interrupted when all was done. What it was of, nobody knows any more: so the
/// directory is not said to be what is asked for now.
async fn end_complete(dir: &Path) -> Result<Error> {
    end_orphan(dir).await?;
    remove_traces(dir)?;
    Ok(Error::Target {
        what: format!(
            "an earlier restore into {} was complete, and only its server was not ended; it is now",
            dir.display()
        ),
        hint: "start mongod on the directory, or give a new one".to_owned(),
    })
}

/// Shuts down a server that outlived the restore which had started it: two cannot run on one directory. By a signal, since it
/// may be starting, and since another server may have taken its socket before it found the directory locked.
async fn end_orphan(dir: &Path) -> Result<()> {
    let begun = Instant::now();
    let mut asked = None;
    while let Some(orphan) = server_on(dir) {
        if asked != Some(orphan) {
            match kill_process(orphan, Signal::TERM) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => asked = Some(orphan),
                Err(error) => {
                    return Err(std::io::Error::from(error)).doing("ending the mongod of an interrupted restore");
                }
            }
        }
        if begun.elapsed() > SERVER_STOP {
            return Err(Error::Target {
                what: format!("a mongod runs on {} and does not shut down", dir.display()),
                hint: "end it, then repeat the same command".to_owned(),
            });
        }
        sleep(SERVER_POLL).await;
    }
    Ok(())
}

/// The process that the lock of the directory names, if it is alive and a server on this directory.
fn server_on(dir: &Path) -> Option<Pid> {
    let number: i32 = fs::read_to_string(dir.join(LOCK)).ok()?.trim().parse().ok()?;
    let arguments = fs::read(format!("/proc/{number}/cmdline")).ok()?;
    let of_dir = arguments.split(|byte| *byte == 0).any(|argument| argument == dir.as_os_str().as_encoded_bytes());
    of_dir.then(|| Pid::from_raw(number)).flatten()
}

/// Makes the directory, or takes one that is empty or that an unfinished restore left.
fn claim(dir: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).doing(format!("making {}", dir.display()))?;
    let empty = fs::read_dir(dir).doing(format!("looking into {}", dir.display()))?.next().is_none();
    let marker = dir.join(MARKER);
    if !empty && !marker.exists() {
        return Err(Error::Target {
            what: format!("{} is not empty", dir.display()),
            hint: "give a new or empty directory".to_owned(),
        });
    }
    fs::write(&marker, "").doing(format!("writing {}", marker.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_anything_else_in_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        claim(dir.path()).unwrap();
        fs::write(dir.path().join("WiredTiger"), "").unwrap();
        claim(dir.path()).unwrap();
        fs::remove_file(dir.path().join(MARKER)).unwrap();
        assert!(claim(dir.path()).unwrap_err().to_string().contains("not empty"));
    }
}
