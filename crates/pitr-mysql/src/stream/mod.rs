//! The log as the server writes it: [`BinlogStream`].
//!
//! The server is asked for a file from its first byte on, as a replica would, and everything that it sends and did not
//! make up is the file. [`find()`] says where to begin.

mod account;
mod find;
mod fragment;
mod probe;
pub mod segmenter;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::pin;
use std::task::Poll;

use bytes::BytesMut;
use pitr_core::ports::{self, LogChunk, LogStream, SegmentStart, SegmentSummary};
use pitr_core::{Engine, Facts, LineageId, PortError, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

pub use find::{Found, find};
pub use segmenter::{Begin, Segmenter};

use crate::connect::Settings;
use crate::dump::{Dump, DumpError, Fragment, Replica, silence};
use crate::event::MAGIC;
use crate::gtid::GtidSet;
use crate::limits::STREAM_SILENCE;
use crate::position::{BinlogPosition, Incarnation, LogFile};
use crate::{Error, ServerError};
use fragment::{Artificial, Sort, sort};

/// A place up to which the archive has the log of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The place.
    pub end: BinlogPosition,
    /// The file of the last byte before it.
    pub file: LogFile,
    /// The format of that file.
    pub format: Vec<u8>,
    /// Executed set.
    pub executed: GtidSet,
    /// Offset and checksum of the last event.
    pub last: Option<(u64, u32)>,
    /// Where the transaction began that the place is inside of.
    pub open: Option<u64>,
    /// Latest moment that the log before it proves.
    pub reaches: Option<Timestamp>,
    /// The last transaction before it that has an identifier, and when it was committed first: fact `witness`.
    pub witness: Option<String>,
}

/// What is archived of a source's newest history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// The history.
    pub lineage: LineageId,
    /// The same in its positions.
    pub incarnation: Incarnation,
    /// What is noted of it.
    pub facts: Facts,
    /// Ends of its segments, newest first, at most [`crate::limits::MAX_KNOWN_CUTS`]. An open segment comes before all
    /// sealed ones.
    pub cuts: Vec<Cut>,
    /// The end of the last sealed segment, where the next one begins.
    pub sealed: Option<Cut>,
    /// Start of the open segment, if there is one.
    pub open_start: Option<BinlogPosition>,
    /// The start of a base from which on log is needed, if there is no log yet.
    pub base: Option<BinlogPosition>,
}

/// The log of one history, from the begin of a segment on.
pub struct BinlogStream<E> {
    lineage: LineageId,
    dump: Dump,
    segmenter: Segmenter,
    out: BytesMut,
    /// Offset before which bytes are read again only to know where we are.
    discard: Option<u64>,
    /// True while the packets of a real event come.
    real: bool,
    /// When something came last, as far as it was worth a look at the clock: where more is ready it is not.
    heard: Instant,
    /// False if something has come since.
    silent: bool,
    durable: watch::Receiver<Option<BinlogPosition>>,
    /// Events that the server waits for.
    unconfirmed: VecDeque<(BinlogPosition, LogFile, u64)>,
    engine: PhantomData<E>,
}

impl<E> BinlogStream<E> {
    /// Asks the server for the log from where `found` says. What is `durable` is confirmed, if the replica confirms.
    pub async fn begin(
        settings: &Settings,
        replica: &Replica,
        found: &Found,
        durable: watch::Receiver<Option<BinlogPosition>>,
    ) -> Result<Self, Error> {
        let begin = &found.begin;
        let from = probe::reachable(found.from.min(begin.offset));
        let early = from < begin.offset;
        let segmenter = Segmenter::new(&Begin { offset: from, ..begin.clone() })?;
        let dump = Dump::start(settings.open().await?, &begin.file, from, replica).await?;
        Ok(Self {
            lineage: found.lineage.clone(),
            dump,
            segmenter,
            out: BytesMut::new(),
            discard: early.then_some(begin.offset),
            real: false,
            heard: Instant::now(),
            silent: false,
            durable,
            unconfirmed: VecDeque::new(),
            engine: PhantomData,
        })
    }

    /// The file that is being read, and how far.
    pub fn place(&self) -> (&LogFile, u64) {
        (self.segmenter.file(), self.segmenter.offset())
    }

    /// Takes a packet; true if the chunk must end here.
    fn take(&mut self, mut fragment: Fragment) -> Result<bool, Error> {
        if fragment.begins {
            match sort(&mut fragment)? {
                Sort::Real => self.real = true,
                Sort::Artificial(made_up) => {
                    self.real = false;
                    return self.made_up(made_up);
                }
            }
        }
        if self.real {
            self.append(&fragment.bytes)?;
        }
        if fragment.confirm && fragment.ends {
            let (file, offset) = (self.segmenter.file().clone(), self.segmenter.offset());
            self.unconfirmed.push_back((self.segmenter.so_far().end, file, offset));
        }
        Ok(self.segmenter.must_cut())
    }

