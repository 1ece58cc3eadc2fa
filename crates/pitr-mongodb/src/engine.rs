//! MongoDB as the planner and the archive see it.

use pitr_core::{Engine, Facts, Fork, Lineage, Locator, Span, TargetError};

use crate::limits::MAX_MARK_NAME;
use crate::position::MongoPosition;

/// Keys of what this engine notes in plain headers. Stored: never change a meaning, only add.
pub mod facts {
    /// Lineage: identifier of the replica set, 24 hexadecimal digits.
    pub const REPLICA_SET_ID: &str = "replica_set_id";
    /// Lineage: name of the replica set.
    pub const SET_NAME: &str = "set_name";
    /// Lineage, base: version of the server.
    pub const VERSION: &str = "version";
    /// Lineage, base: feature compatibility version.
    pub const COMPATIBILITY: &str = "compatibility";
    /// Segment: its first entry, as a position. All its entries are of one election.
    pub const FIRST: &str = "first";
    /// Segment: number of entries.
    pub const ENTRIES: &str = "entries";
    /// Segment, span: names of operations that cannot be replayed, most of them unknown, separated by spaces.
    pub const UNKNOWN: &str = "unknown";
    /// Base: `snapshot` if all of it was read at one cluster time, `fuzzy` if it needs the log to agree with itself.
    pub const READ: &str = "read";
    /// Value of [`READ`].
    pub const READ_AT_ONE_TIME: &str = "snapshot";
    /// Base: the timestamp of which it is. Log up to there is not replayed.
    pub const AT: &str = "at";
    /// Base: up to this timestamp the log is already in it, or needed to make it agree with itself.
    pub const UNTIL: &str = "until";
}

/// The engine type of MongoDB.
#[derive(Debug, Clone, Copy)]
pub struct Mongo;

impl Engine for Mongo {
    const NAME: &'static str = "mongodb";
    const TARGETS: &'static [(&'static str, &'static str)] =
        &[("optime", "optime:1700000000.3"), ("name", "name:before_deploy")];
    type Position = MongoPosition;

    fn locate(_: &Lineage<MongoPosition>, scheme: &str, value: &str) -> Result<Locator<MongoPosition>, TargetError> {
        let malformed =
            |expected| TargetError::Malformed { scheme: scheme.to_owned(), value: value.to_owned(), expected };
        match scheme {
            "optime" => value.parse().map(Locator::Record).map_err(|_| malformed(MongoPosition::EXPECTED)),
            "name" if value.len() <= MAX_MARK_NAME => Ok(Locator::Named(value.to_owned())),
            "name" => Err(malformed("the name of a mark, at most 128 bytes")),
            _ => Err(TargetError::UnknownScheme {
                engine: Self::NAME,
                scheme: scheme.to_owned(),
                accepted: Self::TARGETS.iter().map(|(_, example)| *example).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    fn may_hold_transaction(_: &Span<MongoPosition>, _: &str) -> bool {
        // Transactions are named by their optime, which is a position.
        true
    }

    fn merge_facts(into: &mut Facts, next: &Facts) {
        // Counts of single segments mean nothing for a span.
        into.remove(facts::ENTRIES);
        for (key, value) in next {
            match key.as_str() {
                facts::ENTRIES => {}
                facts::UNKNOWN => {
                    let known = into.entry(key.clone()).or_default();
                    *known = crate::scan::join_names(known.split(' ').chain(value.split(' ')));
                }
                _ => drop(into.entry(key.clone()).or_insert_with(|| value.clone())),
            }
        }
    }

    fn in_child(_: &MongoPosition, _: &Fork<MongoPosition>) -> Option<MongoPosition> {
        // A history that forks off goes on where it left: it never repeats its parent's entries.
        None
    }

    fn target(position: &MongoPosition) -> String {
        format!("optime:{}", position.stamp)
    }

    fn describe(position: &MongoPosition) -> String {
        match position.term {
            Some(term) => format!("optime {}, term {term}", position.stamp),
            None => format!("optime {}", position.stamp),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pitr_core::LineageId;

    use super::*;

    fn locate(scheme: &str, value: &str) -> Result<Locator<MongoPosition>, TargetError> {
        let id = LineageId::new("x").unwrap();
        Mongo::locate(&Lineage { id, ordinal: 0, fork: None, facts: Facts::new() }, scheme, value)
    }

    #[test]
    fn an_optime_is_read_with_and_without_its_term() {
        let expected = Ok(Locator::Record("1700000000.3".parse().unwrap()));
        assert_eq!(locate("optime", "1700000000.3"), expected);
        assert_eq!(locate("optime", "5:1700000000.3"), expected);
        for bad in ["", "1700000000", "1700000000,3", "x.1"] {
            assert!(matches!(locate("optime", bad), Err(TargetError::Malformed { .. })), "{bad}");
        }
    }

    #[test]
    fn an_unknown_target_is_answered_with_the_known_ones() {
        assert!(locate("lsn", "0/1").unwrap_err().hint().contains("optime:1700000000.3"));
        assert_eq!(locate("name", "before_deploy"), Ok(Locator::Named("before_deploy".into())));
        assert!(locate("name", &"x".repeat(129)).is_err());
    }

    #[test]
    fn merging_collects_what_is_unknown() {
        let facts = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut merged: Facts = facts(&[("entries", "5"), ("unknown", "b")]);
        Mongo::merge_facts(&mut merged, &facts(&[("entries", "7"), ("unknown", "a b")]));
        assert_eq!(merged, facts(&[("unknown", "a b")]));
    }

    #[test]
    fn a_position_reads_as_people_say_it() {
        assert_eq!(Mongo::describe(&"5:1700000000.3".parse().unwrap()), "optime 1700000000.3, term 5");
        assert_eq!(Mongo::target(&"5:1700000000.3".parse().unwrap()), "optime:1700000000.3");
    }
}
