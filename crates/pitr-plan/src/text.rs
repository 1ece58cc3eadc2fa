//! Small formats for screens: times, sizes, counts, and names that cannot harm a terminal.

use chrono::{SecondsFormat, TimeDelta};
use pitr_core::Timestamp;

use crate::limits::MAX_SHOWN_NAME;

/// A name from a database: control characters and the invisible or reordering ones are escaped, long
/// ones cut off.
pub(crate) fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (shown, c) in text.chars().enumerate() {
        // Long texts are cut only where they are names; sentences keep to the same generous limit times four.
        if shown == 4 * MAX_SHOWN_NAME {
            out.push('…');
            break;
        }
        let hidden =
            matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
        if c.is_control() || hidden { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out
}

/// A name cut to what fits beside other things on a line.
pub(crate) fn short(text: &str) -> String {
    let text = safe(text);
    if text.chars().count() <= MAX_SHOWN_NAME {
        return text;
    }
    text.chars().take(MAX_SHOWN_NAME - 1).chain(['…']).collect()
}

/// A moment in UTC: `2026-09-07T00:56:59.981204Z`.
pub(crate) fn utc(time: Timestamp) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// A stretch of time in its two largest units: `15m 44s`, `3d 2h`, `120ms`.
pub(crate) fn span(delta: TimeDelta) -> String {
    let millis = delta.num_milliseconds().unsigned_abs();
    let seconds = millis / 1_000;
    match seconds {
        0 => format!("{millis}ms"),
        1..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// Bytes in the largest binary unit that leaves a number of at least one: `1.2 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    // For a screen: the rounding of f64 is far below one digit.
    let mut value = bytes as f64 / 1_024.0;
    let mut unit = 0;
    while value >= 1_023.95 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A number and its noun: `1 segment`, `3 914 commits`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    if number == 1 { format!("{grouped} {noun}") } else { format!("{grouped} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_reaches_the_terminal() {
        assert_eq!(safe("a\u{1b}[2Jb\nc\u{202e}d\u{7f}"), "a\\u{1b}[2Jb\\u{a}c\\u{202e}d\\u{7f}");
        assert_eq!(short(&"x".repeat(500)).chars().count(), MAX_SHOWN_NAME);
    }

    #[test]
    fn numbers_read_easily() {
        assert_eq!(count(1, "segment"), "1 segment");
        assert_eq!(count(1_234_567, "commit"), "1 234 567 commits");
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!(bytes(16 << 20), "16.0 MiB");
        assert_eq!(bytes((1 << 30) - 1), "1.0 GiB");
        assert_eq!(span(TimeDelta::seconds(944)), "15m 44s");
        assert_eq!(span(TimeDelta::milliseconds(120)), "120ms");
    }
}
