//! One moment, seen by several sessions, with its position in the log.
//!
//! The server is brought to a standstill just long enough to open a snapshot in each session and to read the
//! position. MySQL: `FLUSH TABLES WITH READ LOCK`, then `LOCK INSTANCE FOR BACKUP`, which keeps definitions as they
//! are until the end. MariaDB: `BACKUP STAGE`, whose end lets definitions change again; so they are held, and must be
//! read, *before* the moment, and of what is read afterwards each table is checked to be the one of the moment.

use std::time::Duration;

use super::format::Coordinates;
use super::{BaseError, Dial};
use crate::error::Error;
use crate::event::Flavour;
use crate::limits::{LOCK_ATTEMPTS, LOCK_WAIT, LOCK_WAIT_HELD};
use crate::sql::{Sql, SqlError};

/// Sessions that see the same moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Holds what locks there are.
    pub coordinator: Sql,
    /// Each in a transaction that began at that moment.
    pub workers: Vec<Sql>,
    /// Where that moment lies in the log.
    pub coordinates: Coordinates,
    flavour: Flavour,
    held: bool,
}

/// What every session of a dump sets first: bytes as they are stored, times in UTC.
const SESSION: &str = "SET SESSION character_set_client = binary, character_set_connection = binary, character_set_results = binary, time_zone = '+00:00', sql_mode = 'ALLOW_INVALID_DATES', wait_timeout = 604800, net_write_timeout = 3600";

/// MySQL. The first one waits for long statements without making others wait.
const HOLD_ALL: &[&str] = &["FLUSH NO_WRITE_TO_BINLOG TABLES", "FLUSH TABLES WITH READ LOCK"];
/// MariaDB: definitions, and writes to tables without transactions, wait from here on.
const HOLD_DEFINITIONS: &[&str] = &["BACKUP STAGE START", "BACKUP STAGE BLOCK_DDL"];
/// MariaDB: commits wait, too. If it fails, the stage before is kept.
const HOLD_COMMITS: &[&str] = &["BACKUP STAGE BLOCK_COMMIT"];
const END_STAGES: &str = "BACKUP STAGE END";

/// Where a session goes back to after each table, and so gives back its lock: somebody who alters a table waits for as long
/// as that table is read, and not, with everybody behind them, until the end of the base.
const REMEMBER: &str = "SAVEPOINT pitr";
/// See [`REMEMBER`].
pub const FORGET: &str = "ROLLBACK TO SAVEPOINT pitr";

impl Snapshot {
    /// Opens `sessions` sessions. On MariaDB no definition changes from here until [`Snapshot::release`].
    pub async fn open(dial: &Dial, flavour: Flavour, sessions: usize) -> Result<Self, Error> {
        let mut coordinator = dial().await?;
        prepare(&mut coordinator, flavour).await?;
        let mut workers = Vec::with_capacity(sessions);
        for _ in 0..sessions {
            let mut worker = dial().await?;
            prepare(&mut worker, flavour).await?;
            workers.push(worker);
        }
        let mut snapshot = Self { coordinator, workers, coordinates: Coordinates::default(), flavour, held: false };
        if flavour == Flavour::Mariadb {
            snapshot.hold(HOLD_DEFINITIONS, Some(END_STAGES)).await?;
            patience(&mut snapshot.coordinator, LOCK_WAIT_HELD).await?;
        }
        Ok(snapshot)
    }

    /// The moment: from here until [`Snapshot::release`] writes wait. On MySQL no definition changes until the end.
    pub async fn freeze(&mut self) -> Result<(), Error> {
        let steps = if self.flavour == Flavour::Mysql { HOLD_ALL } else { HOLD_COMMITS };
        patience(&mut self.coordinator, LOCK_WAIT).await?;
        self.hold(steps, None).await?;
        for worker in &mut self.workers {
            worker.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
            worker.execute(REMEMBER).await?;
            patience(worker, LOCK_WAIT_HELD).await?;
        }
        self.coordinates = read_coordinates(&mut self.coordinator, self.flavour).await?;
        cross_check(&mut self.coordinator, self.flavour, &self.coordinates).await?;
        if self.flavour == Flavour::Mysql {
            self.coordinator.execute("LOCK INSTANCE FOR BACKUP").await?;
        }
        Ok(())
    }

