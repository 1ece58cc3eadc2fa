//! The replication protocol: who the server is, its timeline histories, and a base backup as events.
//!
//! `BASE_BACKUP` has two dialects. Up to version 14 options are keywords and each tablespace is a COPY of its own;
//! from 15 on options are in parentheses and one COPY carries everything, each message with a kind byte.
//! [`BackupStream`] gives the same [`BackupEvent`]s for both.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use postgres_protocol::message::backend::Message;

use crate::connect::wire::{Incoming, Row};
use crate::connect::{ConnectError, ServerMessage, Settings, Wire};
use crate::limits::{NEWEST_MAJOR, OLDEST_MAJOR, STREAM_SILENCE};
use crate::{Error, Lsn, TimelineId};

/// What `IDENTIFY_SYSTEM` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The number that `initdb` gave the cluster; shared by its standbys and its restored copies.
    pub system_id: u64,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// How far its log is flushed (on a standby: replayed).
    pub flushed: Lsn,
}

/// A connection to a walsender.
pub struct ReplicationClient {
    pub(crate) wire: Wire,
    version_num: u32,
}

impl ReplicationClient {
    /// Connects, logs in, and checks that the version is one that is supported (13 to 18).
    pub async fn connect(settings: &Settings) -> Result<Self, Error> {
        let mut client = Self { wire: Wire::connect(settings).await?, version_num: 0 };
        let text = client.show("server_version_num").await?;
        client.version_num = text.parse().map_err(|_| client.odd("SHOW server_version_num", &text))?;
        if !(OLDEST_MAJOR..=NEWEST_MAJOR).contains(&client.major()) {
            return Err(Error::UnsupportedServer(client.major()));
        }
        Ok(client)
    }

    /// Version as one number: 150018 is 15.18.
    pub fn version_num(&self) -> u32 {
        self.version_num
    }

