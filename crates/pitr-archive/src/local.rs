//! The local directory: durable, create-only, private.
//!
//! Reading and listing are `object_store`'s; creating is ours, for three reasons. A name that exists
//! already may have been linked by a process that was killed before it synced the directory: answering
//! "exists" acknowledges it, so it is synced first. A directory made by somebody else may not be durable
//! itself. And nothing of an archive is for other users of the machine.

use std::collections::HashSet;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::blocking::in_place;
use crate::limits;

const STORE: &str = "directory";
#[cfg(unix)]
const DIRECTORY_MODE: u32 = 0o700;
#[cfg(unix)]
const FILE_MODE: u32 = 0o600;

/// A directory as an object store.
///
/// # Contract
/// `put` accepts [`PutMode::Create`] only. When it returns, by success or by "already exists", the object
/// and every directory above it up to the root are on stable storage. A kill at any moment leaves either no
/// object or the whole one, and at most a temporary file that listings never show (`NAME#DIGITS`).
#[derive(Debug, Clone)]
pub(crate) struct LocalStore {
    files: LocalFileSystem,
    root: Arc<PathBuf>,
    durable: Arc<Mutex<HashSet<PathBuf>>>,
}

impl LocalStore {
    /// `root` is absolute; it need not exist.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { files: LocalFileSystem::new(), root: Arc::new(root), durable: Arc::default() }
    }

    /// Creates one object; see the contract of the type.
    fn create(&self, path: &FsPath, payload: &PutPayload) -> io::Result<()> {
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        if path.symlink_metadata().is_ok() {
            return Err(self.existing(path, parent)?);
        }
        self.make_directories(parent)?;
        let temporary = temporary_name(path);
        let linked = write_new(&temporary, payload).and_then(|()| std::fs::hard_link(&temporary, path));
        // The object has its own link now, or there is none: the temporary name is of no more use. If it
        // stays behind, no listing shows it.
        let _ = std::fs::remove_file(&temporary);
        match linked {
            Ok(()) => sync_directory(parent),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(self.existing(path, parent)?),
            Err(error) => Err(error),
        }
    }

    /// Makes durable what another process may have left half-synced; returns "already exists".
    fn existing(&self, path: &FsPath, parent: &FsPath) -> io::Result<io::Error> {
        File::open(path)?.sync_all()?;
        sync_directory(parent)?;
        self.sync_ancestors(parent)?;
        Ok(io::Error::new(io::ErrorKind::AlreadyExists, "the name exists"))
    }

    fn make_directories(&self, directory: &FsPath) -> io::Result<()> {
        if self.known_durable(directory) {
            return Ok(());
        }
        if holds_object(directory) {
            self.remember_durable(directory);
            return Ok(());
        }
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, DIRECTORY_MODE);
        let root_is_new = !self.root.exists();
        builder.create(directory)?;
        if root_is_new {
            self.root.ancestors().skip(1).take(1).try_for_each(sync_directory)?;
        }
        self.sync_ancestors(directory)
    }

    /// Syncs every directory from `directory` up to the root, once per process.
    fn sync_ancestors(&self, directory: &FsPath) -> io::Result<()> {
        if self.known_durable(directory) {
            return Ok(());
        }
        for ancestor in directory.ancestors() {
            sync_directory(ancestor)?;
            if ancestor == self.root.as_path() {
                break;
            }
        }
        self.remember_durable(directory);
        Ok(())
    }

    fn remember_durable(&self, directory: &FsPath) {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.len() >= limits::MAX_KNOWN_DIRECTORIES {
            durable.clear();
        }
        durable.insert(directory.to_owned());
    }

    fn known_durable(&self, directory: &FsPath) -> bool {
        // The directory itself is asked for too: somebody may have removed it since.
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(directory) && directory.is_dir()
    }
}

/// True if an object lies in the directory itself. Whoever put it there had synced the directories above before,
/// so that the next writer, a new process for every WAL file, need not do it again.
fn holds_object(directory: &FsPath) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else { return false };
    entries.filter_map(Result::ok).any(|entry| {
        entry.file_type().is_ok_and(|kind| kind.is_file()) && !entry.file_name().to_string_lossy().contains('#')
    })
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(directory: &FsPath) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn write_new(path: &FsPath, payload: &PutPayload) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, FILE_MODE);
    let mut file = options.open(path)?;
    payload.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()
}

/// `object_store` hides names that end in `#` and digits from listings.
fn temporary_name(path: &FsPath) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("#{}", rand::random::<u64>()));
    PathBuf::from(name)
}

fn unsupported<T>(operation: &str) -> Result<T> {
    Err(object_store::Error::NotImplemented { operation: operation.to_owned(), implementer: STORE.to_owned() })
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "directory {}", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if options.mode != PutMode::Create {
            return unsupported("overwriting");
        }
        let path = self.files.path_to_filesystem(location)?;
        let name = path.display().to_string();
        let this = self.clone();
        let created = match payload.content_length() <= limits::SMALL_PAYLOAD_BYTES {
            // Whoever waits for a commit waits for this: no other thread first has to wake up.
            true => in_place(|| this.create(&path, &payload)),
            false => tokio::task::spawn_blocking(move || this.create(&path, &payload)).await?,
        };
        match created {
            Ok(()) => Ok(PutResult { e_tag: None, version: None, extensions: Default::default() }),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                Err(object_store::Error::AlreadyExists { path: name, source: e.into() })
            }
            Err(e) => Err(object_store::Error::Generic { store: STORE, source: e.into() }),
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unsupported("a multipart upload, which cannot be create-only")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unsupported("copying")
    }
}
