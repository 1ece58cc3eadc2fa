//! Trees of files as bases, a target in memory, and a store that counts and can be damaged.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use pitr_archive::base::{BaseOptions, BaseWriter, BaseWritten};
use pitr_archive::{Access, Archive, Identities, SourceArchive, Store};
use pitr_core::PortError;
use pitr_core::ports::{BackupRecord, BaseReader, Chunking, PartInfo, PartKind, PartSink, PartTarget, PartWriter};
use pitr_testkit::toy::{ToyPosition, lineage_id};

/// Bytes of a chunk of a file with fixed chunking, as the format page says.
pub const CHUNK: usize = 512 * 1024;

/// Path -> content; a directory has none.
pub type Tree = BTreeMap<String, Option<(Chunking, Vec<u8>)>>;

/// Incompressible bytes that depend on the seed alone.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub fn file(path: &str, content: Vec<u8>) -> (String, Option<(Chunking, Vec<u8>)>) {
    (path.to_owned(), Some((Chunking::Fixed, content)))
}

pub fn info(path: &str, entry: &Option<(Chunking, Vec<u8>)>) -> PartInfo {
    let kind = entry.as_ref().map_or(PartKind::Directory, |(chunking, _)| PartKind::File(*chunking));
    let mode = if entry.is_some() { 0o600 } else { 0o700 };
    PartInfo { path: path.to_owned(), kind, mode: Some(mode) }
}

pub fn record() -> BackupRecord<ToyPosition> {
    BackupRecord {
        lineage: lineage_id(0),
        start: ToyPosition::new(0, 7),
        consistent: ToyPosition::new(0, 9),
        taken: ("2026-09-07T00:00:00Z".parse().unwrap(), "2026-09-07T00:10:00Z".parse().unwrap()),
        facts: [("version".to_owned(), "15".to_owned())].into(),
    }
}

/// An archive in a store of its own.
pub struct Lab {
    pub inner: Arc<InMemory>,
    pub store: Arc<CountingStore>,
    pub archive: Archive,
    pub source: SourceArchive,
}

impl Lab {
    pub async fn new(encrypted: bool) -> Self {
        let inner = Arc::new(InMemory::new());
        let store = Arc::new(CountingStore { inner: Arc::clone(&inner), packs_read: AtomicU64::new(0) });
        let access = if encrypted {
            Access::reader(Identities::from(age::x25519::Identity::generate()))
        } else {
            Access::plain()
        };
        let archive = Archive::create(Store::from_object_store(store.clone()), access).await.unwrap();
        let source = archive.source("shop").unwrap();
        Self { inner, store, archive, source }
    }

    pub async fn begin(&self) -> BaseWriter {
        BaseWriter::begin(self.archive.objects(), "shop", &BaseOptions::default()).await.unwrap()
    }

    pub async fn take(&self, tree: &Tree) -> BaseWritten<ToyPosition> {
        let writer = self.begin().await;
        for (path, entry) in tree {
            add(&writer, path, entry, 100_000).await.unwrap();
        }
        writer.commit(record()).await.unwrap()
    }

    pub async fn pour(&self, base: &BaseWritten<ToyPosition>) -> std::result::Result<Tree, PortError> {
        let target = MemoryTarget::default();
        self.source.pour(&base.base.id, &|_| true, &target).await?;
        Ok(target.finished())
    }

    /// Keys of all objects whose key contains `part`.
    pub async fn keys(&self, part: &str) -> Vec<String> {
        let all: Vec<ObjectMeta> = self.inner.list(None).try_collect().await.unwrap();
        all.into_iter().map(|meta| meta.location.to_string()).filter(|key| key.contains(part)).collect()
    }

    pub async fn object(&self, key: &str) -> Vec<u8> {
        self.inner.get(&Path::from(key)).await.unwrap().bytes().await.unwrap().to_vec()
    }

    /// Puts other bytes in the place of an object, past every rule.
    pub async fn replace(&self, key: &str, bytes: Vec<u8>) {
        self.inner.put(&Path::from(key), PutPayload::from(bytes)).await.unwrap();
    }

    pub async fn remove(&self, key: &str) {
        self.inner.delete(&Path::from(key)).await.unwrap();
    }
}

