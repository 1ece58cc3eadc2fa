//! How long to wait before the next try.

use std::time::Duration;

use crate::limits::{RECONNECT_FIRST_PAUSE, RECONNECT_MAX_PAUSE};

/// Pauses that double up to a limit, each with up to a quarter more, so that many clients do not come back at once.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: RECONNECT_FIRST_PAUSE }
    }
}

impl Backoff {
    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(RECONNECT_MAX_PAUSE);
        pause + pause.mul_f64(rand::random::<f64>() / 4.0)
    }

    /// Something went well: the next pause is a short one.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_start_over_after_a_success() {
        let mut backoff = Backoff::default();
        let first = backoff.pause();
        assert!(first >= RECONNECT_FIRST_PAUSE && first <= RECONNECT_FIRST_PAUSE.mul_f64(1.25));
        let longest = (0..20).map(|_| backoff.pause()).max().unwrap_or_default();
        assert!(longest >= RECONNECT_MAX_PAUSE && longest <= RECONNECT_MAX_PAUSE.mul_f64(1.25));
        backoff.reset();
        assert!(backoff.pause() < RECONNECT_FIRST_PAUSE * 2);
    }
}
