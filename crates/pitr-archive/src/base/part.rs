//! One open part of a base that is being written.

use std::collections::VecDeque;
use std::sync::Arc;

use pitr_core::PortError;
use pitr_core::ports::{PartInfo, PartKind, PartWriter};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use super::chunk::Cutter;
use super::index::{ChunkRef, Line};
use super::intake::Intake;
use super::limits::{CHUNKS_IN_FLIGHT, LINE_CHUNKS};
use crate::error::{Error, Result};

/// Takes the bytes of one part. Its chunks are digested and compressed while the next ones arrive.
#[derive(Debug)]
pub struct Part {
    content: Option<Cutter>,
    bytes: u64,
    tail: Tail,
    _place: Option<OwnedSemaphorePermit>,
}

/// The part behind the cutter: chunks on their way, and the index line that collects them in order.
#[derive(Debug)]
struct Tail {
    intake: Arc<Intake>,
    line: Line,
    pending: VecDeque<JoinHandle<Result<ChunkRef>>>,
}

impl Part {
    pub(crate) async fn open(intake: &Arc<Intake>, info: PartInfo) -> Result<Self> {
        intake.check()?;
        if !is_plain_relative(&info.path) {
            return Err(intake.failed(intake.refuse(format!("{:?} is no usable path of a part", info.path))));
        }
        let (content, place) = match info.kind {
            PartKind::File(chunking) => (
                Some(Cutter::new(chunking, Arc::clone(intake.buffers()))),
                Some(intake.open_file().map_err(|e| intake.failed(e))?),
            ),
            PartKind::Directory => (None, None),
        };
        let line = Line::first(intake.number(), info);
        let tail = Tail { intake: Arc::clone(intake), line, pending: VecDeque::new() };
        let mut part = Self { content, bytes: 0, tail, _place: place };
        if part.content.is_none() {
            part.tail.end().await?;
        }
        Ok(part)
    }

    async fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.tail.intake.check()?;
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let Some(cutter) = &mut self.content else {
                let what = format!("directory {:?} was given content", self.tail.line.info.path);
                return Err(self.tail.intake.refuse(what));
            };
            if let Some(chunk) = cutter.push(&mut bytes) {
                self.tail.send(chunk).await?;
            }
        }
        Ok(())
    }

    async fn end(mut self) -> Result<u64> {
        self.tail.intake.check()?;
        let Some(mut cutter) = self.content.take() else { return Ok(0) };
        if let Some(chunk) = cutter.rest() {
            self.tail.send(chunk).await?;
        }
        let intake = Arc::clone(&self.tail.intake);
        if self.tail.pending.is_empty() {
            self.tail.end().await?;
        } else {
            let mut tail = self.tail;
            intake.finish_later(async move { tail.end().await });
        }
        Ok(self.bytes)
    }
}

impl PartWriter for Part {
    async fn write(&mut self, bytes: &[u8]) -> std::result::Result<(), PortError> {
        let intake = Arc::clone(&self.tail.intake);
        self.take(bytes).await.map_err(|e| intake.failed(e).into())
    }

    async fn finish(self) -> std::result::Result<u64, PortError> {
        let intake = Arc::clone(&self.tail.intake);
        self.end().await.map_err(|e| intake.failed(e).into())
    }
}

impl Tail {
    /// Hands a chunk to the workers; waits while too many are on their way.
    async fn send(&mut self, chunk: Vec<u8>) -> Result<()> {
        while self.pending.front().is_some_and(|chunk| chunk.is_finished()) || self.pending.len() >= CHUNKS_IN_FLIGHT {
            self.settle().await?;
        }
        let admitted = self.intake.admit().await?;
        self.pending.push_back(tokio::spawn(Arc::clone(&self.intake).store(chunk, admitted)));
        Ok(())
    }

    /// Waits for the oldest chunk on its way and puts it on the line.
    async fn settle(&mut self) -> Result<()> {
        let Some(oldest) = self.pending.pop_front() else { return Ok(()) };
        self.line.push(oldest.await.map_err(|e| Error::internal(&self.line.info.path, e))??);
        if self.line.chunks.len() >= LINE_CHUNKS {
            self.intake.add_line(&self.line).await?;
            self.line.advance();
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            self.settle().await?;
        }
        self.line.last = true;
        self.intake.add_line(&self.line).await
    }
}

/// True for a path that stays below the directory it is restored into.
fn is_plain_relative(path: &str) -> bool {
    !path.contains('\0') && path.split('/').all(|name| !matches!(name, "" | "." | ".."))
}
