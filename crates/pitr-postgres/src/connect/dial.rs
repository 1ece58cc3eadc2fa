//! Opens the socket and, where asked for, TLS on it. Both clients ride on what comes out.

use pitr_net::{Socket, Tls};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ConnectError, Host, Settings};
use crate::limits::CONNECT_TIMEOUT;

/// Connects to where the settings say, within the time limit of a connection attempt.
pub async fn dial(settings: &Settings) -> Result<Socket, ConnectError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, open(settings)).await {
        Ok(result) => result,
        Err(_) => Err(timed_out(settings, "connecting")),
    }
}

pub(super) fn timed_out(settings: &Settings, doing: &'static str) -> ConnectError {
    ConnectError::Timeout { target: settings.to_string(), seconds: CONNECT_TIMEOUT.as_secs(), doing }
}

async fn open(settings: &Settings) -> Result<Socket, ConnectError> {
    let here = || ConnectError::at(settings.to_string());
    match &settings.host {
        Host::Unix(directory) => Socket::unix(&settings.socket_path(directory)).await.map_err(here()),
        Host::Tcp(name) => {
            let socket = Socket::tcp(name, settings.port).await.map_err(here())?;
            match settings.trust() {
                None => Ok(socket),
                Some(tls) => encrypt(settings, name, socket, &tls).await,
            }
        }
    }
}

async fn encrypt(settings: &Settings, host: &str, mut socket: Socket, tls: &Tls) -> Result<Socket, ConnectError> {
    let target = || settings.to_string();
    let lost = |source| ConnectError::Lost { target: target(), source };
    let mut request = bytes::BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await.map_err(lost)?;
    // Exactly one byte: more in the same packet would be plain text that somebody slipped in before TLS.
    match socket.read_u8().await.map_err(lost)? {
        b'S' => {}
        b'N' => return Err(ConnectError::NoTls(target())),
        other => {
            return Err(ConnectError::Protocol {
                target: target(),
                what: format!("{other:#04x} is no answer to a request for TLS"),
            });
        }
    }
    socket.encrypt(host, tls).await.map_err(ConnectError::at(target()))
}
