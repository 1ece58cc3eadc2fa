//! PostgreSQL over its native protocol.
//!
//! Half of this crate is pure: names, positions and a WAL decoder that turns bytes into records without any
//! I/O. The other half speaks the replication protocol, takes bases and lays them down again.
//!
//! ```
//! use pitr_postgres::{Lsn, SegmentSize, WalFileName};
//!
//! let name: WalFileName = "00000001000000000000000A".parse().unwrap();
//! let WalFileName::Segment { timeline, log, .. } = name else { panic!("a plain segment") };
//! assert_eq!(log.start(SegmentSize::DEFAULT), Some(Lsn(0x0A00_0000)));
//! assert_eq!(timeline.to_string(), "1");
//! ```
//!
//! The nouns:
//!
//! - [`Lsn`], [`TimelineId`], [`PgPosition`]: where in the log.
//! - [`WalFileName`], [`segment`]: how the server and the archive name pieces of it.
//! - [`history`]: which timeline left which, and what lineage that makes.
//! - [`wal`]: the decoder. Bytes in; record, "more", end of log, or damage at a position out.
//! - [`scan`]: the commits, named points and other events of a stretch of log, for targets and headers.
//! - [`push`]: what a WAL file must fulfil before it is archived.
//! - [`connect`], [`replication`]: the way to a server, for SQL and for the replication protocol.
//! - [`stream`]: the log as it is written, byte for byte what [`push`] would archive.
//! - [`base`]: a base backup into a sink; [`restore`] and [`server`]: back again, up to one exact position.
//! - [`mark`]: named points in the log.
//! - [`check`], [`grants`]: is the server set up, and which role does `pitr` need?
//! - [`Postgres`]: the engine, as planner and archive see it.

pub mod base;
pub mod check;
pub mod connect;
pub mod engine;
pub mod error;
pub mod grants;
pub mod history;
pub mod limits;
pub mod lsn;
pub mod mark;
pub mod position;
pub mod push;
pub mod replication;
pub mod restore;
mod run_dir;
pub mod scan;
pub mod segment;
pub mod server;
pub mod stream;
pub mod wal;

pub use engine::Postgres;
pub use error::Error;
pub use lsn::{Lsn, SegmentSize, TimelineId};
pub use position::PgPosition;
pub use segment::{SegmentNumber, WalFileName};
