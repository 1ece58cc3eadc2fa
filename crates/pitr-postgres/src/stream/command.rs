//! The commands of the replication protocol that a stream begins with: slots, and `START_REPLICATION`.

use postgres_protocol::message::backend::Message;

use crate::connect::ConnectError;
use crate::connect::wire::{Incoming, Row};
use crate::lsn::{Lsn, SegmentSize, TimelineId};
use crate::position::PgPosition;
use crate::replication::{ReplicationClient, text};

pub(super) const START_REPLICATION: &str = "START_REPLICATION";

/// Where a timeline was left, in the server's words at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    /// The timeline that follows; not always the next number.
    pub next: TimelineId,
    /// Where it begins.
    pub at: Lsn,
}

/// The server's answer to `START_REPLICATION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Started {
    /// Log follows.
    Streaming,
    /// There is no log: the timeline ends exactly there.
    Ended(Switch),
}

impl ReplicationClient {
    /// Size of the server's segments.
    pub async fn segment_size(&mut self) -> Result<SegmentSize, ConnectError> {
        const SETTING: &str = "wal_segment_size";
        let shown = self.show(SETTING).await?;
        let unit = |suffix: &str, bytes: u64| Some(shown.strip_suffix(suffix)?.parse::<u64>().ok()? * bytes);
        let bytes = unit("MB", 1 << 20).or_else(|| unit("GB", 1 << 30)).or_else(|| unit("kB", 1 << 10));
        bytes.and_then(SegmentSize::new).ok_or_else(|| self.odd("SHOW wal_segment_size", &shown))
    }

    /// Makes a physical slot that keeps log from now on, if there is none of this name, or only one that was invalidated
    /// and keeps nothing any more. True if it is new.
    pub async fn ensure_slot(&mut self, slot: &str) -> Result<bool, ConnectError> {
        const DUPLICATE_OBJECT: &str = "42710";
        if self.major() >= 15 && self.slot_keeps_nothing(slot).await? {
            self.drop_slot(slot).await?;
        }
        let command = format!("CREATE_REPLICATION_SLOT {} PHYSICAL RESERVE_WAL", quoted(slot));
        match self.wire.query(&command).await {
            Ok(_) => Ok(true),
            Err(ConnectError::Server { message, .. }) if message.sqlstate == DUPLICATE_OBJECT => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// True for a physical slot without position. A logical one is an error: it is somebody else's.
    async fn slot_keeps_nothing(&mut self, slot: &str) -> Result<bool, ConnectError> {
        let rows = self.wire.query(&format!("READ_REPLICATION_SLOT {}", quoted(slot))).await?;
        Ok(rows.first().is_some_and(|row| text(row, 0) == Some("physical") && text(row, 1).is_none()))
    }

    /// Drops a slot, so that the server keeps no log for it any more. False if there is none of this name.
    pub async fn drop_slot(&mut self, slot: &str) -> Result<bool, ConnectError> {
        const UNDEFINED_OBJECT: &str = "42704";
        match self.wire.query(&format!("DROP_REPLICATION_SLOT {}", quoted(slot))).await {
            Ok(_) => Ok(true),
            Err(ConnectError::Server { message, .. }) if message.sqlstate == UNDEFINED_OBJECT => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks for log from `at` on.
    pub(super) async fn start_replication(
        &mut self,
        at: PgPosition,
        slot: Option<&str>,
    ) -> Result<Started, ConnectError> {
        let slot = slot.map(|slot| format!("SLOT {} ", quoted(slot))).unwrap_or_default();
        let command = format!("{START_REPLICATION} {slot}PHYSICAL {} TIMELINE {}", at.lsn, at.timeline);
        self.wire.send_query(&command).await?;
        match self.wire.receive(&command).await? {
            Incoming::CopyBoth => Ok(Started::Streaming),
            Incoming::Message(Message::RowDescription(_)) => self.switch().await.map(Started::Ended),
            Incoming::Message(_) => Err(self.odd(START_REPLICATION, "a message out of turn")),
        }
    }

    /// The result with the next timeline, and the rest of the answer.
    pub(super) async fn switch(&mut self) -> Result<Switch, ConnectError> {
        let mut switch = None;
        loop {
            match self.wire.receive(START_REPLICATION).await? {
                Incoming::Message(Message::DataRow(row)) => switch = switch_in(&self.wire.row(&row)?),
                Incoming::Message(Message::RowDescription(_) | Message::CommandComplete(_)) => {}
                Incoming::Message(Message::ReadyForQuery(_)) => break,
                _ => return Err(self.odd(START_REPLICATION, "a message out of turn")),
            }
        }
        switch.ok_or_else(|| self.odd(START_REPLICATION, "no timeline that follows"))
    }
}

fn switch_in(row: &Row) -> Option<Switch> {
    Some(Switch { next: TimelineId(text(row, 0)?.parse().ok()?), at: text(row, 1)?.parse().ok()? })
}

/// A name between double quotes. Slots are lower-case letters, digits and `_`, which the server checks.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