    /// The major version.
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }

    /// Who the server is and where its log stands.
    pub async fn identify(&mut self) -> Result<SystemIdentity, Error> {
        const COMMAND: &str = "IDENTIFY_SYSTEM";
        let rows = self.wire.query(COMMAND).await?;
        let [row] = rows.as_slice() else { return Err(self.odd(COMMAND, "not one row").into()) };
        let text = |column| text(row, column).ok_or_else(|| self.odd(COMMAND, "a missing column"));
        let (system_id, timeline, flushed) = (text(0)?, text(1)?, text(2)?);
        Ok(SystemIdentity {
            system_id: system_id.parse().map_err(|_| self.odd(COMMAND, system_id))?,
            timeline: timeline.parse().map(TimelineId).map_err(|_| self.odd(COMMAND, timeline))?,
            flushed: flushed.parse()?,
        })
    }

    /// The value of a setting.
    pub async fn show(&mut self, setting: &str) -> Result<String, ConnectError> {
        let command = format!("SHOW {setting}");
        let rows = self.wire.query(&command).await?;
        let value = rows.first().and_then(|row| text(row, 0)).map(str::to_owned);
        value.ok_or_else(|| self.odd(&command, "no row"))
    }

    /// The value of a setting; `None` if this server has no such setting, or does not show it to this role.
    pub async fn show_if_visible(&mut self, setting: &str) -> Result<Option<String>, ConnectError> {
        const UNDEFINED_OBJECT: &str = "42704";
        const INSUFFICIENT_PRIVILEGE: &str = "42501";
        match self.show(setting).await {
            Ok(value) => Ok(Some(value)),
            Err(ConnectError::Server { message, .. })
                if message.sqlstate == UNDEFINED_OBJECT || message.sqlstate == INSUFFICIENT_PRIVILEGE =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Name and content of a timeline's history file. The first timeline has none and is an error.
    pub async fn timeline_history(&mut self, timeline: TimelineId) -> Result<(String, Bytes), ConnectError> {
        let command = format!("TIMELINE_HISTORY {timeline}");
        let rows = self.wire.query(&command).await?;
        let row = rows.first().ok_or_else(|| self.odd(&command, "no row"))?;
        match (text(row, 0), row.get(1).cloned().flatten()) {
            (Some(name), Some(content)) => Ok((name.to_owned(), content)),
            _ => Err(self.odd(&command, "a missing column")),
        }
    }

    /// Begins a base backup: the server checkpoints first, which takes as long as it takes.
    pub async fn base_backup(&mut self, options: &BackupOptions) -> Result<BackupStream<'_>, ConnectError> {
        let command = options.command(self.major());
        self.wire.send_query(&command).await?;
        let position = self.wire_result().await?;
        let tablespaces = self.wire_result().await?;
        let (start, timeline) = self.log_position(&position)?;
        let tablespaces = tablespaces.iter().map(|row| self.tablespace(row)).collect::<Result<Vec<_>, _>>()?;
        let archives = if self.major() < 15 { tablespaces.iter().map(|t| t.oid).collect() } else { VecDeque::new() };
        Ok(BackupStream {
            legacy: self.major() < 15,
            client: self,
            start,
            timeline,
            tablespaces,
            archives,
            copying: false,
        })
    }

    /// Says good-bye.
    pub async fn close(self) {
        self.wire.close().await;
    }

    /// The rows of one result in the middle of an answer.
    async fn wire_result(&mut self) -> Result<Vec<Row>, ConnectError> {
        let mut rows = Vec::new();
        loop {
            match self.wire.receive(BASE_BACKUP).await? {
                Incoming::Message(Message::RowDescription(_)) => {}
                Incoming::Message(Message::DataRow(row)) => rows.push(self.wire.row(&row)?),
                Incoming::Message(Message::CommandComplete(_)) => return Ok(rows),
                _ => return Err(self.odd(BASE_BACKUP, "something that is no row")),
            }
        }
    }

    fn log_position(&self, rows: &[Row]) -> Result<(Lsn, TimelineId), ConnectError> {
        let parsed = match rows {
            [row] => text(row, 0).and_then(|lsn| lsn.parse().ok()).zip(text(row, 1).and_then(|tli| tli.parse().ok())),
            _ => None,
        };
        let (lsn, timeline) = parsed.ok_or_else(|| self.odd(BASE_BACKUP, "a result without position"))?;
        Ok((lsn, TimelineId(timeline)))
    }

    fn tablespace(&self, row: &Row) -> Result<Tablespace, ConnectError> {
        let number = |column: usize| match text(row, column) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| self.odd(BASE_BACKUP, text)),
        };
        let oid =
            number(0)?.map(u32::try_from).transpose().map_err(|_| self.odd(BASE_BACKUP, "an oid out of range"))?;
        let location = text(row, 1).map(str::to_owned);
        Ok(Tablespace { oid, location, bytes: number(2)?.map(|kib| kib.saturating_mul(1024)) })
    }

    pub(crate) fn odd(&self, command: &str, what: &str) -> ConnectError {
        self.wire.protocol(format!("{command} is answered with {what}"))
    }
}

const BASE_BACKUP: &str = "BASE_BACKUP";

pub(crate) fn text(row: &Row, column: usize) -> Option<&str> {
    row.get(column)?.as_deref().and_then(|value| std::str::from_utf8(value).ok())
}

/// How a base backup is to be taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackupOptions {
    /// True to checkpoint at once; false to spread the writes over the server's usual time.
    pub fast_checkpoint: bool,
    /// Limit in KiB per second, 32 to 1,048,576.
    pub max_rate: Option<u32>,
}

