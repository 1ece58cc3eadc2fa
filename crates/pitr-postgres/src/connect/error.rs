//! What can go wrong on the way to a server, and what the server itself says.

use std::fmt;
use std::io;
use std::path::PathBuf;

use fallible_iterator::FallibleIterator;
use pitr_core::{Classify, ErrorKind};
use postgres_protocol::message::backend::ErrorFields;

/// An error or a notice of the server, in its own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerMessage {
    /// `ERROR`, `FATAL`, `WARNING`, …; never translated.
    pub severity: String,
    /// The five characters that say what it is.
    pub sqlstate: String,
    /// The sentence, in the language of the server.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What the server suggests.
    pub hint: Option<String>,
}

impl ServerMessage {
    /// Reads the fields of an `ErrorResponse` or a `NoticeResponse`.
    pub(crate) fn read(mut fields: ErrorFields<'_>) -> io::Result<Self> {
        let mut message = Self::default();
        while let Some(field) = fields.next()? {
            let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'V' => message.severity = text(),
                b'C' => message.sqlstate = text(),
                b'M' => message.message = text(),
                b'D' => message.detail = Some(text()),
                b'H' => message.hint = Some(text()),
                _ => {}
            }
        }
        Ok(message)
    }

    /// What kind of failure the SQLSTATE is.
    pub fn kind(&self) -> ErrorKind {
        match self.sqlstate.as_str() {
            // Too many connections (of the server, the role, the walsenders), object in use.
            "53300" | "55006" => ErrorKind::Busy,
            // Starting, shutting down, shut down by somebody; connection faults.
            "57P01" | "57P02" | "57P03" => ErrorKind::Unreachable,
            // No right to do it.
            "42501" => ErrorKind::Denied,
            "XX001" | "XX002" => ErrorKind::Integrity,
            state if state.starts_with("28") => ErrorKind::Denied,
            state if state.starts_with("08") => ErrorKind::Unreachable,
            _ => ErrorKind::Failed,
        }
    }

    fn next_step(&self) -> Option<String> {
        let ours = match self.sqlstate.as_str() {
            "28P01" => Some("check the password of this role (password_file, or PITR_PASSWORD_FILE)"),
            "28000" => Some(
                "add a line for this role and host to pg_hba.conf (database \"replication\" for a base backup) and reload; pitr grants postgres prints it",
            ),
            "42501" => Some("give the role what it lacks: pitr grants postgres prints the script"),
            "53300" => Some("wait, or raise max_wal_senders and max_connections"),
            "3D000" => Some("name an existing database in the URL"),
            _ => None,
        };
        ours.map(str::to_owned).or_else(|| self.hint.clone())
    }
}

impl fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        write!(f, " [SQLSTATE {}]", self.sqlstate)
    }
}

/// What can go wrong between us and a server.
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
    #[error("no answer from the server at {target} within {seconds} s ({doing})")]
    Timeout {
        /// Address or socket.
        target: String,
        /// The limit.
        seconds: u64,
        /// What was waited for.
        doing: &'static str,
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
    /// The server asks for a password, and there is none.
    #[error("the server at {target} asks for a password of role {user:?}, and none is configured")]
    NoPassword {
        /// Address or socket.
        target: String,
        /// The role.
        user: String,
    },
    /// The way of logging in that the server wants is not acceptable, or the server could not prove itself.
    #[error("login at {target} refused: {what}")]
    Login {
        /// Address or socket.
        target: String,
        /// What the server asked for, or got wrong.
        what: String,
    },
    /// The server answered with an error.
    #[error("{doing}: {message}")]
    Server {
        /// What was being done.
        doing: String,
        /// The answer.
        message: ServerMessage,
    },
    /// The server said something that does not belong there.
    #[error("{target} does not follow the protocol: {what}")]
    Protocol {
        /// Address or socket.
        target: String,
        /// What was wrong.
        what: String,
    },
    /// Ordinary SQL failed on our side of the connection.
    #[error("{doing}: {source}")]
    Sql {
        /// What was being done.
        doing: String,
        /// The client's error.
        source: tokio_postgres::Error,
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
            Self::NoTls(_) | Self::Tls { .. } | Self::NoPassword { .. } | Self::Login { .. } => ErrorKind::Denied,
            Self::Server { message, .. } => message.kind(),
            Self::Protocol { .. } => ErrorKind::Failed,
            // What is not an answer of the server is a broken connection or a wrong use of the client.
            Self::Sql { source, .. } if source.is_closed() => ErrorKind::Unreachable,
            Self::Sql { .. } => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Url(_) => {
                Some("write it as postgresql://USER@HOST:PORT/DATABASE?sslmode=verify-full".to_owned())
            }
            Self::Unreachable { .. } | Self::Timeout { .. } => Some(
                "is the server running, and does it listen there? see listen_addresses, port and unix_socket_directories"
                    .to_owned(),
            ),
            Self::NoTls(_) => Some(
                "set ssl = on in the server, or sslmode=disable in the URL if the network is trusted".to_owned(),
            ),
            Self::Tls { .. } => Some(
                "sslrootcert must name the authority that signed the server's certificate; verify-full also needs the host name in it"
                    .to_owned(),
            ),
            Self::NoPassword { .. } => Some("set password_file of the source".to_owned()),
            Self::Login { .. } => Some(
                "use scram-sha-256 in pg_hba.conf; a plain password is only sent over TLS or a unix socket".to_owned(),
            ),
            Self::Server { message, .. } => message.next_step(),
            Self::Certificate { .. } | Self::Lost { .. } | Self::Protocol { .. } | Self::Sql { .. } => None,
        }
    }
}
