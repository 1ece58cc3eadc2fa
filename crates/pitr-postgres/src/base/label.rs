//! `backup_label`, `tablespace_map`, and the settings of the server at the time of a backup.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Lsn, TimelineId};

/// What `backup_label` says: where recovery has to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// The redo position of the checkpoint: log is needed from here on.
    pub start: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: TimelineId,
    /// True if the backup was taken from a standby.
    pub from_standby: bool,
    /// True for an increment, which cannot be restored by itself.
    pub incremental: bool,
}

impl BackupLabel {
    /// Path of the file in the data directory.
    pub const FILE: &'static str = "backup_label";

    /// Reads the file; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
        let start = value("START WAL LOCATION")?.split(' ').next()?.parse().ok()?;
        let timeline = TimelineId(value("START TIMELINE")?.trim().parse().ok()?);
        let from_standby = value("BACKUP FROM").is_some_and(|from| from.trim() == "standby");
        Some(Self { start, timeline, from_standby, incremental: value("INCREMENTAL FROM LSN").is_some() })
    }
}

/// `tablespace_map`: an oid and a location on each line, line ends and backslashes in a location escaped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TablespaceMap(pub BTreeMap<u32, String>);

impl TablespaceMap {
    /// Path of the file in the data directory.
    pub const FILE: &'static str = "tablespace_map";

    /// Reads the file; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut map = BTreeMap::new();
        let mut rest = text.chars().peekable();
        while rest.peek().is_some() {
            let oid: String = rest.by_ref().take_while(|c| *c != ' ').collect();
            let mut location = String::new();
            loop {
                match rest.next()? {
                    '\n' => break,
                    '\\' => location.push(rest.next()?),
                    other => location.push(other),
                }
            }
            if map.insert(oid.parse().ok()?, location).is_some() {
                return None;
            }
        }
        Some(Self(map))
    }

    /// The file as a server reads it.
    pub fn to_text(&self) -> String {
        let escape = |location: &str| location.replace('\\', "\\\\").replace('\n', "\\\n").replace('\r', "\\\r");
        self.0.iter().map(|(oid, location)| format!("{oid} {}\n", escape(location))).collect()
    }
}

/// Settings of the source that a restored server has to match, or that a restore wants to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSettings {
    /// `server_version_num`: 150018 is 15.18.
    pub version_num: u32,
    /// Values of [`SourceSettings::RECORDED`], as `SHOW` prints them; those that the role may see.
    pub settings: BTreeMap<String, String>,
    /// True if there are tablespaces inside the data directory: the server recovers them only if told to.
    #[serde(default)]
    pub in_place_tablespaces: bool,
}

impl SourceSettings {
    /// Path of this part in a base.
    pub const PART: &'static str = "pitr/settings.json";

    /// Hot standby refuses to run with a lower value of these than the source had.
    pub const MINIMUMS: [&'static str; 5] = [
        "max_connections",
        "max_worker_processes",
        "max_wal_senders",
        "max_prepared_transactions",
        "max_locks_per_transaction",
    ];

    /// Everything that is recorded.
    pub const RECORDED: [&'static str; 12] = [
        "max_connections",
        "max_worker_processes",
        "max_wal_senders",
        "max_prepared_transactions",
        "max_locks_per_transaction",
        "wal_level",
        "shared_preload_libraries",
        "data_directory_mode",
        "lc_messages",
        "lc_monetary",
        "lc_numeric",
        "lc_time",
    ];
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Of PostgreSQL 15.18.
    const LABEL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n\
        BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-09-07 02:57:00 CEST\nLABEL: pitr\nSTART TIMELINE: 1\n";

    #[test]
    fn a_label_says_where_recovery_begins() {
        let label = BackupLabel::parse(LABEL).unwrap();
        assert_eq!((label.start.to_string().as_str(), label.timeline), ("0/2000028", TimelineId(1)));
        assert!(!label.from_standby && !label.incremental);
        assert!(BackupLabel::parse(&LABEL.replace("primary", "standby")).unwrap().from_standby);
        assert!(BackupLabel::parse(&format!("{LABEL}INCREMENTAL FROM LSN: 0/1\n")).unwrap().incremental);
        for broken in ["", "START WAL LOCATION: x\nSTART TIMELINE: 1\n", &LABEL.replace("TIMELINE: 1", "TIMELINE: y")] {
            assert_eq!(BackupLabel::parse(broken), None);
        }
    }

    #[test]
    fn a_tablespace_map_round_trips_with_odd_locations() {
        let map = TablespaceMap(BTreeMap::from([(16384, "/srv/a b".into()), (16385, "/srv/back\\slash\nline".into())]));
        assert_eq!(map.to_text(), "16384 /srv/a b\n16385 /srv/back\\\\slash\\\nline\n");
        assert_eq!(TablespaceMap::parse(&map.to_text()), Some(map));
        assert_eq!(TablespaceMap::parse(""), Some(TablespaceMap::default()));
        for broken in ["x /srv\n", "1 /srv", "1\n", "1 /a\n1 /b\n", "1 /a\\"] {
            assert_eq!(TablespaceMap::parse(broken), None, "{broken:?}");
        }
    }
}
