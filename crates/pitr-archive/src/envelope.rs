//! The envelope: one object as bytes. Pure, no I/O.
//!
//! ```text
//! pitr1 00000512\n              length of the plain header, this line included
//! {"format":1,"kind":…}\n       what it is: the facts line
//! {"header_digest":…}\n         what corruption of the object would change: the check line
//! age( zstd( … ) )              or zstd( … ) where encryption is off
//! ```
//! The first zstd frame of the payload is a skippable one that holds a keyed digest of the facts line, so
//! whoever can decrypt detects a header that was altered, swapped or renamed.

use std::io::{BufRead, BufReader, Read, Write};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::error::{Error, Result};
use crate::keys::{DigestKey, Encryption, Identities};
use crate::limits;
use crate::objects::{ArchiveId, Kind, Payload};

const MAGIC: &[u8] = b"pitr1 ";
const LENGTH_DIGITS: usize = 8;
/// Length of the first line in bytes.
const FIRST_LINE: usize = MAGIC.len() + LENGTH_DIGITS + 1;
/// A zstd skippable frame: magic number, length of its content, the digest.
const FRAME_MAGIC: [u8; 4] = 0x184D_2A50_u32.to_le_bytes();
const FRAME_HEAD: usize = 8;
const DIGEST: usize = 32;

/// The plain header of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// What the object is.
    pub kind: Kind,
    /// The archive it belongs to.
    pub archive: ArchiveId,
    /// Its own key below the root of the archive.
    pub key: String,
    /// Whether the payload is encrypted.
    pub encrypted: bool,
    /// Length of the native content in bytes.
    pub raw_bytes: u64,
    /// Keyed digest of the native content.
    pub raw_digest: [u8; 32],
    /// What the kind adds.
    pub facts: serde_json::Value,
    /// Length of the plain header in bytes.
    pub header_bytes: u64,
    /// Length of the payload as stored, in bytes.
    pub stored_bytes: u64,
    /// Digest of the payload as stored; not keyed.
    pub stored_digest: [u8; 32],
    /// The facts line, as the payload's own copy of its digest covers it.
    line: Bytes,
}

impl Header {
    /// The kind's own facts.
    pub fn facts<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.facts).map_err(|e| Error::corrupt(&self.key, format!("facts of its header: {e}")))
    }

    /// Length of the whole object in bytes.
    pub fn object_bytes(&self) -> u64 {
        self.header_bytes + self.stored_bytes
    }
}

/// Why bytes are not the header of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// What differs from the format.
    Differs(String),
    /// The format version, later than what this program reads.
    Newer(u32),
}

impl Damage {
    /// As an error of the object `key`.
    pub fn of(self, key: &str) -> Error {
        match self {
            Self::Differs(what) => Error::corrupt(key, what),
            Self::Newer(found) => Error::Newer { key: key.to_owned(), found },
        }
    }
}

/// Outcome of reading a header from the first bytes of an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Parsed {
    /// The header.
    Whole(Box<Header>),
    /// The header is longer: come back with this many bytes of the object.
    More(usize),
}

