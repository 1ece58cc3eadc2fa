//! Loads files of rows, by several sessions at once.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use pitr_core::BaseId;
use pitr_core::ports::{BaseReader, PartInfo};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::RestoreError;
use super::ledger::{self, Step};
use super::spool::Spool;
use crate::base::SYSTEM_DATABASE;
use crate::base::format::{RowFile, TableFiles, quoted};
use crate::error::Error;
use crate::limits::{BATCH_MAX, BATCH_MIN, BATCHES, LOAD_ATTEMPTS, STATEMENT_READ};
use crate::sql::Sql;

/// Files that are loaded as one: one of a table with transactions, all of another table.
#[derive(Debug, Clone)]
struct Unit {
    /// What the ledger calls it.
    step: String,
    /// To be emptied first, where a rollback would not do it.
    table: Option<String>,
    files: Vec<RowFile>,
}

impl Unit {
    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// Loads the rows of all tables that are not loaded yet.
pub async fn load<R: BaseReader>(
    base: &BaseId,
    from: &R,
    spool: &Arc<Spool>,
    tables: Vec<TableFiles>,
    sessions: Vec<Sql>,
) -> Result<(), Error> {
    let mut sessions = sessions;
    let mut left = VecDeque::new();
    if let Some(session) = sessions.first_mut() {
        for unit in tables.into_iter().flat_map(units) {
            if !ledger::is_done(session, Step::Rows(&unit.step)).await? {
                left.push_back(unit);
            }
        }
    }
    let total: u64 = left.iter().map(Unit::bytes).sum();
    // Few enough batches that the index of the base is read a few times only, small enough for the disk.
    let size = (total / BATCHES).clamp(BATCH_MIN, BATCH_MAX);
    let mut loading = None;
    loop {
        let batch = take_batch(&mut left, size);
        let wanted: std::collections::HashSet<&str> =
            batch.iter().flat_map(|unit| &unit.files).map(|file| file.path.as_str()).collect();
        if !wanted.is_empty() {
            from.pour(base, &|part: &PartInfo| wanted.contains(part.path.as_str()), spool.as_ref()).await?;
        }
        // One batch is loaded while the next one arrives.
        if let Some(task) = loading.take() {
            sessions = joined(task).await?;
        }
        if batch.is_empty() {
            return Ok(());
        }
        loading = Some(tokio::spawn(load_batch(std::mem::take(&mut sessions), batch, Arc::clone(spool))));
    }
}

async fn joined(task: tokio::task::JoinHandle<Result<Vec<Sql>, Error>>) -> Result<Vec<Sql>, Error> {
    task.await.map_err(|error| RestoreError::Worker(error.to_string()))?
}

fn units(table: TableFiles) -> Vec<Unit> {
    // The server's own tables may have rows already, which go.
    if table.transactional && table.schema != SYSTEM_DATABASE {
        let single = |file: RowFile| Unit { step: file.path.clone(), table: None, files: vec![file] };
        return table.files.into_iter().map(single).collect();
    }
    let name = format!("{}.{}", quoted(&table.schema), quoted(&table.table));
    if table.files.is_empty() {
        return Vec::new();
    }
    vec![Unit { step: format!("table {name}"), table: Some(name), files: table.files }]
}

fn take_batch(left: &mut VecDeque<Unit>, size: u64) -> Vec<Unit> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < size
        && let Some(unit) = left.pop_front()
    {
        bytes += unit.bytes();
        batch.push(unit);
    }
    batch
}

async fn load_batch(sessions: Vec<Sql>, batch: Vec<Unit>, spool: Arc<Spool>) -> Result<Vec<Sql>, Error> {
    let queue = Arc::new(Mutex::new(VecDeque::from(batch)));
    let mut tasks = Vec::new();
    for session in sessions {
        tasks.push(tokio::spawn(load_all(session, Arc::clone(&queue), Arc::clone(&spool))));
    }
    let mut sessions = Vec::new();
    let mut failure = None;
    for task in tasks {
        match task.await.map_err(|error| RestoreError::Worker(error.to_string()))? {
            Ok(session) => sessions.push(session),
            Err(error) => drop(failure.get_or_insert(error)),
        }
    }
    failure.map_or(Ok(sessions), Err)
}

