//! The decoder of binary log events. Sans-I/O: bytes in; event, "more", or damage at an offset out.
//!
//! ```
//! use pitr_mysql::event::{Kind, Reader, Step, MAGIC};
//!
//! let mut reader = Reader::new(0);
//! assert!(matches!(reader.next(MAGIC).unwrap(), Step::Magic));
//! assert!(matches!(reader.next(&[0; 10]).unwrap(), Step::More { at_least: 19 }));
//! assert_eq!(reader.offset(), 4);
//! assert!(Kind::GTID.is_known());
//! ```
//!
//! - [`Reader`] walks over the bytes of a file and yields each [`Event`] whole, its checksum verified.
//! - [`Feed`] does the same for bytes that come in pieces of any size, and for events too large to be held.
//! - [`Header`], [`Format`], [`Kind`]: the frame of an event, and what the head of a file says of all of them.
//! - [`body`]: what is inside the few kinds that matter here.
//! - [`Grouper`] tells where transactions begin and end, for it is between them that the log may be cut.

pub mod body;
pub(crate) mod bytes;
mod checksum;
mod error;
mod feed;
mod format;
mod group;
mod header;
mod kind;
mod reader;
mod tagged;

pub use checksum::{Checksum, Running};
pub use error::{Damage, EventError};
pub use feed::Feed;
pub use format::{Flavour, Format};
pub use group::{Group, Grouper, Mark, Outcome};
pub use header::{Header, flag};
pub use kind::Kind;
pub use reader::{Event, Reader, Step};

/// The first bytes of every file that is not encrypted.
pub const MAGIC: &[u8] = b"\xfebin";
/// The first bytes of a file that the server keeps encrypted; never seen on the wire.
pub const MAGIC_ENCRYPTED: &[u8] = b"\xfdbin";

#[cfg(test)]
mod tests;