impl BackupOptions {
    /// The command for a server of that major version.
    ///
    /// The server does not wait for its log to be archived (a backup that hangs there looks the same as a dead
    /// one): the caller waits for the archive, and can say which segment is missing.
    fn command(&self, major: u32) -> String {
        let rate = self.max_rate.map(|rate| rate.clamp(32, 1_048_576));
        if major < 15 {
            let fast = if self.fast_checkpoint { " FAST" } else { "" };
            let rate = rate.map(|rate| format!(" MAX_RATE {rate}")).unwrap_or_default();
            return format!("BASE_BACKUP LABEL 'pitr' PROGRESS{fast} NOWAIT{rate} TABLESPACE_MAP MANIFEST 'yes'");
        }
        let checkpoint = if self.fast_checkpoint { "fast" } else { "spread" };
        let rate = rate.map(|rate| format!(", MAX_RATE {rate}")).unwrap_or_default();
        format!(
            "BASE_BACKUP (LABEL 'pitr', PROGRESS true, CHECKPOINT '{checkpoint}', WAL false, WAIT false{rate}, \
             TABLESPACE_MAP true, VERIFY_CHECKSUMS true, MANIFEST 'yes')"
        )
    }
}

/// A tablespace of the server, as a base backup lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its oid; `None` for the data directory itself.
    pub oid: Option<u32>,
    /// Where it is on the server.
    pub location: Option<String>,
    /// Its estimated size.
    pub bytes: Option<u64>,
}

impl Tablespace {
    /// True for one that is a plain directory inside the data directory (an option for developers of PostgreSQL).
    pub fn is_in_place(&self) -> bool {
        self.oid.is_some() && self.location.as_deref().is_some_and(|location| !location.starts_with('/'))
    }
}

/// What a base backup consists of, in the order in which the server sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupEvent {
    /// A tar archive begins: of the tablespace with this oid, or of the data directory.
    Archive(Option<u32>),
    /// `backup_manifest` begins.
    Manifest,
    /// Bytes of what began last.
    Data(Bytes),
    /// The server is done.
    End(BackupEnd),
}

/// How a base backup ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupEnd {
    /// Log is needed at least up to here.
    pub lsn: Lsn,
    /// The timeline at the end.
    pub timeline: TimelineId,
    /// The server found damaged pages; it says so after everything was sent.
    pub damage: Option<ServerMessage>,
    /// Warnings that it sent on the way: one for each of the first damaged pages of a file.
    pub warnings: Vec<ServerMessage>,
}

/// A base backup under way. Dropped before its end, it must be dropped together with its connection.
pub struct BackupStream<'a> {
    client: &'a mut ReplicationClient,
    legacy: bool,
    /// Log is needed from here on, unless `backup_label` says otherwise.
    pub start: Lsn,
    /// The timeline at the start.
    pub timeline: TimelineId,
    /// What will be sent.
    pub tablespaces: Vec<Tablespace>,
    /// Archives that are still to come (up to version 14, where they have no names).
    archives: VecDeque<Option<u32>>,
    copying: bool,
}

