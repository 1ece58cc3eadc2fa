//! Is a server set up to be protected? Every finding comes with the exact fix.
//!
//! [`check`] asks, [`judge`] decides: the second is a pure function of what the first has seen.

use std::collections::{BTreeMap, BTreeSet};

pub use pitr_core::{Finding, Severity};

use crate::Error;
use crate::connect::{ConnectError, Host, Settings};
use crate::event::Flavour;
use crate::grants::{account, rights};
use crate::limits::{QUERY_TIMEOUT, SHORT_EXPIRY};
use crate::server::at_least;
use crate::sql::Sql;
use crate::unlogged::{ABOUT_REPLICATED, Unlogged, about_filter};

/// What the server said, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The family.
    pub flavour: Flavour,
    /// The version.
    pub version: String,
    /// Values of [`ASKED`] settings; those that this version has.
    pub settings: BTreeMap<String, String>,
    /// The account that we are, as `user@host`.
    pub account: String,
    /// Our rights on everything, in capitals.
    pub rights: BTreeSet<String>,
    /// `server_id`s of the replicas that are connected, and what they call themselves; `None` if we may not see them.
    pub replicas: Option<Vec<(u32, String)>>,
    /// What is not written to the log.
    pub unlogged: Unlogged,
    /// Tables of users in engines without transactions: how many, and one of them.
    pub foreign_tables: (u64, Option<String>),
    /// True if the connection goes over a network in plain text.
    pub plain_text: bool,
}

/// The settings that matter.
pub const ASKED: [&str; 16] = [
    "log_bin",
    "server_id",
    "binlog_format",
    "binlog_row_image",
    "binlog_row_value_options",
    "binlog_checksum",
    "sync_binlog",
    "innodb_flush_log_at_trx_commit",
    "binlog_expire_logs_seconds",
    "binlog_expire_logs_auto_purge",
    "expire_logs_days",
    "gtid_mode",
    "enforce_gtid_consistency",
    "gtid_strict_mode",
    "binlog_storage_engine",
    "binlog_annotate_row_events",
];

/// Looks at a server. `server_id` is the one that we stream under.
///
/// # Errors
/// Only if the server cannot be asked at all; what is wrong with it is in the findings.
pub async fn check(settings: &Settings, server_id: u32) -> Result<Vec<Finding>, Error> {
    let session = settings.open().await?;
    let local = match &settings.host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    };
    let plain_text = !session.private && !local;
    let (version, flavour) = (session.hello.version, session.hello.flavour);
    let mut sql = Sql::new(session.wire);
    let asked = tokio::time::timeout(QUERY_TIMEOUT, observe(&mut sql, flavour, version)).await;
    let timeout = |_| ConnectError::Timeout { target: settings.to_string(), seconds: QUERY_TIMEOUT.as_secs() };
    let seen = asked.map_err(timeout)??;
    sql.close().await;
    Ok(judge(&Observed { plain_text, ..seen }, server_id))
}

async fn observe(sql: &mut Sql, flavour: Flavour, version: String) -> Result<Observed, Error> {
    let names = ASKED.map(|name| format!("'{name}'")).join(", ");
    let mut settings = BTreeMap::new();
    for row in sql.rows(&format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})")).await? {
        if let (Some(name), Some(value)) = (row.text(0), row.text(1)) {
            settings.insert(name.to_ascii_lowercase(), value);
        }
    }
    let account = sql.value("SELECT CURRENT_USER()").await?.unwrap_or_default();
    let mut rights = BTreeSet::new();
    for row in sql.rows("SHOW GRANTS").await? {
        rights.extend(global_rights(&row.text(0).unwrap_or_default()));
    }
    let replicas = replicas(sql, flavour, &version).await;
    let unlogged = Unlogged::ask(sql, flavour, &version).await?;
    let foreign = "FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND engine IS NOT NULL \
         AND engine NOT IN ('InnoDB', 'ROCKSDB', 'TokuDB') \
         AND table_schema NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')";
    let count = sql.value(&format!("SELECT COUNT(*) {foreign}")).await?.and_then(|n| n.parse().ok()).unwrap_or(0);
    let one = format!("SELECT CONCAT(table_schema, '.', table_name, ' (', engine, ')') {foreign} LIMIT 1");
    let foreign_tables = (count, sql.value(&one).await?);
    Ok(Observed { flavour, version, settings, account, rights, replicas, unlogged, foreign_tables, plain_text: false })
}