    /// Lets writes go on.
    pub async fn release(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.held) {
            let release = if self.flavour == Flavour::Mysql { "UNLOCK TABLES" } else { END_STAGES };
            self.coordinator.execute(release).await?;
            for worker in &mut self.workers {
                patience(worker, LOCK_WAIT).await?;
            }
        }
        Ok(())
    }

    /// Ends everything in good order. Dropping it has the same effect on the server.
    pub async fn close(mut self) -> Result<(), Error> {
        self.release().await?;
        if self.flavour == Flavour::Mysql {
            self.coordinator.execute("UNLOCK INSTANCE").await?;
        }
        for session in self.workers.into_iter().chain([self.coordinator]) {
            session.close().await;
        }
        Ok(())
    }

    /// Takes locks, with a few attempts: while we wait for a long statement, all others wait for us. `undo` gives back what
    /// an attempt got.
    async fn hold(&mut self, steps: &[&str], undo: Option<&str>) -> Result<(), Error> {
        for attempt in 1..=LOCK_ATTEMPTS {
            match run(&mut self.coordinator, steps).await {
                Ok(()) => {
                    self.held = true;
                    return Ok(());
                }
                // Lock wait timeout.
                Err(error) if error.code() == Some(1205) => {
                    tracing::warn!(attempt, "a long statement keeps the backup from beginning; writes go on meanwhile");
                    if let Some(undo) = undo {
                        self.coordinator.execute(undo).await?;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(BaseError::LockTimeout(LOCK_WAIT.as_secs() * u64::from(LOCK_ATTEMPTS)).into())
    }
}

async fn prepare(session: &mut Sql, flavour: Flavour) -> Result<(), Error> {
    session.execute(SESSION).await?;
    session.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ").await?;
    patience(session, LOCK_WAIT).await?;
    let timeout = if flavour == Flavour::Mysql { "max_execution_time" } else { "max_statement_time" };
    session.execute(&format!("SET SESSION {timeout} = 0")).await?;
    if flavour == Flavour::Mysql {
        show_generated_keys(session).await?;
    }
    Ok(())
}

/// Primary keys that the server made by itself stand in the rows of the log, so the restored tables must have them.
async fn show_generated_keys(session: &mut Sql) -> Result<(), SqlError> {
    match session.execute("SET SESSION show_gipk_in_create_table_and_information_schema = ON").await {
        // Unknown before 8.0.30, as are those keys.
        Err(error) if error.code() == Some(1193) => Ok(()),
        other => other.map(drop),
    }
}

/// How long the session waits for a definition that somebody else is changing.
async fn patience(session: &mut Sql, time: Duration) -> Result<(), SqlError> {
    session.execute(&format!("SET SESSION lock_wait_timeout = {}", time.as_secs())).await.map(drop)
}

async fn run(session: &mut Sql, steps: &[&str]) -> Result<(), SqlError> {
    for step in steps {
        session.execute(step).await?;
    }
    Ok(())
}

/// Reads the position, in a session that holds the lock.
async fn read_coordinates(session: &mut Sql, flavour: Flavour) -> Result<Coordinates, Error> {
    let status = log_status(session, flavour).await?.ok_or(BaseError::NoBinlog)?;
    let (gtid, server_uuid) = match flavour {
        Flavour::Mysql => (
            session.value("SELECT @@GLOBAL.gtid_executed").await?.unwrap_or_default().replace('\n', ""),
            session.value("SELECT @@GLOBAL.server_uuid").await?.unwrap_or_default(),
        ),
        Flavour::Mariadb => {
            (session.value("SELECT @@GLOBAL.gtid_binlog_pos").await?.unwrap_or_default(), String::new())
        }
    };
    let server_id = session.value("SELECT @@GLOBAL.server_id").await?.and_then(|text| text.parse().ok());
    Ok(Coordinates {
        file: status.0,
        offset: status.1,
        gtid,
        server_uuid,
        server_id: server_id.ok_or_else(|| BaseError::Odd("server_id".to_owned()))?,
    })
}

async fn log_status(session: &mut Sql, flavour: Flavour) -> Result<Option<(String, u64)>, Error> {
    let words: &[&str] = match flavour {
        // The new words since 8.2, the old ones until 8.3.
        Flavour::Mysql => &["SHOW BINARY LOG STATUS", "SHOW MASTER STATUS"],
        Flavour::Mariadb => &["SHOW MASTER STATUS"],
    };
    let mut last = None;
    for word in words {
        match session.row(word).await {
            Ok(row) => return Ok(row.and_then(|row| Some((row.text(0)?, row.number(1)?)))),
            // A syntax error: another version's words.
            Err(error) if error.code() == Some(1064) => last = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    last.map_or(Ok(None), |error| Err(error.into()))
}

/// Asks a second witness, under the same lock.
async fn cross_check(session: &mut Sql, flavour: Flavour, found: &Coordinates) -> Result<(), Error> {
    let moved = |second: String| BaseError::PositionMoved {
        first: format!("{}:{} {}", found.file, found.offset, found.gtid),
        second,
    };
    let again = read_coordinates(session, flavour).await?;
    // MariaDB writes checkpoints of its own log by itself, lock or no lock: they hold no transaction.
    let checkpoints_only = flavour == Flavour::Mariadb
        && again.offset > found.offset
        && Coordinates { offset: found.offset, ..again.clone() } == *found;
    if again != *found && !checkpoints_only {
        return Err(moved(format!("{}:{} {}", again.file, again.offset, again.gtid)).into());
    }
    if flavour == Flavour::Mariadb {
        let asked = format!("SELECT BINLOG_GTID_POS({}, {})", super::format::literal(&found.file), found.offset);
        let computed = session.value(&asked).await?.unwrap_or_default();
        if !same_domains(&computed, &found.gtid) {
            return Err(moved(computed).into());
        }
    }
    Ok(())
}

/// The same positions, in any order.
fn same_domains(a: &str, b: &str) -> bool {
    let sorted = |text: &str| {
        let mut parts: Vec<_> = text.split(',').map(|part| part.trim().to_owned()).filter(|p| !p.is_empty()).collect();
        parts.sort_unstable();
        parts
    };
    sorted(a) == sorted(b)
}

#[cfg(test)]
mod tests {
    use super::same_domains;

    #[test]
    fn positions_of_domains_compare_in_any_order() {
        assert!(same_domains("0-1-5,1-1-7", "1-1-7, 0-1-5"));
        assert!(same_domains("", ""));
        assert!(!same_domains("0-1-5", "0-1-6"));
    }
}
