//! Takes a base, and registers the history that it is of.

use std::sync::Arc;

use indicatif::ProgressBar;
use pitr_archive::SourceArchive;
use pitr_archive::base::BaseWriter;
use pitr_mongodb::MongoPosition;
use pitr_mongodb::base::{BackupReport, MongoBackup};
use serde_json::{Map, json};

use crate::engine::{Site, Taken};
use crate::failure::Failure;
use crate::mongodb::{connection, lineage};

/// Takes a base over ordinary reads.
pub async fn backup(
    site: Site<'_>,
    archive: &SourceArchive,
    into: &BaseWriter,
    progress: &ProgressBar,
) -> Result<Taken<MongoPosition>, Failure> {
    let settings = connection(&site)?;
    let bar = progress.clone();
    let backup = MongoBackup::new(settings).on_progress(Arc::new(move |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    }));
    let (mut record, report) = backup.run(into).await?;
    record.lineage = lineage::current(archive, &record.lineage, &report.lineage_facts).await?;
    Ok(Taken { content: content(&report), data: data(&report), record, warnings: Vec::new() })
}

fn content(report: &BackupReport) -> String {
    let read = match report.newer.len() {
        0 => "all at one cluster time".to_owned(),
        some => format!("{some} of them not at one cluster time: the log makes them agree"),
    };
    format!("{} collections and views read from {}, {read}", report.collections, report.host)
}

fn data(report: &BackupReport) -> Map<String, serde_json::Value> {
    Map::from_iter([
        ("collections".to_owned(), json!(report.collections)),
        ("member".to_owned(), json!(report.host)),
        ("read_later".to_owned(), json!(report.newer)),
    ])
}
