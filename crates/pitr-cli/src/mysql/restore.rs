//! Restores into an empty server, or into a directory with a server that is started there and stopped again.

use std::collections::HashSet;
use std::net::IpAddr;

use pitr_archive::SourceArchive;
use pitr_core::ports::Recovery;
use pitr_core::{Engine, ErrorKind, Event};
use pitr_mysql::BinlogPosition;
use pitr_mysql::connect::{Host, Password, Settings};
use pitr_mysql::engine::Mariadb;
use pitr_mysql::gtid::Gtid;
use pitr_mysql::restore::{Into, MyRestore, RestoreOptions, RestoreReport, restore_into};
use serde_json::{Map, json};

use crate::engine::{Destination, Product, RestoreJob, Restored};
use crate::failure::{During, Failure};
use crate::log::LogReader;
use crate::mysql::backup::dial;
use crate::mysql::scan;
use crate::report::Warning;

/// Loads the base and replays the log.
pub async fn restore<E: Product<Position = BinlogPosition>>(
    job: RestoreJob<'_, E>,
) -> Result<Restored<BinlogPosition>, Failure> {
    let skip = skip(&job.args.skip)?;
    let start = start_of_base(&job).await?;
    let recovery = single_segments(&job).await?;
    must_be_there::<E>(&skip, &recovery, start, job.archive).await?;
    let report = match &job.destination {
        Destination::Directory(directory) => {
            let into = Into { directory: directory.clone(), bin_dir: job.args.bin_dir.clone() };
            restore_into(&into, skip, &recovery, start, job.archive).await?
        }
        Destination::Server { url, password } => {
            let mut settings = Settings::parse(url).during("--target-url")?;
            if let Some(password) = password {
                settings = settings.with_password(Password::new(password));
            }
            let address = address(job.args.listen, &settings).await?;
            let mut options = RestoreOptions::new(dial(settings), address);
            options.skip = skip;
            MyRestore::new(options).run(&recovery, start, job.archive).await?
        }
    };
    Ok(done(&report, &job))
}

/// `gtid:UUID:77`, as a target is written.
fn skip(texts: &[String]) -> Result<HashSet<Gtid>, Failure> {
    let parse = |text: &String| {
        let gtid = text.strip_prefix("gtid:").and_then(|text| text.parse().ok());
        gtid.ok_or_else(|| {
            Failure::new(ErrorKind::Usage, format!("--skip {text:?} is not one transaction"))
                .next("--skip gtid:3e11fa47-71ca-11e1-9e33-c80aa9429562:77, or --skip gtid:0-1-77 for MariaDB")
        })
    };
    texts.iter().map(parse).collect()
}

/// Refuses what is not in the log that is replayed: a slip of the pen would leave the wrong transaction in.
async fn must_be_there<E: Product<Position = BinlogPosition>>(
    skip: &HashSet<Gtid>,
    recovery: &Recovery<BinlogPosition>,
    start: BinlogPosition,
    archive: &SourceArchive,
) -> Result<(), Failure> {
    for id in skip.iter().map(ToString::to_string) {
        let mut is_there = false;
        for (at, span) in recovery.log.iter().enumerate().filter(|(_, span)| E::may_hold_transaction(span, &id)) {
            let log = LogReader::<E>::new(archive, recovery.log.iter().skip(at).cloned());
            let scan = scan::scan(span, log).await?;
            let is_it = |event: &Event<BinlogPosition>| event.transaction.as_deref() == Some(id.as_str());
            let replayed = |event: &Event<BinlogPosition>| !(event.begin < start) && !(recovery.cut < event.end);
            is_there |= scan.events.iter().any(|event| is_it(event) && replayed(event));
        }
        if !is_there {
            let what =
                format!("transaction {id}, which is to be left out, is not in the log between the base and the target");
            return Err(Failure::new(ErrorKind::Usage, what));
        }
    }
    Ok(())
}

