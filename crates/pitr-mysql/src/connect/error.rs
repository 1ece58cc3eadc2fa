//! What can go wrong on the way to a server.

use std::fmt;
use std::io;
use std::path::PathBuf;

use pitr_core::{Classify, ErrorKind};

/// What can go wrong between us and a server, before it takes statements.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL does not say how to connect. Never repeats the URL: it might hold a secret.
    #[error("the connection URL is not usable: {0}")]
    Url(String),
    /// Nobody answers there.
    #[error("cannot reach the server at {target}: {source}")]
    Unreachable {
        /// Address or socket.
        target: String,
        /// What the system says.
        source: io::Error,
    },
    /// It took too long.
    #[error("no answer from the server at {target} within {seconds} s")]
    Timeout {
        /// Address or socket.
        target: String,
        /// The limit.
        seconds: u64,
    },
    /// The connection broke.
    #[error("the connection to {target} was lost: {source}")]
    Lost {
        /// Address or socket.
        target: String,
        /// What the system says.
        source: io::Error,
    },
    /// The server has no TLS, and the settings ask for it.
    #[error("the server at {0} does not offer TLS")]
    NoTls(String),
    /// The handshake failed, or the certificate proves something else.
    #[error("TLS with {target} failed: {source}")]
    Tls {
        /// Address.
        target: String,
        /// What the TLS layer says.
        source: io::Error,
    },
    /// A certificate or key file cannot be used.
    #[error("cannot use {path}: {what}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The way of logging in that the server wants is not acceptable.
    #[error("login at {target} as {user:?}: {what}")]
    Login {
        /// Address or socket.
        target: String,
        /// The account.
        user: String,
        /// What the server asked for.
        what: String,
    },
    /// The server refused, in its own words.
    #[error("{target}: the server answers {code}: {message}")]
    Server {
        /// Address or socket.
        target: String,
        /// Number of the error.
        code: u16,
        /// Its text.
        message: String,
    },
    /// The server said something that does not belong there.
    #[error("{target} does not follow the protocol: {what}")]
    Protocol {
        /// Address or socket.
        target: String,
        /// What was wrong.
        what: String,
    },
}

impl ConnectError {
    /// Says of a failure below the protocol which server it was.
    pub(super) fn at(target: impl fmt::Display) -> impl FnOnce(pitr_net::Error) -> Self {
        move |error| match error {
            pitr_net::Error::Url(what) => Self::Url(what),
            pitr_net::Error::Unreachable(source) => Self::Unreachable { target: target.to_string(), source },
            pitr_net::Error::Tls(source) => Self::Tls { target: target.to_string(), source },
            pitr_net::Error::Certificate { path, what } => Self::Certificate { path, what },
        }
    }
}

impl Classify for ConnectError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Url(_) | Self::Certificate { .. } => ErrorKind::Usage,
            // A socket that we may not open is a right that is missing, not a server that is down.
            Self::Unreachable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Lost { .. } => ErrorKind::Unreachable,
            // Too many connections of all, or of this user; the server is shutting down.
            Self::Server { code: 1040 | 1203 | 1226, .. } => ErrorKind::Busy,
            Self::Server { code: 1053 | 3169, .. } => ErrorKind::Unreachable,
            Self::NoTls(_) | Self::Tls { .. } | Self::Login { .. } | Self::Server { .. } => ErrorKind::Denied,
            Self::Protocol { .. } => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Url(_) => {
                "write it as mysql://USER@HOST:PORT?ssl-mode=verify_identity, or mysql://USER@localhost?socket=/run/mysqld/mysqld.sock"
            }
            Self::Unreachable { .. } | Self::Timeout { .. } => {
                "is the server running, and does it listen there? see bind_address, port and socket"
            }
            Self::NoTls(_) => "switch TLS on in the server, or say ssl-mode=disabled if the network is trusted",
            Self::Tls { .. } => {
                "ssl-ca must name the authority that signed the server's certificate; verify_identity also needs the host name in it"
            }
            Self::Server { code: 1045, .. } => {
                "check the password of this account (password_file) and the host it may come from"
            }
            Self::Server { code: 1040 | 1203 | 1226, .. } => "wait, or raise max_connections",
            Self::Server { .. } => "pitr grants mysql (or mariadb) prints the account that is needed",
            Self::Login { .. } => {
                "use TLS (ssl-mode=required) or the socket, or an account with caching_sha2_password or mysql_native_password"
            }
            Self::Lost { .. } | Self::Certificate { .. } | Self::Protocol { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
