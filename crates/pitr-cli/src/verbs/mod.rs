//! One file per verb. Each reads as the procedure.

pub mod backup;
pub mod check;
pub mod completions;
pub mod grants;
pub mod init;
pub mod key;
pub mod list;
pub mod mark;
pub mod plan;
pub mod restore;
pub mod status;
pub mod stream;
pub mod verify;
pub mod wal_fetch;
pub mod wal_prefetch;
pub mod wal_push;
