//! The WAL decoder: bytes in; record, "more", end of log, or damage at a position out. No I/O.

mod damage;

pub use damage::{Damage, WalError};
