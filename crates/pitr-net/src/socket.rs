//! An open connection, encrypted or not.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::limits::{KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES};
use crate::{Error, Tls};

/// An open connection, encrypted or not.
#[derive(Debug)]
pub enum Socket {
    /// Plain text over TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Connects over TCP. Nothing is held back in the hope of more, and a dead peer is noticed.
    pub async fn tcp(host: &str, port: u16) -> Result<Self, Error> {
        let stream = TcpStream::connect((host, port)).await.map_err(Error::Unreachable)?;
        keep_alive(&stream).map_err(Error::Unreachable)?;
        Ok(Self::Tcp(stream))
    }

    /// Connects to a socket of this machine.
    pub async fn unix(path: &Path) -> Result<Self, Error> {
        UnixStream::connect(path).await.map(Self::Unix).map_err(Error::Unreachable)
    }

    /// Puts TLS on a plain TCP connection whose server has agreed to it. `host` is what the certificate may have to name.
    pub async fn encrypt(self, host: &str, tls: &Tls) -> Result<Self, Error> {
        let Self::Tcp(stream) = self else {
            return Err(Error::Tls(io::Error::other("the connection is no plain TCP connection")));
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|error| Error::Tls(io::Error::other(error)))?;
        let stream = TlsConnector::from(tls.client_config()?).connect(name, stream).await.map_err(Error::Tls)?;
        Ok(Self::Tls(Box::new(stream)))
    }

    /// True where nobody on a network can read what is sent.
    pub fn is_private(&self) -> bool {
        !matches!(self, Self::Tcp(_))
    }

    /// The certificate that the server has shown.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        match self {
            Self::Tls(stream) => stream.get_ref().1.peer_certificates()?.first(),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }
}

/// A server may be silent for minutes, while it checkpoints or while nothing is written; probes tell that from a dead peer.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    // Sent data that nobody acknowledges is a dead peer as well.
    let patience: Duration = KEEPALIVE_IDLE + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(patience.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
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
