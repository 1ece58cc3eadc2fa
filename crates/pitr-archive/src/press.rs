//! Native bytes on their way into zstd frames: compressed, decoded again and digested while more of them arrive.
//!
//! `archive_command` holds up the server for as long as it takes, so nothing here waits for the whole file: the
//! caller reads and digests one piece while threads compress those before it, each piece while it is still in
//! the cache.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::{Bytes, BytesMut};
use zstd::bulk::Decompressor;

use crate::codec::{self, Pool};
use crate::keys::DigestKey;
use crate::limits;
use crate::objects::Kind;

/// Compresses the content of one object, piece by piece.
///
/// # Contract
/// Every piece becomes one zstd frame, which was decoded again and compared before [`Press::finish`] returns.
/// Memory is bounded by [`limits::PRESS_PIECES`] pieces where they come from [`Press::spare`].
#[derive(Debug)]
pub struct Press {
    kind: Kind,
    hasher: blake3::Hasher,
    raw_bytes: u64,
    frames: Vec<Option<Bytes>>,
    spare: Vec<BytesMut>,
    lent: usize,
    jobs: Sender<Job>,
    done: Receiver<Done>,
    workers: Vec<JoinHandle<()>>,
}

/// Frames that are known to decode to what was digested.
#[derive(Debug, Clone)]
pub struct Pressed {
    pub(crate) kind: Kind,
    pub(crate) frames: Vec<Bytes>,
    pub(crate) raw_bytes: u64,
    pub(crate) raw_digest: [u8; 32],
}

impl Pressed {
    /// Bytes of all frames.
    pub fn frame_bytes(&self) -> usize {
        self.frames.iter().map(Bytes::len).sum()
    }
}

struct Job {
    index: usize,
    piece: Bytes,
}

struct Done {
    job: Job,
    frame: io::Result<Bytes>,
}

impl Press {
    /// Starts the threads for one object of this kind.
    pub(crate) fn begin(kind: Kind, digests: &DigestKey) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let (results, done) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        let threads = thread::available_parallelism().map_or(1, usize::from).min(limits::CODEC_THREADS);
        let worker = |_| {
            let (queue, results) = (Arc::clone(&queue), results.clone());
            thread::Builder::new().name("press".to_owned()).spawn(move || work(&queue, &results))
        };
        let workers = (0..threads).map(worker).collect::<io::Result<_>>()?;
        let (hasher, frames, spare) = (digests.hasher(kind), Vec::new(), Vec::new());
        Ok(Self { kind, hasher, raw_bytes: 0, frames, spare, lent: 0, jobs, done, workers })
    }

    /// A buffer of [`limits::FRAME_BYTES`] for the next piece; waits while too many are under way.
    ///
    /// # Errors
    /// Those of the pieces that were fed before.
    pub fn spare(&mut self) -> io::Result<BytesMut> {
        while let Ok(done) = self.done.try_recv() {
            self.take(done)?;
        }
        while self.spare.is_empty() && self.lent >= limits::PRESS_PIECES {
            let done = self.done.recv().map_err(|_| codec::died())?;
            self.take(done)?;
        }
        self.lent += 1;
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.resize(limits::FRAME_BYTES, 0);
        Ok(buffer)
    }

    /// Takes the next piece, of at most [`limits::FRAME_BYTES`].
    pub fn feed(&mut self, piece: Bytes) -> io::Result<()> {
        let index = self.frames.len();
        self.frames.push(None);
        self.raw_bytes += piece.len() as u64;
        // The threads begin at once; the piece is digested here meanwhile.
        self.jobs.send(Job { index, piece: piece.clone() }).map_err(|_| codec::died())?;
        self.hasher.update(&piece);
        Ok(())
    }

    /// Waits for the frames of all pieces.
    ///
    /// # Errors
    /// A frame that does not decode to its piece, and failures of the compressor.
    pub fn finish(mut self) -> io::Result<Pressed> {
        while self.frames.iter().any(Option::is_none) {
            let done = self.done.recv().map_err(|_| codec::died())?;
            self.take(done)?;
        }
        drop(self.jobs);
        for worker in self.workers {
            worker.join().map_err(|_| codec::died())?;
        }
        Ok(Pressed {
            kind: self.kind,
            frames: self.frames.into_iter().flatten().collect(),
            raw_bytes: self.raw_bytes,
            raw_digest: *self.hasher.finalize().as_bytes(),
        })
    }

    fn take(&mut self, done: Done) -> io::Result<()> {
        if let Some(slot) = self.frames.get_mut(done.job.index) {
            *slot = Some(done.frame?);
        }
        // Not ours alone if the caller still holds it: then it is simply not used again.
        if let Ok(buffer) = done.job.piece.try_into_mut() {
            self.lent = self.lent.saturating_sub(1);
            self.spare.push(buffer);
        }
        Ok(())
    }
}

/// Until the press is dropped or finished.
fn work(queue: &Mutex<Receiver<Job>>, results: &Sender<Done>) {
    let mut decoded = Vec::new();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let frame = codec::compress(&job.piece).and_then(|frame| {
            decodes_to(&frame, &job.piece, &mut decoded)?;
            Ok(frame)
        });
        if results.send(Done { job, frame }).is_err() {
            return;
        }
    }
}

/// The check before upload: what was compressed is what comes out again.
pub(crate) fn decodes_to(frame: &[u8], piece: &[u8], buffer: &mut Vec<u8>) -> io::Result<()> {
    static IDLE: Pool<Decompressor<'static>> = Pool::new();
    buffer.clear();
    buffer.reserve(piece.len());
    let mut decompressor = IDLE.take().map_or_else(Decompressor::new, Ok)?;
    let len = decompressor.decompress_to_buffer(frame, buffer)?;
    IDLE.give(decompressor);
    if len != piece.len() || buffer.as_slice() != piece {
        return Err(io::Error::other(
            "a compressed frame decodes to other bytes: this machine's memory or processor fails",
        ));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_in_order_with_the_digest_of_the_whole() {
        let key = DigestKey::generate();
        let mut press = Press::begin(Kind::Segment, &key).unwrap();
        let mut whole = Vec::new();
        // More pieces than may be under way at once, so that buffers are used again.
        for n in 0..=(2 * limits::PRESS_PIECES as u8) {
            let mut piece = press.spare().unwrap();
            piece.fill(n);
            piece.truncate(limits::FRAME_BYTES - usize::from(n));
            whole.extend_from_slice(&piece);
            press.feed(piece.freeze()).unwrap();
        }
        let pressed = press.finish().unwrap();
        assert_eq!(zstd::decode_all(&*pressed.frames.concat()).unwrap(), whole);
        assert_eq!((pressed.raw_bytes, pressed.raw_digest), (whole.len() as u64, key.digest(&whole)));
    }

    #[test]
    fn a_frame_of_other_bytes_is_refused_before_upload() {
        let frame = codec::compress(b"what was read").unwrap();
        assert!(decodes_to(&frame, b"what was read", &mut Vec::new()).is_ok());
        for other in [&b"what was reaD"[..], b"what was rea", b"what was read, and more"] {
            assert!(decodes_to(&frame, other, &mut Vec::new()).is_err());
        }
    }
}
