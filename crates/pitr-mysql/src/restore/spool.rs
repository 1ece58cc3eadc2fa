//! Parts of a base on their way into the server: plain files in a private directory, a batch at a time.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pitr_core::ports::{PartInfo, PartTarget};
use pitr_core::{ErrorKind, PortError};
use rustix::fs::{FlockOperation, flock};

use super::RestoreError;

/// What the name of a spool begins with.
const NAME: &str = "pitr-restore-";
/// A file that is locked as long as the spool is in use; the kernel lets go of it when the process ends, however it ends.
const LOCK: &str = "lock";

/// A directory of files, removed when dropped.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    _lock: File,
    files: Mutex<HashMap<String, Arc<File>>>,
}

impl Spool {
    /// A new directory below `parent` that only we can look into.
    pub fn create(parent: &Path) -> Result<Self, RestoreError> {
        sweep(parent);
        let directory = parent.join(format!("{NAME}{}", hex::encode(rand::random::<[u8; 8]>())));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(RestoreError::io("create directory", &directory))?;
        let path = directory.join(LOCK);
        let open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let lock = open.map_err(RestoreError::io("create", &path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(RestoreError::io("lock", &path))?;
        Ok(Self { directory, _lock: lock, files: Mutex::new(HashMap::new()) })
    }

    /// Where a part lies.
    pub fn path(&self, part: &str) -> PathBuf {
        use sha2::Digest;
        // A part's own path may be longer than a name can be.
        self.directory.join(hex::encode(sha2::Sha256::digest(part)))
    }

    /// Forgets a part.
    pub fn remove(&self, part: &str) {
        let path = self.path(part);
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(%error, path = %path.display(), "could not remove a file of the spool; it goes with the directory");
        }
    }

    fn file(&self, part: &PartInfo) -> Result<Arc<File>, PortError> {
        let files = self.files.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        files.get(&part.path).cloned().ok_or_else(|| {
            PortError::with_kind(ErrorKind::Failed, format!("{} was not begun before its content came", part.path))
        })
    }
}

/// Removes what killed restores of this user left in `parent`. It only costs space: a failure is no failure of the restore.
fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(NAME)) {
        let path = entry.path();
        if let Err(error) = sweep_one(&path) {
            tracing::debug!(%error, directory = %path.display(), "could not remove what a killed restore left");
        }
    }
}

fn sweep_one(directory: &Path) -> std::io::Result<()> {
    let meta = std::fs::symlink_metadata(directory)?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    // One without a lock is being made at this moment, or is removed by somebody else.
    let lock = File::open(directory.join(LOCK))?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    std::fs::remove_dir_all(directory)
}

impl PartTarget for Spool {
    fn begin(&self, part: &PartInfo, bytes: u64) -> Result<(), PortError> {
        let path = self.path(&part.path);
        let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = open.map_err(RestoreError::io("create", &path)).map_err(PortError::new)?;
        file.set_len(bytes).map_err(RestoreError::io("make room for", &path)).map_err(PortError::new)?;
        self.files.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(part.path.clone(), Arc::new(file));
        Ok(())
    }

    fn read_at(&self, _: &PartInfo, _: u64, _: usize) -> Result<Option<Vec<u8>>, PortError> {
        // A spool is always new: what is done is in the ledger of the server.
        Ok(None)
    }

    fn write_at(&self, part: &PartInfo, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        let written = self.file(part)?.write_all_at(bytes, offset);
        written.map_err(RestoreError::io("write", self.path(&part.path))).map_err(PortError::new)
    }

    fn end(&self, part: &PartInfo) -> Result<(), PortError> {
        self.files.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&part.path);
        Ok(())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, directory = %self.directory.display(), "could not remove the spool; it can be deleted");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_restore_left_is_removed_by_the_next_one() {
        let parent = tempfile::tempdir().unwrap();
        let killed = parent.path().join(format!("{NAME}0123"));
        std::fs::create_dir(&killed).unwrap();
        std::fs::write(killed.join(LOCK), "").unwrap();
        std::fs::write(killed.join("rows"), "rows").unwrap();
        let live = Spool::create(parent.path()).unwrap();
        assert!(!killed.exists());
        let next = Spool::create(parent.path()).unwrap();
        assert!(live.directory.exists() && next.directory.exists(), "one that is in use stays");
    }
}
