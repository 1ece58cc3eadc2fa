//! Makes what a dump defines: databases and tables before the rows, everything else after them.

use std::path::Path;

use tokio::io::{AsyncBufReadExt, BufReader};

use super::RestoreError;
use crate::base::format::{DEFINITIONS, Definition, Kind, literal, quoted};
use crate::error::Error;
use crate::limits::DEFINITION_ROUNDS;
use crate::sql::{Sql, SqlError};

/// What a session sets that makes objects.
pub const SESSION: &str = "SET SESSION sql_mode = 'ALLOW_INVALID_DATES,NO_ENGINE_SUBSTITUTION', foreign_key_checks = 0, unique_checks = 0, time_zone = '+00:00'";

/// Servers that do not know one of these do not need it.
const SESSION_IF_KNOWN: [&str; 3] = [
    "SET SESSION sql_require_primary_key = OFF",
    "SET SESSION restrict_fk_on_non_standard_key = OFF",
    "SET SESSION sql_generate_invisible_primary_key = OFF",
];

/// Prepares a session in which objects are made.
pub async fn prepare(session: &mut Sql) -> Result<(), Error> {
    session.execute("SET NAMES utf8mb4").await?;
    session.execute(SESSION).await?;
    for statement in SESSION_IF_KNOWN {
        match session.execute(statement).await {
            // Unknown system variable.
            Err(error) if error.code() == Some(1193) => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Makes all objects of the given kinds that the file lists. Views may need each other, and so may accounts: what
/// cannot be made is tried again as long as anything else could. What is left in the end is returned, as sentences.
pub async fn make(session: &mut Sql, file: &Path, wanted: impl Fn(&Definition) -> bool) -> Result<Vec<String>, Error> {
    prepare(session).await?;
    let mut waiting = Vec::new();
    let mut lines = Lines::open(file).await?;
    while let Some(definition) = lines.next().await? {
        if wanted(&definition)
            && let Err(error) = make_one(session, &definition).await
        {
            waiting.push(may_wait(definition, error)?);
        }
    }
    for _ in 0..DEFINITION_ROUNDS {
        let before = waiting.len();
        let mut still = Vec::new();
        for (definition, _) in waiting {
            if let Err(error) = make_one(session, &definition).await {
                still.push(may_wait(definition, error)?);
            }
        }
        waiting = still;
        if waiting.is_empty() || waiting.len() == before {
            break;
        }
    }
    let left = waiting.into_iter().map(|(definition, error)| {
        format!("{:?} {}.{} could not be made: {error}", definition.kind, definition.schema, definition.name)
    });
    Ok(left.collect())
}

/// Only for some kinds it is no failure of the restore that one of them cannot be made: it may not have been usable on
/// the source either.
fn may_wait(definition: Definition, error: Error) -> Result<(Definition, Error), Error> {
    match (&definition.kind, &error) {
        (Kind::Loadable | Kind::View | Kind::Account, Error::Sql(SqlError::Server { .. })) => Ok((definition, error)),
        _ => Err(error),
    }
}

async fn make_one(session: &mut Sql, definition: &Definition) -> Result<(), Error> {
    if !definition.schema.is_empty() && definition.kind != Kind::Database {
        session.execute(&format!("USE {}", quoted(&definition.schema))).await?;
    }
    for (name, value) in &definition.session {
        // The text of a view is always sent in the server's own character set.
        if definition.kind == Kind::View && name == "character_set_client" && !value.starts_with("utf8") {
            continue;
        }
        session.execute(&format!("SET SESSION {name} = {}", literal(value))).await?;
    }
    let what = format!("making {:?} {}.{}", definition.kind, definition.schema, definition.name);
    let mut result = Ok(());
    for statement in &definition.sql {
        let bytes = statement.bytes().ok_or_else(|| damaged("a statement in damaged digits"))?;
        result = match session.execute_bytes(&bytes, &what).await {
            // There already: database, table, loadable function, routine, trigger, event, tablespace. Made by the same
            // restore before an interruption.
            Err(error) if matches!(error.code(), Some(1007 | 1050 | 1125 | 1304 | 1359 | 1537 | 1813)) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        };
        if result.is_err() {
            break;
        }
    }
    if !definition.session.is_empty() {
        session.execute("SET NAMES utf8mb4").await?;
        session.execute(SESSION).await?;
    }
    result.map_err(Error::from)
}

fn damaged(what: &str) -> RestoreError {
    RestoreError::BadPart { path: DEFINITIONS.to_owned(), what: what.to_owned() }
}

/// Lines of JSON of a spooled part.
struct Lines {
    reader: BufReader<tokio::fs::File>,
}

impl Lines {
    async fn open(file: &Path) -> Result<Self, Error> {
        let opened = tokio::fs::File::open(file).await.map_err(RestoreError::io("open", file))?;
        Ok(Self { reader: BufReader::new(opened) })
    }

    async fn next(&mut self) -> Result<Option<Definition>, Error> {
        let mut line = Vec::new();
        let read = self.reader.read_until(b'\n', &mut line).await;
        read.map_err(RestoreError::io("read", DEFINITIONS))?;
        if line.is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&line).map_err(|error| damaged(&error.to_string()))?))
    }
}
