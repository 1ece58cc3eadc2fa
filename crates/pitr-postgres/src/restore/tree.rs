//! Where restored files go: below directories that are open, by names that cannot lead elsewhere.
//!
//! Every component of a path is opened on its own and never followed if it is a link, so that neither a hostile
//! base nor somebody who plants a link during the restore gets a byte written outside.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pitr_core::PortError;
use pitr_core::ports::{PartInfo, PartKind, PartTarget};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::RestoreError;
use super::claim::{Claim, DIRECTORY, Owner, set_owner};
use crate::base::tar::is_safe_path;
use crate::error::Error;
use crate::limits::MAX_OPEN_DIRECTORIES;

/// Mode bits that a restored file or directory may have: those that the server allows for its group.
const FILE_BITS: u32 = 0o640;
const DIRECTORY_BITS: u32 = 0o750;

/// The directories that are being filled.
#[derive(Debug)]
pub struct Tree {
    root: Root,
    tablespaces: BTreeMap<u32, Root>,
    owner: Option<Owner>,
    files: Mutex<HashMap<String, Arc<OpenFile>>>,
    /// Directories used last, by root and path; emptied when it is full.
    directories: Mutex<HashMap<(u32, String), Arc<OwnedFd>>>,
    counted_files: AtomicU64,
    counted_bytes: AtomicU64,
}

/// A directory below which files are written.
#[derive(Debug)]
struct Root {
    directory: OwnedFd,
    /// Its name, for messages.
    path: PathBuf,
    /// True if files may be there already.
    resumed: bool,
}

impl Root {
    fn of(claim: &Claim) -> Result<Self, RestoreError> {
        let directory = claim.directory.try_clone().map_err(RestoreError::io("open", &claim.path))?;
        Ok(Self { directory, path: claim.path.clone(), resumed: claim.resumed })
    }
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    /// Length that an interrupted restore left; 0 for a new file.
    before: u64,
}

/// Key of the data directory among the roots; no tablespace has this oid.
const DATA: u32 = 0;

impl Tree {
    /// A tree over the claimed data directory and its claimed tablespaces.
    pub fn new(data: &Claim, tablespaces: &BTreeMap<u32, Claim>, owner: Option<Owner>) -> Result<Self, RestoreError> {
        let tablespaces = tablespaces.iter().map(|(oid, claim)| Ok((*oid, Root::of(claim)?)));
        Ok(Self {
            root: Root::of(data)?,
            tablespaces: tablespaces.collect::<Result<_, RestoreError>>()?,
            owner,
            files: Mutex::default(),
            directories: Mutex::default(),
            counted_files: AtomicU64::new(0),
            counted_bytes: AtomicU64::new(0),
        })
    }

    /// Files and bytes of which delivery has begun.
    pub fn counted(&self) -> (u64, u64) {
        (self.counted_files.load(Ordering::Relaxed), self.counted_bytes.load(Ordering::Relaxed))
    }

