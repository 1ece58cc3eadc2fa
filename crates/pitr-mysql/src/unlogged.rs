//! What a server changes without writing it to its binary log. No archive of the log has it, so it is said at every occasion.

use crate::Error;
use crate::event::Flavour;
use crate::server::{at_least, log_status};
use crate::sql::Sql;

/// What a server leaves out of its log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unlogged {
    /// Options that keep databases out of it, with their values.
    pub filters: Vec<(String, String)>,
    /// True if what it replicates from another server is left out.
    pub replicated: bool,
    /// True if it replicates from another server now.
    pub replicates: bool,
}

impl Unlogged {
    /// Asks a server.
    pub async fn ask(sql: &mut Sql, flavour: Flavour, version: &str) -> Result<Self, Error> {
        let status = sql.named_row(log_status(flavour, version)).await?.unwrap_or_default();
        let filter = |(column, option): (&str, &str)| {
            let value = status.get(column).filter(|value| !value.is_empty())?;
            Some((option.to_owned(), value.clone()))
        };
        let columns = [("Binlog_Do_DB", "binlog_do_db"), ("Binlog_Ignore_DB", "binlog_ignore_db")];
        let updates = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_replica_updates', 'log_slave_updates')";
        let updates = sql.row(updates).await?.and_then(|row| row.text(1));
        let replicates = sql.row(replication(flavour, version)).await?.is_some();
        let filters = columns.into_iter().filter_map(filter).collect();
        Ok(Self { filters, replicated: updates.as_deref() == Some("OFF"), replicates })
    }

    /// What of it makes a restore fall short, as whole sentences.
    pub fn alarms(&self) -> Vec<String> {
        let mut alarms: Vec<_> = self.filters.iter().map(|(option, value)| about_filter(option, value)).collect();
        if self.replicated && self.replicates {
            alarms.push(ABOUT_REPLICATED.to_owned());
        }
        alarms
    }
}

/// A replica that keeps what it replicates to itself.
pub const ABOUT_REPLICATED: &str = "the server is a replica, and what it replicates is not in its log (log_replica_updates, of MariaDB log_slave_updates, is off): no restore brings it back";

/// A filter of databases.
pub fn about_filter(option: &str, value: &str) -> String {
    format!("{option} is {value}: what changes in the databases that it keeps out of the log, no restore brings back")
}

/// A statement that gives a row if the server replicates. MariaDB shows its status under a right that nothing else needs.
fn replication(flavour: Flavour, version: &str) -> &'static str {
    match flavour {
        Flavour::Mariadb => "SELECT id FROM information_schema.processlist WHERE command LIKE 'Slave%' LIMIT 1",
        Flavour::Mysql if at_least(version, 8, 1) => "SHOW REPLICA STATUS",
        Flavour::Mysql => "SHOW SLAVE STATUS",
    }
}
