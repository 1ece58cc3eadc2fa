//! The archive as a whole: creating, opening, and its keys.

use bytes::Bytes;
use pitr_core::Timestamp;
use serde::{Deserialize, Serialize};

use crate::blocking::on_a_thread;
use crate::envelope;
use crate::error::{Error, Result};
use crate::keys::{DigestKey, Encryption, Identities, Keys};
use crate::layout::{KEYS, SOURCES, SourceName};
use crate::objects::{ArchiveId, Kind, Objects, Payload, Put};
use crate::source::SourceArchive;
use crate::store::{DESCRIPTOR, Store};

/// Content of the descriptor, for whoever finds the archive without its program.
const README: &str = "\
This is an archive of pitr: database logs and base backups for point-in-time recovery.

Every object begins with three lines of plain text. The first one ends in the length N of these lines in
bytes. What follows is zstd, and inside age encryption where the second line says \"encrypted\":true:

    tail -c +$((N+1)) OBJECT | age -d -i identity.txt | zstd -d > native-bytes
    tail -c +$((N+1)) OBJECT | zstd -d > native-bytes          (not encrypted)

Keys below s/SOURCE/log/LINEAGE/GROUP/ are the log segments of a source, by name.
";

/// What a process brings along to open an archive.
#[derive(Debug, Clone)]
pub struct Access {
    /// How it writes.
    pub encryption: Encryption,
    /// What it can open; none for a process that only writes.
    pub identities: Identities,
    /// The digest key from its local file; if none, it is unwrapped with an identity.
    pub digest_key: Option<DigestKey>,
}

impl Access {
    /// For an archive without encryption.
    pub fn plain() -> Self {
        Self { encryption: Encryption::Disabled, identities: Identities::none(), digest_key: None }
    }

    /// For a process that only writes: recipients and the digest key.
    pub fn writer(encryption: Encryption, digest_key: DigestKey) -> Self {
        Self { encryption, identities: Identities::none(), digest_key: Some(digest_key) }
    }

    /// For a process that reads, and writes to the holders of the same identities.
    pub fn reader(identities: Identities) -> Self {
        Self { encryption: Encryption::Recipients(identities.recipients()), identities, digest_key: None }
    }
}

/// What the descriptor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// When it was created, by the clock of the creator; for screens only.
    pub created: Timestamp,
    /// Name and version of the program that created it.
    pub product: String,
    /// Whether all objects but keys and roll-ups are encrypted.
    pub encrypted: bool,
    /// Tells whether a digest key belongs to the archive; see [`DigestKey::check_value`].
    pub digest_key_check: String,
}

/// An open archive.
///
/// # Contract
/// `create` may be repeated, also after a kill at any moment: the descriptor is written last, so until then
/// there is no archive, and what an earlier try left is never looked at. Of several creators at once one wins and
/// the others learn that their digest key is not the archive's.
#[derive(Debug, Clone)]
pub struct Archive {
    objects: Objects,
    descriptor: Descriptor,
}

impl Archive {
    /// Creates the archive, or opens the one that is there.
    ///
    /// A digest key given in `access` becomes the archive's: save it to its file first, so that no kill between
    /// the two can lose it. Recipients that have no wrapped digest key yet get one.
    pub async fn create(store: Store, access: Access) -> Result<Self> {
        if !store.has_archive().await? {
            match Self::create_new(&store, &access).await {
                // Somebody else created it meanwhile: open theirs.
                Err(Error::Conflict { .. }) => {}
                other => return other,
            }
        }
        let archive = Self::open(store, access).await?;
        wrap_digest_key(&archive.objects).await?;
        Ok(archive)
    }

    async fn create_new(store: &Store, access: &Access) -> Result<Self> {
        let digest_key = access.digest_key.clone().unwrap_or_else(DigestKey::generate);
        let descriptor = Descriptor {
            created: chrono::Utc::now(),
            product: concat!("pitr ", env!("CARGO_PKG_VERSION")).to_owned(),
            encrypted: access.encryption.is_on(),
            digest_key_check: digest_key.check_value(),
        };
        let keys = Keys { encryption: access.encryption.clone(), identities: access.identities.clone(), digest_key };
        let objects = Objects::new(store.clone(), keys, ArchiveId::generate());
        wrap_digest_key(&objects).await?;
        // Last: from here on the archive exists.
        let readme = Payload::Raw(Bytes::from_static(README.as_bytes()));
        objects.unencrypted().put(Kind::Archive, DESCRIPTOR, &descriptor, readme).await?;
        Ok(Self { objects, descriptor })
    }

