//! The server that a killed restore left running over the directory.
//!
//! Nobody ended it, so it holds the directory, and the restore could not go on. It is told from everybody else's by what it
//! was started with: this very directory, and what only a restore gives.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::RestoreError;
use crate::limits::{ORPHAN_STOP, SERVER_POLL};

/// What the name of a private directory of a restore begins with.
pub const PRIVATE: &str = "pitr-";

/// A process, by its arguments.
#[derive(Debug)]
struct Orphan {
    pid: Pid,
    /// The private directory of its socket.
    private: Option<PathBuf>,
}

/// Ends servers that a killed restore left running over `directory`, and removes their private directories.
pub fn end(directory: &Path) -> Result<(), RestoreError> {
    for orphan in find(directory)? {
        tracing::warn!(
            pid = orphan.pid.as_raw_nonzero().get(),
            "ending the server that an interrupted restore left running"
        );
        // The restore failed and is being repeated: InnoDB recovers. Gone meanwhile is as good.
        if let Err(error) = kill_process(orphan.pid, Signal::KILL) {
            tracing::debug!(%error, "it ended by itself");
        }
        wait(orphan.pid)?;
        if let Some(private) = orphan.private
            && let Err(error) = fs::remove_dir_all(&private)
        {
            tracing::debug!(%error, directory = %private.display(), "could not remove a directory");
        }
    }
    Ok(())
}

fn find(directory: &Path) -> Result<Vec<Orphan>, RestoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").map_err(RestoreError::io("list", "/proc"))?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        // One that ends at this moment has no arguments any more.
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = arguments.split(|byte| *byte == 0).collect();
        if let (Some(pid), Some(private)) = (pid, of_restore(&words, directory)) {
            found.push(Orphan { pid, private });
        }
    }
    Ok(found)
}

/// The private directory of a server's socket if the arguments are those of a restore into `directory`; none where it is
/// still making the files.
fn of_restore(words: &[&[u8]], directory: &Path) -> Option<Option<PathBuf>> {
    let data = [b"--datadir=", directory.as_os_str().as_bytes()].concat();
    if !words.contains(&data.as_slice()) {
        return None;
    }
    if words.contains(&b"--initialize-insecure".as_slice()) || words.contains(&b"--bootstrap".as_slice()) {
        return Some(None);
    }
    let socket = words.iter().find_map(|word| word.strip_prefix(b"--socket="))?;
    let private = Path::new(std::ffi::OsStr::from_bytes(socket)).parent()?;
    let ours = private.file_name()?.as_bytes().starts_with(PRIVATE.as_bytes());
    ours.then(|| Some(private.to_owned()))
}

fn wait(pid: Pid) -> Result<(), RestoreError> {
    let begun = Instant::now();
    let stat = PathBuf::from(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
    // Of a process that has ended and nobody has asked after, the arguments are empty.
    while fs::read(&stat).is_ok_and(|arguments| !arguments.is_empty()) {
        if begun.elapsed() > ORPHAN_STOP {
            return Err(RestoreError::Busy(format!("process {}", pid.as_raw_nonzero())));
        }
        std::thread::sleep(SERVER_POLL.min(Duration::from_millis(100)));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn words(text: &'static str) -> Vec<&'static [u8]> {
        text.split(' ').map(str::as_bytes).collect()
    }

    #[test]
    fn only_the_server_of_a_restore_into_this_directory_is_ended() {
        let of = |text: &'static str| of_restore(&words(text), Path::new("/srv/restored"));
        let private = Some(PathBuf::from("/tmp/pitr-0123"));
        assert_eq!(of("mysqld --no-defaults --datadir=/srv/restored --socket=/tmp/pitr-0123/sock"), Some(private));
        assert_eq!(of("mysqld --initialize-insecure --datadir=/srv/restored"), Some(None));
        for other in [
            "mysqld --datadir=/srv/restored2 --socket=/tmp/pitr-0123/sock",
            "mysqld --datadir=/srv/restored --socket=/run/mysqld/mysqld.sock",
            "mysqld --datadir=/srv/restored",
            "vi /srv/restored",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
