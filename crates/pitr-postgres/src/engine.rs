//! PostgreSQL as the planner and the archive see it.

use pitr_core::{Engine, Facts, Fork, Lineage, Locator, Span, TargetError};

use crate::limits::MAX_RESTORE_POINT_NAME;
use crate::lsn::{Lsn, SegmentSize, TimelineId};
use crate::position::PgPosition;

/// Keys of what this engine notes in plain headers. Stored: never change a meaning, only add.
pub mod facts {
    /// Lineage: identifier of the cluster, decimal.
    pub const SYSTEM_ID: &str = "system_id";
    /// Lineage: number of the timeline, decimal.
    pub const TIMELINE: &str = "timeline";
    /// Lineage: bytes of a WAL file, decimal.
    pub const SEGMENT_SIZE: &str = "segment_size";
    /// Lineage: bytes of a WAL page, decimal.
    pub const PAGE_SIZE: &str = "page_size";
    /// Lineage: major version of the server, decimal.
    pub const VERSION: &str = "version";
    /// Segment, span: smallest identifier of a transaction that ends in it; absent if none does.
    pub const XID_MIN: &str = "xid_min";
    /// Segment, span: largest identifier of a transaction that ends in it; absent if none does.
    pub const XID_MAX: &str = "xid_max";
    /// Segment, span: `true` if a transaction ends in it whose identifier could not be read.
    pub const XID_UNKNOWN: &str = "xid_unknown";
    /// Segment, span: offset of the first record that begins in it; absent if none does.
    pub const FIRST_RECORD: &str = "first_record";
    /// Segment, span: LSN of the last record that begins in it; absent if none does, and in what older programs wrote.
    pub const LAST_RECORD: &str = "last_record";
    /// Segment, span: `true` if the server went to `wal_level = minimal` in it.
    pub const WAL_MINIMAL: &str = "wal_minimal";
    /// Segment: `true` for the unfinished last segment of a timeline that was left.
    pub const PARTIAL: &str = "partial";
}

/// The engine type of PostgreSQL.
#[derive(Debug, Clone, Copy)]
pub struct Postgres;

impl Engine for Postgres {
    const NAME: &'static str = "postgres";
    const TARGETS: &'static [(&'static str, &'static str)] =
        &[("lsn", "lsn:4A/9C3F1E88"), ("xid", "xid:88120412"), ("name", "name:before_deploy")];
    type Position = PgPosition;

