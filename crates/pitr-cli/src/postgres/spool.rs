//! The spool of a recovery: whole segments, fetched ahead of the server that asks for them.
//!
//! A file has its final name only once it is complete, checked and synced. The directory belongs to one
//! lineage of one source of one archive, so whatever an earlier recovery left there is still right:
//! segments never change.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use pitr_core::ErrorKind;

use crate::failure::Failure;

/// Begin of the names of files that are still being written.
const UNFINISHED: &str = ".unfinished-";
/// Name of the lock file of the one prefetching process.
const LOCK: &str = ".lock";

/// A directory of prefetched segments.
#[derive(Debug, Clone)]
pub struct Spool {
    dir: PathBuf,
}

/// Held by the one process that fills a spool; released by the kernel when it ends, however it ends.
#[derive(Debug)]
pub struct Filling {
    _lock: File,
}

impl Spool {
    /// Opens or makes the directory; refuses one that other users could write to.
    pub fn open(dir: PathBuf) -> Result<Self, Failure> {
        let fault = |error: io::Error| failure(format!("cannot use spool {}: {error}", dir.display()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(fault)?;
        let meta = fs::symlink_metadata(&dir).map_err(fault)?;
        if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
            return Err(Failure::new(
                ErrorKind::Refused,
                format!("spool {} is not a directory of this user alone", dir.display()),
            )
            .next("remove it, or name another one with --spool"));
        }
        Ok(Self { dir })
    }

    /// True if the segment is here, complete.
    pub fn has(&self, name: &str) -> bool {
        self.dir.join(name).is_file()
    }

    /// Number of complete files.
    pub fn complete_files(&self) -> u32 {
        let Ok(entries) = fs::read_dir(&self.dir) else { return 0 };
        let complete = entries.flatten().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
        u32::try_from(complete.count()).unwrap_or(u32::MAX)
    }

    /// Moves a complete segment to `dest`; false if it is not here.
    pub fn take(&self, name: &str, dest: &Path) -> Result<bool, Failure> {
        match fs::rename(self.dir.join(name), dest) {
            Ok(()) => Ok(true),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && dest.parent().is_none_or(|dir| dir == Path::new("") || dir.exists()) =>
            {
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                let Ok(bytes) = fs::read(self.dir.join(name)) else { return Ok(false) };
                deliver(dest, &bytes)?;
                self.drop_file(name);
                Ok(true)
            }
            Err(error) => Err(failure(format!("cannot move {name} from the spool to {}: {error}", dest.display()))),
        }
    }

    /// Stores a complete segment: written, synced, then renamed.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let unfinished = self.dir.join(format!("{UNFINISHED}{name}"));
        write_synced(&unfinished, bytes)
            .and_then(|()| fs::rename(&unfinished, self.dir.join(name)))
            .map_err(|error| failure(format!("cannot write {name} to spool {}: {error}", self.dir.display())))
    }

    /// The right to fill this spool; `None` while another process has it.
    pub fn try_fill(&self) -> Result<Option<Filling>, Failure> {
        let path = self.dir.join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.map_err(|error| failure(format!("cannot open {}: {error}", path.display())))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Filling { _lock: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(failure(format!("cannot lock {}: {error}", path.display()))),
        }
    }

    /// Removes segments of the timeline before `name`: the server never goes back. Also what a killed
    /// process left unfinished. The caller holds the right to fill.
    pub fn forget_before(&self, name: &str, _right: &Filling) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let file = entry.file_name();
            let Some(file) = file.to_str() else { continue };
            let same_timeline = file.get(..8) == name.get(..8) && file.len() == name.len();
            if file.starts_with(UNFINISHED) || (same_timeline && file < name) {
                self.drop_file(file);
            }
        }
    }

    /// A file that stays costs space, nothing else, and the next filling process tries again.
    fn drop_file(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.dir.join(name)) {
            tracing::debug!(%error, name, "could not remove a file from the spool");
        }
    }
}

/// Writes a file where the server wants it: complete, synced and renamed into place, or not at all.
pub fn deliver(dest: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut unfinished = dest.as_os_str().to_owned();
    unfinished.push(format!(".pitr-{}", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let written = write_synced(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, dest)).and_then(|()| {
        let dir = dest.parent().filter(|dir| *dir != Path::new("")).unwrap_or_else(|| Path::new("."));
        File::open(dir)?.sync_all()
    });
    written.map_err(|error| {
        // Best effort: what matters is the error itself.
        let _ = fs::remove_file(&unfinished);
        failure(format!("cannot write {}: {error}", dest.display()))
    })
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn failure(message: String) -> Failure {
    Failure::new(ErrorKind::Failed, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_taken_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path().join("spool")).unwrap();
        spool.put("000000010000000000000003", b"wal").unwrap();
        let dest = dir.path().join("RECOVERYXLOG");
        assert!(spool.take("000000010000000000000003", &dest).unwrap());
        assert_eq!(fs::read(&dest).unwrap(), b"wal");
        assert!(!spool.take("000000010000000000000003", &dest).unwrap());
    }

    #[test]
    fn only_one_process_fills_a_spool() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path().join("spool")).unwrap();
        let right = spool.try_fill().unwrap().unwrap();
        assert!(spool.try_fill().unwrap().is_none());
        drop(right);
        assert!(spool.try_fill().unwrap().is_some());
    }

    #[test]
    fn segments_behind_the_server_and_unfinished_files_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path().join("spool")).unwrap();
        for name in ["000000010000000000000003", "000000010000000000000005", "000000020000000000000003"] {
            spool.put(name, b"wal").unwrap();
        }
        fs::write(spool.dir.join(".unfinished-x"), b"half").unwrap();
        let right = spool.try_fill().unwrap().unwrap();
        spool.forget_before("000000010000000000000005", &right);
        assert!(!spool.has("000000010000000000000003") && spool.has("000000010000000000000005"));
        assert!(spool.has("000000020000000000000003") && !spool.dir.join(".unfinished-x").exists());
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(Spool::open(dir.path().to_owned()).unwrap_err().kind, ErrorKind::Refused);
    }
}
