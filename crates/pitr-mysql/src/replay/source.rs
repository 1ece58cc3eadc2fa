//! The replication source: what a replica meets when it connects.
//!
//! One replica at a time. It logs in, asks its questions, asks for the log, and is sent it up to the cut; then the
//! connection stays open and silent until it leaves.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Mutex;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use pitr_core::ports::SegmentReader;
use tokio::net::{TcpListener, TcpStream};

use super::ReplayError;
use super::answers::{Answer, Answers, Identity, packets};
use super::log::{self, Log, Piece};
use super::login::{Gate, OK};
use super::split::{Filter, Has, Out, Splitter};
use crate::event::Checksum;
use crate::gtid::{Gtid, GtidSet, MariaSet, MysqlSet};
use crate::limits::{MAX_REPLICA_PACKET, REPLAY_HEARTBEAT, SEGMENTS_AHEAD};
use crate::wire::{Fields, Wire};

const COM_QUIT: u8 = 0x01;
const COM_QUERY: u8 = 0x03;
const COM_PING: u8 = 0x0e;
const COM_BINLOG_DUMP: u8 = 0x12;
const COM_REGISTER_SLAVE: u8 = 0x15;
const COM_BINLOG_DUMP_GTID: u8 = 0x1e;

/// A replica of MariaDB wants the statements behind row events.
const SEND_ANNOTATIONS: u16 = 0x02;

/// How far the log has been sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// True if everything before the cut has been.
    pub complete: bool,
    /// All transactions before the cut that came by, also those that the replica had.
    pub seen: Option<GtidSet>,
    /// File and offset of the end of the last event.
    pub to: (String, u64),
    /// Bytes of events.
    pub bytes: u64,
    /// Changes of definitions that began and did not end before the cut.
    pub changing: Vec<String>,
}

/// Serves one log.
#[derive(Debug)]
pub struct Source<'a, R> {
    /// What is served.
    pub log: &'a Log,
    /// From where.
    pub segments: &'a R,
    /// To whom.
    pub gate: Gate,
    /// As whom.
    pub identity: Identity,
    /// Without whom.
    pub skip: HashSet<Gtid>,
    /// What was executed before the log, of MariaDB.
    pub base: MariaSet,
    /// An empty set of the family, to collect transactions in; `None` where they have no names.
    pub collect: Option<GtidSet>,
    /// How far it is.
    pub sent: Mutex<Sent>,
}

/// What a sign of life says: which file, and whether it has a checksum.
#[derive(Debug)]
struct Beat {
    file: String,
    checksum: Checksum,
}

/// What a replica asked for.
#[derive(Debug)]
struct Wanted {
    has: Option<GtidSet>,
    /// File and offset, where the replica says them.
    from: Option<(String, u64)>,
    annotations: bool,
}

