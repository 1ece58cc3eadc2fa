//! A base backup over the replication protocol.
//!
//! [`PgBaseBackup`] asks the server for `BASE_BACKUP`, takes the tar archives apart as they arrive, and hands every
//! file to a [`PartSink`]. The parts of a base are:
//!
//! | part | what |
//! |---|---|
//! | `pitr/settings.json` | [`SourceSettings`]: what the restored server must match |
//! | `base/PATH` | a file or directory of the data directory; `base/backup_label` says where recovery begins |
//! | `ts/OID/PATH` | a file or directory of a tablespace outside the data directory; `base/tablespace_map` lists them |
//! | `backup_manifest` | the server's manifest, byte for byte |
//!
//! Nothing of this grows with the database: there is no list of files, neither here nor for the comparison of what
//! arrived with the manifest.

mod intake;
mod label;
pub mod manifest;
pub mod pages;
pub mod tar;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{SubsecRound, Utc};
use pitr_core::ports::{BackupRecord, BaseBackup, Chunking, PartInfo, PartKind, PartSink, PartWriter};
use pitr_core::{Classify, ErrorKind, Facts, PortError};

pub(crate) use self::intake::MANIFEST;
use self::intake::{Found, Intake, PageRules};
pub use self::label::{BackupLabel, SourceSettings, TablespaceMap};
use self::manifest::Tally;
use crate::connect::Settings;
use crate::engine::{Postgres, facts};
use crate::error::Error;
use crate::history::lineage_id;
use crate::limits::RELATION_PAGE;
use crate::replication::{
    BackupEnd, BackupEvent, BackupOptions, BackupStream, ReplicationClient, SystemIdentity, Tablespace,
};
use crate::{PgPosition, SegmentSize, TimelineId};

/// The archive's keyed digest of some bytes.
pub type KeyedDigest = Arc<dyn Fn(&[u8]) -> [u8; 32] + Send + Sync>;

/// Told about every piece that arrived: bytes so far, and the server's estimate of all of them.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// How far a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of files so far.
    pub done: u64,
    /// The server's estimate; the database may grow beyond it.
    pub total: Option<u64>,
}

/// Keys of what is noted of a base, besides those of [`engine::facts`](crate::engine::facts). Stored: only add.
pub mod fact {
    /// `server_version_num`: 150018 is 15.18.
    pub const VERSION_NUM: &str = "server_version_num";
    /// `on` or `off`.
    pub const DATA_CHECKSUMS: &str = "data_checksums";
    /// `primary` or `standby`.
    pub const FROM: &str = "from";
    /// Number of tablespaces outside the data directory.
    pub const TABLESPACES: &str = "tablespaces";
    /// Number of pages with a wrong checksum; absent if the server found none.
    pub const DAMAGED_PAGES: &str = "damaged_pages";
}

/// A base backup to be taken.
pub struct PgBaseBackup {
    settings: Settings,
    options: BackupOptions,
    digest: KeyedDigest,
    progress: OnProgress,
}

/// What a backup found out that is not in its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupReport {
    /// Who was backed up.
    pub identity: SystemIdentity,
    /// Size of its WAL segments.
    pub segment_size: SegmentSize,
    /// Name and content of the history file of its timeline, which the archive must have too; `None` on timeline 1.
    pub history: Option<(String, Bytes)>,
    /// Files, without directories.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Pages with a wrong checksum, as far as the server confirms that there is damage; the first
    /// [`MAX_DAMAGED_PAGES`](crate::limits::MAX_DAMAGED_PAGES).
    pub damaged: Vec<DamagedPage>,
    /// What to tell the user: the base is complete, but as damaged as the server's own files.
    pub warnings: Vec<String>,
}

/// A page whose checksum is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DamagedPage {
    /// File, relative to the data directory.
    pub path: String,
    /// Block number within the relation.
    pub block: u32,
}

impl PgBaseBackup {
    /// A backup of the server at `settings`; `digest` is the archive's own, for the name of the lineage.
    pub fn new(settings: Settings, options: BackupOptions, digest: KeyedDigest) -> Self {
        Self { settings, options, digest, progress: Arc::new(|_| {}) }
    }

    /// Calls `progress` while bytes arrive.
    #[must_use]
    pub fn on_progress(mut self, progress: OnProgress) -> Self {
        self.progress = progress;
        self
    }

