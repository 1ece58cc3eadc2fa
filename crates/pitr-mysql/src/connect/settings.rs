//! How to reach a server: what a `mysql://` or `mariadb://` URL says.

use std::fmt;
use std::path::PathBuf;

use pitr_net::url::{bad, decode, is_loopback, split};
use pitr_net::{Password, Proof, Tls};

use super::ConnectError;
use crate::limits::DEFAULT_PORT;

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name or an address.
    Tcp(String),
    /// The path of a socket.
    Unix(PathBuf),
}

/// What TLS has to prove, in the servers' own words. There is no `preferred` to be chosen: over a network it would
/// silently fall back to plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Plain text.
    Disabled,
    /// Encrypted if the server can, for whatever certificate. Only ever the default on the loopback address.
    Loopback,
    /// Encrypted, with any certificate; with `ssl-ca` the same as `verify_ca`. The default for other hosts.
    Required,
    /// A certificate of a trusted authority, for whatever name.
    VerifyCa,
    /// A certificate of a trusted authority for this host name.
    VerifyIdentity,
}

/// What may stand after the question mark of a URL.
const PARAMETERS: [&str; 5] = ["socket", "ssl-mode", "ssl-ca", "ssl-cert", "ssl-key"];

/// Everything needed to open a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the server listens.
    pub host: Host,
    /// Its port; without meaning for a socket.
    pub port: u16,
    /// The account.
    pub user: String,
    /// What TLS has to prove.
    pub tls: TlsMode,
    /// PEM file with trusted authorities; the system's where `None`.
    pub root_certificates: Option<PathBuf>,
    /// PEM files of our own certificate and its key, for an account that asks for one.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// The password, where the account has one.
    pub password: Option<Password>,
}

impl Settings {
    /// Reads `mysql://user@host:port?ssl-mode=…`; `mariadb://` is the same.
    ///
    /// A socket is given as `mysql://user@localhost?socket=/run/mysqld/mysqld.sock`. Parameters: `socket`, `ssl-mode`,
    /// `ssl-ca`, `ssl-cert`, `ssl-key`. A password in the URL is refused, since URLs end up in process lists and logs; so
    /// is any other parameter, and a database, which has no meaning here.
    pub fn parse(url: &str) -> Result<Self, ConnectError> {
        Self::read(url).map_err(ConnectError::at("the URL"))
    }

    fn read(url: &str) -> Result<Self, pitr_net::Error> {
        let rest = url.strip_prefix("mysql://").or_else(|| url.strip_prefix("mariadb://"));
        let rest = rest.ok_or_else(|| bad("it does not begin with mysql:// or mariadb://"))?;
        let parts = split(rest)?;
        if !parts.path.is_empty() {
            return Err(bad("it names a database; the binary log is that of the whole server"));
        }
        let mut given = parts.parameters;
        let host = match given.take("socket") {
            Some(path) if path.starts_with('/') && matches!(parts.host, "" | "localhost") => Host::Unix(path.into()),
            Some(_) => return Err(bad("a socket is an absolute path, and its host is localhost")),
            None if parts.host.is_empty() => return Err(bad("it names no host")),
            None => Host::Tcp(decode(parts.host)?),
        };
        let port = match parts.port {
            Some(text) => text.parse().map_err(|_| bad(format!("{text:?} is not a port")))?,
            None => DEFAULT_PORT,
        };
        let user = decode(parts.user)?;
        if user.is_empty() {
            return Err(bad("it names no user; write mysql://USER@HOST"));
        }
        let tls = tls_mode(given.take("ssl-mode").as_deref(), &host)?;
        let root_certificates = given.take("ssl-ca").map(PathBuf::from);
        let client_certificate = match (given.take("ssl-cert"), given.take("ssl-key")) {
            (Some(cert), Some(key)) => Some((cert.into(), key.into())),
            (None, None) => None,
            _ => return Err(bad("ssl-cert and ssl-key go together")),
        };
        given.refuse_the_rest(&PARAMETERS)?;
        Ok(Self { host, port, user, tls, root_certificates, client_certificate, password: None })
    }

    /// Settings for a socket on this machine, without password.
    pub fn unix(socket: impl Into<PathBuf>, user: impl Into<String>) -> Self {
        Self {
            host: Host::Unix(socket.into()),
            port: DEFAULT_PORT,
            user: user.into(),
            tls: TlsMode::Disabled,
            root_certificates: None,
            client_certificate: None,
            password: None,
        }
    }