    /// Opens the archive that lies in `store`.
    ///
    /// For writing, recipients and digest key are enough; for reading, identities are.
    pub async fn open(store: Store, access: Access) -> Result<Self> {
        let bytes = store.get(DESCRIPTOR).await?.ok_or_else(|| store.no_archive())?;
        let object = envelope::open(DESCRIPTOR, None, &bytes, &Identities::none(), &DigestKey::from_bytes([0; 32]))?;
        if object.header.kind != Kind::Archive {
            return Err(Error::corrupt(DESCRIPTOR, "it is not the descriptor of an archive"));
        }
        let descriptor: Descriptor = object.header.facts()?;
        if descriptor.encrypted != access.encryption.is_on() {
            let word = |on| if on { "on" } else { "off" };
            return Err(Error::EncryptionDiffers {
                store: store.label().to_owned(),
                archive: word(descriptor.encrypted),
                configured: word(access.encryption.is_on()),
            });
        }
        let digest_key = match access.digest_key {
            Some(key) => key,
            None => unwrap_digest_key(&store, &object.header.archive, &access.identities, descriptor.encrypted).await?,
        };
        if digest_key.check_value() != descriptor.digest_key_check {
            return Err(Error::WrongDigestKey { store: store.label().to_owned() });
        }
        let keys = Keys { encryption: access.encryption, identities: access.identities, digest_key };
        Ok(Self { objects: Objects::new(store, keys, object.header.archive), descriptor })
    }

    /// One source of the archive, whether it has objects yet or not.
    pub fn source(&self, name: &str) -> Result<SourceArchive> {
        Ok(SourceArchive::new(self.objects.clone(), SourceName::new(name)?))
    }

    /// Names of the sources that have objects.
    pub async fn sources(&self) -> Result<Vec<String>> {
        self.objects.groups(SOURCES).await
    }

    /// Recipient sets that hold a wrapped digest key: ids of the objects below `keys/`.
    pub async fn wrapped_keys(&self) -> Result<Vec<String>> {
        let entries = self.objects.list(&format!("{KEYS}/{}", self.id())).await?;
        Ok(entries.into_iter().map(|entry| crate::layout::leaf(&entry.key).to_owned()).collect())
    }

    /// The random name of the archive.
    pub fn id(&self) -> &ArchiveId {
        self.objects.archive()
    }

    /// What the descriptor says.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The object layer.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The keys, among them the digest key that the caller keeps in a local file.
    pub fn keys(&self) -> &Keys {
        self.objects.keys()
    }

    /// The store.
    pub fn store(&self) -> &Store {
        self.objects.store()
    }
}

/// Key of the digest key as wrapped to this set of recipients.
fn wrapped_key(archive: &ArchiveId, encryption: &Encryption) -> String {
    let mut hasher = blake3::Hasher::new();
    for recipient in encryption.recipient_texts() {
        hasher.update(recipient.as_bytes()).update(b"\n");
    }
    let set = hex::encode(hasher.finalize().as_bytes().get(..8).unwrap_or_default());
    format!("{KEYS}/{archive}/{set}")
}

async fn wrap_digest_key(objects: &Objects) -> Result<Put> {
    let key = wrapped_key(objects.archive(), &objects.keys().encryption);
    let text = Bytes::from(objects.keys().digest_key.secret_text());
    let facts = serde_json::json!({ "recipients": objects.keys().encryption.recipient_texts() });
    objects.put(Kind::DigestKey, &key, &facts, Payload::Raw(text)).await
}

async fn unwrap_digest_key(
    store: &Store,
    archive: &ArchiveId,
    identities: &Identities,
    encrypted: bool,
) -> Result<DigestKey> {
    if encrypted && identities.is_empty() {
        return Err(Error::NoDigestKey { store: store.label().to_owned() });
    }
    let mut refused = None;
    for entry in store.list(&format!("{KEYS}/{archive}")).await? {
        let Some(bytes) = store.get(&entry.key).await? else { continue };
        let (name, archive, identities) = (entry.key.clone(), archive.clone(), identities.clone());
        let open = move || envelope::open(&name, Some(&archive), &bytes, &identities, &DigestKey::from_bytes([0; 32]));
        match on_a_thread(&entry.key, open).await {
            Ok(object) => {
                let text = String::from_utf8_lossy(&object.raw);
                return DigestKey::parse(&text, &entry.key);
            }
            // Wrapped to other recipients: another object may be for us.
            Err(error @ Error::WrongIdentity { .. }) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(|| Error::NoDigestKey { store: store.label().to_owned() }))
}
