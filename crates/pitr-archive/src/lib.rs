//! The shared archive: every engine's log and bases in one store.

mod address;
mod codec;
pub mod envelope;
mod error;
pub mod keys;
pub mod limits;
mod local;
pub mod objects;
mod retry;
pub mod store;

pub use envelope::{Header, Object};
pub use error::{Error, Result};
pub use keys::{DigestKey, Encryption, Identities, Keys};
pub use objects::{ArchiveId, Kind, Objects, Payload, Put};
pub use retry::Retry;
pub use store::{Created, Entry, Store};
