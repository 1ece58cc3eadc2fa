//! Settings of the target server for the time of the restore.
//!
//! What they were is kept beside the ledger, in the server itself: a restore that goes on after an interruption puts
//! back what there was before the first attempt.

use super::ledger::DATABASE;
use crate::base::format::literal;
use crate::error::Error;
use crate::event::Flavour;
use crate::sql::Sql;

/// One row may be as long as the source lets it be. Until the restore is complete, nothing needs to survive a crash of the
/// machine: the restore is repeated then.
const BOTH: [(&str, &str); 3] =
    [("max_allowed_packet", "1073741824"), ("innodb_flush_log_at_trx_commit", "2"), ("sync_binlog", "0")];
const MYSQL: [(&str, &str); 3] =
    [("replica_parallel_workers", "4"), ("replica_preserve_commit_order", "ON"), ("replica_net_timeout", "60")];
const MARIADB: [(&str, &str); 3] =
    [("slave_parallel_threads", "4"), ("slave_parallel_mode", "optimistic"), ("slave_net_timeout", "60")];

/// MariaDB applies domains side by side, whatever the mode: a transaction may come before one of another domain that it needs.
/// One session applies them in the order of the log.
const ONE_BY_ONE: (&str, &str) = ("slave_parallel_threads", "0");

/// Sets them. A setting that this version does not have, or that we may not change, stays as it is. `has_domains` tells that
/// the log of MariaDB has transactions of several domains.
pub async fn set(session: &mut Sql, flavour: Flavour, has_domains: bool) -> Result<(), Error> {
    stop_events(session, flavour).await?;
    session
        .execute(&format!(
            "CREATE TABLE IF NOT EXISTS {DATABASE}.settings (name VARCHAR(64) PRIMARY KEY, value TEXT NOT NULL) ENGINE = InnoDB"
        ))
        .await?;
    let own = if flavour == Flavour::Mysql { MYSQL } else { MARIADB };
    let one_by_one = (flavour == Flavour::Mariadb && has_domains).then_some(ONE_BY_ONE);
    for (name, value) in BOTH.into_iter().chain(own).chain(one_by_one) {
        let before = format!("INSERT IGNORE INTO {DATABASE}.settings VALUES ('{name}', @@GLOBAL.{name})");
        let set = format!("SET GLOBAL {name} = {value}");
        for statement in [before, set] {
            if let Err(error) = session.execute(&statement).await {
                tracing::debug!(%error, name, "a setting stays as it is");
                break;
            }
        }
    }
    Ok(())
}

/// For good: events of the source must not fire in a copy of it, also not after its next start.
async fn stop_events(session: &mut Sql, flavour: Flavour) -> Result<(), Error> {
    let now = session.value("SELECT @@GLOBAL.event_scheduler").await?;
    if matches!(now.as_deref(), Some("OFF" | "DISABLED")) {
        return Ok(());
    }
    if flavour == Flavour::Mysql {
        match session.execute("SET PERSIST event_scheduler = OFF").await {
            Ok(_) => return Ok(()),
            Err(error) => tracing::debug!(%error, "events are off until the next start of the server"),
        }
    }
    session.execute("SET GLOBAL event_scheduler = OFF").await?;
    Ok(())
}

/// Puts back what there was before the first attempt.
pub async fn reset(session: &mut Sql) -> Result<(), Error> {
    for row in session.rows(&format!("SELECT name, value FROM {DATABASE}.settings ORDER BY name")).await? {
        let (Some(name), Some(value)) = (row.text(0), row.text(1)) else { continue };
        let number = value.bytes().all(|byte| byte.is_ascii_digit());
        let value = if number { value } else { literal(&value) };
        if let Err(error) = session.execute(&format!("SET GLOBAL {name} = {value}")).await {
            tracing::warn!(%error, name, "a setting of the server could not be put back");
        }
    }
    Ok(())
}
