//! Ordinary SQL over a connection that has logged in.
//!
//! The text protocol, and nothing that copies: a row is the bytes that the server sent, and its values are slices of
//! them. Bases are read through it and restores are loaded through it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use bytes::BytesMut;
use pitr_core::{Classify, ErrorKind};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::limits::{ERROR_TEXT, MAX_PACKET};
use crate::wire::{Fields, Wire};

const COM_QUIT: u8 = 1;
const COM_QUERY: u8 = 3;

/// Any connection: TCP, a socket, with TLS or without.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for T {}

/// A session in which statements are run, one after the other.
pub struct Sql {
    wire: Wire<Box<dyn Stream>>,
    /// Names of the columns of the last result.
    columns: Vec<String>,
}

impl fmt::Debug for Sql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sql")
    }
}

/// What a statement without rows did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Rows inserted, changed or deleted.
    pub affected: u64,
    /// Warnings that `SHOW WARNINGS` would list.
    pub warnings: u16,
}

/// A row as the server sent it.
#[derive(Debug)]
pub struct Row(BytesMut);

impl Row {
    /// Its values, in order; `None` is NULL. Ends early where the row is damaged.
    pub fn values(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let mut fields = Fields(&self.0);
        std::iter::from_fn(move || if fields.0.is_empty() { None } else { fields.packed_bytes() })
    }

    /// One value as a text; what is no UTF-8 in it is replaced. NULL and a value that is not there are `None`.
    pub fn text(&self, place: usize) -> Option<String> {
        self.bytes(place).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// One value.
    pub fn bytes(&self, place: usize) -> Option<&[u8]> {
        self.values().nth(place).flatten()
    }

    /// One value as a number.
    pub fn number<N: std::str::FromStr>(&self, place: usize) -> Option<N> {
        std::str::from_utf8(self.bytes(place)?).ok()?.parse().ok()
    }
}

impl Sql {
    /// A session over a connection that has logged in, without the capability `CLIENT_DEPRECATE_EOF`.
    pub fn new(mut wire: Wire<Box<dyn Stream>>) -> Self {
        wire.set_limit(MAX_PACKET);
        Self { wire, columns: Vec::new() }
    }

    /// Runs a statement that gives no rows.
    pub async fn execute(&mut self, statement: &str) -> Result<Done, SqlError> {
        self.execute_bytes(statement.as_bytes(), &shown(statement)).await
    }

    /// Runs a statement that is no text, or that must not be shown; errors call it `what`.
    pub async fn execute_bytes(&mut self, statement: &[u8], what: &str) -> Result<Done, SqlError> {
        match self.begin(statement, what).await? {
            Began::Done(done) => Ok(done),
            // Rows that nobody asked for, as of `ANALYZE TABLE`.
            Began::Rows => {
                let mut rows = Rows { sql: self, what: what.to_owned(), ended: false };
                while rows.next().await?.is_some() {}
                Ok(Done { affected: 0, warnings: 0 })
            }
        }
    }

    /// Runs a statement and gives its rows one by one. They must be read to the end before the next statement.
    pub async fn stream(&mut self, statement: &str) -> Result<Rows<'_>, SqlError> {
        let what = shown(statement);
        let ended = match self.begin(statement.as_bytes(), &what).await? {
            Began::Done(_) => true,
            Began::Rows => false,
        };
        Ok(Rows { sql: self, what, ended })
    }

    /// Runs a statement and gives all its rows, for answers that are known to be small.
    pub async fn rows(&mut self, statement: &str) -> Result<Vec<Row>, SqlError> {
        let mut stream = self.stream(statement).await?;
        let mut rows = Vec::new();
        while let Some(row) = stream.next().await? {
            rows.push(row);
        }
        Ok(rows)
    }

    /// The first row.
    pub async fn row(&mut self, statement: &str) -> Result<Option<Row>, SqlError> {
        Ok(self.rows(statement).await?.into_iter().next())
    }

    /// The first value of the first row, as a text.
    pub async fn value(&mut self, statement: &str) -> Result<Option<String>, SqlError> {
        Ok(self.row(statement).await?.and_then(|row| row.text(0)))
    }

    /// The first row with the names of its columns, for statements whose columns depend on the version.
    pub async fn named_row(&mut self, statement: &str) -> Result<Option<BTreeMap<String, String>>, SqlError> {
        let Some(row) = self.row(statement).await? else { return Ok(None) };
        let values = row.values().map(|value| value.map(|value| String::from_utf8_lossy(value).into_owned()));
        let named = self.columns.iter().cloned().zip(values);
        Ok(Some(named.filter_map(|(name, value)| Some((name, value?))).collect()))
    }

    /// The connection under it, for what is no statement. All rows must have been read.
    pub fn into_wire(self) -> Wire<Box<dyn Stream>> {
        self.wire
    }

    /// Takes leave. A server that is gone already is fine.
    pub async fn close(mut self) {
        self.wire.restart();
        if let Err(error) = self.wire.send(&[COM_QUIT]).await {
            tracing::debug!(%error, "the connection was gone before it was closed");
        }
    }