    /// Takes the base, and returns with its record what a program wants to print or archive beside it.
    pub async fn run<S: PartSink>(self, into: &S) -> Result<(BackupRecord<PgPosition>, BackupReport), Error> {
        let mut client = ReplicationClient::connect(&self.settings).await?;
        let mut server = Server::ask(&mut client).await?;
        let history = match server.identity.timeline {
            TimelineId::FIRST => None,
            timeline => Some(client.timeline_history(timeline).await?),
        };
        let content = history.as_ref().map(|(_, content)| content.as_ref());
        let lineage =
            lineage_id(server.identity.system_id, server.identity.timeline, content, |bytes| (self.digest)(bytes))?;

        let began = Utc::now().trunc_subsecs(6);
        let stream = client.base_backup(&self.options).await?;
        server.source.in_place_tablespaces = stream.tablespaces.iter().any(Tablespace::is_in_place);
        store_settings(into, &server.source).await?;
        let (found, end) = self.receive(stream, into, &server).await?;
        let complete = Utc::now().trunc_subsecs(6);
        client.close().await;

        let label = found.label.clone().ok_or(BaseError::Unexpected("no backup_label"))?;
        for timeline in [label.timeline, end.timeline] {
            if timeline != server.identity.timeline {
                return Err(BaseError::TimelineChanged { before: server.identity.timeline, after: timeline }.into());
            }
        }
        let record = BackupRecord {
            lineage,
            start: PgPosition::new(label.timeline, label.start),
            consistent: PgPosition::new(end.timeline, end.lsn),
            taken: (began, complete),
            facts: server.facts(&label, &found, &end),
        };
        let warnings = damage_warnings(&found, &end);
        // Without the server's word, what looks damaged was only caught half-written.
        let damaged = if end.damage.is_some() { found.damaged } else { Vec::new() };
        let Server { identity, segment_size, .. } = server;
        let report =
            BackupReport { identity, segment_size, history, files: found.files, bytes: found.bytes, damaged, warnings };
        Ok((record, report))
    }

    async fn receive<S: PartSink>(
        &self,
        mut stream: BackupStream<'_>,
        into: &S,
        server: &Server,
    ) -> Result<(Found, BackupEnd), Error> {
        let total: Option<u64> = stream.tablespaces.iter().map(|tablespace| tablespace.bytes).sum();
        let in_place = stream.tablespaces.iter().filter(|tablespace| tablespace.is_in_place());
        let in_place = in_place.filter_map(|tablespace| tablespace.oid).collect();
        let pages = server.file_pages.map(|file_pages| PageRules { start: stream.start, file_pages });
        let mut intake = Intake::new(into, pages, in_place);
        loop {
            match stream.next().await? {
                BackupEvent::End(end) => {
                    intake.take(BackupEvent::End(end.clone())).await?;
                    return Ok((intake.finish()?, end));
                }
                event => intake.take(event).await?,
            }
            (self.progress)(Progress { done: intake.bytes(), total });
        }
    }
}

impl BaseBackup for PgBaseBackup {
    type Engine = Postgres;

    async fn take<S: PartSink>(self, into: &S) -> Result<BackupRecord<PgPosition>, PortError> {
        self.run(into).await.map(|(record, _)| record).map_err(PortError::new)
    }
}

/// What is asked of a server before a backup.
struct Server {
    identity: SystemIdentity,
    segment_size: SegmentSize,
    data_checksums: bool,
    /// Pages per file of a relation, if its pages have checksums and the size that we can check.
    file_pages: Option<u32>,
    source: SourceSettings,
}

impl Server {
    async fn ask(client: &mut ReplicationClient) -> Result<Self, Error> {
        let identity = client.identify().await?;
        let segment_size = parse_bytes(&client.show("wal_segment_size").await?).and_then(SegmentSize::new);
        let segment_size = segment_size.ok_or(BaseError::Unexpected("an odd wal_segment_size"))?;
        let data_checksums = client.show("data_checksums").await? == "on";
        let our_page = client.show("block_size").await?.parse() == Ok(RELATION_PAGE);
        let file_bytes = parse_bytes(&client.show("segment_size").await?).filter(|_| data_checksums && our_page);
        // Version 15 has tablespaces inside the data directory and leaves them out of a backup without a word.
        if client.major() == 15 && client.show("allow_in_place_tablespaces").await? == "on" {
            return Err(BaseError::InPlaceTablespaces.into());
        }
        let file_pages = file_bytes.and_then(|bytes| u32::try_from(bytes / RELATION_PAGE as u64).ok());
        let mut settings = BTreeMap::new();
        for name in SourceSettings::RECORDED {
            if let Some(value) = client.show_if_visible(name).await? {
                settings.insert(name.to_owned(), value);
            }
        }
        let source = SourceSettings { version_num: client.version_num(), settings, in_place_tablespaces: false };
        Ok(Self { identity, segment_size, data_checksums, file_pages, source })
    }