/// The replicas that are connected; `None` if we may not ask, which is a right that nothing else needs.
async fn replicas(sql: &mut Sql, flavour: Flavour, version: &str) -> Option<Vec<(u32, String)>> {
    let statement = match flavour {
        Flavour::Mysql if at_least(version, 8, 1) => "SHOW REPLICAS",
        _ => "SHOW SLAVE HOSTS",
    };
    match sql.rows(statement).await {
        Ok(rows) => Some(rows.iter().filter_map(|row| Some((row.number(0)?, row.text(1)?))).collect()),
        Err(error) => {
            tracing::debug!(%error, "the replicas of the server are not visible");
            None
        }
    }
}

/// The rights that a line of `SHOW GRANTS` gives on everything.
fn global_rights(line: &str) -> Vec<String> {
    let Some((rights, _)) = line.strip_prefix("GRANT ").and_then(|rest| rest.split_once(" ON *.*")) else {
        return Vec::new();
    };
    rights.split(',').map(|right| right.trim().to_ascii_uppercase()).collect()
}

/// Decides what is good, and what is not.
pub fn judge(seen: &Observed, server_id: u32) -> Vec<Finding> {
    let get = |name: &str| seen.settings.get(name).map_or("", String::as_str);
    let set = |name: &str, value: &str| set(seen.flavour, name, value);
    let mut findings = vec![version(seen)];
    findings.push(match get("log_bin") {
        "ON" | "1" => good("log_bin", "the server keeps a binary log".to_owned()),
        _ => failure(
            "log_bin",
            "log_bin is off: there is nothing to archive".to_owned(),
            "# my.cnf, then restart the server\n[mysqld]\nlog_bin = binlog\nserver_id = 1".to_owned(),
        ),
    });
    findings.push(match get("server_id") {
        "0" | "" => failure("server_id", "server_id is 0: no replica may connect".to_owned(), set("server_id", "1")),
        id => good("server_id", format!("server_id is {id}")),
    });
    findings.push(match get("binlog_format") {
        // Gone in newer versions, which know rows only.
        "ROW" | "" => good("binlog_format", "changes are logged as rows".to_owned()),
        format => warning(
            "binlog_format",
            format!("binlog_format is {format}: a statement may change other rows when it is replayed"),
            set("binlog_format", "ROW"),
        ),
    });
    findings.push(match get("binlog_row_image") {
        "FULL" | "" => good("binlog_row_image", "rows are logged whole".to_owned()),
        image => hint(
            "binlog_row_image",
            format!("binlog_row_image is {image}: a replay is exact, but no inverse can be made of what is logged"),
            set("binlog_row_image", "FULL"),
        ),
    });
    findings.push(match get("binlog_checksum") {
        "NONE" => warning(
            "binlog_checksum",
            "binlog_checksum is NONE: damage on the way from the server is not noticed".to_owned(),
            set("binlog_checksum", "CRC32"),
        ),
        checksum => good("binlog_checksum", format!("events have checksums ({checksum})")),
    });
    findings.push(durability(get("sync_binlog"), get("innodb_flush_log_at_trx_commit"), seen.flavour));
    findings.push(expiry(seen));
    findings.push(identifiers(seen));
    findings.push(identity(seen, server_id));
    findings.extend(unlogged(seen));
    findings.push(match &seen.foreign_tables {
        (0, _) => good("engines", "all tables are transactional".to_owned()),
        (count, one) => warning(
            "engines",
            format!(
                "{count} table(s) have no transactions, such as {}: writes to them wait while a base is begun, or it is not consistent",
                one.as_deref().unwrap_or_default()
            ),
            "ALTER TABLE … ENGINE = InnoDB;".to_owned(),
        ),
    });
    findings.push(may(seen));
    if seen.plain_text {
        findings.push(warning(
            "ssl-mode",
            "the connection is not encrypted: the whole database crosses the network in plain text".to_owned(),
            "switch TLS on in the server, and set ssl-mode=verify_identity in the URL".to_owned(),
        ));
    }
    findings
}

