//! Times on screens: UTC, local and age.

use chrono::{DateTime, Local, SecondsFormat, SubsecRound, TimeDelta, Utc};
use pitr_core::Timestamp;

/// `2026-09-07 00:57:00Z (02:57:00 +02:00 local, 15m 44s ago)`.
pub fn full(time: Timestamp, now: Timestamp) -> String {
    let local: DateTime<Local> = time.with_timezone(&Local);
    format!("{} ({} local, {})", utc(time), local.format("%H:%M:%S %:z"), age(time, now))
}

/// `2026-09-07T00:57:00Z`, with at most six digits of the second: no engine has more.
pub fn utc(time: Timestamp) -> String {
    time.trunc_subsecs(6).to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// `15m 44s ago`, or `in 3m` for a moment to come.
pub fn age(time: Timestamp, now: Timestamp) -> String {
    let delta = now.signed_duration_since(time);
    if delta < TimeDelta::zero() { format!("in {}", duration(-delta)) } else { format!("{} ago", duration(delta)) }
}

/// The two largest units of a duration.
pub fn duration(delta: TimeDelta) -> String {
    let seconds = delta.num_seconds();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// `16.0 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    // Only for people: the digits lost above 2^53 are never shown.
    #[allow(clippy::cast_precision_loss)]
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("B");
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {name}") }
}

/// The clock of this host, in microseconds as the engines have them.
pub fn now() -> Timestamp {
    Utc::now().trunc_subsecs(6)
}
