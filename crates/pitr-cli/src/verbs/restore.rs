//! `pitr restore`: plans, lays the base down, and leaves a directory that the server starts from up to the target, or
//! runs it there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pitr_core::ErrorKind;
use pitr_plan::{Plan, PlanReport};
use pitr_postgres::PgPosition;
use pitr_postgres::restore::{PgRestore, RestoreCommand, RestoreOptions, RestoreReport};
use pitr_postgres::server::{Reached, StartOptions};
use serde_json::json;

use crate::cli::Restore;
use crate::context::{Context, Purpose};
use crate::failure::{During, Failure};
use crate::planning::{self, describe};
use crate::report::{Report, Warning};
use crate::time;

/// Restores one source.
pub async fn run(context: &Context, args: &Restore, quiet: bool) -> Result<Report, Failure> {
    let (name, _) = context.config.source(args.source.as_deref())?;
    let request = planning::request(&args.target)?;
    let into = std::path::absolute(&args.into)
        .map_err(|error| Failure::new(ErrorKind::Usage, format!("cannot use {}: {error}", args.into.display())))?;
    let tablespaces = args.tablespace.iter().map(|text| tablespace(text)).collect::<Result<BTreeMap<_, _>, _>>()?;
    let archive = context.source(name, Purpose::Read).await?;

    let plan = planning::plan(&archive, &request).await?;
    if !quiet {
        announce(name, &plan, &into);
    }
    let spool = spool_beside(&into)?;
    let mut options = RestoreOptions::new(&into, restore_command(context, args, name, &plan, &spool)?);
    options.tablespaces = tablespaces;
    options.start = args.start.then(|| StartOptions {
        bin_dir: args.bin_dir.clone(),
        promote: args.promote,
        keep_running: true,
        timeout: Some(Duration::from_secs(args.start_timeout)),
        ..StartOptions::default()
    });
    let report = PgRestore::new(options).run(&plan.recovery(), &archive).await.during(format!("restore of {name}"))?;
    if args.promote {
        forget_spool(&spool);
    }
    done(name, &plan, &report)
}

/// Says what is going to happen before it does.
fn announce(name: &str, plan: &Plan<PgPosition>, into: &Path) {
    eprintln!(
        "restore {name} to {}: base {}, {} segments of log, into {}",
        describe(&plan.halt),
        plan.chain.base.id,
        plan.chain.segments,
        into.display()
    );
}

/// What the restored server runs for each file: this program, with everything it needs by absolute name.
fn restore_command(
    context: &Context,
    args: &Restore,
    name: &str,
    plan: &Plan<PgPosition>,
    spool: &Path,
) -> Result<RestoreCommand, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(ErrorKind::Failed, format!("cannot find this program: {error}")))?;
    let mut arguments = Vec::new();
    if let Some(config) = &context.config.path {
        arguments.extend(["--config".to_owned(), config.display().to_string()]);
    }
    let lineage = plan.end.lineage.to_string();
    let (spool, prefetch) = (spool.display().to_string(), args.prefetch.to_string());
    for word in [
        "wal",
        "fetch",
        "--source",
        name,
        "--lineage",
        &lineage,
        "--spool",
        &spool,
        "--prefetch",
        &prefetch,
        "%f",
        "%p",
    ] {
        arguments.push(word.to_owned());
    }
    Ok(RestoreCommand { program, arguments })
}

/// A directory beside the restored one, so that prefetched segments are renamed into place, never copied.
fn spool_beside(into: &Path) -> Result<PathBuf, Failure> {
    let mut name = into.as_os_str().to_owned();
    name.push(".pitr-spool");
    let spool = PathBuf::from(name);
    let failed =
        |error: std::io::Error| Failure::new(ErrorKind::Failed, format!("cannot make {}: {error}", spool.display()));
    let parent = into.parent().unwrap_or(into);
    fs::create_dir_all(parent).map_err(failed)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&spool).map_err(failed)?;
    // Root gives it to whom the restored files will belong: the server runs the hook.
    let like = fs::metadata(if into.exists() { into } else { parent }).map_err(failed)?;
    if rustix::process::geteuid().is_root() && like.uid() != 0 {
        std::os::unix::fs::chown(&spool, Some(like.uid()), Some(like.gid())).map_err(failed)?;
    }
    Ok(spool)
}

