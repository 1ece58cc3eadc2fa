//! Is a server set up to be protected? Every finding comes with the exact fix.
//!
//! [`check`] asks, [`judge`] decides: the second is a pure function of what the first has seen.

use std::collections::BTreeMap;

use pitr_core::Classify;
pub use pitr_core::{Finding, Severity};

use crate::connect::{ConnectError, Host, Settings, SqlClient, sql_client};
use crate::error::Error;
use crate::limits::{NEWEST_MAJOR, OLDEST_MAJOR, QUERY_TIMEOUT};
use crate::replication::{ReplicationClient, SystemIdentity};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// Version as one number: 150018 is 15.18.
    pub version_num: u32,
    /// Who the server is; `None` if it lets no walsender in.
    pub identity: Option<SystemIdentity>,
    /// One finding for each thing that was looked at, in a fixed order.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// The worst of all findings.
    pub fn worst(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Good)
    }
}

/// What the server said, and nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Version as one number.
    pub version_num: u32,
    /// Values of [`ASKED`] settings, in base units; those that this version has.
    pub settings: BTreeMap<String, String>,
    /// The role that we are.
    pub role: String,
    /// True if the role may start a walsender.
    pub may_replicate: bool,
    /// True if the server is a standby.
    pub in_recovery: bool,
    /// Number of failed archivings, and the file that failed last if nothing succeeded since.
    pub archiver_fails: (i64, Option<String>),
    /// What happened when a walsender was asked for; `None` if it went well.
    pub walsender: Option<String>,
    /// True if the connection goes over a network in plain text.
    pub plain_text: bool,
}

/// The settings that matter.
pub const ASKED: [&str; 11] = [
    "wal_level",
    "archive_mode",
    "archive_command",
    "archive_library",
    "archive_timeout",
    "max_wal_senders",
    "data_checksums",
    "full_page_writes",
    "fsync",
    "wal_segment_size",
    "server_version_num",
];

/// Looks at a server. `archive_command` is what its setting of that name should be.
///
/// # Errors
/// Only if the server cannot be asked at all; what is wrong with it is in the report.
pub async fn check(settings: &Settings, archive_command: &str) -> Result<CheckReport, Error> {
    let sql = sql_client(settings).await?;
    let plain_text = !sql.private && !is_local(settings);
    let mut observed =
        tokio::time::timeout(QUERY_TIMEOUT, observe(&sql)).await.map_err(|_| ConnectError::Timeout {
            target: settings.to_string(),
            seconds: QUERY_TIMEOUT.as_secs(),
            doing: "looking at the settings",
        })??;
    observed.plain_text = plain_text;
    let identity = match identify(settings).await {
        Ok(identity) => Some(identity),
        Err(error) => {
            observed.walsender = Some(match error.hint() {
                Some(hint) => format!("{error}; {hint}"),
                None => error.to_string(),
            });
            None
        }
    };
    Ok(CheckReport { version_num: observed.version_num, identity, findings: judge(&observed, archive_command) })
}

fn is_local(settings: &Settings) -> bool {
    match &settings.host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    }
}

async fn identify(settings: &Settings) -> Result<SystemIdentity, Error> {
    let mut client = ReplicationClient::connect(settings).await?;
    let identity = client.identify().await?;
    client.close().await;
    Ok(identity)
}

async fn observe(sql: &SqlClient) -> Result<Observed, ConnectError> {
    let failed = |doing: &'static str| move |error| ConnectError::sql(doing, error);
    let names: Vec<&str> = ASKED.to_vec();
    let rows = sql
        .query("SELECT name, setting FROM pg_settings WHERE name = ANY($1)", &[&names])
        .await
        .map_err(failed("reading pg_settings"))?;
    let settings: BTreeMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let role = sql
        .query_one("SELECT rolname::text, rolreplication OR rolsuper, pg_is_in_recovery() FROM pg_roles WHERE rolname = current_user", &[])
        .await
        .map_err(failed("reading pg_roles"))?;
    let archiver = sql
        .query_one(
            "SELECT failed_count, CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity') \
             THEN last_failed_wal END FROM pg_stat_archiver",
            &[],
        )
        .await
        .map_err(failed("reading pg_stat_archiver"))?;
    Ok(Observed {
        version_num: settings.get("server_version_num").and_then(|text| text.parse().ok()).unwrap_or(0),
        settings,
        role: role.get(0),
        may_replicate: role.get(1),
        in_recovery: role.get(2),
        archiver_fails: (archiver.get(0), archiver.get(1)),
        walsender: None,
        plain_text: false,
    })
}