fn version(seen: &Observed) -> Finding {
    let (name, supported) = match seen.flavour {
        Flavour::Mysql => ("MySQL", at_least(&seen.version, 8, 0)),
        Flavour::Mariadb => ("MariaDB", at_least(&seen.version, 10, 5)),
    };
    // Pages inside of InnoDB instead of files: there is nothing to be identical with.
    let engine = seen.settings.get("binlog_storage_engine").filter(|engine| !engine.is_empty());
    match engine {
        Some(engine) => failure(
            "version",
            format!("the binary log is kept in storage engine {engine}, which is not supported"),
            "unset binlog_storage_engine and restart the server".to_owned(),
        ),
        None if supported => good("version", format!("{name} {} is supported", seen.version)),
        None => failure(
            "version",
            format!("{name} {} is not supported", seen.version),
            "use MySQL 8.0 or later, or MariaDB 10.5 or later".to_owned(),
        ),
    }
}

fn durability(sync_binlog: &str, flush: &str, flavour: Flavour) -> Finding {
    match (sync_binlog, flush) {
        ("1", "1") => good("sync_binlog", "what was committed survives a crash of the machine".to_owned()),
        ("1", _) => hint(
            "innodb_flush_log_at_trx_commit",
            format!("innodb_flush_log_at_trx_commit is {flush}: after a crash of the machine tables may lag the log"),
            set(flavour, "innodb_flush_log_at_trx_commit", "1"),
        ),
        _ => warning(
            "sync_binlog",
            format!(
                "sync_binlog is {sync_binlog}: a crash of the machine loses the end of the log, and the archive may be ahead of the server then"
            ),
            set(flavour, "sync_binlog", "1"),
        ),
    }
}

/// How long the server keeps its log: as long as nothing may stream.
fn expiry(seen: &Observed) -> Finding {
    let get = |name: &str| seen.settings.get(name).map(String::as_str);
    let number = |name: &str| get(name).and_then(|text| text.parse::<f64>().ok()).filter(|number| *number > 0.0);
    let seconds = number("binlog_expire_logs_seconds").or(number("expire_logs_days").map(|days| days * 86_400.0));
    let never = get("binlog_expire_logs_auto_purge") == Some("OFF");
    match seconds.filter(|_| !never) {
        Some(seconds) if seconds < SHORT_EXPIRY.as_secs_f64() => warning(
            "binlog_expire_logs_seconds",
            format!(
                "the server removes its log after {:.1} hours: a stream that is away longer loses log",
                seconds / 3600.0
            ),
            set(seen.flavour, "binlog_expire_logs_seconds", &SHORT_EXPIRY.as_secs().to_string()),
        ),
        Some(seconds) => {
            let days = seconds / 86_400.0;
            good("binlog_expire_logs_seconds", format!("the server keeps its log for {days:.1} days"))
        }
        None => good("binlog_expire_logs_seconds", "the server keeps its log until somebody removes it".to_owned()),
    }
}

fn identifiers(seen: &Observed) -> Finding {
    let get = |name: &str| seen.settings.get(name).map_or("", String::as_str);
    match (seen.flavour, get("gtid_mode"), get("gtid_strict_mode")) {
        (Flavour::Mysql, "ON", _) => good("gtid_mode", "transactions have identifiers".to_owned()),
        (Flavour::Mysql, mode, _) => hint(
            "gtid_mode",
            format!("gtid_mode is {mode}: the log cannot be followed to another server after a switchover"),
            "SET PERSIST enforce_gtid_consistency = ON;\nSET PERSIST gtid_mode = OFF_PERMISSIVE;\nSET PERSIST gtid_mode = ON_PERMISSIVE;\nSET PERSIST gtid_mode = ON;".to_owned(),
        ),
        (Flavour::Mariadb, _, "OFF") => hint(
            "gtid_strict_mode",
            "gtid_strict_mode is off: identifiers may come out of order, and then say less".to_owned(),
            set(seen.flavour, "gtid_strict_mode", "ON"),
        ),
        (Flavour::Mariadb, ..) => good("gtid_strict_mode", "identifiers come in order".to_owned()),
    }
}

