//! The one retry policy, and what counts as a passing fault.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::time::Duration;

use object_store::Error as StoreError;
use object_store::client::{HttpError, HttpErrorKind};
use pitr_core::ErrorKind;
use tokio::time::Instant;

use crate::limits;

/// When to repeat a call, and when to give it up.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Upper bound of the first pause; each further one is twice as long.
    pub first_pause: Duration,
    /// Upper bound of every pause.
    pub max_pause: Duration,
    /// Time for the call with all its repetitions.
    pub deadline: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            first_pause: limits::RETRY_FIRST_PAUSE,
            max_pause: limits::RETRY_MAX_PAUSE,
            deadline: limits::RETRY_DEADLINE,
        }
    }
}

/// How a call ended that was given up.
pub(crate) enum GaveUp {
    /// With the store's last answer.
    Answer(ErrorKind, StoreError),
    /// Without an answer to the last try.
    Silence(Duration),
}

impl Retry {
    /// Calls until success, until a fault that does not pass, or until the deadline.
    ///
    /// Pauses are random between zero and a bound that doubles ("full jitter"), so that many writers do not
    /// come back to a recovering store at the same moment.
    pub(crate) async fn run<T, F, Fut>(&self, mut call: F) -> Result<T, GaveUp>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, StoreError>>,
    {
        let begin = Instant::now();
        let deadline = begin + self.deadline;
        let mut bound = self.first_pause;
        loop {
            let error = match tokio::time::timeout_at(deadline, call()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => return Err(GaveUp::Silence(begin.elapsed())),
            };
            let kind = kind_of(&error);
            let pause = bound.mul_f64(rand::random::<f64>());
            if !kind.is_retryable() || Instant::now() + pause >= deadline {
                return Err(GaveUp::Answer(kind, error));
            }
            tracing::debug!(error = %error, ?pause, "the store failed, trying again");
            tokio::time::sleep(pause).await;
            bound = (bound * 2).min(self.max_pause);
        }
    }
}

/// Decides what kind of failure an answer of the store is.
pub(crate) fn kind_of(error: &StoreError) -> ErrorKind {
    match error {
        StoreError::NotFound { .. } => ErrorKind::Absent,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => ErrorKind::Denied,
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => ErrorKind::Refused,
        StoreError::UnknownConfigurationKey { .. } => ErrorKind::Usage,
        StoreError::Generic { .. } => kind_of_chain(error),
        _ => ErrorKind::Failed,
    }
}

/// Looks for the first cause that says what it was. What says nothing may pass.
fn kind_of_chain(error: &(dyn StdError + 'static)) -> ErrorKind {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return if http.kind() == HttpErrorKind::Decode { ErrorKind::Failed } else { ErrorKind::Unreachable };
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return kind_of_io(io);
        }
        if let Some(status) = http_status(&error.to_string()) {
            return kind_of_status(status);
        }
        cause = error.source();
    }
    ErrorKind::Unreachable
}

fn kind_of_io(error: &io::Error) -> ErrorKind {
    use io::ErrorKind as Io;
    match error.kind() {
        Io::PermissionDenied => ErrorKind::Denied,
        Io::Interrupted
        | Io::TimedOut
        | Io::WouldBlock
        | Io::ResourceBusy
        | Io::StaleNetworkFileHandle
        | Io::HostUnreachable
        | Io::NetworkUnreachable
        | Io::NetworkDown
        | Io::ConnectionReset
        | Io::ConnectionAborted
        | Io::ConnectionRefused
        | Io::NotConnected
        | Io::BrokenPipe => ErrorKind::Unreachable,
        _ => ErrorKind::Failed,
    }
}

/// `object_store` keeps the status of an answer in a private type and shows it in its message only.
fn http_status(message: &str) -> Option<u16> {
    let (_, rest) = message.split_once("Server returned non-2xx status code: ")?;
    rest.get(..3)?.parse().ok()
}

fn kind_of_status(status: u16) -> ErrorKind {
    match status {
        401 | 403 => ErrorKind::Denied,
        // A listing of a bucket that does not exist.
        404 => ErrorKind::Absent,
        408 | 425 | 429 | 500..=599 => ErrorKind::Unreachable,
        _ => ErrorKind::Failed,
    }
}
