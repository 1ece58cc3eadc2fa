//! The log as the server writes it: [`PgStream`].
//!
//! Joined, the chunks of a stream are the files that the server would hand to `archive_command`. Each goes through
//! the same [`FileCheck`] as there, so both make the same objects of it, and may run side by side.

mod command;
mod message;
mod probe;
mod session;

use std::collections::VecDeque;
use std::mem;

use bytes::{Buf, Bytes, BytesMut};
use pitr_core::ports::{Cut, LogChunk, LogStream, SegmentStart, SegmentSummary};
use pitr_core::{LineageId, PortError};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub use command::Switch;
pub use probe::oldest_log;

use crate::connect::ConnectError;
use crate::engine::Postgres;
use crate::error::Error;
use crate::limits::{LONG_PAGE_HEADER, STREAM_MESSAGES};
use crate::lsn::{Lsn, SegmentSize};
use crate::position::PgPosition;
use crate::push::{FileCheck, Seam};
use crate::replication::ReplicationClient;
use crate::segment::{SegmentNumber, WalFileName, slices};

use command::Started;
use session::{Event, Session, pace};

/// SQLSTATE of a segment that the server has removed.
const UNDEFINED_FILE: &str = "58P01";

/// What is streamed.
#[derive(Debug, Clone)]
pub struct StreamStart {
    /// The history.
    pub lineage: LineageId,
    /// The begin of an archived segment on it.
    pub at: PgPosition,
    /// Size of the server's segments.
    pub segment_size: SegmentSize,
    /// The cluster.
    pub system_id: u64,
    /// The slot to use; it must exist.
    pub slot: Option<String>,
    /// Ends of archived log that the server's is to continue, in order.
    pub seams: VecDeque<Seam>,
}

/// The log of one timeline, from the begin of an archived segment on.
pub struct PgStream {
    start: StreamStart,
    /// Position of the next byte.
    at: Lsn,
    open: SegmentStart<PgPosition>,
    /// The WAL file that the open segment is of, once its header is there.
    file: Option<FileCheck>,
    /// Log that has arrived and is not in a chunk yet, in order.
    waiting: VecDeque<Bytes>,
    events: mpsc::Receiver<Event>,
    ended: Option<Switch>,
    session: Option<JoinHandle<()>>,
}

impl PgStream {
    /// Asks the server for log. What is `durable` is reported to it as flushed, at once and until the sender is dropped.
    ///
    /// # Errors
    /// Those of the server. Log that it no longer has is found only by the first call of `next`.
    pub async fn begin(
        mut client: ReplicationClient,
        start: StreamStart,
        durable: watch::Receiver<Option<PgPosition>>,
    ) -> Result<Self, Error> {
        let open = segment_at(start.at, start.segment_size)?;
        let pace = client.show_if_visible("wal_sender_timeout").await?.map(|text| pace(&text));
        let file_start = PgPosition { lsn: start.at.lsn.segment_start(start.segment_size), ..start.at };
        let started = client.start_replication(file_start, start.slot.as_deref()).await?;
        let (out, events) = mpsc::channel(STREAM_MESSAGES);
        let (ended, session) = match started {
            Started::Ended(switch) => {
                client.close().await;
                (Some(switch), None)
            }
            Started::Streaming => {
                let pace = pace.unwrap_or(crate::limits::FEEDBACK_INTERVAL);
                let session = Session { client, durable, flushed: start.at.lsn, out, pace };
                (None, Some(tokio::spawn(session.run())))
            }
        };
        let at = file_start.lsn;
        Ok(Self { start, at, open, file: None, waiting: VecDeque::new(), events, ended, session })
    }

    /// Where the timeline ended, once `next` has said so.
    pub fn ended(&self) -> Option<Switch> {
        self.ended
    }

