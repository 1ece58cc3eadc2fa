//! The object layer: typed objects in a store, sealed, checked and created once.

use std::fmt;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use object_store::PutPayload;
use serde::{Deserialize, Serialize};

use crate::blocking::on_a_thread;
use crate::codec;
use crate::envelope::{self, Header, Object, Parsed, Sealed, Subject};
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::limits;
use crate::press::{Press, Pressed};
use crate::store::{Created, Entry, Store};

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The descriptor of the archive.
    Archive,
    /// The digest key, wrapped to the recipients.
    DigestKey,
    /// A lineage.
    Lineage,
    /// A sealed segment of log.
    Segment,
    /// Log of a segment that is not sealed yet.
    Tail,
    /// A side file of the log (`.history`, `.backup`, `.partial`).
    File,
    /// A recorded gap.
    Gap,
    /// Headers of the segments of one group.
    Rollup,
    /// Chunks of bases.
    Pack,
    /// The manifest of a base.
    Base,
    /// The file index of a base.
    BaseIndex,
    /// The packs that a base refers to.
    BasePacks,
}

impl Kind {
    /// Objects that must be readable before the digest key is known have a digest without key.
    pub(crate) fn has_public_digest(self) -> bool {
        matches!(self, Self::Archive | Self::DigestKey)
    }
}

/// The random name of an archive: 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ArchiveId(String);

