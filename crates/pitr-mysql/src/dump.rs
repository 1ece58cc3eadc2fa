//! The log on the wire: asking a server for it, as a replica does, and the packets that come.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pitr_core::{Classify, ErrorKind};

use crate::connect::Session;
use crate::event::Flavour;
use crate::limits::{HEARTBEAT, STREAM_SILENCE};
use crate::position::LogFile;
use crate::sql::{self, Sql, SqlError};
use crate::wire::Wire;

const COM_BINLOG_DUMP: u8 = 0x12;
const COM_REGISTER_REPLICA: u8 = 0x15;
/// MariaDB: without it the statements behind row events are left out, and the files would have holes.
const SEND_ANNOTATE_ROWS: u16 = 0x02;

/// As whom a server is asked for its log. The same identity twice at a time is one too many: the server ends the
/// first connection when the second begins.
#[derive(Debug, Clone)]
pub struct Replica {
    /// `server_id`, unique among the replicas of the server, and not 0.
    pub server_id: u32,
    /// Its UUID, for MySQL.
    pub uuid: String,
    /// True to confirm transactions as a semi-synchronous replica does.
    pub confirms: bool,
}

/// A stream of the log.
pub struct Dump {
    wire: Wire<Box<dyn sql::Stream>>,
    confirms: bool,
    /// True if the next packet begins an event.
    begins: bool,
}

/// A packet of the stream.
#[derive(Debug)]
pub struct Fragment {
    /// Bytes of an event.
    pub bytes: BytesMut,
    /// True if the event begins with them.
    pub begins: bool,
    /// True if it ends with them.
    pub ends: bool,
    /// True if the server waits for it to be confirmed.
    pub confirm: bool,
}

/// Why there is no more log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// The server says why.
    #[error("the server ended the log: {code}: {message}")]
    Server {
        /// Number of the error.
        code: u16,
        /// Its text.
        message: String,
    },
    /// The connection broke.
    #[error("the connection was lost while the log was streamed: {0}")]
    Lost(#[source] io::Error),
    /// Nothing came, not even a sign of life.
    #[error("the server has not sent anything for {} s", .0.as_secs())]
    Silence(Duration),
    /// The stream ended, as it does when the server shuts down.
    #[error("the server ended the stream")]
    Ended,
    /// Something came that does not belong there.
    #[error("the server does not follow the protocol: {0}")]
    Protocol(&'static str),
}

/// "Got fatal error from source when reading data from binary log": purged, shorter than asked for, replaced by
/// another replica of the same identity. Only the text says which.
const READING_LOG: u16 = 1236;

impl DumpError {
    /// True where the server has no such file, or not that much of it.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Server { code: READING_LOG, .. }) && !self.is_replaced()
    }

    /// True where another client came with our identity.
    pub fn is_replaced(&self) -> bool {
        matches!(self, Self::Server { message, .. } if message.contains("same server_uuid") || message.contains("same server_id"))
    }
}

