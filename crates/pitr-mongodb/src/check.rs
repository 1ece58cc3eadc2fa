//! Is a replica set ready to be protected?

use std::time::Duration;

use bson::{Document, doc};
use pitr_core::{Finding, Severity};

use crate::connect::{Member, Prefer, Settings, compatibility, lineage_facts, oplog_bounds};
use crate::error::Result;
use crate::limits::{MAJORITY_WARNING, WINDOW_WARNING};

/// Looks at a set and gives one finding for each thing that matters. An error only if it cannot be asked at all.
pub async fn check(settings: &Settings) -> Result<Vec<Finding>> {
    let member = Member::connect(settings, Prefer::Secondary).await?;
    let mut findings = vec![Finding {
        severity: Severity::Good,
        topic: "server",
        message: format!("{} runs MongoDB {}", member.host, member.version_text()),
        fix: None,
    }];
    if let Err(error) = lineage_facts(&member).await {
        findings.push(failure("replica set", &error));
        return Ok(findings);
    }
    findings.push(set(&member));
    findings.push(window(&member).await);
    findings.push(documents(&member).await);
    findings.push(majority(&member).await);
    findings.push(version(&member).await);
    findings.push(notes(settings).await);
    findings.push(snapshots(&member).await);
    Ok(findings)
}

fn failure(topic: &'static str, error: &crate::Error) -> Finding {
    use pitr_core::Classify;
    Finding { severity: Severity::Failure, topic, message: error.to_string(), fix: error.hint() }
}

fn good(topic: &'static str, message: impl Into<String>) -> Finding {
    Finding { severity: Severity::Good, topic, message: message.into(), fix: None }
}

fn set(member: &Member) -> Finding {
    let name = member.set.as_deref().unwrap_or("?");
    let count = member.members.len();
    if member.writable && count > 1 {
        return Finding {
            severity: Severity::Hint,
            topic: "replica set",
            message: format!("{name}: only the primary {} answers, so it is the one that is read", member.host),
            fix: None,
        };
    }
    good("replica set", format!("{name} with {count} members that hold data; {} is read", member.host))
}

/// How far back the oplog reaches: that long may the archive be away.
async fn window(member: &Member) -> Finding {
    let (oldest, newest) = match oplog_bounds(member).await {
        Ok(bounds) => bounds,
        Err(error) => return failure("oplog", &error),
    };
    let window = Duration::from_secs(u64::from(newest.stamp.seconds.saturating_sub(oldest.stamp.seconds)));
    let size = member.run("local", doc! { "collStats": "oplog.rs" }, "measuring the oplog").await.unwrap_or_default();
    let number = |key: &str| match size.get(key) {
        Some(value) => value.as_f64().or(value.as_i64().map(|n| n as f64)).or(value.as_i32().map(f64::from)),
        None => None,
    };
    let filled = number("size").zip(number("maxSize")).map_or(1.0, |(size, max)| size / max.max(1.0));
    let reaches = format!("the oplog reaches {} back and is {:.0} % full", span(window), filled * 100.0);
    if filled < 0.9 || window >= WINDOW_WARNING {
        return good("oplog", reaches);
    }
    Finding {
        severity: Severity::Warning,
        topic: "oplog",
        message: format!("{reaches}: if streaming stops for longer, log is lost"),
        fix: Some("db.adminCommand({ replSetResizeOplog: 1, size: MIB, minRetentionHours: 24 })".to_owned()),
    }
}

fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Reading all data is what a base does.
async fn documents(member: &Member) -> Finding {
    match crate::base::inventory::take(member).await {
        Ok(inventory) => good("read", format!("{} collections and views can be read", inventory.collections.len())),
        Err(error) => failure("read", &error),
    }
}

/// What a majority does not have is not archived.
async fn majority(member: &Member) -> Finding {
    let answer = match member.admin(doc! { "hello": 1 }, "asking for the last write of a majority").await {
        Ok(answer) => answer,
        Err(error) => return failure("majority", &error),
    };
    let date = |key| {
        answer.get_document("lastWrite").and_then(|last| last.get_datetime(key)).map(|date| date.timestamp_millis())
    };
    let behind = match (date("lastWriteDate"), date("majorityWriteDate")) {
        (Ok(last), Ok(majority)) => Duration::from_millis(last.saturating_sub(majority).try_into().unwrap_or(0)),
        _ => {
            return failure(
                "majority",
                &crate::Error::answer("asking for the last write of a majority", "it has none"),
            );
        }
    };
    if behind < MAJORITY_WARNING {
        return good("majority", "writes reach a majority of the set, and are read with that concern");
    }
    Finding {
        severity: Severity::Warning,
        topic: "majority",
        message: format!(
            "a majority of the set is {} behind: newer writes are not archived before it has them",
            span(behind)
        ),
        fix: Some("rs.status()   // which members are down, or lag".to_owned()),
    }
}

async fn version(member: &Member) -> Finding {
    match compatibility(member).await {
        Ok(version) => good("compatibility", format!("feature compatibility version {version}")),
        Err(error) => failure("compatibility", &error),
    }
}

/// Heartbeats and named points are notes in the oplog.
async fn notes(settings: &Settings) -> Finding {
    match crate::stream::write_note(settings, crate::note::heartbeat()).await {
        Ok(_) => good("notes", "notes can be written into the oplog: heartbeats and named points"),
        Err(error) => Finding {
            severity: Severity::Warning,
            topic: "notes",
            message: format!("no heartbeats, no pitr mark: {error}"),
            fix: Some("grant appendOplogNote, as pitr grants mongodb does".to_owned()),
        },
    }
}

/// How long a base can be read at one time.
async fn snapshots(member: &Member) -> Finding {
    if member.version.0 < 5 {
        return Finding {
            severity: Severity::Hint,
            topic: "snapshots",
            message: "before 5.0 a base is not of one time: the log makes it agree with itself".to_owned(),
            fix: None,
        };
    }
    let asked: Document = doc! { "getParameter": 1, "minSnapshotHistoryWindowInSeconds": 1 };
    let answer = member.admin(asked, "asking for the snapshot window").await;
    let seconds = answer.ok().and_then(|answer| match answer.get("minSnapshotHistoryWindowInSeconds") {
        Some(value) => value.as_i64().or(value.as_i32().map(i64::from)),
        None => None,
    });
    match seconds {
        Some(seconds) => good("snapshots", format!("a base that takes up to {seconds} s is of one cluster time")),
        None => good("snapshots", "a base is of one cluster time"),
    }
}
