//! Compression of single chunks on a few threads, with contexts that are used again.

use std::sync::Mutex;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

use super::packer::lock;

/// Contexts between two uses. At most as many exist as chunks are compressed at once.
pub(crate) struct Compressors {
    level: i32,
    idle: Mutex<Vec<Pair>>,
}

/// What compresses, and what checks that.
struct Pair {
    compressor: Compressor<'static>,
    decoder: FrameDecoder,
}

impl Compressors {
    /// For zstd frames of this level.
    pub(crate) fn new(level: i32) -> Self {
        Self { level, idle: Mutex::new(Vec::new()) }
    }

    /// Makes `frame` one zstd frame that says the length of `raw`, and decodes it again while both are still in the
    /// cache; false if other bytes came out.
    pub(crate) fn compress(&self, raw: &[u8], frame: &mut Vec<u8>) -> std::io::Result<bool> {
        let idle = lock(&self.idle).pop();
        let mut pair = idle.map_or_else(|| Pair::new(self.level), Ok)?;
        frame.clear();
        frame.reserve(zstd_safe::compress_bound(raw.len()));
        pair.compressor.compress_to_buffer(raw, frame)?;
        let faithful = pair.decoder.gives(frame, raw);
        lock(&self.idle).push(pair);
        Ok(faithful)
    }
}

impl std::fmt::Debug for Compressors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressors").field("level", &self.level).finish_non_exhaustive()
    }
}

impl Pair {
    fn new(level: i32) -> std::io::Result<Self> {
        Ok(Self { compressor: Compressor::new(level)?, decoder: FrameDecoder::new()? })
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

    /// True if a frame decodes to exactly these bytes.
    fn gives(&mut self, frame: &[u8], raw: &[u8]) -> bool {
        self.decode(frame, raw.len()).is_ok_and(|decoded| decoded == raw)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn frame(compressors: &Compressors, raw: &[u8]) -> Vec<u8> {
        let mut frame = b"left over".to_vec();
        assert!(compressors.compress(raw, &mut frame).unwrap());
        frame
    }

    #[test]
    fn frames_decode_one_by_one_and_concatenated() {
        let compressors = Compressors::new(3);
        let chunks = [vec![7_u8; 500_000], b"short".to_vec(), (0..=255).cycle().take(100_000).collect()];
        let frames: Vec<_> = chunks.iter().map(|chunk| frame(&compressors, chunk)).collect();
        let mut decoder = FrameDecoder::new().unwrap();
        for (chunk, frame) in chunks.iter().zip(&frames) {
            assert_eq!(decoder.decode(frame, chunk.len()).unwrap(), chunk);
        }
        assert_eq!(zstd::decode_all(&*frames.concat()).unwrap(), chunks.concat());
    }

    #[test]
    fn a_frame_of_another_length_or_with_damage_is_an_error() {
        let frame = frame(&Compressors::new(3), &[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut decoder = FrameDecoder::new().unwrap();
        assert!(decoder.decode(&frame, 9).is_err());
        assert!(decoder.decode(&frame, 7).is_err());
        assert!(decoder.decode(&frame[..frame.len() - 1], 8).is_err());
    }

    #[test]
    fn a_frame_of_other_bytes_is_noticed_before_upload() {
        let raw = [1, 2, 3, 4, 5, 6, 7, 8];
        let mut frame = frame(&Compressors::new(3), &raw);
        let mut decoder = FrameDecoder::new().unwrap();
        assert!(decoder.gives(&frame, &raw));
        assert!(!decoder.gives(&frame, &raw[..7]) && !decoder.gives(&frame, &[1, 2, 3, 4, 5, 6, 7, 9]));
        *frame.last_mut().unwrap() ^= 1;
        assert!(!decoder.gives(&frame, &raw));
    }
}
