//! The format description: the first event of a file.

use super::bytes::Bytes;
use super::{Checksum, Damage, EventError, Header};

/// The two families of servers. They share the frame of events and differ in what is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// MySQL and Percona Server.
    Mysql,
    /// MariaDB.
    Mariadb,
}

impl Flavour {
    /// From the version that a server tells.
    pub fn of_version(version: &str) -> Self {
        if version.to_ascii_lowercase().contains("mariadb") { Self::Mariadb } else { Self::Mysql }
    }
}

/// What the first event of a file says of all that follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format {
    /// Version of the server that wrote the file.
    pub server_version: String,
    /// Seconds since 1970 at which the server was started, if this is its first file since; else 0.
    pub created: u32,
    /// Whether events have checksums.
    pub checksum: Checksum,
    /// The family of the server.
    pub flavour: Flavour,
}

/// The only version of the format since MySQL 5.0.
const VERSION: u16 = 4;
const SERVER_VERSION_LEN: usize = 50;

impl Format {
    /// Reads the body of the event: what lies between header and checksum. `offset` is for errors.
    pub fn parse(offset: u64, body: &[u8]) -> Result<Self, EventError> {
        let wrong = |what: String| EventError::new(offset, Damage::Format(what));
        let short = || wrong(format!("of only {} bytes", body.len()));
        let (&algorithm, rest) = body.split_last().ok_or_else(short)?;
        let mut rest = Bytes(rest);
        let version = rest.u16().ok_or_else(short)?;
        let name = rest.take(SERVER_VERSION_LEN).ok_or_else(short)?;
        let created = rest.u32().ok_or_else(short)?;
        let header = rest.u8().ok_or_else(short)?;
        if version != VERSION || usize::from(header) != Header::LEN {
            return Err(wrong(format!("version {version} with headers of {header} bytes is not supported")));
        }
        let checksum = match algorithm {
            0 => Checksum::None,
            1 => Checksum::Crc32,
            other => return Err(wrong(format!("checksum algorithm {other} is not known"))),
        };
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let server_version: String = String::from_utf8_lossy(name).chars().filter(|c| !c.is_control()).collect();
        let flavour = Flavour::of_version(&server_version);
        Ok(Self { server_version, created, checksum, flavour })
    }
}