/// Adds one part, `step` bytes at a time.
pub async fn add(
    writer: &BaseWriter,
    path: &str,
    entry: &Option<(Chunking, Vec<u8>)>,
    step: usize,
) -> std::result::Result<u64, PortError> {
    let mut part = writer.open(info(path, entry)).await?;
    if let Some((_, content)) = entry {
        for piece in content.chunks(step) {
            part.write(piece).await?;
        }
    }
    part.finish().await
}

/// Receives a base in memory, and checks the order of calls.
#[derive(Default)]
pub struct MemoryTarget {
    state: Mutex<TargetState>,
}

#[derive(Default)]
struct TargetState {
    content: BTreeMap<String, Vec<u8>>,
    written: BTreeMap<String, u64>,
    begun: BTreeMap<String, PartInfo>,
    ended: BTreeSet<String>,
    left: BTreeMap<String, Vec<u8>>,
    writes: u64,
}

impl MemoryTarget {
    /// As an interrupted restore left it.
    pub fn with_remains(tree: &Tree) -> Self {
        let target = Self::default();
        let remains = tree.iter().filter_map(|(path, entry)| Some((path.clone(), entry.as_ref()?.1.clone())));
        target.state.lock().unwrap().left = remains.collect();
        target
    }

    pub fn writes(&self) -> u64 {
        self.state.lock().unwrap().writes
    }

    /// What arrived; every part must have been ended.
    pub fn finished(self) -> Tree {
        let state = self.state.into_inner().unwrap();
        assert_eq!(state.begun.keys().collect::<Vec<_>>(), state.ended.iter().collect::<Vec<_>>());
        let entry = |(path, info): (String, PartInfo)| {
            let content = state.content.get(&path).cloned().unwrap_or_default();
            match info.kind {
                PartKind::File(chunking) => {
                    assert_eq!(info.mode, Some(0o600));
                    (path, Some((chunking, content)))
                }
                PartKind::Directory => (path, None),
            }
        };
        state.begun.into_iter().map(entry).collect()
    }
}

impl PartTarget for MemoryTarget {
    fn begin(&self, part: &PartInfo, bytes: u64) -> std::result::Result<(), PortError> {
        let mut state = self.state.lock().unwrap();
        let mut content = state.left.get(&part.path).cloned().unwrap_or_default();
        content.resize(bytes as usize, 0);
        state.content.insert(part.path.clone(), content);
        assert!(state.begun.insert(part.path.clone(), part.clone()).is_none(), "{} begun twice", part.path);
        Ok(())
    }

    fn read_at(&self, part: &PartInfo, offset: u64, len: usize) -> std::result::Result<Option<Vec<u8>>, PortError> {
        let state = self.state.lock().unwrap();
        assert!(state.begun.contains_key(&part.path) && !state.ended.contains(&part.path));
        let left = state.left.get(&part.path);
        Ok(left.and_then(|bytes| bytes.get(offset as usize..offset as usize + len)).map(<[u8]>::to_vec))
    }

    fn write_at(&self, part: &PartInfo, offset: u64, bytes: &[u8]) -> std::result::Result<(), PortError> {
        let mut state = self.state.lock().unwrap();
        assert!(state.begun.contains_key(&part.path) && !state.ended.contains(&part.path));
        state.writes += 1;
        *state.written.entry(part.path.clone()).or_default() += bytes.len() as u64;
        let content = state.content.get_mut(&part.path).unwrap();
        content[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn end(&self, part: &PartInfo) -> std::result::Result<(), PortError> {
        assert!(self.state.lock().unwrap().ended.insert(part.path.clone()), "{} ended twice", part.path);
        Ok(())
    }
}

/// Counts whole reads of packs.
#[derive(Debug)]
pub struct CountingStore {
    inner: Arc<InMemory>,
    packs_read: AtomicU64,
}

impl CountingStore {
    /// Packs that were read since the last call.
    pub fn packs_read(&self) -> u64 {
        self.packs_read.swap(0, Ordering::Relaxed)
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counting store")
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.range.is_none() && location.as_ref().contains("/pack/") {
            self.packs_read.fetch_add(1, Ordering::Relaxed);
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
