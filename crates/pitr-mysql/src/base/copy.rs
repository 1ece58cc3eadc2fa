//! Rows on their way from the server to the archive, by several sessions at once.
//!
//! Each session has a task of its own that reads and writes rows as text; what it has written goes through a short
//! queue to the sink.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures::future::try_join_all;
use pitr_core::ports::{Chunking, PartInfo, PartKind, PartSink, PartWriter};
use tokio::sync::mpsc;

use super::format::{RowFile, TableFiles, row_path};
use super::ranges::Range;
use super::rows::{Ends, RowWriter};
use super::snapshot::FORGET;
use super::tables::Table;
use super::{BaseError, OnProgress};
use crate::error::Error;
use crate::limits::BLOCKS_IN_FLIGHT;
use crate::sql::{Sql, SqlError};

/// A stretch of a table to be read.
#[derive(Debug)]
struct Job {
    table: usize,
    number: u32,
    range: Range,
}

/// What a reader has to say to the sink.
enum Block {
    Open(String),
    Bytes(Vec<u8>),
    Close { table: usize, file: RowFile },
}

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
    let mut readers = Vec::new();
    let mut drains = Vec::new();
    for session in sessions {
        let (sender, blocks) = mpsc::channel(BLOCKS_IN_FLIGHT);
        readers.push(tokio::spawn(read_all(session, Arc::clone(&tables), Arc::clone(&jobs), sender)));
        drains.push(drain(blocks, into, progress));
    }
    let stored = try_join_all(drains).await;
    let mut sessions = Vec::new();
    for reader in readers {
        // Where the sink failed the readers stop by themselves: nobody listens any more. Its error is the first.
        let session = reader.await.map_err(|error| BaseError::Worker(error.to_string()))?;
        match (&stored, session) {
            (Ok(_), session) => sessions.push(session?),
            (Err(_), _) => {}
        }
    }
    Ok((sessions, collect(&tables, stored?.into_iter().flatten().collect())))
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

async fn read_all(
    mut session: Sql,
    tables: Arc<Vec<Table>>,
    jobs: Arc<Mutex<VecDeque<Job>>>,
    blocks: mpsc::Sender<Block>,
) -> Result<Sql, Error> {
    loop {
        let job = jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
        let Some(job) = job else { return Ok(session) };
        let Some(table) = tables.get(job.table) else { continue };
        if let Err(error) = read(&mut session, table, &job, &blocks).await {
            // Nothing more for the others.
            jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
            return Err(error);
        }
    }
}

/// Reads one stretch, file by file.
async fn read(session: &mut Sql, table: &Table, job: &Job, blocks: &mpsc::Sender<Block>) -> Result<(), Error> {
    let mut writer = RowWriter::new(&table.insert(), table.forms());
    let path = |number| row_path(&table.schema, &table.name, job.number, number);
    let mut number = 0;
    let mut open = false;
    let changed = |error: SqlError| changed(table, error.into());
    let mut rows = session.stream(&table.select(job.range)).await.map_err(changed)?;
    while let Some(row) = rows.next().await.map_err(changed)? {
        let ends = writer.add(row.values());
        if ends == Ends::Nothing {
            continue;
        }
        if !std::mem::replace(&mut open, true) {
            send(blocks, Block::Open(path(number))).await?;
        }
        send(blocks, Block::Bytes(writer.take())).await?;
        if ends == Ends::File {
            close(&mut writer, job, path(number), blocks).await?;
            number += 1;
            open = false;
        }
    }
    drop(rows);
    table.check(session).await?;
    session.execute(FORGET).await?;
    if !open && writer.has_rows() {
        send(blocks, Block::Open(path(number))).await?;
    }
    close(&mut writer, job, path(number), blocks).await
}

async fn close(writer: &mut RowWriter, job: &Job, path: String, blocks: &mpsc::Sender<Block>) -> Result<(), Error> {
    let Some((rest, rows, bytes)) = writer.end_file() else { return Ok(()) };
    send(blocks, Block::Bytes(rest)).await?;
    let file = RowFile { path, bytes, rows };
    send(blocks, Block::Close { table: job.table, file }).await
}

async fn send(blocks: &mpsc::Sender<Block>, block: Block) -> Result<(), Error> {
    let gone = |_| BaseError::Worker("the archive takes nothing any more".to_owned());
    Ok(blocks.send(block).await.map_err(gone)?)
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

/// Writes what one reader sends.
async fn drain<S: PartSink>(
    mut blocks: mpsc::Receiver<Block>,
    into: &S,
    progress: &OnProgress,
) -> Result<Vec<(usize, RowFile)>, Error> {
    let mut files = Vec::new();
    let mut part: Option<S::Part> = None;
    while let Some(block) = blocks.recv().await {
        match (block, &mut part) {
            (Block::Open(path), _) => {
                let info = PartInfo { path, kind: PartKind::File(Chunking::Content), mode: None };
                part = Some(into.open(info).await?);
            }
            (Block::Bytes(bytes), Some(part)) => {
                part.write(&bytes).await?;
                progress(bytes.len() as u64);
            }
            (Block::Close { table, file }, _) => {
                let stored = match part.take() {
                    Some(part) => part.finish().await?,
                    None => 0,
                };
                if stored != file.bytes {
                    return Err(BaseError::SinkLost { path: file.path, sent: file.bytes, stored }.into());
                }
                files.push((table, file));
            }
            (Block::Bytes(_), None) => return Err(BaseError::Worker("rows without a file".to_owned()).into()),
        }
    }
    Ok(files)
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
