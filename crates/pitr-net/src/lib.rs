//! The way to a server, as far as it is the same for every protocol: sockets, TLS and what it proves, URLs, passwords.
//!
//! ```no_run
//! # async fn example() -> Result<(), pitr_net::Error> {
//! use pitr_net::{Proof, Socket, Tls};
//!
//! let plain = Socket::tcp("db1", 5432).await?;
//! // … what the protocol says before TLS …
//! let socket = plain.encrypt("db1", &Tls { proof: Proof::Name, ..Tls::default() }).await?;
//! assert!(socket.is_private());
//! # Ok(()) }
//! ```
//!
//! The nouns: a [`Socket`] is an open connection, encrypted or not. [`Tls`] says whom to trust, and [`Proof`] what a
//! certificate has to prove. [`url`] takes connection URLs apart. A [`Password`] never prints. When TLS begins, and how
//! an account logs in, is the matter of each protocol and not of this crate.

mod error;
mod limits;
mod password;
mod socket;
mod tls;
pub mod url;

pub use error::Error;
pub use password::Password;
pub use socket::Socket;
pub use tls::{Proof, Tls};
