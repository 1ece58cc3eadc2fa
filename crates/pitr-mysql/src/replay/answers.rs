//! What a replica asks before it asks for the log, and the answers.
//!
//! A replica speaks SQL to its source, but only a dozen sentences of it: settings that it reads, and variables that it
//! sets. Anything else is refused by name, so that a new version's new question is seen and not guessed at.

use std::collections::BTreeMap;

use crate::event::Checksum;
use crate::wire::put_packed_bytes;

/// What the source says of itself.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Made for this restore; differs from every server of the log and from the target.
    pub server_id: u32,
    /// Likewise.
    pub server_uuid: String,
    /// `ON` or `OFF`, as the log was written.
    pub gtid_mode: &'static str,
    /// `CRC32` or `NONE`, as the log was written.
    pub checksum: &'static str,
    /// Seconds since 1970.
    pub now: fn() -> u64,
}

impl Identity {
    /// How events end before the first file says it.
    pub fn checksum(&self) -> Checksum {
        if self.checksum == "CRC32" { Checksum::Crc32 } else { Checksum::None }
    }
}

/// An answer to a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Ok,
    /// One row; column names and values.
    Row(Vec<(String, Option<String>)>),
    /// Refused.
    Unknown,
}

/// A replica's session: the variables it has set.
#[derive(Debug, Default)]
pub struct Answers {
    variables: BTreeMap<String, String>,
}

impl Answers {
    /// A variable that the replica set, without its `@`.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Answers one statement.
    pub fn to(&mut self, statement: &str, identity: &Identity) -> Answer {
        let statement = statement.trim().trim_end_matches(';');
        let upper = statement.to_ascii_uppercase();
        if let Some(rest) = upper.strip_prefix("SET ") {
            let rest = statement.get(statement.len() - rest.len()..).unwrap_or_default();
            return self.set(rest, identity);
        }
        if let Some(expression) = upper.strip_prefix("SELECT ") {
            let expression = expression.trim();
            return match self.value(expression, identity) {
                Some(value) => Answer::Row(vec![(expression.to_owned(), value)]),
                None => Answer::Unknown,
            };
        }
        if let Some(name) =
            upper.strip_prefix("SHOW VARIABLES LIKE ").or(upper.strip_prefix("SHOW GLOBAL VARIABLES LIKE "))
        {
            let name = name.trim_matches(['\'', '"', ' ']);
            return match self.value(&format!("@@GLOBAL.{name}"), identity) {
                Some(value) => Answer::Row(vec![
                    ("Variable_name".into(), Some(name.to_ascii_lowercase())),
                    ("Value".into(), value),
                ]),
                None => Answer::Unknown,
            };
        }
        Answer::Unknown
    }

    /// The value of an expression in upper case; `None` if the expression is not known.
    fn value(&self, expression: &str, identity: &Identity) -> Option<Option<String>> {
        if let Some(name) = expression.strip_prefix('@').filter(|name| !name.starts_with('@')) {
            return Some(self.variable(&name.to_ascii_lowercase()).map(str::to_owned));
        }
        let value = match expression {
            "UNIX_TIMESTAMP()" => (identity.now)().to_string(),
            "@@GLOBAL.SERVER_ID" => identity.server_id.to_string(),
            "@@GLOBAL.SERVER_UUID" => identity.server_uuid.clone(),
            "@@GLOBAL.GTID_MODE" => identity.gtid_mode.to_owned(),
            "@@GLOBAL.BINLOG_CHECKSUM" => identity.checksum.to_owned(),
            "@@GLOBAL.GTID_DOMAIN_ID" => "0".to_owned(),
            "@@GLOBAL.TIME_ZONE" => "SYSTEM".to_owned(),
            "@@GLOBAL.RPL_SEMI_SYNC_SOURCE_ENABLED" | "@@GLOBAL.RPL_SEMI_SYNC_MASTER_ENABLED" => "0".to_owned(),
            _ => return None,
        };
        Some(Some(value))
    }

