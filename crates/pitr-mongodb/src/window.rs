//! Warns while there is still time to enlarge the oplog: a stream that falls behind its oldest entry has lost log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::connect::{Member, oplog_bounds};
use crate::limits::{WINDOW_CHECK, WINDOW_LAG};
use crate::position::Stamp;

/// Looks at the oplog from time to time, on a task of its own: also while the archive does not take what was read.
#[derive(Debug)]
pub struct WindowWatch {
    at: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl WindowWatch {
    /// Watches the oplog of a member for a stream that begins here.
    pub fn start(member: Member, begin: Stamp) -> Self {
        let at = Arc::new(AtomicU64::new(begin.bits()));
        let task = tokio::spawn(watch(member, begin, Arc::clone(&at)));
        Self { at, task }
    }

    /// So far has the stream come.
    pub fn at(&self, stamp: Stamp) {
        self.at.store(stamp.bits(), Ordering::Relaxed);
    }
}

impl Drop for WindowWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(member: Member, begin: Stamp, at: Arc<AtomicU64>) {
    // How narrow it was at the begin is worth knowing, also if the stream has caught up meanwhile.
    let mut first = Some(begin);
    let mut ticks = interval(WINDOW_CHECK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Only a look: what really is lost is told by the cursor, and so is a member that does not answer.
        let at = first.take().unwrap_or_else(|| Stamp::from_bits(at.load(Ordering::Relaxed)));
        let Ok((oldest, newest)) = oplog_bounds(&member).await else { continue };
        if let Some((behind, left)) = is_narrow(oldest.stamp, at, newest.stamp) {
            tracing::warn!(
                "streaming is {behind} s behind, and the oplog of {} keeps {left} s more before log is lost: enlarge it with replSetResizeOplog",
                member.host
            );
        }
    }
}

/// Seconds behind, and seconds left, if more than half of the oplog's reach is used up.
fn is_narrow(oldest: Stamp, at: Stamp, newest: Stamp) -> Option<(u32, u32)> {
    let behind = newest.seconds.saturating_sub(at.seconds);
    let left = at.seconds.saturating_sub(oldest.seconds);
    (behind > WINDOW_LAG && left < behind).then_some((behind, left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_has_used_half_of_the_oplog_is_warned_about() {
        let look = |oldest, at, newest| is_narrow(Stamp::new(oldest, 1), Stamp::new(at, 1), Stamp::new(newest, 1));
        assert_eq!(look(0, 999, 1000), None, "a second behind");
        assert_eq!(look(990, 992, 1000), None, "a short oplog, read as it is written");
        assert_eq!(look(0, 600, 1000), None);
        assert_eq!(look(0, 400, 1000), Some((600, 400)));
        assert_eq!(look(500, 400, 1000), Some((600, 0)), "lost already");
    }
}
