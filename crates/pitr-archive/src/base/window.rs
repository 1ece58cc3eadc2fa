//! Reads the index of a base in windows: a bounded number of chunk references at a time, grouped by pack.

use std::collections::HashMap;

use bytes::Bytes;
use pitr_core::BaseId;
use pitr_core::ports::{PartInfo, PartKind};

use super::chunk::ChunkId;
use super::index::Line;
use super::limits::WINDOW;
use super::manifest::Contents;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::objects::Objects;

/// A stretch of the index.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Parts with content in this window, and parts without content.
    pub(crate) parts: Vec<WindowPart>,
    /// What is needed from each pack, sorted by pack.
    pub(crate) groups: Vec<Group>,
}

/// A part as far as it lies in a window.
#[derive(Debug)]
pub(crate) struct WindowPart {
    pub(crate) info: PartInfo,
    /// Length of the whole part.
    pub(crate) bytes: u64,
    /// True if the part begins in this window.
    pub(crate) begins: bool,
    /// True if the part ends in this window.
    pub(crate) ends: bool,
}

/// All that a window needs from one pack, sorted by chunk.
#[derive(Debug)]
pub(crate) struct Group {
    /// Number of the pack in the base.
    pub(crate) pack: u32,
    pub(crate) wants: Vec<Want>,
}

/// One place of a part that a chunk goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Want {
    pub(crate) id: ChunkId,
    pub(crate) raw: u32,
    /// Place of the part in the window.
    pub(crate) part: u32,
    pub(crate) offset: u64,
}

/// Goes through the index of one base, from object to object.
#[derive(Debug)]
pub(crate) struct Windows<'a> {
    objects: &'a Objects,
    layout: &'a Layout,
    base: &'a BaseId,
    contents: &'a Contents,
    long_parts: HashMap<u64, u64>,
    /// Number of the next index object.
    next: usize,
    /// Index objects that could not be read are left out and noted here, if the caller asked for it.
    skipped: Option<Vec<(String, Error)>>,
    lines: Lines,
}

/// The lines of the current index object that are still to come.
#[derive(Debug, Default)]
struct Lines {
    key: String,
    text: Bytes,
}

impl<'a> Windows<'a> {
    /// From the beginning of the index; a damaged index object is an error.
    pub(crate) fn new(objects: &'a Objects, layout: &'a Layout, base: &'a BaseId, contents: &'a Contents) -> Self {
        let long_parts = contents.long_parts.iter().copied().collect();
        Self { objects, layout, base, contents, long_parts, next: 0, skipped: None, lines: Lines::default() }
    }

    /// Goes on after a damaged index object, and collects what was wrong.
    pub(crate) fn tolerant(mut self) -> Self {
        self.skipped = Some(Vec::new());
        self
    }

    /// Index objects that were left out.
    pub(crate) fn skipped(self) -> Vec<(String, Error)> {
        self.skipped.unwrap_or_default()
    }

    /// The next window with parts for which `wanted` is true; `None` at the end of the index.
    pub(crate) async fn next(&mut self, wanted: &(dyn Fn(&PartInfo) -> bool + Sync)) -> Result<Option<Window>> {
        let mut collector = Collector::default();
        // The last line may exceed the size, by the chunks of one line at most.
        while collector.size < WINDOW {
            let Some(line) = self.line().await? else { break };
            if wanted(&line.info) {
                let bytes = self.part_bytes(&line)?;
                collector.add(line, bytes);
            }
        }
        Ok((!collector.window.parts.is_empty()).then(|| collector.finish()))
    }

    /// The next line of the index.
    pub(crate) async fn line(&mut self) -> Result<Option<Line>> {
        loop {
            if let Some(line) = self.lines.next()? {
                return Ok(Some(line));
            }
            let Some(expected) = self.contents.index.get(self.next) else { return Ok(None) };
            let key = self.layout.base_index(self.base, self.next);
            self.next += 1;
            match (self.read(&key, expected.bytes, &expected.digest).await, &mut self.skipped) {
                (Ok(text), _) => self.lines = Lines { key, text },
                (Err(error @ (Error::Corrupt { .. } | Error::Missing { .. })), Some(skipped)) => {
                    skipped.push((key, error))
                }
                (Err(error), _) => return Err(error),
            }
        }
    }

    async fn read(&self, key: &str, bytes: u64, digest: &str) -> Result<Bytes> {
        let missing = || Error::Missing { key: key.to_owned(), base: self.base.to_string() };
        let raw = self.objects.get(key).await?.ok_or_else(missing)?.raw;
        if raw.len() as u64 != bytes || hex::encode(self.objects.digest(&raw)) != digest {
            return Err(Error::corrupt(key, "its content is not what the manifest of the base says"));
        }
        Ok(raw)
    }

    /// Length of the part that a line belongs to.
    fn part_bytes(&self, line: &Line) -> Result<u64> {
        let known = match self.long_parts.get(&line.part) {
            Some(bytes) => Some(*bytes),
            None => (line.at == 0 && line.last).then_some(line.bytes),
        };
        let what = || format!("part {} goes on, and the manifest does not know its length", line.part);
        known.filter(|bytes| line.end() <= *bytes).ok_or_else(|| Error::corrupt(&self.lines.key, what()))
    }
}

impl Lines {
    fn next(&mut self) -> Result<Option<Line>> {
        if self.text.is_empty() {
            return Ok(None);
        }
        let end = self.text.iter().position(|byte| *byte == b'\n').unwrap_or(self.text.len());
        let line = self.text.split_to(end);
        if !self.text.is_empty() {
            self.text = self.text.slice(1..);
        }
        Line::parse(&self.key, &line).map(Some)
    }
}

/// Puts lines together to a window.
#[derive(Default)]
struct Collector {
    window: Window,
    /// Number of a part -> its place in the window.
    places: HashMap<u64, usize>,
    wants: Vec<(u32, Want)>,
    /// Parts and chunk references so far.
    size: usize,
}

impl Collector {
    fn add(&mut self, line: Line, bytes: u64) {
        let place = *self.places.entry(line.part).or_insert_with(|| {
            self.window.parts.push(WindowPart { info: line.info, bytes, begins: false, ends: false });
            self.window.parts.len() - 1
        });
        if let Some(part) = self.window.parts.get_mut(place) {
            part.begins |= line.at == 0;
            part.ends |= line.last;
        }
        let mut offset = line.at;
        for chunk in &line.chunks {
            self.wants.push((chunk.pack, Want { id: chunk.id, raw: chunk.raw, part: place as u32, offset }));
            offset += u64::from(chunk.raw);
        }
        self.size += 1 + line.chunks.len();
    }

    fn finish(mut self) -> Window {
        self.wants.sort_unstable();
        for (pack, want) in self.wants {
            match self.window.groups.last_mut() {
                Some(group) if group.pack == pack => group.wants.push(want),
                _ => self.window.groups.push(Group { pack, wants: vec![want] }),
            }
        }
        self.window
    }
}

/// True for a part that has content of its own.
pub(crate) fn is_file(info: &PartInfo) -> bool {
    matches!(info.kind, PartKind::File(_))
}
