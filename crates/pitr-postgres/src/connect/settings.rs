//! How to reach a server: what a `postgresql://` URL says.

use std::fmt;
use std::path::{Path, PathBuf};

use pitr_net::url::{bad, decode, is_loopback, split};
use pitr_net::{Password, Proof, Tls};

use super::ConnectError;
use crate::limits::{APPLICATION_NAME, DEFAULT_PORT};

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name or an address.
    Tcp(String),
    /// The directory of a unix socket.
    Unix(PathBuf),
}

/// What TLS has to prove. There is no `prefer`: it would silently fall back to plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Plain text. The default on this machine (unix socket, loopback).
    Disable,
    /// Encrypted, with any certificate; with `sslrootcert` the same as `verify-ca`. The default for other hosts.
    Require,
    /// A certificate of a trusted authority, for whatever name.
    VerifyCa,
    /// A certificate of a trusted authority for this host name.
    VerifyFull,
}

/// What may stand after the question mark of a URL.
const PARAMETERS: [&str; 9] =
    ["host", "port", "user", "dbname", "application_name", "sslmode", "sslrootcert", "sslcert", "sslkey"];

/// Everything needed to open a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the server listens.
    pub host: Host,
    /// Its port; for a unix socket the number in the socket's name.
    pub port: u16,
    /// The role.
    pub user: String,
    /// The database for ordinary SQL; a walsender has none.
    pub database: String,
    /// What `pg_stat_activity` shows of us, and `synchronous_standby_names` may name.
    pub application_name: String,
    /// What TLS has to prove.
    pub tls: TlsMode,
    /// PEM file with trusted authorities; the system's where `None`.
    pub root_certificates: Option<PathBuf>,
    /// PEM files of our own certificate and its key, for a server that asks for one.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// The password, where the server asks for one.
    pub password: Option<Password>,
}

impl Settings {
    /// Reads `postgresql://user@host:port/database?sslmode=…`.
    ///
    /// A socket directory is given as `?host=/run/postgresql` or percent-encoded in the host's place.
    /// Parameters: `host`, `port`, `user`, `dbname`, `application_name`, `sslmode`, `sslrootcert`, `sslcert`, `sslkey`. A
    /// password in the URL is refused, since URLs end up in process lists and logs; so is any other parameter.
    pub fn parse(url: &str) -> Result<Self, ConnectError> {
        Self::read(url).map_err(ConnectError::at("the URL"))
    }

    fn read(url: &str) -> Result<Self, pitr_net::Error> {
        let rest = url
            .strip_prefix("postgresql://")
            .or_else(|| url.strip_prefix("postgres://"))
            .ok_or_else(|| bad("it does not begin with postgresql://"))?;
        let parts = split(rest)?;
        let mut given = parts.parameters;
        let host = given.take("host").map_or_else(|| decode(parts.host), Ok)?;
        let host = match host {
            path if path.starts_with('/') => Host::Unix(path.into()),
            name if name.is_empty() => return Err(bad("it names no host; a socket is given as ?host=/run/postgresql")),
            name => Host::Tcp(name),
        };
        let port = match given.take("port").as_deref().or(parts.port) {
            Some(text) => text.parse().map_err(|_| bad(format!("{text:?} is not a port")))?,
            None => DEFAULT_PORT,
        };
        let user = given.take("user").map_or_else(|| decode(parts.user), Ok)?;
        if user.is_empty() {
            return Err(bad("it names no user; write postgresql://USER@HOST/"));
        }
        let database = given.take("dbname").map_or_else(|| decode(parts.path), Ok)?;
        let database = if database.is_empty() { "postgres".to_owned() } else { database };
        let application_name = given.take("application_name").unwrap_or_else(|| APPLICATION_NAME.to_owned());
        let tls = tls_mode(given.take("sslmode").as_deref(), &host)?;
        let root_certificates = given.take("sslrootcert").filter(|path| path != "system").map(PathBuf::from);
        let client_certificate = match (given.take("sslcert"), given.take("sslkey")) {
            (Some(cert), Some(key)) => Some((cert.into(), key.into())),
            (None, None) => None,
            _ => return Err(bad("sslcert and sslkey go together")),
        };
        given.refuse_the_rest(&PARAMETERS)?;
        Ok(Self {
            host,
            port,
            user,
            database,
            application_name,
            tls,
            root_certificates,
            client_certificate,
            password: None,
        })
    }