#[derive(Serialize, Deserialize)]
struct FactsLine {
    format: u32,
    kind: Kind,
    archive: ArchiveId,
    key: String,
    encrypted: bool,
    raw_bytes: u64,
    raw_digest: String,
    facts: serde_json::Value,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// Frozen in all format versions, as is the first line.
#[derive(Serialize, Deserialize)]
struct CheckLine {
    header_digest: String,
    stored_bytes: u64,
    stored_digest: String,
}

/// Reads the plain header from the first bytes of an object. Never panics, whatever the bytes.
pub fn parse_header(bytes: &[u8]) -> std::result::Result<Parsed, Damage> {
    let differs = |what: &str| Damage::Differs(what.to_owned());
    let Some(first) = bytes.get(..FIRST_LINE) else {
        return if MAGIC.starts_with(bytes.get(..MAGIC.len()).unwrap_or(bytes)) {
            Ok(Parsed::More(FIRST_LINE))
        } else {
            Err(differs("it does not begin as a pitr object does"))
        };
    };
    let length = header_length(first).ok_or_else(|| differs("its first line is not that of a pitr object"))?;
    let Some(header) = bytes.get(..length) else {
        return Ok(Parsed::More(length));
    };
    let lines: Vec<&[u8]> = header.get(FIRST_LINE..).unwrap_or_default().split(|byte| *byte == b'\n').collect();
    let &[facts, check, b""] = lines.as_slice() else {
        return Err(differs("its header has not exactly three lines"));
    };
    let check = parse_check(check)?;
    if check.header_digest != hex::encode(blake3::hash(facts).as_bytes()) {
        return Err(differs("the digest of its header"));
    }
    let stored_digest =
        digest_from_hex(&check.stored_digest).ok_or_else(|| differs("its stored digest is malformed"))?;
    parse_facts(facts).map(|line| {
        Parsed::Whole(Box::new(Header {
            kind: line.0.kind,
            archive: line.0.archive,
            key: line.0.key,
            encrypted: line.0.encrypted,
            raw_bytes: line.0.raw_bytes,
            raw_digest: line.1,
            facts: line.0.facts,
            header_bytes: length as u64,
            stored_bytes: check.stored_bytes,
            stored_digest,
            line: Bytes::copy_from_slice(facts),
        }))
    })
}

fn header_length(first: &[u8]) -> Option<usize> {
    let digits = first.strip_prefix(MAGIC)?.strip_suffix(b"\n")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (FIRST_LINE..=limits::MAX_HEADER_BYTES).contains(&length).then_some(length)
}

/// The check line must be exactly what we would write, so that no flipped bit can hide in its spelling.
fn parse_check(line: &[u8]) -> std::result::Result<CheckLine, Damage> {
    let check: CheckLine = serde_json::from_slice(line)
        .map_err(|_| Damage::Differs("the check line of its header is malformed".into()))?;
    match serde_json::to_vec(&check) {
        Ok(canonical) if canonical == line => Ok(check),
        _ => Err(Damage::Differs("the check line of its header is not in canonical form".into())),
    }
}

fn parse_facts(line: &[u8]) -> std::result::Result<(FactsLine, [u8; 32]), Damage> {
    let malformed = |e: serde_json::Error| Damage::Differs(format!("the facts line of its header is malformed: {e}"));
    let format = serde_json::from_slice::<FormatOnly>(line).map_err(malformed)?.format;
    if format > limits::FORMAT {
        return Err(Damage::Newer(format));
    }
    let facts: FactsLine = serde_json::from_slice(line).map_err(malformed)?;
    let digest = digest_from_hex(&facts.raw_digest)
        .ok_or_else(|| Damage::Differs("the digest of its native content is malformed".into()))?;
    Ok((facts, digest))
}

/// Lower case only: a flipped bit must not turn a digit into its other spelling.
fn digest_from_hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    hex::decode_to_slice(text, &mut digest).ok()?;
    (hex::encode(digest) == text).then_some(digest)
}

/// What an object is, before it is sealed.
#[derive(Debug, Clone)]
pub struct Subject {
    /// What it is.
    pub kind: Kind,
    /// The archive it belongs to.
    pub archive: ArchiveId,
    /// Its key below the root of the archive.
    pub key: String,
    /// What the kind adds.
    pub facts: serde_json::Value,
}

/// A whole object, ready to be stored and already checked.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Its header.
    pub header: Header,
    /// Its bytes, in pieces: header first.
    pub parts: Vec<Bytes>,
}

impl Sealed {
    /// The bytes in one piece.
    pub fn to_bytes(&self) -> Bytes {
        self.parts.concat().into()
    }
}

/// Makes the bytes of an object, decodes them again and compares, all in memory.
///
/// With encryption a recipient of this one object, whose identity is dropped here, makes the check possible
/// for a process that has no identity (`docs/decisions/0001-verify-before-upload.md`).
pub fn seal(subject: Subject, payload: Payload, encryption: &Encryption, digests: &DigestKey) -> Result<Sealed> {
    let key = subject.key.clone();
    let io = |e: std::io::Error| Error::internal(&key, e);
    let content = codec::prepare(payload, subject.kind, digests).map_err(io)?;
    if content.raw_bytes > limits::MAX_RAW_BYTES {
        return Err(Error::TooLarge { key, bytes: content.raw_bytes, limit: limits::MAX_RAW_BYTES });
    }
    let line = FactsLine {
        format: limits::FORMAT,
        kind: subject.kind,
        archive: subject.archive,
        key: subject.key,
        encrypted: encryption.is_on(),
        raw_bytes: content.raw_bytes,
        raw_digest: hex::encode(content.raw_digest),
        facts: subject.facts,
    };
    let facts_line = serde_json::to_vec(&line).map_err(|e| Error::internal(&key, e))?;
    let mut frames = vec![header_frame(&digests.header_digest(line.kind, &facts_line))];
    frames.extend(content.frames);
    let (stored, proof) = match encryption {
        Encryption::Disabled => (frames.clone(), Identities::none()),
        Encryption::Recipients(recipients) => {
            let once = age::x25519::Identity::generate();
            let sealed = codec::encrypt(&frames, recipients, &once.to_public()).map_err(io)?;
            (sealed, Identities::from(once))
        }
    };
    let head = header_bytes(&facts_line, &stored).map_err(|bytes| Error::TooLarge {
        key: key.clone(),
        bytes: bytes as u64,
        limit: limits::MAX_HEADER_BYTES as u64,
    })?;
    let header = match parse_header(&head) {
        Ok(Parsed::Whole(header)) => *header,
        other => return Err(Error::Unfaithful { key, what: format!("its header reads as {other:?}") }),
    };
    verify(&header, &stored, &proof, &frames).map_err(|e| match e {
        Error::Corrupt { key, what } => Error::Unfaithful { key, what },
        other => other,
    })?;
    let parts = std::iter::once(Bytes::from(head)).chain(stored).collect();
    Ok(Sealed { header, parts })
}