    /// Writes a whole small file of the data directory at once: under another name first, then renamed.
    pub fn replace(&self, path: &str, content: &[u8]) -> Result<(), RestoreError> {
        const TEMPORARY: &str = ".pitr-restore-new";
        let (directory, name) = self.parent(DATA, path)?;
        let io = |doing| RestoreError::io(doing, self.root.path.join(path));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&*directory, TEMPORARY, flags, Mode::from_raw_mode(0o600)).map_err(io("create"))?;
        set_owner(&file, self.owner).map_err(io("set owner of"))?;
        let file = File::from(file);
        let written = file.write_all_at(content, 0).and_then(|()| file.sync_all());
        written.map_err(RestoreError::io("write", self.root.path.join(path)))?;
        rustix::fs::renameat(&*directory, TEMPORARY, &*directory, name).map_err(io("rename"))?;
        rustix::fs::fsync(&*directory).map_err(io("sync the directory of"))
    }

    /// Makes the link from `pg_tblspc/OID` to where a tablespace was restored.
    pub fn link_tablespace(&self, oid: u32, location: &std::path::Path) -> Result<(), RestoreError> {
        let path = format!("pg_tblspc/{oid}");
        let (directory, name) = self.parent(DATA, &path)?;
        match rustix::fs::symlinkat(location, &*directory, name) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = rustix::fs::readlinkat(&*directory, name, Vec::new());
                if there.ok().as_deref().map(std::ffi::CStr::to_bytes) != Some(location.as_os_str().as_encoded_bytes())
                {
                    return Err(RestoreError::Unsafe { path, what: "something else is there".to_owned() });
                }
            }
            Err(error) => return Err(RestoreError::io("link", self.root.path.join(&path))(error)),
        }
        if let Some((user, group)) = self.owner {
            let (user, group) = (rustix::fs::Uid::from_raw(user), rustix::fs::Gid::from_raw(group));
            rustix::fs::chownat(&*directory, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(RestoreError::io("set owner of", self.root.path.join(&path)))?;
        }
        Ok(())
    }

    /// Makes everything durable: once for each file system, which is faster than file by file.
    pub fn sync(&self) -> Result<(), RestoreError> {
        for root in std::iter::once(&self.root).chain(self.tablespaces.values()) {
            #[cfg(target_os = "linux")]
            rustix::fs::syncfs(&root.directory).map_err(RestoreError::io("sync the file system of", &root.path))?;
            #[cfg(not(target_os = "linux"))]
            rustix::fs::fsync(&root.directory).map_err(RestoreError::io("sync", &root.path))?;
        }
        Ok(())
    }

    /// The root and the path below it that a part of a base belongs to.
    fn place<'a>(&self, part: &'a str) -> Result<(u32, &'a str), RestoreError> {
        let unsafe_path = |what: &str| RestoreError::Unsafe { path: part.to_owned(), what: what.to_owned() };
        let (root, path) = match part.split_once('/') {
            Some(("base", path)) => (DATA, path),
            Some(("ts", rest)) => {
                let (oid, path) = rest.split_once('/').ok_or_else(|| unsafe_path("no path in a tablespace"))?;
                let oid = oid.parse().ok().filter(|oid| self.tablespaces.contains_key(oid));
                (oid.ok_or_else(|| unsafe_path("the base lists no such tablespace"))?, path)
            }
            None if part == crate::base::MANIFEST => (DATA, part),
            _ => return Err(unsafe_path("no part of a base of PostgreSQL")),
        };
        if is_safe_path(path) { Ok((root, path)) } else { Err(unsafe_path("no plain relative path")) }
    }

    fn root(&self, root: u32) -> &Root {
        // `place` only gives oids that are there.
        self.tablespaces.get(&root).unwrap_or(&self.root)
    }

    /// The open directory of a path, made if it is not there, and the last component.
    fn parent<'a>(&self, root: u32, path: &'a str) -> Result<(Arc<OwnedFd>, &'a str), RestoreError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.directory(root, parent)?, name))
    }

    /// The open directory with this path; it and those above it are made where they are not there.
    fn directory(&self, root: u32, path: &str) -> Result<Arc<OwnedFd>, RestoreError> {
        let key = (root, path.to_owned());
        if let Some(found) = lock(&self.directories).get(&key) {
            return Ok(Arc::clone(found));
        }
        let Root { directory, path: name, .. } = self.root(root);
        let mut current = directory.try_clone().map_err(RestoreError::io("open", name))?;
        for component in path.split('/').filter(|component| !component.is_empty()) {
            let io = |doing| RestoreError::io(doing, name.join(path));
            let made = match rustix::fs::mkdirat(&current, component, Mode::from_raw_mode(0o700)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(io("create directory")(error)),
            };
            current = match rustix::fs::openat(&current, component, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    return Err(RestoreError::Unsafe {
                        path: path.to_owned(),
                        what: format!("{component:?} is no directory"),
                    });
                }
                Err(error) => return Err(io("open directory")(error)),
            };
            if made {
                set_owner(&current, self.owner).map_err(io("set owner of"))?;
            }
        }
        let current = Arc::new(current);
        let mut directories = lock(&self.directories);
        if directories.len() >= MAX_OPEN_DIRECTORIES {
            directories.clear();
        }
        directories.insert(key, Arc::clone(&current));
        Ok(current)
    }

    fn begin_file(&self, part: &PartInfo, bytes: u64) -> Result<(), RestoreError> {
        let (root, path) = self.place(&part.path)?;
        let (directory, name) = self.parent(root, path)?;
        let io = |doing| RestoreError::io(doing, self.root(root).path.join(path));
        let exclusive = if self.root(root).resumed { OFlags::empty() } else { OFlags::EXCL };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | exclusive;
        let file = match rustix::fs::openat(&*directory, name, flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => file,
            Err(Errno::EXIST | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => {
                return Err(RestoreError::Unsafe {
                    path: part.path.clone(),
                    what: "something is there already".to_owned(),
                });
            }
            Err(error) => return Err(io("create")(error)),
        };
        let stat = rustix::fs::fstat(&file).map_err(io("look at"))?;
        // A second name would mean that the bytes also go somewhere else.
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink != 1 {
            return Err(RestoreError::Unsafe { path: part.path.clone(), what: "no plain file is there".to_owned() });
        }
        let mode = part.mode.unwrap_or(0) & FILE_BITS | 0o600;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(io("set mode of"))?;
        set_owner(&file, self.owner).map_err(io("set owner of"))?;
        rustix::fs::ftruncate(&file, bytes).map_err(io("set length of"))?;
        let before = u64::try_from(stat.st_size).unwrap_or(0);
        lock(&self.files).insert(part.path.clone(), Arc::new(OpenFile { file: File::from(file), before }));
        self.counted_files.fetch_add(1, Ordering::Relaxed);
        self.counted_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn begin_directory(&self, part: &PartInfo) -> Result<(), RestoreError> {
        let (root, path) = self.place(&part.path)?;
        let directory = self.directory(root, path)?;
        let mode = part.mode.unwrap_or(0) & DIRECTORY_BITS | 0o700;
        rustix::fs::fchmod(&*directory, Mode::from_raw_mode(mode))
            .map_err(RestoreError::io("set mode of", self.root(root).path.join(path)))
    }

    fn open_file(&self, part: &PartInfo) -> Result<Arc<OpenFile>, RestoreError> {
        let found = lock(&self.files).get(&part.path).map(Arc::clone);
        found.ok_or_else(|| RestoreError::BadPart { path: part.path.clone(), what: "content out of turn".to_owned() })
    }
}

impl PartTarget for Tree {
    fn begin(&self, part: &PartInfo, bytes: u64) -> Result<(), PortError> {
        match part.kind {
            PartKind::File(_) => self.begin_file(part, bytes),
            PartKind::Directory => self.begin_directory(part),
        }
        .map_err(port)
    }

    fn read_at(&self, part: &PartInfo, offset: u64, len: usize) -> Result<Option<Vec<u8>>, PortError> {
        let open = self.open_file(part).map_err(port)?;
        if offset.saturating_add(len as u64) > open.before {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        open.file.read_exact_at(&mut bytes, offset).map_err(RestoreError::io("read", &part.path)).map_err(port)?;
        Ok(Some(bytes))
    }

    fn write_at(&self, part: &PartInfo, offset: u64, bytes: &[u8]) -> Result<(), PortError> {
        let open = self.open_file(part).map_err(port)?;
        open.file.write_all_at(bytes, offset).map_err(RestoreError::io("write", &part.path)).map_err(port)
    }

    fn end(&self, part: &PartInfo) -> Result<(), PortError> {
        if part.kind == PartKind::Directory {
            return Ok(());
        }
        let open = self.open_file(part).map_err(port)?;
        lock(&self.files).remove(&part.path);
        // Elsewhere there is no way to sync a whole file system and learn of its errors.
        #[cfg(not(target_os = "linux"))]
        open.file.sync_all().map_err(RestoreError::io("sync", &part.path)).map_err(port)?;
        drop(open);
        Ok(())
    }
}

fn port(error: RestoreError) -> PortError {
    PortError::new(Error::Restore(error))
}

/// A thread that panicked with the lock held leaves a map that is still a map.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
