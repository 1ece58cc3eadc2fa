//! The WAL decoder: bytes in; record, "more", end of log, or damage at a position out. No I/O.
//!
//! ```
//! use pitr_postgres::wal::{Decoder, Origin, Step};
//! use pitr_postgres::{Lsn, SegmentSize, TimelineId};
//!
//! # fn show(file: &[u8]) -> Result<(), pitr_postgres::wal::WalError> {
//! let mut decoder = Decoder::new(Origin::new(TimelineId::FIRST, Lsn(0x0500_0000), SegmentSize::DEFAULT));
//! let mut input = file;
//! loop {
//!     match decoder.step(&mut input)? {
//!         Step::Record(record) => println!("{} {:?}", record.lsn, record.detail),
//!         Step::NeedMore => break, // all of `file` is used up: go on with the next segment's bytes
//!         Step::End(end) => break println!("the log ends at {}: {}", end.lsn, end.reason),
//!     }
//! }
//! # Ok(())
//! # }
//! # show(&[]).unwrap();
//! ```
//!
//! Files by job: `page` headers, `record` headers and what a record says, `body` reads the few contents that
//! matter, `decoder` is the state machine, `damage` what can be wrong.
//!
//! Only transaction and XLOG records are looked into; of all others the checksum and the links are checked.
//! The native sources are `xlog_internal.h`, `xlogrecord.h`, `xact.h` and `pg_control.h` of PostgreSQL.

#![warn(clippy::indexing_slicing)]

mod body;
mod bytes;
mod damage;
mod decoder;
#[doc(hidden)]
pub mod fuzz;
mod page;
mod record;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;

pub use damage::{Damage, WalError};
pub use decoder::{Decoder, End, EndReason, Origin, Step};
pub use page::{LongHeader, PageHeader, major_version};
pub use record::{Checkpoint, Detail, Parameters, Record, Resource, Settled};