/// The three lines of the plain header; `Err` gives its length where that is beyond the limit.
fn header_bytes(facts_line: &[u8], stored: &[Bytes]) -> std::result::Result<Vec<u8>, usize> {
    let mut digest = blake3::Hasher::new();
    stored.iter().for_each(|part| {
        digest.update(part);
    });
    let check = format!(
        "{{\"header_digest\":\"{}\",\"stored_bytes\":{},\"stored_digest\":\"{}\"}}",
        blake3::hash(facts_line).to_hex(),
        stored.iter().map(Bytes::len).sum::<usize>(),
        digest.finalize().to_hex()
    );
    let length = FIRST_LINE + facts_line.len() + 1 + check.len() + 1;
    if length > limits::MAX_HEADER_BYTES {
        return Err(length);
    }
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(format!("{length:0LENGTH_DIGITS$}\n").as_bytes());
    bytes.extend_from_slice(facts_line);
    bytes.push(b'\n');
    bytes.extend_from_slice(check.as_bytes());
    bytes.push(b'\n');
    Ok(bytes)
}

fn header_frame(digest: &[u8; 32]) -> Bytes {
    [&FRAME_MAGIC[..], &(DIGEST as u32).to_le_bytes(), digest].concat().into()
}

/// An object that was opened: everything about it has been checked.
#[derive(Debug, Clone)]
pub struct Object {
    /// Its header.
    pub header: Header,
    /// Its native content.
    pub raw: Bytes,
}

/// Checks and opens the bytes of the object `key`.
pub fn open(
    key: &str,
    archive: Option<&ArchiveId>,
    bytes: &Bytes,
    identities: &Identities,
    digests: &DigestKey,
) -> Result<Object> {
    let (header, payload) = check_stored(key, archive, bytes)?;
    let raw = decode(&header, &[payload], identities, digests, content_buffer(&header))?;
    Ok(Object { header, raw: raw.into() })
}

/// Checks and decrypts the bytes of the object `key`, but leaves the zstd frames of its content as they are.
///
/// Everything is checked but the digest of the native content: whoever decompresses must check that.
pub fn open_frames(
    key: &str,
    archive: Option<&ArchiveId>,
    bytes: &Bytes,
    identities: &Identities,
    digests: &DigestKey,
) -> Result<(Header, Bytes)> {
    let (header, payload) = check_stored(key, archive, bytes)?;
    if !header.encrypted {
        check_header_frame(&header, &mut payload.as_ref(), digests)?;
        let frames = payload.slice(FRAME_HEAD + DIGEST..);
        return Ok((header, frames));
    }
    let parts = [payload];
    let mut plain = decrypted(&header, &parts, identities)?;
    check_header_frame(&header, &mut plain, digests)?;
    let mut frames = Vec::with_capacity(header.stored_bytes as usize);
    plain.read_to_end(&mut frames).map_err(|e| Error::corrupt(key, format!("its encryption: {e}")))?;
    Ok((header, frames.into()))
}

/// Reads the header of a whole object and checks all that can be checked without any key.
pub fn check_stored(key: &str, archive: Option<&ArchiveId>, bytes: &Bytes) -> Result<(Header, Bytes)> {
    let header = match parse_header(bytes).map_err(|damage| damage.of(key))? {
        Parsed::Whole(header) => *header,
        Parsed::More(_) => {
            return Err(Error::corrupt(key, format!("it ends inside its header, at {} bytes", bytes.len())));
        }
    };
    check_place(&header, key, archive)?;
    if header.object_bytes() != bytes.len() as u64 {
        let what = format!("it has {} bytes, its header says {}", bytes.len(), header.object_bytes());
        return Err(Error::corrupt(key, what));
    }
    if header.raw_bytes > limits::MAX_RAW_BYTES {
        return Err(Error::TooLarge { key: key.to_owned(), bytes: header.raw_bytes, limit: limits::MAX_RAW_BYTES });
    }
    let payload = bytes.slice(header.header_bytes as usize..);
    if *blake3::hash(&payload).as_bytes() != header.stored_digest {
        return Err(Error::corrupt(key, "the digest of its payload"));
    }
    Ok((header, payload))
}

