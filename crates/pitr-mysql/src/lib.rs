//! MySQL and MariaDB over their native protocol.
//!
//! Half of this crate is pure: transaction identifiers, positions, and a decoder of binary log events that does no
//! I/O. The other half speaks the client protocol: it streams the log, takes bases, and serves the log back to a
//! restored server as its replication source.
//!
//! ```
//! use pitr_mysql::gtid::GtidSet;
//! use pitr_mysql::{BinlogPosition, LogFile};
//!
//! let file = LogFile::parse("binlog.000012").unwrap();
//! let position: BinlogPosition = "9f01a2b3:12:4711".parse().unwrap();
//! assert_eq!((file.number, position.offset), (12, 4711));
//! let executed: GtidSet = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-77".parse().unwrap();
//! assert!(!executed.is_empty());
//! ```
//!
//! The nouns:
//!
//! - [`BinlogPosition`], [`Incarnation`], [`LogFile`]: where in the log.
//! - [`gtid`]: which transactions, for both families.
//! - [`event`]: the decoder. Bytes in; event, "more", or damage at an offset out.
//! - [`base`]: a consistent dump over ordinary SQL.
//! - [`restore`]: a base loaded into an empty server, and the log after it.
//! - [`replay`]: the log, served to a restored server as its replication source.

pub mod base;
pub mod check;
pub mod connect;
pub mod dump;
pub mod engine;
pub mod error;
pub mod event;
pub mod grants;
pub mod gtid;
pub mod limits;
pub mod lineage;
pub mod position;
pub mod replay;
pub mod restore;
pub mod scan;
pub mod server;
pub mod sql;
pub mod stream;
pub mod unlogged;
pub mod wire;

pub use engine::{Mariadb, Mysql};
pub use error::{Error, ServerError};
pub use position::{BinlogPosition, Incarnation, LogFile};
