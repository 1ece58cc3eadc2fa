//! A bound on bytes that are on their way, for threads: whoever wants more than is left waits.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// What may be on its way at once.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: Mutex<usize>,
    freed: Condvar,
}

/// A part of it, given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// So many bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: Mutex::new(0), freed: Condvar::new() }
    }

    /// Waits until there is room. Something that is larger than all of it goes alone.
    pub fn share(budget: &Arc<Self>, bytes: usize) -> Share {
        let mut used = budget.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && *used + bytes > budget.limit {
            used = budget.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        Share { budget: Arc::clone(budget), bytes }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.budget.used.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_waits_and_what_is_larger_than_all_goes_alone() {
        let budget = Arc::new(Budget::new(10));
        let first = Budget::share(&budget, 6);
        let waiting = std::thread::spawn({
            let budget = Arc::clone(&budget);
            move || Budget::share(&budget, 25)
        });
        drop((Budget::share(&budget, 4), first));
        assert_eq!(waiting.join().unwrap().bytes, 25);
        assert_eq!(*budget.used.lock().unwrap(), 0);
    }
}