async fn load_all(mut session: Sql, queue: Arc<Mutex<VecDeque<Unit>>>, spool: Arc<Spool>) -> Result<Sql, Error> {
    loop {
        let unit = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
        let Some(unit) = unit else { return Ok(session) };
        if let Err(error) = load_unit(&mut session, &unit, &spool).await {
            // Nothing more for the others.
            queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
            return Err(error);
        }
        unit.files.iter().for_each(|file| spool.remove(&file.path));
    }
}

/// Loads a unit, and again where another session's locks were in the way.
async fn load_unit(session: &mut Sql, unit: &Unit, spool: &Spool) -> Result<(), Error> {
    for attempt in 1.. {
        match load_once(session, unit, spool).await {
            Err(Error::Sql(error)) if matches!(error.code(), Some(1205 | 1213)) && attempt < LOAD_ATTEMPTS => {
                tracing::debug!(%error, attempt, "loading a file of rows again");
                session.execute("ROLLBACK").await?;
            }
            other => return other,
        }
    }
    Ok(())
}

async fn load_once(session: &mut Sql, unit: &Unit, spool: &Spool) -> Result<(), Error> {
    if let Some(table) = &unit.table {
        session.execute(&format!("TRUNCATE TABLE {table}")).await?;
    }
    session.execute("START TRANSACTION").await?;
    for file in &unit.files {
        let rows = load_file(session, &spool.path(&file.path), &file.path).await?;
        if rows != file.rows {
            let what = format!("{} rows were expected, {rows} were loaded", file.rows);
            return Err(RestoreError::BadPart { path: file.path.clone(), what }.into());
        }
    }
    ledger::done(session, Step::Rows(&unit.step)).await?;
    session.execute("COMMIT").await?;
    Ok(())
}

/// Runs the statements of a file; returns the rows that they inserted. A statement ends with a line that ends with a
/// semicolon: line ends within values are escaped.
async fn load_file(session: &mut Sql, file: &Path, name: &str) -> Result<u64, Error> {
    let opened = tokio::fs::File::open(file).await.map_err(RestoreError::io("open", file))?;
    let mut reader = BufReader::with_capacity(STATEMENT_READ, opened);
    let mut statement = Vec::new();
    let mut rows = 0;
    loop {
        let read = reader.read_until(b'\n', &mut statement).await.map_err(RestoreError::io("read", file))?;
        if let Some(text) = statement.strip_suffix(b";\n") {
            rows += session.execute_bytes(text, name).await?.affected;
            statement.clear();
        } else if read == 0 {
            return match statement.is_empty() {
                true => Ok(rows),
                false => {
                    Err(RestoreError::BadPart { path: name.to_owned(), what: "it ends within a statement".into() }
                        .into())
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, bytes: u64) -> RowFile {
        RowFile { path: path.to_owned(), bytes, rows: 1 }
    }

    #[test]
    fn a_table_without_transactions_is_loaded_whole() {
        let table = |transactional| TableFiles {
            schema: "a".to_owned(),
            table: "t".to_owned(),
            transactional,
            rows: 2,
            files: vec![file("x", 5), file("y", 6)],
        };
        assert_eq!(units(table(true)).len(), 2);
        let whole = units(table(false));
        assert_eq!(
            whole.iter().map(|unit| (unit.bytes(), unit.table.as_deref())).collect::<Vec<_>>(),
            [(11, Some("`a`.`t`"))]
        );
    }

    #[test]
    fn a_batch_is_never_empty_while_something_is_left() {
        let unit = |bytes| Unit { step: String::new(), table: None, files: vec![file("x", bytes)] };
        let mut left = VecDeque::from(vec![unit(100), unit(1), unit(1)]);
        assert_eq!(take_batch(&mut left, 50).len(), 1);
        assert_eq!(take_batch(&mut left, 50).len(), 2);
        assert!(take_batch(&mut left, 50).is_empty());
    }
}