fn identity(seen: &Observed, server_id: u32) -> Finding {
    const TOPIC: &str = "replicas";
    let own = seen.settings.get("server_id").map(String::as_str) == Some(&server_id.to_string());
    let others = seen.replicas.as_deref().unwrap_or_default();
    let clash = others.iter().find(|(id, name)| *id == server_id && name != crate::limits::PROGRAM_NAME);
    let fix = || "set sources.NAME.server_id to a number that no other server has".to_owned();
    match clash {
        _ if own => failure(TOPIC, format!("the server has the server_id {server_id} that pitr uses"), fix()),
        Some((id, name)) => failure(TOPIC, format!("replica {name:?} has the server_id {id} that pitr uses"), fix()),
        None if seen.replicas.is_none() => good(TOPIC, format!("pitr uses server_id {server_id}")),
        None => good(TOPIC, format!("pitr uses server_id {server_id}, and no other replica does")),
    }
}

/// What the server changes without a trace in its log.
fn unlogged(seen: &Observed) -> Vec<Finding> {
    let name = if seen.flavour == Flavour::Mysql { "log_replica_updates" } else { "log_slave_updates" };
    let fix = || format!("# my.cnf, then restart the server\n[mysqld]\n{name} = ON");
    let mut findings = vec![match &seen.unlogged {
        Unlogged { replicated: false, .. } => good(name, "what it may replicate is logged, too".to_owned()),
        Unlogged { replicates: true, .. } => failure(name, ABOUT_REPLICATED.to_owned(), fix()),
        _ => hint(
            name,
            format!("{name} is off: if it becomes a replica, what it replicates will not be archived"),
            fix(),
        ),
    }];
    for (option, value) in &seen.unlogged.filters {
        let fix = format!("# my.cnf, then restart the server: remove\n{option} = {value}");
        findings.push(warning("filters", about_filter(option, value), fix));
    }
    findings
}

fn may(seen: &Observed) -> Finding {
    const TOPIC: &str = "rights";
    let has = |right: &str| seen.rights.contains(right) || seen.rights.contains("ALL PRIVILEGES");
    let missing: Vec<_> = rights(seen.flavour).filter(|right| !has(right)).collect();
    if missing.is_empty() {
        return good(TOPIC, format!("account {} has the rights that it needs", seen.account));
    }
    let (user, host) = seen.account.rsplit_once('@').unwrap_or((&seen.account, "%"));
    let list = missing.join(", ");
    let message = format!("account {} lacks {list}", seen.account);
    failure(TOPIC, message, format!("GRANT {list} ON *.* TO {};", account(user, host)))
}

/// A statement that sets a variable for good, as far as the family can.
fn set(flavour: Flavour, name: &str, value: &str) -> String {
    match flavour {
        Flavour::Mysql => format!("SET PERSIST {name} = {value};"),
        Flavour::Mariadb => {
            format!("SET GLOBAL {name} = {value};\n# my.cnf, for the next start\n[mariadb]\n{name} = {value}")
        }
    }
}

fn good(topic: &'static str, message: String) -> Finding {
    Finding { severity: Severity::Good, topic, message, fix: None }
}

fn hint(topic: &'static str, message: String, fix: String) -> Finding {
    Finding { severity: Severity::Hint, topic, message, fix: Some(fix) }
}

fn warning(topic: &'static str, message: String, fix: String) -> Finding {
    Finding { severity: Severity::Warning, topic, message, fix: Some(fix) }
}