/// Where the base lies, which a recovery does not say.
async fn start_of_base<E: Product<Position = BinlogPosition>>(
    job: &RestoreJob<'_, E>,
) -> Result<BinlogPosition, Failure> {
    let catalog = job.archive.catalog::<E>().await?;
    let base = catalog.bases.into_iter().find(|base| base.id == job.recovery.base);
    base.map(|base| base.start).ok_or_else(|| {
        Failure::new(ErrorKind::Absent, format!("base {} is not in the archive any more", job.recovery.base))
    })
}

/// The same recovery with its roll-ups opened.
async fn single_segments<E: Product<Position = BinlogPosition>>(
    job: &RestoreJob<'_, E>,
) -> Result<Recovery<BinlogPosition>, Failure> {
    let mut recovery = job.recovery.clone();
    let mut log = Vec::new();
    for span in recovery.log {
        match span.is_single() {
            true => log.push(span),
            false => log.extend(job.archive.expand::<E>(&span).await?),
        }
    }
    recovery.log = log;
    Ok(recovery)
}

/// The address under which the target server reaches us: the one from which we reach it, unless the user knows better.
async fn address(listen: Option<IpAddr>, settings: &Settings) -> Result<IpAddr, Failure> {
    if let Some(address) = listen {
        return Ok(address);
    }
    let Host::Tcp(host) = &settings.host else { return Ok(std::net::Ipv4Addr::LOCALHOST.into()) };
    let unreachable =
        |error: std::io::Error| Failure::new(ErrorKind::Unreachable, format!("cannot reach {settings}: {error}"));
    let stream = tokio::net::TcpStream::connect((host.as_str(), settings.port)).await.map_err(unreachable)?;
    Ok(stream.local_addr().map_err(unreachable)?.ip())
}

fn done<E: Product<Position = BinlogPosition>>(
    report: &RestoreReport,
    job: &RestoreJob<'_, E>,
) -> Restored<BinlogPosition> {
    let mut what = format!("into {}: {} rows of {} tables", job.destination, report.rows, report.tables);
    what.push_str(if report.resumed { ", going on where an interrupted restore had stopped.\n" } else { ".\n" });
    let mut state = format!("Replayed {} of log, exactly up to the target.", crate::time::bytes(report.replayed.bytes));
    if let Some(executed) = &report.replayed.executed {
        state.push_str(&format!(" The server has executed {executed}."));
    }
    state.push_str("\nIt replicates from nobody, and its event scheduler is off.\n");
    let next = match &job.destination {
        Destination::Directory(directory) => {
            let name = if E::NAME == Mariadb::NAME { "mariadbd" } else { "mysqld" };
            let program = job.args.bin_dir.as_deref().map_or_else(|| name.into(), |bin_dir| bin_dir.join(name));
            vec![format!("{} --defaults-file={}", program.display(), directory.join("my.cnf").display())]
        }
        Destination::Server { .. } => {
            vec!["SET GLOBAL event_scheduler = ON;   -- when this server takes over".to_owned()]
        }
    };
    let warning = |message: &String| Warning { code: "restore", message: message.clone(), next: Vec::new() };
    let executed = report.replayed.executed.as_ref().map(ToString::to_string);
    let data = Map::from_iter([
        ("destination".to_owned(), json!(job.destination.to_string())),
        ("tables".to_owned(), json!(report.tables)),
        ("rows".to_owned(), json!(report.rows)),
        ("replayed_bytes".to_owned(), json!(report.replayed.bytes)),
        ("replay_seconds".to_owned(), json!(report.replay_time.as_secs_f64())),
        ("executed".to_owned(), json!(executed)),
        ("prepared".to_owned(), json!(report.replayed.prepared)),
        ("resumed".to_owned(), json!(report.resumed)),
    ]);
    Restored {
        what,
        state,
        // The server's own account of what it has executed was compared before this is said.
        reached: Some(job.recovery.cut),
        data,
        warnings: report.warnings.iter().map(warning).collect(),
        next,
    }
}
