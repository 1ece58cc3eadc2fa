//! MySQL and MariaDB as the planner and the archive see them.

use pitr_core::{Engine, Facts, Fork, Lineage, Locator, Span, TargetError};

use crate::gtid::{Gtid, GtidSet};
use crate::limits::MAX_MARK_NAME;
use crate::position::{BinlogPosition, LogFile};

/// Keys of what this engine notes in plain headers. Stored: never change a meaning, only add.
pub mod facts {
    /// Lineage: the history's eight hexadecimal digits, as in its positions.
    pub const INCARNATION: &str = "incarnation";
    /// Lineage: `server_uuid` of the server, from MySQL.
    pub const SERVER_UUID: &str = "server_uuid";
    /// Lineage: `server_id` of the server, decimal.
    pub const SERVER_ID: &str = "server_id";
    /// Lineage: version of the server when the history was first seen.
    pub const VERSION: &str = "version";
    /// Lineage: what comes before the number in the names of its files: `binlog`.
    pub const BASE_NAME: &str = "base_name";

    /// Segment: name of its file: `binlog.000012`. Lineage: name of its first file.
    pub const FILE: &str = "file";
    /// Segment: offset of its first byte in the file, decimal.
    pub const OFFSET: &str = "offset";
    /// Segment: the format description event of its file, whole, in hexadecimal. Lineage: that of its first file.
    pub const FORMAT: &str = "format";
    /// Segment: offset in the file of the first event that begins in it; absent if none does.
    pub const FIRST: &str = "first";
    /// Segment: offset in the file at which the transaction began that its first byte is inside of; absent outside of one.
    pub const INSIDE: &str = "inside";
    /// Segment: offset in the file at which the transaction began that its last byte is inside of; absent outside of one.
    pub const OPEN: &str = "open";
    /// Segment: offset in the file and CRC-32 of its last whole event, `4711:9f01a2b3`.
    pub const LAST: &str = "last";
    /// Segment, span: the last whole transaction that has an identifier, also one before it, and when it was committed first,
    /// in microseconds since 1970: `0-1-77 1763900000000000`.
    pub const WITNESS: &str = "witness";
    /// Segment, span: executed set before its first byte.
    pub const BEFORE: &str = "before";
    /// Segment, span: executed set after its last whole transaction.
    pub const EXECUTED: &str = "executed";
    /// Segment, span: transactions that begin in it and are whole; of MariaDB the last one of each domain.
    pub const GTIDS: &str = "gtids";
}

/// The engine type of MySQL.
#[derive(Debug, Clone, Copy)]
pub struct Mysql;

/// The engine type of MariaDB.
#[derive(Debug, Clone, Copy)]
pub struct Mariadb;

macro_rules! engine {
    ($engine:ident, $name:literal, $gtid:literal, $family:ident) => {
        impl Engine for $engine {
            const NAME: &'static str = $name;
            const TARGETS: &'static [(&'static str, &'static str)] = &[
                ("gtid", concat!("gtid:", $gtid)),
                ("file", "file:binlog.000012:4711"),
                ("name", "name:before_deploy"),
            ];
            type Position = BinlogPosition;

            fn locate(
                lineage: &Lineage<BinlogPosition>,
                scheme: &str,
                value: &str,
            ) -> Result<Locator<BinlogPosition>, TargetError> {
                let malformed =
                    |expected| TargetError::Malformed { scheme: scheme.to_owned(), value: value.to_owned(), expected };
                match scheme {
                    "gtid" => match value.parse() {
                        Ok(gtid @ Gtid::$family(_)) => Ok(Locator::Transaction(gtid.to_string())),
                        _ => Err(malformed(concat!("one transaction such as ", $gtid))),
                    },
                    "file" => locate_file(lineage, value)
                        .map(Locator::Position)
                        .ok_or_else(|| malformed("a file and an offset such as binlog.000012:4711")),
                    "name" if value.len() <= MAX_MARK_NAME => Ok(Locator::Named(value.to_owned())),
                    "name" => Err(malformed("the name of a mark, at most 63 bytes")),
                    _ => Err(TargetError::UnknownScheme {
                        engine: Self::NAME,
                        scheme: scheme.to_owned(),
                        accepted: Self::TARGETS.iter().map(|(_, example)| *example).collect::<Vec<_>>().join(", "),
                    }),
                }
            }

            fn may_hold_transaction(span: &Span<BinlogPosition>, id: &str) -> bool {
                may_hold(span, id)
            }

            fn merge_facts(into: &mut Facts, next: &Facts) {
                merge(into, next);
            }

            fn in_child(_position: &BinlogPosition, _fork: &Fork<BinlogPosition>) -> Option<BinlogPosition> {
                // Another history counts in other files: only the executed sets say where its log meets this one.
                None
            }

            fn target(position: &BinlogPosition) -> String {
                format!("file:{}:{}", short_file(position.file), position.offset)
            }

            fn describe(position: &BinlogPosition) -> String {
                format!("log file {:06}, offset {}", position.file, position.offset)
            }
        }
    };
}

