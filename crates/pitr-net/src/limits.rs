//! Every limit of a connection, with its unit and the reason for its size.

use std::time::Duration;

/// Idle time after which TCP asks whether the peer still lives, and then in which rhythm and how often.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// See [`KEEPALIVE_IDLE`].
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// See [`KEEPALIVE_IDLE`].
pub const KEEPALIVE_PROBES: u32 = 6;
