//! Rows on their way from the server to the archive, by several sessions at once.
//!
//! Each session has a task of its own that reads rows, writes them as text, and hands the text to the sink, which cuts it into
//! chunks: all of that is work, and there is more than one processor. Only the sink itself stays with the caller, so that is
//! who opens files.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use pitr_core::PortError;
use pitr_core::ports::{Chunking, PartInfo, PartKind, PartSink, PartWriter};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::format::{RowFile, TableFiles, row_path};
use super::ranges::Range;
use super::rows::{Ends, RowWriter};
use super::snapshot::FORGET;
use super::tables::Table;
use super::{BaseError, OnProgress};
use crate::error::Error;
use crate::sql::{Sql, SqlError};

/// A stretch of a table to be read.
#[derive(Debug)]
struct Job {
    table: usize,
    number: u32,
    range: Range,
}

/// Asks for a file to be opened.
struct Ask<P> {
    path: String,
    answer: oneshot::Sender<Result<P, PortError>>,
}

/// What a session has stored: for each file, the place of its table.
type Stored = Vec<(usize, RowFile)>;

/// Reads all rows of `tables` into the sink; returns the sessions, and the files of each table.
pub async fn copy<S: PartSink>(
    sessions: Vec<Sql>,
    tables: Vec<Table>,
    into: &S,
    progress: &OnProgress,
) -> Result<(Vec<Sql>, Vec<TableFiles>), Error> {
    let tables = Arc::new(tables);
    let (sessions, jobs) = jobs(sessions, &tables).await?;
    let jobs = Arc::new(Mutex::new(jobs));
    let (asks, mut asked) = mpsc::channel(sessions.len().max(1));
    // They end with this future, if that is given up.
    let mut readers = JoinSet::new();
    for session in sessions {
        let reader =
            Reader { asks: asks.clone(), progress: Arc::clone(progress), text: Vec::new(), stored: Vec::new() };
        readers.spawn(reader.read_all(session, Arc::clone(&tables), Arc::clone(&jobs)));
    }
    drop(asks);
    // Until the last reader has ended.
    while let Some(Ask { path, answer }) = asked.recv().await {
        let info = PartInfo { path, kind: PartKind::File(Chunking::Content), mode: None };
        if answer.send(into.open(info).await).is_err() {
            tracing::debug!("a reader ended while its file was being opened");
        }
    }
    let (mut sessions, mut files, mut failed) = (Vec::new(), Vec::new(), None);
    while let Some(reader) = readers.join_next().await {
        match reader.unwrap_or_else(|error| Err(BaseError::Worker(error.to_string()).into())) {
            Ok((session, stored)) => {
                sessions.push(session);
                files.extend(stored);
            }
            // Those that follow are told that the base has failed.
            Err(error) => {
                tracing::debug!(%error, "rows were not read");
                failed.get_or_insert(error);
            }
        }
    }
    failed.map_or_else(|| Ok((sessions, collect(&tables, files))), Err)
}

/// Divides the tables; the largest come first, so that no session is left alone with one at the end.
async fn jobs(mut sessions: Vec<Sql>, tables: &[Table]) -> Result<(Vec<Sql>, VecDeque<Job>), Error> {
    let mut jobs = Vec::new();
    if let Some(session) = sessions.first_mut() {
        for (table, description) in tables.iter().enumerate() {
            let ranges = description.ranges(session).await.map_err(|error| changed(description, error))?;
            let share = description.bytes / ranges.len().max(1) as u64;
            jobs.extend((0..).zip(ranges).map(|(number, range)| (share, Job { table, number, range })));
        }
        session.execute(FORGET).await?;
    }
    jobs.sort_by_key(|(share, job)| (std::cmp::Reverse(*share), job.table, job.number));
    Ok((sessions, jobs.into_iter().map(|(_, job)| job).collect()))
}

/// Reads with one session.
struct Reader<P> {
    asks: mpsc::Sender<Ask<P>>,
    progress: OnProgress,
    /// Text on its way into a file.
    text: Vec<u8>,
    stored: Stored,
}

/// A file that is open.
struct OpenFile<P> {
    part: P,
    path: String,
}