engine!(Mysql, "mysql", "3e11fa47-71ca-11e1-9e33-c80aa9429562:77", Mysql);
engine!(Mariadb, "mariadb", "0-1-77", Maria);

/// A target may leave out the name before the number, which a position does not know.
fn short_file(number: u64) -> String {
    format!("{number:06}")
}

/// `binlog.000012:4711`, or `000012:4711`, in the history asked for.
fn locate_file(lineage: &Lineage<BinlogPosition>, value: &str) -> Option<BinlogPosition> {
    let (file, offset) = value.rsplit_once(':')?;
    let incarnation = lineage.facts.get(facts::INCARNATION)?.parse().ok()?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits(file) { file.parse().ok()? } else { LogFile::parse(file)?.number };
    let offset = digits(offset).then(|| offset.parse().ok()).flatten()?;
    Some(BinlogPosition::new(incarnation, number, offset))
}

/// False only if the span's own set leaves the transaction out.
fn may_hold(span: &Span<BinlogPosition>, id: &str) -> bool {
    let (Ok(gtid), Some(set)) = (id.parse::<Gtid>(), span.facts.get(facts::GTIDS)) else { return true };
    if set.is_empty() {
        return span.commits.open || span.facts.contains_key(facts::OPEN);
    }
    match (set.parse::<GtidSet>(), gtid) {
        (Ok(set @ GtidSet::Mysql(_)), gtid) => set.contains(&gtid) || span.facts.contains_key(facts::OPEN),
        // Only the last of each domain: before the first of the span it can still be told apart by what came before.
        (Ok(set @ GtidSet::Maria(_)), gtid) => {
            let before: Option<GtidSet> = span.facts.get(facts::BEFORE).and_then(|text| text.parse().ok());
            let earlier = before.is_some_and(|before| before.contains(&gtid));
            (set.contains(&gtid) && !earlier) || span.facts.contains_key(facts::OPEN)
        }
        (Err(_), _) => true,
    }
}

/// Facts of single files mean nothing for what follows the first; sets grow.
fn merge(into: &mut Facts, next: &Facts) {
    for key in [facts::FILE, facts::OFFSET, facts::FORMAT, facts::FIRST, facts::OPEN] {
        into.remove(key);
    }
    for (key, value) in next {
        match key.as_str() {
            facts::EXECUTED | facts::LAST | facts::OPEN | facts::WITNESS => {
                drop(into.insert(key.clone(), value.clone()))
            }
            facts::GTIDS => {
                let merged = union(into.get(facts::GTIDS), value);
                into.insert(facts::GTIDS.to_owned(), merged);
            }
            facts::FILE | facts::OFFSET | facts::FORMAT | facts::FIRST | facts::BEFORE | facts::INSIDE => {}
            _ => drop(into.entry(key.clone()).or_insert_with(|| value.clone())),
        }
    }
}

