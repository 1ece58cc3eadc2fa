//! Archives the log of a source while it is written: the loop that all engines share.
//!
//! ```text
//! supervise ── connects, waits, connects again, records gaps
//!    └─ pump ── one connection: chunks in, sealed segments and tails out, durable position back
//! ```
//!
//! An engine gives an [`Upstream`], which connects, and the [`LogStream`] that it connects to. Everything else is here: when a
//! segment is sealed, when its bytes become durable before that, what happens on faults, and how the service ends.

mod backoff;
mod flight;
mod pump;
mod supervise;
pub mod systemd;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pitr_archive::SourceArchive;
use pitr_core::ports::LogStream;
use pitr_core::{Engine, Gap};
use tokio::sync::watch;

use crate::failure::Failure;

pub use supervise::supervise;

/// What is durable of a source, as its stream sees it: nothing new yet, or everything before a cut.
pub type Durable<P> = watch::Receiver<Option<P>>;

/// Where the log of one source comes from.
///
/// # Contract
/// Implemented once per engine, called by the loop, one call at a time. `connect` finds by itself where to go on, from
/// the archive and from what the source says now: the start of the first segment that the archive lacks, on the history that
/// comes next. So starting, reconnecting and following a fork are the same call. It registers the lineage before it returns.
/// Nothing is remembered between calls that the archive does not know too.
pub trait Upstream: Send + 'static {
    /// The engine.
    type Engine: Engine;
    /// What it connects to.
    type Stream: LogStream<Engine = Self::Engine>;

    /// Connects. What becomes durable while the stream lives arrives in `durable`.
    fn connect(
        &mut self,
        archive: &SourceArchive,
        durable: Durable<<Self::Engine as Engine>::Position>,
    ) -> impl Future<Output = Result<Self::Stream, Failure>> + Send;

    /// After the source said (`removed`) that it no longer has the log that comes next: the gap that this leaves, from the
    /// end of the archived log to the begin of the first segment that the source still has. Once it is recorded,
    /// `connect` goes on behind it.
    fn lost(
        &mut self,
        archive: &SourceArchive,
        removed: &Failure,
    ) -> impl Future<Output = Result<Gap<<Self::Engine as Engine>::Position>, Failure>> + Send;
}

/// When bytes become durable.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// New bytes of the open segment wait no longer than this; zero: no longer than the upload before them takes.
    pub flush_interval: Duration,
    /// A segment is sealed where its engine allows it, once it has this many bytes
    pub segment_bytes: usize,
    /// or is this old.
    pub segment_age: Duration,
}

/// Told to end: becomes true once and stays so.
pub type Stop = watch::Receiver<bool>;

/// Waits until it is time to end. A service whose controller is gone ends too.
pub async fn stopped(stop: &mut Stop) {
    // An error means that the sender is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A sign of life of one source, for the watchdog: it stops where an upload hangs, and goes on while there is nothing to
/// upload or the next try is being waited for.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<PulseState>);

#[derive(Debug)]
struct PulseState {
    begin: Instant,
    last: AtomicU64,
    tried: AtomicBool,
}

impl Default for Pulse {
    fn default() -> Self {
        Self(Arc::new(PulseState { begin: Instant::now(), last: AtomicU64::new(0), tried: AtomicBool::new(false) }))
    }
}

impl Pulse {
    /// Beats.
    pub fn beat(&self) {
        let since = u64::try_from(self.0.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last.store(since, Ordering::Relaxed);
    }

    /// Time since the last beat.
    pub fn silent_for(&self) -> Duration {
        self.0.begin.elapsed().saturating_sub(Duration::from_millis(self.0.last.load(Ordering::Relaxed)))
    }

    /// Notes that the source has been reached, or will be tried again later.
    pub fn tried(&self) {
        self.0.tried.store(true, Ordering::Relaxed);
    }

    /// Whether that was noted.
    pub fn has_tried(&self) -> bool {
        self.0.tried.load(Ordering::Relaxed)
    }
}