/// Decides what is good, and what is not.
pub fn judge(seen: &Observed, archive_command: &str) -> Vec<Finding> {
    let get = |name: &str| seen.settings.get(name).map_or("", String::as_str);
    let mut findings = vec![version(seen)];
    findings.push(match get("wal_level") {
        "minimal" => failure(
            "wal_level",
            "wal_level is minimal: the log cannot be replayed elsewhere",
            alter("wal_level", "replica", RESTART),
        ),
        level => good("wal_level", format!("wal_level is {level}")),
    });
    findings.push(match (get("archive_mode"), seen.in_recovery) {
        ("off", _) => {
            failure("archive_mode", "archive_mode is off: nothing is archived", alter("archive_mode", "on", RESTART))
        }
        ("on", true) => hint(
            "archive_mode",
            "this is a standby, and with archive_mode = on only a primary archives",
            alter("archive_mode", "always", RESTART),
        ),
        (mode, _) => good("archive_mode", format!("archive_mode is {mode}")),
    });
    findings.push(archiver_command(get("archive_command"), get("archive_library"), archive_command));
    findings.push(match &seen.archiver_fails {
        (count, Some(file)) => warning(
            "pg_stat_archiver",
            format!("archiving fails: {count} time(s) so far, last for {file}, and nothing was archived since"),
            "see the server's log for the message of pitr wal push".to_owned(),
        ),
        (_, None) => good("pg_stat_archiver", "archiving does not fail".to_owned()),
    });
    findings.push(replication(seen, get("max_wal_senders")));
    findings.push(match get("full_page_writes") {
        "off" => warning(
            "full_page_writes",
            "full_page_writes is off: a page torn by a crash or by a backup stays torn".to_owned(),
            alter("full_page_writes", "on", RELOAD),
        ),
        _ => good("full_page_writes", "full_page_writes is on".to_owned()),
    });
    findings.push(match get("fsync") {
        "off" => warning(
            "fsync",
            "fsync is off: a crash of the machine destroys the database".to_owned(),
            alter("fsync", "on", RELOAD),
        ),
        _ => good("fsync", "fsync is on".to_owned()),
    });
    findings.push(match get("data_checksums") {
        "off" => warning(
            "data_checksums",
            "pages have no checksums: damage on disk is backed up unnoticed".to_owned(),
            "stop the server, run pg_checksums --enable -D DATA_DIRECTORY, start it again".to_owned(),
        ),
        _ => good("data_checksums", "pages have checksums".to_owned()),
    });
    findings.push(match get("archive_timeout") {
        "0" => hint(
            "archive_timeout",
            "archive_timeout is 0: on a quiet server the last transactions wait for a full segment, however long that takes",
            alter("archive_timeout", "60s", RELOAD),
        ),
        seconds => good("archive_timeout", format!("a segment is archived after {seconds} s at the latest")),
    });
    if seen.plain_text {
        findings.push(warning(
            "sslmode",
            "the connection is not encrypted: the whole database crosses the network in plain text".to_owned(),
            "set ssl = on in the server and sslmode=verify-full in the URL".to_owned(),
        ));
    }
    findings
}

fn version(seen: &Observed) -> Finding {
    let major = seen.version_num / 10_000;
    if (OLDEST_MAJOR..=NEWEST_MAJOR).contains(&major) {
        return good("version", format!("PostgreSQL {major} is supported"));
    }
    failure("version", &format!("PostgreSQL {major} is not supported"), format!("use {OLDEST_MAJOR} to {NEWEST_MAJOR}"))
}

fn archiver_command(command: &str, library: &str, expected: &str) -> Finding {
    let set = alter("archive_command", expected, RELOAD);
    if !library.is_empty() {
        return failure(
            "archive_command",
            &format!("archive_library is {library:?}, so archive_command is not used"),
            format!("ALTER SYSTEM RESET archive_library;\n{set}"),
        );
    }
    match command {
        "" | "(disabled)" => {
            failure("archive_command", "archive_command is empty: nothing is archived, and the log piles up", set)
        }
        command if command == expected => good("archive_command", format!("archive_command is {command:?}")),
        command if calls_pitr(command) => {
            hint("archive_command", &format!("archive_command is {command:?}, not the expected one"), set)
        }
        command => failure("archive_command", &format!("archive_command does not call pitr: {command:?}"), set),
    }
}

fn calls_pitr(command: &str) -> bool {
    command.split([' ', '\'', '"', ';', '&', '(']).any(|word| word == "pitr" || word.ends_with("/pitr"))
}

