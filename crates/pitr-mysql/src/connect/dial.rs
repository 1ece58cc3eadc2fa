//! Opens the socket and, between greeting and login, TLS on it.

use pitr_net::Socket;

use super::login::{Hello, capability, tls_request};
use super::{ConnectError, Host, Settings, TlsMode};
use crate::limits::MAX_LOGIN_PACKET;
use crate::wire::Wire;

/// Connects to where the settings say.
pub(super) async fn dial(settings: &Settings) -> Result<Socket, ConnectError> {
    let socket = match &settings.host {
        Host::Unix(path) => Socket::unix(path).await,
        Host::Tcp(name) => Socket::tcp(name, settings.port).await,
    };
    socket.map_err(ConnectError::at(settings))
}

/// Puts TLS on the connection, where the settings ask for it.
pub(super) async fn encrypt(
    settings: &Settings,
    hello: &Hello,
    mut wire: Wire<Socket>,
) -> Result<Wire<Socket>, ConnectError> {
    let (Host::Tcp(host), Some(tls)) = (&settings.host, settings.trust()) else { return Ok(wire) };
    if !hello.has(capability::SSL) {
        let optional = settings.tls == TlsMode::Loopback;
        return if optional { Ok(wire) } else { Err(ConnectError::NoTls(settings.to_string())) };
    }
    let lost = |source| ConnectError::Lost { target: settings.to_string(), source };
    wire.send(&tls_request()).await.map_err(lost)?;
    let sequence = wire.sequence();
    let socket = wire.into_stream().encrypt(host, &tls).await.map_err(ConnectError::at(settings))?;
    Ok(Wire::new(socket, MAX_LOGIN_PACKET).with_sequence(sequence))
}