    fn locate(lineage: &Lineage<PgPosition>, scheme: &str, value: &str) -> Result<Locator<PgPosition>, TargetError> {
        let malformed =
            |expected| TargetError::Malformed { scheme: scheme.to_owned(), value: value.to_owned(), expected };
        match scheme {
            "lsn" => locate_lsn(lineage, value).map(Locator::Position).ok_or_else(|| malformed(Lsn::EXPECTED)),
            "xid" => parse_xid(value)
                .map(|xid| Locator::Transaction(xid.to_string()))
                .ok_or_else(|| malformed("a transaction identifier such as 88120412, at least 3")),
            "name" if value.len() <= MAX_RESTORE_POINT_NAME => Ok(Locator::Named(value.to_owned())),
            "name" => Err(malformed("the name of a restore point, at most 63 bytes")),
            _ => Err(TargetError::UnknownScheme {
                engine: Self::NAME,
                scheme: scheme.to_owned(),
                accepted: Self::TARGETS.iter().map(|(_, example)| *example).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    fn may_hold_transaction(span: &Span<PgPosition>, id: &str) -> bool {
        let number = |key| span.facts.get(key).and_then(|text| text.parse::<u32>().ok());
        let Some(id) = parse_xid(id) else { return true };
        if span.commits.open || span.facts.contains_key(facts::XID_UNKNOWN) {
            return true;
        }
        match (number(facts::XID_MIN), number(facts::XID_MAX)) {
            // Compared as plain numbers, as they were merged: over a wraparound the range is too wide at worst.
            (Some(min), Some(max)) => (min..=max).contains(&id),
            // Written together; a lone or unreadable one proves nothing.
            _ if span.facts.contains_key(facts::XID_MIN) || span.facts.contains_key(facts::XID_MAX) => true,
            _ => span.commits.count > 0,
        }
    }

    fn merge_facts(into: &mut Facts, next: &Facts) {
        // Offsets and names of single files mean nothing for what follows the first.
        into.remove(facts::PARTIAL);
        // What follows may be of an older program, which does not say it.
        into.remove(facts::LAST_RECORD);
        for (key, value) in next {
            match key.as_str() {
                facts::FIRST_RECORD | facts::PARTIAL => {}
                facts::LAST_RECORD => drop(into.insert(key.clone(), value.clone())),
                facts::XID_MIN => keep(into, key, value, |old, new| new < old),
                facts::XID_MAX => keep(into, key, value, |old, new| new > old),
                _ => drop(into.entry(key.clone()).or_insert_with(|| value.clone())),
            }
        }
    }

    fn in_child(position: &PgPosition, fork: &Fork<PgPosition>) -> Option<PgPosition> {
        // LSNs go on across a fork: up to it both timelines hold the same bytes at the same place.
        (*position <= fork.parent_at).then(|| PgPosition::new(fork.child_at.timeline, position.lsn))
    }

    fn target(position: &PgPosition) -> String {
        format!("lsn:{}", position.lsn)
    }

    fn describe(position: &PgPosition) -> String {
        format!("timeline {}, LSN {}", position.timeline, position.lsn)
    }
}

/// Takes the new number if there is none yet, or if it is better. What is no number is taken too: it makes
/// [`Engine::may_hold_transaction`] answer "perhaps".
fn keep(into: &mut Facts, key: &str, new: &str, better: impl Fn(u32, u32) -> bool) {
    let old = into.get(key).map(|old| old.parse::<u32>());
    match (old, new.parse::<u32>()) {
        (Some(Ok(old)), Ok(new)) if !better(old, new) => {}
        (Some(Err(_)), _) => {}
        _ => drop(into.insert(key.to_owned(), new.to_owned())),
    }
}

fn locate_lsn(lineage: &Lineage<PgPosition>, value: &str) -> Option<PgPosition> {
    let lsn: Lsn = value.parse().ok()?;
    let timeline = lineage_timeline(lineage)?;
    let size = lineage.facts.get(facts::SEGMENT_SIZE).and_then(|text| text.parse().ok()).and_then(SegmentSize::new);
    // The server's functions report a page boundary where the next record begins after the page header.
    Some(PgPosition::new(timeline, lsn.normalized(size.unwrap_or(SegmentSize::DEFAULT))))
}

/// Timeline of a lineage: from its facts, else from its fork; a history that starts by itself is the first.
fn lineage_timeline(lineage: &Lineage<PgPosition>) -> Option<TimelineId> {
    match (lineage.facts.get(facts::TIMELINE), &lineage.fork) {
        (Some(text), _) => text.parse().ok().map(TimelineId),
        (None, Some(fork)) => Some(fork.child_at.timeline),
        (None, None) => Some(TimelineId::FIRST),
    }
}

/// A normal transaction identifier. The 64-bit form of newer functions (`pg_current_xact_id`) has the epoch in
/// its upper half, which the log does not repeat: as the server's own `recovery_target_xid`, take the lower.
fn parse_xid(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let full: u64 = plain.then(|| text.parse().ok()).flatten()?;
    u32::try_from(full & 0xFFFF_FFFF).ok().filter(|xid| *xid >= 3)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pitr_core::{CommitBounds, LineageId, SegmentName};

    use super::*;

    fn lineage(timeline: u32) -> Lineage<PgPosition> {
        let facts = Facts::from([
            (facts::TIMELINE.to_owned(), timeline.to_string()),
            (facts::SEGMENT_SIZE.to_owned(), (1 << 20).to_string()),
        ]);
        Lineage { id: LineageId::new("7.00000001").unwrap(), ordinal: 0, fork: None, facts }
    }

    fn span(facts: &[(&str, &str)], count: u64) -> Span<PgPosition> {
        let name = SegmentName::new("g", "l").unwrap();
        Span {
            lineage: LineageId::new("7.00000001").unwrap(),
            first: name.clone(),
            last: name,
            count: 1,
            start: "1:0/1000000".parse().unwrap(),
            end: "1:0/2000000".parse().unwrap(),
            bytes: 16 << 20,
            commits: CommitBounds { count, ..CommitBounds::default() },
            marks: 0,
            facts: facts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        }
    }

    fn locate(scheme: &str, value: &str) -> Result<Locator<PgPosition>, TargetError> {
        Postgres::locate(&lineage(3), scheme, value)
    }

    #[test]
    fn an_lsn_is_taken_on_the_timeline_asked_for_and_where_a_record_can_begin() {
        let at = |text: &str| Ok(Locator::Position(text.parse().unwrap()));
        assert_eq!(locate("lsn", "0/5001000"), at("3:0/5001000"));
        assert_eq!(locate("lsn", "0/5100000"), at("3:0/5100028"));
        assert_eq!(locate("lsn", "0/5002000"), at("3:0/5002018"));
    }

    #[test]
    fn the_server_s_long_transaction_identifiers_are_understood() {
        assert_eq!(locate("xid", "88120412"), Ok(Locator::Transaction("88120412".into())));
        assert_eq!(locate("xid", "4294967999"), Ok(Locator::Transaction("703".into())));
        for bad in ["", "0", "2", "-5", "7x", "99999999999999999999", "4294967296"] {
            assert!(matches!(locate("xid", bad), Err(TargetError::Malformed { .. })), "{bad}");
        }
    }

    #[test]
    fn an_unknown_target_is_answered_with_the_known_ones() {
        let error = locate("gtid", "x:1").unwrap_err();
        assert!(error.hint().contains("lsn:4A/9C3F1E88"), "{}", error.hint());
        assert!(locate("name", &"x".repeat(64)).is_err());
        assert_eq!(locate("name", "before_deploy"), Ok(Locator::Named("before_deploy".into())));
    }

    #[test]
    fn a_span_is_passed_over_only_when_its_range_excludes_the_transaction() {
        let range = span(&[("xid_min", "700"), ("xid_max", "800")], 5);
        assert!(Postgres::may_hold_transaction(&range, "700"));
        assert!(!Postgres::may_hold_transaction(&range, "801"));
        assert!(!Postgres::may_hold_transaction(&span(&[], 0), "700"), "no transaction ends in it");
        assert!(Postgres::may_hold_transaction(&span(&[], 1), "700"), "commits, but no range");
        assert!(Postgres::may_hold_transaction(&span(&[("xid_min", "700")], 1), "5"), "half a range");
        assert!(Postgres::may_hold_transaction(&span(&[("xid_unknown", "true")], 0), "5"));
        let mut open = range;
        open.commits.open = true;
        assert!(Postgres::may_hold_transaction(&open, "801"), "a commit that lies beyond");
    }

    #[test]
    fn merging_widens_ranges_and_keeps_warnings() {
        let mut facts = span(&[("xid_min", "4294967290"), ("xid_max", "4294967295"), ("first_record", "40")], 5).facts;
        let next = span(&[("xid_min", "3"), ("xid_max", "9"), ("first_record", "96"), ("wal_minimal", "true")], 5);
        Postgres::merge_facts(&mut facts, &next.facts);
        Postgres::merge_facts(&mut facts, &span(&[("xid_unknown", "true"), ("partial", "true")], 1).facts);
        let expected = span(
            &[
                ("first_record", "40"),
                ("wal_minimal", "true"),
                ("xid_max", "4294967295"),
                ("xid_min", "3"),
                ("xid_unknown", "true"),
            ],
            0,
        );
        assert_eq!(facts, expected.facts);
    }

    #[test]
    fn a_cut_up_to_the_fork_has_a_name_in_the_child_too() {
        let at = |text: &str| text.parse::<PgPosition>().unwrap();
        let parent = LineageId::new("7.00000001").unwrap();
        let fork = Fork { parent, parent_at: at("1:0/4002098"), child_at: at("2:0/4002098") };
        assert_eq!(Postgres::in_child(&at("1:0/4000000"), &fork), Some(at("2:0/4000000")));
        assert_eq!(Postgres::in_child(&at("1:0/4002098"), &fork), Some(at("2:0/4002098")));
        assert_eq!(Postgres::in_child(&at("1:0/40020A0"), &fork), None);
        assert_eq!(Postgres::in_child(&at("2:0/4000000"), &fork), None);
        assert_eq!(Postgres::target(&at("1:0/4002098")), "lsn:0/4002098");
    }

    #[test]
    fn a_position_reads_as_people_say_it() {
        assert_eq!(Postgres::describe(&"1:4A/9C3F1E88".parse().unwrap()), "timeline 1, LSN 4A/9C3F1E88");
    }
}
