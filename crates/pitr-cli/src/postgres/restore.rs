//! Restores into a directory that the server starts from up to the target, or runs it there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pitr_core::ErrorKind;
use pitr_postgres::restore::{PgRestore, RestoreCommand, RestoreOptions, RestoreReport, SPOOL};
use pitr_postgres::server::{Reached, StartOptions};
use pitr_postgres::{PgPosition, Postgres};
use serde_json::{Map, Value, json};

use crate::engine::{Destination, RestoreJob, Restored};
use crate::failure::Failure;
use crate::limits::PREFETCH_SEGMENTS;
use crate::planning::describe;
use crate::postgres::access;
use crate::report::Warning;
use crate::time;

/// Lays the base down, and starts the server there if asked to.
pub async fn restore(job: RestoreJob<'_, Postgres>) -> Result<Restored<PgPosition>, Failure> {
    let args = job.args;
    let Destination::Directory(into) = &job.destination else {
        return Err(Failure::new(ErrorKind::Usage, "PostgreSQL is restored into a directory, with --into DIR"));
    };
    if args.bin_dir.is_some() && !args.start {
        return Err(Failure::new(ErrorKind::Usage, "--bin-dir says what --start starts, which is not given"));
    }
    let tablespaces = args.tablespace.iter().map(|text| tablespace(text)).collect::<Result<BTreeMap<_, _>, _>>()?;
    access::check(job.site.context, into, args.start)?;
    make_parent(into)?;
    let spool = into.join(SPOOL);
    let mut options = RestoreOptions::new(into, restore_command(&job, &spool)?);
    options.spool = Some(spool);
    options.tablespaces = tablespaces;
    options.start = args.start.then(|| StartOptions {
        bin_dir: args.bin_dir.clone(),
        promote: args.promote,
        keep_running: true,
        timeout: Some(Duration::from_secs(args.start_timeout)),
        ..StartOptions::default()
    });
    let report = PgRestore::new(options).run(&job.recovery, job.archive).await?;
    Ok(done(&report, &job.recovery.cut, args.promote))
}

/// What the restored server runs for each file: this program, with everything it needs by absolute name.
fn restore_command(job: &RestoreJob<'_, Postgres>, spool: &Path) -> Result<RestoreCommand, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(ErrorKind::Failed, format!("cannot find this program: {error}")))?;
    let mut arguments = Vec::new();
    if let Some(config) = &job.site.context.config.path {
        arguments.extend(["--config".to_owned(), config.display().to_string()]);
    }
    let lineage = job.recovery.lineage.to_string();
    let (spool, prefetch) = (spool.display().to_string(), job.args.prefetch.unwrap_or(PREFETCH_SEGMENTS).to_string());
    for word in [
        "wal",
        "fetch",
        "--source",
        job.site.name,
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

/// Makes the directory above the restored one, if that is missing.
fn make_parent(into: &Path) -> Result<(), Failure> {
    let parent = into.parent().unwrap_or(into);
    fs::create_dir_all(parent)
        .map_err(|error| Failure::new(ErrorKind::Failed, format!("cannot make {}: {error}", parent.display())))
}

fn tablespace(text: &str) -> Result<(u32, PathBuf), Failure> {
    let parsed = text.split_once('=').and_then(|(oid, dir)| Some((oid.parse().ok()?, PathBuf::from(dir))));
    parsed.ok_or_else(|| {
        Failure::new(ErrorKind::Usage, format!("--tablespace {text:?} is not OID=DIR"))
            .next("--tablespace 16385=/srv/fast")
    })
}

fn done(report: &RestoreReport, planned: &PgPosition, promoted: bool) -> Restored<PgPosition> {
    let directory = report.directory.display();
    let mut what = format!("into {directory}: {} files, {}", report.files, time::bytes(report.bytes));
    what.push_str(if report.resumed { ", going on where an interrupted restore had stopped.\n" } else { ".\n" });
    for (oid, place) in &report.tablespaces {
        what.push_str(&format!("Tablespace {oid}: {}\n", place.display()));
    }
    let mut next = Vec::new();
    let state = match &report.reached {
        Some(reached) => {
            if let Some((socket, port)) = &reached.socket {
                next.push(format!("psql -h {} -p {port} postgres", socket.display()));
                next.extend((!promoted).then(|| {
                    "SELECT pg_wal_replay_resume();   -- in psql: ends the recovery, the server becomes writable"
                        .to_owned()
                }));
            }
            next.push(format!("pg_ctl -D {directory} stop"));
            let at = describe::<Postgres>(&reached.position);
            match promoted {
                false => format!("The server stopped at {at}, as planned. It is read-only and archives nothing.\n"),
                true => format!(
                    "The server stopped at {at}, as planned, and ended its recovery: it is writable, on a new timeline, and archives nothing.\n"
                ),
            }
        }
        None => {
            next.push(format!("pg_ctl -D {directory} start"));
            next.push(
                "SELECT pg_is_wal_replay_paused(), pg_last_wal_replay_lsn();   -- true once the target is reached"
                    .to_owned(),
            );
            format!("It will stop at {}, read-only, and archives nothing.\n", describe::<Postgres>(planned))
        }
    };
    let plain = |message: &String| Warning { code: "restore", message: message.clone(), next: Vec::new() };
    let mut warnings: Vec<_> = report.warnings.iter().map(plain).collect();
    warnings.extend(report.reached.as_ref().and_then(locked));
    let reached = report.reached.as_ref().map(|reached| reached.position);
    Restored { what, state, reached, data: data(report), warnings, next }
}

fn data(report: &RestoreReport) -> Map<String, Value> {
    let socket = report.reached.as_ref().and_then(|reached| reached.socket.as_ref());
    let pairs = [
        ("directory", json!(report.directory)),
        ("files", json!(report.files)),
        ("bytes", json!(report.bytes)),
        ("resumed", json!(report.resumed)),
        ("tablespaces", json!(report.tablespaces)),
        ("socket", json!(socket.map(|(directory, port)| json!({"directory": directory, "port": port})))),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
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
