//! A base: a consistent, parallel dump over ordinary SQL.
//!
//! [`MyBaseBackup`] opens one moment in several sessions ([`snapshot`]), reads the definitions as the server prints
//! them, and all rows by stretches of their primary keys. The parts of a base are named in [`format`]. What is
//! written depends on what is stored alone, so the archive stores an unchanged table once.

mod accounts;
mod beside;
mod copy;
mod error;
pub mod format;
mod inventory;
mod ranges;
mod rows;
mod schema;
mod snapshot;
mod tables;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use pitr_core::Timestamp;
use pitr_core::ports::{Chunking, PartInfo, PartKind, PartSink, PartWriter};
use serde::Serialize;

pub use self::accounts::account;
pub use self::beside::SYSTEM_DATABASE;
pub use self::error::BaseError;
use self::format::{DEFINITIONS, Dump, TABLES, TableFiles};
use self::inventory::{Inventory, unchanged};
pub use self::rows::FILE_HEAD;
pub use self::schema::SYSTEM as SYSTEM_DATABASES;
use self::snapshot::Snapshot;
use crate::error::Error;
use crate::event::Flavour;
use crate::limits::DUMP_SESSIONS;
use crate::sql::Sql;
use crate::unlogged::Unlogged;

/// Opens one more session to the same server.
pub type Dial = Arc<dyn Fn() -> Dialling + Send + Sync>;
/// A session on its way.
pub type Dialling = Pin<Box<dyn Future<Output = Result<Sql, Error>> + Send>>;
/// Told about every piece of rows that was stored: its length in bytes.
pub type OnProgress = Arc<dyn Fn(u64) + Send + Sync>;

/// How a base is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupOptions {
    /// Sessions that read rows.
    pub sessions: usize,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self { sessions: DUMP_SESSIONS }
    }
}

/// A base to be taken.
pub struct MyBaseBackup {
    dial: Dial,
    options: BackupOptions,
    progress: OnProgress,
}

/// What a dump came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpReport {
    /// The dump's own description.
    pub dump: Dump,
    /// The family of the server.
    pub flavour: Flavour,
    /// The server's clock at the moment of the base, and when it was complete.
    pub taken: (Timestamp, Timestamp),
    /// Tables with rows of their own.
    pub tables: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of their text.
    pub bytes: u64,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl MyBaseBackup {
    /// A dump of the server that `dial` reaches.
    pub fn new(dial: Dial, options: BackupOptions) -> Self {
        Self { dial, options, progress: Arc::new(|_| {}) }
    }

    /// Calls `progress` while rows arrive.
    #[must_use]
    pub fn on_progress(mut self, progress: OnProgress) -> Self {
        self.progress = progress;
        self
    }

    /// Takes the dump.
    pub async fn dump<S: PartSink>(&self, into: &S) -> Result<DumpReport, Error> {
        let (version, flavour) = self.probe().await?;
        let mut snapshot = Snapshot::open(&self.dial, flavour, self.options.sessions.max(1)).await?;
        let mut definitions = Lines::open(into, DEFINITIONS).await?;
        let Begun { at, inventory, mut files, mut warnings, fingerprint } = match flavour {
            Flavour::Mysql => self.begin_mysql(&mut snapshot, &mut definitions, into).await?,
            Flavour::Mariadb => self.begin_mariadb(&mut snapshot, &mut definitions, into).await?,
        };
        definitions.finish().await?;
        warnings.extend(Unlogged::ask(&mut snapshot.coordinator, flavour, &version).await?.alarms());
        let settings = settings(&mut snapshot.coordinator).await?;
        files.extend(self.copy(&mut snapshot, inventory.tables, into).await?);

        if let Some(before) = fingerprint {
            let after = schema::fingerprint(&mut snapshot.coordinator).await?;
            unchanged(schema::first_difference(&before, &after))?;
        }
        let complete = server_time(&mut snapshot.coordinator).await?;
        let coordinates = snapshot.coordinates.clone();
        snapshot.close().await?;
        let dump = Dump { format: Dump::FORMAT, family: family(flavour).to_owned(), version, coordinates, settings };
        let (tables, rows, bytes) = store_lists(into, &dump, files).await?;
        Ok(DumpReport { dump, flavour, taken: (at, complete), tables, rows, bytes, warnings })
    }

    /// The moment first: definitions stay what they were at it until the end.
    async fn begin_mysql<S: PartSink>(
        &self,
        snapshot: &mut Snapshot,
        definitions: &mut Lines<S::Part>,
        into: &S,
    ) -> Result<Begun, Error> {
        snapshot.freeze().await?;
        let at = server_time(&mut snapshot.coordinator).await?;
        let fingerprint = schema::fingerprint(&mut snapshot.coordinator).await?;
        // Tables that no snapshot can hold still are read while writes wait.
        let still = inventory::still_tables(&mut snapshot.coordinator).await?;
        let mut warnings: Vec<_> = inventory::about_still(&still).into_iter().collect();
        let files = self.copy(snapshot, still, into).await?;
        snapshot.release().await?;
        let mut inventory = Inventory::take(&mut snapshot.coordinator, Flavour::Mysql, definitions).await?;
        drop(inventory.take_still());
        warnings.append(&mut inventory.warnings);
        Ok(Begun { at, inventory, files, warnings, fingerprint: Some(fingerprint) })
    }

    /// Definitions first: they wait until the moment is over, and no longer.
    async fn begin_mariadb<S: PartSink>(
        &self,
        snapshot: &mut Snapshot,
        definitions: &mut Lines<S::Part>,
        into: &S,
    ) -> Result<Begun, Error> {
        let session = &mut snapshot.coordinator;
        // The one thing that does not wait: who may do what.
        let rights = accounts::fingerprint(session).await?;
        let taken = Inventory::take(session, Flavour::Mariadb, definitions).await;
        let mut inventory = taken.map_err(inventory::overtaken)?;
        snapshot.freeze().await?;
        let session = &mut snapshot.coordinator;
        let at = server_time(session).await?;
        unchanged((accounts::fingerprint(session).await? != rights).then_some("accounts"))?;
        inventory.sequence_values(session, definitions).await?;
        let still = inventory.take_still();
        let mut warnings: Vec<_> = inventory::about_still(&still).into_iter().collect();
        warnings.append(&mut inventory.warnings);
        let first = still.into_iter().chain(inventory.take_young()).collect();
        let files = self.copy(snapshot, first, into).await?;
        snapshot.release().await?;
        Ok(Begun { at, inventory, files, warnings, fingerprint: None })
    }

    async fn probe(&self) -> Result<(String, Flavour), Error> {
        let mut session = (self.dial)().await?;
        let version = session.value("SELECT VERSION()").await?.unwrap_or_default();
        let flavour = Flavour::of_version(&version);
        let oldest = if flavour == Flavour::Mysql { (8, 0) } else { (10, 5) };
        let number = |place| version.split(['.', '-']).nth(place).and_then(|text| text.parse::<u32>().ok());
        if (number(0), number(1)) < (Some(oldest.0), Some(oldest.1)) {
            return Err(BaseError::Version(version).into());
        }
        session.close().await;
        Ok((version, flavour))
    }

    async fn copy<S: PartSink>(
        &self,
        snapshot: &mut Snapshot,
        tables: Vec<tables::Table>,
        into: &S,
    ) -> Result<Vec<TableFiles>, Error> {
        let sessions = std::mem::take(&mut snapshot.workers);
        let (sessions, files) = copy::copy(sessions, tables, into, &self.progress).await?;
        snapshot.workers = sessions;
        Ok(files)
    }
}

