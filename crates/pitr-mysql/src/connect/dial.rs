//! Opens the socket and, between greeting and login, TLS on it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::login::{Hello, capability, tls_request};
use super::{ConnectError, Host, Settings, TlsMode, tls};
use crate::limits::{KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, MAX_LOGIN_PACKET};
use crate::wire::Wire;

/// An open connection, encrypted or not.
#[derive(Debug)]
pub(super) enum Stream {
    /// Plain text over TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// True where nobody on a network can read what is sent.
    pub fn is_private(&self) -> bool {
        !matches!(self, Self::Tcp(_))
    }
}

/// Connects to where the settings say.
pub(super) async fn dial(settings: &Settings) -> Result<Stream, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { target: settings.to_string(), source };
    match &settings.host {
        Host::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix).map_err(unreachable),
        Host::Tcp(name) => {
            let socket = TcpStream::connect((name.as_str(), settings.port)).await.map_err(unreachable)?;
            keep_alive(&socket).map_err(unreachable)?;
            Ok(Stream::Tcp(socket))
        }
    }
}

/// A stream of the log may be silent for long; probes tell that from a dead peer.
fn keep_alive(socket: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
    // Sent data that nobody acknowledges is a dead peer as well.
    let patience: Duration = KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES;
    sockopt::set_tcp_user_timeout(socket, u32::try_from(patience.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

/// Puts TLS on the connection, where the settings ask for it.
pub(super) async fn encrypt(
    settings: &Settings,
    hello: &Hello,
    mut wire: Wire<Stream>,
) -> Result<Wire<Stream>, ConnectError> {
    let target = || settings.to_string();
    let Host::Tcp(host) = &settings.host else { return Ok(wire) };
    match settings.tls {
        TlsMode::Disabled => return Ok(wire),
        _ if hello.has(capability::SSL) => {}
        TlsMode::Loopback => return Ok(wire),
        _ => return Err(ConnectError::NoTls(target())),
    }
    let failed = |source| ConnectError::Tls { target: target(), source };
    wire.send(&tls_request()).await.map_err(|source| ConnectError::Lost { target: target(), source })?;
    let sequence = wire.sequence();
    let Stream::Tcp(socket) = wire.into_stream() else { return Err(ConnectError::NoTls(target())) };
    let name = ServerName::try_from(host.clone()).map_err(|error| failed(io::Error::other(error)))?;
    let config = tls::client_config(settings)?;
    let stream = TlsConnector::from(config).connect(name, socket).await.map_err(failed)?;
    Ok(Wire::new(Stream::Tls(Box::new(stream)), MAX_LOGIN_PACKET).with_sequence(sequence))
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