fn failure(topic: &'static str, message: String, fix: String) -> Finding {
    Finding { severity: Severity::Failure, topic, message, fix: Some(fix) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn healthy() -> Observed {
        let settings = [
            ("log_bin", "ON"),
            ("server_id", "1"),
            ("binlog_format", "ROW"),
            ("binlog_row_image", "FULL"),
            ("binlog_checksum", "CRC32"),
            ("sync_binlog", "1"),
            ("innodb_flush_log_at_trx_commit", "1"),
            ("binlog_expire_logs_seconds", "2592000"),
            ("gtid_mode", "ON"),
        ];
        Observed {
            flavour: Flavour::Mysql,
            version: "9.7.4".to_owned(),
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            account: "pitr@%".to_owned(),
            rights: rights(Flavour::Mysql).map(str::to_owned).collect(),
            replicas: Some(vec![(4711, "pitr".to_owned())]),
            unlogged: Unlogged::default(),
            foreign_tables: (0, None),
            plain_text: false,
        }
    }

    fn worst(change: impl FnOnce(&mut Observed)) -> (Severity, &'static str) {
        let mut seen = healthy();
        change(&mut seen);
        let findings = judge(&seen, 4711);
        let worst = findings.iter().max_by_key(|finding| finding.severity).unwrap();
        (worst.severity, worst.topic)
    }

    #[test]
    fn a_server_that_is_set_up_gets_no_complaint() {
        assert_eq!(worst(|_| {}).0, Severity::Good);
    }

    #[test]
    fn each_thing_that_is_wrong_is_found_with_its_weight() {
        let setting = |name: &'static str, value: &'static str| {
            worst(move |seen| drop(seen.settings.insert(name.to_owned(), value.to_owned())))
        };
        assert_eq!(setting("log_bin", "OFF"), (Severity::Failure, "log_bin"));
        assert_eq!(setting("server_id", "0"), (Severity::Failure, "server_id"));
        assert_eq!(setting("server_id", "4711"), (Severity::Failure, "replicas"));
        assert_eq!(setting("binlog_format", "STATEMENT"), (Severity::Warning, "binlog_format"));
        assert_eq!(setting("binlog_row_image", "MINIMAL"), (Severity::Hint, "binlog_row_image"));
        assert_eq!(setting("binlog_checksum", "NONE"), (Severity::Warning, "binlog_checksum"));
        assert_eq!(setting("sync_binlog", "0"), (Severity::Warning, "sync_binlog"));
        assert_eq!(setting("binlog_expire_logs_seconds", "3600"), (Severity::Warning, "binlog_expire_logs_seconds"));
        assert_eq!(setting("gtid_mode", "OFF"), (Severity::Hint, "gtid_mode"));
        let clash = |seen: &mut Observed| seen.replicas = Some(vec![(4711, "db2".to_owned())]);
        assert_eq!(worst(clash), (Severity::Failure, "replicas"));
        let lacks = |seen: &mut Observed| seen.rights.retain(|right| right != "RELOAD");
        assert_eq!(worst(lacks), (Severity::Failure, "rights"));
        let filter =
            |seen: &mut Observed| seen.unlogged.filters.push(("binlog_ignore_db".to_owned(), "shop".to_owned()));
        assert_eq!(worst(filter), (Severity::Warning, "filters"));
        let replica = |replicates| {
            worst(move |seen| seen.unlogged = Unlogged { replicated: true, replicates, ..Default::default() })
        };
        assert_eq!(replica(true), (Severity::Failure, "log_replica_updates"));
        assert_eq!(replica(false), (Severity::Hint, "log_replica_updates"));
        assert_eq!(worst(|seen| seen.foreign_tables = (1, None)), (Severity::Warning, "engines"));
        assert_eq!(worst(|seen| seen.version = "5.7.44".to_owned()), (Severity::Failure, "version"));
    }

    #[test]
    fn rights_on_a_single_database_do_not_count() {
        assert_eq!(global_rights("GRANT SELECT, RELOAD ON *.* TO `pitr`@`%`"), ["SELECT", "RELOAD"]);
        assert!(global_rights("GRANT SELECT ON `app`.* TO `pitr`@`%`").is_empty());
    }
}
