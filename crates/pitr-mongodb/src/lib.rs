//! MongoDB over its native protocol.
//!
//! Half of this crate is pure: positions, and a decoder that turns the bytes of `local.oplog.rs` into entries without
//! any I/O. The other half tails a replica set, dumps it consistently, and applies both again, in parallel and exactly.
//!
//! ```
//! use pitr_mongodb::{MongoPosition, Stamp};
//!
//! let cut: MongoPosition = "5:1700000000.3".parse().unwrap();
//! assert_eq!(cut.last_entry().unwrap().stamp, Stamp::new(1_700_000_000, 2));
//! ```
//!
//! The nouns:
//!
//! - [`Stamp`], [`position::OpTime`], [`MongoPosition`]: where in the log.
//! - [`entry`]: the decoder. Bytes in; entry, or damage at an offset out. [`raw`]: fields of documents. [`commands`]: what is known of
//!   commands.
//! - [`scan`]: commits, named points and clocks of a stretch of log, for targets and headers.
//! - [`note`]: what `pitr` itself writes into the log.
//! - [`connect`]: the way to one member. [`stream`]: its oplog, as a majority has it.
//! - [`base`]: a dump of one cluster time; [`restore`] and [`replay`]: back again, up to one exact cut.
//! - [`check`], [`grants`]: is the set ready, and which role does `pitr` need?
//! - [`Mongo`]: the engine, as planner and archive see it.

pub mod base;
pub mod check;
pub mod commands;
pub mod connect;
pub mod engine;
pub mod entry;
pub mod error;
pub mod grants;
mod heartbeat;
pub mod limits;
pub mod note;
pub mod position;
pub mod raw;
pub mod replay;
pub mod restore;
pub mod scan;
mod spill;
pub mod stream;
mod window;

pub use engine::Mongo;
pub use error::Error;
pub use position::{MongoPosition, Stamp};
