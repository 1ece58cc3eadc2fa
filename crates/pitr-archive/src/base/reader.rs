//! Gives a base back.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use pitr_core::ports::{BaseReader, PartInfo, PartTarget};
use pitr_core::{BaseId, PortError};
use tokio::task::JoinHandle;

use super::compress::FrameDecoder;
use super::deliver::{deliver, differing};
use super::fetch::FetchedPack;
use super::index::Line;
use super::learn::read_packs;
use super::limits::{FETCHES, SMALL_PART};
use super::manifest::Contents;
use super::pack::PackList;
use super::window::{Want, Window, Windows, is_file};
use crate::blocking::in_place;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::objects::Objects;
use crate::source::SourceArchive;

impl BaseReader for SourceArchive {
    async fn pour<T: PartTarget>(
        &self,
        base: &BaseId,
        wanted: &(dyn Fn(&PartInfo) -> bool + Sync),
        into: &T,
    ) -> std::result::Result<(), PortError> {
        let base = OpenBase::open(self, base).await?;
        let mut windows = base.windows();
        while let Some(window) = windows.next(wanted).await? {
            base.pour_window(&window, into).await?;
        }
        Ok(())
    }

    async fn small_part(&self, base: &BaseId, path: &str) -> std::result::Result<Option<Bytes>, PortError> {
        let base = OpenBase::open(self, base).await?;
        Ok(base.small_part(path).await?)
    }
}

/// A base whose manifest and list of packs have been read and checked.
#[derive(Debug)]
pub(crate) struct OpenBase<'a> {
    pub(crate) objects: &'a Objects,
    layout: &'a Layout,
    pub(crate) base: BaseId,
    pub(crate) contents: Contents,
    packs: PackList,
}

impl<'a> OpenBase<'a> {
    /// Reads what must be known of a base before anything else.
    pub(crate) async fn open(source: &'a SourceArchive, base: &BaseId) -> Result<Self> {
        let (objects, layout) = (source.objects(), source.layout());
        let key = layout.manifest(base);
        let Some(manifest) = objects.get(&key).await? else {
            return Err(Error::NoBase { base: base.to_string(), of: source.name().to_string() });
        };
        let contents: Contents = serde_json::from_slice(&manifest.raw)
            .map_err(|e| Error::corrupt(&key, format!("payload of the manifest: {e}")))?;
        let key = layout.base_packs(base);
        let missing = || Error::Missing { key: key.clone(), base: base.to_string() };
        let packs = read_packs(objects, &key).await?.ok_or_else(missing)?;
        let text = serde_json::to_vec(&packs).map_err(|e| Error::internal(&key, e))?;
        if hex::encode(objects.digest(&text)) != contents.packs {
            return Err(Error::corrupt(&key, "it is not the list that the manifest of the base was written with"));
        }
        Ok(Self { objects, layout, base: base.clone(), contents, packs })
    }

    /// Its index, from the beginning.
    pub(crate) fn windows(&self) -> Windows<'_> {
        Windows::new(self.objects, self.layout, &self.base, &self.contents)
    }

    /// Begins to read a pack in the background.
    pub(crate) fn fetch(&self, number: u32) -> Result<JoinHandle<Result<FetchedPack>>> {
        let unknown = || format!("pack {number} is not in the list of base {}", self.base);
        let name = self.packs.get(number);
        let name = name.ok_or_else(|| Error::corrupt(&self.layout.base_packs(&self.base), unknown()))?;
        let (objects, key, base) = (self.objects.clone(), name.key(self.layout), self.base.clone());
        Ok(tokio::spawn(async move { FetchedPack::fetch(&objects, key, &base).await }))
    }

    /// Delivers one window: begin its parts, bring what differs, end the parts that are complete.
    async fn pour_window<T: PartTarget>(&self, window: &Window, into: &T) -> Result<()> {
        in_place(|| {
            let mut begin = window.parts.iter().filter(|part| part.begins);
            begin.try_for_each(|part| into.begin(&part.info, part.bytes))
        })
        .map_err(Error::Target)?;
        // A few packs are on their way while one is delivered. What the target has already is not fetched.
        let mut ahead: VecDeque<(Vec<Want>, JoinHandle<_>)> = VecDeque::new();
        for group in &window.groups {
            let wants = in_place(|| differing(self.objects, window, &group.wants, into))?;
            if wants.is_empty() {
                continue;
            }
            ahead.push_back((wants, self.fetch(group.pack)?));
            if ahead.len() > FETCHES {
                self.pour_next(&mut ahead, window, into).await?;
            }
        }
        while !ahead.is_empty() {
            self.pour_next(&mut ahead, window, into).await?;
        }
        in_place(|| window.parts.iter().filter(|part| part.ends).try_for_each(|part| into.end(&part.info)))
            .map_err(Error::Target)
    }

    async fn pour_next<T: PartTarget>(
        &self,
        ahead: &mut VecDeque<(Vec<Want>, JoinHandle<Result<FetchedPack>>)>,
        window: &Window,
        into: &T,
    ) -> Result<()> {
        let Some((wants, pack)) = ahead.pop_front() else { return Ok(()) };
        let pack = joined(pack, &self.base).await?;
        in_place(|| deliver(self.objects, &pack, window, &wants, into))
    }

    /// The content of one part, in memory.
    async fn small_part(&self, path: &str) -> Result<Option<Bytes>> {
        let mut windows = self.windows();
        while let Some(line) = windows.line().await? {
            if line.info.path == path && is_file(&line.info) {
                return self.content(&line).await.map(Some);
            }
        }
        Ok(None)
    }

    async fn content(&self, line: &Line) -> Result<Bytes> {
        if !line.last || line.bytes > SMALL_PART {
            return Err(Error::TooLarge { key: line.info.path.clone(), bytes: line.bytes, limit: SMALL_PART });
        }
        let mut content = BytesMut::with_capacity(line.bytes as usize);
        let mut decoder = FrameDecoder::new().map_err(|e| Error::internal(&line.info.path, e))?;
        let mut current: Option<(u32, FetchedPack)> = None;
        for chunk in &line.chunks {
            let pack = match current.take() {
                Some((number, pack)) if number == chunk.pack => pack,
                _ => joined(self.fetch(chunk.pack)?, &self.base).await?,
            };
            content.extend_from_slice(pack.chunk(self.objects, &chunk.id, &mut decoder)?);
            current = Some((chunk.pack, pack));
        }
        Ok(content.freeze())
    }
}

/// The result of a background read.
pub(crate) async fn joined(fetch: JoinHandle<Result<FetchedPack>>, base: &BaseId) -> Result<FetchedPack> {
    fetch.await.map_err(|e| Error::internal(base.as_str(), e))?
}
