//! `pitr backup`: takes a base, and waits until the log that it needs is archived.

use std::sync::Arc;
use std::time::Duration;

use pitr_archive::SourceArchive;
use pitr_archive::base::{BaseOptions, BaseWriter, BaseWritten};
use pitr_core::{ErrorKind, LineageId};
use pitr_postgres::base::{BackupReport, PgBaseBackup};
use pitr_postgres::engine::facts;
use pitr_postgres::replication::BackupOptions;
use pitr_postgres::segment::slices;
use pitr_postgres::{PgPosition, SegmentNumber, SegmentSize};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cli::Backup;
use crate::context::{Context, Purpose, connection};
use crate::failure::{During, Failure};
use crate::limits::WAIT_FOR_LOG_POLL;
use crate::postgres::lineage::{self, Writer};
use crate::report::{Report, Warning};
use crate::{progress, time};

/// Takes a base of one source.
pub async fn run(context: &Context, args: &Backup, quiet: bool) -> Result<Report, Failure> {
    let (name, source) = context.config.source(args.source.as_deref())?;
    let settings = connection(name, source)?;
    let archive = context.source(name, Purpose::Write).await?;
    let writer = BaseWriter::begin(archive.objects(), name, &BaseOptions::default()).await?;

    let digest_objects = archive.objects().clone();
    let bar = progress::bytes(&format!("backup {name}"), quiet);
    let options = BackupOptions {
        fast_checkpoint: !args.spread_checkpoint,
        max_rate: args.max_rate.map(|mib| mib.saturating_mul(1024)),
    };
    let backup =
        PgBaseBackup::new(settings, options, Arc::new(move |bytes| digest_objects.digest(bytes))).on_progress({
            let bar = bar.clone();
            Arc::new(move |progress| {
                bar.set_length(progress.total.unwrap_or(progress.done).max(progress.done));
                bar.set_position(progress.done);
            })
        });
    let (record, report) = backup.run(&writer).await.during(format!("backup of {name}"))?;
    let version = record.facts.get(facts::VERSION).and_then(|text| text.parse().ok()).unwrap_or_default();
    let lineage = register_lineage(&archive, &report, version).await?;
    if lineage != record.lineage {
        return Err(Failure::new(
            ErrorKind::Failed,
            format!("the base is of lineage {}, registered was {lineage}", record.lineage),
        ));
    }
    let needed_to = record.consistent;
    let written = writer.commit(record).await.during("storing the base")?;
    bar.finish_and_clear();
    let waiting = if args.no_wait { None } else { Some(Duration::from_secs(args.wait_timeout)) };
    let missing = wait_for_log(&archive, &lineage, needed_to, report.segment_size, waiting).await?;
    Ok(describe(name, &written, &report, missing.as_deref()))
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

/// Until the segment that holds the base's end is archived, the base cannot become consistent. Returns its name if it
/// does not arrive in time: the base is whole all the same.
async fn wait_for_log(
    archive: &SourceArchive,
    lineage: &LineageId,
    needed_to: PgPosition,
    size: SegmentSize,
    waiting: Option<Duration>,
) -> Result<Option<String>, Failure> {
    // The position is the end of the last record needed: the byte before it is in the segment we wait for.
    let last_byte = PgPosition::new(needed_to.timeline, pitr_postgres::Lsn(needed_to.lsn.0.saturating_sub(1)));
    let log = SegmentNumber::of(last_byte.lsn, size);
    let pieces = slices(needed_to.timeline, log, false, size)?;
    let piece = pieces.into_iter().find(|piece| piece.start.lsn <= last_byte.lsn && last_byte.lsn < piece.end.lsn);
    let Some(piece) = piece else { return Ok(None) };
    let deadline = Instant::now() + waiting.unwrap_or_default();
    loop {
        if archive.segment_header(lineage, &piece.name).await?.is_some() {
            return Ok(None);
        }
        if Instant::now() >= deadline {
            return Ok(Some(piece.name.leaf().to_owned()));
        }
        sleep(WAIT_FOR_LOG_POLL).await;
    }
}

fn describe(name: &str, written: &BaseWritten<PgPosition>, backup: &BackupReport, missing: Option<&str>) -> Report {
    let base = &written.base;
    let text = format!(
        "Base {} of {name}: {} in {} files, {} stored ({} were in the archive already).\nConsistent at {}, {}.",
        base.id,
        time::bytes(base.bytes),
        backup.files,
        time::bytes(base.stored),
        time::bytes(written.reused),
        crate::planning::describe(&base.consistent),
        time::full(base.taken.1, time::now()),
    );
    let data = json!({
        "source": name, "base": base.id, "lineage": base.lineage, "start": base.start.to_string(),
        "consistent": base.consistent.to_string(), "taken": [base.taken.0, base.taken.1], "bytes": base.bytes,
        "stored_bytes": base.stored, "reused_bytes": written.reused, "files": backup.files,
        "damaged_pages": backup.damaged.iter().map(|page| json!({"path": page.path, "block": page.block})).collect::<Vec<_>>(),
    });
    let mut report = Report::new("pitr.backup/1", data, text).next(format!("pitr status {name}"));
    report.warnings.extend(backup.warnings.iter().map(|message| Warning {
        code: "source_damaged",
        message: message.clone(),
        next: Vec::new(),
    }));
    if let Some(segment) = missing {
        report.warnings.push(Warning {
            code: "log_not_archived",
            message: format!("segment {segment} is not archived yet: until it is, the base cannot be restored"),
            next: vec![format!("pitr check {name}")],
        });
    }
    report
}
