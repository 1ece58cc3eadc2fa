//! Tails that a commit waits for, in a local directory: appended to a strip instead of stored as objects of their own.
//!
//! A new file costs two commits of the file system's journal, for the file and for its directory. A strip is made once,
//! full of zeros, like any object; then a tail costs one write into space that is there already, and one sync of data. See
//! `docs/decisions/0012-strips-of-tails.md`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use pitr_core::{LineageId, Position, SegmentName};

use crate::blocking::briefly;
use crate::error::{Error, Result};
use crate::limits;
use crate::objects::{Kind, Payload, Put};
use crate::source::SourceArchive;
use crate::store::Created;
use crate::strip::{self, Frames};
use crate::tails::Tail;

/// Appends the tails of one writer.
///
/// # Contract
/// `put` returns once the tail is on stable storage. Nobody else writes to a strip, and after a failure nothing more is
/// written to it: what a failed sync has left is unknown.
#[derive(Debug)]
pub struct Strips {
    source: SourceArchive,
    open: Mutex<Option<Strip>>,
}

/// A file that is being filled.
#[derive(Debug)]
struct Strip {
    lineage: LineageId,
    segment: SegmentName,
    file: File,
    /// Where the next frame begins, in bytes.
    at: u64,
}

impl Strip {
    fn is_of<P>(&self, tail: &Tail<P>) -> bool {
        self.lineage == tail.lineage && self.segment == tail.segment.name
    }

    fn has_room_for(&self, frame: &Bytes) -> bool {
        self.at + frame.len() as u64 <= limits::STRIP_BYTES
    }

    fn append(&mut self, frame: &Bytes) -> io::Result<()> {
        self.file.write_all_at(frame, self.at)?;
        self.file.sync_data()?;
        self.at += frame.len() as u64;
        Ok(())
    }
}

impl Drop for Strip {
    fn drop(&mut self) {
        // Only gives back the space behind the last frame; a killed writer leaves it, and nobody minds.
        let _ = self.file.set_len(self.at);
    }
}

impl SourceArchive {
    /// A writer of strips; `None` where the archive is no directory.
    pub fn strips(&self) -> Option<Strips> {
        self.objects().store().directory()?;
        Some(Strips { source: self.clone(), open: Mutex::new(None) })
    }

    /// What a strip holds, as its newest reading tells it; `None` if it is gone.
    ///
    /// A strip that is being written may be seen in the middle of a frame, which looks like damage until it is whole.
    pub(crate) async fn strip_frames(&self, key: &str) -> Result<Option<Frames>> {
        let mut before = None;
        loop {
            let Some(bytes) = self.objects().store().get(key).await? else { return Ok(None) };
            let frames = strip::frames(&bytes);
            // Damage stays where it is, however much is appended meanwhile.
            if frames.damaged.is_empty() || before.as_ref() == Some(&frames.damaged) {
                return Ok(Some(frames));
            }
            before = Some(frames.damaged);
            tokio::time::sleep(limits::STRIP_PAUSE).await;
        }
    }
}

impl Strips {
    /// Makes bytes of an open segment durable before it is sealed.
    pub async fn put<P: Position>(&self, tail: &Tail<P>) -> Result<Put> {
        let (key, facts) = self.source.tail_object(tail)?;
        if tail.bytes.len() > limits::SMALL_PAYLOAD_BYTES {
            return self.source.put_tail(tail).await;
        }
        let object = self.source.objects().seal(Kind::Tail, &key, &facts, Payload::Raw(tail.bytes.clone())).await?;
        let stored_bytes = object.header.object_bytes();
        let frame = strip::frame(facts.from, facts.to, &object.parts);
        // Taken out and put back: a failure, also of whoever waits, leaves none to go on with.
        let open = self.take().filter(|strip| strip.is_of(tail) && strip.has_room_for(&frame));
        let mut strip = match open {
            Some(strip) => strip,
            None => self.create(tail).await?,
        };
        briefly(|| strip.append(&frame)).map_err(|error| self.failed("append to a strip for", &key, error))?;
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(strip);
        Ok(Put::Stored { stored_bytes })
    }

    fn take(&self) -> Option<Strip> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes the next file, durable as an object is.
    async fn create<P: Position>(&self, tail: &Tail<P>) -> Result<Strip> {
        let (lineage, segment) = (tail.lineage.clone(), tail.segment.name.clone());
        let key = self.source.layout().strip(&lineage, &segment, rand::random());
        let store = self.source.objects().store();
        let zeros = Bytes::from(vec![0; limits::STRIP_BYTES as usize]);
        if store.create(&key, zeros).await? == Created::Exists {
            return Err(Error::internal(&key, "a random name was taken already"));
        }
        let root = store.directory().ok_or_else(|| Error::internal(&key, "strips are for directories"))?;
        let file = OpenOptions::new().write(true).open(root.join(&key));
        let file = file.map_err(|error| self.failed("open", &key, error))?;
        Ok(Strip { lineage, segment, file, at: 0 })
    }

    fn failed(&self, action: &'static str, key: &str, error: io::Error) -> Error {
        self.source.objects().store().failed(action, key, error)
    }
}
