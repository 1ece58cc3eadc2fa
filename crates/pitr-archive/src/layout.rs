//! Keys: where every object lies. The only place that knows.

use std::fmt;

use pitr_core::{BaseId, InvalidName, LineageId, SegmentName};

/// Longest accepted name of a source or side file, in bytes.
const MAX_NAME: usize = 128;

/// Prefix of the wrapped digest keys.
pub const KEYS: &str = "keys";
/// Prefix of all sources.
pub const SOURCES: &str = "s";

/// What the last part of a strip's key begins with.
const STRIP: &str = "strip-";

/// Name of a source: part of every key, so restricted to safe characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceName(String);

impl SourceName {
    /// Checks and wraps a name.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        let text = text.into();
        check("source name", &text)?;
        Ok(Self(text))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The keys of one source.
///
/// ```
/// # use pitr_archive::layout::{Layout, SourceName};
/// # use pitr_core::{LineageId, SegmentName};
/// let layout = Layout::new(SourceName::new("orders").unwrap());
/// let lineage = LineageId::new("7301-1").unwrap();
/// let name = SegmentName::new("00000001000000AA", "00000001000000AA00000042").unwrap();
/// assert_eq!(layout.segment(&lineage, &name), "s/orders/log/7301-1/00000001000000AA/00000001000000AA00000042");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: String,
}

impl Layout {
    /// The keys of `source`.
    pub fn new(source: SourceName) -> Self {
        Self { root: format!("{SOURCES}/{source}") }
    }

    /// What all keys of the source begin with; without a slash at the end.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Prefix of the lineages.
    pub fn lineages(&self) -> String {
        format!("{}/lineage", self.root)
    }

    /// A lineage: `ORDINAL-LINEAGE`, the ordinal in six digits.
    pub fn lineage(&self, ordinal: u64, id: &LineageId) -> String {
        format!("{}/{ordinal:06}-{id}", self.lineages())
    }

    /// Prefix of the log of all lineages.
    pub fn logs(&self) -> String {
        format!("{}/log", self.root)
    }

    /// Prefix of the log of one lineage.
    pub fn log(&self, lineage: &LineageId) -> String {
        format!("{}/log/{lineage}", self.root)
    }

    /// Prefix of one group of segments.
    pub fn group(&self, lineage: &LineageId, group: &str) -> String {
        format!("{}/{group}", self.log(lineage))
    }

    /// A sealed segment.
    pub fn segment(&self, lineage: &LineageId, name: &SegmentName) -> String {
        format!("{}/{}/{}", self.log(lineage), name.group(), name.leaf())
    }

    /// Prefix of the tails of one lineage.
    pub fn tails(&self, lineage: &LineageId) -> String {
        format!("{}/tail/{lineage}", self.root)
    }

    /// Prefix of the tails of the segments of one group.
    pub fn group_tails(&self, lineage: &LineageId, group: &str) -> String {
        format!("{}/{group}", self.tails(lineage))
    }

    /// Prefix of the tails of one segment.
    pub fn segment_tails(&self, lineage: &LineageId, name: &SegmentName) -> String {
        format!("{}/{}", self.group_tails(lineage, name.group()), name.leaf())
    }

    /// Bytes `from..to` of an open segment, both in sixteen hexadecimal digits.
    pub fn tail(&self, lineage: &LineageId, name: &SegmentName, from: u64, to: u64) -> String {
        format!("{}/{}", self.segment_tails(lineage, name), tail_name(from, to))
    }

    /// A file of tails of an open segment, by a random number.
    pub fn strip(&self, lineage: &LineageId, name: &SegmentName, number: u64) -> String {
        format!("{}/{STRIP}{number:016x}", self.segment_tails(lineage, name))
    }

    /// Prefix of the side files of one namespace (a lineage, or a word of the engine).
    pub fn files(&self, namespace: &str) -> Result<String, InvalidName> {
        check("file namespace", namespace)?;
        Ok(format!("{}/file/{namespace}", self.root))
    }

    /// A side file.
    pub fn file(&self, namespace: &str, name: &str) -> Result<String, InvalidName> {
        check("file name", name)?;
        Ok(format!("{}/{name}", self.files(namespace)?))
    }

    /// Prefix of the recorded gaps.
    pub fn gaps(&self) -> String {
        format!("{}/gap", self.root)
    }

    /// Prefix of the roll-ups of one lineage.
    pub fn rollups(&self, lineage: &LineageId) -> String {
        format!("{}/rollup/{lineage}", self.root)
    }

    /// A roll-up: `GROUP.GENERATION`, the generation in four digits.
    pub fn rollup(&self, lineage: &LineageId, group: &str, generation: u32) -> String {
        format!("{}/{group}.{generation:04}", self.rollups(lineage))
    }

    /// Prefix of the bases.
    pub fn bases(&self) -> String {
        format!("{}/base", self.root)
    }

    /// The manifest of a base.
    pub fn manifest(&self, base: &BaseId) -> String {
        format!("{}/{base}/manifest", self.bases())
    }

    /// The list of the packs that a base refers to.
    pub fn base_packs(&self, base: &BaseId) -> String {
        format!("{}/{base}/packs", self.bases())
    }

    /// One object of the index of a base, counted from 0, in at least five digits.
    pub fn base_index(&self, base: &BaseId, number: usize) -> String {
        format!("{}/{base}/index/{number:05}", self.bases())
    }

    /// A pack, by the base that stored it and its number within that base, in at least five digits.
    pub fn pack(&self, base: &BaseId, sequence: u32) -> String {
        format!("{}/{base}/{sequence:05}", self.packs())
    }

    /// Prefix of the packs.
    pub fn packs(&self) -> String {
        format!("{}/pack", self.root)
    }
}

/// The last part of the key of a tail.
pub(crate) fn tail_name(from: u64, to: u64) -> String {
    format!("{from:016x}-{to:016x}")
}

/// Whether a key is that of a strip.
pub(crate) fn is_strip(key: &str) -> bool {
    leaf(key).starts_with(STRIP)
}

/// The last part of a key.
pub(crate) fn leaf(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

fn check(what: &'static str, text: &str) -> Result<(), InvalidName> {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > MAX_NAME || text.starts_with('.') || !text.chars().all(safe) {
        return Err(InvalidName { what, text: text.to_owned(), max: MAX_NAME });
    }
    Ok(())
}