/// What stays there costs space and nothing else.
fn forget_spool(spool: &Path) {
    if let Err(error) = fs::remove_dir_all(spool) {
        tracing::warn!(%error, spool = %spool.display(), "could not remove the spool; it can be deleted");
    }
}

fn tablespace(text: &str) -> Result<(u32, PathBuf), Failure> {
    let parsed = text.split_once('=').and_then(|(oid, dir)| Some((oid.parse().ok()?, PathBuf::from(dir))));
    parsed.ok_or_else(|| {
        Failure::new(ErrorKind::Usage, format!("--tablespace {text:?} is not OID=DIR"))
            .next("--tablespace 16385=/srv/fast")
    })
}

fn done(name: &str, plan: &Plan<PgPosition>, report: &RestoreReport) -> Result<Report, Failure> {
    let directory = report.directory.display();
    let size = time::bytes(report.bytes);
    let mut text = format!("Restored {name} into {directory}: {} files, {size}", report.files);
    text.push_str(if report.resumed { ", going on where an interrupted restore had stopped.\n" } else { ".\n" });
    let kept = plan.end.last_kept.as_ref().map(|event| {
        let id = event.transaction.as_deref().unwrap_or("?");
        let at = event.time.map(|at| format!(", committed {}", time::utc(at))).unwrap_or_default();
        format!("Last transaction kept: {id}{at}.\n")
    });
    text.push_str(&kept.unwrap_or_default());
    for (oid, place) in &report.tablespaces {
        text.push_str(&format!("Tablespace {oid}: {}\n", place.display()));
    }
    let mut next = Vec::new();
    match &report.reached {
        Some(reached) => {
            text.push_str(&format!(
                "The server stopped at {}, as planned. It is read-only and archives nothing.\n",
                describe(&reached.position)
            ));
            if let Some((socket, port)) = &reached.socket {
                next.push(format!("psql -h {} -p {port} postgres", socket.display()));
                next.push(
                    "SELECT pg_wal_replay_resume();   -- in psql: ends the recovery, the server becomes writable"
                        .to_owned(),
                );
            }
            next.push(format!("pg_ctl -D {directory} stop"));
        }
        None => {
            text.push_str(&format!("It will stop at {}, read-only, and archives nothing.\n", describe(&plan.halt)));
            next.push(format!("pg_ctl -D {directory} start"));
            next.push(
                "SELECT pg_is_wal_replay_paused(), pg_last_wal_replay_lsn();   -- true once the target is reached"
                    .to_owned(),
            );
        }
    }
    let data = json!({
        "source": name,
        "directory": report.directory,
        "files": report.files,
        "bytes": report.bytes,
        "resumed": report.resumed,
        "tablespaces": report.tablespaces,
        "reached": report.reached.as_ref().map(|reached| reached.position.to_string()),
        "socket": report.reached.as_ref().and_then(|reached| reached.socket.as_ref()).map(|(dir, port)| json!({"directory": dir, "port": port})),
        "plan": PlanReport::from(plan),
    });
    let mut done = Report::new("pitr.restore/1", data, text);
    done.next = next;
    done.warnings = report
        .warnings
        .iter()
        .map(|message| Warning { code: "restore", message: message.clone(), next: Vec::new() })
        .collect();
    done.warnings.extend(report.reached.as_ref().and_then(locked));
    Ok(done)
}

/// The trap of a restore to just before a `DROP TABLE`: in the paused server, reading that table waits for ever.
fn locked(reached: &Reached) -> Option<Warning> {
    let what = match reached.locked {
        0 => return None,
        1 => "1 table is".to_owned(),
        many => format!("{many} tables are"),
    };
    Some(Warning {
        code: "locked_tables",
        message: format!("{what} locked by transactions that were in progress at this position: reading them waits until the recovery ends"),
        next: vec!["SELECT pg_wal_replay_resume();   -- in psql: rolls them back and ends the recovery (restore --promote does it at once)".to_owned()],
    })
}
