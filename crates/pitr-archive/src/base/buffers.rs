//! Buffers that are used again: chunks come and go between threads, and an allocator that serves every thread
//! from a heap of its own would keep many times what is in use.

use std::sync::Mutex;

use super::limits::IDLE_BUFFERS;
use super::packer::lock;

/// Empty buffers that have grown to the size of a chunk.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    idle: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// An empty buffer, with room if one is idle.
    pub(crate) fn take(&self) -> Vec<u8> {
        lock(&self.idle).pop().unwrap_or_default()
    }

    /// Keeps a buffer for the next one who needs it.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_BUFFERS {
            idle.push(buffer);
        }
    }
}