impl ArchiveId {
    /// A new random one.
    pub fn generate() -> Self {
        Self(hex::encode(rand::random::<[u8; 16]>()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Native content on its way into an object.
#[derive(Debug, Clone)]
pub enum Payload {
    /// To be compressed here.
    Raw(Bytes),
    /// Compressed and decoded again already.
    Pressed(Pressed),
}

impl Payload {
    /// Length of the native content in bytes.
    pub fn raw_bytes(&self) -> u64 {
        match self {
            Self::Raw(bytes) => bytes.len() as u64,
            Self::Pressed(pressed) => pressed.raw_bytes,
        }
    }

    /// Bytes that it takes in memory.
    pub fn memory(&self) -> usize {
        match self {
            Self::Raw(bytes) => bytes.len(),
            Self::Pressed(pressed) => pressed.frame_bytes(),
        }
    }
}

/// Outcome of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// Stored now.
    Stored {
        /// Length of the whole object in bytes.
        stored_bytes: u64,
    },
    /// The same content was there already.
    Identical,
}

/// Typed objects of one archive.
///
/// # Contract
/// `put` returns once the object is durable; it is atomic, never overwrites, and may be repeated after any
/// error: the same content again is [`Put::Identical`], other content is [`Error::Conflict`]. Every reader checks
/// what it returns, and answers `None` only if the object is certainly absent.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Store,
    keys: Keys,
    archive: ArchiveId,
}

impl Objects {
    /// Joins a store with the keys of the archive that lies in it.
    pub fn new(store: Store, keys: Keys, archive: ArchiveId) -> Self {
        Self { store, keys, archive }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The archive.
    pub fn archive(&self) -> &ArchiveId {
        &self.archive
    }

    /// The same objects under other encryption; for what is public by intent, such as roll-ups of headers.
    pub(crate) fn unencrypted(&self) -> Self {
        let mut plain = self.clone();
        plain.keys.encryption = crate::keys::Encryption::Disabled;
        plain
    }

    /// Keyed digest of native bytes.
    pub fn digest(&self, bytes: &[u8]) -> [u8; 32] {
        self.keys.digest_key.digest(bytes)
    }

    /// Begins the digest of native bytes of this kind that come in pieces.
    pub(crate) fn hasher(&self, kind: Kind) -> blake3::Hasher {
        self.keys.digest_key.hasher(kind)
    }

    /// Begins to compress the content of an object of this kind that comes in pieces.
    pub fn press(&self, kind: Kind) -> Result<Press> {
        Press::begin(kind, &self.keys.digest_key).map_err(|e| Error::internal("press", e))
    }

    /// Compresses the content of an object of this kind, and decodes it again, where that is worth a thread.
    pub(crate) async fn compress(&self, kind: Kind, key: &str, raw: Bytes) -> Result<Payload> {
        if raw.len() <= limits::SMALL_PAYLOAD_BYTES {
            return Ok(Payload::Raw(raw));
        }
        let (digests, name) = (self.keys.digest_key.clone(), key.to_owned());
        let press = move || codec::pressed(raw, kind, &digests).map_err(|e| Error::internal(&name, e));
        Ok(Payload::Pressed(on_a_thread(key, press).await?))
    }

    /// Seals and checks an object, which stores nothing yet. `facts` stand in its plain header, readable by everybody.
    pub(crate) async fn seal(&self, kind: Kind, key: &str, facts: &impl Serialize, payload: Payload) -> Result<Sealed> {
        let facts = serde_json::to_value(facts).map_err(|e| Error::internal(key, e))?;
        let subject = Subject { kind, archive: self.archive.clone(), key: key.to_owned(), facts };
        let keys = self.keys.clone();
        let small = matches!(&payload, Payload::Raw(bytes) if bytes.len() <= limits::SMALL_PAYLOAD_BYTES);
        let seal = move || envelope::seal(subject, payload, &keys.encryption, &keys.digest_key);
        if small { seal() } else { on_a_thread(key, seal).await }
    }

    /// Seals, checks and creates an object. `facts` stand in its plain header, readable by everybody.
    pub async fn put(&self, kind: Kind, key: &str, facts: &impl Serialize, payload: Payload) -> Result<Put> {
        let sealed = self.seal(kind, key, facts, payload).await?;
        let stored_bytes = sealed.header.object_bytes();
        for _ in 0..limits::MAX_CREATE_RACES {
            let payload: PutPayload = sealed.parts.iter().cloned().collect();
            match self.store.create(key, payload).await? {
                Created::New => return Ok(Put::Stored { stored_bytes }),
                Created::Exists => {}
            }
            // "Exists" and then "absent": another create of the name is under way, or just failed.
            if let Some(existing) = self.header(key).await? {
                return compare(&existing, &sealed.header);
            }
        }
        Err(Error::internal(key, "the store says that it exists and that it does not"))
    }

    /// Reads an object and checks everything about it.
    pub async fn get(&self, key: &str) -> Result<Option<Object>> {
        let Some(bytes) = self.store.get(key).await? else { return Ok(None) };
        self.open(key, bytes).await.map(Some)
    }

    /// Checks and opens the bytes of an object that were read already.
    pub(crate) async fn open(&self, key: &str, bytes: Bytes) -> Result<Object> {
        let (keys, archive, name) = (self.keys.clone(), self.archive.clone(), key.to_owned());
        let open = move || envelope::open(&name, Some(&archive), &bytes, &keys.identities, &keys.digest_key);
        on_a_thread(key, open).await
    }

    /// Reads an object, decrypted but still compressed: its header and the zstd frames of its content.
    ///
    /// The digest of the native content is not checked: whoever decompresses must check what comes out.
    pub async fn get_frames(&self, key: &str) -> Result<Option<(Header, Bytes)>> {
        let Some(bytes) = self.store.get(key).await? else { return Ok(None) };
        let (keys, archive, name) = (self.keys.clone(), self.archive.clone(), key.to_owned());
        let open = move || envelope::open_frames(&name, Some(&archive), &bytes, &keys.identities, &keys.digest_key);
        on_a_thread(key, open).await.map(Some)
    }

    /// Reads the plain header of an object by one small range read. Needs no identity.
    pub async fn header(&self, key: &str) -> Result<Option<Header>> {
        let mut len = limits::HEADER_PROBE_BYTES;
        loop {
            let Some(prefix) = self.store.get_prefix(key, len).await? else { return Ok(None) };
            match envelope::parse_header(&prefix.bytes).map_err(|damage| damage.of(key))? {
                Parsed::Whole(header) => {
                    envelope::check_place(&header, key, Some(&self.archive))?;
                    if header.object_bytes() != prefix.object_bytes {
                        let what =
                            format!("it has {} bytes, its header says {}", prefix.object_bytes, header.object_bytes());
                        return Err(Error::corrupt(key, what));
                    }
                    return Ok(Some(*header));
                }
                Parsed::More(more) if more as u64 > len && prefix.object_bytes > prefix.bytes.len() as u64 => {
                    len = more as u64;
                }
                Parsed::More(_) => {
                    return Err(Error::corrupt(
                        key,
                        format!("it ends inside its header, at {} bytes", prefix.object_bytes),
                    ));
                }
            }
        }
    }

    /// Reads many headers, `concurrency` at a time; in the order of `keys`, absent ones as `None`.
    pub async fn headers(&self, keys: &[String], concurrency: usize) -> Result<Vec<Option<Header>>> {
        // Owned keys: with borrowed ones the compiler cannot see that the future may go to another thread.
        let read = |key: String| async move { self.header(&key).await };
        stream::iter(keys.to_vec()).map(read).buffered(concurrency.max(1)).try_collect().await
    }

    /// All objects below a prefix.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        self.store.list(prefix).await
    }

    /// The names one level below a prefix that have objects below them.
    pub async fn groups(&self, prefix: &str) -> Result<Vec<String>> {
        self.store.groups(prefix).await
    }
}

/// Decides what it means that the name exists.
fn compare(existing: &Header, ours: &Header) -> Result<Put> {
    let same =
        existing.kind == ours.kind && existing.raw_bytes == ours.raw_bytes && existing.raw_digest == ours.raw_digest;
    if !same {
        return Err(Error::Conflict {
            key: ours.key.clone(),
            stored: hex::encode(existing.raw_digest),
            ours: hex::encode(ours.raw_digest),
        });
    }
    if ours.encrypted && existing.stored_digest == ours.stored_digest {
        // Our own object, of a try whose answer was lost: no two encryptions are alike.
        return Ok(Put::Stored { stored_bytes: ours.object_bytes() });
    }
    Ok(Put::Identical)
}
