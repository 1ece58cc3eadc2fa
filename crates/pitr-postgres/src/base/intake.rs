//! The way of a backup's bytes: out of the archives, past the checks, into the sink.

use std::collections::BTreeSet;

use bytes::Bytes;
use pitr_core::PortError;
use pitr_core::ports::{Chunking, PartInfo, PartKind, PartSink, PartWriter};

use super::manifest::{ManifestReader, Tally};
use super::pages::PageCheck;
use super::tar::{Entry, EntryKind, TarEvent, TarReader};
use super::{BackupLabel, BaseError, DamagedPage, TablespaceMap};
use crate::Lsn;
use crate::error::Error;
use crate::limits::{MAX_DAMAGED_PAGES, MAX_LABEL};
use crate::replication::BackupEvent;

/// Where damaged pages are looked for; `None` if the server has no page checksums.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageRules {
    /// Pages changed from here on are replaced by the log.
    pub start: Lsn,
    /// Pages after which a relation continues in another file.
    pub file_pages: u32,
}

/// Takes the events of a backup in.
pub(super) struct Intake<'a, S: PartSink> {
    sink: &'a S,
    pages: Option<PageRules>,
    /// Tablespaces that are directories of the data directory.
    in_place: BTreeSet<u32>,
    source: Source,
    file: Option<OpenFile<S::Part>>,
    manifest: ManifestReader,
    arrived: Tally,
    found: Found,
}

/// What is arriving.
enum Source {
    Nothing,
    Archive { tablespace: Option<u32>, tar: TarReader },
    Manifest,
}

/// What was found on the way.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub label: Option<BackupLabel>,
    pub tablespaces: TablespaceMap,
    pub damaged: Vec<DamagedPage>,
    pub damaged_count: u64,
    pub files: u64,
    pub bytes: u64,
}

/// A file whose content is arriving.
struct OpenFile<P> {
    part: P,
    /// Path in the data directory, as in the manifest.
    path: String,
    bytes: u64,
    crc: u32,
    pages: Option<PageCheck>,
    /// The content, of the few files that we must understand ourselves.
    kept: Option<Vec<u8>>,
}

impl<'a, S: PartSink> Intake<'a, S> {
    pub(super) fn new(sink: &'a S, pages: Option<PageRules>, in_place: BTreeSet<u32>) -> Self {
        Self {
            sink,
            pages,
            in_place,
            source: Source::Nothing,
            file: None,
            manifest: ManifestReader::default(),
            arrived: Tally::default(),
            found: Found::default(),
        }
    }

    /// Bytes of file content so far.
    pub(super) fn bytes(&self) -> u64 {
        self.arrived.bytes + self.file.as_ref().map_or(0, |file| file.bytes)
    }

    /// Takes one event; the end is the caller's.
    pub(super) async fn take(&mut self, event: BackupEvent) -> Result<(), Error> {
        match event {
            BackupEvent::Archive(tablespace) => {
                self.end_source().await?;
                self.source = Source::Archive { tablespace, tar: TarReader::default() };
            }
            BackupEvent::Manifest => {
                self.end_source().await?;
                self.source = Source::Manifest;
                self.open(MANIFEST.to_owned(), MANIFEST.to_owned(), None).await?;
            }
            BackupEvent::Data(bytes) => self.data(bytes).await?,
            BackupEvent::End(_) => self.end_source().await?,
        }
        Ok(())
    }

    /// Compares what arrived with what the manifest says was sent.
    pub(super) fn finish(self) -> Result<Found, Error> {
        let listed = self.manifest.finish().map_err(BaseError::Manifest)?;
        if listed != self.arrived {
            return Err(BaseError::NotAsSent { listed, arrived: self.arrived }.into());
        }
        Ok(Found { files: self.arrived.files, bytes: self.arrived.bytes, ..self.found })
    }

    async fn end_source(&mut self) -> Result<(), Error> {
        match std::mem::replace(&mut self.source, Source::Nothing) {
            Source::Nothing => Ok(()),
            Source::Archive { tar, .. } => Ok(tar.finish().map_err(BaseError::Tar)?),
            Source::Manifest => self.close(false).await,
        }
    }