    /// `@a = 1, @b = 'x', NAMES latin1`: what is a variable of the session is kept, the rest has no meaning here.
    fn set(&mut self, assignments: &str, identity: &Identity) -> Answer {
        for assignment in split(assignments) {
            let Some((name, value)) = assignment.split_once('=') else { continue };
            let Some(name) = name.trim().trim_end_matches(':').trim().strip_prefix('@') else { continue };
            let value = value.trim();
            let value = match value.strip_prefix(['\'', '"']) {
                Some(text) => text.trim_end_matches(['\'', '"']).to_owned(),
                None => match self.value(&value.to_ascii_uppercase(), identity) {
                    Some(value) => value.unwrap_or_default(),
                    None => value.to_owned(),
                },
            };
            self.variables.insert(name.trim().to_ascii_lowercase(), value);
        }
        Answer::Ok
    }
}

/// Splits at commas that are not within quotes.
fn split(text: &str) -> Vec<&str> {
    let mut quote = None;
    text.split(|c: char| {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            _ => {}
        }
        c == ',' && quote.is_none()
    })
    .collect()
}

/// The packets of an answer with one row.
pub fn packets(row: &[(String, Option<String>)]) -> Vec<Vec<u8>> {
    let mut packets = vec![vec![row.len() as u8]];
    for (name, _) in row {
        let mut column = Vec::new();
        for text in ["def", "", "", "", name.as_str(), ""] {
            put_packed_bytes(&mut column, text.as_bytes());
        }
        // Character set utf8mb4, length 1024, VAR_STRING, no flags, no decimals.
        column.extend_from_slice(&[12, 255, 0, 0, 4, 0, 0, 253, 0, 0, 31, 0, 0]);
        packets.push(column);
    }
    let end = vec![0xfe, 0, 0, 2, 0];
    packets.push(end.clone());
    let mut values = Vec::new();
    for (_, value) in row {
        match value {
            Some(text) => put_packed_bytes(&mut values, text.as_bytes()),
            None => values.push(0xfb),
        }
    }
    packets.push(values);
    packets.push(end);
    packets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { server_id: 7, server_uuid: "u-u".to_owned(), gtid_mode: "ON", checksum: "CRC32", now: || 99 }
    }

    fn ask(answers: &mut Answers, statement: &str) -> Answer {
        answers.to(statement, &identity())
    }

    fn row(name: &str, value: &str) -> Answer {
        Answer::Row(vec![(name.to_owned(), Some(value.to_owned()))])
    }

    #[test]
    fn the_questions_of_mysql_are_answered() {
        let mut answers = Answers::default();
        assert_eq!(ask(&mut answers, "SELECT UNIX_TIMESTAMP()"), row("UNIX_TIMESTAMP()", "99"));
        assert_eq!(ask(&mut answers, "SELECT @@GLOBAL.SERVER_ID"), row("@@GLOBAL.SERVER_ID", "7"));
        let set = "SET @master_binlog_checksum = 'NONE', @source_binlog_checksum = @@global.binlog_checksum";
        assert_eq!(ask(&mut answers, set), Answer::Ok);
        assert_eq!(ask(&mut answers, "SELECT @source_binlog_checksum"), row("@SOURCE_BINLOG_CHECKSUM", "CRC32"));
        assert_eq!(answers.variable("master_binlog_checksum"), Some("NONE"));
    }

    #[test]
    fn the_questions_of_mariadb_are_answered() {
        let mut answers = Answers::default();
        ask(&mut answers, "SET @slave_connect_state='0-1-5,1-2-7'");
        assert_eq!(answers.variable("slave_connect_state"), Some("0-1-5,1-2-7"));
        let expected = [("Variable_name", "server_id"), ("Value", "7")];
        let expected = expected.map(|(name, value)| (name.to_owned(), Some(value.to_owned())));
        assert_eq!(ask(&mut answers, "SHOW VARIABLES LIKE 'SERVER_ID'"), Answer::Row(expected.to_vec()));
    }

    #[test]
    fn what_nobody_told_us_of_is_refused() {
        let mut answers = Answers::default();
        for statement in ["SELECT 1", "DROP TABLE t", "", "SELECT @@GLOBAL.NEW_IDEA"] {
            assert_eq!(ask(&mut answers, statement), Answer::Unknown, "{statement}");
        }
        assert_eq!(ask(&mut answers, "SELECT @never"), Answer::Row(vec![("@NEVER".to_owned(), None)]));
    }
}