    /// The same with a password.
    #[must_use]
    pub fn with_password(mut self, password: Password) -> Self {
        self.password = Some(password);
        self
    }

    /// Whom TLS trusts; `None` for plain text.
    pub(super) fn trust(&self) -> Option<Tls> {
        let proof = match self.tls {
            TlsMode::Disabled => return None,
            TlsMode::Loopback | TlsMode::Required => Proof::Anything,
            TlsMode::VerifyCa => Proof::Authority,
            TlsMode::VerifyIdentity => Proof::Name,
        };
        Some(Tls { proof, authorities: self.root_certificates.clone(), own: self.client_certificate.clone() })
    }
}

/// Where it is, for messages: `db1:3306`, `/run/mysqld/mysqld.sock`.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp(name) => write!(f, "{name}:{}", self.port),
            Host::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

fn tls_mode(text: Option<&str>, host: &Host) -> Result<TlsMode, pitr_net::Error> {
    let local = match host {
        // The kernel already says who is at the other end of a socket.
        Host::Unix(_) => return Ok(TlsMode::Disabled),
        Host::Tcp(name) => is_loopback(name),
    };
    let Some(text) = text else { return Ok(if local { TlsMode::Loopback } else { TlsMode::Required }) };
    match text.to_ascii_lowercase().as_str() {
        "disabled" => Ok(TlsMode::Disabled),
        "required" => Ok(TlsMode::Required),
        "verify_ca" => Ok(TlsMode::VerifyCa),
        "verify_identity" => Ok(TlsMode::VerifyIdentity),
        "preferred" => Err(bad(
            "ssl-mode=preferred falls back to plain text without a word; choose disabled, required, verify_ca or verify_identity",
        )),
        _ => Err(bad(format!("ssl-mode={text:?} is not known; use disabled, required, verify_ca or verify_identity"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        Settings::parse(url).unwrap_err().to_string()
    }

    #[test]
    fn the_usual_forms_are_understood() {
        let full = Settings::parse("mysql://pitr@db1:3307?ssl-mode=VERIFY_IDENTITY&ssl-ca=/etc/ca.pem").unwrap();
        assert_eq!((&full.host, full.port, full.user.as_str()), (&Host::Tcp("db1".into()), 3307, "pitr"));
        assert_eq!((full.tls, full.root_certificates), (TlsMode::VerifyIdentity, Some("/etc/ca.pem".into())));
        let socket = Settings::parse("mariadb://u@localhost/?socket=/run/mysqld/mysqld.sock").unwrap();
        assert_eq!((socket.host, socket.tls), (Host::Unix("/run/mysqld/mysqld.sock".into()), TlsMode::Disabled));
        let v6 = Settings::parse("mysql://a%40b@[::1]").unwrap();
        assert_eq!((v6.to_string().as_str(), v6.user.as_str(), v6.tls), ("[::1]:3306", "a@b", TlsMode::Loopback));
    }

    #[test]
    fn a_remote_host_gets_tls_unless_it_is_refused_by_name() {
        assert_eq!(Settings::parse("mysql://u@db1").unwrap().tls, TlsMode::Required);
        assert_eq!(Settings::parse("mysql://u@db1?ssl-mode=disabled").unwrap().tls, TlsMode::Disabled);
        assert!(refused("mysql://u@db1?ssl-mode=preferred").contains("falls back"));
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_never_repeated() {
        for url in ["mysql://u:hunter2@h", "mysql://u@h?password=hunter2"] {
            let message = refused(url);
            assert!(message.contains("holds a password") && !message.contains("hunter2"), "{message}");
        }
        assert_eq!(format!("{:?}", Password::new("hunter2")), "Password(…)");
    }

    #[test]
    fn anything_unknown_is_refused() {
        for url in [
            "postgresql://u@h",
            "mysql://h",
            "mysql://u@",
            "mysql://u@h:x",
            "mysql://u@h/db",
            "mysql://u@h?what=1",
            "mysql://u@h?socket=/x",
            "mysql://u@localhost?socket=x",
            "mysql://u@h?ssl-mode=on",
            "mysql://u%00@h",
            "mysql://u@[::1",
            "mysql://u@::1:3306",
            "mysql://u@h?ssl-cert=a",
        ] {
            assert!(Settings::parse(url).is_err(), "{url}");
        }
    }
}