    async fn data(&mut self, bytes: Bytes) -> Result<(), Error> {
        match &mut self.source {
            Source::Archive { tar, .. } => tar.push(bytes),
            Source::Manifest => {
                self.manifest.push(&bytes).map_err(BaseError::Manifest)?;
                return self.write(&bytes).await;
            }
            Source::Nothing => return Err(BaseError::Unexpected("content without an archive").into()),
        }
        while let Some((event, tablespace)) = self.next_entry()? {
            match event {
                TarEvent::Entry(entry) => self.entry(entry, tablespace).await?,
                TarEvent::Data(data) => self.write(&data).await?,
                TarEvent::End => self.close(true).await?,
            }
        }
        Ok(())
    }

    fn next_entry(&mut self) -> Result<Option<(TarEvent, Option<u32>)>, BaseError> {
        let Source::Archive { tablespace, tar } = &mut self.source else { return Ok(None) };
        Ok(tar.next()?.map(|event| (event, *tablespace)))
    }

    async fn entry(&mut self, entry: Entry, tablespace: Option<u32>) -> Result<(), Error> {
        let (part, path) = match tablespace {
            None => (format!("base/{}", entry.path), entry.path),
            Some(oid) if self.in_place.contains(&oid) => {
                let path = format!("pg_tblspc/{oid}/{}", entry.path);
                (format!("base/{path}"), path)
            }
            Some(oid) => (format!("ts/{oid}/{}", entry.path), format!("pg_tblspc/{oid}/{}", entry.path)),
        };
        match entry.kind {
            EntryKind::File(_) => self.open(part, path, Some(entry.mode)).await,
            EntryKind::Directory => {
                let info = PartInfo { path: part, kind: PartKind::Directory, mode: Some(entry.mode) };
                self.sink.open(info).await?;
                Ok(())
            }
        }
    }

    async fn open(&mut self, part: String, path: String, mode: Option<u32>) -> Result<(), Error> {
        let info = PartInfo { path: part, kind: PartKind::File(Chunking::Fixed), mode };
        let kept = matches!(path.as_str(), BackupLabel::FILE | TablespaceMap::FILE).then(Vec::new);
        let pages = self.pages.and_then(|rules| PageCheck::of_file(&path, rules.start, rules.file_pages));
        let part = self.sink.open(info).await?;
        self.file = Some(OpenFile { part, path, bytes: 0, crc: 0, pages, kept });
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let file = self.file.as_mut().ok_or(BaseError::Unexpected("content without a file"))?;
        file.bytes += bytes.len() as u64;
        file.crc = crc32c::crc32c_append(file.crc, bytes);
        if let Some(pages) = &mut file.pages {
            pages.push(bytes);
        }
        if let Some(kept) = &mut file.kept {
            if kept.len() + bytes.len() > MAX_LABEL {
                return Err(BaseError::Unexpected("a backup_label or tablespace_map of many megabytes").into());
            }
            kept.extend_from_slice(bytes);
        }
        file.part.write(bytes).await.map_err(Error::Port)
    }

    async fn close(&mut self, listed: bool) -> Result<(), Error> {
        let file = self.file.take().ok_or(BaseError::Unexpected("the end of no file"))?;
        let stored = file.part.finish().await?;
        if stored != file.bytes {
            return Err(BaseError::SinkLost { path: file.path, sent: file.bytes, stored }.into());
        }
        if listed {
            self.arrived.add(file.path.as_bytes(), file.bytes, file.crc);
        }
        for block in file.pages.map(PageCheck::finish).unwrap_or_default() {
            self.found.damaged_count += 1;
            if self.found.damaged.len() < MAX_DAMAGED_PAGES {
                self.found.damaged.push(DamagedPage { path: file.path.clone(), block });
            }
        }
        if let Some(kept) = file.kept {
            self.understand(&file.path, &kept)?;
        }
        Ok(())
    }

    fn understand(&mut self, path: &str, content: &[u8]) -> Result<(), BaseError> {
        let text = String::from_utf8_lossy(content);
        if path == BackupLabel::FILE {
            let label = BackupLabel::parse(&text).ok_or(BaseError::Unexpected("a backup_label that is none"))?;
            self.found.label = Some(label);
        } else {
            self.found.tablespaces =
                TablespaceMap::parse(&text).ok_or(BaseError::Unexpected("a tablespace_map that is none"))?;
        }
        Ok(())
    }
}

/// Path of the manifest in a base and in the data directory.
pub(crate) const MANIFEST: &str = "backup_manifest";

impl From<PortError> for Error {
    fn from(error: PortError) -> Self {
        Self::Port(error)
    }
}
