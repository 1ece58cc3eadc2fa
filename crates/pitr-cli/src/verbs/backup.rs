//! `pitr backup`: takes a base, and waits until the log that it needs is archived.

use std::time::Duration;

use indicatif::ProgressBar;
use pitr_archive::base::{BaseWriter, BaseWritten};
use pitr_archive::{SourceArchive, Store, leftovers};
use pitr_core::{ErrorKind, LineageId, Position};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use crate::cli::Backup;
use crate::context::{Context, Purpose};
use crate::engine::{Product, Site, Taken, by_engine};
use crate::failure::{During, Failure};
use crate::limits::{BACKUP_ATTEMPTS, BACKUP_PAUSE, LEFTOVER_AGE, WAIT_FOR_LOG_MAX_POLL, WAIT_FOR_LOG_POLL};
use crate::planning::{describe, refuse_foreign_flags};
use crate::report::{Report, Warning};
use crate::{progress, time};

/// Takes a base of one source.
pub async fn run(context: &Context, args: &Backup, quiet: bool) -> Result<Report, Failure> {
    let site = Site::of(context, args.source.as_deref())?;
    by_engine!(site.source.engine, E => backup::<E>(site, args, quiet).await)
}

async fn backup<E: Product>(site: Site<'_>, args: &Backup, quiet: bool) -> Result<Report, Failure> {
    let name = site.name;
    refuse_foreign_flags::<E>(&args.special_flags())?;
    let archive = site.context.source(name, Purpose::Write).await?;
    let bar = progress::bytes(&format!("backup {name}"), quiet);
    let (writer, taken) = take::<E>(site, args, &archive, &bar).await.during(format!("backup of {name}"))?;
    // Last: from here on the base exists.
    let written = writer.commit(taken.record).await.during("storing the base")?;
    bar.finish_and_clear();
    sweep(archive.objects().store()).await;

    let mut report = describe_base::<E>(name, &written, &taken.content, taken.data);
    report.warnings = taken.warnings;
    let patience = if args.no_wait { Duration::ZERO } else { Duration::from_secs(args.wait_timeout) };
    if !log_arrives(&archive, &written.base.lineage, &written.base.consistent, patience).await? {
        report.warnings.push(log_missing::<E>(name, &written.base.consistent));
    }
    Ok(report)
}

/// Takes the base, and again from the begin where something that the server does meanwhile is in the way.
async fn take<E: Product>(
    site: Site<'_>,
    args: &Backup,
    archive: &SourceArchive,
    bar: &ProgressBar,
) -> Result<(BaseWriter, Taken<E::Position>), Failure> {
    let mut attempt = 1;
    loop {
        let writer = BaseWriter::begin(archive.objects(), site.name, &E::base_options()).await?;
        match E::backup(site, archive, args, &writer, bar).await {
            Ok(taken) => return Ok((writer, taken)),
            Err(failure) if failure.kind == ErrorKind::Busy && attempt < BACKUP_ATTEMPTS => {
                tracing::warn!(source = site.name, attempt, %failure, "taking the base again");
                bar.reset();
                // Each time longer: what is in the way may take a while.
                sleep(BACKUP_PAUSE * attempt).await;
                attempt += 1;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// What killed writers left in a local archive. It only costs space: failing to remove it is no failure of the backup.
async fn sweep(store: &Store) {
    match leftovers::sweep(store, LEFTOVER_AGE).await {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "removed temporary files that killed writers had left in the archive"),
        Err(error) => tracing::warn!(%error, "cannot remove what killed writers left in the archive"),
    }
}

/// Until the log up to its end is archived, a base cannot become consistent. False if that takes too long: the base is
/// whole all the same.
async fn log_arrives<P: Position>(
    archive: &SourceArchive,
    lineage: &LineageId,
    needed_to: &P,
    patience: Duration,
) -> Result<bool, Failure> {
    let deadline = Instant::now() + patience;
    let mut pause = WAIT_FOR_LOG_POLL;
    loop {
        if log_reaches(archive, lineage, needed_to).await? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(pause).await;
        pause = (pause * 2).min(WAIT_FOR_LOG_MAX_POLL);
    }
}

/// Log arrives in order, so the last of it tells.
async fn log_reaches<P: Position>(
    archive: &SourceArchive,
    lineage: &LineageId,
    needed_to: &P,
) -> Result<bool, Failure> {
    if let Some(last) = archive.last_segment(lineage).await?
        && let Some(span) = archive.segment_span::<P>(lineage, &last).await?
        && *needed_to <= span.end
    {
        return Ok(true);
    }
    Ok(archive.newest_tail::<P>(lineage).await?.is_some_and(|tail| *needed_to <= tail.end))
}

fn log_missing<E: Product>(name: &str, needed_to: &E::Position) -> Warning {
    let at = describe::<E>(needed_to);
    Warning {
        code: "log_not_archived",
        message: format!("the log up to {at} is not archived yet: until it is, the base cannot be restored"),
        next: vec![format!("pitr check {name}")],
    }
}

fn describe_base<E: Product>(
    name: &str,
    written: &BaseWritten<E::Position>,
    content: &str,
    mut data: Map<String, Value>,
) -> Report {
    let base = &written.base;
    let text = format!(
        "Base {} of {name}: {} in {content}, {} stored ({} were in the archive already).\nConsistent at {}, {}.",
        base.id,
        time::bytes(base.bytes),
        time::bytes(base.stored),
        time::bytes(written.reused),
        describe::<E>(&base.consistent),
        time::full(base.taken.1, time::now()),
    );
    for (key, value) in [
        ("source", json!(name)),
        ("base", json!(base.id)),
        ("lineage", json!(base.lineage)),
        ("start", json!(base.start.to_string())),
        ("consistent", json!(base.consistent.to_string())),
        ("taken", json!([base.taken.0, base.taken.1])),
        ("bytes", json!(base.bytes)),
        ("stored_bytes", json!(base.stored)),
        ("reused_bytes", json!(written.reused)),
    ] {
        data.insert(key.to_owned(), value);
    }
    Report::new("pitr.backup/1", Value::Object(data), text).next(format!("pitr status {name}"))
}
