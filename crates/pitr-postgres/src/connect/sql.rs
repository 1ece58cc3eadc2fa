//! Ordinary SQL, through `tokio-postgres` on a connection that we dialled.

use std::ops::Deref;

use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, NoTls};

use super::dial::{dial, timed_out};
use super::{ConnectError, ServerMessage, Settings};
use crate::limits::CONNECT_TIMEOUT;

/// A client for ordinary SQL; closes its connection when dropped.
pub struct SqlClient {
    client: Client,
    connection: JoinHandle<()>,
    /// True while the connection cannot be read by others on a network.
    pub private: bool,
}

impl Deref for SqlClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for SqlClient {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Connects and logs in for ordinary SQL.
///
/// TLS is already on the stream when `tokio-postgres` gets it, hence its own TLS stays off.
pub async fn sql_client(settings: &Settings) -> Result<SqlClient, ConnectError> {
    let stream = dial(settings).await?;
    let private = stream.is_private();
    let mut config = tokio_postgres::Config::new();
    config.user(&settings.user).dbname(&settings.database).application_name(&settings.application_name);
    config.ssl_mode(SslMode::Disable);
    if let Some(password) = &settings.password {
        config.password(password.expose());
    }
    let login = tokio::time::timeout(CONNECT_TIMEOUT, config.connect_raw(stream, NoTls));
    let (client, connection) = login
        .await
        .map_err(|_| timed_out(settings, "logging in"))?
        .map_err(|error| ConnectError::sql("logging in", error))?;
    let connection = tokio::spawn(async move {
        if let Err(error) = connection.await {
            // Whoever waits for an answer on this connection gets an error of their own.
            tracing::debug!(%error, "an SQL connection ended");
        }
    });
    Ok(SqlClient { client, connection, private })
}

impl ConnectError {
    /// Keeps the server's own words, where there are any.
    pub fn sql(doing: &str, source: tokio_postgres::Error) -> Self {
        let doing = doing.to_owned();
        match source.as_db_error() {
            Some(error) => Self::Server {
                doing,
                message: ServerMessage {
                    severity: error.severity().to_owned(),
                    sqlstate: error.code().code().to_owned(),
                    message: error.message().to_owned(),
                    detail: error.detail().map(str::to_owned),
                    hint: error.hint().map(str::to_owned),
                },
            },
            None => Self::Sql { doing, source },
        }
    }
}
