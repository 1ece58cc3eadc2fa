//! What the user asks for: a target, and whether it is included.

use std::fmt;

use chrono::{DateTime, FixedOffset, LocalResult, NaiveDateTime, TimeDelta, TimeZone, Utc};

use crate::Timestamp;

/// Whether the thing named by the target is kept or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bound {
    /// Inclusive: the target itself is kept (`--to`).
    To,
    /// Exclusive: the target itself is dropped (`--before`).
    Before,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::To => "to",
            Self::Before => "before",
        })
    }
}

/// A moment of the log, as the user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Everything the archive holds.
    Latest,
    /// The longest prefix of the log before the first commit later than this moment (`--to`), or not
    /// earlier than it (`--before`).
    Time(Timestamp),
    /// A coordinate in an engine's own words: `lsn:4A/9C3F1E88`, `xid:88120412`, `name:before_deploy`.
    Coordinate {
        /// The word before the colon.
        scheme: String,
        /// What follows it.
        value: String,
    },
}

/// The text of a target could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// A date and time without zone means different moments to different people.
    #[error("time {0:?} has no zone")]
    NoZone(String),
    /// The zone is in no database.
    #[error("unknown time zone {0:?}")]
    UnknownZone(String),
    /// The clock was set back: the local time happened twice.
    #[error("local time {text:?} happened twice: at {earlier} and at {later}")]
    Twice {
        /// The text as given.
        text: String,
        /// The first time that the clock showed it.
        earlier: String,
        /// The second time.
        later: String,
    },
    /// The clock was set forward: the local time never happened.
    #[error("local time {0:?} never happened: the clock was set forward over it")]
    Never(String),
    /// The engine has no such coordinate.
    #[error("{engine} has no target of the form {scheme}:…")]
    UnknownScheme {
        /// Name of the engine.
        engine: &'static str,
        /// The word before the colon.
        scheme: String,
        /// Accepted forms, with examples.
        accepted: String,
    },
    /// The coordinate is of a known kind but malformed.
    #[error("{scheme}:{value} is malformed: expected {expected}")]
    Malformed {
        /// The word before the colon.
        scheme: String,
        /// What follows it.
        value: String,
        /// The accepted form.
        expected: &'static str,
    },
    /// Nothing above fits.
    #[error("target {0:?} is not understood")]
    NotUnderstood(String),
}

impl TargetError {
    /// What to type instead.
    pub fn hint(&self) -> String {
        match self {
            Self::NoZone(text) => format!("add an offset or a zone, as in \"{text}Z\", \"{text}+02:00\" or \"{text} Europe/Berlin\""),
            Self::UnknownZone(_) => "use an IANA zone such as Europe/Berlin, UTC, or an offset such as +02:00".to_owned(),
            Self::Twice { earlier, later, .. } => format!("say which one: {earlier} or {later}"),
            Self::Never(_) => "give the moment with an offset, as in 2026-03-29T01:30:00Z".to_owned(),
            Self::UnknownScheme { accepted, .. } => format!("accepted: latest, a time with zone, \"15m ago\", {accepted}"),
            Self::Malformed { .. } | Self::NotUnderstood(_) => {
                "accepted: latest, 2026-09-07T02:57:00+02:00, \"2026-09-07 02:57:00 Europe/Berlin\", \"15m ago\", or a coordinate of the engine".to_owned()
            }
        }
    }
}

impl Target {
    /// Reads a target; `now` is what "ago" counts from.
    pub fn parse(text: &str, now: Timestamp) -> Result<Self, TargetError> {
        let text = text.trim();
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Some((scheme, value)) = text.split_once(':')
            && !value.is_empty()
            && !scheme.is_empty()
            && scheme.bytes().all(|b| b.is_ascii_lowercase())
        {
            // Before anything else: a named point may be called "a_year_ago".
            return Ok(Self::Coordinate { scheme: scheme.to_owned(), value: value.to_owned() });
        }
        if let Some(span) = text.strip_suffix("ago") {
            return parse_span(span)
                .and_then(|span| now.checked_sub_signed(span))
                .map(Self::Time)
                .ok_or_else(|| TargetError::NotUnderstood(text.to_owned()));
        }
        parse_moment(text).map(Self::Time)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Time(time) => f.write_str(&time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)),
            Self::Coordinate { scheme, value } => write!(f, "{scheme}:{value}"),
        }
    }
}

/// `15m`, `1h30m`, `2d`: a sum of whole numbers with units s, m, h, d, w.
fn parse_span(text: &str) -> Option<TimeDelta> {
    let mut total = TimeDelta::zero();
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest.get(..digits)?.parse().ok()?;
        let tail = rest.get(digits..)?.trim_start();
        let unit_end = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let seconds = match tail.get(..unit_end)? {
            "s" | "sec" | "second" | "seconds" => 1,
            "m" | "min" | "minute" | "minutes" => 60,
            "h" | "hour" | "hours" => 3_600,
            "d" | "day" | "days" => 86_400,
            "w" | "week" | "weeks" => 604_800,
            _ => return None,
        };
        let part = TimeDelta::try_seconds(number.checked_mul(seconds)?)?;
        total = total.checked_add(&part)?;
        rest = tail.get(unit_end..)?.trim_start();
    }
    Some(total)
}

const LOCAL_FORMATS: [&str; 6] =
    ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H", "%Y-%m-%d %H"];

fn parse_local(text: &str) -> Option<NaiveDateTime> {
    LOCAL_FORMATS.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
}

