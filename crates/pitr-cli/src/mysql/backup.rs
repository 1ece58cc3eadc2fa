//! Takes a base, and registers the history that it is of.

use std::sync::Arc;

use indicatif::ProgressBar;
use pitr_archive::SourceArchive;
use pitr_archive::base::BaseWriter;
use pitr_core::ports::BackupRecord;
use pitr_core::{ErrorKind, Facts};
use pitr_mysql::base::{BackupOptions, Dial, DumpReport, MyBaseBackup};
use pitr_mysql::connect::Settings;
use pitr_mysql::engine::facts;
use pitr_mysql::stream::{Found, find};
use pitr_mysql::{BinlogPosition, LogFile};
use serde_json::{Map, json};

use crate::engine::{Product, Site, Taken};
use crate::failure::Failure;
use crate::mysql::archived::{Purpose, archived, register, replica};
use crate::mysql::connection;
use crate::report::Warning;

/// Takes a consistent dump.
pub async fn backup<E: Product<Position = BinlogPosition>>(
    site: Site<'_>,
    archive: &SourceArchive,
    into: &BaseWriter,
    progress: &ProgressBar,
) -> Result<Taken<BinlogPosition>, Failure> {
    let settings = connection::<E>(&site)?;
    // Looks as somebody else than a stream does, so that none is interrupted.
    let replica = replica(&site, Purpose::Look);
    let found = find(&settings, &replica, archived::<E>(archive).await?.as_ref()).await?;
    let bar = progress.clone();
    let backup = MyBaseBackup::new(dial(settings.clone()), BackupOptions::default())
        .on_progress(Arc::new(move |bytes| bar.inc(bytes)));
    let report = backup.dump(into).await?;
    // A server that began another history meanwhile: the position belongs to neither for certain.
    let after = find(&settings, &replica, archived::<E>(archive).await?.as_ref()).await?;
    if after.lineage != found.lineage {
        return Err(Failure::new(ErrorKind::Unreachable, "the server's log began anew while the base was taken")
            .next(format!("pitr backup {}", site.name)));
    }
    register::<E>(archive, &found).await?;
    let record = record(&report, &found)?;
    let content = format!("{} rows of {} tables", report.rows, report.tables);
    let data = Map::from_iter([
        ("tables".to_owned(), json!(report.tables)),
        ("rows".to_owned(), json!(report.rows)),
        ("executed".to_owned(), json!(report.dump.coordinates.gtid)),
    ]);
    let warning = |message: String| Warning { code: "backup", message, next: Vec::new() };
    Ok(Taken { record, content, data, warnings: report.warnings.into_iter().map(warning).collect() })
}

/// Sessions to the server of a source.
pub fn dial(settings: Settings) -> Dial {
    Arc::new(move || {
        let settings = settings.clone();
        Box::pin(async move { Ok(settings.sql().await?) })
    })
}

fn record(report: &DumpReport, found: &Found) -> Result<BackupRecord<BinlogPosition>, Failure> {
    let coordinates = &report.dump.coordinates;
    let file = LogFile::parse(&coordinates.file)
        .ok_or_else(|| Failure::new(ErrorKind::Failed, format!("{} is no name of a log file", coordinates.file)))?;
    let at = BinlogPosition::new(found.begin.incarnation, file.number, coordinates.offset);
    let facts = Facts::from([
        (facts::VERSION.to_owned(), report.dump.version.clone()),
        (facts::SERVER_ID.to_owned(), coordinates.server_id.to_string()),
        (facts::EXECUTED.to_owned(), coordinates.gtid.clone()),
        (facts::FILE.to_owned(), coordinates.file.clone()),
    ]);
    Ok(BackupRecord { lineage: found.lineage.clone(), start: at, consistent: at, taken: report.taken, facts })
}