impl<P: PartWriter> Reader<P> {
    async fn read_all(
        mut self,
        mut session: Sql,
        tables: Arc<Vec<Table>>,
        jobs: Arc<Mutex<VecDeque<Job>>>,
    ) -> Result<(Sql, Stored), Error> {
        loop {
            let job = jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
            let Some(job) = job else { return Ok((session, self.stored)) };
            let Some(table) = tables.get(job.table) else { continue };
            if let Err(error) = self.read(&mut session, table, &job).await {
                // Nothing more for the others.
                jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
                return Err(error);
            }
        }
    }

    /// Reads one stretch, file by file.
    async fn read(&mut self, session: &mut Sql, table: &Table, job: &Job) -> Result<(), Error> {
        let mut writer = RowWriter::new(&table.insert(), table.forms());
        let path = |number| row_path(&table.schema, &table.name, job.number, number);
        let mut number = 0;
        let mut open = None;
        let changed = |error: SqlError| changed(table, error.into());
        let mut rows = session.stream(&table.select(job.range)).await.map_err(changed)?;
        while let Some(row) = rows.next().await.map_err(changed)? {
            let ends = writer.add(row.values());
            if ends == Ends::Nothing {
                continue;
            }
            let mut file = match open.take() {
                Some(file) => file,
                None => self.open(path(number)).await?,
            };
            writer.take(&mut self.text);
            self.write(&mut file).await?;
            match ends {
                Ends::File => {
                    self.close(&mut writer, job, file).await?;
                    number += 1;
                }
                _ => open = Some(file),
            }
        }
        drop(rows);
        table.check(session).await?;
        session.execute(FORGET).await?;
        if open.is_none() && writer.has_rows() {
            open = Some(self.open(path(number)).await?);
        }
        match open {
            Some(file) => self.close(&mut writer, job, file).await,
            None => Ok(()),
        }
    }

    async fn open(&self, path: String) -> Result<OpenFile<P>, Error> {
        let gone = || BaseError::Worker("the archive takes nothing any more".to_owned());
        let (answer, answered) = oneshot::channel();
        self.asks.send(Ask { path: path.clone(), answer }).await.map_err(|_| gone())?;
        let part = answered.await.map_err(|_| gone())??;
        Ok(OpenFile { part, path })
    }

    async fn write(&mut self, file: &mut OpenFile<P>) -> Result<(), Error> {
        file.part.write(&self.text).await?;
        (self.progress)(self.text.len() as u64);
        Ok(())
    }

    async fn close(&mut self, writer: &mut RowWriter, job: &Job, mut file: OpenFile<P>) -> Result<(), Error> {
        let Some((rows, bytes)) = writer.end_file(&mut self.text) else {
            return Err(BaseError::Worker("a file without rows".to_owned()).into());
        };
        self.write(&mut file).await?;
        let stored = file.part.finish().await?;
        if stored != bytes {
            return Err(BaseError::SinkLost { path: file.path, sent: bytes, stored }.into());
        }
        self.stored.push((job.table, RowFile { path: file.path, bytes, rows }));
        Ok(())
    }
}

/// A table that is no longer what it was at the moment of the snapshot.
fn changed(table: &Table, error: Error) -> Error {
    match &error {
        // Unknown database, unknown column, no such table, somebody is at it, table definition has changed.
        Error::Sql(sql) if matches!(sql.code(), Some(1049 | 1054 | 1146 | 1205 | 1412)) => {
            BaseError::DefinitionsChanged(format!("{}: {sql}", table.full_name())).into()
        }
        _ => error,
    }
}

/// Sorts files under their tables, in the order of their rows.
fn collect(tables: &[Table], mut files: Vec<(usize, RowFile)>) -> Vec<TableFiles> {
    files.sort_by(|a, b| (a.0, &a.1.path).cmp(&(b.0, &b.1.path)));
    let mut all: Vec<_> = tables
        .iter()
        .map(|table| TableFiles {
            schema: table.schema.clone(),
            table: table.name.clone(),
            transactional: table.transactional,
            rows: 0,
            files: Vec::new(),
        })
        .collect();
    for (table, file) in files {
        if let Some(entry) = all.get_mut(table) {
            entry.rows += file.rows;
            entry.files.push(file);
        }
    }
    all
}