impl Classify for DumpError {
    fn kind(&self) -> ErrorKind {
        match self {
            _ if self.is_replaced() => ErrorKind::Busy,
            Self::Server { code: 1045 | 1142 | 1227, .. } => ErrorKind::Denied,
            // What it means is found out with the next connection, which compares the log with the archive.
            Self::Server { .. } | Self::Lost(_) | Self::Silence(_) | Self::Ended => ErrorKind::Unreachable,
            Self::Protocol(_) => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            _ if self.is_replaced() => {
                "another pitr streams the same source: stop one of them; or give the other replica another server_id"
            }
            Self::Server { code: 1045 | 1142 | 1227, .. } => "the account needs REPLICATION SLAVE: pitr grants mysql",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

impl Dump {
    /// Asks for the log from `offset` of `file` on: 4, or the begin of an event.
    pub async fn start(session: Session, file: &LogFile, offset: u64, replica: &Replica) -> Result<Self, crate::Error> {
        let flavour = session.hello.flavour;
        let mut sql = Sql::new(session.wire);
        for statement in prelude(flavour, replica) {
            sql.execute(&statement).await?;
        }
        let mut wire = sql.into_wire();
        wire.restart();
        wire.send(&register(replica)).await.map_err(DumpError::Lost)?;
        let answer = wire.read().await.map_err(DumpError::Lost)?;
        if answer.first() == Some(&ERROR) {
            return Err(SqlError::server("registering as a replica", &answer).into());
        }
        wire.restart();
        wire.send(&request(flavour, file, offset, replica)?).await.map_err(DumpError::Lost)?;
        if replica.confirms {
            wire.expect_any_number();
        }
        Ok(Self { wire, confirms: replica.confirms, begins: true })
    }

    /// The next packet. A dropped call loses nothing; the caller watches the time, see [`STREAM_SILENCE`].
    pub async fn next(&mut self) -> Result<Fragment, DumpError> {
        let read = self.wire.read_fragment().await;
        let (mut bytes, ends) = read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => DumpError::Ended,
            _ => DumpError::Lost(error),
        })?;
        let begins = std::mem::replace(&mut self.begins, ends);
        let mut confirm = false;
        if begins {
            match bytes.first() {
                Some(&OK) => bytes.advance(1),
                Some(&ERROR) => {
                    let (code, message) = sql::error_text(&bytes);
                    return Err(DumpError::Server { code, message });
                }
                Some(&END) => return Err(DumpError::Ended),
                _ => return Err(DumpError::Protocol("a packet that is no event")),
            }
            // A server without the plugin, or with it switched off, sends plain events.
            if self.confirms && bytes.first() == Some(&CONFIRMATION) && bytes.len() >= 2 {
                bytes.advance(1);
                confirm = bytes.get_u8() == 1;
            }
        }
        Ok(Fragment { bytes, begins, ends, confirm })
    }

    /// Tells the server that everything up to `offset` of `file` is durable.
    pub async fn confirm(&mut self, file: &LogFile, offset: u64) -> Result<(), DumpError> {
        let mut packet = vec![CONFIRMATION];
        packet.extend_from_slice(&offset.to_le_bytes());
        packet.extend_from_slice(file.to_string().as_bytes());
        self.wire.restart();
        self.wire.send(&packet).await.map_err(DumpError::Lost)
    }
}

const OK: u8 = 0;
const END: u8 = 0xfe;
const ERROR: u8 = 0xff;
/// Begins the mark before an event, and the confirmation, of semi-synchronous replication.
const CONFIRMATION: u8 = 0xef;

/// What a session says before it asks for the log.
fn prelude(flavour: Flavour, replica: &Replica) -> Vec<String> {
    let beat = HEARTBEAT.as_nanos();
    let mut statements = vec![
        // Without it the server strips the checksums, and the files would differ.
        "SET @master_binlog_checksum = 'CRC32', @source_binlog_checksum = 'CRC32'".to_owned(),
        format!("SET @master_heartbeat_period = {beat}, @source_heartbeat_period = {beat}"),
    ];
    match flavour {
        Flavour::Mysql => {
            let uuid = &replica.uuid;
            statements.push(format!("SET @slave_uuid = '{uuid}', @replica_uuid = '{uuid}'"));
        }
        // Otherwise it rewrites the events that name transactions.
        Flavour::Mariadb => statements.push("SET @mariadb_slave_capability = 4".to_owned()),
    }
    if replica.confirms {
        statements.push("SET @rpl_semi_sync_replica = 1, @rpl_semi_sync_slave = 1".to_owned());
    }
    statements
}

/// Makes us visible in `SHOW REPLICAS`.
fn register(replica: &Replica) -> Vec<u8> {
    let mut packet = vec![COM_REGISTER_REPLICA];
    packet.extend_from_slice(&replica.server_id.to_le_bytes());
    // Host name, user, password: as we like; the first is shown.
    packet.push(crate::limits::PROGRAM_NAME.len() as u8);
    packet.extend_from_slice(crate::limits::PROGRAM_NAME.as_bytes());
    // No user, no password, no port; rank; the server's own id is filled in there.
    packet.extend_from_slice(&[0; 2 + 2 + 4 + 4]);
    packet
}

fn request(flavour: Flavour, file: &LogFile, offset: u64, replica: &Replica) -> Result<Vec<u8>, DumpError> {
    let offset =
        u32::try_from(offset).map_err(|_| DumpError::Protocol("no log can be asked for beyond 4 GiB of a file"))?;
    let flags = match flavour {
        Flavour::Mysql => 0,
        Flavour::Mariadb => SEND_ANNOTATE_ROWS,
    };
    let mut packet = vec![COM_BINLOG_DUMP];
    packet.extend_from_slice(&offset.max(4).to_le_bytes());
    packet.extend_from_slice(&flags.to_le_bytes());
    packet.extend_from_slice(&replica.server_id.to_le_bytes());
    packet.extend_from_slice(file.to_string().as_bytes());
    Ok(packet)
}

/// The silence after which a server is given up, as an error.
pub(crate) fn silence() -> DumpError {
    DumpError::Silence(STREAM_SILENCE)
}