impl BackupStream<'_> {
    /// The next event. After [`BackupEvent::End`] the connection is free for the next command.
    pub async fn next(&mut self) -> Result<BackupEvent, ConnectError> {
        loop {
            let message = match tokio::time::timeout(STREAM_SILENCE, self.client.wire.receive(BASE_BACKUP)).await {
                Ok(message) => message?,
                Err(_) => return Err(self.silence()),
            };
            match message {
                Incoming::Message(Message::CopyOutResponse(_)) => {
                    self.copying = true;
                    if self.legacy {
                        return Ok(self.archives.pop_front().map_or(BackupEvent::Manifest, BackupEvent::Archive));
                    }
                }
                Incoming::Message(Message::CopyData(body)) if self.legacy => {
                    return Ok(BackupEvent::Data(body.into_bytes()));
                }
                Incoming::Message(Message::CopyData(body)) => {
                    if let Some(event) = self.event(body.into_bytes())? {
                        return Ok(event);
                    }
                }
                Incoming::Message(Message::CopyDone) => self.copying = false,
                Incoming::Message(Message::RowDescription(_)) if !self.copying => return self.end().await,
                _ => return Err(self.client.odd(BASE_BACKUP, "a message out of turn")),
            }
        }
    }

    /// One message of the newer dialect: a kind byte, then what it is about.
    fn event(&self, mut body: Bytes) -> Result<Option<BackupEvent>, ConnectError> {
        let odd = |what| Err(self.client.odd(BASE_BACKUP, what));
        let Some(&kind) = body.first() else { return odd("an empty message") };
        body.advance(1);
        match kind {
            b'n' => match archive_oid(&body) {
                Some(oid) => Ok(Some(BackupEvent::Archive(oid))),
                None => odd("an archive with an odd name"),
            },
            b'm' => Ok(Some(BackupEvent::Manifest)),
            b'd' => Ok(Some(BackupEvent::Data(body))),
            // Progress: we count bytes ourselves, and these come at most once a second.
            b'p' => Ok(None),
            _ => odd("a message of an unknown kind"),
        }
    }

    /// The result with the end position, and what may follow it.
    ///
    /// A server that found damaged pages sends the whole backup, the end position, and then an error. The
    /// backup is as good as the server is: it is kept, and the damage reported.
    async fn end(&mut self) -> Result<BackupEvent, ConnectError> {
        const DATA_CORRUPTED: &str = "XX001";
        let rows = self.client.wire_result().await?;
        let (lsn, timeline) = self.client.log_position(&rows)?;
        let damage = loop {
            match self.client.wire.receive(BASE_BACKUP).await {
                Ok(Incoming::Message(Message::CommandComplete(_))) => {}
                Ok(Incoming::Message(Message::ReadyForQuery(_))) => break None,
                Ok(_) => return Err(self.client.odd(BASE_BACKUP, "a message out of turn")),
                Err(ConnectError::Server { message, .. }) if message.sqlstate == DATA_CORRUPTED => break Some(message),
                Err(error) => return Err(error),
            }
        };
        let warnings = self.client.wire.take_notices().into_iter().filter(|notice| notice.severity == "WARNING");
        Ok(BackupEvent::End(BackupEnd { lsn, timeline, damage, warnings: warnings.collect() }))
    }

    fn silence(&self) -> ConnectError {
        ConnectError::Timeout {
            target: self.client.wire.settings().to_string(),
            seconds: STREAM_SILENCE.as_secs(),
            doing: "a base backup",
        }
    }
}

/// The oid in an archive's name: `16384.tar` for a tablespace, `base.tar` (`None`) for the data directory.
fn archive_oid(body: &[u8]) -> Option<Option<u32>> {
    let name = body.split(|byte| *byte == 0).next()?;
    match std::str::from_utf8(name).ok()?.strip_suffix(".tar")? {
        "base" => Some(None),
        oid => oid.parse().ok().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_gets_its_own_command() {
        let options = BackupOptions { fast_checkpoint: true, max_rate: Some(5) };
        assert_eq!(
            options.command(14),
            "BASE_BACKUP LABEL 'pitr' PROGRESS FAST NOWAIT MAX_RATE 32 TABLESPACE_MAP MANIFEST 'yes'"
        );
        assert!(options.command(15).starts_with(
            "BASE_BACKUP (LABEL 'pitr', PROGRESS true, CHECKPOINT 'fast', WAL false, WAIT false, MAX_RATE 32, "
        ));
        assert!(!BackupOptions::default().command(13).contains("FAST"));
    }

    #[test]
    fn archives_are_told_apart_by_name() {
        assert_eq!(archive_oid(b"base.tar\0\0"), Some(None));
        assert_eq!(archive_oid(b"16384.tar\0/srv/ts\0"), Some(Some(16384)));
        for odd in [&b""[..], b"base", b"../x.tar\0", b"\xff.tar\0"] {
            assert_eq!(archive_oid(odd), None);
        }
    }
}
