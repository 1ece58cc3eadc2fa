//! What of a restore is done, kept in the target server itself.
//!
//! A database of its own holds one row for each step. A file of rows and its row in the ledger are one transaction, so
//! after an interruption nothing is loaded twice and nothing is left out. The ledger goes last.

use super::RestoreError;
use crate::base::format::literal;
use crate::error::Error;
use crate::sql::Sql;

/// The database of the ledger.
pub const DATABASE: &str = "pitr_restore";

/// A step of a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// The ledger was begun, for the plan with this fingerprint.
    Plan(&'a str),
    /// Databases, sequences and tables are there.
    Tables,
    /// A file of rows, or all of a table that cannot be loaded file by file.
    Rows(&'a str),
    /// The server has no time zones of its own, so those of the source are loaded.
    Zones,
    /// Everything that is not a table or an account is there.
    Objects,
    /// Accounts are there.
    Accounts,
    /// The log begins after the base.
    Position,
}

impl Step<'_> {
    fn name(self) -> String {
        use sha2::Digest;
        match self {
            Self::Plan(fingerprint) => format!("plan {fingerprint}"),
            Self::Tables => "tables".to_owned(),
            Self::Rows(path) => format!("rows {}", hex::encode(sha2::Sha256::digest(path))),
            Self::Zones => "zones".to_owned(),
            Self::Objects => "objects".to_owned(),
            Self::Accounts => "accounts".to_owned(),
            Self::Position => "position".to_owned(),
        }
    }
}

/// Begins a ledger in an empty server, or finds the one of this very plan; true if it was there.
pub async fn open(session: &mut Sql, fingerprint: &str) -> Result<bool, Error> {
    let foreign = format!(
        "SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN {} ORDER BY schema_name = '{DATABASE}' DESC LIMIT 1",
        crate::base::SYSTEM_DATABASES
    );
    match session.value(&foreign).await?.as_deref() {
        None => {}
        Some(DATABASE) => {
            if is_done(session, Step::Plan(fingerprint)).await? {
                return Ok(true);
            }
            // One that was interrupted before its first row can hold nothing else yet.
            if has_steps(session).await? {
                return Err(RestoreError::OtherPlan.into());
            }
        }
        Some(other) => return Err(RestoreError::NotEmpty(other.to_owned()).into()),
    }
    session.execute(&format!("CREATE DATABASE IF NOT EXISTS {DATABASE}")).await?;
    session
        .execute(&format!(
            "CREATE TABLE IF NOT EXISTS {DATABASE}.steps (step VARCHAR(120) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY) ENGINE = InnoDB"
        ))
        .await?;
    done(session, Step::Plan(fingerprint)).await?;
    Ok(false)
}

/// True if the step is in the ledger.
pub async fn is_done(session: &mut Sql, step: Step<'_>) -> Result<bool, Error> {
    any(session, &format!("SELECT 1 FROM {DATABASE}.steps WHERE step = {}", literal(&step.name()))).await
}

async fn has_steps(session: &mut Sql) -> Result<bool, Error> {
    any(session, &format!("SELECT 1 FROM {DATABASE}.steps LIMIT 1")).await
}

/// True if the ledger answers with a row.
async fn any(session: &mut Sql, question: &str) -> Result<bool, Error> {
    match session.row(question).await {
        Ok(row) => Ok(row.is_some()),
        // The table is not there yet: the interruption came between the database and it.
        Err(error) if error.code() == Some(1146) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes the step into the ledger, within the transaction of the session if there is one.
pub async fn done(session: &mut Sql, step: Step<'_>) -> Result<(), Error> {
    session.execute(&format!("INSERT INTO {DATABASE}.steps VALUES ({})", literal(&step.name()))).await?;
    Ok(())
}

/// The restore is complete.
pub async fn close(session: &mut Sql) -> Result<(), Error> {
    session.execute(&format!("DROP DATABASE {DATABASE}")).await?;
    Ok(())
}