    /// Settings for a socket directory on this machine.
    pub fn unix(directory: impl Into<PathBuf>, port: u16, user: impl Into<String>) -> Self {
        Self {
            host: Host::Unix(directory.into()),
            port,
            user: user.into(),
            database: "postgres".to_owned(),
            application_name: APPLICATION_NAME.to_owned(),
            tls: TlsMode::Disable,
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

    /// The same with another database.
    #[must_use]
    pub fn with_database(mut self, database: impl Into<String>) -> Self {
        self.database = database.into();
        self
    }

    /// Whom TLS trusts; `None` for plain text.
    pub(crate) fn trust(&self) -> Option<Tls> {
        let proof = match self.tls {
            TlsMode::Disable => return None,
            TlsMode::Require => Proof::Anything,
            TlsMode::VerifyCa => Proof::Authority,
            TlsMode::VerifyFull => Proof::Name,
        };
        Some(Tls { proof, authorities: self.root_certificates.clone(), own: self.client_certificate.clone() })
    }

    /// The path of the socket file in `directory`.
    pub(crate) fn socket_path(&self, directory: &Path) -> PathBuf {
        directory.join(format!(".s.PGSQL.{}", self.port))
    }
}

/// Where it is, for messages: `db1:5432`, `/run/postgresql/.s.PGSQL.5432`.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp(name) => write!(f, "{name}:{}", self.port),
            Host::Unix(directory) => write!(f, "{}", self.socket_path(directory).display()),
        }
    }
}

fn tls_mode(text: Option<&str>, host: &Host) -> Result<TlsMode, pitr_net::Error> {
    let local = match host {
        // As libpq does: the kernel already says who is at the other end of a unix socket.
        Host::Unix(_) => return Ok(TlsMode::Disable),
        Host::Tcp(name) => is_loopback(name),
    };
    match text {
        None if local => Ok(TlsMode::Disable),
        None | Some("require") => Ok(TlsMode::Require),
        Some("disable") => Ok(TlsMode::Disable),
        Some("verify-ca") => Ok(TlsMode::VerifyCa),
        Some("verify-full") => Ok(TlsMode::VerifyFull),
        Some(weak @ ("prefer" | "allow")) => Err(bad(format!(
            "sslmode={weak} falls back to plain text without a word; choose disable, require, verify-ca or verify-full"
        ))),
        Some(other) => {
            Err(bad(format!("sslmode={other:?} is not known; use disable, require, verify-ca or verify-full")))
        }
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
        let full =
            Settings::parse("postgresql://pitr@db1:5433/app?sslmode=verify-full&sslrootcert=/etc/ca.pem").unwrap();
        assert_eq!((&full.host, full.port), (&Host::Tcp("db1".into()), 5433));
        assert_eq!((full.user.as_str(), full.database.as_str()), ("pitr", "app"));
        assert_eq!((full.tls, full.root_certificates), (TlsMode::VerifyFull, Some("/etc/ca.pem".into())));
        let v6 = Settings::parse("postgres://u@[::1]:5433").unwrap();
        assert_eq!((v6.host, v6.port, v6.tls), (Host::Tcp("::1".into()), 5433, TlsMode::Disable));
        for url in [
            "postgresql://u@/db?host=/run/pg&port=6000",
            "postgresql://u@%2Frun%2Fpg:6000/db",
            "postgresql:///db?host=/run/pg&user=u&port=6000",
        ] {
            let socket = Settings::parse(url).unwrap();
            assert_eq!((&socket.host, socket.port), (&Host::Unix("/run/pg".into()), 6000), "{url}");
            assert_eq!(socket.to_string(), "/run/pg/.s.PGSQL.6000");
        }
        assert_eq!(Settings::parse("postgresql://a%40b@h").unwrap().user, "a@b");
    }

    #[test]
    fn a_remote_host_gets_tls_unless_it_is_refused_by_name() {
        assert_eq!(Settings::parse("postgresql://u@db1").unwrap().tls, TlsMode::Require);
        assert_eq!(Settings::parse("postgresql://u@127.0.0.1").unwrap().tls, TlsMode::Disable);
        assert_eq!(Settings::parse("postgresql://u@db1?sslmode=disable").unwrap().tls, TlsMode::Disable);
        assert!(refused("postgresql://u@db1?sslmode=prefer").contains("falls back"));
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_never_repeated() {
        for url in ["postgresql://u:hunter2@h", "postgresql://u@h?password=hunter2"] {
            let message = refused(url);
            assert!(message.contains("holds a password") && !message.contains("hunter2"), "{message}");
        }
        assert_eq!(format!("{:?}", Password::new("hunter2")), "Password(…)");
    }

    #[test]
    fn anything_unknown_is_refused() {
        for url in [
            "mysql://u@h",
            "postgresql://h",
            "postgresql://u@",
            "postgresql://u@h:x",
            "postgresql://u@h?what=1",
            "postgresql://u@h?sslmode=verify_full",
            "postgresql://u@h?port=1&port=2",
            "postgresql://u%00@h",
            "postgresql://u%zz@h",
            "postgresql://u@[::1",
            "postgresql://u@::1:5432",
            "postgresql://u@h?sslcert=a",
        ] {
            assert!(Settings::parse(url).is_err(), "{url}");
        }
    }
}
