//! The restored server, told to replicate from us and to forget it again.

use std::net::SocketAddr;

use super::ReplayError;
use crate::error::Error;
use crate::event::Flavour;
use crate::gtid::{GtidSet, MysqlSet};
use crate::limits::REPLAY_POLL;
use crate::sql::{Sql, SqlError};

/// Where a replica begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// By what it has executed.
    Executed,
    /// At an offset of a file, where transactions have no names.
    At {
        /// Name of the file.
        file: String,
        /// Offset in it.
        offset: u64,
    },
}

/// How far a replica is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// File and offset that are applied, in the source's words.
    pub applied: Option<(String, u64)>,
    /// Why it stopped, if it did.
    pub failure: Option<String>,
    /// Why its applier stopped, if it did.
    pub broken: Option<String>,
    /// Why it cannot reach us at the moment, if it cannot.
    pub unreachable: Option<String>,
    /// True while its applier runs.
    pub applying: bool,
    /// True if everything that it has received is applied.
    pub idle: bool,
    /// What its applier does, in the server's words.
    pub doing: String,
}

/// The restored server.
#[derive(Debug)]
pub struct Target<'a> {
    /// An administrator's session that writes no log.
    pub session: &'a mut Sql,
    /// Its family.
    pub flavour: Flavour,
}