/// Checks that a header belongs to this key of this archive.
pub fn check_place(header: &Header, key: &str, archive: Option<&ArchiveId>) -> Result<()> {
    if header.key != key {
        return Err(Error::corrupt(key, format!("it is the object {:?}, under another name", header.key)));
    }
    match archive {
        Some(archive) if header.archive != *archive => {
            Err(Error::corrupt(key, format!("it belongs to archive {}, not {archive}", header.archive)))
        }
        _ => Ok(()),
    }
}

/// The last check before upload: what is stored gives back these very frames, which were decoded when they were made.
fn verify(header: &Header, stored: &[Bytes], proof: &Identities, frames: &[Bytes]) -> Result<()> {
    let mut plain = decrypted(header, stored, proof)?;
    let mut expected = codec::Parts::new(frames);
    let corrupt = |e: std::io::Error| Error::corrupt(&header.key, format!("its payload does not decode: {e}"));
    loop {
        let len = {
            let (found, wanted) = (plain.fill_buf().map_err(corrupt)?, expected.fill_buf().map_err(corrupt)?);
            let len = found.len().min(wanted.len());
            if found.get(..len) != wanted.get(..len) || (len == 0 && found.len() != wanted.len()) {
                return Err(Error::corrupt(&header.key, "it decrypts to other bytes than were encrypted"));
            }
            len
        };
        if len == 0 {
            return Ok(());
        }
        plain.consume(len);
        expected.consume(len);
    }
}

/// Decrypts and decompresses into `sink`, and checks header digest, length and digest of the content.
fn decode<W: Write>(
    header: &Header,
    stored: &[Bytes],
    identities: &Identities,
    digests: &DigestKey,
    sink: W,
) -> Result<W> {
    let mut plain = decrypted(header, stored, identities)?;
    check_header_frame(header, &mut plain, digests)?;
    let mut hasher = digests.hasher(header.kind);
    let (written, sink) = codec::decompress(plain, header.raw_bytes, &mut hasher, sink)
        .map_err(|e| Error::corrupt(&header.key, format!("its payload does not decode: {e}")))?;
    if written != header.raw_bytes {
        let what = format!("it decodes to {written} bytes, its header says {}", header.raw_bytes);
        return Err(Error::corrupt(&header.key, what));
    }
    if *hasher.finalize().as_bytes() != header.raw_digest {
        return Err(Error::corrupt(&header.key, "the digest of its native content"));
    }
    Ok(sink)
}

/// Room for the content, but not on the word of a hostile header alone.
fn content_buffer(header: &Header) -> Vec<u8> {
    Vec::with_capacity(header.raw_bytes.min(limits::MAX_TRUSTED_BYTES) as usize)
}

/// The payload as a stream of zstd frames.
fn decrypted<'a>(header: &Header, stored: &'a [Bytes], identities: &Identities) -> Result<Box<dyn BufRead + 'a>> {
    let stored = codec::Parts::new(stored);
    if !header.encrypted {
        return Ok(Box::new(stored));
    }
    let key = || header.key.clone();
    if identities.is_empty() {
        return Err(Error::NoIdentity { key: key() });
    }
    let damaged = |e: age::DecryptError| Error::corrupt(&header.key, format!("its encryption: {e}"));
    let decryptor = age::Decryptor::new_buffered(stored).map_err(damaged)?;
    let plain = decryptor.decrypt(identities.iter()).map_err(|e| match e {
        age::DecryptError::NoMatchingKeys => Error::WrongIdentity { key: key() },
        other => damaged(other),
    })?;
    Ok(Box::new(BufReader::with_capacity(limits::DECODE_BUFFER_BYTES, plain)))
}

fn check_header_frame(header: &Header, plain: &mut impl Read, digests: &DigestKey) -> Result<()> {
    let mut frame = [0; FRAME_HEAD + DIGEST];
    plain
        .read_exact(&mut frame)
        .map_err(|e| Error::corrupt(&header.key, format!("its payload begins with no digest: {e}")))?;
    if frame[..] != header_frame(&digests.header_digest(header.kind, &header.line))[..] {
        return Err(Error::corrupt(
            &header.key,
            "its header is not the one it was sealed with, or the digest key is another",
        ));
    }
    Ok(())
}
