//! Where the archive lies: one create-only object store below one root.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use pitr_core::ErrorKind;
use url::Url;

use crate::address;
use crate::error::{Error, Result};
use crate::limits;
use crate::retry::{GaveUp, Retry, kind_of};

/// Key of the archive's descriptor: what proves that an archive is there.
pub const DESCRIPTOR: &str = "archive";

/// Outcome of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object was stored. Also given when an earlier try of the same call may have stored it.
    New,
    /// The name exists, with whatever content.
    Exists,
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Key below the root of the archive.
    pub key: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// First bytes of an object, and how long it is.
#[derive(Debug, Clone)]
pub struct Prefix {
    /// The bytes.
    pub bytes: Bytes,
    /// Size of the whole object.
    pub object_bytes: u64,
}

/// An object store below one root.
///
/// # Contract
/// - `create` is atomic: the name gets the whole content or stays free, and is never overwritten. When it
///   returns, the object is durable (a directory: file and directories synced). After a timeout or a lost
///   connection it is unknown whether the object exists; the same call again finds out.
/// - `get` and its kin answer `None` only if the store said "no such object" while the descriptor of the
///   archive was there: a missing bucket, directory or mount is [`Error::NoArchive`].
/// - Listings have no order. An object created before the listing began is in it.
/// - Passing faults are repeated with growing random pauses up to a deadline; then the error has kind
///   `Unreachable`. A refused login is `Denied` at once.
#[derive(Clone)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    root: Path,
    label: Arc<str>,
    retry: Retry,
    attributes: Attributes,
    presence: Arc<Mutex<Option<Instant>>>,
}

impl Store {
    /// Opens `file:///directory`, `memory:`, `s3://bucket/prefix`, `az://container/prefix` or
    /// `gs://bucket/prefix`. Nothing is read or written yet.
    ///
    /// `options` are those of the store (`endpoint`, `region`, `allow_http`, server-side encryption, ...) and
    /// `storage_class`. Credentials come from the environment, as the store's own tools expect them.
    pub fn open(url: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        address::open(url, options)
    }

    /// Wraps any object store; its whole namespace is the archive. For tests, with faulty wrappers.
    pub fn from_object_store(objects: Arc<dyn ObjectStore>) -> Self {
        let label = objects.to_string();
        Self::new(objects, Path::default(), &label, Attributes::default())
    }

    /// A new empty store in memory.
    pub fn memory() -> Self {
        Self::from_object_store(Arc::new(object_store::memory::InMemory::new()))
    }

    pub(crate) fn new(objects: Arc<dyn ObjectStore>, root: Path, label: &str, attributes: Attributes) -> Self {
        Self { objects, root, label: label.into(), retry: Retry::default(), attributes, presence: Arc::default() }
    }

