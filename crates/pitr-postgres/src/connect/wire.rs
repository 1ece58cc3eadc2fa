//! The protocol of PostgreSQL, as far as a walsender speaks it: startup, login, simple queries, COPY.
//!
//! Message formats come from `postgres-protocol`; what is ours is the conversation. See
//! `docs/decisions/0002-own-replication-client.md` for why this is not `tokio-postgres`.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use pitr_net::Socket;
use postgres_protocol::message::backend::{DataRowBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::binding;
use super::dial::dial;
use super::login::Login;
use super::{ConnectError, ServerMessage, Settings};
use crate::limits::{CONNECT_TIMEOUT, MAX_MESSAGE, MAX_NOTICES, QUERY_TIMEOUT, READ_BUFFER};

/// One row of a simple query, in text form; `None` is NULL.
pub type Row = Vec<Option<Bytes>>;

/// A message of the server, with the one that `postgres-protocol` does not know.
pub enum Incoming {
    /// Bytes flow both ways from here on (`START_REPLICATION`).
    CopyBoth,
    /// Anything else; never an error or a notice.
    Message(Message),
}

/// A logged-in connection in the replication protocol.
///
/// # Contract
/// Not shared, not pipelined: one question, then all of its answer. After an error of the server the connection
/// is still usable; after any other error, or when a future is dropped half-way, it is not.
pub struct Wire {
    stream: Socket,
    settings: Settings,
    incoming: BytesMut,
    outgoing: BytesMut,
    parameters: BTreeMap<String, String>,
    notices: Vec<ServerMessage>,
    /// An error of the server, until it is ready for the next question.
    failed: Option<ServerMessage>,
}

impl Wire {
    /// Connects and logs in as a physical walsender: replication commands and `SHOW`, nothing else.
    pub async fn connect(settings: &Settings) -> Result<Self, ConnectError> {
        let mut wire = Self {
            stream: dial(settings).await?,
            settings: settings.clone(),
            incoming: BytesMut::with_capacity(READ_BUFFER),
            outgoing: BytesMut::new(),
            parameters: BTreeMap::new(),
            notices: Vec::new(),
            failed: None,
        };
        let limit = wire.limit("logging in", CONNECT_TIMEOUT);
        tokio::time::timeout(CONNECT_TIMEOUT, wire.log_in()).await.map_err(|_| limit)??;
        Ok(wire)
    }

    /// A setting that the server reported at login (`server_version`, from 14 on `in_hot_standby`).
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Warnings of the server since the last call; at most [`MAX_NOTICES`] are kept.
    pub fn take_notices(&mut self) -> Vec<ServerMessage> {
        std::mem::take(&mut self.notices)
    }

    /// Asks a question with a small answer, within [`QUERY_TIMEOUT`]; returns the rows of its last result.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, ConnectError> {
        let limit = self.limit("a query", QUERY_TIMEOUT);
        tokio::time::timeout(QUERY_TIMEOUT, self.ask(sql)).await.map_err(|_| limit)?
    }

    async fn ask(&mut self, sql: &str) -> Result<Vec<Row>, ConnectError> {
        self.send_query(sql).await?;
        let mut rows = Vec::new();
        loop {
            match self.receive(sql).await? {
                Incoming::Message(Message::RowDescription(_)) => rows.clear(),
                Incoming::Message(Message::DataRow(row)) => rows.push(self.row(&row)?),
                Incoming::Message(Message::CommandComplete(_)) => {}
                Incoming::Message(Message::ReadyForQuery(_)) => return Ok(rows),
                _ => return Err(self.protocol(format!("{sql} is answered by something that is no row"))),
            }
        }
    }

    /// Sends a question; the caller receives all of the answer, up to `ReadyForQuery`.
    pub async fn send_query(&mut self, sql: &str) -> Result<(), ConnectError> {
        frontend::query(sql, &mut self.outgoing).map_err(|error| self.protocol(error.to_string()))?;
        self.flush().await
    }

    /// The next message of the answer to `doing`.
    ///
    /// Notices are set aside. An error is returned once the server is ready for the next question, so the
    /// connection stays usable; a fatal one ends it. Cancel-safe: what was received is not lost.
    pub async fn receive(&mut self, doing: &str) -> Result<Incoming, ConnectError> {
        loop {
            if self.failed.is_some() {
                self.wait_until_ready().await?;
            }
            if let Some(message) = self.failed.take() {
                return Err(ConnectError::Server { doing: doing.to_owned(), message });
            }
            match self.next().await? {
                Incoming::Message(Message::ErrorResponse(body)) => {
                    let message = self.server_message(body.fields())?;
                    if message.severity != "ERROR" {
                        return Err(ConnectError::Server { doing: doing.to_owned(), message });
                    }
                    self.failed = Some(message);
                }
                Incoming::Message(Message::NoticeResponse(body)) => {
                    let notice = self.server_message(body.fields())?;
                    if self.notices.len() < MAX_NOTICES {
                        self.notices.push(notice);
                    }
                }
                Incoming::Message(Message::ParameterStatus(body)) => {
                    let text = |part: io::Result<&str>| part.map(str::to_owned);
                    let (name, value) = text(body.name())
                        .and_then(|name| Ok((name, text(body.value())?)))
                        .map_err(|error| self.protocol(error.to_string()))?;
                    self.parameters.insert(name, value);
                }
                other => return Ok(other),
            }
        }
    }

    /// Sends bytes to the server while both sides copy.
    pub async fn send_copy_data(&mut self, bytes: &[u8]) -> Result<(), ConnectError> {
        let message = frontend::CopyData::new(bytes).map_err(|error| self.protocol(error.to_string()))?;
        message.write(&mut self.outgoing);
        self.flush().await
    }

    /// Ends our side of a copy.
    pub async fn send_copy_done(&mut self) -> Result<(), ConnectError> {
        frontend::copy_done(&mut self.outgoing);
        self.flush().await
    }

    /// The columns of a row, in text form.
    pub fn row(&self, row: &DataRowBody) -> Result<Row, ConnectError> {
        let columns = row.ranges().map(|range| Ok(range.map(|range| row.buffer_bytes().slice(range)))).collect();
        columns.map_err(|error| self.protocol(error.to_string()))
    }

    /// Ends the conversation politely, so that the server does not log a lost connection.
    pub async fn close(mut self) {
        frontend::terminate(&mut self.outgoing);
        // The server may have hung up first; there is nobody left to tell.
        let _ = self.flush().await;
        let _ = self.stream.shutdown().await;
    }

    /// The settings it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// An answer that does not belong there.
    pub fn protocol(&self, what: impl Into<String>) -> ConnectError {
        ConnectError::Protocol { target: self.settings.to_string(), what: what.into() }
    }

    async fn log_in(&mut self) -> Result<(), ConnectError> {
        let settings = self.settings.clone();
        let mut login = Login::new(
            &settings,
            self.stream.is_private(),
            self.stream.certificate().and_then(binding::endpoint_digest),
        );
        login.start(&mut self.outgoing)?;
        loop {
            self.flush().await?;
            match self.receive("logging in").await? {
                Incoming::Message(Message::BackendKeyData(_)) => {}
                Incoming::Message(Message::ReadyForQuery(_)) => return login.finished(),
                Incoming::Message(message) => login.answer(&message, &mut self.outgoing)?,
                Incoming::CopyBoth => return Err(self.protocol("COPY before login")),
            }
        }
    }

    async fn wait_until_ready(&mut self) -> Result<(), ConnectError> {
        while !matches!(self.next().await?, Incoming::Message(Message::ReadyForQuery(_))) {}
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ConnectError> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        let sent = async {
            self.stream.write_all(&self.outgoing).await?;
            self.stream.flush().await
        };
        let sent = sent.await.map_err(|source| self.lost(source));
        self.outgoing.clear();
        sent
    }

    /// The next whole message.
    async fn next(&mut self) -> Result<Incoming, ConnectError> {
        loop {
            if let Some(message) = self.parse()? {
                return Ok(message);
            }
            if self.incoming.capacity() - self.incoming.len() < READ_BUFFER / 2 {
                self.incoming.reserve(READ_BUFFER);
            }
            let received = self.stream.read_buf(&mut self.incoming).await.map_err(|source| self.lost(source))?;
            if received == 0 {
                return Err(self.lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn parse(&mut self) -> Result<Option<Incoming>, ConnectError> {
        const COPY_BOTH_RESPONSE: u8 = b'W';
        let Some((&[tag, a, b, c, d], _)) = self.incoming.split_first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MAX_MESSAGE {
            return Err(self.protocol(format!("a message of {length} bytes; at most {MAX_MESSAGE} are expected")));
        }
        if tag == COPY_BOTH_RESPONSE && self.incoming.len() > length {
            self.incoming.advance(length + 1);
            return Ok(Some(Incoming::CopyBoth));
        }
        if tag == COPY_BOTH_RESPONSE {
            return Ok(None);
        }
        let message = Message::parse(&mut self.incoming).map_err(|error| self.protocol(error.to_string()))?;
        Ok(message.map(Incoming::Message))
    }

    fn server_message(
        &self,
        fields: postgres_protocol::message::backend::ErrorFields<'_>,
    ) -> Result<ServerMessage, ConnectError> {
        ServerMessage::read(fields).map_err(|error| self.protocol(error.to_string()))
    }

    fn lost(&self, source: io::Error) -> ConnectError {
        ConnectError::Lost { target: self.settings.to_string(), source }
    }

    fn limit(&self, doing: &'static str, limit: Duration) -> ConnectError {
        ConnectError::Timeout { target: self.settings.to_string(), seconds: limit.as_secs(), doing }
    }
}
