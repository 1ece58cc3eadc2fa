//! Harm done to the objects of an archive in a directory, and undone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// What can be done to one object.
#[derive(Debug, Clone, Copy)]
pub enum Harm {
    FirstLine,
    FactsLine,
    CheckLine,
    Payload,
    Middle,
    LastByte,
    Truncate,
    Append,
}

/// All of it.
pub const HARMS: [Harm; 8] = [
    Harm::FirstLine,
    Harm::FactsLine,
    Harm::CheckLine,
    Harm::Payload,
    Harm::Middle,
    Harm::LastByte,
    Harm::Truncate,
    Harm::Append,
];

impl Harm {
    /// Does it to the bytes of an object.
    pub fn apply(self, bytes: &mut Vec<u8>) -> Result<()> {
        let lines: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'\n').take(3).collect();
        let &[first, facts, check] = lines.as_slice() else { bail!("an object without header") };
        let at = match self {
            Self::FirstLine => first - 1,
            Self::FactsLine => (first + facts) / 2,
            Self::CheckLine => (facts + check) / 2,
            Self::Payload => check + 1,
            Self::Middle => (check + 1 + bytes.len()) / 2,
            Self::LastByte => bytes.len() - 1,
            Self::Truncate => {
                bytes.pop();
                return Ok(());
            }
            Self::Append => {
                bytes.push(0);
                return Ok(());
            }
        };
        bytes[at] ^= 1;
        Ok(())
    }
}

/// Puts an object back as it was.
pub struct Undo {
    /// Where it is.
    pub path: PathBuf,
    /// What it held.
    pub bytes: Vec<u8>,
}

impl Undo {
    /// Remembers the object as it is now.
    pub fn of(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { path: path.to_owned(), bytes })
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        write_over(&self.path, &self.bytes).expect("an object could not be put back");
    }
}

/// Objects may be read-only, and root must not become their owner.
pub fn write_over(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = fs::metadata(path.parent().context("no directory")?)?;
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(std::os::unix::fs::chown(path, Some(dir.uid()), Some(dir.gid()))?)
}

/// True if the file has the text anywhere in its bytes.
pub fn holds(path: &Path, text: &str) -> bool {
    let bytes = fs::read(path).unwrap_or_default();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Every file below a directory.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    found.sort();
    Ok(found)
}

/// The objects by the kind that their place tells.
pub fn kinds(archive: &Path) -> Result<BTreeMap<&'static str, Vec<String>>> {
    let mut kinds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for path in files(archive)? {
        let key = path.strip_prefix(archive)?.to_string_lossy().into_owned();
        let kind = match key.split('/').collect::<Vec<_>>().as_slice() {
            ["archive"] => "archive",
            ["keys", ..] => "digest_key",
            ["s", _, "lineage", ..] => "lineage",
            ["s", _, "log", ..] => "segment",
            ["s", _, "file", ..] => "file",
            ["s", _, "tail", ..] => "tail",
            ["s", _, "rollup", ..] => "rollup",
            ["s", _, "pack", ..] => "pack",
            ["s", _, "base", _, "index", _] => "base_index",
            ["s", _, "base", _, "packs"] => "base_packs",
            ["s", _, "base", _, "manifest"] => "manifest",
            _ => bail!("an object of unknown kind: {key}"),
        };
        kinds.entry(kind).or_default().push(key);
    }
    Ok(kinds)
}
