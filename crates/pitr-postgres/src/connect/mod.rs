//! Reaching a server: settings from a URL, one dialler with TLS, and the two clients that ride on it.
//!
//! ```no_run
//! # async fn example() -> Result<(), pitr_postgres::Error> {
//! use pitr_postgres::connect::{Password, Settings, sql_client};
//!
//! let settings = Settings::parse("postgresql://pitr@db1/postgres?sslmode=verify-full")?
//!     .with_password(Password::new("…"));
//! let client = sql_client(&settings).await?; // ordinary SQL
//! let walsender = pitr_postgres::replication::ReplicationClient::connect(&settings).await?;
//! # Ok(()) }
//! ```
//!
//! [`dial`](dial::dial) opens the socket and, where the settings ask for it, TLS. On top of the same stream
//! speak `tokio-postgres` for SQL and our own [`Wire`] for the replication protocol, so there is one TLS
//! stack, one set of verification rules and one set of timeouts.

mod binding;
pub mod dial;
mod error;
mod login;
mod settings;
mod sql;
pub mod wire;

pub use error::{ConnectError, ServerMessage};
pub use pitr_net::Password;
pub use settings::{Host, Settings, TlsMode};
pub use sql::{SqlClient, sql_client};
pub use wire::Wire;
