//! How long the tests wait, and for what.

use std::time::Duration;

/// A server that has not accepted a connection by then will not.
pub const START: Duration = Duration::from_secs(90);
/// A server that has not stopped by then is killed.
pub const STOP: Duration = Duration::from_secs(30);
/// Replay of the small clusters of the tests.
pub const REPLAY: Duration = Duration::from_secs(120);
/// One call of pitr in CI. Below the limit of a test.
pub const COMMAND: Duration = Duration::from_secs(240);
/// Archiving of everything that a test wrote.
pub const ARCHIVE: Duration = Duration::from_secs(120);
/// Between two looks.
pub const POLL: Duration = Duration::from_millis(25);
/// Lines of a server's log that an error shows.
pub const LOG_TAIL: usize = 40;
