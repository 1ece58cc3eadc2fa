//! Keys: recipients to write with, identities to read with, and the key of all digests.

use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use age::x25519;

use crate::error::{Error, Result};
use crate::limits;
use crate::objects::Kind;

/// First word of a digest key file.
const DIGEST_KEY_PREFIX: &str = "pitr-digest-key-1";
/// What is digested to tell whether a digest key belongs to an archive.
const DIGEST_KEY_CHECK: &[u8] = b"pitr digest key check";
/// Domain of the digest over plain headers, so that no native content can stand in for a header.
const HEADER_DOMAIN: &str = "pitr 1 header";

/// Whether objects are encrypted, and to whom.
#[derive(Clone)]
pub enum Encryption {
    /// Objects are compressed only.
    Disabled,
    /// Objects are encrypted to every one of these.
    Recipients(Vec<x25519::Recipient>),
}

impl Encryption {
    /// Reads recipients (`age1…`); at least one.
    pub fn recipients<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Result<Self> {
        let recipients = texts
            .into_iter()
            .map(|text| {
                let text = text.as_ref().trim();
                text.parse::<x25519::Recipient>()
                    .map_err(|why| Error::BadKey { what: format!("recipient {text:?}"), why: why.to_owned() })
            })
            .collect::<Result<Vec<_>>>()?;
        if recipients.is_empty() {
            return Err(Error::BadKey { what: "the list of recipients".to_owned(), why: "it is empty".to_owned() });
        }
        Ok(Self::Recipients(recipients))
    }

    /// True unless encryption is disabled.
    pub fn is_on(&self) -> bool {
        matches!(self, Self::Recipients(_))
    }

    /// The recipients as text, sorted; empty if encryption is disabled.
    pub fn recipient_texts(&self) -> Vec<String> {
        let mut texts = match self {
            Self::Disabled => Vec::new(),
            Self::Recipients(recipients) => recipients.iter().map(ToString::to_string).collect(),
        };
        texts.sort();
        texts.dedup();
        texts
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("Disabled"),
            Self::Recipients(_) => f.debug_tuple("Recipients").field(&self.recipient_texts()).finish(),
        }
    }
}

/// Secret keys that open objects. Never printed.
#[derive(Clone, Default)]
pub struct Identities(Arc<Vec<x25519::Identity>>);

impl Identities {
    /// None: what a writer has.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads an age identity file, as `age-keygen` writes it.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::parse(&read_secret(path)?, &path.display().to_string())
    }

    /// Reads the text of an identity file; `what` names it in errors, which never show its content.
    pub fn parse(text: &str, what: &str) -> Result<Self> {
        let bad = |why: String| Error::BadKey { what: format!("identity file {what}"), why };
        let mut identities = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let identity = line
                .parse::<x25519::Identity>()
                .map_err(|why| bad(format!("line {} is not an X25519 identity ({why})", index + 1)))?;
            identities.push(identity);
        }
        if identities.is_empty() {
            return Err(bad("it holds no identity".to_owned()));
        }
        Ok(Self(Arc::new(identities)))
    }

    /// True if there is nothing to open objects with.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The public halves.
    pub fn recipients(&self) -> Vec<x25519::Recipient> {
        self.0.iter().map(x25519::Identity::to_public).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.0.iter().map(|identity| identity as &dyn age::Identity)
    }
}

impl From<x25519::Identity> for Identities {
    fn from(identity: x25519::Identity) -> Self {
        Self(Arc::new(vec![identity]))
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}

/// The secret behind every digest of native bytes.
///
/// Digests stand in plain headers, where they let a writer without identity tell an identical re-push from
/// a conflict. Being keyed, they tell nothing to somebody who can only list the archive.
#[derive(Clone, PartialEq, Eq)]
pub struct DigestKey {
    content: [u8; 32],
    header: [u8; 32],
}

impl DigestKey {
    /// A new random key.
    pub fn generate() -> Self {
        Self::from_bytes(rand::random())
    }

    /// Wraps 32 secret bytes.
    pub fn from_bytes(content: [u8; 32]) -> Self {
        Self { content, header: blake3::derive_key(HEADER_DOMAIN, &content) }
    }

    /// Reads the text form, one line.
    pub fn parse(text: &str, what: &str) -> Result<Self> {
        let bad = || Error::BadKey {
            what: format!("digest key {what}"),
            why: format!("expected one line: {DIGEST_KEY_PREFIX} and 64 hexadecimal digits"),
        };
        let digits = text.trim().strip_prefix(DIGEST_KEY_PREFIX).ok_or_else(bad)?.trim_start();
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| bad())?;
        Ok(Self::from_bytes(bytes))
    }

    /// The text form. This is the secret: it belongs into a 0600 file or an encrypted object only.
    pub fn secret_text(&self) -> String {
        format!("{DIGEST_KEY_PREFIX} {}\n", hex::encode(self.content))
    }

    /// Reads a digest key file.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::parse(&read_secret(path)?, &path.display().to_string())
    }

    /// Writes a new file that only its owner can read, durably; an existing file is an error.
    pub fn save(&self, path: &Path) -> Result<()> {
        let failed = |action, source| Error::File { action, path: path.to_owned(), source };
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(|e| failed("create", e))?;
        file.write_all(self.secret_text().as_bytes()).map_err(|e| failed("write", e))?;
        file.sync_all().map_err(|e| failed("sync", e))?;
        match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => crate::local::sync_directory(parent).map_err(|e| failed("sync the directory of", e)),
            None => crate::local::sync_directory(Path::new(".")).map_err(|e| failed("sync the directory of", e)),
        }
    }

    /// Keyed digest of native bytes.
    pub fn digest(&self, bytes: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.content, bytes).as_bytes()
    }

    /// A public value that tells whether a digest key belongs to an archive.
    pub fn check_value(&self) -> String {
        hex::encode(self.digest(DIGEST_KEY_CHECK))
    }

    /// Begins the digest over the native bytes of an object.
    pub(crate) fn hasher(&self, kind: Kind) -> blake3::Hasher {
        if kind.has_public_digest() { blake3::Hasher::new() } else { blake3::Hasher::new_keyed(&self.content) }
    }

    /// Digest over the facts line of a header, as repeated inside the payload.
    pub(crate) fn header_digest(&self, kind: Kind, line: &[u8]) -> [u8; 32] {
        if kind.has_public_digest() {
            blake3::derive_key(HEADER_DOMAIN, line)
        } else {
            *blake3::keyed_hash(&self.header, line).as_bytes()
        }
    }
}

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestKey(secret)")
    }
}

/// All keys of an open archive.
#[derive(Debug, Clone)]
pub struct Keys {
    /// How objects are written.
    pub encryption: Encryption,
    /// What opens them; empty for a process that only writes.
    pub identities: Identities,
    /// The key of all digests.
    pub digest_key: DigestKey,
}

fn read_secret(path: &Path) -> Result<String> {
    let failed = |source| Error::File { action: "read", path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    let read = file.take(limits::MAX_KEY_FILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if read as u64 > limits::MAX_KEY_FILE_BYTES {
        return Err(Error::BadKey { what: format!("key file {}", path.display()), why: "it is too large".to_owned() });
    }
    Ok(text)
}