impl<R: SegmentReader> Source<'_, R> {
    /// Lets replicas in, the latest one at a time, until the caller has had enough. Fails only where going on makes
    /// no sense: on the archive's side. A replica that leaves comes back by itself.
    pub async fn serve(&self, listener: &TcpListener) -> Result<std::convert::Infallible, ReplayError> {
        let mut thread = 0;
        let mut next = Some(listener.accept().await?.0);
        loop {
            let Some(stream) = next.take() else {
                next = Some(listener.accept().await?.0);
                continue;
            };
            thread += 1;
            tokio::select! {
                served = self.session(stream, thread) => match served {
                    Ok(()) => {}
                    Err(error @ (ReplayError::Io(_) | ReplayError::Stranger | ReplayError::Protocol(_))) => {
                        tracing::debug!(%error, "a replica left");
                    }
                    Err(error) => return Err(error),
                },
                // A replica that comes again has given up on its old connection.
                accepted = listener.accept() => next = Some(accepted?.0),
            }
        }
    }

    async fn session(&self, stream: TcpStream, thread: u32) -> Result<(), ReplayError> {
        stream.set_nodelay(true)?;
        let mut wire = Wire::new(stream, MAX_REPLICA_PACKET);
        self.gate.admit(&mut wire, thread).await?;
        let mut answers = Answers::default();
        loop {
            wire.restart();
            let command = match wire.read().await {
                Ok(command) => command,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let mut arguments = Fields(command.get(1..).unwrap_or_default());
            match command.first() {
                Some(&COM_QUIT) => return Ok(()),
                Some(&(COM_PING | COM_REGISTER_SLAVE)) => wire.send(&OK).await?,
                Some(&COM_QUERY) => {
                    let statement = String::from_utf8_lossy(arguments.0).into_owned();
                    self.answer(&mut wire, &mut answers, &statement).await?;
                }
                Some(&COM_BINLOG_DUMP) => {
                    let wanted = dump(&mut arguments, &answers).ok_or(ReplayError::Protocol("an odd request"))?;
                    return self.send_log(&mut wire, wanted).await;
                }
                Some(&COM_BINLOG_DUMP_GTID) => {
                    let wanted = dump_gtid(&mut arguments).ok_or(ReplayError::Protocol("an odd request"))?;
                    return self.send_log(&mut wire, wanted).await;
                }
                _ => wire.send(&refusal(1047, "unknown command")).await?,
            }
        }
    }

    async fn answer(
        &self,
        wire: &mut Wire<TcpStream>,
        answers: &mut Answers,
        statement: &str,
    ) -> Result<(), ReplayError> {
        let answer = answers.to(statement, &self.identity);
        tracing::debug!(statement, ?answer, "the replica asks");
        match answer {
            Answer::Ok => wire.send(&OK).await?,
            Answer::Row(row) => {
                for packet in packets(&row) {
                    wire.write(&[&packet]).await?;
                }
                wire.flush().await?;
            }
            Answer::Unknown => wire.send(&refusal(1193, &format!("pitr does not know: {statement}"))).await?,
        }
        Ok(())
    }

    /// Sends the log up to the cut, then waits until the replica leaves.
    async fn send_log(&self, wire: &mut Wire<TcpStream>, wanted: Wanted) -> Result<(), ReplayError> {
        let has = match &wanted.has {
            None => Has::Nothing,
            Some(GtidSet::Mysql(set)) => Has::Set(set.clone()),
            Some(GtidSet::Maria(at)) => Has::since(&self.base, at),
        };
        let filter = Filter { has, skip: self.skip.clone(), annotations: wanted.annotations };
        let mut splitter = Splitter::new(filter, self.collect.clone());
        let mut sent = Sent::default();
        let mut file = None;
        let first = self.first_piece(wanted.from.as_ref())?;
        // Owned: a future of a borrowed piece is not provably free to move between threads.
        let left = self.log.pieces.get(first..).unwrap_or_default().to_vec();
        let ahead = left.into_iter().map(|piece| self.fetch(piece));
        let mut pieces = futures::stream::iter(ahead).buffered(SEGMENTS_AHEAD);
        let mut beat: Option<Beat> = None;
        loop {
            let quiet = beat.as_ref().filter(|_| splitter.is_between());
            let Some(fetched) = self.meanwhile(wire, quiet, splitter.sent_to(), pieces.next()).await? else { break };
            let (piece, mut bytes) = fetched?;
            let asked = wanted.from.as_ref().filter(|(name, _)| *name == piece.file.to_string());
            let Some((mut from, to)) = self.log.window(&piece, bytes.len() as u64) else { continue };
            let format = piece.format(&bytes).ok_or(ReplayError::Torn { offset: piece.offset })?;
            if let Some((_, offset)) = asked {
                from = from.max(offset.saturating_sub(piece.offset)).min(to);
            }
            bytes.truncate(usize::try_from(to).unwrap_or(usize::MAX));
            bytes.advance(usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len()));
            let this = (piece.incarnation, piece.file.clone());
            if file.as_ref() != Some(&this) {
                file = Some(this);
                // The replica reads the rotation by the rule of the file before.
                let before = beat.as_ref().map_or(self.identity.checksum(), |beat| beat.checksum);
                beat = Some(Beat { file: piece.file.to_string(), checksum: log::format(&format)?.checksum });
                self.begin_file(wire, &mut splitter, &piece, &format, (piece.offset + from, before)).await?;
            }
            splitter.push(bytes);
            while let Some(out) = splitter.next()? {
                match out {
                    Out::Event(length) => {
                        wire.begin(length as usize + 1);
                        wire.put(&[0]).await?;
                    }
                    Out::Bytes(bytes) => {
                        wire.put(&bytes).await?;
                        sent.bytes += bytes.len() as u64;
                    }
                }
            }
            wire.flush().await?;
            sent.to = (piece.file.to_string(), splitter.sent_to());
            self.report(sent.clone());
        }
        if let Some(gtid) = splitter.missed() {
            return Err(ReplayError::Unknown(gtid.to_string()));
        }
        if let Some(gtid) = splitter.not_skipped() {
            return Err(ReplayError::NotSkipped(gtid.to_string()));
        }
        sent.seen = splitter.seen().cloned();
        sent.changing = splitter.changing().map(ToString::to_string).collect();
        sent.complete = true;
        self.report(sent);
        // The replica says nothing more; this ends when it leaves.
        loop {
            match tokio::time::timeout(REPLAY_HEARTBEAT, wire.read()).await {
                Err(_) => self.beat(wire, beat.as_ref(), splitter.sent_to()).await?,
                Ok(Ok(_)) => return Err(ReplayError::Protocol("a command in the middle of the log")),
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error.into()),
            }
        }
    }

    /// Waits for something, with signs of life where the replica may get one.
    async fn meanwhile<T>(
        &self,
        wire: &mut Wire<TcpStream>,
        beat: Option<&Beat>,
        offset: u64,
        something: impl Future<Output = T>,
    ) -> Result<T, ReplayError> {
        let mut something = std::pin::pin!(something);
        loop {
            match tokio::time::timeout(REPLAY_HEARTBEAT, &mut something).await {
                Ok(value) => return Ok(value),
                Err(_) => self.beat(wire, beat, offset).await?,
            }
        }
    }

    async fn beat(&self, wire: &mut Wire<TcpStream>, beat: Option<&Beat>, offset: u64) -> Result<(), ReplayError> {
        let event = beat.and_then(|beat| log::heartbeat(&beat.file, offset, self.identity.server_id, beat.checksum));
        if let Some(event) = event {
            wire.write(&[&[0], &event]).await?;
            wire.flush().await?;
        }
        Ok(())
    }

    /// The piece from which on the log is read: where the replica wants to begin, if it says so.
    fn first_piece(&self, from: Option<&(String, u64)>) -> Result<usize, ReplayError> {
        let Some((name, offset)) = from else { return Ok(0) };
        let holds = |piece: &Piece| piece.file.to_string() == *name && piece.offset <= *offset;
        if let Some(place) = self.log.pieces.iter().rposition(holds) {
            return Ok(place);
        }
        // The base lies at the end of a file, and the log that is wanted begins with the next.
        let first = self.log.pieces.first().map(|piece| (piece.file.to_string(), piece.offset));
        match first {
            Some(first) if !super::reaches(&first, &(name.clone(), *offset)) => {
                Err(ReplayError::Elsewhere { file: name.clone(), offset: *offset })
            }
            _ => Ok(0),
        }
    }

    async fn fetch(&self, piece: Piece) -> Result<(Piece, Bytes), ReplayError> {
        let bytes = self.segments.segment(&piece.lineage, &piece.name).await?;
        let bytes = bytes.ok_or_else(|| ReplayError::Gone(piece.name.to_string()))?;
        Ok((piece, bytes))
    }

    /// Tells the replica which file comes, and how to read it where it does not begin at its begin.
    async fn begin_file(
        &self,
        wire: &mut Wire<TcpStream>,
        splitter: &mut Splitter,
        piece: &Piece,
        first_event: &[u8],
        (offset, before): (u64, Checksum),
    ) -> Result<(), ReplayError> {
        let format = log::format(first_event)?;
        let place = offset.max(4);
        let rotation = log::rotation(&piece.file.to_string(), place, self.identity.server_id, before);
        wire.write(&[&[0], &rotation]).await?;
        if offset > 4 {
            wire.write(&[&[0], &log::format_for_the_middle(first_event)]).await?;
        }
        splitter.begin_file(offset, format.checksum)
    }

    fn report(&self, sent: Sent) {
        *self.sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = sent;
    }
}

