//! Compression of single chunks on a few threads, with contexts that are used again.

use std::sync::Mutex;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

/// Contexts and buffers between two uses. At most as many exist as chunks are compressed at once.
pub(crate) struct Compressors {
    level: i32,
    idle: Mutex<Vec<Context>>,
}

struct Context {
    compressor: Compressor<'static>,
    scratch: Vec<u8>,
}

impl Compressors {
    /// For zstd frames of this level.
    pub(crate) fn new(level: i32) -> Self {
        Self { level, idle: Mutex::new(Vec::new()) }
    }

    /// One zstd frame that decodes to `raw` and says its length.
    pub(crate) fn frame(&self, raw: &[u8]) -> std::io::Result<Bytes> {
        let mut context = match self.take() {
            Some(context) => context,
            None => Context { compressor: Compressor::new(self.level)?, scratch: Vec::new() },
        };
        context.scratch.clear();
        context.scratch.reserve(zstd_safe::compress_bound(raw.len()));
        context.compressor.compress_to_buffer(raw, &mut context.scratch)?;
        // A copy of the right size: the scratch buffer is as large as incompressible content needs.
        let frame = Bytes::copy_from_slice(&context.scratch);
        self.give_back(context);
        Ok(frame)
    }

    fn take(&self) -> Option<Context> {
        // A poisoned lock means that a thread died while pushing or popping; the list is still a list.
        self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop()
    }

    fn give_back(&self, context: Context) {
        self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(context);
    }
}

impl std::fmt::Debug for Compressors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressors").field("level", &self.level).finish_non_exhaustive()
    }
}

/// Decodes single frames into a buffer that is used again.
pub(crate) struct FrameDecoder {
    decompressor: Decompressor<'static>,
    buffer: Vec<u8>,
}

impl FrameDecoder {
    /// One for each thread.
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { decompressor: Decompressor::new()?, buffer: Vec::new() })
    }

    /// The content of a frame; an error unless it is exactly `raw` bytes long.
    pub(crate) fn decode(&mut self, frame: &[u8], raw: usize) -> std::io::Result<&[u8]> {
        self.buffer.clear();
        self.buffer.reserve(raw);
        let length = self.decompressor.decompress_to_buffer(frame, &mut self.buffer)?;
        if length != raw {
            return Err(std::io::Error::other(format!("{length} bytes instead of {raw}")));
        }
        Ok(&self.buffer)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn frames_decode_one_by_one_and_concatenated() {
        let compressors = Compressors::new(3);
        let chunks = [vec![7_u8; 500_000], b"short".to_vec(), (0..=255).cycle().take(100_000).collect()];
        let frames: Vec<_> = chunks.iter().map(|chunk| compressors.frame(chunk).unwrap()).collect();
        let mut decoder = FrameDecoder::new().unwrap();
        for (chunk, frame) in chunks.iter().zip(&frames) {
            assert_eq!(decoder.decode(frame, chunk.len()).unwrap(), chunk);
        }
        assert_eq!(zstd::decode_all(&*frames.concat()).unwrap(), chunks.concat());
    }

    #[test]
    fn a_frame_of_another_length_or_with_damage_is_an_error() {
        let frame = Compressors::new(3).frame(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let mut decoder = FrameDecoder::new().unwrap();
        assert!(decoder.decode(&frame, 9).is_err());
        assert!(decoder.decode(&frame, 7).is_err());
        assert!(decoder.decode(&frame[..frame.len() - 1], 8).is_err());
    }
}