fn replication(seen: &Observed, max_wal_senders: &str) -> Finding {
    const TOPIC: &str = "replication";
    if max_wal_senders == "0" {
        return failure(
            TOPIC,
            "max_wal_senders is 0: no base backup can be taken",
            alter("max_wal_senders", "10", RESTART),
        );
    }
    if !seen.may_replicate {
        let fix = format!("ALTER ROLE {} REPLICATION;", crate::grants::identifier(&seen.role));
        return failure(TOPIC, &format!("role {:?} may not take base backups", seen.role), fix);
    }
    match &seen.walsender {
        Some(error) => failure(
            TOPIC,
            &format!("no base backup can be taken: {error}"),
            format!(
                "# pg_hba.conf, then SELECT pg_reload_conf();\nhost replication {} ADDRESS/32 scram-sha-256",
                seen.role
            ),
        ),
        None => good(TOPIC, format!("role {:?} may take base backups", seen.role)),
    }
}

const RESTART: &str = "-- then restart the server";
const RELOAD: &str = "SELECT pg_reload_conf();";

fn alter(name: &str, value: &str, then: &str) -> String {
    format!("ALTER SYSTEM SET {name} = '{}';\n{then}", value.replace('\'', "''"))
}

fn good(topic: &'static str, message: String) -> Finding {
    Finding { severity: Severity::Good, topic, message, fix: None }
}

fn hint(topic: &'static str, message: &str, fix: String) -> Finding {
    Finding { severity: Severity::Hint, topic, message: message.to_owned(), fix: Some(fix) }
}

fn warning(topic: &'static str, message: String, fix: String) -> Finding {
    Finding { severity: Severity::Warning, topic, message, fix: Some(fix) }
}

fn failure(topic: &'static str, message: &str, fix: String) -> Finding {
    Finding { severity: Severity::Failure, topic, message: message.to_owned(), fix: Some(fix) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn good_server() -> Observed {
        let settings = [
            ("wal_level", "replica"),
            ("archive_mode", "on"),
            ("archive_command", "pitr wal push %p"),
            ("archive_library", ""),
            ("archive_timeout", "60"),
            ("max_wal_senders", "10"),
            ("data_checksums", "on"),
            ("full_page_writes", "on"),
            ("fsync", "on"),
        ];
        Observed {
            version_num: 150_018,
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            role: "pitr".to_owned(),
            may_replicate: true,
            ..Observed::default()
        }
    }

    fn one_bad(seen: &Observed) -> Finding {
        let bad: Vec<_> = judge(seen, "pitr wal push %p").into_iter().filter(|f| f.severity > Severity::Good).collect();
        assert_eq!(bad.len(), 1, "{bad:?}");
        bad.into_iter().next().unwrap()
    }

    #[test]
    fn a_good_server_has_nothing_to_fix() {
        let findings = judge(&good_server(), "pitr wal push %p");
        assert!(
            findings.iter().all(|finding| finding.severity == Severity::Good && finding.fix.is_none()),
            "{findings:?}"
        );
    }

    #[test]
    fn each_wrong_setting_is_one_finding_with_its_fix() {
        for (name, value, severity, fix) in [
            ("wal_level", "minimal", Severity::Failure, "SET wal_level = 'replica'"),
            ("archive_mode", "off", Severity::Failure, "SET archive_mode = 'on'"),
            ("archive_command", "", Severity::Failure, "SET archive_command = 'pitr wal push %p'"),
            ("archive_command", "cp %p /srv/pitr-archive/%f", Severity::Failure, "SET archive_command"),
            ("archive_command", "/usr/bin/pitr wal push %p", Severity::Hint, "SET archive_command"),
            ("archive_library", "basic_archive", Severity::Failure, "RESET archive_library"),
            ("archive_timeout", "0", Severity::Hint, "SET archive_timeout"),
            ("max_wal_senders", "0", Severity::Failure, "SET max_wal_senders"),
            ("data_checksums", "off", Severity::Warning, "pg_checksums --enable"),
            ("full_page_writes", "off", Severity::Warning, "SET full_page_writes"),
            ("fsync", "off", Severity::Warning, "SET fsync"),
        ] {
            let mut seen = good_server();
            seen.settings.insert(name.to_owned(), value.to_owned());
            let finding = one_bad(&seen);
            assert_eq!(finding.severity, severity, "{name}");
            assert!(finding.fix.as_deref().unwrap().contains(fix), "{finding:?}");
        }
    }

    #[test]
    fn rights_version_and_the_archiver_are_looked_at() {
        let change = |change: fn(&mut Observed)| {
            let mut seen = good_server();
            change(&mut seen);
            one_bad(&seen)
        };
        assert!(change(|seen| seen.may_replicate = false).fix.unwrap().contains("ALTER ROLE \"pitr\" REPLICATION"));
        assert!(change(|seen| seen.walsender = Some("refused".into())).fix.unwrap().contains("host replication pitr"));
        assert_eq!(change(|seen| seen.version_num = 120_000).severity, Severity::Failure);
        assert_eq!(change(|seen| seen.archiver_fails = (3, Some("0".into()))).severity, Severity::Warning);
        assert_eq!(change(|seen| seen.plain_text = true).topic, "sslmode");
    }
}