fn refusal(code: u16, text: &str) -> Vec<u8> {
    let mut packet = vec![0xff];
    packet.extend_from_slice(&code.to_le_bytes());
    packet.extend_from_slice(b"#HY000");
    packet.extend_from_slice(text.as_bytes());
    packet
}

/// `COM_BINLOG_DUMP`: by file and offset, or MariaDB's by what the session said before.
fn dump(arguments: &mut Fields<'_>, answers: &Answers) -> Option<Wanted> {
    let offset = arguments.u32()?;
    let flags = arguments.u16()?;
    arguments.u32()?;
    let file = std::str::from_utf8(arguments.0).ok()?.to_owned();
    let has = match answers.variable("slave_connect_state") {
        Some(state) => Some(GtidSet::Maria(state.parse().ok()?)),
        None => None,
    };
    let from = (has.is_none() && !file.is_empty()).then(|| (file, u64::from(offset)));
    Some(Wanted { has, from, annotations: flags & SEND_ANNOTATIONS != 0 })
}

/// `COM_BINLOG_DUMP_GTID`: everything that is not in a set.
fn dump_gtid(arguments: &mut Fields<'_>) -> Option<Wanted> {
    arguments.u16()?;
    arguments.u32()?;
    let name = arguments.u32()?;
    arguments.bytes(usize::try_from(name).ok()?)?;
    arguments.uint(8)?;
    let length = arguments.u32()?;
    let set = MysqlSet::decode(arguments.bytes(usize::try_from(length).ok()?)?).ok()?;
    Some(Wanted { has: Some(GtidSet::Mysql(set)), from: None, annotations: false })
}
