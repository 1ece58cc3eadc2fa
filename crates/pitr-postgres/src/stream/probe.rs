//! Finds the oldest log that a server still has, with the rights of a stream alone.

use postgres_protocol::message::backend::Message;
use tokio::time::timeout;

use super::command::{START_REPLICATION, Started};
use super::message::FromServer;
use crate::connect::wire::Incoming;
use crate::connect::{ConnectError, Settings};
use crate::error::Error;
use crate::limits::QUERY_TIMEOUT;
use crate::lsn::{Lsn, SegmentSize, TimelineId};
use crate::position::PgPosition;
use crate::replication::ReplicationClient;

/// The first segment at or after `from` that the server still has on this timeline; `until` if it has none before that.
///
/// Servers remove the oldest segments first, so this is a binary search; each probe is a connection, for there is no other
/// way to ask without rights beyond replication.
///
/// # Errors
/// Those of the server, other than that a segment is gone.
pub async fn oldest_log(
    settings: &Settings,
    timeline: TimelineId,
    from: Lsn,
    until: Lsn,
    size: SegmentSize,
) -> Result<Lsn, Error> {
    let (mut gone, mut there) = (from.segment_number(size), until.segment_number(size));
    if gone >= there {
        return Ok(until);
    }
    // `there` is known to be there, or is where we stop to care; what is before `gone` is gone.
    while gone < there {
        let middle = gone + (there - gone) / 2;
        match has_log(settings, PgPosition::new(timeline, Lsn(middle * size.bytes()))).await? {
            true => there = middle,
            false => gone = middle + 1,
        }
    }
    Ok(Lsn(there * size.bytes()))
}

/// Whether the server sends log from there on.
async fn has_log(settings: &Settings, at: PgPosition) -> Result<bool, Error> {
    let mut client = ReplicationClient::connect(settings).await?;
    let answer = timeout(QUERY_TIMEOUT, first_log(&mut client, at)).await;
    let answer = answer.map_err(|_| ConnectError::Timeout {
        target: settings.to_string(),
        seconds: QUERY_TIMEOUT.as_secs(),
        doing: "looking for the oldest log",
    })?;
    client.close().await;
    match answer {
        Ok(()) => Ok(true),
        Err(ConnectError::Server { message, .. }) if message.sqlstate == super::UNDEFINED_FILE => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn first_log(client: &mut ReplicationClient, at: PgPosition) -> Result<(), ConnectError> {
    if let Started::Ended(_) = client.start_replication(at, None).await? {
        return Ok(());
    }
    loop {
        match client.wire.receive(START_REPLICATION).await? {
            Incoming::Message(Message::CopyData(body)) => {
                if let Some(FromServer::Wal { .. }) = FromServer::parse(body.into_bytes()) {
                    return Ok(());
                }
            }
            Incoming::Message(Message::CopyDone) => return Ok(()),
            _ => return Err(client.odd(START_REPLICATION, "a message out of turn")),
        }
    }
}
