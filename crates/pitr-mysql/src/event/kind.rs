//! The kinds of event, by number. MySQL and MariaDB share the numbers below 40 and part ways above.

use std::fmt;

/// The number in the header that says what an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(pub u8);

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        impl Kind {
            $($(#[$doc])* pub const $name: Self = Self($number);)*

            /// The name of a known kind, as the servers' tools write it in capitals.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// A statement, or `BEGIN`, `COMMIT`, `ROLLBACK`.
    QUERY = 2;
    /// The server stopped.
    STOP = 3;
    /// The log goes on in another file.
    ROTATE = 4;
    /// The value of a session's `LAST_INSERT_ID` or `INSERT_ID`.
    INTVAR = 5;
    /// A block of the file of a `LOAD DATA`.
    APPEND_BLOCK = 9;
    /// The file of a `LOAD DATA` is to be forgotten.
    DELETE_FILE = 11;
    /// Seeds of `RAND`.
    RAND = 13;
    /// The value of a user variable.
    USER_VAR = 14;
    /// How to read the events of the file.
    FORMAT_DESCRIPTION = 15;
    /// A transaction committed.
    XID = 16;
    /// The first block of the file of a `LOAD DATA`.
    BEGIN_LOAD_QUERY = 17;
    /// A `LOAD DATA` statement whose file came before it.
    EXECUTE_LOAD_QUERY = 18;
    /// Which table the row events that follow belong to.
    TABLE_MAP = 19;
    /// Inserted rows, as MariaDB writes them.
    WRITE_ROWS_V1 = 23;
    /// Updated rows, as MariaDB writes them.
    UPDATE_ROWS_V1 = 24;
    /// Deleted rows, as MariaDB writes them.
    DELETE_ROWS_V1 = 25;
    /// The server lost events of its own log.
    INCIDENT = 26;
    /// Nothing happened; never in a file.
    HEARTBEAT = 27;
    /// To be ignored by whoever does not know it.
    IGNORABLE = 28;
    /// The statement behind row events, for people.
    ROWS_QUERY = 29;
    /// Inserted rows.
    WRITE_ROWS = 30;
    /// Updated rows.
    UPDATE_ROWS = 31;
    /// Deleted rows.
    DELETE_ROWS = 32;
    /// A transaction begins, with its identifier.
    GTID = 33;
    /// A transaction begins, without one.
    ANONYMOUS_GTID = 34;
    /// The transactions in all earlier files.
    PREVIOUS_GTIDS = 35;
    /// Certification data of group replication.
    TRANSACTION_CONTEXT = 36;
    /// The members of a group changed.
    VIEW_CHANGE = 37;
    /// The first half of an XA transaction ends.
    XA_PREPARE = 38;
    /// Rows with parts of JSON documents updated.
    PARTIAL_UPDATE_ROWS = 39;
    /// A whole transaction, compressed.
    TRANSACTION_PAYLOAD = 40;
    /// Nothing happened, in the longer form; never in a file.
    HEARTBEAT_V2 = 41;
    /// A transaction begins, with an identifier that has a tag.
    GTID_TAGGED = 42;
    /// MariaDB: the statement behind row events, for people.
    ANNOTATE_ROWS = 160;
    /// MariaDB: the oldest file that crash recovery needs.
    BINLOG_CHECKPOINT = 161;
    /// MariaDB: a transaction begins, with its identifier.
    MARIA_GTID = 162;
    /// MariaDB: the last transaction of each domain in all earlier files.
    GTID_LIST = 163;
    /// MariaDB: the rest of the file is encrypted; on disk only.
    START_ENCRYPTION = 164;
    /// MariaDB: a statement, compressed.
    QUERY_COMPRESSED = 165;
    /// MariaDB: inserted rows, compressed.
    WRITE_ROWS_COMPRESSED_V1 = 166;
    /// MariaDB: updated rows, compressed.
    UPDATE_ROWS_COMPRESSED_V1 = 167;
    /// MariaDB: deleted rows, compressed.
    DELETE_ROWS_COMPRESSED_V1 = 168;
    /// MariaDB: inserted rows of the newer form, compressed.
    WRITE_ROWS_COMPRESSED = 169;
    /// MariaDB: updated rows of the newer form, compressed.
    UPDATE_ROWS_COMPRESSED = 170;
    /// MariaDB: deleted rows of the newer form, compressed.
    DELETE_ROWS_COMPRESSED = 171;
}

impl Kind {
    /// True for a kind whose meaning this program knows.
    pub fn is_known(self) -> bool {
        self.name().is_some()
    }

    /// True for what is about the file or the connection and not about a transaction.
    pub fn is_administrative(self) -> bool {
        matches!(
            self,
            Self::FORMAT_DESCRIPTION
                | Self::PREVIOUS_GTIDS
                | Self::ROTATE
                | Self::STOP
                | Self::GTID_LIST
                | Self::BINLOG_CHECKPOINT
                | Self::START_ENCRYPTION
                | Self::HEARTBEAT
                | Self::HEARTBEAT_V2
        )
    }

    /// True for what prepares the event that ends a MariaDB group of a single statement.
    pub(crate) fn is_preparation(self) -> bool {
        matches!(
            self,
            Self::INTVAR
                | Self::RAND
                | Self::USER_VAR
                | Self::TABLE_MAP
                | Self::ANNOTATE_ROWS
                | Self::BEGIN_LOAD_QUERY
                | Self::APPEND_BLOCK
                | Self::WRITE_ROWS_V1
                | Self::UPDATE_ROWS_V1
                | Self::DELETE_ROWS_V1
                | Self::WRITE_ROWS
                | Self::UPDATE_ROWS
                | Self::DELETE_ROWS
        ) || (Self::WRITE_ROWS_COMPRESSED_V1.0..=Self::DELETE_ROWS_COMPRESSED.0).contains(&self.0)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "kind {}", self.0),
        }
    }
}
