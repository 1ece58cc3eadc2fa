//! The conversation with a walsender, on a task of its own.
//!
//! The server must hear from us whatever the archive is doing: it ends a connection that is silent for
//! `wal_sender_timeout`, and a commit may be waiting for the report that its log is durable. So this task does nothing
//! else, and where nobody takes the log it stops reading and goes on reporting.

use std::time::{Duration, Instant};

use bytes::Bytes;
use postgres_protocol::message::backend::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::command::{START_REPLICATION, Switch};
use super::message::{FromServer, status};
use crate::connect::ConnectError;
use crate::connect::wire::Incoming;
use crate::limits::{FEEDBACK_INTERVAL, MIN_FEEDBACK_INTERVAL, REPLY_SILENCE};
use crate::lsn::Lsn;
use crate::position::PgPosition;
use crate::replication::ReplicationClient;

/// What the session hands over, in order.
#[derive(Debug)]
pub(super) enum Event {
    /// Log, and the position of its first byte.
    Wal(Lsn, Bytes),
    /// The timeline ends here.
    Ended(Switch),
    /// The conversation is over.
    Failed(ConnectError),
}

/// One conversation.
pub(super) struct Session {
    pub client: ReplicationClient,
    /// What is durable, as the archive reports it.
    pub durable: watch::Receiver<Option<PgPosition>>,
    /// What was durable when the stream began.
    pub flushed: Lsn,
    pub out: mpsc::Sender<Event>,
    /// Longest time between two reports.
    pub pace: Duration,
}

impl Session {
    /// Talks until the timeline or the connection ends, or nobody listens any more.
    pub async fn run(mut self) {
        let outcome = self.talk().await;
        let last = match outcome {
            Ok(Some(switch)) => Event::Ended(switch),
            Ok(None) => {
                self.client.close().await;
                return;
            }
            Err(error) => Event::Failed(error),
        };
        // Nobody listens any more: nobody wants to know either.
        let _ = self.out.send(last).await;
    }

    async fn talk(&mut self) -> Result<Option<Switch>, ConnectError> {
        let mut ticks = interval(self.pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let out = self.out.clone();
        loop {
            tokio::select! {
                biased;
                changed = self.durable.changed() => {
                    if changed.is_err() {
                        return Ok(None);
                    }
                    self.report(false).await?;
                }
                _ = ticks.tick() => {
                    // A full channel is our own silence, not the server's.
                    if self.out.capacity() == 0 {
                        heard = Instant::now();
                    }
                    if heard.elapsed() > REPLY_SILENCE {
                        return Err(self.silence());
                    }
                    self.report(heard.elapsed() > self.pace).await?;
                }
                // Room first: what has been received must not be dropped.
                (room, message) = async { (out.reserve().await, self.client.wire.receive(START_REPLICATION).await) } => {
                    let Ok(room) = room else { return Ok(None) };
                    heard = Instant::now();
                    match message? {
                        Incoming::Message(Message::CopyData(body)) => match FromServer::parse(body.into_bytes()) {
                            Some(FromServer::Wal { start, data }) => room.send(Event::Wal(start, data)),
                            Some(FromServer::KeepAlive { reply_requested: true }) => self.report(false).await?,
                            Some(FromServer::KeepAlive { .. }) => {}
                            None => return Err(self.client.odd(START_REPLICATION, "a message of an unknown kind")),
                        },
                        Incoming::Message(Message::CopyDone) => {
                            self.client.wire.send_copy_done().await?;
                            return self.client.switch().await.map(Some);
                        }
                        // A server that shuts down has sent everything, and waits for nobody but us.
                        Incoming::Message(Message::CommandComplete(_)) => return Err(self.shut_down()),
                        _ => return Err(self.client.odd(START_REPLICATION, "a message out of turn")),
                    }
                }
            }
        }
    }

    /// Reports what is durable.
    async fn report(&mut self, reply_requested: bool) -> Result<(), ConnectError> {
        let durable = self.durable.borrow_and_update().map(|position| position.lsn);
        self.flushed = self.flushed.max(durable.unwrap_or_default());
        self.client.wire.send_copy_data(&status(self.flushed, chrono::Utc::now(), reply_requested)).await
    }

    fn silence(&self) -> ConnectError {
        ConnectError::Timeout {
            target: self.client.wire.settings().to_string(),
            seconds: REPLY_SILENCE.as_secs(),
            doing: "streaming",
        }
    }

    fn shut_down(&self) -> ConnectError {
        let source = std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "the server shuts down");
        ConnectError::Lost { target: self.client.wire.settings().to_string(), source }
    }
}

/// How often to report, given the server's `wal_sender_timeout` as it shows it: four times as often as it must be.
pub(super) fn pace(wal_sender_timeout: &str) -> Duration {
    let unit = |suffix: &str, milliseconds: u64| {
        Some(wal_sender_timeout.strip_suffix(suffix)?.parse::<u64>().ok()?.saturating_mul(milliseconds))
    };
    // Longest suffix first: "min" and "ms" before "s".
    let milliseconds = unit("ms", 1)
        .or_else(|| unit("min", 60_000))
        .or_else(|| unit("h", 3_600_000))
        .or_else(|| unit("d", 86_400_000))
        .or_else(|| unit("s", 1_000));
    match milliseconds {
        // 0 turns the timeout off.
        None | Some(0) => FEEDBACK_INTERVAL,
        Some(timeout) => Duration::from_millis(timeout / 4).clamp(MIN_FEEDBACK_INTERVAL, FEEDBACK_INTERVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_come_four_times_as_often_as_the_server_asks_for_them() {
        assert_eq!(pace("1min"), FEEDBACK_INTERVAL);
        assert_eq!(pace("8s"), Duration::from_secs(2));
        assert_eq!(pace("500ms"), Duration::from_millis(125));
        assert_eq!(pace("1ms"), MIN_FEEDBACK_INTERVAL);
        assert_eq!(pace("0"), FEEDBACK_INTERVAL);
        assert_eq!(pace("odd"), FEEDBACK_INTERVAL);
    }
}
