//! Work that blocks, called from async code.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Handle, RuntimeFlavor};

use crate::error::{Error, Result};

/// Runs work that takes long on a thread of its own.
pub(crate) async fn on_a_thread<T: Send + 'static>(
    key: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(key, e))?
}

/// Runs work that blocks, from async code, without a copy of what it borrows.
///
/// Other tasks go on meanwhile on a runtime with several threads. On one with a single thread they wait, which
/// is slower and still correct: the work itself never waits for a task.
pub(crate) fn in_place<R>(work: impl FnOnce() -> R) -> R {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// The same for work that usually takes less time than handing everything else to another thread: it is done without, as long
/// as another thread of the runtime is free.
pub(crate) fn briefly<R>(work: impl FnOnce() -> R) -> R {
    static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
    struct Under;
    impl Drop for Under {
        fn drop(&mut self) {
            UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let others = UNDER_WAY.fetch_add(1, Ordering::Relaxed);
    let _under = Under;
    if others + 1 < Handle::current().metrics().num_workers() { work() } else { in_place(work) }
}