/// Both sets as one. What cannot be read is kept: it makes [`Engine::may_hold_transaction`] answer "perhaps".
fn union(old: Option<&String>, new: &str) -> String {
    let Some(old) = old.filter(|old| !old.is_empty()) else { return new.to_owned() };
    if new.is_empty() {
        return old.clone();
    }
    match (old.parse(), new.parse()) {
        (Ok(GtidSet::Mysql(mut old)), Ok(GtidSet::Mysql(new))) => {
            old.union(&new);
            old.to_string()
        }
        (Ok(GtidSet::Maria(mut old)), Ok(GtidSet::Maria(new))) => {
            new.iter().for_each(|gtid| old.insert(gtid));
            old.to_string()
        }
        _ => "unreadable".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pitr_core::{CommitBounds, LineageId, SegmentName};

    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn lineage() -> Lineage<BinlogPosition> {
        let facts = Facts::from([(facts::INCARNATION.to_owned(), "9f01a2b3".to_owned())]);
        Lineage { id: LineageId::new("3e11fa47.9f01a2b3").unwrap(), ordinal: 0, fork: None, facts }
    }

    fn span(facts: &[(&str, &str)]) -> Span<BinlogPosition> {
        let name = SegmentName::new("g", "l").unwrap();
        Span {
            lineage: LineageId::new("3e11fa47.9f01a2b3").unwrap(),
            first: name.clone(),
            last: name,
            count: 1,
            start: "9f01a2b3:1:0".parse().unwrap(),
            end: "9f01a2b3:1:1000".parse().unwrap(),
            bytes: 1000,
            commits: CommitBounds::default(),
            marks: 0,
            facts: facts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        }
    }

    #[test]
    fn each_family_takes_its_own_identifiers() {
        let value = format!("{A}:77");
        assert_eq!(Mysql::locate(&lineage(), "gtid", &value), Ok(Locator::Transaction(value.clone())));
        assert_eq!(Mariadb::locate(&lineage(), "gtid", "0-1-77"), Ok(Locator::Transaction("0-1-77".into())));
        assert!(Mariadb::locate(&lineage(), "gtid", &value).is_err());
        assert!(Mysql::locate(&lineage(), "gtid", "0-1-77").is_err());
        assert!(Mysql::locate(&lineage(), "gtid", &format!("{A}:1-77")).is_err(), "one, not a set");
    }

    #[test]
    fn a_file_and_offset_is_taken_in_the_history_asked_for() {
        let at = Ok(Locator::Position("9f01a2b3:12:4711".parse().unwrap()));
        assert_eq!(Mysql::locate(&lineage(), "file", "binlog.000012:4711"), at);
        assert_eq!(Mysql::locate(&lineage(), "file", "000012:4711"), at);
        let typed = Mysql::target(&"9f01a2b3:12:4711".parse().unwrap());
        assert_eq!(typed, "file:000012:4711");
        for bad in ["binlog.000012", "binlog:4711", "binlog.000012:x", ":1"] {
            assert!(Mysql::locate(&lineage(), "file", bad).is_err(), "{bad}");
        }
        assert!(Mysql::locate(&lineage(), "lsn", "0/1").unwrap_err().hint().contains("file:binlog.000012:4711"));
    }

    #[test]
    fn a_span_is_passed_over_only_when_its_set_excludes_the_transaction() {
        let set = format!("{A}:10-20");
        let mysql = span(&[("gtids", &set)]);
        assert!(Mysql::may_hold_transaction(&mysql, &format!("{A}:15")));
        assert!(!Mysql::may_hold_transaction(&mysql, &format!("{A}:21")));
        assert!(Mysql::may_hold_transaction(&span(&[("gtids", &set), ("open", "500")]), &format!("{A}:21")));
        assert!(!Mysql::may_hold_transaction(&span(&[("gtids", "")]), &format!("{A}:15")));
        assert!(Mysql::may_hold_transaction(&span(&[]), &format!("{A}:15")));
        let maria = span(&[("before", "0-1-9"), ("gtids", "0-1-20")]);
        assert!(Mariadb::may_hold_transaction(&maria, "0-1-10"));
        assert!(!Mariadb::may_hold_transaction(&maria, "0-1-9"));
        assert!(!Mariadb::may_hold_transaction(&maria, "0-1-21"));
    }

    #[test]
    fn merging_joins_the_sets_and_keeps_the_edges() {
        let (first, second) = (format!("{A}:10-20"), format!("{A}:21-30"));
        let mut facts = span(&[("gtids", &first), ("before", "x"), ("executed", "a"), ("file", "binlog.000001")]).facts;
        Mysql::merge_facts(&mut facts, &span(&[("gtids", &second), ("before", "a"), ("executed", "b")]).facts);
        let expected = span(&[("gtids", &format!("{A}:10-30")), ("before", "x"), ("executed", "b")]);
        assert_eq!(facts, expected.facts);
    }
}