    fn facts(&self, label: &BackupLabel, found: &Found, end: &BackupEnd) -> Facts {
        let mut facts = Facts::from([
            (facts::SYSTEM_ID.to_owned(), self.identity.system_id.to_string()),
            (facts::SEGMENT_SIZE.to_owned(), self.segment_size.bytes().to_string()),
            (facts::VERSION.to_owned(), (self.source.version_num / 10_000).to_string()),
            (fact::VERSION_NUM.to_owned(), self.source.version_num.to_string()),
            (fact::DATA_CHECKSUMS.to_owned(), if self.data_checksums { "on" } else { "off" }.to_owned()),
            (fact::FROM.to_owned(), if label.from_standby { "standby" } else { "primary" }.to_owned()),
            (fact::TABLESPACES.to_owned(), found.tablespaces.0.len().to_string()),
        ]);
        if end.damage.is_some() {
            facts.insert(fact::DAMAGED_PAGES.to_owned(), found.damaged_count.to_string());
        }
        facts
    }
}

async fn store_settings<S: PartSink>(into: &S, settings: &SourceSettings) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(settings).map_err(|_| BaseError::Unexpected("settings that are no text"))?;
    let info = PartInfo { path: SourceSettings::PART.to_owned(), kind: PartKind::File(Chunking::Fixed), mode: None };
    let mut part = into.open(info).await?;
    part.write(&text).await?;
    part.finish().await?;
    Ok(())
}

fn damage_warnings(found: &Found, end: &BackupEnd) -> Vec<String> {
    let Some(damage) = &end.damage else {
        return end.warnings.iter().map(ToString::to_string).collect();
    };
    let mut warnings = vec![format!(
        "the server has {} damaged page(s); the base is complete, and as damaged as the server is: {damage}",
        found.damaged_count.max(1)
    )];
    warnings.extend(found.damaged.iter().map(|page| format!("damaged page: {}, block {}", page.path, page.block)));
    if found.damaged.is_empty() {
        warnings.extend(end.warnings.iter().map(ToString::to_string));
    }
    warnings
}

/// A size as `SHOW` prints it: `16MB`, `1GB`, `512kB`, or a plain number of bytes.
fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let shift = match unit.trim() {
        "" | "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// What can be wrong with a base backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// An archive is damaged, or holds what no server sends.
    #[error("the base backup is damaged on the way: {0}")]
    Tar(#[from] tar::TarError),
    /// The manifest is damaged.
    #[error("the backup manifest is damaged: {0}")]
    Manifest(String),
    /// What arrived is not what the server says it sent.
    #[error(
        "what arrived is not what the server sent: {} files with {} bytes arrived, the manifest lists {} with {}",
        arrived.files, arrived.bytes, listed.files, listed.bytes
    )]
    NotAsSent {
        /// By the manifest.
        listed: Tally,
        /// By our own account.
        arrived: Tally,
    },
    /// The archive took in less or more than it was given.
    #[error("{path}: {sent} bytes were given to the archive, it counted {stored}")]
    SinkLost {
        /// The file.
        path: String,
        /// Bytes that we wrote.
        sent: u64,
        /// Bytes that the archive says it has.
        stored: u64,
    },
    /// The server was promoted in the middle of the backup.
    #[error("the server changed from timeline {before} to {after} during the backup")]
    TimelineChanged {
        /// Before.
        before: TimelineId,
        /// After.
        after: TimelineId,
    },
    /// The server would leave files out.
    #[error("allow_in_place_tablespaces is on, and PostgreSQL 15 leaves such tablespaces out of a base backup")]
    InPlaceTablespaces,
    /// Something that does not belong into a backup.
    #[error("the base backup is not usable: {0}")]
    Unexpected(&'static str),
}

impl Classify for BaseError {
    fn kind(&self) -> ErrorKind {
        match self {
            // The same backup, begun again, is likely to succeed.
            Self::TimelineChanged { .. } => ErrorKind::Unreachable,
            Self::InPlaceTablespaces => ErrorKind::Refused,
            _ => ErrorKind::Integrity,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::TimelineChanged { .. } => Some("take the backup again".to_owned()),
            Self::InPlaceTablespaces => {
                Some("move what is in such tablespaces elsewhere, drop them, and turn the option off".to_owned())
            }
            _ => Some("take the backup again; if it fails the same way, report the message".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse_bytes;

    #[test]
    fn sizes_are_read_as_the_server_shows_them() {
        for (text, bytes) in [
            ("16MB", Some(16 << 20)),
            ("1GB", Some(1 << 30)),
            ("512kB", Some(512 << 10)),
            ("16777216", Some(16 << 20)),
            ("1 XB", None),
            ("", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
    }
}