    fn made_up(&mut self, what: Artificial) -> Result<bool, Error> {
        let Artificial::Rotate(file) = what else { return Ok(false) };
        let current = self.segmenter.file();
        if file == *current {
            return Ok(false);
        }
        if file.base != current.base || file.number < current.number {
            return Err(ServerError::AnotherLog { expected: current.to_string(), found: file.to_string() }.into());
        }
        self.segmenter.enter(file)
    }

    /// Bytes of the file.
    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.segmenter.offset() == 0 {
            // They begin every file, and no server sends them.
            self.push(MAGIC)?;
        }
        self.push(bytes)
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(until) = self.discard else {
            self.out.extend_from_slice(bytes);
            return self.segmenter.push(bytes);
        };
        let before = usize::try_from(until - self.segmenter.offset()).unwrap_or(usize::MAX);
        let (before, after) = bytes.split_at(before.min(bytes.len()));
        self.segmenter.push(before)?;
        if self.segmenter.offset() == until {
            self.segmenter.cut()?;
            self.discard = None;
            if !after.is_empty() {
                return self.push(after);
            }
        }
        Ok(())
    }

    /// The chunk that is ready.
    fn chunk(&mut self) -> LogChunk {
        let cut = match () {
            () if self.segmenter.must_cut() => ports::Cut::Must,
            () if self.segmenter.may_cut() && self.segmenter.bytes() > 0 => ports::Cut::May,
            () => ports::Cut::Never,
        };
        LogChunk { bytes: self.out.split().freeze(), cut }
    }

    async fn gather(&mut self) -> Result<LogChunk, Error> {
        loop {
            // Bytes that were taken must be given before anything is waited for: a dropped call would leave them behind,
            // and the header of a segment would speak of more than it has.
            if self.out.is_empty() {
                self.confirm().await?;
            }
            if self.segmenter.must_cut() || self.out.len() >= LogChunk::BYTES {
                return Ok(self.chunk());
            }
            let fragment = match ready(self.dump.next()).await {
                Some(fragment) => fragment?,
                None if !self.out.is_empty() => return Ok(self.chunk()),
                None => match self.wait().await? {
                    Some(fragment) => fragment,
                    None => continue,
                },
            };
            self.silent = false;
            self.take(fragment)?;
        }
    }

    /// Waits for a packet, or (`None`) for something to become durable.
    async fn wait(&mut self) -> Result<Option<Fragment>, DumpError> {
        let waits = !self.unconfirmed.is_empty();
        if !std::mem::replace(&mut self.silent, true) {
            self.heard = Instant::now();
        }
        tokio::select! {
            fragment = self.dump.next() => fragment.map(Some),
            changed = self.durable.changed(), if waits => match changed {
                Ok(()) => Ok(None),
                // Nobody will say any more what is durable.
                Err(_) => {
                    self.unconfirmed.clear();
                    Ok(None)
                }
            },
            () = tokio::time::sleep_until(self.heard + STREAM_SILENCE) => Err(silence()),
        }
    }

    /// Confirms what has become durable since.
    async fn confirm(&mut self) -> Result<(), DumpError> {
        let durable = *self.durable.borrow_and_update();
        let done = |end: &BinlogPosition| durable.is_some_and(|durable| *end <= durable);
        let count = self.unconfirmed.iter().take_while(|(end, ..)| done(end)).count();
        let Some((_, file, offset)) = count.checked_sub(1).and_then(|last| self.unconfirmed.get(last)) else {
            return Ok(());
        };
        self.dump.confirm(file, *offset).await?;
        self.unconfirmed.drain(..count);
        Ok(())
    }
}

/// What a future gives at once; dropped if it would wait.
async fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

impl<E: Engine<Position = BinlogPosition>> LogStream for BinlogStream<E> {
    type Engine = E;

    fn lineage(&self) -> &LineageId {
        &self.lineage
    }

    fn open(&self) -> &SegmentStart<BinlogPosition> {
        self.segmenter.open()
    }

    async fn next(&mut self) -> Result<Option<LogChunk>, PortError> {
        self.gather().await.map(Some).map_err(PortError::new)
    }

    fn so_far(&self) -> SegmentSummary<BinlogPosition> {
        self.segmenter.so_far()
    }

    fn cut(&mut self) -> Result<SegmentSummary<BinlogPosition>, PortError> {
        self.segmenter.cut().map_err(PortError::new)
    }
}
