//! Real servers, ledgers of truth, random targets, kills.
//!
//! ```no_run
//! # async fn tour() -> anyhow::Result<()> {
//! use integration_tests::{Pitr, Postgres, Scratch, Setup};
//!
//! let scratch = Scratch::new("tour")?;
//! let mut server = Postgres::create(&scratch, "primary", &Setup::default())?;
//! let pitr = Pitr::local(&scratch, &server)?;
//! server.archive_with(&pitr)?;
//! server.start().await?;
//! pitr.run(["init"])?.ok()?;
//! pitr.run(["backup", "main"])?.ok()?;
//! # Ok(())
//! # }
//! ```
//!
//! A [`Scratch`] is a directory that the servers may use; a [`Postgres`] is one server in it, stopped when dropped,
//! also by a panic; a [`Pitr`] is the real program with a configuration of its own. A [`ledger`] writes numbered
//! transactions, and [`waldump`] reads the truth about their order from the server's own log with the server's own
//! tool. [`oracle`] puts them together: a target, and the set of rows that a restore to it must show.

mod account;
pub mod binlogs;
#[cfg(feature = "containers")]
pub mod containers;
pub mod flaky;
pub mod ledger;
mod limits;
pub mod mongo_load;
mod mongo_stream;
pub mod mongo_truth;
pub mod mongodb;
pub mod mysql;
pub mod mysql_oracle;
pub mod mysql_session;
pub mod oracle;
mod pitr;
mod postgres;
mod programs;
mod restored;
mod scratch;
pub mod seed;
pub mod stepped;
mod stores;
mod streamer;
pub mod waldump;

pub use self::mongo_stream::{Streaming, optime, wait_for_archive};
pub use self::mongodb::{Mongo, MongoSetup};
pub use pitr::{Pitr, Run, SOURCE};
pub use postgres::{Postgres, Setup, succeed};
pub use programs::{Provider, has_postgres, provider};
pub use restored::Restored;
pub use scratch::Scratch;
pub use stores::{Azurite, S3};
pub use streamer::{Streamer, peak_kib};
