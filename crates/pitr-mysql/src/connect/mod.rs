//! Reaching a server: settings from a URL, one dialler with TLS, and the login.
//!
//! ```no_run
//! # async fn example() -> Result<(), pitr_mysql::Error> {
//! use pitr_mysql::connect::{Password, Settings};
//!
//! let settings = Settings::parse("mysql://pitr@db1?ssl-mode=verify_identity")?.with_password(Password::new("…"));
//! let mut sql = settings.sql().await?; // ordinary SQL
//! let version = sql.value("SELECT VERSION()").await?;
//! # Ok(()) }
//! ```
//!
//! [`Settings::open`] gives a [`Session`]: a connection that has logged in, and what the server said of itself. Ordinary
//! SQL ([`crate::sql`]) and the stream of the binary log ride on the same.

mod dial;
mod error;
mod login;
mod settings;

pub use error::ConnectError;
pub use login::Hello;
pub use pitr_net::Password;
pub use settings::{Host, Settings, TlsMode};

use crate::limits::{CONNECT_TIMEOUT, MAX_LOGIN_PACKET};
use crate::sql::{self, Sql};
use crate::wire::Wire;

/// A connection that has logged in.
pub struct Session {
    /// Packets over it.
    pub wire: Wire<Box<dyn sql::Stream>>,
    /// What the server said of itself.
    pub hello: Hello,
    /// True where nobody on a network can read what is sent.
    pub private: bool,
}

impl Settings {
    /// Connects and logs in, within the time limit of a connection attempt.
    pub async fn open(&self) -> Result<Session, ConnectError> {
        match tokio::time::timeout(CONNECT_TIMEOUT, open(self)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout { target: self.to_string(), seconds: CONNECT_TIMEOUT.as_secs() }),
        }
    }

    /// The same for ordinary SQL.
    pub async fn sql(&self) -> Result<Sql, ConnectError> {
        self.open().await.map(|session| Sql::new(session.wire))
    }
}

async fn open(settings: &Settings) -> Result<Session, ConnectError> {
    let stream = dial::dial(settings).await?;
    let mut wire = Wire::new(stream, MAX_LOGIN_PACKET);
    let hello = login::greet(settings, &mut wire).await?;
    let wire = dial::encrypt(settings, &hello, wire).await?;
    let private = wire.stream().is_private();
    let wire = login::log_in(settings, &hello, wire).await?;
    Ok(Session { wire: wire.map(|stream| Box::new(stream) as Box<dyn sql::Stream>), hello, private })
}
