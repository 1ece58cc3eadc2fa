//! Bases: restorable copies, cut into chunks, so that every base is a full one to restore and an incremental
//! one to store.
//!
//! ```text
//! s/<source>/pack/<base>/<nnnnn>          chunks, one zstd frame each; the plain header lists them
//! s/<source>/base/<base>/index/<nnnnn>    parts and their chunks, as lines of JSON
//! s/<source>/base/<base>/packs            the packs that the base refers to
//! s/<source>/base/<base>/manifest         written last: without it the base does not exist
//! ```
//!
//! [`BaseWriter`] takes a base in, [`SourceArchive`](crate::SourceArchive) gives it back as a
//! [`BaseReader`](pitr_core::ports::BaseReader), [`verify()`] checks it, [`list`] says which ones there are.
//! A chunk that an earlier complete base has stored is referred to instead of being stored again.

mod buffers;
mod chunk;
mod compress;
mod dedup;
mod deliver;
mod fetch;
mod index;
mod intake;
mod learn;
mod limits;
mod manifest;
mod pack;
mod packer;
mod part;
mod reader;
mod verify;
mod window;
mod writer;

pub use manifest::list;
pub use part::Part;
pub use verify::{BaseCheck, Damage, verify};
pub use writer::{BaseOptions, BaseWriter, BaseWritten};