async fn settings(session: &mut Sql) -> Result<BTreeMap<String, String>, Error> {
    let mut settings = BTreeMap::new();
    for name in Dump::RECORDED {
        let row = session.row(&format!("SHOW GLOBAL VARIABLES LIKE '{}'", name.replace('_', "\\_"))).await?;
        if let Some(value) = row.and_then(|row| row.text(1)) {
            settings.insert(name.to_owned(), value);
        }
    }
    Ok(settings)
}

/// A dump whose moment is over: nobody waits any more.
struct Begun {
    /// The server's clock at the moment.
    at: Timestamp,
    /// What is still to be copied.
    inventory: Inventory,
    /// What was copied while writes waited.
    files: Vec<TableFiles>,
    warnings: Vec<String>,
    /// Definitions that must be the same at the end.
    fingerprint: Option<BTreeMap<String, String>>,
}

/// The server's clock, to the microsecond.
async fn server_time(session: &mut Sql) -> Result<Timestamp, Error> {
    let text = session.value("SELECT DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%fZ')").await?;
    let time = text.and_then(|text| text.parse().ok());
    Ok(time.ok_or_else(|| BaseError::Odd("its clock".to_owned()))?)
}

/// Writes what must be read first, last.
async fn store_lists<S: PartSink>(into: &S, dump: &Dump, mut files: Vec<TableFiles>) -> Result<(u64, u64, u64), Error> {
    files.sort_by(|a, b| (&a.schema, &a.table).cmp(&(&b.schema, &b.table)));
    let mut lines = Lines::open(into, TABLES).await?;
    let (mut rows, mut bytes) = (0, 0);
    for table in &files {
        rows += table.rows;
        bytes += table.files.iter().map(|file| file.bytes).sum::<u64>();
        lines.add(table).await?;
    }
    lines.finish().await?;
    let mut part = Lines::open(into, format::DUMP).await?;
    part.add(dump).await?;
    part.finish().await?;
    Ok((files.len() as u64, rows, bytes))
}

/// The family's name in a dump.
pub fn family(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Mysql => "mysql",
        Flavour::Mariadb => "mariadb",
    }
}

/// A part of lines of JSON.
struct Lines<P> {
    part: P,
}

impl<P: PartWriter> Lines<P> {
    async fn open<S: PartSink<Part = P>>(into: &S, path: &str) -> Result<Self, Error> {
        let info = PartInfo { path: path.to_owned(), kind: PartKind::File(Chunking::Content), mode: None };
        Ok(Self { part: into.open(info).await? })
    }

    async fn add<T: Serialize>(&mut self, line: &T) -> Result<(), Error> {
        let mut text = serde_json::to_vec(line).map_err(|error| BaseError::Odd(error.to_string()))?;
        text.push(b'\n');
        Ok(self.part.write(&text).await?)
    }

    async fn finish(self) -> Result<(), Error> {
        self.part.finish().await?;
        Ok(())
    }
}
