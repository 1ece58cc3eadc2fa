//! Takes a base, and registers the history that it is of.

use std::sync::Arc;

use indicatif::ProgressBar;
use pitr_archive::SourceArchive;
use pitr_archive::base::BaseWriter;
use pitr_core::{ErrorKind, LineageId};
use pitr_postgres::PgPosition;
use pitr_postgres::base::{BackupReport, PgBaseBackup};
use pitr_postgres::engine::facts;
use pitr_postgres::replication::BackupOptions;
use serde_json::{Map, Value, json};

use crate::cli::Backup;
use crate::engine::{Site, Taken};
use crate::failure::Failure;
use crate::postgres::connection;
use crate::postgres::lineage::{self, Writer};
use crate::report::Warning;

/// Takes a base over the replication protocol.
pub async fn backup(
    site: Site<'_>,
    archive: &SourceArchive,
    args: &Backup,
    into: &BaseWriter,
    progress: &ProgressBar,
) -> Result<Taken<PgPosition>, Failure> {
    let options = BackupOptions {
        fast_checkpoint: !args.spread_checkpoint,
        max_rate: args.max_rate.map(|mib| mib.saturating_mul(1024)),
    };
    let (digest_objects, bar) = (archive.objects().clone(), progress.clone());
    let backup = PgBaseBackup::new(connection(&site)?, options, Arc::new(move |bytes| digest_objects.digest(bytes)))
        .on_progress(Arc::new(move |progress| {
            bar.set_length(progress.total.unwrap_or(progress.done).max(progress.done));
            bar.set_position(progress.done);
        }));
    let (record, report) = backup.run(into).await?;
    let version = record.facts.get(facts::VERSION).and_then(|text| text.parse().ok()).unwrap_or_default();
    let lineage = register_lineage(archive, &report, version).await?;
    if lineage != record.lineage {
        return Err(Failure::new(
            ErrorKind::Failed,
            format!("the base is of lineage {}, registered was {lineage}", record.lineage),
        ));
    }
    Ok(Taken { record, content: format!("{} files", report.files), data: data(&report), warnings: warnings(&report) })
}

/// A base may be the first thing that the archive sees of a history.
async fn register_lineage(archive: &SourceArchive, report: &BackupReport, version: u32) -> Result<LineageId, Failure> {
    let writer = Writer {
        system_id: report.identity.system_id,
        timeline: report.identity.timeline,
        segment_size: report.segment_size,
        version,
    };
    match &report.history {
        Some((_, content)) => lineage::of_history(archive, writer, content).await,
        None => lineage::of_first_timeline(archive, writer).await,
    }
}

fn data(report: &BackupReport) -> Map<String, Value> {
    let damaged = report.damaged.iter().map(|page| json!({"path": page.path, "block": page.block}));
    Map::from_iter([
        ("files".to_owned(), json!(report.files)),
        ("damaged_pages".to_owned(), Value::Array(damaged.collect())),
    ])
}

fn warnings(report: &BackupReport) -> Vec<Warning> {
    let warning = |message: &String| Warning { code: "source_damaged", message: message.clone(), next: Vec::new() };
    report.warnings.iter().map(warning).collect()
}
