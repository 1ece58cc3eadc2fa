//! Moves the end of an idle log, so that the archive can tell that nothing was written, and notices a member that does
//! not show what was written.
//!
//! Servers write notes of their own, every ten seconds at most; ours make it seconds. A member that is cut off from the
//! rest of its set, or does not apply what it gets, looks idle to whoever tails it: our note tells the difference.

use std::fmt::Display;
use std::time::Instant;

use tokio::task::JoinHandle;

use crate::connect::Settings;
use crate::error::Result;
use crate::limits::{HEARTBEAT, NOTE_TIMEOUT, NOTE_WARNING};
use crate::note;
use crate::position::Stamp;
use crate::stream::write_note;

/// The notes of one stream.
pub struct Heartbeat {
    settings: Settings,
    /// When the log moved.
    moved: Instant,
    /// When the log moved, or a note was begun.
    last: Instant,
    running: Option<JoinHandle<Result<Stamp>>>,
    /// A note that the primary has, and since when.
    written: Option<(Stamp, Instant)>,
    /// When it was last told that no note can be written.
    told: Option<Instant>,
}

impl Heartbeat {
    /// For a set that these settings reach.
    pub fn new(settings: Settings) -> Self {
        let now = Instant::now();
        Self { settings, moved: now, last: now, running: None, written: None, told: None }
    }

    /// Entries came.
    pub fn moved(&mut self) {
        self.moved = Instant::now();
        self.last = self.moved;
    }

    /// Begins to write a note if nothing has come for a while.
    pub async fn beat_if_idle(&mut self) {
        if self.running.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(task) = self.running.take()
        {
            match task.await {
                Ok(Ok(stamp)) => drop(self.written.get_or_insert((stamp, Instant::now()))),
                Ok(Err(error)) => self.missed(&error),
                Err(error) => self.missed(&error),
            }
        }
        if self.running.is_some() && self.last.elapsed() > NOTE_TIMEOUT {
            self.missed(&"the primary does not answer");
        }
        if self.running.is_none() && self.last.elapsed() >= HEARTBEAT {
            self.last = Instant::now();
            let settings = self.settings.clone();
            self.running = Some(tokio::spawn(async move { write_note(&settings, note::heartbeat()).await }));
        }
    }

    /// A note is a help, not a duty: without the right to write them, the server's own come later. But if nothing comes at all,
    /// a set that is hung or has no primary looks idle.
    fn missed(&mut self, why: &dyn Display) {
        let silent = self.moved.elapsed();
        if silent > NOTE_TIMEOUT && self.told.is_none_or(|told| told.elapsed() > NOTE_WARNING) {
            self.told = Some(Instant::now());
            let seconds = silent.as_secs();
            tracing::warn!(
                "nothing has come for {seconds} s, and no note can be written into the oplog: {why}; rs.status() shows which members are down"
            );
        } else {
            tracing::debug!("no heartbeat: {why}");
        }
    }

    /// A note that was written long ago, while nothing has come to the stream, which is at `end`.
    pub fn overdue(&mut self, end: Stamp) -> Option<Stamp> {
        let (stamp, since) = self.written?;
        if stamp < end {
            self.written = None;
            return None;
        }
        (since.elapsed() > NOTE_TIMEOUT && self.moved.elapsed() > NOTE_TIMEOUT).then_some(stamp)
    }
}
