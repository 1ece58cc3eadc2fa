//! The shared archive: every engine's log and bases in one store, created once, readable without us.
//!
//! ```
//! use pitr_archive::{Access, Archive, Identities, Store};
//! use pitr_core::ports::SealedSegment;
//! use pitr_core::{LineageId, SegmentName};
//! # #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd)]
//! # struct At(u64);
//! # impl std::fmt::Display for At {
//! #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { self.0.fmt(f) }
//! # }
//! # impl std::str::FromStr for At {
//! #     type Err = pitr_core::ParsePositionError;
//! #     fn from_str(text: &str) -> Result<Self, Self::Err> {
//! #         text.parse().map(At).map_err(|_| pitr_core::ParsePositionError { text: text.into(), expected: "a number" })
//! #     }
//! # }
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! // An archive that only the holder of this identity can read.
//! let identity = Identities::from(age::x25519::Identity::generate());
//! let archive = Archive::create(Store::memory(), Access::reader(identity)).await?;
//!
//! // One source of it, one history of the source, one segment of the history.
//! let orders = archive.source("orders")?;
//! let lineage = LineageId::new("first")?;
//! orders.put_lineage::<At>(&lineage, None, &Default::default()).await?;
//! let name = SegmentName::new("0000", "0007")?;
//! orders.put_segment(&SealedSegment {
//!     lineage: lineage.clone(),
//!     name: name.clone(),
//!     start: At(7),
//!     end: At(8),
//!     commits: Default::default(),
//!     marks: 0,
//!     facts: Default::default(),
//!     bytes: "native bytes of a log".into(),
//! }).await?;
//!
//! let read = orders.segment(&lineage, &name).await?;
//! assert_eq!(read.as_deref(), Some(&b"native bytes of a log"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! The nouns, from the bottom up:
//!
//! - [`Store`]: a directory, S3, Azure Blob or Google Cloud Storage, or memory; create-only.
//! - [`envelope`]: one object as bytes: plain header, zstd, age. Pure.
//! - [`Keys`]: recipients to write with, identities to read with, the key of all digests.
//! - [`Objects`]: typed objects, sealed, checked, and created once.
//! - [`layout`]: which key an object has.
//! - [`Archive`] and [`SourceArchive`]: what the program uses.
//! - [`SourceArchive::catalog`]: everything the planner may know of a source, from listings and headers.
//! - [`base`]: restorable copies, chunked and deduplicated.
//!
//! `docs/FORMAT.md` gives every byte, with a recipe that needs no program of ours.

mod address;
mod archive;
pub mod base;
mod blocking;
mod catalog;
mod codec;
pub mod envelope;
mod error;
mod history;
pub mod keys;
pub mod layout;
pub mod leftovers;
pub mod limits;
mod local;
pub mod objects;
mod press;
mod records;
mod retry;
mod rollup;
mod source;
pub mod store;
mod strip;
mod strips;
mod tails;

pub use archive::{Access, Archive, Descriptor};
pub use envelope::{Header, Object};
pub use error::{Error, Result};
pub use keys::{DigestKey, Encryption, Identities, Keys};
pub use objects::{ArchiveId, Kind, Objects, Payload, Put};
pub use press::{Press, Pressed};
pub use retry::Retry;
pub use source::{FileEntry, SourceArchive};
pub use store::{Created, Entry, Store};
pub use strips::Strips;
pub use tails::Tail;
