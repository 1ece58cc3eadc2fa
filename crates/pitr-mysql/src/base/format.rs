//! What a dump is made of: the parts of a base, and their text. Written by the dump, read by the restore.
//!
//! Everything can be read and loaded without `pitr`: definitions are lines of JSON with the statement in them, rows
//! are files of ordinary `INSERT` statements.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Path of [`Dump`], one JSON document.
pub const DUMP: &str = "pitr/dump.json";
/// Path of the list of [`TableFiles`], one JSON document a line.
pub const TABLES: &str = "pitr/tables.jsonl";
/// Path of the list of [`Definition`]s, one JSON document a line, in the order in which they are created.
pub const DEFINITIONS: &str = "schema/definitions.jsonl";
/// The directory of rows.
pub const DATA: &str = "data/";

/// What must be known of a dump before anything of it is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// Version of this format; a reader refuses a later one.
    pub format: u32,
    /// `mysql` or `mariadb`.
    pub family: String,
    /// The server's own words, as `9.7.0` or `10.11.19-MariaDB`.
    pub version: String,
    /// Where the rows belong to in the log, as the server says it.
    pub coordinates: Coordinates,
    /// Settings that the restored server must or should share, by name. Absent ones were not known to the server.
    pub settings: BTreeMap<String, String>,
}

impl Dump {
    /// What this version of the program writes.
    pub const FORMAT: u32 = 1;
    /// Settings that are recorded. The first two must be equal on the restored server.
    pub const RECORDED: [&'static str; 14] = [
        "lower_case_table_names",
        "innodb_page_size",
        "character_set_server",
        "collation_server",
        "default_collation_for_utf8mb4",
        "sql_mode",
        "explicit_defaults_for_timestamp",
        "innodb_default_row_format",
        "innodb_strict_mode",
        "max_allowed_packet",
        "gtid_mode",
        "event_scheduler",
        "local_infile",
        "sql_generate_invisible_primary_key",
    ];
}

/// A place in the log, in the server's words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinates {
    /// Name of the binary log file.
    pub file: String,
    /// Bytes of it that are in.
    pub offset: u64,
    /// The set of executed transactions (MySQL), or the position of each domain (MariaDB). Empty without GTIDs.
    pub gtid: String,
    /// MySQL's identifier of the server; empty on MariaDB.
    pub server_uuid: String,
    /// `@@server_id`.
    pub server_id: u32,
}

/// The kinds of definition, in the order in which they are created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A spatial reference system that a user of MySQL has defined; columns may name it.
    SpatialReference,
    /// A tablespace of MySQL that tables may share.
    Tablespace,
    /// `CREATE DATABASE`.
    Database,
    /// A sequence of MariaDB, with its next value.
    Sequence,
    /// `CREATE TABLE`; with foreign keys, which need not be satisfied while rows are loaded.
    Table,
    /// A function of a loadable library, which the restored server must have.
    Loadable,
    /// A library of MySQL, which stored functions in other languages use.
    Library,
    /// A stored function.
    Function,
    /// A stored procedure.
    Procedure,
    /// A package of MariaDB's Oracle mode.
    Package,
    /// The body of a package.
    PackageBody,
    /// A view. May need other views, so a restore tries them until none is left that can be made.
    View,
    /// A trigger; made when all rows are loaded.
    Trigger,
    /// An event of the scheduler, which stays off in a restored server.
    Event,
    /// A user or role, with what it was granted.
    Account,
}

/// One object and the statements that make it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// What it is.
    pub kind: Kind,
    /// The database it is in; empty for an account.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The statements, in order.
    pub sql: Vec<Statement>,
    /// Session variables under which the first statement means what it meant when it was first run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub session: BTreeMap<String, String>,
}

/// The text of a statement. A routine may hold bytes that are no UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Statement {
    /// As it is.
    Text(String),
    /// In hexadecimal digits.
    Bytes {
        /// The digits.
        hex: String,
    },
}

impl Statement {
    /// Wraps what a server said.
    pub fn new(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Bytes { hex: hex::encode(error.as_bytes()) },
        }
    }

    /// The bytes to send; `None` if the digits are damaged.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.clone().into_bytes()),
            Self::Bytes { hex } => hex::decode(hex).ok(),
        }
    }
}

/// The rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFiles {
    /// The database.
    pub schema: String,
    /// The table.
    pub table: String,
    /// False if loading a file cannot be undone by a rollback.
    pub transactional: bool,
    /// Number of rows.
    pub rows: u64,
    /// The files, in the order of their rows.
    pub files: Vec<RowFile>,
}

/// One file of rows: ordinary statements, loaded as one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowFile {
    /// Path of the part.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Number of rows.
    pub rows: u64,
}

/// The path of a file of rows. `range` is the stretch of the primary key, `number` counts files within it.
pub fn row_path(schema: &str, table: &str, range: u32, number: u32) -> String {
    format!("{DATA}{}/{}/{range:05}.{number:05}.sql", path_name(schema), path_name(table))
}

/// A name of the server as a name in a path: what is not plain is written as `%` and two hexadecimal digits.
fn path_name(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'$') {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

/// A name, quoted for a statement.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A text, quoted for a statement in a session without `NO_BACKSLASH_ESCAPES`.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_server_are_safe_in_a_path() {
        assert_eq!(row_path("shop", "a b/../ü", 3, 0), "data/shop/a%20b%2F%2E%2E%2F%C3%BC/00003.00000.sql");
        assert_eq!(row_path("..", ".", 0, 1), "data/%2E%2E/%2E/00000.00001.sql");
    }

    #[test]
    fn quotes_in_names_and_texts_are_kept() {
        assert_eq!(quoted("a`b"), "`a``b`");
        assert_eq!(literal(r"it's \ "), r"'it\'s \\ '");
    }

    #[test]
    fn a_statement_that_is_no_text_survives() {
        let statement = Statement::new(vec![b'a', 0xff]);
        let json = serde_json::to_string(&statement).unwrap();
        assert_eq!(json, r#"{"hex":"61ff"}"#);
        assert_eq!(serde_json::from_str::<Statement>(&json).unwrap().bytes().unwrap(), [b'a', 0xff]);
    }
}
