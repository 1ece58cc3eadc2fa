//! What is on its way into the archive: stored in the order of the log, with a bound on its memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pitr_core::ErrorKind;
use tokio::sync::{Notify, oneshot};

use crate::failure::Failure;

/// Whoever joins it has the turn once those before are done.
#[derive(Debug, Default)]
pub struct Queue {
    last: Option<oneshot::Receiver<()>>,
}

/// A place in the queue. Dropped before it is [done](Self::done), it keeps the turn from all that come after.
#[derive(Debug)]
pub struct Place {
    before: Option<oneshot::Receiver<()>>,
    done: oneshot::Sender<()>,
}

impl Queue {
    /// A place behind all others.
    pub fn join(&mut self) -> Place {
        let (done, after) = oneshot::channel();
        Place { before: self.last.replace(after), done }
    }
}

impl Place {
    /// Waits for the turn.
    pub async fn turn(&mut self) -> Result<(), Failure> {
        let Some(before) = self.before.take() else { return Ok(()) };
        before.await.map_err(|_| Failure::new(ErrorKind::Failed, "log before it could not be stored"))
    }

    /// Gives the turn to the next one.
    pub fn done(self) {
        // Nobody need be there.
        let _ = self.done.send(());
    }
}

/// Memory for what is on its way, in bytes. What is taken last may exceed it.
#[derive(Debug)]
pub struct Room {
    bytes: usize,
    used: AtomicUsize,
    grown: Notify,
}

/// Bytes of the room that are in use until this is dropped.
#[derive(Debug)]
pub struct Load {
    room: Arc<Room>,
    bytes: usize,
}

impl Room {
    /// Room for this many bytes.
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { bytes, used: AtomicUsize::new(0), grown: Notify::new() })
    }

    /// True if not all of it is in use.
    pub fn is_left(&self) -> bool {
        self.used.load(Ordering::Relaxed) < self.bytes
    }

    /// Waits until less of it is in use than before.
    pub async fn grown(&self) {
        self.grown.notified().await;
    }

    /// Uses some of it.
    pub fn load(self: &Arc<Self>, bytes: usize) -> Load {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Load { room: Arc::clone(self), bytes }
    }
}

impl Load {
    /// Changes how much it is.
    pub fn becomes(&mut self, bytes: usize) {
        self.room.used.fetch_add(bytes, Ordering::Relaxed);
        self.room.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
        self.room.grown.notify_one();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.becomes(0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_turn_comes_when_those_before_are_done_and_never_when_one_of_them_failed() {
        let mut queue = Queue::default();
        let (mut first, mut second, mut third) = (queue.join(), queue.join(), queue.join());
        assert!(second.turn().now_or_never().is_none());
        first.turn().now_or_never().unwrap().unwrap();
        first.done();
        let mut second = Place { before: None, ..second };
        second.turn().await.unwrap();
        assert!(third.turn().now_or_never().is_none());
        let mut fourth = queue.join();
        drop(third);
        drop(second);
        assert!(fourth.turn().await.is_err());
    }

    #[tokio::test]
    async fn room_grows_when_a_load_becomes_smaller() {
        let room = Room::new(10);
        let mut load = room.load(16);
        assert!(!room.is_left() && room.grown().now_or_never().is_none());
        load.becomes(4);
        assert!(room.is_left() && room.grown().now_or_never().is_some());
        drop(load);
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
    }
}