impl Target<'_> {
    /// What it has executed.
    pub async fn executed(&mut self) -> Result<GtidSet, Error> {
        let variable = match self.flavour {
            Flavour::Mysql => "gtid_executed",
            Flavour::Mariadb => "gtid_slave_pos",
        };
        let text = self.session.value(&format!("SELECT @@GLOBAL.{variable}")).await?.unwrap_or_default();
        self.parse(&text.replace('\n', ""))
    }

    /// A set in the words of its family.
    pub fn parse(&self, text: &str) -> Result<GtidSet, Error> {
        Ok(match self.flavour {
            Flavour::Mysql => GtidSet::Mysql(text.parse()?),
            Flavour::Mariadb => GtidSet::Maria(text.parse()?),
        })
    }

    /// Makes an empty log begin after `executed`, as if the server had executed it.
    pub async fn set_executed(&mut self, executed: &str) -> Result<(), Error> {
        match self.flavour {
            Flavour::Mysql => {
                // The new words since 8.2.
                self.either("RESET BINARY LOGS AND GTIDS", "RESET MASTER").await?;
                if !executed.is_empty() {
                    self.session.execute(&format!("SET GLOBAL gtid_purged = '{executed}'")).await?;
                }
            }
            Flavour::Mariadb => {
                match self.session.execute("RESET MASTER").await {
                    // The binary log is off.
                    Err(error) if error.code() == Some(1186) => {}
                    other => drop(other?),
                }
                self.session.execute(&format!("SET GLOBAL gtid_slave_pos = '{executed}'")).await?;
            }
        }
        Ok(())
    }

    /// Counts transactions as executed that are not to be: each becomes an empty one.
    pub async fn pass_over(&mut self, unwanted: &MysqlSet) -> Result<(), Error> {
        let GtidSet::Mysql(executed) = self.executed().await? else { return Ok(()) };
        let mut left = unwanted.clone();
        left.subtract(&executed);
        if left.is_empty() {
            return Ok(());
        }
        for (source, tag, numbers) in left.iter() {
            for number in numbers.iter().flat_map(|(start, end)| start..end) {
                let name = if tag.is_empty() { String::new() } else { format!("{}:", tag.as_str()) };
                self.session.execute(&format!("SET gtid_next = '{source}:{name}{number}'")).await?;
                self.session.execute("BEGIN").await?;
                self.session.execute("COMMIT").await?;
            }
        }
        self.session.execute("SET gtid_next = 'AUTOMATIC'").await?;
        // Into the head of a new file of its log, where it has one: or it would forget them in a crash.
        self.session.execute("FLUSH NO_WRITE_TO_BINLOG BINARY LOGS").await?;
        Ok(())
    }

    /// Makes it a replica of `source` that has not begun.
    pub async fn prepare(
        &mut self,
        source: SocketAddr,
        user: &str,
        password: &str,
        begin: &Begin,
    ) -> Result<(), Error> {
        self.forget().await?;
        let (host, port) = (source.ip(), source.port());
        let words = |prefix: &str, begin: String| {
            format!(
                "{prefix}_HOST = '{host}', {prefix}_PORT = {port}, {prefix}_HEARTBEAT_PERIOD = 0, {prefix}_CONNECT_RETRY = 1, {prefix}_SSL = 0, {begin}"
            )
        };
        let at = |prefix: &str, file: &str, offset: u64| {
            format!("{prefix}_LOG_FILE = '{file}', {prefix}_LOG_POS = {}", offset.max(4))
        };
        let change = match (self.flavour, begin) {
            (Flavour::Mysql, begin) => {
                let begin = match begin {
                    Begin::Executed => "SOURCE_AUTO_POSITION = 1".to_owned(),
                    Begin::At { file, offset } => format!("SOURCE_AUTO_POSITION = 0, {}", at("SOURCE", file, *offset)),
                };
                format!("CHANGE REPLICATION SOURCE TO {}, SOURCE_RETRY_COUNT = 1000", words("SOURCE", begin))
            }
            (Flavour::Mariadb, begin) => {
                let begin = match begin {
                    Begin::Executed => "MASTER_USE_GTID = slave_pos".to_owned(),
                    Begin::At { file, offset } => format!("MASTER_USE_GTID = no, {}", at("MASTER", file, *offset)),
                };
                format!(
                    "CHANGE MASTER TO {}, MASTER_USER = '{user}', MASTER_PASSWORD = '{password}'",
                    words("MASTER", begin)
                )
            }
        };
        self.session.execute_bytes(change.as_bytes(), "CHANGE REPLICATION SOURCE TO pitr").await?;
        Ok(())
    }

    /// Begins to replicate.
    pub async fn follow(&mut self, user: &str, password: &str) -> Result<(), Error> {
        match self.flavour {
            Flavour::Mysql => {
                // Given here, the password is not written to a table.
                let start = format!("START REPLICA USER = '{user}' PASSWORD = '{password}'");
                self.session.execute_bytes(start.as_bytes(), "START REPLICA").await?;
            }
            Flavour::Mariadb => drop(self.session.execute("START SLAVE").await?),
        }
        Ok(())
    }

    /// How far it is.
    pub async fn status(&mut self) -> Result<Status, Error> {
        let words = if self.flavour == Flavour::Mysql { "SHOW REPLICA STATUS" } else { "SHOW SLAVE STATUS" };
        let Some(row) = self.session.named_row(words).await? else { return Ok(Status::default()) };
        let value = |names: [&str; 2]| names.iter().find_map(|name| row.get(*name)).map(String::as_str);
        let number = |name: &str| row.get(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let broken = row.get("Last_SQL_Error").filter(|_| number("Last_SQL_Errno") != 0).cloned();
        let mut failure = broken.clone();
        if failure.is_none()
            && value(["Replica_IO_Running", "Slave_IO_Running"]) == Some("No")
            && number("Last_IO_Errno") != 0
        {
            failure = row.get("Last_IO_Error").cloned();
        }
        let place = |file: [&str; 2], offset: [&str; 2]| {
            let offset = value(offset).and_then(|text| text.parse().ok());
            value(file).map(str::to_owned).zip(offset)
        };
        let applied =
            place(["Relay_Source_Log_File", "Relay_Master_Log_File"], ["Exec_Source_Log_Pos", "Exec_Master_Log_Pos"]);
        let received = place(["Source_Log_File", "Master_Log_File"], ["Read_Source_Log_Pos", "Read_Master_Log_Pos"]);
        let unreachable = row.get("Last_IO_Error").filter(|_| number("Last_IO_Errno") != 0).cloned();
        let applying = value(["Replica_SQL_Running", "Slave_SQL_Running"]) == Some("Yes");
        let doing = value(["Replica_SQL_Running_State", "Slave_SQL_Running_State"]).unwrap_or_default().to_owned();
        let idle = applied == received;
        Ok(Status { applied, failure, broken, unreachable, applying, idle, doing })
    }

    /// How far it is for certain, after an interruption: what several sessions applied at the same time is completed up to
    /// one place first, from the log that the server has already.
    pub async fn settled(&mut self) -> Result<Status, Error> {
        let stop = self.either("STOP REPLICA", "STOP SLAVE").await;
        self.ignoring_no_replica(stop)?;
        if self.flavour == Flavour::Mysql && self.status().await?.applied.is_some() {
            self.session.execute("START REPLICA SQL_THREAD UNTIL SQL_AFTER_MTS_GAPS").await?;
            loop {
                let status = self.status().await?;
                // That it reaches nobody meanwhile does not matter.
                if let Some(failure) = status.broken {
                    return Err(ReplayError::Replica(failure).into());
                }
                // Where nothing is left to read it does not notice that it has arrived.
                if !status.applying || status.idle {
                    break;
                }
                tokio::time::sleep(REPLAY_POLL).await;
            }
            let stop = self.either("STOP REPLICA", "STOP SLAVE").await;
            self.ignoring_no_replica(stop)?;
        }
        self.status().await
    }

    /// Stops replicating, and leaves nothing of it behind.
    pub async fn forget(&mut self) -> Result<(), Error> {
        let stop = self.either("STOP REPLICA", "STOP SLAVE").await;
        self.ignoring_no_replica(stop)?;
        let reset = self.either("RESET REPLICA ALL", "RESET SLAVE ALL").await;
        self.ignoring_no_replica(reset)
    }

    /// XA transactions that were prepared before the cut and neither committed nor rolled back.
    pub async fn prepared(&mut self) -> Result<Vec<String>, Error> {
        let rows = self.session.rows("XA RECOVER").await?;
        Ok(rows.iter().filter_map(|row| row.text(3)).collect())
    }

    /// Events that do not fire here because a replica has them from its source: `SLAVESIDE_DISABLED`, `REPLICA_SIDE_DISABLED`.
    pub async fn foreign_events(&mut self) -> Result<Vec<String>, Error> {
        let asked = "SELECT CONCAT(event_schema, '.', event_name) FROM information_schema.events WHERE status LIKE '%SIDE%DISABLED' ORDER BY 1";
        Ok(self.session.rows(asked).await?.iter().filter_map(|row| row.text(0)).collect())
    }

    fn ignoring_no_replica(&self, result: Result<(), SqlError>) -> Result<(), Error> {
        match result {
            // This server was never told to replicate.
            Err(error) if matches!(error.code(), Some(1200 | 3074)) => Ok(()),
            other => Ok(other?),
        }
    }

    /// MySQL's words, or those that MariaDB and older versions have kept.
    async fn either(&mut self, new: &str, old: &str) -> Result<(), SqlError> {
        if self.flavour == Flavour::Mysql {
            match self.session.execute(new).await {
                Err(error) if error.code() == Some(1064) => {}
                other => return other.map(drop),
            }
        }
        self.session.execute(old).await.map(drop)
    }
}
