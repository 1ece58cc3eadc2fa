//! Compression and encryption of payloads, with reused contexts and several threads.

use std::io::{self, BufRead, Read, Write};
use std::sync::{Mutex, PoisonError};

use age::x25519;
use bytes::Bytes;
use zstd::bulk::Compressor;
use zstd::zstd_safe::{self, DCtx, DParameter, ResetDirective};

use crate::keys::DigestKey;
use crate::limits;
use crate::objects::{Kind, Payload};
use crate::press::{self, Press, Pressed};

/// Native content, compressed.
pub(crate) struct Content {
    pub frames: Vec<Bytes>,
    pub raw_bytes: u64,
    pub raw_digest: [u8; 32],
}

/// Compresses what is not compressed yet, and decodes what it compressed.
pub(crate) fn prepare(payload: Payload, kind: Kind, digests: &DigestKey) -> io::Result<Content> {
    match payload {
        Payload::Pressed(Pressed { kind: pressed_as, .. }) if pressed_as != kind => {
            Err(io::Error::other(format!("the content of a {kind:?} was pressed as that of a {pressed_as:?}")))
        }
        Payload::Pressed(Pressed { frames, raw_bytes, raw_digest, .. }) => {
            Ok(Content { frames, raw_bytes, raw_digest })
        }
        Payload::Raw(raw) if raw.len() <= limits::FRAME_BYTES => {
            let frame = compress(&raw)?;
            press::decodes_to(&frame, &raw, &mut Vec::new())?;
            let raw_digest = *digests.hasher(kind).update(&raw).finalize().as_bytes();
            Ok(Content { frames: vec![frame], raw_bytes: raw.len() as u64, raw_digest })
        }
        Payload::Raw(raw) => prepare(Payload::Pressed(pressed(raw, kind, digests)?), kind, digests),
    }
}

/// Compresses all of it on several threads.
pub(crate) fn pressed(raw: Bytes, kind: Kind, digests: &DigestKey) -> io::Result<Pressed> {
    let mut press = Press::begin(kind, digests)?;
    for from in (0..raw.len()).step_by(limits::FRAME_BYTES) {
        press.feed(raw.slice(from..raw.len().min(from + limits::FRAME_BYTES)))?;
    }
    press.finish()
}

pub(crate) fn died() -> io::Error {
    io::Error::other("a worker thread died")
}

/// One zstd frame.
pub(crate) fn compress(raw: &[u8]) -> io::Result<Bytes> {
    static IDLE: Pool<(Compressor<'static>, Vec<u8>)> = Pool::new();
    let new = || Ok::<_, io::Error>((Compressor::new(limits::ZSTD_LEVEL_OF_LOG)?, Vec::new()));
    let (mut compressor, mut buffer) = IDLE.take().map_or_else(new, Ok)?;
    buffer.clear();
    buffer.reserve(zstd_safe::compress_bound(raw.len()));
    compressor.compress_to_buffer(raw, &mut buffer)?;
    // Of its own size: the room that compression asks for is that of the content, and frames are held until they are stored.
    let frame = Bytes::copy_from_slice(&buffer);
    IDLE.give((compressor, buffer));
    Ok(frame)
}

/// Encrypts to the recipients, and to the one that the check before upload needs.
pub(crate) fn encrypt(
    frames: &[Bytes],
    recipients: &[x25519::Recipient],
    proof: &x25519::Recipient,
) -> io::Result<Vec<Bytes>> {
    let all = recipients.iter().chain([proof]).map(|recipient| recipient as &dyn age::Recipient);
    let encryptor = age::Encryptor::with_recipients(all).map_err(io::Error::other)?;
    let mut writer = encryptor.wrap_output(Pieces::default())?;
    for frame in frames {
        writer.write_all(frame)?;
    }
    writer.finish().map(Pieces::finish)
}

/// Collects bytes in pieces of limited size.
///
/// An allocator that gives each thread its own heap keeps about as much in each as the largest buffer that was
/// ever freed: with whole objects in one piece, that was several times the memory in use.
#[derive(Default)]
struct Pieces {
    full: Vec<Bytes>,
    current: Vec<u8>,
}

impl Pieces {
    fn finish(mut self) -> Vec<Bytes> {
        self.full.push(self.current.into());
        self.full
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.current.len() >= limits::PIECE_BYTES {
            self.full.push(std::mem::take(&mut self.current).into());
        }
        let taken = bytes.len().min(limits::PIECE_BYTES - self.current.len());
        self.current.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Decompresses all frames into `sink` and `hasher`, but at most one byte more than `limit`.
pub(crate) fn decompress<R: BufRead, W: Write>(
    plain: R,
    limit: u64,
    hasher: &mut blake3::Hasher,
    mut sink: W,
) -> io::Result<(u64, W)> {
    static IDLE: Pool<DCtx<'static>> = Pool::new();
    let mut context = IDLE.take().unwrap_or_else(DCtx::create);
    let failed = |code| io::Error::other(zstd::zstd_safe::get_error_name(code));
    // At its end the last use had already begun to look for a further frame.
    context.reset(ResetDirective::SessionOnly).map_err(failed)?;
    context.set_parameter(DParameter::WindowLogMax(limits::ZSTD_WINDOW_LOG_MAX)).map_err(failed)?;
    let mut written = 0;
    {
        let mut decoder = zstd::Decoder::with_context(plain, &mut context).take(limit.saturating_add(1));
        let mut buffer = vec![0; limits::DECODE_BUFFER_BYTES];
        loop {
            let read = decoder.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            hasher.update(bytes);
            sink.write_all(bytes)?;
            written += read as u64;
        }
    }
    IDLE.give(context);
    Ok((written, sink))
}

/// Contexts that are not in use; making one costs more than compressing a small object.
pub(crate) struct Pool<T>(Mutex<Vec<T>>);

impl<T> Pool<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Contexts that failed are dropped by their users instead of given back.
    pub(crate) fn give(&self, context: T) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < limits::IDLE_CODECS {
            idle.push(context);
        }
    }
}

/// Reads pieces of bytes one after the other.
pub(crate) struct Parts<'a> {
    current: &'a [u8],
    rest: std::slice::Iter<'a, Bytes>,
}

impl<'a> Parts<'a> {
    pub(crate) fn new(parts: &'a [Bytes]) -> Self {
        Self { current: &[], rest: parts.iter() }
    }
}

impl Read for Parts<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Parts<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() {
            match self.rest.next() {
                Some(part) => self.current = part,
                None => break,
            }
        }
        Ok(self.current)
    }

    fn consume(&mut self, bytes: usize) {
        self.current = self.current.get(bytes..).unwrap_or_default();
    }
}