fn parse_moment(text: &str) -> Result<Timestamp, TargetError> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.with_timezone(&Utc));
    }
    let not_understood = || TargetError::NotUnderstood(text.to_owned());
    if parse_local(text).is_some() {
        return Err(TargetError::NoZone(text.to_owned()));
    }
    if let Some(local) = text.strip_suffix(['Z', 'z']) {
        return parse_local(local.trim_end()).map(|time| time.and_utc()).ok_or_else(not_understood);
    }
    if let Some((local, offset)) = split_offset(text) {
        let time = parse_local(local.trim_end()).ok_or_else(not_understood)?;
        return offset.from_local_datetime(&time).single().map(|t| t.with_timezone(&Utc)).ok_or_else(not_understood);
    }
    let (local, zone) = text.rsplit_once(' ').ok_or_else(not_understood)?;
    let time = parse_local(local.trim_end()).ok_or_else(not_understood)?;
    in_zone(text, time, zone)
}

/// Splits a trailing `+02:00`, `+0200` or `-03` from a text whose date also contains dashes.
fn split_offset(text: &str) -> Option<(&str, FixedOffset)> {
    let at = text.rfind(['+', '-'])?;
    let (local, offset) = text.split_at_checked(at)?;
    let digits: String = offset.get(1..)?.chars().filter(|c| *c != ':').collect();
    if !local.contains(':') || !(digits.len() == 2 || digits.len() == 4) || !digits.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let hours: i32 = digits.get(..2)?.parse().ok()?;
    let minutes: i32 = digits.get(2..).filter(|m| !m.is_empty()).map_or(Some(0), |m| m.parse().ok())?;
    let seconds = hours * 3_600 + minutes * 60;
    let offset = if offset.starts_with('-') { FixedOffset::west_opt(seconds) } else { FixedOffset::east_opt(seconds) };
    Some((local, offset?))
}

fn in_zone(text: &str, time: NaiveDateTime, zone: &str) -> Result<Timestamp, TargetError> {
    let zone: chrono_tz::Tz = zone.parse().map_err(|_| TargetError::UnknownZone(zone.to_owned()))?;
    match zone.from_local_datetime(&time) {
        LocalResult::Single(time) => Ok(time.with_timezone(&Utc)),
        LocalResult::None => Err(TargetError::Never(text.to_owned())),
        LocalResult::Ambiguous(earlier, later) => {
            Err(TargetError::Twice { text: text.to_owned(), earlier: earlier.to_rfc3339(), later: later.to_rfc3339() })
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-09-07T01:12:00Z".parse().unwrap()
    }

    fn time(text: &str) -> Timestamp {
        match Target::parse(text, now()).unwrap() {
            Target::Time(time) => time,
            other => panic!("{text} parsed as {other:?}"),
        }
    }

    #[test]
    fn all_spellings_of_one_moment_agree() {
        let expected: Timestamp = "2026-09-07T00:57:00Z".parse().unwrap();
        for text in [
            "2026-09-07T02:57:00+02:00",
            "2026-09-07T00:57:00Z",
            "2026-09-07 00:57:00Z",
            "2026-09-07 00:57 Z",
            "2026-09-07 02:57:00+02",
            "2026-09-07 02:57 +0200",
            "2026-09-07 02:57:00 Europe/Berlin",
            "2026-09-07 00:57 UTC",
            "15m ago",
            "900 seconds ago",
        ] {
            assert_eq!(time(text), expected, "{text}");
        }
    }

    #[test]
    fn a_point_may_have_a_name_that_ends_like_a_span() {
        let named = Target::Coordinate { scheme: "name".into(), value: "a_year_ago".into() };
        assert_eq!(Target::parse("name:a_year_ago", now()), Ok(named));
    }

    #[test]
    fn spans_add_up() {
        assert_eq!(time("1h30m ago"), now() - TimeDelta::minutes(90));
        assert_eq!(time("2d 3h ago"), now() - TimeDelta::hours(51));
        for bad in ["ago", "15 ago", "m ago", "15x ago", "99999999999999999999d ago"] {
            assert!(Target::parse(bad, now()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_naive_time_is_rejected_with_the_way_out() {
        let error = Target::parse("2026-09-07 02:57:00", now()).unwrap_err();
        assert_eq!(error, TargetError::NoZone("2026-09-07 02:57:00".into()));
        assert!(error.hint().contains("Europe/Berlin"));
    }

    #[test]
    fn clock_changes_are_never_guessed() {
        let twice = Target::parse("2026-10-25 02:30:00 Europe/Berlin", now()).unwrap_err();
        assert!(matches!(&twice, TargetError::Twice { .. }), "{twice:?}");
        assert!(twice.hint().contains("2026-10-25T02:30:00+02:00"), "{}", twice.hint());
        let never = Target::parse("2026-03-29 02:30:00 Europe/Berlin", now()).unwrap_err();
        assert!(matches!(never, TargetError::Never(_)), "{never:?}");
    }

    #[test]
    fn coordinates_keep_their_value_whole() {
        let target = Target::parse("gtid:3e11fa47-71ca-11e1-9e33-c80aa9429562:77", now()).unwrap();
        assert_eq!(target.to_string(), "gtid:3e11fa47-71ca-11e1-9e33-c80aa9429562:77");
        assert!(matches!(target, Target::Coordinate { scheme, value } if scheme == "gtid" && value.ends_with(":77")));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
            if let Ok(target) = Target::parse(&text, now()) {
                // What was understood prints to something that is understood again.
                Target::parse(&target.to_string(), now()).unwrap();
            }
        }
    }
}
