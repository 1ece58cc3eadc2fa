//! The backup manifest against what arrived, in constant memory.
//!
//! The server writes one line per file, with size and CRC32C of what it sent. A database may have millions of
//! files, so neither side is kept as a list: each is summed up in a [`Tally`], file by file, in any order. The two
//! sums agree if and only if (up to a chance of 2^-64) the same files with the same bytes are on both sides, each as
//! often as on the other.

use std::hash::{DefaultHasher, Hasher};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::limits::MAX_MANIFEST_LINE;

/// A set of files, summed up: equal for equal sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Number of files.
    pub files: u64,
    /// Sum of their sizes.
    pub bytes: u64,
    sum: u64,
}

impl Tally {
    /// Adds a file by its path in the data directory.
    pub fn add(&mut self, path: &[u8], bytes: u64, crc32c: u32) {
        let mut hasher = DefaultHasher::new();
        hasher.write(path);
        hasher.write_u64(bytes);
        hasher.write_u32(crc32c);
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.sum = self.sum.wrapping_add(hasher.finish());
    }
}

/// Reads a manifest as it arrives.
#[derive(Debug)]
pub struct ManifestReader {
    line: Vec<u8>,
    listed: Tally,
    /// Digest of all lines before the one that holds it.
    digest: Sha256,
    expected: Option<String>,
}

impl Default for ManifestReader {
    fn default() -> Self {
        Self { line: Vec::new(), listed: Tally::default(), digest: Sha256::new(), expected: None }
    }
}

/// What we need of a line that describes a file.
#[derive(Deserialize)]
struct FileLine {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: String,
    #[serde(rename = "Checksum")]
    checksum: String,
}

impl ManifestReader {
    /// The next bytes. The error is a sentence about the manifest.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.len() > MAX_MANIFEST_LINE {
                return Err(format!("a line is longer than {MAX_MANIFEST_LINE} bytes"));
            }
            if self.line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.take_line(&line)?;
            }
        }
        Ok(())
    }

    /// What the manifest lists, once it is complete and its own checksum is right.
    pub fn finish(self) -> Result<Tally, String> {
        let expected = self.expected.ok_or("it has no checksum of its own")?;
        let found: String = self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if !self.line.is_empty() || found != expected {
            return Err(format!("its own checksum is {expected}, its bytes give {found}"));
        }
        Ok(self.listed)
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), String> {
        if self.expected.is_some() {
            return Err("something follows its checksum".to_owned());
        }
        if let Some(rest) = line.strip_prefix(b"\"Manifest-Checksum\": \"") {
            let digits = rest.split(|byte| *byte == b'"').next().unwrap_or_default();
            self.expected = Some(String::from_utf8_lossy(digits).into_owned());
            return Ok(());
        }
        self.digest.update(line);
        let body = line.trim_ascii();
        let body = body.strip_suffix(b",").unwrap_or(body);
        if body.starts_with(b"{ \"Path\"") || body.starts_with(b"{ \"Encoded-Path\"") {
            self.take_file(body).map_err(|what| format!("{what} in line {:?}", String::from_utf8_lossy(body)))?;
        }
        Ok(())
    }

    fn take_file(&mut self, body: &[u8]) -> Result<(), String> {
        let file: FileLine = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if file.algorithm != "CRC32C" {
            return Err(format!("unexpected algorithm {}", file.algorithm));
        }
        let crc =
            hex(&file.checksum).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).ok_or("a malformed checksum")?;
        let path = match (file.path, file.encoded_path) {
            (Some(path), None) => path.into_bytes(),
            (None, Some(encoded)) => hex(&encoded).ok_or("a malformed path")?,
            _ => return Err("one path expected".to_owned()),
        };
        // The server prints the bytes of its integer in the order of its memory: little-endian on all that matter.
        self.listed.add(&path, file.size, u32::from_le_bytes(crc));
        Ok(())
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    // Two hexadecimal digits always fit.
    pairs.iter().map(|[high, low]| Some((digit(*high)? * 16 + digit(*low)?) as u8)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Shape and spacing as PostgreSQL 15.18 writes it; the files are ours.
    fn manifest(files: &str) -> String {
        let head = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{files}],\n\"WAL-Ranges\": [\n{{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }}\n],\n"
        );
        let digest: String = Sha256::digest(head.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{head}\"Manifest-Checksum\": \"{digest}\"}}\n")
    }

    const TWO: &str = "{ \"Path\": \"backup_label\", \"Size\": 5, \"Last-Modified\": \"2026-01-01 00:00:00 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"01020304\" },\n\
        { \"Encoded-Path\": \"6261\", \"Size\": 7, \"Last-Modified\": \"2026-01-01 00:00:00 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00000000\" }\n";

    fn read(text: &str, piece: usize) -> Result<Tally, String> {
        let mut reader = ManifestReader::default();
        text.as_bytes().chunks(piece).try_for_each(|bytes| reader.push(bytes))?;
        reader.finish()
    }

    #[test]
    fn the_same_files_in_any_order_give_the_same_tally() {
        let mut arrived = Tally::default();
        arrived.add(b"ba", 7, 0);
        arrived.add(b"backup_label", 5, 0x0403_0201);
        for piece in [1, 7, 4096] {
            assert_eq!(read(&manifest(TWO), piece).unwrap(), arrived, "pieces of {piece}");
        }
        let mut other = arrived;
        other.add(b"x", 0, 0);
        assert_ne!(other, arrived);
    }

    #[test]
    fn a_changed_byte_is_found() {
        let text = manifest(TWO);
        assert!(read(&text.replace("\"Size\": 5", "\"Size\": 6"), 100).unwrap_err().contains("its own checksum"));
        assert!(read(text.trim_end(), 100).is_err());
        assert!(read(&format!("{text}x\n"), 100).unwrap_err().contains("follows"));
        assert!(read(&manifest(&TWO.replace("CRC32C", "SHA256")), 100).unwrap_err().contains("algorithm"));
        assert!(read("", 1).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(text in "(\\{ \"Path\"|\"Manifest-Checksum\": \"|[\\PC\n]){0,30}") {
            let _ = read(&text, 7);
        }
    }
}
