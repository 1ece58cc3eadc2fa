//! Claims a directory for a restore: it must be empty, or hold this very restore, interrupted.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Gid, Mode, OFlags, Uid};

use super::RestoreError;

/// Its presence says that the directory is not complete. The last thing that a restore removes.
const MARKER: &str = ".pitr-restore-unfinished";

/// User and group that restored files belong to.
pub type Owner = (u32, u32);

/// A directory that is ours until the restore is complete.
#[derive(Debug)]
pub struct Claim {
    /// The directory, open: whatever happens to its name, this is where files go.
    pub directory: OwnedFd,
    /// Its name.
    pub path: PathBuf,
    /// True if an interrupted restore goes on.
    pub resumed: bool,
    /// Locked until the restore ends.
    marker: File,
}

impl Claim {
    /// An error if `path` cannot be claimed. Touches nothing.
    pub fn check(path: &Path) -> Result<(), RestoreError> {
        match rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()) {
            Ok(directory) => Self::check_entries(&directory, path).map(drop),
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(RestoreError::io("open directory", path)(error)),
        }
    }

    /// Claims `path` for the restore that `plan` describes, and creates it if it does not exist.
    pub fn take(path: &Path, plan: &str, owner: Option<Owner>) -> Result<Self, RestoreError> {
        let directory = make_and_open(path)?;
        let resumed = Self::check_entries(&directory, path)?;
        let marker = path.join(MARKER);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(!resumed)
            .open(&marker)
            .map_err(RestoreError::io("open", &marker))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(RestoreError::Busy(path.to_owned())),
            Err(error) => return Err(RestoreError::io("lock", &marker)(error)),
        }
        let mut before = String::new();
        file.read_to_string(&mut before).map_err(RestoreError::io("read", &marker))?;
        // An empty marker is one that was being written: nothing else can be there yet.
        if before.is_empty() {
            file.write_all(plan.as_bytes()).map_err(RestoreError::io("write", &marker))?;
            file.sync_all().map_err(RestoreError::io("sync", &marker))?;
            rustix::fs::fsync(&directory).map_err(RestoreError::io("sync", path))?;
        } else if before != plan {
            return Err(RestoreError::OtherPlan(path.to_owned()));
        }
        // Closed to others before the first byte of data arrives.
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o700)).map_err(RestoreError::io("set mode of", path))?;
        set_owner(&directory, owner).map_err(RestoreError::io("set owner of", path))?;
        Ok(Self { directory, path: path.to_owned(), resumed, marker: file })
    }

    /// The restore is complete: the marker goes.
    pub fn release(self) -> Result<(), RestoreError> {
        rustix::fs::unlinkat(&self.directory, MARKER, AtFlags::empty())
            .map_err(RestoreError::io("remove", self.path.join(MARKER)))?;
        rustix::fs::fsync(&self.directory).map_err(RestoreError::io("sync", &self.path))?;
        drop(self.marker);
        Ok(())
    }

    /// True for our own unfinished restore, false for an empty directory, an error for anything else.
    fn check_entries(directory: &OwnedFd, path: &Path) -> Result<bool, RestoreError> {
        let names = entries(directory).map_err(RestoreError::io("list", path))?;
        let has = |name: &str| names.iter().any(|entry| entry == name);
        let in_use = |why| RestoreError::InUse { directory: path.to_owned(), why };
        if has("postmaster.pid") {
            return Err(in_use("postmaster.pid is there"));
        }
        if !has(MARKER) {
            return match names.into_iter().next() {
                None => Ok(false),
                Some(example) => Err(RestoreError::NotEmpty { directory: path.to_owned(), example }),
            };
        }
        // The server renames backup_label at its first start.
        if has("backup_label.old") {
            return Err(in_use("a server has been started there since"));
        }
        Ok(true)
    }
}

/// Opens a directory that the user named, and makes it if it does not exist. Here alone links are followed.
fn make_and_open(path: &Path) -> Result<OwnedFd, RestoreError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(RestoreError::io("create directory", path)(error)),
    }
    rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()).map_err(RestoreError::io("open directory", path))
}

/// Makes the directory above a tablespace, if only that one is missing.
pub(super) fn make_parent(path: &Path, owner: Option<Owner>) -> Result<(), RestoreError> {
    if path.exists() {
        return Ok(());
    }
    let directory = make_and_open(path)?;
    set_owner(&directory, owner).map_err(RestoreError::io("set owner of", path))
}

/// How directories are opened: the last component is never followed.
pub(super) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Names in a directory.
pub(super) fn entries(directory: &OwnedFd) -> rustix::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    Ok(names)
}

/// Gives an open file away, where somebody said to whom.
pub(super) fn set_owner(file: &OwnedFd, owner: Option<Owner>) -> rustix::io::Result<()> {
    match owner {
        None => Ok(()),
        Some((user, group)) => rustix::fs::fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))),
    }
}