    /// Takes what the session hands over.
    fn receive(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Wal(start, data) => {
                let expected = self.at.advanced(self.waiting.iter().map(|bytes| bytes.len() as u64).sum());
                // A walsender goes on where it was asked to; anything else would be a hole.
                if start != expected {
                    return Err(out_of_order(start, expected));
                }
                if !data.is_empty() {
                    self.waiting.push_back(data);
                }
            }
            Event::Ended(switch) => self.ended = Some(switch),
            Event::Failed(error) => return Err(self.named(error)),
        }
        Ok(())
    }

    /// "No such file" in the middle of a stream means that the server removed the segment.
    fn named(&self, error: ConnectError) -> Error {
        match error {
            ConnectError::Server { message, .. } if message.sqlstate == UNDEFINED_FILE => {
                Error::LogRemoved { at: PgPosition { lsn: self.at, ..self.start.at }, message: message.message }
            }
            error => error.into(),
        }
    }

    /// Makes a chunk of what is waiting: at most one segment's worth, and of a new file at least its header.
    fn chunk(&mut self) -> Result<Option<LogChunk>, Error> {
        let waiting: usize = self.waiting.iter().map(Bytes::len).sum();
        if waiting == 0 || (self.file.is_none() && (waiting as u64) < LONG_PAGE_HEADER) {
            return Ok(None);
        }
        let end = self.slice_end();
        let room = usize::try_from(end.since(self.at)).unwrap_or(usize::MAX);
        let bytes = self.take(room.min(LogChunk::BYTES));
        if self.file.is_none() {
            let name = WalFileName::of(self.position(), self.start.segment_size).to_string();
            let size = self.start.segment_size.bytes();
            let file = FileCheck::begin(&name, size, &bytes, Some(self.start.system_id))?;
            self.file = Some(file.continuing(mem::take(&mut self.start.seams)));
        }
        if let Some(file) = &mut self.file {
            file.feed(&bytes)?;
        }
        self.at = self.at.advanced(bytes.len() as u64);
        // Log that comes before the open segment is of slices that are sealed already.
        if self.at <= self.open.start.lsn {
            return Ok(None);
        }
        Ok(Some(LogChunk { bytes, cut: if self.at == end { Cut::Must } else { Cut::Never } }))
    }

    /// Where the archived segment ends that holds the next byte.
    fn slice_end(&self) -> Lsn {
        let len = self.start.segment_size.bytes().min(crate::limits::SLICE);
        Lsn(self.at.0 - self.at.0 % len).advanced(len)
    }

    /// Up to `room` waiting bytes, which are not none.
    fn take(&mut self, room: usize) -> Bytes {
        if let Some(first) = self.waiting.front_mut()
            && first.len() >= room
        {
            let bytes = first.split_to(room);
            if first.is_empty() {
                self.waiting.pop_front();
            }
            return bytes;
        }
        let mut bytes = BytesMut::new();
        while let Some(first) = self.waiting.front_mut()
            && bytes.len() < room
        {
            let piece = first.split_to(first.len().min(room - bytes.len()));
            bytes.extend_from_slice(&piece);
            if !first.has_remaining() {
                self.waiting.pop_front();
            }
        }
        bytes.freeze()
    }

    fn position(&self) -> PgPosition {
        PgPosition { lsn: self.at, ..self.start.at }
    }

    async fn next_chunk(&mut self) -> Result<Option<LogChunk>, Error> {
        loop {
            while let Ok(event) = self.events.try_recv() {
                self.receive(event)?;
                if self.waiting.iter().map(Bytes::len).sum::<usize>() >= LogChunk::BYTES {
                    break;
                }
            }
            let before = self.at;
            if let Some(chunk) = self.chunk()? {
                return Ok(Some(chunk));
            }
            if before < self.at {
                continue;
            }
            if self.ended.is_some() {
                return Ok(None);
            }
            match self.events.recv().await {
                Some(event) => self.receive(event)?,
                None => return Err(gone()),
            }
        }
    }
}

impl LogStream for PgStream {
    type Engine = Postgres;

    fn lineage(&self) -> &LineageId {
        &self.start.lineage
    }

    fn open(&self) -> &SegmentStart<PgPosition> {
        &self.open
    }

    async fn next(&mut self) -> Result<Option<LogChunk>, PortError> {
        self.next_chunk().await.map_err(PortError::new)
    }

    fn so_far(&self) -> SegmentSummary<PgPosition> {
        let open = self.file.as_ref().and_then(FileCheck::open_slice).map(|(_, summary)| summary);
        let summary = open.unwrap_or_default();
        // Nothing is stored beside what is archived before it is known to continue it.
        let continues = self.file.as_ref().is_some_and(|file| file.seams().is_empty());
        SegmentSummary {
            end: if continues { self.position() } else { self.open.start },
            commits: summary.commits.clone(),
            marks: summary.marks,
            facts: summary.facts(self.open.start.lsn),
        }
    }

    fn cut(&mut self) -> Result<SegmentSummary<PgPosition>, PortError> {
        self.end_segment().map_err(PortError::new)
    }
}

impl PgStream {
    fn end_segment(&mut self) -> Result<SegmentSummary<PgPosition>, Error> {
        let start = self.open.start;
        let file = self.file.as_ref().map(FileCheck::complete_slices).unwrap_or_default();
        let slice = file.iter().find(|slice| slice.slice.start == start);
        let slice = slice.ok_or_else(|| not_complete(self.at))?;
        let summary = SegmentSummary {
            end: slice.slice.end,
            commits: slice.summary.commits.clone(),
            marks: slice.summary.marks,
            facts: slice.summary.facts(start.lsn),
        };
        if self.at.segment_offset(self.start.segment_size) == 0
            && let Some(file) = self.file.take()
        {
            self.start.seams.clone_from(file.seams());
            // The file as a whole, as the hook would have checked it.
            file.finish()?;
        }
        self.open = segment_at(self.position(), self.start.segment_size)?;
        Ok(summary)
    }
}

impl Drop for PgStream {
    fn drop(&mut self) {
        // It would notice by itself, but only when it has something to hand over.
        if let Some(session) = self.session.take() {
            session.abort();
        }
    }
}

/// The archived segment that begins at `at`.
fn segment_at(at: PgPosition, size: SegmentSize) -> Result<SegmentStart<PgPosition>, Error> {
    let slices = slices(at.timeline, SegmentNumber::of(at.lsn, size), false, size)?;
    let slice = slices.into_iter().find(|slice| slice.start == at);
    slice.map(|slice| SegmentStart { name: slice.name, start: at }).ok_or_else(|| not_complete(at.lsn))
}

fn not_complete(at: Lsn) -> Error {
    Error::Rejected {
        file: format!("log stream at {at}"),
        what: "is not at the begin or end of an archived segment".to_owned(),
        hint: "this is a defect of the program: streaming was asked to cut where no segment ends".to_owned(),
        source: None,
    }
}

fn out_of_order(start: Lsn, expected: Lsn) -> Error {
    Error::Rejected {
        file: format!("log stream at {expected}"),
        what: format!("the server goes on at {start}"),
        hint: "the stream is begun anew; if it happens again, look at what is between pitr and the server".to_owned(),
        source: None,
    }
}

/// The session ended without a word: its task was ended from outside.
fn gone() -> Error {
    Error::Rejected {
        file: "log stream".to_owned(),
        what: "ended without a reason".to_owned(),
        hint: "the stream is begun anew".to_owned(),
        source: None,
    }
}
