//! What a server says of itself and of its binary log.

use std::time::Duration;

use crate::connect::Settings;
use crate::event::Flavour;
use crate::gtid::GtidSet;
use crate::position::LogFile;
use crate::sql::Sql;
use crate::unlogged::Unlogged;
use crate::{Error, ServerError};

/// A server as it was a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The family.
    pub flavour: Flavour,
    /// Its version.
    pub version: String,
    /// Its `server_id`.
    pub server_id: u32,
    /// Its `server_uuid`, from MySQL.
    pub uuid: Option<String>,
    /// The files of its log and their lengths in bytes, oldest first. Never empty.
    pub files: Vec<(LogFile, u64)>,
    /// The file that it is writing.
    pub current: LogFile,
    /// How far it has written that, in bytes.
    pub end: u64,
    /// Executed set.
    pub executed: GtidSet,
    /// Age at which it removes its files; `None` if it does not.
    pub expiry: Option<Duration>,
    /// What it does not write to its log.
    pub unlogged: Unlogged,
}

impl Server {
    /// Asks a server.
    pub async fn ask(settings: &Settings) -> Result<Self, Error> {
        let session = settings.open().await?;
        let hello = session.hello;
        let mut sql = Sql::new(session.wire);
        let (version, flavour) = (hello.version, hello.flavour);
        let server_id =
            sql.value("SELECT @@GLOBAL.server_id").await?.and_then(|id| id.parse().ok()).unwrap_or_default();
        let uuid = match flavour {
            Flavour::Mysql => sql.value("SELECT @@GLOBAL.server_uuid").await?,
            Flavour::Mariadb => None,
        };
        let log_bin = sql.value("SELECT @@GLOBAL.log_bin").await?;
        if log_bin.as_deref() != Some("1") {
            return Err(ServerError::NoBinaryLog.into());
        }
        let executed = executed(&mut sql, flavour).await?;
        let (current, end) = log_end(&mut sql, flavour, &version).await?;
        let mut files = Vec::new();
        for row in sql.rows("SHOW BINARY LOGS").await? {
            let file = row.text(0).as_deref().and_then(LogFile::parse).ok_or(ServerError::OddLogName)?;
            files.push((file, row.number(1).unwrap_or_default()));
        }
        let expiry = sql.row("SHOW GLOBAL VARIABLES LIKE 'binlog_expire_logs_seconds'").await?;
        let seconds = expiry.and_then(|row| row.number::<f64>(1)).filter(|seconds| *seconds >= 1.0);
        let expiry = seconds.map(Duration::from_secs_f64);
        let unlogged = Unlogged::ask(&mut sql, flavour, &version).await?;
        sql.close().await;
        if files.is_empty() {
            return Err(ServerError::NoBinaryLog.into());
        }
        Ok(Self { flavour, version, server_id, uuid, files, current, end, executed, expiry, unlogged })
    }

    /// What tells it from other servers.
    pub fn identity(&self) -> String {
        match &self.uuid {
            Some(uuid) => uuid.clone(),
            None => format!("server {}", self.server_id),
        }
    }

    /// The same, short enough for the name of a history.
    pub fn short_name(&self) -> String {
        match &self.uuid {
            Some(uuid) => uuid.chars().filter(char::is_ascii_hexdigit).take(8).collect(),
            None => format!("s{}", self.server_id),
        }
    }

    /// The length of a file, if the server still has it.
    pub fn length(&self, file: &LogFile) -> Option<u64> {
        self.files.iter().find(|(name, _)| name == file).map(|(_, length)| *length)
    }

    /// The oldest file that it still has.
    pub fn oldest(&self) -> Option<&LogFile> {
        self.files.first().map(|(file, _)| file)
    }
}

/// The executed set of a server.
pub async fn executed(sql: &mut Sql, flavour: Flavour) -> Result<GtidSet, Error> {
    Ok(match flavour {
        Flavour::Mysql => {
            let text = sql.value("SELECT @@GLOBAL.gtid_executed").await?.unwrap_or_default();
            GtidSet::Mysql(text.parse()?)
        }
        Flavour::Mariadb => {
            let text = sql.value("SELECT @@GLOBAL.gtid_binlog_pos").await?.unwrap_or_default();
            GtidSet::Maria(text.parse()?)
        }
    })
}

/// The statement that shows the end of the log.
pub fn log_status(flavour: Flavour, version: &str) -> &'static str {
    match flavour {
        // Renamed in 8.2; the old one went in 8.4.
        Flavour::Mysql if at_least(version, 8, 2) => "SHOW BINARY LOG STATUS",
        _ => "SHOW MASTER STATUS",
    }
}

/// The file that a server is writing, and how far.
pub async fn log_end(sql: &mut Sql, flavour: Flavour, version: &str) -> Result<(LogFile, u64), Error> {
    let row: Option<_> = sql.row(log_status(flavour, version)).await?;
    let row = row.ok_or(ServerError::NoBinaryLog)?;
    let file = row.text(0).as_deref().and_then(LogFile::parse).ok_or(ServerError::OddLogName)?;
    Ok((file, row.number(1).ok_or(ServerError::OddLogName)?))
}

/// Compares a version by its numbers: there are 8.4, 9.7 and 26.10.
pub fn at_least(version: &str, major: u32, minor: u32) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

#[cfg(test)]
mod tests {
    use super::at_least;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(at_least("9.7.4-2", 8, 2) && at_least("26.10.0", 8, 2) && at_least("8.4.0", 8, 2));
        assert!(!at_least("8.0.45", 8, 2) && !at_least("10.11.18-MariaDB", 10, 12) && !at_least("", 5, 0));
    }
}