    async fn begin(&mut self, statement: &[u8], what: &str) -> Result<Began, SqlError> {
        let io = |source| SqlError::lost(what, source);
        self.wire.restart();
        self.wire.write(&[&[COM_QUERY], statement]).await.map_err(io)?;
        self.wire.flush().await.map_err(io)?;
        let head = self.wire.read().await.map_err(io)?;
        let odd = |problem| SqlError::Protocol { what: what.to_owned(), problem };
        match head.first() {
            Some(0) => parse_ok(&head).map(Began::Done).ok_or_else(|| odd("an odd OK")),
            Some(0xff) => Err(SqlError::server(what, &head)),
            Some(0xfb) => Err(odd("it asks for a file of the client")),
            Some(_) => {
                let columns = Fields(&head).packed().flatten().ok_or_else(|| odd("an odd head of a result"))?;
                self.columns.clear();
                for _ in 0..columns {
                    let definition = self.wire.read().await.map_err(io)?;
                    self.columns.push(column_name(&definition).ok_or_else(|| odd("an odd column"))?);
                }
                // The end of the definitions.
                self.wire.read().await.map_err(io)?;
                Ok(Began::Rows)
            }
            None => Err(odd("an empty packet")),
        }
    }
}

enum Began {
    Done(Done),
    Rows,
}

/// Rows on their way.
#[derive(Debug)]
pub struct Rows<'a> {
    sql: &'a mut Sql,
    what: String,
    ended: bool,
}

impl Rows<'_> {
    /// The next row; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Row>, SqlError> {
        if self.ended {
            return Ok(None);
        }
        let payload = self.sql.wire.read().await.map_err(|source| SqlError::lost(&self.what, source))?;
        match payload.first() {
            Some(0xff) => {
                self.ended = true;
                Err(SqlError::server(&self.what, &payload))
            }
            Some(0xfe) if payload.len() < 9 => {
                self.ended = true;
                Ok(None)
            }
            _ => Ok(Some(Row(payload))),
        }
    }
}

/// Catalog, schema, table, original table, name.
fn column_name(definition: &[u8]) -> Option<String> {
    let mut fields = Fields(definition);
    for _ in 0..4 {
        fields.packed_bytes()?;
    }
    Some(String::from_utf8_lossy(fields.packed_bytes()??).into_owned())
}

fn parse_ok(payload: &[u8]) -> Option<Done> {
    let mut fields = Fields(payload.get(1..)?);
    let affected = fields.packed()??;
    fields.packed()?;
    fields.u16()?;
    Some(Done { affected, warnings: fields.u16()? })
}

/// Number and text of an error packet.
pub(crate) fn error_text(payload: &[u8]) -> (u16, String) {
    let mut fields = Fields(payload.get(1..).unwrap_or_default());
    let code = fields.u16().unwrap_or_default();
    let text = match fields.0 {
        [b'#', _, _, _, _, _, text @ ..] => text,
        text => text,
    };
    (code, String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect())
}

/// A statement as it may stand in an error: its begin.
fn shown(statement: &str) -> String {
    let line = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(ERROR_TEXT) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqlError {
    /// The server says no.
    #[error("{what}: the server answers {code}: {message}")]
    Server {
        /// The statement, or what it was for.
        what: String,
        /// Number of the error.
        code: u16,
        /// Its text.
        message: String,
    },
    /// The connection broke.
    #[error("{what}: the connection was lost: {source}")]
    Lost {
        /// The statement, or what it was for.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// The server answered with what no server answers.
    #[error("{what}: {problem}")]
    Protocol {
        /// The statement, or what it was for.
        what: String,
        /// What was odd.
        problem: &'static str,
    },
}

impl SqlError {
    fn lost(what: &str, source: io::Error) -> Self {
        Self::Lost { what: what.to_owned(), source }
    }

    pub(crate) fn server(what: &str, payload: &[u8]) -> Self {
        let (code, message) = error_text(payload);
        Self::Server { what: what.to_owned(), code, message }
    }

    /// The server's number of the error.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Server { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl Classify for SqlError {
    fn kind(&self) -> ErrorKind {
        match self {
            // Access denied for: database, user, table, column, privilege, routine.
            Self::Server { code: 1044 | 1045 | 1142 | 1143 | 1227 | 1370 | 3879, .. } => ErrorKind::Denied,
            // Lock wait timeout, deadlock, shutdown, too many connections.
            Self::Server { code: 1205 | 1213 | 1053 | 1040 | 3169, .. } => ErrorKind::Unreachable,
            Self::Server { .. } => ErrorKind::Failed,
            Self::Lost { .. } => ErrorKind::Unreachable,
            Self::Protocol { .. } => ErrorKind::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        (self.kind() == ErrorKind::Denied)
            .then(|| "give the user the rights that pitr grants mysql (or mariadb) prints".to_owned())
    }
}