    /// The same store under another retry policy.
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The object store itself, for tests that wrap it; keys in it begin with [`Store::root`].
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        self.objects.clone()
    }

    /// What all keys begin with in the object store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How the store is named in messages: its URL, without credentials.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The directory that the store is; `None` if it is something else.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        // The label of any other store is a URL of another scheme, or no URL.
        Url::parse(&self.label).ok().filter(|url| url.scheme() == "file")?.to_file_path().ok()
    }

    /// A failure of what was done with a file of that directory.
    pub(crate) fn failed(&self, action: &'static str, key: &str, error: io::Error) -> Error {
        let source = object_store::Error::Generic { store: "directory", source: error.into() };
        let (key, store, kind) = (key.to_owned(), self.label.to_string(), kind_of(&source));
        Error::Store { kind, action, key, store, source: source.into() }
    }

    /// Stores an object under a new name.
    pub async fn create(&self, key: &str, payload: impl Into<PutPayload>) -> Result<Created> {
        let path = self.path(key)?;
        let payload = payload.into();
        let options = PutOptions { mode: PutMode::Create, attributes: self.attributes.clone(), ..Default::default() };
        let call = || async {
            match self.objects.put_opts(&path, payload.clone(), options.clone()).await {
                Ok(_) => Ok(Created::New),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    Ok(Created::Exists)
                }
                Err(error) => Err(error),
            }
        };
        match self.call("create", key, call).await {
            // Writing answers "not found" only where the bucket or the directory itself is missing.
            Err(Error::Store { kind: ErrorKind::Absent, .. }) => Err(self.no_archive()),
            other => other,
        }
    }

    /// Reads a whole object.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        let path = self.path(key)?;
        let call = || async {
            let answer = self.objects.get(&path).await?;
            if answer.meta.size > limits::MAX_OBJECT_BYTES {
                return Ok(Err(answer.meta.size));
            }
            answer.bytes().await.map(Ok)
        };
        match self.present(key, self.call("read", key, call).await).await? {
            Some(Ok(bytes)) => Ok(Some(bytes)),
            Some(Err(bytes)) => Err(Error::TooLarge { key: key.to_owned(), bytes, limit: limits::MAX_OBJECT_BYTES }),
            None => Ok(None),
        }
    }

    /// Reads the first `len` bytes of an object, or all of it if it is shorter.
    pub async fn get_prefix(&self, key: &str, len: u64) -> Result<Option<Prefix>> {
        let path = self.path(key)?;
        let call = || async {
            let options = GetOptions { range: Some(GetRange::Bounded(0..len)), ..Default::default() };
            match self.objects.get_opts(&path, options).await {
                Ok(answer) => {
                    let object_bytes = answer.meta.size;
                    Ok(Prefix { bytes: answer.bytes().await?, object_bytes })
                }
                // An empty object has no range that could be read, and every store says so in its own way.
                Err(error) if !matches!(kind_of(&error), ErrorKind::Absent | ErrorKind::Denied) => {
                    match self.objects.head(&path).await {
                        Ok(meta) if meta.size == 0 => Ok(Prefix { bytes: Bytes::new(), object_bytes: 0 }),
                        Ok(_) => Err(error),
                        Err(of_head) => Err(of_head),
                    }
                }
                Err(error) => Err(error),
            }
        };
        self.present(key, self.call("read the header of", key, call).await).await
    }

    /// Reads bytes `from..to` of an object; the range lies inside the object.
    pub async fn get_range(&self, key: &str, range: std::ops::Range<u64>) -> Result<Option<Bytes>> {
        let path = self.path(key)?;
        let call = || self.objects.get_range(&path, range.clone());
        self.present(key, self.call("read", key, call).await).await
    }

    /// All objects below a prefix, which ends at a `/`; sorted by key for the reader's comfort only.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        let path = self.path(prefix)?;
        let call = || async {
            let mut entries = Vec::new();
            let mut listing = self.objects.list(Some(&path));
            while let Some(meta) = listing.next().await.transpose()? {
                entries.extend(self.key(&meta.location).map(|key| Entry { key, bytes: meta.size }));
            }
            Ok(entries)
        };
        let mut entries = self.present(prefix, self.call("list", prefix, call).await).await?.unwrap_or_default();
        if entries.is_empty() {
            self.confirm_presence().await?;
        }
        entries.sort();
        Ok(entries)
    }

    /// The names one level below a prefix that have objects below them, sorted.
    pub async fn groups(&self, prefix: &str) -> Result<Vec<String>> {
        let path = self.path(prefix)?;
        let call = || self.objects.list_with_delimiter(Some(&path));
        let listing = self.present(prefix, self.call("list", prefix, call).await).await?;
        let mut names: Vec<String> = listing
            .map(|listing| listing.common_prefixes)
            .unwrap_or_default()
            .iter()
            .filter_map(|path| path.filename().map(str::to_owned))
            .collect();
        if names.is_empty() {
            self.confirm_presence().await?;
        }
        names.sort();
        Ok(names)
    }

    /// Removes an object; one that is not there is as good as removed. Used by pruning alone.
    pub async fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        let call = || self.objects.delete(&path);
        self.present(key, self.call("delete", key, call).await).await.map(|_| ())
    }

    /// Whether the descriptor of an archive is there. Errors are faults of the store.
    pub async fn has_archive(&self) -> Result<bool> {
        let path = self.path(DESCRIPTOR)?;
        match self.call("read", DESCRIPTOR, || self.objects.head(&path)).await {
            Ok(_) => Ok(true),
            Err(Error::Store { kind: ErrorKind::Absent, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Turns the store's "not found" into an authoritative `None`.
    async fn present<T>(&self, key: &str, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(Error::Store { kind: ErrorKind::Absent, .. }) => {
                if key != DESCRIPTOR {
                    self.confirm_presence().await?;
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn confirm_presence(&self) -> Result<()> {
        let seen = || self.presence.lock().unwrap_or_else(PoisonError::into_inner);
        if seen().is_some_and(|at| at.elapsed() < limits::PRESENCE_TTL) {
            return Ok(());
        }
        if !self.has_archive().await? {
            return Err(self.no_archive());
        }
        *seen() = Some(Instant::now());
        Ok(())
    }

    pub(crate) fn no_archive(&self) -> Error {
        Error::NoArchive { store: self.label.to_string() }
    }

    async fn call<T, F, Fut>(&self, action: &'static str, key: &str, call: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = std::result::Result<T, object_store::Error>>,
    {
        let (key, store) = (key.to_owned(), self.label.to_string());
        self.retry.run(call).await.map_err(|gave_up| match gave_up {
            GaveUp::Answer(kind, source) => Error::Store { kind, action, key, store, source: source.into() },
            GaveUp::Silence(waited) => Error::Timeout { action, key, store, waited },
        })
    }

    fn path(&self, key: &str) -> Result<Path> {
        let relative =
            Path::parse(key).map_err(|e| Error::Config { what: format!("key {key:?}"), why: e.to_string() })?;
        Ok(self.root.parts().chain(relative.parts()).collect())
    }

    fn key(&self, path: &Path) -> Option<String> {
        let parts: Vec<_> = path.prefix_match(&self.root)?.collect();
        Some(parts.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("/"))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.label)
    }
}

/// Attributes of every object that is created.
pub(crate) fn attributes(storage_class: Option<String>) -> Attributes {
    storage_class.map(|class| Attributes::from_iter([(Attribute::StorageClass, class)])).unwrap_or_default()
}
