//! PostgreSQL over its native protocol.

pub mod connect;
pub mod error;
pub mod limits;
pub mod lsn;
pub mod position;
pub mod replication;
pub mod wal;

pub use error::Error;
pub use lsn::{Lsn, SegmentSize, TimelineId};
pub use position::PgPosition;
