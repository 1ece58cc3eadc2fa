//! Opens the socket and, where asked for, TLS on it. Both clients ride on what comes out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{ConnectError, Host, Settings, TlsMode, tls};
use crate::limits::{CONNECT_TIMEOUT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES};

/// An open connection, encrypted or not.
#[derive(Debug)]
pub enum Stream {
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

    /// What SCRAM can bind the login to: a digest of the server's certificate.
    pub(crate) fn channel_binding(&self) -> Option<Vec<u8>> {
        match self {
            Self::Tls(stream) => stream.get_ref().1.peer_certificates()?.first().and_then(tls::endpoint_digest),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }
}

/// Connects to where the settings say, within the time limit of a connection attempt.
pub async fn dial(settings: &Settings) -> Result<Stream, ConnectError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, open(settings)).await {
        Ok(result) => result,
        Err(_) => Err(timed_out(settings, "connecting")),
    }
}

pub(super) fn timed_out(settings: &Settings, doing: &'static str) -> ConnectError {
    ConnectError::Timeout { target: settings.to_string(), seconds: CONNECT_TIMEOUT.as_secs(), doing }
}

async fn open(settings: &Settings) -> Result<Stream, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { target: settings.to_string(), source };
    match &settings.host {
        Host::Unix(directory) => {
            let socket = UnixStream::connect(settings.socket_path(directory)).await.map_err(unreachable)?;
            Ok(Stream::Unix(socket))
        }
        Host::Tcp(name) => {
            let socket = TcpStream::connect((name.as_str(), settings.port)).await.map_err(unreachable)?;
            keep_alive(&socket).map_err(unreachable)?;
            match settings.tls {
                TlsMode::Disable => Ok(Stream::Tcp(socket)),
                _ => encrypt(settings, name, socket).await,
            }
        }
    }
}

/// A base backup may be silent for minutes while the server checkpoints; probes tell that from a dead peer.
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

async fn encrypt(settings: &Settings, host: &str, mut socket: TcpStream) -> Result<Stream, ConnectError> {
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
    let failed = |source| ConnectError::Tls { target: target(), source };
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
    let config = tls::client_config(settings)?;
    let stream = TlsConnector::from(config).connect(name, socket).await.map_err(failed)?;
    Ok(Stream::Tls(Box::new(stream)))
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
