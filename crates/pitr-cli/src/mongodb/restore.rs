//! Restores into an empty server that runs, or into a directory with a server of its own.

use std::path::Path;

use pitr_core::ports::Recovery;
use pitr_mongodb::connect::{Password, Settings};
use pitr_mongodb::restore::server::Server;
use pitr_mongodb::restore::{MongoRestore, RestoreReport};
use pitr_mongodb::{Mongo, MongoPosition};
use serde_json::{Map, json};

use crate::engine::{Destination, RestoreJob, Restored};
use crate::failure::{During, Failure};
use crate::report::Warning;
use crate::time;

/// Lays the base down and replays the log.
pub async fn restore(job: RestoreJob<'_, Mongo>) -> Result<Restored<MongoPosition>, Failure> {
    let recovery = single_segments(&job).await?;
    match &job.destination {
        Destination::Server { url, password } => {
            let settings = target(url, password.as_deref())?;
            let report = MongoRestore::new(settings).run(&recovery, job.archive).await?;
            Ok(into_server(&report, url))
        }
        Destination::Directory(dir) => {
            let program = job.args.bin_dir.as_ref().map_or_else(|| "mongod".into(), |dir| dir.join("mongod"));
            let server = Server::start(dir, &program).await?;
            let report = MongoRestore::new(server.settings()?).run(&recovery, job.archive).await?;
            server.finish().await?;
            Ok(into_directory(&report, dir))
        }
    }
}

fn target(url: &str, password: Option<&str>) -> Result<Settings, Failure> {
    let settings = Settings::parse(url).during("--target-url")?;
    Ok(match password {
        Some(password) => settings.with_password(Password::new(password)),
        None => settings,
    })
}

/// The engine reads segment by segment: roll-ups are opened for it.
async fn single_segments(job: &RestoreJob<'_, Mongo>) -> Result<Recovery<MongoPosition>, Failure> {
    let mut recovery = job.recovery.clone();
    let mut log = Vec::new();
    for span in recovery.log {
        if span.is_single() {
            log.push(span);
        } else {
            log.extend(job.archive.expand::<Mongo>(&span).await?);
        }
    }
    recovery.log = log;
    Ok(recovery)
}

fn into_server(report: &RestoreReport, url: &str) -> Restored<MongoPosition> {
    let expiry = Warning {
        code: "expiry_off",
        message:
            "documents do not expire on this server until it is restarted, so that nothing that was restored is deleted"
                .to_owned(),
        next: vec![
            "db.adminCommand({ setParameter: 1, ttlMonitorEnabled: true })   // once you have what you need".to_owned(),
        ],
    };
    Restored {
        what: what(report, &report.host),
        state: "The server is writable and holds the state of that moment.\n".to_owned(),
        reached: Some(report.reached),
        data: data(report),
        warnings: vec![expiry],
        next: vec![format!("mongosh '{url}'")],
    }
}

fn into_directory(report: &RestoreReport, dir: &Path) -> Restored<MongoPosition> {
    let dir = dir.display();
    Restored {
        what: what(report, &dir.to_string()),
        state: "No server runs on it. A replica set of it begins a history of its own.\n".to_owned(),
        reached: Some(report.reached),
        data: data(report),
        warnings: Vec::new(),
        next: vec![format!("mongod --dbpath {dir} --setParameter ttlMonitorEnabled=false")],
    }
}

fn what(report: &RestoreReport, place: &str) -> String {
    let mut what = format!(
        "into {place}: {} collections and views with {} documents, {}; then {} writes of the log, {} commands, {} transactions; {} indexes",
        report.collections,
        report.documents,
        time::bytes(report.bytes),
        report.log.writes,
        report.log.commands,
        report.log.transactions,
        report.indexes,
    );
    what.push_str(if report.resumed { ", going on where an interrupted restore had stopped.\n" } else { ".\n" });
    if report.undecided > 0 {
        what.push_str(&format!("Transactions that were open at that moment and left out: {}.\n", report.undecided));
    }
    what
}

fn data(report: &RestoreReport) -> Map<String, serde_json::Value> {
    let pairs = [
        ("server", json!(report.host)),
        ("collections", json!(report.collections)),
        ("documents", json!(report.documents)),
        ("bytes", json!(report.bytes)),
        (
            "log",
            json!({"entries": report.log.entries, "writes": report.log.writes, "commands": report.log.commands, "transactions": report.log.transactions}),
        ),
        ("indexes", json!(report.indexes)),
        ("undecided", json!(report.undecided)),
        ("resumed", json!(report.resumed)),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
