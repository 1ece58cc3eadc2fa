//! The directory of a private server: its socket, its access rules and its log.
//!
//! It lies inside the data directory, so that nothing outlives that. Only where the name of the socket would be longer
//! than the system allows does it lie in the temporary directory; what earlier servers left there is swept by the next one.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::limits::{DEFAULT_PORT, MAX_SOCKET_PATH, STALE_RUN_DIRECTORY};

/// Its name in a data directory. A base that holds one is restored without it.
pub const NAME: &str = "pitr.run";
/// Holds the process id while the server lives; the server removes it itself.
pub const PID_FILE: &str = "pid";
/// Its access rules: what a directory of ours is known by.
pub const RULES_FILE: &str = "pg_hba.conf";

/// Makes the directory for the server of `data`, which only its owner can enter.
pub fn create(data: &Path) -> io::Result<PathBuf> {
    let inside = data.join(NAME);
    let socket = inside.join(format!(".s.PGSQL.{DEFAULT_PORT}"));
    if socket.as_os_str().len() <= MAX_SOCKET_PATH {
        match make(&inside) {
            Ok(()) => return Ok(inside),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    create_in(&std::env::temp_dir())
}

fn create_in(temporary: &Path) -> io::Result<PathBuf> {
    sweep(temporary, STALE_RUN_DIRECTORY);
    let mut tried = 0;
    loop {
        let path = temporary.join(format!("pitr-{}-{tried}", std::process::id()));
        match make(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tried < 1000 => tried += 1,
            Err(error) => return Err(error),
        }
    }
}

fn make(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

/// Removes the directories of servers that are gone. Best effort: they cost a few kilobytes each.
fn sweep(temporary: &Path, age: Duration) {
    let Ok(entries) = fs::read_dir(temporary) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(is_our_name);
        if is_ours && is_dead(&entry.path(), age).unwrap_or(false) {
            // Somebody else's, if it fails: then it is theirs to sweep.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// `pitr-PID-N`.
fn is_our_name(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    name.strip_prefix("pitr-").and_then(|rest| rest.split_once('-')).is_some_and(|(pid, n)| number(pid) && number(n))
}

/// True if a server had its rules there, and neither it lives nor is it about to start.
fn is_dead(path: &Path, age: Duration) -> io::Result<bool> {
    let meta = fs::symlink_metadata(path)?;
    let limit = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
    if !meta.is_dir() || meta.mode() & 0o077 != 0 || meta.modified()? > limit || !path.join(RULES_FILE).is_file() {
        return Ok(false);
    }
    let pid = match fs::read_to_string(path.join(PID_FILE)) {
        Ok(text) => text.trim().parse::<i32>().ok().and_then(rustix::process::Pid::from_raw),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    // Without a right to signal it, it is somebody's and alive.
    Ok(pid.is_none_or(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn place(parent: &Path, name: &str, pid: Option<u32>) -> PathBuf {
        let path = parent.join(name);
        make(&path).unwrap();
        fs::write(path.join(RULES_FILE), "local all all trust\n").unwrap();
        if let Some(pid) = pid {
            fs::write(path.join(PID_FILE), format!("{pid}\n")).unwrap();
        }
        path
    }

    #[test]
    fn it_lies_in_the_data_directory_unless_the_socket_would_have_too_long_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let near = create(dir.path()).unwrap();
        assert_eq!(near, dir.path().join(NAME));
        assert_eq!(fs::metadata(&near).unwrap().mode() & 0o777, 0o700);
        let deep = dir.path().join("d".repeat(100));
        make(&deep).unwrap();
        let far = create(&deep).unwrap();
        assert_eq!(far.parent(), Some(std::env::temp_dir().as_path()));
        fs::remove_dir(far).unwrap();
    }

    #[test]
    fn only_what_dead_servers_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        // No process has this number: it is larger than the kernel gives.
        let dead = [place(dir.path(), "pitr-1-0", Some(i32::MAX.unsigned_abs())), place(dir.path(), "pitr-1-1", None)];
        let alive = place(dir.path(), "pitr-1-2", Some(std::process::id()));
        let foreign = [place(dir.path(), "pitr-orders-x1", None), place(dir.path(), "orders-1-1", None)];
        let without_rules = dir.path().join("pitr-7-7");
        make(&without_rules).unwrap();
        sweep(dir.path(), Duration::from_secs(3_600));
        assert!(dead.iter().all(|path| path.exists()), "they may be about to start");
        sweep(dir.path(), Duration::ZERO);
        assert!(dead.iter().all(|path| !path.exists()));
        assert!(alive.exists() && without_rules.exists() && foreign.iter().all(|path| path.exists()));
    }
}
